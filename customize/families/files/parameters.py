"""Reads the parameters of a model's networks one at a time, from a folder in diffusers' layout or a single file in the original
one, so that a model need not fit into memory."""

from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from customize.families.files.folder_check import weight_files
from customize.families.files.ldm_header import CLIP_G, OPEN_CLIP, UNET
from customize.families.files.networks import AT_A_TIME, own_name
from customize.families.files.single_file import OPEN_CLIP_NAMES, PROJECTION
from customize.families.source import Source
from customize.families.specs import spec_of
from customize.families.specs.architectures import Architecture
from customize.storage.safetensors_header import read_header

Read = Callable[[Tensor], Tensor]


class Parameters:
    """The parameters of the trainable networks of a model, by network and name, such as ("unet", "conv_in.weight").

    Names are those of `Architecture`, without `text_model.`.
    """

    def __init__(self, source: Source, architecture: Architecture):
        self.places: dict[tuple[str, str], tuple[Path, str, Read]] = {}
        self.opened, self.reads = {}, 0
        found = in_file(source, architecture) if source.file else in_folder(source, architecture)
        for part, name, file, stored, read in found:
            self.places[part, name] = (file, stored, read)

    def __call__(self, part: str, name: str) -> Tensor:
        """One parameter, in its own number format. Raises KeyError for one that the model does not have."""
        file, stored, read = self.places[part, name]
        if self.reads % AT_A_TIME == 0:  # the pages read from a mapped file stay in memory until it is closed
            self.opened.clear()
        self.reads += 1
        if file not in self.opened:
            self.opened[file] = safe_open(file, framework="pt")
        return read(self.opened[file].get_tensor(stored)).clone()


Found = tuple[str, str, Path, str, Read]
"""A network, the name of a parameter in it, its file, the name of a tensor in that, and how the parameter is read from it."""


def whole(tensor: Tensor) -> Tensor:
    """The parameter that is all of a stored tensor."""
    return tensor


def in_folder(source: Source, architecture: Architecture) -> Iterator[Found]:
    """The parameters of a folder in diffusers' layout."""
    assert source.folder
    for part, names in architecture.networks.items():
        for file in weight_files(source.folder / part, source.variant):
            for stored in read_header(file).tensors:
                if name := own_name("unet" if part == "unet" else "text_encoder", stored) or stored:
                    yield part, name.removeprefix(names.inner), file, stored, whole


def in_file(source: Source, architecture: Architecture) -> Iterator[Found]:
    """The parameters of a single file in the original layout."""
    assert source.file
    present = read_header(source.file).tensors
    encoders = spec_of(source).layout(source).text_encoders
    for part, shapes in architecture.shapes.items():
        originals = architecture.networks[part].originals(list(shapes)) if part == "unet" else list(shapes)
        for module, original in zip(shapes, originals, strict=True):
            for leaf in ("weight", "bias"):
                stored, read = f"{UNET}{original}.{leaf}", whole
                if part != "unet":
                    stored, read = in_encoder(encoders[part], module, leaf)
                if stored in present:
                    yield part, f"{module}.{leaf}", source.file, stored, read


def in_encoder(prefix: str, module: str, leaf: str) -> tuple[str, Read]:
    """The tensor of a text encoder's parameter, and how it is read from that."""
    name = f"{module}.{leaf}"
    if prefix not in (OPEN_CLIP, CLIP_G):
        return f"{prefix}text_model.{name}", whole
    if name == f"{PROJECTION}.weight":
        return prefix + PROJECTION, lambda tensor: tensor.T
    for i, side in enumerate("qkv"):
        if f".{side}_proj." in name:
            return prefix + to_open_clip(name.replace(f".{side}_proj.", ".in_proj_")), lambda tensor, i=i: tensor.chunk(3)[i]
    return prefix + to_open_clip(name), whole


def to_open_clip(name: str) -> str:
    """OpenCLIP's name of a parameter."""
    for theirs, ours in OPEN_CLIP_NAMES.items():
        name = name.replace(ours, theirs)
    return name
