"""Adapters and embeddings in the layout of another program: the same tensors in the same number formats, under other names."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from customize import events
from customize.adapters.lora_files import alpha_of
from customize.adapters.lora_keys import ADAPTER_METADATA, Place, sorted_among, spellings, split
from customize.adapters.lora_layouts import LAYOUTS, OF_KOHYA, OF_PEFT
from customize.errors import InputError, Problem
from customize.families import specs
from customize.families.source import SETTING as BASE
from customize.families.source import locate
from customize.families.specs.architectures import Architecture, of_folder
from customize.printable import first_few, printable
from customize.storage.safetensors_header import TensorInfo
from customize.weights import model_spec
from customize.weights.peft_config import PEFT_CONFIG, PEFT_FILE
from customize.weights.signatures import LEFTOVER
from customize.weights.tools import target as output
from customize.weights.tools.shapes import fits
from customize.weights.weight_file import (
    BUNDLED,
    PLACEHOLDER,
    LearnedFile,
    adapter_description,
    check_file,
    files_of,
)  # fmt: skip

if TYPE_CHECKING:
    from torch import Tensor

LAYOUT = "layout"
ALPHA_FORMAT = "alpha_format"
"""Metadata entry with the number format of alphas that became part of a configuration, where it is not the tensors' own."""
FORMATS = (
    "float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "int64", "int32", "int16", "int8", "uint8",
    "bool",
)  # fmt: skip
"""Its values."""
STALE = (ADAPTER_METADATA, ALPHA_FORMAT, "format", "sshs_legacy_hash")
"""Metadata that another layout makes wrong: an adapter's configuration, and a hash of part of the file."""
RENAMED = {*OF_KOHYA, *OF_PEFT}
"""Kinds of tensors whose names differ between layouts; all others have LyCORIS' names."""
EMBEDDINGS = {
    "diffusers": "diffusers, A1111, ComfyUI, Forge", "a1111": "A1111, ComfyUI, Forge, InvokeAI", "comfyui": "ComfyUI, A1111",
}  # fmt: skip
"""Layouts of embeddings: the word as the tensor's name, `emb_params`, or the name of each text encoder."""
ENCODERS = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}
"""ComfyUI's names of text encoders by the width of their vectors."""


@dataclass(frozen=True)
class Contents:
    """The adapter of a file: the base model whose modules it fits, and its tensors by module and kind, with their names.

    rest: names of tensors beside it (embeddings).
    """

    architecture: Architecture
    found: Mapping[Place, Mapping[str, TensorInfo]]
    names: Mapping[tuple[Place, str], str]
    rest: tuple[str, ...]


def convert(
    source: Path, target: Path, layout: str | None, base: str | None = None, precision: str | None = None, overwrite: bool = False
) -> None:
    """Writes an adapter or embeddings in another layout, with its metadata. Raises InputError before anything is written.

    source: a file, or the folder of a run with one; target: a file, for the layout peft also a folder; layout: one of `LAYOUTS`
    for adapters (default kohya), of `EMBEDDINGS` for embeddings (default diffusers); base: a base model of the adapter's
    architecture, where its modules are not those of a known one; precision: a value of `save_precision`, None: as in the file.
    """
    source, *others = files_of(source)
    if others:
        what = f"several files: {first_few([source.name, *(each.name for each in others)], 3)}"
        raise InputError(Problem(printable(source.parent), what, "name one of them"))
    file = check_file(source, 1.0)
    if layout == "peft" and target.suffix == "":  # a folder, as peft reads it
        target = target / PEFT_FILE
    problems = list(output.in_the_way(target, [source], overwrite))
    choices = LAYOUTS if file.is_adapter else EMBEDDINGS
    layout = layout or ("kohya" if file.is_adapter else "diffusers")
    if layout not in choices:
        kind = "an adapter" if file.is_adapter else "embeddings"
        problems.append(Problem(LAYOUT, f"{printable(layout)} is not a layout of {kind}", f"choose one of: {', '.join(choices)}"))
    if file.adapter or file.is_network:
        kind = f"an adapter of type {file.adapter}" if file.adapter else "a fully trained network"
        problems.append(Problem(printable(source), f"is {kind}, which has no other layout", "use it with infer.py"))
    if problems:
        raise InputError(problems)
    tensors, own = converted_adapter(file, layout, base) if file.is_adapter else converted_embeddings(file, layout)
    metadata = {name: value for name, value in file.header.metadata.items() if name not in STALE}
    hashes = {name: form for name, form in model_spec.HASHES.items() if name in file.header.metadata}
    output.write(target, tensors, metadata | own | hashes, precision)
    if layout == "peft" and target.name == PEFT_FILE:
        configuration = json.loads(own[ADAPTER_METADATA])
        own = {name.partition(".")[2]: value for name, value in configuration.items()}
        output.write_configuration(target.with_name(PEFT_CONFIG), own)
    read_by = LAYOUTS[layout].readers(tensors) if file.is_adapter else EMBEDDINGS[layout]
    events.info(f"{target}: {len(tensors)} tensors in the layout of {layout}; read by {read_by}")


