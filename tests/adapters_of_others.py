"""Adapter files as other programs write them, for the tiny model, and the expected change of each weight in float64."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

UNET = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (32, 32),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": (32, 32),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (32, 32),
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v": (32, 32),
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_v": (64, 64),
}
MORE = {
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj": (256, 32),
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2": (32, 128),
    "down_blocks.0.attentions.0.proj_in": (32, 32, 1, 1),
    "mid_block.attentions.0.proj_out": (64, 64, 1, 1),
    "down_blocks.1.resnets.0.conv1": (64, 32, 3, 3),
    "down_blocks.1.resnets.0.conv_shortcut": (64, 32, 1, 1),
    "down_blocks.1.resnets.0.time_emb_proj": (64, 128),
    "down_blocks.0.downsamplers.0.conv": (32, 32, 3, 3),
    "up_blocks.0.upsamplers.0.conv": (64, 64, 3, 3),
    "mid_block.resnets.1.conv2": (64, 64, 3, 3),
    "conv_in": (32, 4, 3, 3),
    "conv_out": (4, 32, 3, 3),
    "time_embedding.linear_2": (128, 128),
}
TEXT = {
    "encoder.layers.0.self_attn.q_proj": (32, 32),
    "encoder.layers.0.self_attn.out_proj": (32, 32),
    "encoder.layers.1.mlp.fc1": (64, 32),
    "encoder.layers.1.mlp.fc2": (32, 64),
}
LDM = {
    "down_blocks.0.attentions.0": "input_blocks.1.1", "up_blocks.1.attentions.0": "output_blocks.2.1",
    "conv_in": "input_blocks.0.0",
    "mid_block.attentions.0": "middle_block.1", "down_blocks.1.resnets.0.conv1": "input_blocks.3.0.in_layers.2",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.3.0.skip_connection", "conv_out": "out.2",
    "down_blocks.1.resnets.0.time_emb_proj": "input_blocks.3.0.emb_layers.1", "time_embedding.linear_2": "time_embed.2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op", "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
    "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
}  # fmt: skip
"""Of the tiny UNet with one layer a block, written by hand."""


def kohya(module: str) -> str:
    return ("lora_te_text_model_" if module.startswith("encoder.") else "lora_unet_") + module.replace(".", "_")


def ldm(module: str) -> str:
    start = max((start for start in LDM if module.startswith(start)), key=len)
    return LDM[start] + module.removeprefix(start)


def diffusers(module: str) -> str:
    return ("text_encoder.text_model." if module.startswith("encoder.") else "unet.") + module


def processor(module: str) -> str:
    head, _, end = module.removesuffix(".0").rpartition(".")
    return f"unet.{head}.processor.{end}_lora"


@dataclass
class File:
    """Tensors by name, and the expected change of the weight by module."""

    seed: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)
    changes: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self):
        self.generator = torch.Generator().manual_seed(self.seed)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator) * 0.3

    def lora(
        self, modules: dict[str, tuple[int, ...]], name: Callable[[str], str] = kohya,
        ends: tuple[str, str] = ("lora_down.weight", "lora_up.weight"),
        rank: Callable[[int], int] = lambda i: 4, alpha: Callable[[int], float | None] = lambda i: None,
        dtype: torch.dtype = torch.float32, make_alpha: Callable[[float], Tensor] = torch.tensor,
    ) -> "File":  # fmt: skip
        """Adds a LoRA for each module; rank and alpha are functions of a module's index."""
        for i, (module, (out, width, *kernel)) in enumerate(modules.items()):
            down = self.random(rank(i), width, *kernel).to(dtype)
            up = self.random(out, rank(i), *[1 for _ in kernel]).to(dtype)
            joint = "" if name(module).endswith("_lora") else "."
            self.tensors |= {f"{name(module)}{joint or '.'}{ends[0]}": down, f"{name(module)}{joint or '.'}{ends[1]}": up}
            factor = 1.0
            if (own := alpha(i)) is not None:
                self.tensors[f"{name(module)}.alpha"] = make_alpha(own)
                factor = own / rank(i)
            self.changes[module] = factor * (up.flatten(1).double() @ down.flatten(1).double()).view(out, width, *kernel)
        return self

    def write(self, path: Path, metadata: dict[str, str] | None = None) -> Path:
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, path, metadata)
        return path
