"""LoRA: a low-rank change W + (alpha / rank) * B A of frozen weights, by peft.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models"; rank-stabilised scale alpha / sqrt(rank):
Kalajdzievski 2023; weight-decomposed (DoRA): Liu et al. 2024.

W a weight [out, in, ...] of a network, A [rank, in, ...] and B [out, rank, ...] of a LoRA beside it.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from customize import events
from customize.adapters import lora_files, peft_layers
from customize.adapters.lora_keys import split
from customize.errors import InputError, Problem
from customize.families.specs.network_names import NetworkNames
from customize.settings.field import setting
from customize.storage.run_folder import KOHYA_LORA, LORA
from customize.storage.safetensors_header import Header

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor, nn

    from customize.adapters import Family

OWN = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
       "layers_pattern", "init_lora_weights", "use_dora", "lora_dropout", "inference_mode")  # fmt: skip
"""Entries of peft's configuration that follow from the tensors, or matter in training only."""


class Settings(BaseModel):
    """The settings of a LoRA."""

    rank: int = setting(16, "method", "rank of the adapter", ge=1, le=4096)
    lora_alpha: float | None = setting(
        None, "method", "LoRA alpha; the update is scaled by alpha / rank",
        gt=0, le=1_000_000, default_in_words="none: the rank",
    )  # fmt: skip
    lora_dropout: float = setting(0.0, "method", "dropout probability at the adapter's input", ge=0, lt=1)
    lora_targets: tuple[str, ...] = setting(
        ("attention",), "method", "layers that get an adapter: attention, feed-forward, or names of modules",
        text="modules",
    )  # fmt: skip
    use_rslora: bool = setting(False, "method", "rsLoRA: scale the update by alpha / sqrt(rank)")
    use_dora: bool = setting(False, "method", "DoRA: learn magnitude and direction separately")
    lora_format: Literal["both", "diffusers", "kohya"] = setting(
        "both", "output", "tensor names in the LoRA file: diffusers, kohya (read by all programs), or one file of each",
    )  # fmt: skip