def contents(file: LearnedFile, base: str | None = None) -> Contents:
    """The adapter of a file, sorted by the modules of the base model that it fits. Raises InputError if it fits none."""
    tried = [sorted_into(file, each) for each in (architectures_of(base) if base else known())]
    fitting = [found for found, wrong in tried if not wrong]
    if fitting:
        return fitting[0]
    nearest, wrong = min(tried, key=lambda each: len(each[1]))
    remedy = "name a base model of its architecture" if base else f"give a base model of its architecture by --{BASE}"
    what = f"{len(wrong)} tensors fit no module of {base or 'a known base model'}: {first_few(wrong, 3)}"
    stems = spellings_of(nearest.architecture)
    if all((parts := split(name)) and parts[0] in stems for name in wrong):
        remedy = f"if the file is damaged, get it again; else {remedy}"
        if twice := [name for name in wrong if name not in nearest.names.values()]:
            what = f"{len(twice)} tensors name a module that others name, too: {first_few(twice, 3)}"
    raise InputError(Problem(printable(file.path), what, remedy))


def known() -> list[Architecture]:
    """The base models whose modules are known without their files."""
    return [each for spec in specs.every() for each in spec.architectures()]


def architectures_of(base: str) -> Sequence[Architecture]:
    """The architecture of a base model; the known ones of its family where its configuration is not in a folder."""
    source = locate(base)
    spec = specs.spec_of(source)
    if not source.folder:
        return spec.architectures()
    try:
        own = of_folder(spec.title, source.folder, spec.networks)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"the modules of {printable(base)} ({spec.title}) are not known without loading it"
        raise InputError(Problem(BASE, what, "name a base model of Stable Diffusion or SDXL")) from error
    return [next((each for each in spec.architectures() if each.shapes == own.shapes), own)]


def sorted_into(file: LearnedFile, architecture: Architecture) -> tuple[Contents, list[str]]:
    """The file's tensors by the modules of a base model, and the names of those that do not fit."""
    found, names = sorted_among(file.header.tensors, spellings_of(architecture))
    rest = tuple(name for name in file.header.tensors if BUNDLED.fullmatch(name))
    wrong = sorted(name for name in file.header.tensors.keys() - {*names.values(), *rest} if not LEFTOVER.search(name))
    for (part, module), own in found.items():
        if not fits(architecture.shapes[part][module], own):
            wrong += [names[(part, module), kind] for kind in own]
    return Contents(architecture, found, names, rest), wrong


@cache
def spellings_of(architecture: Architecture) -> Mapping[str, Place]:
    """Every name that a file may use for each module of a base model."""
    return spellings(architecture.modules, architecture.networks)


