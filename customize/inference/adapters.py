"""Adapters (LoRA and its relatives) of every layout into the networks of a family.

Stock loaders skip what they do not know and take one alpha for all layers; here every tensor has its place in the network and
every layer its own alpha, or the user is told. A LoRA goes beside its module by peft, any other change into the weight itself.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file
from torch import Tensor, nn

from customize.errors import InputError, Problem
from customize.families.stable_diffusion import StableDiffusion
from customize.inference import changes
from customize.inference.changes import Changed, Terms
from customize.inference.learned import SETTING, LearnedFile, adapter_description, listed, other_base
from customize.inference.loaded import LoadedAdapter, tuner_layers
from customize.lora_formats import Place, sorted_out

PARTS = ("unet", "text_encoder")
OWN = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
       "layers_pattern", "init_lora_weights", "use_dora", "lora_dropout", "inference_mode")  # fmt: skip
"""What the tensors themselves say, or what is for training, of peft's description of a LoRA."""


class Networks:
    """The networks of a family as they were before any adapter, and the changes of their weights by adapters."""

    def __init__(self, family: StableDiffusion):
        self.family = family
        self.modules = {part: {n: m for n, m in getattr(family, part).named_modules() if n} for part in PARTS}
        self.changed: dict[tuple[Place, str], Changed] = {}

    def module(self, place: Place) -> nn.Module:
        """The module itself, never peft's wrapping of it."""
        return self.modules[place[0]][place[1]]

    def change(self, place: Place, name: str, adapter: str, terms: Terms) -> Changed:
        """Has an adapter change one parameter of a module."""
        changed = self.changed.setdefault((place, name), Changed(self.module(place), name))
        changed.add(adapter, terms)
        return changed


def add_adapters(family: StableDiffusion, files: Sequence[LearnedFile], partial: bool) -> tuple[list[LoadedAdapter], list[str]]:
    """Puts every file into the networks; returns them, and notes on what the user should know. Raises InputError."""
    names = [f"adapter_{i}" for i in range(len(files))]
    networks = Networks(family)
    loaded: list[LoadedAdapter] = []
    problems: list[Problem] = []
    notes: list[str] = []
    for name, file in zip(names, files, strict=True):
        try:
            adapter, own = add_adapter(networks, file, name, partial)
            loaded.append(adapter)
            notes += own
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    for layer in tuner_layers(family.unet, family.text_encoder):
        layer.set_adapter(names)
    for network in family.networks:  # peft leaves its layers in training, with dropout
        network.requires_grad_(False).eval()
    return loaded, notes


def add_adapter(networks: Networks, file: LearnedFile, name: str, partial: bool) -> tuple[LoadedAdapter, list[str]]:
    """Loads one file as the adapter `name`; returns it and notes. Raises InputError."""
    tensors = {key: tensor for key, tensor in load_file(file.path).items() if key not in file.placeholders.values()}
    found, keys = sorted_out(tensors, networks.modules["unet"], networks.modules["text_encoder"])
    fitting = {place: as_peft_has_it(networks.module(place), terms) for place, terms in found.items()}
    fitting = {place: terms for place, terms in fitting.items() if fits(networks.module(place), terms)}
    left_out = sorted(tensors.keys() - {key for (place, _), key in keys.items() if place in fitting})
    if left_out and not (fitting and partial):
        what = f"{len(left_out) if fitting else 'all'} tensors do not fit this base model: {listed(left_out)}"
        raise InputError(Problem(SETTING, f"{file.path}: {what}{widths(networks, found)}", other_base(file)))
    beside = {place: terms for place, terms in fitting.items() if is_plain(terms)}
    for part in PARTS:
        description = {key: value for key, value in adapter_description(file, part).items() if key not in OWN}
        own = {module: terms for (its, module), terms in beside.items() if its == part}
        for is_dora in (False, True):
            alike = {module: terms for module, terms in own.items() if ("magnitude" in terms) == is_dora}
            if alike:
                inject(getattr(networks.family, part), name, alike, {**description, "use_dora": is_dora}, file)
    for (part, module), terms in beside.items():
        layer: Any = getattr(networks.family, part).get_submodule(module)
        fill(layer, name, terms, told_alpha(file, part, module, terms))
    changed: dict[str, list[Changed]] = {part: [] for part in PARTS}
    for place, terms in fitting.items():
        own = {"bias": terms["bias"]} if "bias" in terms else {}
        for kind in own:
            changed[place[0]].append(networks.change(place, kind, name, own))
        if place not in beside and terms.keys() - {"bias"}:
            changed[place[0]].append(networks.change(place, "weight", name, terms))
    notes = [f"{file.path}: left out, as it does not fit this base model: {listed(left_out)}"] if left_out else []
    if fitting and all("alpha" in terms and float(terms["alpha"]) == 0 for terms in fitting.values()):
        notes.append(f"{file.path}: every alpha in it is 0, so it changes nothing")
    return LoadedAdapter(networks.family, name, changed), notes


