"""Accelerate for a run: its device, precision, processes and trackers."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration

from customize import device
from customize.errors import InputError
from customize.settings import sharding_request
from customize.training.callbacks import trackers
from customize.training.distributed.sharding import ShardingAccelerator


def check_machine(settings) -> None:
    """Raises InputError for fp16 without a GPU, which only torch can tell; `preflight.check` has checked everything else."""
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if problems := device.fp16_problem(settings.mixed_precision, "cuda" if has_gpu else "cpu"):
        raise InputError(problems)


def start_accelerator(settings, folder: Path) -> Accelerator:
    """Sets up device, precision, processes and trackers. Not all parameters of text encoders need have gradients: SDXL does not
    use the last layer of its first one.

    Accelerate is not told that sharding is requested: it would shard in another way, and only on GPUs.
    """
    if AcceleratorState._shared_state.get("_mixed_precision", settings.mixed_precision) != settings.mixed_precision:
        AcceleratorState._reset_state()  # it keeps the precision of an earlier run in this process, and refuses another
    torch.backends.cuda.matmul.allow_tf32 = settings.allow_tf32
    processes = DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=settings.trains_text_encoders)
    kind = ShardingAccelerator if sharding_request.is_requested() else Accelerator
    with unset(sharding_request.REQUEST):
        return kind(
            mixed_precision=settings.mixed_precision,
            log_with=trackers(settings) or None,
            kwargs_handlers=[processes],
            project_config=ProjectConfiguration(str(folder), logging_dir=str(folder / settings.logging_dir)),
        )


@contextmanager
def unset(variable: str) -> Iterator[None]:
    """Inside the context a variable of the environment is not set."""
    value = os.environ.pop(variable, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[variable] = value