def converted_adapter(file: LearnedFile, layout: str, base: str | None) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Tensors and metadata of an adapter in another layout. Raises InputError for what that cannot express."""
    inside = contents(file, base)
    own, parts = LAYOUTS[layout], {part for part, _ in inside.found}
    if layout == "peft" and len(parts) > 1:
        what = f"a file of peft holds one network, {printable(file.path)} has {' and '.join(sorted(parts))}"
        raise InputError(Problem(LAYOUT, what, "choose another layout"))
    if inside.rest and not own.others:
        what = f"the layout of {own.title} has no place for the embeddings in {printable(file.path)}"
        raise InputError(Problem(LAYOUT, what, "choose another layout, such as kohya"))
    bound = {kind for kinds in inside.found.values() for kind in kinds} & {"ia3_l", "oft_R"}
    if bound and file.adapter_config:
        kind = "an (IA)^3" if "ia3_l" in bound else "an OFT"
        what = f"is {kind} of peft, whose form is in its configuration; no other layout has a place for it"
        raise InputError(Problem(printable(file.path), what, "use it with infer.py, or merge it into its base model"))
    from safetensors.torch import load_file

    from customize.adapters.lora_files import in_layout

    architecture, tensors = inside.architecture, load_file(file.path)
    layers = {place: layer_of(file, inside, place, tensors) for place in inside.found}
    note_alphas(layout, layers)
    written, metadata = in_layout(own, layers, architecture.networks, architecture.modules)
    if not own.alphas:
        metadata |= alpha_format(layers)
    again, names = sorted_among(written, spellings_of(architecture))
    lost = [".".join(place) for place in layers if place not in again]
    if lost := lost + sorted(written.keys() - {*names.values()}):
        what = f"the layout of {own.title} has no name for {printable(lost[0])}"
        raise InputError(Problem(LAYOUT, what, "choose another layout, such as kohya"))
    return written | {name: tensors[name] for name in inside.rest}, metadata


def note_alphas(layout: str, layers: "Mapping[Place, Mapping[str, Tensor]]") -> None:
    """Notes where a program that reads the layout scales layers otherwise than the file says."""
    factors = [own for own in layers.values() if "A" in own]
    if LAYOUTS[layout].alphas and len({float(own["alpha"]) for own in factors}) > 1:
        events.note("the alphas of layers differ, where diffusers uses one for all; for diffusers use --layout diffusers")
    if layout == "diffusers-old" and any(float(own["alpha"]) != len(own["A"]) for own in factors):
        events.note("alpha is not the rank: it is in the metadata, which ComfyUI and old versions of diffusers do not read")


def alpha_format(layers: "Mapping[Place, Mapping[str, Tensor]]") -> dict[str, str]:
    """The metadata entry by which alphas get their number format back, where another one would be chosen."""
    from customize.adapters.lora_files import alpha_like

    factors = [own for own in layers.values() if "A" in own]
    found = {own["alpha"].dtype for own in factors}
    if len(found) > 1 or all(own["alpha"].dtype == alpha_like(float(own["alpha"]), own["A"]).dtype for own in factors):
        return {}
    return {ALPHA_FORMAT: str(found.pop()).removeprefix("torch.")}


def layer_of(file: LearnedFile, inside: Contents, place: Place, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors of one module by kind, or by the end of their names where all layouts agree; with an alpha beside factors."""
    from customize.adapters.lora_files import alpha_like
    from customize.weights.peft_terms import scaled

    description = adapter_description(file, place[0])
    own = scaled({kind: tensors[inside.names[place, kind]] for kind in inside.found[place]}, place[1], description)
    layer = {}
    for kind, tensor in own.items():
        name = inside.names.get((place, kind), kind)
        stem, _ = split(name) or (name, "")
        layer[kind if kind in RENAMED else name[len(stem) :]] = tensor
    if "A" in own and "alpha" not in own:
        scale = math.sqrt(len(own["A"])) if description.get("use_rslora") else 1
        alpha = alpha_like(scale * alpha_of(place[1], own, description), own["A"])
        if not math.isfinite(alpha):
            what = f"its configuration gives {printable('.'.join(place))} an alpha beyond the range of float32"
            raise InputError(Problem(printable(file.path), what, "get the file again"))
        named = in_format(alpha, file.header.metadata.get(ALPHA_FORMAT, ""))
        layer["alpha"] = named if float(named) == float(alpha) else alpha
    return layer


def in_format(alpha: "Tensor", name: str) -> "Tensor":
    """An alpha in a number format of `FORMATS`; unchanged for other names."""
    import torch

    return alpha.to(getattr(torch, name)) if name in FORMATS else alpha


def converted_embeddings(file: LearnedFile, layout: str) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Tensors and metadata of embeddings in another layout. Raises InputError for what that cannot express."""
    words = file.placeholders
    problem = None
    if layout != "diffusers" and len(words) > 1:
        problem = f"a file of {layout} holds one embedding, {printable(file.path)} has {len(words)}: {first_few(list(words), 3)}"
    elif layout == "diffusers" and any(len(names) > 1 for names in words.values()):
        problem = f"diffusers reads the vectors of each text encoder from a file of its own, {printable(file.path)} has several"
    widths = {name: file.header.tensors[name].shape[-1] for names in words.values() for name in names}
    if layout == "comfyui" and (odd := sorted(set(widths.values()) - ENCODERS.keys())):
        problem = f"ComfyUI has no name for a text encoder with vectors of width {odd[0]}"
    elif layout != "diffusers" and any(len({widths[name] for name in names}) < len(names) for names in words.values()):
        problem = f"{printable(file.path)} has several vectors of one width, which no text encoders of one model have"
    if problem:
        others = ", ".join(name for name in EMBEDDINGS if name != layout)
        raise InputError(Problem(LAYOUT, problem, f"choose another layout: {others}"))
    from safetensors.torch import load_file

    tensors, named = load_file(file.path), {}
    for word, names in words.items():
        for name in names:
            encoder = ENCODERS.get(widths[name], "") if layout == "comfyui" or len(names) > 1 else ""
            named[encoder or (word if layout == "diffusers" else "emb_params")] = tensors[name]
    return named, {} if layout == "diffusers" else {PLACEHOLDER: next(iter(words))}
