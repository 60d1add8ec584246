"""What settings ask of this machine and is not there, as far as it can be told before torch is imported."""

import importlib.util
import sys

from customize import device
from customize.errors import Problem
from customize.printable import printable

GPU_FILES = ("dev/dxg", "dev/kfd", "dev/dri/renderD128", "dev/accel", "dev/nvidia0", "dev/nvidiactl", "dev/nvhost-gpu")
"""What stands in /dev where there may be a GPU: of Windows' Linux, AMD, Intel, NVIDIA, Jetson."""


def lacking(settings) -> list[Problem]:
    """A GPU for fp16, the trackers, access to the hub. A GPU is found missing only where that is certain."""
    return [*fp16_problems(settings), *tracker_problems(settings), *hub_problems(settings)]


def fp16_problems(settings) -> list[Problem]:
    """fp16 where there can be no GPU; on other machines torch is asked, later."""
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
    """What keeps the result from being uploaded, found out before the training and not after it."""
    if not getattr(settings, "push_to_hub", False):
        return []
    from huggingface_hub import HfApi

    try:
        HfApi(token=settings.hub_token).whoami()
    except Exception as error:  # whatever the hub's client raises: the cause is passed on
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = printable(f"no access to the hub ({cause.partition('. ')[0]})", 300)
        return [Problem("push_to_hub", what, "log in with `hf auth login`, or leave it out")]
    return []
