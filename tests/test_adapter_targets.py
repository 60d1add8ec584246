"""Which layers of Stable Diffusion 1.5 and SDXL get an adapter, of which rank, and how many numbers each adapter trains, on the
real architectures without their weights."""

import json
import re
from math import isqrt, prod
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

import customize.families
from customize import adapters
from customize.adapters import targets
from customize.errors import InputError
from customize.families.stable_diffusion import LORA_TARGETS
from customize.families.stable_diffusion_xl import XL_TARGETS
from customize.methods import DreamBoothSettings
from customize.settings.field import table

PATTERNS = {
    "attention": r"\.attn[12]\.to_(q|k|v|out\.0)$",
    "feed-forward": r"\.ff\.net\.(0\.proj|2)$",
    "projections": r"attentions\.\d+\.proj_(in|out)$",
    "convolutions": r"resnets\.\d+\.conv(1|2|_shortcut)$|(down|up)samplers\.0\.conv$",
    "cross-attention-kv": r"\.attn2\.to_[kv]$",
    "b-lora-content": r"^up_blocks\.0\.attentions\.0\..*\.attn[12]\.to_(q|k|v|out\.0)$",
    "b-lora-style": r"^up_blocks\.0\.attentions\.1\..*\.attn[12]\.to_(q|k|v|out\.0)$",
}
LAYERS = {
    ("sd15", "attention"): 128, ("sd15", "feed-forward"): 32, ("sd15", "projections"): 32, ("sd15", "convolutions"): 64,
    ("sd15", "cross-attention-kv"): 32, ("sdxl", "attention"): 560, ("sdxl", "feed-forward"): 140,
    ("sdxl", "projections"): 22, ("sdxl", "convolutions"): 49, ("sdxl", "cross-attention-kv"): 140,
    ("sdxl", "b-lora-content"): 80, ("sdxl", "b-lora-style"): 80,
}  # fmt: skip
PRESETS = {"sd15": LORA_TARGETS, "sdxl": XL_TARGETS}


def unet(name: str) -> UNet2DConditionModel:
    """The UNet of a base model on the meta device."""
    folder = Path(customize.families.__file__).parent / "configs" / name / "unet"
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(json.loads((folder / "config.json").read_text()))


@pytest.fixture(scope="module")
def unets() -> dict[str, UNet2DConditionModel]:
    return {name: unet(name) for name in PRESETS}


def matching(network: nn.Module, pattern: str) -> dict[str, tuple[int, ...]]:
    """The shape of the weight of each linear and convolution module whose name matches."""
    modules = {name: each for name, each in network.named_modules() if isinstance(each, nn.Linear | nn.Conv2d)}
    return {name: tuple(each.weight.shape) for name, each in modules.items() if re.search(pattern, name)}


@pytest.mark.parametrize(("model", "preset"), LAYERS)
def test_a_group_has_these_layers(model, preset, unets):
    [found] = targets.targets_of([unets[model]], [preset], PRESETS[model])
    expected = matching(unets[model], PATTERNS[preset])
    assert targets.adapted(unets[model], found) == [*expected] and len(expected) == LAYERS[model, preset]


def test_a_group_that_only_the_other_model_has_is_reported(unets):
    with pytest.raises(InputError, match="b-lora-style not found in the network"):
        targets.targets_of([unets["sd15"]], ["attention", "b-lora-style"], LORA_TARGETS)


def test_a_pattern_names_layers(unets):
    pattern = "up_blocks.1.*.attn2.to_k"
    [found] = targets.targets_of([unets["sd15"]], [pattern], LORA_TARGETS)
    assert found == [*matching(unets["sd15"], r"^up_blocks\.1\..*\.attn2\.to_k$")] and len(found) == 3


def test_ranks_of_parts(unets):
    modules = [*matching(unets["sd15"], f"{PATTERNS['attention']}|{PATTERNS['convolutions']}")]
    pattern = ("convolutions=8", "up_blocks.1=32", "attn2.to_k=4", "down_blocks.0.*.to_v=16")
    [found] = targets.ranks_of([modules], 16, pattern, LORA_TARGETS)
    for name in modules:
        if re.search(PATTERNS["convolutions"], name):
            expected = 8
        elif name.startswith("up_blocks.1."):
            expected = 32
        else:
            expected = 4 if name.endswith("attn2.to_k") else 16
        assert found.get(name, 16) == expected, name
    assert 16 not in found.values() and {*found.values()} == {8, 32, 4}
    with pytest.raises(InputError, match="mid_blok, feed-forward has no layer that gets an adapter"):
        targets.ranks_of([modules], 16, ("mid_blok=4", "feed-forward=4", "mid_block=8"), LORA_TARGETS)


def lokr(shape: tuple[int, ...], rank: int) -> int:
    """w1 [l, m] and w2 [out / l, in / m, ...], which is two factors where the rank is below half of its sides."""
    (rows, rows_2), (columns, columns_2) = (
        next((first, size // first) for first in range(isqrt(size), 0, -1) if size % first == 0) for size in shape[:2]
    )
    kernel, is_full = prod(shape[2:]), 2 * rank >= max(rows_2, columns_2)
    return rows * columns + (rows_2 * columns_2 * kernel if is_full else rank * (rows_2 + columns_2 * kernel))


NUMBERS = {  # of one layer with its default settings, by the shape of W
    "lora": lambda shape: 16 * (shape[0] + prod(shape[1:])),
    "loha": lambda shape: 2 * 8 * (shape[0] + prod(shape[1:])),
    "lokr": lambda shape: lokr(shape, 16),
    "oft": lambda shape: 32 * shape[0],
    "boft": lambda shape: 4 * 8 * shape[0],
}
TOTALS = {"lora": 3_188_736, "loha": 3_188_736, "lokr": 193_664, "oft": 3_194_880, "boft": 3_194_880}


def settings_of(adapter: str) -> SimpleNamespace:
    own = {name: line.default for name, line in table(DreamBoothSettings).items()}
    own |= {name: line.default for name, line in adapters.settings_of(adapter).items()}
    return SimpleNamespace(**{**own, "adapter": adapter})


@pytest.mark.parametrize("adapter", NUMBERS)
def test_an_adapter_trains_so_many_numbers_of_stable_diffusion_1_5(adapter):
    """3,188,736 = 4 * 797,184, which is known of a LoRA of rank 4 of diffusers' script."""
    network = unet("sd15")
    shapes = matching(network, PATTERNS["attention"])
    adapters.build(adapter).attach([network], settings_of(adapter), LORA_TARGETS)
    found = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    assert found == sum(map(NUMBERS[adapter], shapes.values())) == TOTALS[adapter]
