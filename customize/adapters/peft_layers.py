"""Shared code of adapters that use peft's layers. torch and peft are imported only when needed.

W is a weight [out, in, ...] of the base model, inside one of peft's layers.
"""

import json
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize.adapters.lora_keys import ADAPTER_METADATA
from customize.adapters.targets import adapted, ranks_of, targets_of
from customize.errors import InputError, Problem
from customize.families.specs.network_names import NetworkNames
from customize.storage.run_folder import LORA
from customize.storage.safetensors_header import Header

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

    from customize.adapters import Family

NAME = "default"
"""peft's name of the adapter that is trained."""


class PeftAdapter:
    """Implements `customize.adapters.Adapter` for one type of adapter in peft.

    A subclass sets `peft_type` and `config`. By default, `set_scale` and `delta_weight` call the methods of peft's layer,
    and there are no low-rank `factors`; override these methods where peft's layers differ.
    """

    peft_type: str
    title = ""
    learning_rate = 1e-4
    read_by_others = False
    kinds: Collection[str] = ()
    is_converted = False

    def config(self, settings, target_modules: list[str]) -> "PeftConfig":
        """peft's configuration. target_modules: ends of the names of modules."""
        raise NotImplementedError

    def attach(self, networks: "Sequence[nn.Module]", settings, presets: Mapping[str, Sequence[str]]) -> None:
        """Adds an adapter to the modules that `lora_targets` names: presets, or ends of module names.

        The initial weights depend on `seed` alone, rounded to the network's precision; they are float32 from there on. Raises
        InputError for targets that no network has, and where peft refuses.
        """
        import torch

        targets = targets_of(networks, settings.lora_targets, presets)
        modules = [adapted(network, names) for network, names in zip(networks, targets, strict=True)]
        ranks = ranks_of(modules, settings.rank, settings.rank_pattern, presets)
        for network, names, own in zip(networks, targets, ranks, strict=True):
            try:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(settings.seed)
                    self.add_layers(network, names, own, settings)
            except (TypeError, ValueError) as error:
                what = f"{settings.adapter} cannot be attached by peft to {type(network).__name__} ({first_line(error)})"
                remedy = "change the adapter's settings, or choose another --adapter"
                raise InputError(Problem("adapter", what, remedy)) from error
        for layer in tuner_layers(*networks):
            for _, parameter in own_parameters(layer, NAME).values():
                parameter.data = parameter.data.float()

    def add_layers(self, network: "nn.Module", target_modules: list[str], ranks: Mapping[str, int], settings) -> None:
        """Puts layers around the modules of a network with these names, or whose names end with them. ranks: of modules that
        have another than `rank`."""
        from peft import inject_adapter_in_model

        config: Any = self.config(settings, target_modules)
        if ranks:
            config.rank_pattern = {**ranks}
            config.alpha_pattern = {} if settings.lora_alpha else {**ranks}
        inject_adapter_in_model(config, network, adapter_name=NAME)
        network.peft_config = {NAME: config}

    def notes(self, settings, num_images: int) -> Iterable[str]:
        return ()

    @contextmanager
    def disabled(self, *networks: "nn.Module") -> Iterator[None]:
        layers = tuner_layers(*networks)
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def name_in_files(self, name: str, networks: Mapping[str, NetworkNames]) -> str:
        """The name in diffusers' layout, without peft's adapter name."""
        network, _, rest = re.sub(rf"\.{NAME}(?=\.|$)", "", name).partition(".")
        return networks[network].written(rest)

    def description(self, family: "Family") -> dict[str, str]:
        """The metadata entry from which diffusers' loaders configure the adapters in a family's networks."""
        configs = {}
        for part, network in family.trainable.items():
            for config in getattr(network, "peft_config", {}).values():
                # stock loaders leave the adapter in training mode, so dropout recorded here would be active in inference
                without = {name: 0.0 for name in ("lora_dropout", "rank_dropout", "module_dropout") if hasattr(config, name)}
                configs |= {f"{part}.{name}": value for name, value in {**config.to_dict(), **without}.items()}
        plain = {name: sorted(value) if isinstance(value, set) else value for name, value in configs.items()}
        return {ADAPTER_METADATA: json.dumps(plain, sort_keys=True, default=str)}

    def files(self, settings) -> tuple[str, ...]:
        return (LORA,)

    def save(self, folder: Path, family: "Family", metadata: dict[str, str], settings) -> list[Path]:
        """Writes the adapters of all networks, with their configuration, into one file."""
        from customize.storage.tensor_files import save_tensors

        tensors = {}
        for part, network in family.trainable.items():
            for module, layer in network.named_modules():
                for _, (name, parameter) in own_parameters(layer, NAME).items() if is_tuner_layer(layer) else ():
                    tensors[self.name_in_files(f"{part}.{module}.{name}", family.spec.networks)] = parameter
        metadata = {**metadata, **self.description(family)}
        return [save_tensors(folder / LORA, tensors, metadata, settings.save_precision)]

    def load(
        self, network: "nn.Module", name: str, tensors: "Mapping[str, Mapping[str, Tensor]]", description: Mapping[str, Any]
    ) -> None:
        """Layers are built on the meta device first, so that a file's configuration allocates nothing.

        Raises InputError if the configuration does not fit the tensors.
        """
        from peft import get_peft_config

        config = {**description, "peft_type": self.peft_type, "target_modules": list(tensors), "inference_mode": True}
        inject(network, name, lambda: get_peft_config(config), low_cpu_mem_usage=True)
        state, wrong = {}, set(tensors)
        for module, own in tensors.items():
            places = own_parameters(network.get_submodule(module), name)
            if shapes({kind: tensor for kind, (_, tensor) in places.items()}) == shapes(own):
                state |= {f"{module}.{places[kind][0]}": tensor.float() for kind, tensor in own.items()}
                wrong -= {module}
        if wrong:
            what = f"{', '.join(sorted(wrong)[:3])}: the tensors do not fit this base model or the configuration in the file"
            raise InputError(Problem("weights", what, "load it with the base model that it was learned on"))
        network.load_state_dict(state, strict=False, assign=True)

    def start_from(
        self, network: "nn.Module", tensors: "Mapping[str, Mapping[str, Tensor]]", description: Mapping[str, Any]
    ) -> list[str]:
        missing = []
        for module, own in tensors.items():
            places = {kind: parameter for kind, (_, parameter) in own_parameters(network.get_submodule(module), NAME).items()}
            if shapes(places) != shapes(own):
                missing.append(module)
                continue
            for kind, tensor in own.items():
                places[kind].data.copy_(tensor)
        return missing

    def settings_in(
        self, path: Path, header: Header, description: Mapping[str, Any], recorded: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The recorded settings. Raises InputError if there are none."""
        if not recorded:
            what = f"is an adapter ({self.peft_type or self.title}) without recorded settings"
            raise InputError(Problem("weights", what, "merge it into the base model by infer.py --merge"))
        return dict(recorded)

    def set_scale(self, layer: Any, name: str, scale: float) -> None:
        layer.set_scale(name, scale)

    def delta_weight(self, layer: Any, name: str) -> "Tensor | None":
        return layer.get_delta_weight(name) if hasattr(layer, "get_delta_weight") else None

    def factors(self, layer: Any, name: str) -> "tuple[Tensor, Tensor] | None":
        return None

    def not_low_rank(self, names: Collection[str]) -> str:
        return f"is an adapter other than a LoRA ({self.peft_type})"


def tuner_layers(*networks: "nn.Module") -> list[Any]:
    """peft's layers in the networks. Layers of different types may be nested; outer ones come first."""
    return [module for network in networks for module in network.modules() if is_tuner_layer(module)]


def is_tuner_layer(module: "nn.Module") -> bool:
    """Whether a module is one of peft's layers, around a module of the base model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def has_adapter(layer: Any, name: str) -> bool:
    """Whether one of peft's layers itself, rather than a layer nested in it, has the adapter."""
    return any(name in getattr(layer, kind) for kind in layer.adapter_layer_names)


def merge(network: "nn.Module") -> None:
    """Merges all adapters, at their scales, into the parameters of a network, and removes their layers.

    As in the forward pass, each adapter changes what the ones loaded before it computed; the sums are in float64. Raises
    InputError, before anything is changed, for a bias beside a module without one.
    """
    from diffusers.utils import recurse_remove_peft_layers

    for layer in tuner_layers(network):
        if any(getattr(layer, "lora_bias", {}).values()) and layer.get_base_layer().bias is None:
            what = "a LoRA has biases for layers of the base model that have none"
            raise InputError(Problem("merge", what, "use it beside the base model, by --weights"))
    for layer in reversed(tuner_layers(network)):
        module = layer.get_base_layer()
        dtype = module.weight.dtype
        module.double()
        layer.merge()
        module.to(dtype)
    recurse_remove_peft_layers(network)


def inject(network: "nn.Module", name: str, config: "Callable[[], PeftConfig]", **options: Any) -> None:
    """Adds peft's layers to a network. Raises InputError if the installed peft does not know a file's configuration."""
    from peft import inject_adapter_in_model

    try:
        vars(network).pop("peft_config", None)  # of an adapter loaded before; peft would warn
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`lora_bias=True` was passed")  # a bias beside a module without one is as it should
            inject_adapter_in_model(config(), network, adapter_name=name, **options)
    except (TypeError, ValueError, AttributeError, KeyError) as error:  # from a newer version of peft
        what = f"has a configuration that the installed peft does not know ({first_line(error)})"
        raise InputError(Problem("weights", what, "update peft, or save the adapter without its configuration")) from error


def own_parameters(layer: "nn.Module", name: str) -> "dict[str, tuple[str, nn.Parameter]]":
    """(name in the layer, parameter) of each parameter of one adapter, by its name in files."""
    mark = re.compile(rf"\.{re.escape(name)}(?=\.|$)")
    return {mark.sub("", place): (place, parameter) for place, parameter in layer.named_parameters() if mark.search(place)}


def shapes(tensors: "Mapping[str, Tensor]") -> dict[str, tuple[int, ...]]:
    """The shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def first_line(error: Exception) -> str:
    """The beginning of a library's error message, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:250]
