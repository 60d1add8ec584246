"""Loads adapters of every file layout into the networks of a family.

Stock loaders skip unknown tensors and use one alpha for all layers. Here every tensor is placed in a network and every layer
has its own alpha; what does not fit is reported. A file that names its kind of adapter is loaded by that adapter, a LoRA of
any program is added beside its module, any other change is added to the weight itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from safetensors.torch import load_file
from torch import nn

from customize import adapters
from customize.adapters.forms import lycoris
from customize.adapters.forms.rotations import Terms
from customize.adapters.lora import Adapter as LoRA
from customize.adapters.lora import fits_beside, is_lora
from customize.adapters.lora_keys import Place, by_module, sorted_out
from customize.adapters.peft_layers import tuner_layers
from customize.adapters.timestep_rank import OTHERS
from customize.errors import InputError, Problem
from customize.families.base import Family
from customize.weights.loaded import Changed, LoadedAdapter
from customize.weights.peft_terms import with_configuration
from customize.weights.signatures import LEFTOVER
from customize.weights.weight_file import SETTING, LearnedFile, adapter_description, listed, other_base


class Networks:
    """The networks of a family as they were before any adapter, and the changes of their weights by adapters."""

    def __init__(self, family: Family):
        self.family = family
        self.modules = {part: {n: m for n, m in network.named_modules() if n} for part, network in family.trainable.items()}
        self.changed: dict[tuple[Place, str], Changed] = {}

    def module(self, place: Place) -> nn.Module:
        """The module itself, without peft's layer around it."""
        return self.modules[place[0]][place[1]]

    def change(self, place: Place, name: str, adapter: str, terms: Terms) -> Changed:
        """Adds the change of one parameter of a module by an adapter."""
        changed = self.changed.setdefault((place, name), Changed(self.module(place), name))
        changed.add(adapter, terms)
        return changed


def add_adapters(family: Family, files: Sequence[LearnedFile], partial: bool) -> tuple[list[LoadedAdapter], list[str]]:
    """Loads every file into the networks; returns the adapters, and notes for the user. Raises InputError."""
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
    for layer in tuner_layers(*family.trainable.values()):
        layer.set_adapter(names)
    for network in family.components.values():  # peft leaves its layers in training mode, with dropout
        network.requires_grad_(False).eval()
    return loaded, notes


def add_adapter(networks: Networks, file: LearnedFile, name: str, partial: bool) -> tuple[LoadedAdapter, list[str]]:
    """Loads one file as the adapter `name`; returns it and notes. Raises InputError.

    A file that names its kind of adapter is loaded by that one. All others are a LoRA, or a change of the weights themselves.
    """
    beside = {key for key in file.header.tensors if LEFTOVER.search(key)} | file.word_tensors
    tensors = {key: tensor for key, tensor in load_file(file.path).items() if key not in beside}
    own = file.adapter and adapters.build(file.adapter)
    adapter = own or LoRA()
    sort = by_module if own else sorted_out
    found, keys = sort(tensors, networks.modules, networks.family.spec.networks)
    fitting = found
    if not own:
        fitting = {place: terms_of(networks, place, terms, file) for place, terms in found.items()}
        fitting = {place: terms for place, terms in fitting.items() if fits(networks.module(place), terms)}
    left_out = sorted(tensors.keys() - {key for (place, _), key in keys.items() if place in fitting})
    if left_out and not (fitting and partial):
        what = f"{len(left_out) if fitting else 'all'} tensors do not fit this base model: {listed(left_out)}"
        raise InputError(Problem(SETTING, f"{file.path}: {what}{other_width(networks, found)}", other_base(file)))
    loras = {place: terms for place, terms in fitting.items() if own or is_lora(terms)}
    try:
        for part, network in networks.family.trainable.items():
            if mine := {module: terms for (its, module), terms in loras.items() if its == part}:
                adapter.load(network, name, mine, adapter_description(file, part))
    except InputError as error:
        raise InputError(replace(each, what=f"{file.path}: {each.what}") for each in error.problems) from error
    changed: dict[str, list[Changed]] = {part: [] for part in networks.modules}
    for place, terms in fitting.items() if not own else ():
        if "bias" in terms:
            changed[place[0]].append(networks.change(place, "bias", name, {"bias": terms["bias"]}))
        if place not in loras and terms.keys() - {"bias"}:
            changed[place[0]].append(networks.change(place, "weight", name, terms))
    notes = [f"{file.path}: {OTHERS}"] if file.timestep_rank else []
    notes += [f"{file.path}: ignored, because it does not fit this base model: {listed(left_out)}"] if left_out else []
    if fitting and all(
        "alpha" in terms and float(terms["alpha"]) == 0 and "oft_blocks" not in terms for terms in fitting.values()
    ):
        notes.append(f"{file.path}: every alpha is 0, so it changes nothing")
    return LoadedAdapter(adapter, networks.family, name, changed), notes


def terms_of(networks: Networks, place: Place, terms: Terms, file: LearnedFile) -> Terms:
    """The terms of one module with what the file's configuration says of them, and with peft's names of a DoRA."""
    part, name = place
    module = networks.module(place)
    return with_peft_names(module, with_configuration(module, name, terms, adapter_description(file, part)))


def fits(module: nn.Module, terms: Terms) -> bool:
    """Whether the tensors define a change of this module's parameters; an alpha must be a finite number."""
    if "alpha" in terms and (terms["alpha"].numel() != 1 or not math.isfinite(float(terms["alpha"]))):
        return False
    parameters = {name: parameter for name, parameter in module.named_parameters(recurse=False)}
    if {"A", "B"} & terms.keys():
        is_layer = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        if not is_layer or not {"A", "B"} <= terms.keys() or min(terms["A"].dim(), terms["B"].dim()) < 2:
            return False
        if "mid" not in terms and not fits_beside(module.weight, terms["A"], terms["B"]):
            return False
    if {"magnitude", "B_bias"} & terms.keys():
        own = [terms[kind] for kind in ("magnitude", "B_bias") if kind in terms]
        return is_lora(terms) and all(tensor.numel() == len(module.weight) for tensor in own)
    return lycoris.fits(terms, parameters)


def with_peft_names(module: nn.Module, terms: Terms) -> Terms:
    """The terms of a DoRA over output rows with the magnitude under peft's name; other terms unchanged."""
    plain = {"A", "B", "dora_scale"} <= terms.keys() <= {"A", "B", "alpha", "dora_scale", "bias"}
    if not plain or not hasattr(module, "weight") or lycoris.over_inputs(terms["dora_scale"], module.weight):
        return terms
    return {"magnitude" if kind == "dora_scale" else kind: tensor for kind, tensor in terms.items()}


def other_width(networks: Networks, found: Mapping[Place, Terms]) -> str:
    """For a message: the width of prompt embeddings that an adapter was learned with, where this base model has another."""
    spec = networks.family.spec
    for (part, module), terms in found.items():
        if module.endswith(spec.networks[part].reads_prompt) and "A" in terms:
            theirs, ours = terms["A"].shape[-1], networks.module((part, module)).weight.shape[1]
            if terms["A"].dim() == 2 and theirs != ours:
                of_theirs, of_ours = (
                    f" ({spec.prompt_widths[width]})" if width in spec.prompt_widths else "" for width in (theirs, ours)
                )
                return f"; it needs prompt embeddings of width {theirs}{of_theirs}, this base model has {ours}{of_ours}"
    return ""