class Adapter(peft_layers.PeftAdapter):
    """Adds LoRA to the modules that `lora_targets` names; loads LoRA files of any program, once their tensors are sorted by
    module."""

    peft_type = "LORA"
    read_by_others = True

    def config(self, settings, target_modules: list[str]) -> "LoraConfig":
        from peft import LoraConfig

        return LoraConfig(
            r=settings.rank,
            lora_alpha=settings.lora_alpha or settings.rank,
            lora_dropout=settings.lora_dropout,
            target_modules=target_modules,
            use_rslora=settings.use_rslora,
            use_dora=settings.use_dora,
            init_lora_weights="gaussian",
        )

    def attach(self, networks: "Sequence[nn.Module]", settings, presets: Mapping[str, Sequence[str]]) -> None:
        from customize.diffusion.dropout import SampleDropout

        super().attach(networks, settings, presets)
        if settings.use_dora:
            events.note("ComfyUI, A1111 and InvokeAI compute a DoRA in another way; for these, merge it into its model (--merge)")
        for layer in peft_layers.tuner_layers(*networks) if settings.use_dora else ():
            reset_magnitude(layer, peft_layers.NAME)
        for network in networks if settings.lora_dropout else ():
            for name, layer in network.named_modules():
                if hasattr(layer, "lora_dropout"):
                    dropout = SampleDropout(settings.lora_dropout, f"{type(network).__name__}.{name}")
                    layer.lora_dropout[peft_layers.NAME] = dropout

    def name_in_files(self, name: str, networks: Mapping[str, NetworkNames]) -> str:
        is_of_diffusers = networks[name.partition(".")[0]].library == "diffusers"
        name = super().name_in_files(name, networks)
        if is_of_diffusers:  # diffusers and transformers name the magnitudes of a DoRA differently
            return name.replace("magnitude_vector.weight", "magnitude_vector")
        return name

    def files(self, settings) -> tuple[str, ...]:
        return {"diffusers": (LORA,), "kohya": (KOHYA_LORA,), "both": (LORA, KOHYA_LORA)}[settings.lora_format]

    def save(self, folder: Path, family: "Family", metadata: dict[str, str], settings) -> list[Path]:
        """Writes a file with diffusers' names, one with kohya's, or both, depending on `lora_format`."""
        files = []
        if settings.lora_format in ("diffusers", "both"):
            files += super().save(folder, family, metadata, settings)
        if settings.lora_format in ("kohya", "both"):
            files.append(lora_files.save(folder / KOHYA_LORA, family, metadata, settings.save_precision))
        return files

    def load(
        self, network: "nn.Module", name: str, tensors: "Mapping[str, Mapping[str, Tensor]]", description: Mapping[str, Any]
    ) -> None:
        """tensors: "A" and "B", optionally "alpha", "B_bias" and a DoRA's "magnitude", by module. Each layer has its own rank and
        alpha."""
        from peft import LoraConfig

        plain = {key: value for key, value in description.items() if key not in OWN}
        for extra in ((), ("magnitude",), ("B_bias",), ("magnitude", "B_bias")):
            kinds = {"magnitude", "B_bias"}
            ranks = {module: len(own["A"]) for module, own in tensors.items() if own.keys() & kinds == {*extra}}
            if ranks:
                config = {
                    **plain, "use_dora": "magnitude" in extra, "lora_bias": "B_bias" in extra, "r": max(ranks.values()),
                    "rank_pattern": {re.escape(module): rank for module, rank in ranks.items()},
                    "target_modules": list(ranks), "lora_alpha": 1, "init_lora_weights": False,
                }  # fmt: skip
                peft_layers.inject(network, name, lambda config=config: LoraConfig(**config))
        for module, own in tensors.items():
            fill(network.get_submodule(module), name, own, alpha_of(module, own, description))

    def start_from(
        self, network: "nn.Module", tensors: "Mapping[str, Mapping[str, Tensor]]", description: Mapping[str, Any]
    ) -> list[str]:
        return [
            module
            for module, own in tensors.items()
            if "A" not in own or not put(network.get_submodule(module), own, scale_of(module, own, description))
        ]

    def settings_in(
        self, path: Path, header: Header, description: Mapping[str, Any], recorded: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Rank, alpha, targets and kind, from the tensors and the configuration of a LoRA of any program."""
        return lora_files.settings_in(path, header, description, recorded)

    def factors(self, layer: Any, name: str) -> "tuple[Tensor, Tensor]":
        """s B and A, where s is the scale times alpha / rank. Of a DoRA, its change of direction alone."""
        return layer.lora_B[name].weight.detach().double() * layer.scaling[name], layer.lora_A[name].weight.detach().double()

    def not_low_rank(self, names: Collection[str]) -> str:
        kinds = {parts[1] for name in names if (parts := split(name))}
        if {"magnitude", "dora_scale"} & kinds:
            return "is a DoRA, which rescales whole weights, so its change is not of low rank"
        if "B_bias" in kinds:
            return "has biases, which are not part of a product"
        others = kinds - {"A", "B", "alpha"}
        return f"has more than the two factors of a LoRA ({', '.join(sorted(others))})" if others else ""


def reset_magnitude(layer: Any, name: str) -> None:
    """Sets the magnitudes of a DoRA to the norms of W + s B A, in float32: W in the precision in which it is used, so that the
    layer computes at first exactly what it does without the DoRA. (peft rounds the norms to the precision of W.)"""
    magnitude = layer.lora_magnitude_vector[name]
    magnitude.update_layer(
        base_layer=layer.get_base_layer(), lora_A=layer.lora_A[name].weight.data, lora_B=layer.lora_B[name].weight.data,
        scaling=layer.scaling[name],
    )  # fmt: skip


def is_lora(tensors: "Mapping[str, Tensor]") -> bool:
    """Whether a module's tensors are a LoRA that peft implements: A and B, a bias, and a DoRA's magnitude of output rows."""
    return {"A", "B"} <= tensors.keys() <= {"A", "B", "alpha", "magnitude", "bias", "B_bias"}


def fits_beside(weight: "Tensor", down: "Tensor", up: "Tensor") -> bool:
    """Whether A and B fit a weight [out, in, ...], up to trailing axes of length 1."""
    return trimmed(down.shape[1:]) == trimmed(weight.shape[1:]) and trimmed(up.shape) == trimmed((len(weight), len(down)))


def trimmed(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without trailing axes of length 1; the first axis stays."""
    shape = tuple(shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def fill(layer: Any, name: str, tensors: "Mapping[str, Tensor]", alpha: float) -> None:
    """Copies tensors and alpha into peft's layer, at scale 1."""
    own = {"lora_A": tensors["A"], "lora_B": tensors["B"], "lora_magnitude_vector": tensors.get("magnitude")}
    for kind, tensor in own.items():
        if tensor is not None:
            weight = getattr(layer, kind)[name].weight
            weight.data = tensor.float().reshape(weight.shape).clone()
    if "B_bias" in tensors:
        layer.lora_B[name].bias.data = tensors["B_bias"].float().clone()
    layer.lora_alpha[name] = alpha
    layer.set_scale(name, 1.0)


def alpha_of(module: str, tensors: "Mapping[str, Tensor]", description: Mapping[str, Any]) -> float:
    """A layer's alpha: from its own tensor, else from the file's configuration, else the rank.

    Raises InputError if the rank in the configuration is not that of the tensors.
    """
    if "alpha" in tensors:
        return float(tensors["alpha"])
    rank = len(tensors["A"])
    if (stated := by_pattern(description.get("rank_pattern"), module, description.get("r", rank))) != rank:
        what = f"its configuration does not fit its tensors: {module} has rank {rank}, not {stated}"
        raise InputError(Problem("weights", what, "get the file again"))
    alpha = by_pattern(description.get("alpha_pattern"), module, description.get("lora_alpha"))
    return rank if alpha is None else alpha


def by_pattern(patterns: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """The value of the first pattern that matches a module's name or its end, as in peft."""
    return next((value for key, value in (patterns or {}).items() if re.fullmatch(rf"(.*\.)?({key})", module)), otherwise)


def scale_of(module: str, tensors: "Mapping[str, Tensor]", description: Mapping[str, Any]) -> float:
    """What a layer's B A is multiplied by. An alpha that is a tensor is divided by the rank, as all programs do; one in the
    configuration by its square root if that says so."""
    is_stabilised = "alpha" not in tensors and description.get("use_rslora")
    return alpha_of(module, tensors, description) / len(tensors["A"]) ** (0.5 if is_stabilised else 1)


def put(layer: Any, tensors: "Mapping[str, Tensor]", scale: float) -> bool:
    """Copies a LoRA's factors into the first ranks of a layer, which may have a higher rank; returns whether they fit.

    scale: of the factors; if the layer has a different one, B is rescaled, so that the output stays the same.
    """
    name = peft_layers.NAME
    if name not in getattr(layer, "lora_A", {}) or not {"A", "B"} <= tensors.keys():
        return False
    down, up = layer.lora_A[name].weight.data, layer.lora_B[name].weight.data
    rank = len(tensors["A"])
    if rank > len(down) or tensors["A"].numel() != down[:rank].numel() or tensors["B"].numel() != up[:, :rank].numel():
        return False
    same = scale == layer.scaling[name]
    down[:rank] = tensors["A"].float().reshape(down[:rank].shape)
    up.zero_()
    up[:, :rank] = tensors["B"].float().reshape(up[:, :rank].shape) * (1.0 if same else scale / layer.scaling[name])
    if (magnitude := tensors.get("magnitude", tensors.get("dora_scale"))) is not None:
        own = layer.lora_magnitude_vector[name].weight.data
        if "dora_scale" in tensors and magnitude.shape[:1] != tensors["B"].shape[:1]:  # of input columns
            return False
        own.copy_(magnitude.float().reshape(own.shape))
    return True