def fits(module: nn.Module, terms: Terms) -> bool:
    """Whether the tensors give a change of this module's parameters, and an alpha among them is a number."""
    if "alpha" in terms and (terms["alpha"].numel() != 1 or not math.isfinite(float(terms["alpha"]))):
        return False
    parameters = {name: parameter for name, parameter in module.named_parameters(recurse=False)}
    if {"A", "B"} & terms.keys():
        is_layer = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if not is_layer or not {"A", "B"} <= terms.keys() or min(terms["A"].dim(), terms["B"].dim()) < 2:
            return False
        if "mid" not in terms and not fits_beside(module.weight, terms["A"], terms["B"]):
            return False
    if "magnitude" in terms:
        return is_plain(terms) and terms["magnitude"].numel() == len(module.weight)
    return changes.fits(terms, parameters)


def fits_beside(weight: Tensor, down: Tensor, up: Tensor) -> bool:
    """Whether A [rank, in, ...] and B [out, rank, ...] belong to a weight [out, in, ...], but for axes of length 1 at the end."""
    return trimmed(down.shape[1:]) == trimmed(weight.shape[1:]) and trimmed(up.shape) == trimmed((len(weight), len(down)))


def trimmed(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without its axes of length 1 beyond the second."""
    shape = tuple(shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def as_peft_has_it(module: nn.Module, terms: Terms) -> Terms:
    """The terms with the magnitude of a DoRA's output rows under peft's name, where they are A and B beside it."""
    plain = {"A", "B", "dora_scale"} <= terms.keys() <= {"A", "B", "alpha", "dora_scale", "bias"}
    if not plain or not hasattr(module, "weight") or changes.over_inputs(terms["dora_scale"], module.weight):
        return terms
    return {"magnitude" if kind == "dora_scale" else kind: tensor for kind, tensor in terms.items()}


def is_plain(terms: Terms) -> bool:
    """Whether it is a LoRA as peft has it: A and B, and a DoRA's magnitude of output rows."""
    return {"A", "B"} <= terms.keys() <= {"A", "B", "alpha", "magnitude", "bias"}


def inject(network: nn.Module, name: str, own: Mapping[str, Terms], description: dict[str, Any], file: LearnedFile) -> None:
    """Has peft put a LoRA of each module's rank beside it. Raises InputError where the file describes it in unknown words."""
    ranks = {module: len(terms["A"]) for module, terms in own.items()}
    try:
        config = LoraConfig(
            **{**description, "r": max(ranks.values()), "rank_pattern": {re.escape(m): rank for m, rank in ranks.items()}},
            target_modules=list(ranks), lora_alpha=1, init_lora_weights=False,
        )  # fmt: skip
        vars(network).pop("peft_config", None)  # of an adapter before, at which peft wonders aloud
        inject_adapter_in_model(config, network, adapter_name=name)
    except (TypeError, ValueError, AttributeError, KeyError) as error:  # peft's LoraConfig, of which each version knows more
        what = f"{file.path}: describes itself in words that the installed peft does not know ({first_line(error)})"
        raise InputError(Problem(SETTING, what, "update peft, or save it without its description")) from error


def fill(layer: Any, name: str, terms: Terms, alpha: float | None) -> None:
    """Gives peft's layer its tensors and its own alpha."""
    own = {"lora_A": terms["A"], "lora_B": terms["B"], "lora_magnitude_vector": terms.get("magnitude")}
    for kind, tensor in own.items():
        if tensor is not None:
            weight = getattr(layer, kind)[name].weight
            weight.data = tensor.float().reshape(weight.shape).clone()
    layer.lora_alpha[name] = layer.r[name] if alpha is None else alpha
    layer.set_scale(name, 1.0)


def told_alpha(file: LearnedFile, part: str, module: str, terms: Terms) -> float | None:
    """A layer's alpha: its own tensor, else what the file's description says of the module; None where neither does.

    Raises InputError where the description says another rank than the tensors have.
    """
    if "alpha" in terms:
        return float(terms["alpha"])
    said, rank = adapter_description(file, part), len(terms["A"])
    if (told := by_pattern(said.get("rank_pattern"), module, said.get("r", rank))) != rank:
        what = f"{file.path}: what it says of itself does not fit its tensors: {module} has rank {rank}, not {told}"
        raise InputError(Problem(SETTING, what, "get the file again"))
    return by_pattern(said.get("alpha_pattern"), module, said.get("lora_alpha"))


def by_pattern(patterns: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """What the first pattern says that matches a module's name or the end of it, as peft matches them."""
    return next((value for key, value in (patterns or {}).items() if re.fullmatch(rf"(.*\.)?({key})", module)), otherwise)


def widths(networks: Networks, found: Mapping[Place, Terms]) -> str:
    """How wide the prompts are that an adapter reads, where this base model has others."""
    for (part, module), terms in found.items():
        if part == "unet" and module.endswith(("attn2.to_k", "attn2.to_v")) and "A" in terms:
            theirs, ours = terms["A"].shape[-1], networks.module((part, module)).weight.shape[1]
            if terms["A"].dim() == 2 and theirs != ours:
                named = {768: " (Stable Diffusion 1.x)", 1024: " (Stable Diffusion 2.x)", 2048: " (SDXL)"}
                return (
                    f"; it reads prompts {theirs} wide{named.get(theirs, '')}, this base model's are {ours}{named.get(ours, '')}"
                )
    return ""


def first_line(error: Exception) -> str:
    """The beginning of a library's error message, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:250]
