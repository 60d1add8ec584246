"""Adapters (LoRA and its relatives) into the networks of a family, by diffusers' and peft's own loaders.

These skip what they do not know and warn at most; here every tensor has its place in the network, or the user is told.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from transformers.utils import logging

from customize.errors import InputError, Problem
from customize.families.stable_diffusion import StableDiffusion
from customize.inference.learned import SETTING, LearnedFile, listed, other_base
from customize.inference.loaded import LoadedAdapter


@dataclass(frozen=True)
class Place:
    """Where a tensor of an adapter belongs: beside which module of the network, and as what ("A", "B", ...)."""

    key: str
    tensor: Tensor
    module: str
    kind: str

    def holds_it(self, network: nn.Module, adapter: str) -> bool:
        """Whether the network's adapter has this very tensor at this place."""
        layers = getattr(network.get_submodule(self.module), f"lora_{self.kind}", {})
        return adapter in layers and torch.equal(layers[adapter].weight.float().cpu(), self.tensor.float())


def add_adapters(family: StableDiffusion, files: Sequence[LearnedFile], partial: bool) -> tuple[list[LoadedAdapter], list[str]]:
    """Puts every file into the networks, at scale 1; returns them, and notes on what was left out. Raises InputError."""
    names = [f"adapter_{i}" for i in range(len(files))]
    problems: list[Problem] = []
    notes: list[str] = []
    for name, file in zip(names, files, strict=True):
        try:
            notes += add_adapter(family, file, name, partial)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    if files:
        family.pipeline().set_adapters(names)
        for network in family.networks:  # peft leaves its layers in training, with dropout
            network.requires_grad_(False).eval()
    return [LoadedAdapter(family, name) for name in names], notes


def add_adapter(family: StableDiffusion, file: LearnedFile, name: str, partial: bool) -> list[str]:
    """Loads one file as the adapter `name`; returns a note if a part of it was left out. Raises InputError."""

    def refuse(what: str, remedy: str = other_base(file)) -> InputError:
        return InputError(Problem(SETTING, f"{file.path}: {what}", remedy))

    try:
        state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(
            str(file.path), use_safetensors=True, local_files_only=True, return_lora_metadata=True
        )
        unet, text_encoder = places("unet", family.unet, state), places("text_encoder", family.text_encoder, state)
    except Exception as error:  # diffusers' converters raise nearly anything on names that they do not know
        what = f"in a form that diffusers cannot read ({first_line(error)})"
        raise refuse(what, "convert it to diffusers' or peft's LoRA format") from error
    kept = {place.key for place in unet + text_encoder}
    left_out = sorted({*state} - kept) + sorted(key for key in file.header.tensors if ".dora_scale" in key)
    if left_out and not (kept and partial):
        raise refuse(f"{len(left_out) if kept else 'all'} tensors do not fit this base model: {listed(left_out)}")
    for part, its in (("unet", unet), ("text_encoder", text_encoder)):
        if metadata and its:  # the tensors say which modules are meant; a pattern, which may be anything, is not asked
            metadata |= dict.fromkeys((f"{part}.exclude_modules", f"{part}.layers_to_transform", f"{part}.layers_pattern"))
            metadata[f"{part}.target_modules"] = sorted({place.module for place in its})
    try:
        with quiet():
            load(family, unet, text_encoder, network_alphas=alphas, adapter_name=name, metadata=metadata)
    except MemoryError:
        raise
    except Exception as error:  # as does peft on a description of an adapter that is not sound
        if "could not be instantiated" in str(error):  # peft's LoraConfig, of which each version knows more
            what = "describes itself in words that the installed peft does not know"
            raise refuse(what, "update peft, or save it without its description") from error
        raise refuse(f"cannot be loaded ({first_line(error)})") from error
    for network, loaded in ((family.unet, unet), (family.text_encoder, text_encoder)):
        if not all(place.holds_it(network, name) for place in loaded):
            raise refuse("what it says of itself does not fit its tensors", "get the file again")
    return [f"{file.path}: left out, as it does not fit this base model: {listed(left_out)}"] if left_out else []


def load(family: StableDiffusion, unet: Sequence[Place], text_encoder: Sequence[Place], **options) -> None:
    """What `StableDiffusionPipeline.load_lora_weights` does with the tensors of a file."""
    if unet:
        tensors = {place.key: place.tensor for place in unet}
        StableDiffusionPipeline.load_lora_into_unet(tensors, unet=family.unet, **options)
    if text_encoder:  # here transformers knows DoRA's magnitudes by peft's inner name only, and would start them anew
        tensors = {f"{p.key}.weight" if p.key.endswith("magnitude_vector") else p.key: p.tensor for p in text_encoder}
        StableDiffusionPipeline.load_lora_into_text_encoder(tensors, text_encoder=family.text_encoder, **options)


def places(part: str, network: nn.Module, state: dict[str, Tensor]) -> list[Place]:
    """Those tensors of an adapter that fit the network: whole sets beside a module of their shape."""
    own = {key: tensor for key, tensor in state.items() if key.startswith(f"{part}.")}
    names = {key.removeprefix(f"{part}.").removeprefix("text_model."): tensor for key, tensor in own.items()}
    if part == "unet":
        names = convert_unet_state_dict_to_peft(names)
    elif names:
        names = convert_state_dict_to_peft(convert_state_dict_to_diffusers(names))
    found = []
    for key, name in zip(own, names, strict=True):
        module, _, kind = name.partition(".lora_")
        found.append(Place(key, own[key], module, kind.split(".")[0]))
    weights = {name: module.weight for name, module in network.named_modules() if hasattr(module, "weight")}
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for place in found:
        shapes.setdefault(place.module, {})[place.kind] = tuple(place.tensor.shape)
    fits = {module: module in weights and fits_beside(weights[module], its) for module, its in shapes.items()}
    return [place for place in found if fits[place.module]]


def fits_beside(weight: Tensor, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether A [rank, in, ...], B [out, rank, ...] and DoRA's magnitude [out] belong to a weight [out, in, ...]."""
    if not {"A", "B"} <= shapes.keys() <= {"A", "B", "magnitude_vector"}:
        return False
    down, up, magnitude = shapes["A"], shapes["B"], shapes.get("magnitude_vector", (len(weight),))
    return down[1:] == weight.shape[1:] and up[:2] == (len(weight), down[0]) and math.prod(magnitude) == len(weight)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' report on adapters that were loaded before, which it takes for missing in this file, and without
    diffusers' on one that fails: that is told by name."""
    before = [(library, library.get_verbosity()) for library in (logging, diffusers_logging)]
    logging.set_verbosity_error()
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)
    try:
        yield
    finally:
        for library, verbosity in before:
            library.set_verbosity(verbosity)


def first_line(error: Exception) -> str:
    """The beginning of a library's error message, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:250]
