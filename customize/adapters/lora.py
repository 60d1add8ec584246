"""LoRA: a low-rank change W + (alpha / rank) * B A beside frozen weights, by peft.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models"; rank-stabilised scale alpha / sqrt(rank):
Kalajdzievski 2023; weight-decomposed (DoRA): Liu et al. 2024.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from customize import weights
from customize.dropout import SampleDropout
from customize.errors import InputError, Problem
from customize.families.stable_diffusion import StableDiffusion

NAME = "default"
TARGETS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj"),
    "feed-forward": ("ff.net.0.proj", "ff.net.2", "mlp.fc1", "mlp.fc2"),
}


class Adapter:
    """Adds LoRA to the modules that `lora_targets` names: groups of `TARGETS`, or ends of module names."""

    precision = "fp32"

    def attach(self, networks: Sequence[nn.Module], settings) -> None:
        self.precision = settings.save_precision
        self.lora_format = getattr(settings, "lora_format", "both")
        ends = {target: TARGETS.get(target, (target,)) for target in settings.lora_targets}
        found = [present(network, [end for group in ends.values() for end in group]) for network in networks]
        unknown = [target for target, group in ends.items() if not any(set(group) & set(each) for each in found)]
        if unknown or not all(found):
            remedy = f"name linear or convolution modules of each network that learns, or groups: {', '.join(TARGETS)}"
            raise InputError(Problem("lora_targets", f"{', '.join(unknown or settings.lora_targets)} is not there", remedy))
        for network, target_modules in zip(networks, found, strict=True):
            self.inject(network, target_modules, settings)

    def inject(self, network: nn.Module, target_modules: list[str], settings) -> None:
        """Puts LoRA beside the modules whose names end so; its start depends on the seed alone."""
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.lora_alpha or settings.rank,
            lora_dropout=settings.lora_dropout,
            target_modules=target_modules,
            use_rslora=settings.use_rslora,
            use_dora=settings.use_dora,
            init_lora_weights="gaussian",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            inject_adapter_in_model(config, network, adapter_name=NAME)
        network.peft_config = {NAME: config}
        if settings.lora_dropout:
            for name, layer in network.named_modules():
                if isinstance(layer, BaseTunerLayer):
                    layer.lora_dropout[NAME] = SampleDropout(settings.lora_dropout, f"{type(network).__name__}.{name}")

    @contextmanager
    def off(self, *networks: nn.Module) -> Iterator[None]:
        layers = [m for network in networks for m in network.modules() if isinstance(m, BaseTunerLayer)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def name_in_files(self, name: str) -> str:
        part, _, rest = name.partition(".")
        if part == "text_encoder":
            rest = f"text_model.{rest.removeprefix('text_model.')}"
            if "magnitude_vector" in rest:
                return f"{part}.{rest.replace(f'.{NAME}.weight', '.weight')}"
        return f"{part}.{rest.replace('magnitude_vector.' + NAME + '.weight', 'magnitude_vector').replace(f'.{NAME}.', '.')}"

    def description(self, family: StableDiffusion) -> dict[str, str]:
        return weights.adapter_description(family)

    def save(self, folder: Path, family: StableDiffusion, metadata: dict[str, str]) -> list[Path]:
        return weights.save_lora(folder, family, metadata, self.precision, self.lora_format)


def present(network: nn.Module, ends: Sequence[str]) -> list[str]:
    """Those of the ends that names of linear or convolution modules of the network have."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return [end for end in ends if any(name == end or name.endswith(f".{end}") for name in names)]
