"""What adapters made of peft's layers have in common, whatever their kind. torch and peft are imported when a run needs them."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize.adapters.lora_keys import ADAPTER_METADATA
from customize.errors import InputError, Problem
from customize.families.specs.network_names import NetworkNames
from customize.storage.run_folder import LORA

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

    from customize.adapters import Family

NAME = "default"
"""peft's name of the adapter that learns."""


def attach(
    networks: "Sequence[nn.Module]",
    settings,
    presets: Mapping[str, Sequence[str]],
    config: "Callable[[list[str]], PeftConfig]",
) -> None:
    """Adds an adapter beside the modules that `lora_targets` names: presets of the family, or ends of module names.

    presets: `Family.lora_targets`; config: from the ends of module names to peft's configuration. The initial weights depend
    on `seed` alone. Raises InputError for targets that no network has.
    """
    import torch
    from peft import inject_adapter_in_model

    ends = {target: presets.get(target, (target,)) for target in settings.lora_targets}
    found = [present(network, [end for group in ends.values() for end in group]) for network in networks]
    unknown = [target for target, group in ends.items() if not any(set(group) & set(each) for each in found)]
    if unknown or not all(found):
        remedy = f"name linear or convolution modules of each network that learns, or groups: {', '.join(presets)}"
        raise InputError(Problem("lora_targets", f"{', '.join(unknown or settings.lora_targets)} is not there", remedy))
    for network, target_modules in zip(networks, found, strict=True):
        own: Any = config(target_modules)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            inject_adapter_in_model(own, network, adapter_name=NAME)
        network.peft_config = {NAME: own}


def present(network: "nn.Module", ends: Sequence[str]) -> list[str]:
    """Those of the ends that names of linear or convolution modules of the network have."""
    from torch import nn

    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return [end for end in ends if any(name == end or name.endswith(f".{end}") for name in names)]


def tuner_layers(*networks: "nn.Module") -> list[Any]:
    """peft's layers in the networks."""
    return [module for network in networks for module in network.modules() if is_tuner_layer(module)]


def is_tuner_layer(module: "nn.Module") -> bool:
    """Whether a module is one of peft's layers, around a module of the base model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


@contextmanager
def disabled(*networks: "nn.Module") -> Iterator[None]:
    """A context in which the networks predict as the base model does."""
    layers = tuner_layers(*networks)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def name_in_files(name: str, networks: Mapping[str, NetworkNames]) -> str:
    """A parameter's name as diffusers has it in files, without peft's name of the adapter."""
    network, _, rest = re.sub(rf"\.{NAME}(?=\.|$)", "", name).partition(".")
    return networks[network].written(rest)


def description(family: "Family") -> dict[str, str]:
    """The metadata entry from which diffusers' loaders configure the adapters in a family's networks."""
    configs = {}
    for part, network in family.trainable.items():
        for config in getattr(network, "peft_config", {}).values():
            # stock loaders leave the adapter in training mode, so a dropout written here would go on in inference
            without = {name: 0.0 for name in ("lora_dropout", "rank_dropout", "module_dropout") if hasattr(config, name)}
            configs |= {f"{part}.{name}": value for name, value in {**config.to_dict(), **without}.items()}
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in configs.items()}
    return {ADAPTER_METADATA: json.dumps(plain, sort_keys=True, default=str)}


def save(
    folder: Path,
    family: "Family",
    metadata: dict[str, str],
    precision: str,
    naming: Callable[[str, Mapping[str, NetworkNames]], str] = name_in_files,
) -> Path:
    """Writes the adapters of a family's networks, with their configuration, into one file. naming: as `Adapter.name_in_files`."""
    from customize.storage.tensor_files import save_tensors

    tensors = {}
    for part, network in family.trainable.items():
        for module, layer in network.named_modules():
            for _, (name, parameter) in own_parameters(layer, NAME).items() if is_tuner_layer(layer) else ():
                tensors[naming(f"{part}.{module}.{name}", family.spec.networks)] = parameter
    return save_tensors(folder / LORA, tensors, {**metadata, **description(family)}, precision)


def load(
    network: "nn.Module", name: str, tensors: "Mapping[str, Mapping[str, Tensor]]", description: Mapping[str, Any], config: Any
) -> None:
    """Adds a saved adapter beside each module that it has tensors for.

    config: the class of peft's configuration, which is made of `description`. The layers are built without memory first, so
    that nothing is allocated by what a file only says of itself. Raises InputError when that does not fit its tensors.
    """
    made = {**description, "target_modules": list(tensors), "inference_mode": True}
    inject(network, name, lambda: config(**made), low_cpu_mem_usage=True)
    state, wrong = {}, set(tensors)
    for module, own in tensors.items():
        places = own_parameters(network.get_submodule(module), name)
        if {kind: tensor.shape for kind, (_, tensor) in places.items()} == {kind: each.shape for kind, each in own.items()}:
            state |= {f"{module}.{places[kind][0]}": tensor.float() for kind, tensor in own.items()}
            wrong -= {module}
    if wrong:
        what = f"{', '.join(sorted(wrong)[:3])}: the tensors do not fit this base model or the file's own description"
        raise InputError(Problem("weights", what, "load it with the base model that it was learned on"))
    network.load_state_dict(state, strict=False, assign=True)


def inject(network: "nn.Module", name: str, config: "Callable[[], PeftConfig]", **options: Any) -> None:
    """Lets peft add its layers. Raises InputError where the installed peft does not know the configuration of a file."""
    from peft import inject_adapter_in_model

    try:
        vars(network).pop("peft_config", None)  # that of an adapter loaded before, about which peft warns
        inject_adapter_in_model(config(), network, adapter_name=name, **options)
    except (TypeError, ValueError, AttributeError, KeyError) as error:  # of peft's configurations, each version knows more
        what = f"describes itself in words that the installed peft does not know ({first_line(error)})"
        raise InputError(Problem("weights", what, "update peft, or save it without its description")) from error


def start_from(network: "nn.Module", tensors: "Mapping[str, Mapping[str, Tensor]]") -> list[str]:
    """Copies saved tensors into the adapter that learns; returns the modules whose tensors are others in name or shape."""
    missing = []
    for module, own in tensors.items():
        places = own_parameters(network.get_submodule(module), NAME)
        if {kind: tensor.shape for kind, (_, tensor) in places.items()} != {kind: each.shape for kind, each in own.items()}:
            missing.append(module)
            continue
        for kind, tensor in own.items():
            places[kind][1].data.copy_(tensor)
    return missing


def own_parameters(layer: "nn.Module", name: str) -> "dict[str, tuple[str, nn.Parameter]]":
    """The parameters of one adapter in a layer, with their names there, by what they are called in files."""
    mark = re.compile(rf"\.{re.escape(name)}(?=\.|$)")
    return {mark.sub("", place): (place, parameter) for place, parameter in layer.named_parameters() if mark.search(place)}


def first_line(error: Exception) -> str:
    """The beginning of a library's error message, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:250]
