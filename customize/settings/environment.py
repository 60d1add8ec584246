"""Checks that this machine has what the settings need, as far as possible before torch is imported."""

import importlib.util
import sys

from customize import device
from customize.errors import Problem
from customize.printable import printable

GPU_FILES = ("dev/dxg", "dev/kfd", "dev/dri/renderD128", "dev/accel", "dev/nvidia0", "dev/nvidiactl", "dev/nvhost-gpu")
"""Device files that indicate a GPU: WSL, AMD, Intel, NVIDIA, Jetson."""


def lacking(settings) -> list[Problem]:
    """Problems with fp16, trackers and access to the hub. A missing GPU is reported only if that is certain."""
    return [*fp16_problems(settings), *tracker_problems(settings), *hub_problems(settings)]


def fp16_problems(settings) -> list[Problem]:
    """fp16 on a machine that cannot have a GPU; on other machines torch decides, later."""
    if settings.mixed_precision != "fp16" or sys.platform != "linux":
        return []
    if device.nvidia_card() or any((device.ROOT / name).exists() for name in GPU_FILES):
        return []
    return [Problem("mixed_precision", "fp16 needs a GPU: no GPU found", device.NO_FP16)]


def tracker_problems(settings) -> list[Problem]:
    """Trackers that are not installed."""
    if "wandb" in getattr(settings, "report_to", ()) and importlib.util.find_spec("wandb") is None:
        return [Problem("report_to", "wandb is not installed", "pip install wandb, or --report_to tensorboard")]
    return []


def hub_problems(settings) -> list[Problem]:
    """Problems that would prevent the upload, found before training instead of after it."""
    if not getattr(settings, "push_to_hub", False):
        return []
    from huggingface_hub import HfApi

    try:
        HfApi(token=settings.hub_token).whoami()
    except Exception as error:  # whatever the hub's client raises, its message is shown
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = printable(f"no access to the hub ({cause.partition('. ')[0]})", 300)
        return [Problem("push_to_hub", what, "log in with `hf auth login`, or leave push_to_hub out")]
    return []
