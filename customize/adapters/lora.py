"""LoRA: a low-rank change W + (alpha / rank) * B A of frozen weights, by peft.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models"; rank-stabilised scale alpha / sqrt(rank):
Kalajdzievski 2023; weight-decomposed (DoRA): Liu et al. 2024.

W a weight [out, in, ...] of a network, A [rank, in, ...] and B [out, rank, ...] of a LoRA beside it.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from customize.adapters import lora_files, lora_start, peft_layers, timestep_rank
from customize.adapters.lora_keys import split
from customize.adapters.lora_layouts import DIFFUSERS, KOHYA
from customize.adapters.timestep_rank import TimestepRank
from customize.families.specs.network_names import NetworkNames
from customize.settings.field import setting
from customize.storage.run_folder import KOHYA_LORA, LORA
from customize.storage.safetensors_header import Header

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import Tensor, nn

    from customize.adapters import Family

OWN = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
       "layers_pattern", "init_lora_weights", "use_dora", "lora_dropout", "inference_mode", timestep_rank.MARK)  # fmt: skip
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
        ("attention",), "method", "layers that get an adapter: attention, feed-forward, projections, convolutions, "
        "cross-attention-kv, of SDXL b-lora-content and b-lora-style; names of modules, or patterns of names with *",
        text="modules",
    )  # fmt: skip
    rank_pattern: tuple[str, ...] = setting(
        (), "method", "other ranks of parts, PART=RANK: a group of lora_targets, a block or a module; the first that fits counts",
        text="ranks",
    )  # fmt: skip
    use_rslora: bool = setting(False, "method", "rsLoRA: scale the update by alpha / sqrt(rank)")
    use_dora: bool = setting(False, "method", "DoRA: learn magnitude and direction separately")
    loraplus_lr_ratio: float | None = setting(
        None, "method", "LoRA+: learning rate of each LoRA's B, as a multiple of that of its A; 16 in the paper", ge=1, le=1000
    )
    init_lora_weights: Literal["gaussian", "orthogonal", "pissa"] = setting(
        "gaussian", "method", "how the factors start: A normal and B zero, both orthogonal, or the largest singular values of W "
        "(pissa, whose result is a LoRA of twice the rank, and whose adam_weight_decay is 0 by default)",
    )  # fmt: skip
    tlora_min_rank: int | None = setting(
        None, "method", "T-LoRA, for one to three images: rank at the noisiest timestep, which rises to `rank` at the cleanest",
        ge=1, le=4096, default_in_words="none: all ranks at every timestep",
    )  # fmt: skip
    tlora_alpha: float = setting(
        1.0, "method", "T-LoRA: exponent of the rise; above 1 there are fewer ranks in between", gt=0, le=100
    )
    lora_format: Literal["both", "diffusers", "kohya"] = setting(
        "both", "output", "tensor names in the LoRA file: diffusers, kohya (read by all programs), or one file of each",
    )  # fmt: skip


class Adapter(peft_layers.PeftAdapter):
    """Adds LoRA to the modules that `lora_targets` names; loads LoRA files of any program, once their tensors are sorted by
    module."""

    peft_type = "LORA"
    title = "LoRA"
    read_by_others = True
    start, ranks, is_converted = "gaussian", None, False

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
        import torch

        from customize.diffusion.dropout import SampleDropout

        super().attach(networks, settings, presets)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            for layer in peft_layers.tuner_layers(*networks):
                lora_start.STARTS[settings.init_lora_weights](layer, peft_layers.NAME)
        for layer in peft_layers.tuner_layers(*networks) if settings.use_dora else ():
            reset_magnitude(layer, peft_layers.NAME)
        self.start, self.ranks = settings.init_lora_weights, TimestepRank.of(settings)
        self.is_converted = self.start == lora_start.PISSA
        if self.ranks:
            self.ranks.attach(networks[0], peft_layers.NAME)
        for network in networks if settings.lora_dropout else ():
            for name, layer in network.named_modules():
                if hasattr(layer, "lora_dropout"):
                    dropout = SampleDropout(settings.lora_dropout, f"{type(network).__name__}.{name}")
                    layer.lora_dropout[peft_layers.NAME] = dropout

    def notes(self, settings, num_images: int) -> Iterator[str]:
        if settings.use_dora:
            yield "ComfyUI, A1111 and InvokeAI compute a DoRA in another way; for these, merge it into its model (--merge)"
        if settings.tlora_min_rank:
            yield timestep_rank.OTHERS
        if settings.tlora_min_rank and num_images > timestep_rank.MOST_IMAGES:
            yield f"a T-LoRA is meant for one to {timestep_rank.MOST_IMAGES} images, of which there are {num_images}"

    def name_in_files(self, name: str, networks: Mapping[str, NetworkNames]) -> str:
        is_of_diffusers = networks[name.partition(".")[0]].library == "diffusers"
        name = super().name_in_files(name, networks)
        if is_of_diffusers:  # diffusers and transformers name the magnitudes of a DoRA differently
            return name.replace("magnitude_vector.weight", "magnitude_vector")
        return name

    def description(self, family: "Family") -> dict[str, str]:
        """Also whether the ranks depend on the timestep, and of a checkpoint whether its factors are not the change alone."""
        start = {lora_start.START: self.start} if self.is_converted else {}
        return super().description(family) | start | (self.ranks.metadata if self.ranks else {})

    def files(self, settings) -> tuple[str, ...]:
        return {"diffusers": (LORA,), "kohya": (KOHYA_LORA,), "both": (LORA, KOHYA_LORA)}[settings.lora_format]

    def save(self, folder: Path, family: "Family", metadata: dict[str, str], settings) -> list[Path]:
        """Writes a file with diffusers' names, one with kohya's, or both, depending on `lora_format`."""
        files, precision = [], settings.save_precision
        if self.is_converted:
            layouts = {LORA: DIFFUSERS, KOHYA_LORA: KOHYA}
            names = self.files(settings)
            return [
                lora_files.save_change(folder / name, family, layouts[name], self.factors, metadata, precision) for name in names
            ]
        if settings.lora_format in ("diffusers", "both"):
            files += super().save(folder, family, metadata, settings)
        if settings.lora_format in ("kohya", "both"):
            own = {**metadata, **(self.ranks.metadata if self.ranks else {})}
            files.append(lora_files.save(folder / KOHYA_LORA, family, own, precision))
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
            fill(network.get_submodule(module), name, own, lora_files.alpha_of(module, own, description))
        if ranks := description.get(timestep_rank.MARK):
            ranks.attach(network, name)

    def start_from(
        self, network: "nn.Module", tensors: "Mapping[str, Mapping[str, Tensor]]", description: Mapping[str, Any]
    ) -> list[str]:
        return [
            module
            for module, own in tensors.items()
            if "A" not in own or not put(network.get_submodule(module), own, lora_files.scale_of(module, own, description))
        ]

    def settings_in(
        self, path: Path, header: Header, description: Mapping[str, Any], recorded: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Rank, alpha, targets and kind, from the tensors and the configuration of a LoRA of any program."""
        return lora_files.settings_in(path, header, description, recorded)

    def set_scale(self, layer: Any, name: str, scale: float) -> None:
        """A DoRA's scale is within the norm, so that at 0 its magnitudes would remain: there it takes no part."""
        super().set_scale(layer, name, scale)
        if name in layer.lora_magnitude_vector:
            active = {*layer.active_adapters, name} - ({name} if scale == 0 else set())
            layer._active_adapter = [each for each in layer.lora_A if each in active]

    def factors(self, layer: Any, name: str) -> "tuple[Tensor, Tensor]":
        """s B and A, where s is the scale times alpha / rank. Of a DoRA, its change of direction alone."""
        up, down = (each[name].weight.detach().double() for each in (layer.lora_B, layer.lora_A))
        return lora_start.with_start(layer, up * layer.scaling[name], down)

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
