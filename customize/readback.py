"""Is what was saved what was learned? The result is loaded afresh, as a user would, and asked the same as the one in memory."""

from pathlib import Path

import torch
from torch import Tensor

from customize import draws
from customize.errors import InputError, NumericsError
from customize.families.base import Family
from customize.inference.loading import load_pipeline

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of two answers, relative to the largest number in them, by the dtype that frozen weights had in
training: beside a rounded base model an adapter learned, beside an exact one it is loaded."""


def check(folder: Path, family: Family, prompt: str, saved: torch.dtype = torch.float32, variant: str | None = None) -> float:
    """Compares one prediction of the networks in memory with one of the result in `folder`; both on the CPU in float32.

    saved: the number format of the result; variant: of the base model's files, which the result is put on again.
    Returns the largest difference relative to the largest number. Raises OSError when it is above `TOLERANCE`,
    NumericsError when the networks in memory answer with NaN or infinity.
    """
    dtype = next(parameter.dtype for parameter in family.unet.parameters())
    expected = answer(family, prompt)
    if not expected.isfinite().all():
        remedy = "start anew with a lower learning_rate, or go on from an earlier checkpoint"
        raise NumericsError(f"what was learned answers with NaN or infinity, and is not saved as the result\n    -> {remedy}")
    try:
        fresh = load_again(folder, family, variant)
    except InputError as error:
        raise OSError(f"what was saved cannot be loaded again: {error}") from error
    difference = ((answer(fresh, prompt) - expected).abs().max() / expected.abs().max()).item()
    if not difference <= max(TOLERANCE[dtype], TOLERANCE[saved]):
        raise OSError(f"{folder} does not give what was learned: predictions differ by {difference:.1e}")
    return difference


def load_again(folder: Path, family: Family, variant: str | None) -> Family:
    """The result in `folder`: a complete pipeline, or weights on the very base model that was trained on."""
    weights = [(str(folder), 1.0)]
    if (folder / "model_index.json").is_file():
        return load_pipeline(None, weights).family
    base = str(family.source)
    return load_pipeline(base, weights, variant=variant, prediction_type=family.prediction_type).family


@torch.no_grad()
def answer(family: Family, prompt: str) -> Tensor:
    """The UNet's answer [1, C, H, W] about small noise under the prompt, at the middle of the schedule."""
    family.to("cpu", torch.float32)
    side = 2 ** len(family.unet.config.block_out_channels)
    noise = draws.normal((family.unet.config.in_channels, side, side), 0, "readback", 0, [0])
    timesteps = family.schedule.timesteps(torch.tensor([0.5]))
    return family.predict(noise, timesteps, family.encode_prompts([prompt]))
