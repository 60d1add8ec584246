"""Reports running out of memory or disk space, and suggests settings that need less. No torch."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from safetensors import SafetensorError

from customize import events
from customize.errors import Interrupted, ResourceError
from customize.storage import out_of_memory
from customize.storage.disk import BROKEN, DENIED, FULL, WriteError, error_number


@contextmanager
def resources(for_memory: str, for_disk: str) -> Iterator[None]:
    """Turn errors of full memory or a full disk into ResourceError, with the remedy for each."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if out_of_memory.caused(error):
            raise ResourceError(f"out of memory\n    -> {for_memory}") from error
        if isinstance(error, WriteError):
            remedy = for_disk.replace("make room", "make it writable") if error.errno in DENIED else for_disk
            raise ResourceError(f"{error.strerror}\n    -> {remedy}") from error
        if (number := error_number(error)) not in FULL | BROKEN:
            raise
        what = "disk full" if number in FULL else "the disk failed"
        raise ResourceError(f"{what} ({error})\n    -> {for_disk}") from error
    except (
        RuntimeError,
        MemoryError,
        ImportError,
    ) as error:  # torch.OutOfMemoryError is one, and so is the error of the CPU allocator
        if isinstance(error, ResourceError) or not out_of_memory.caused(error):
            raise
        raise ResourceError(f"out of memory\n    -> {for_memory}") from error


@contextmanager
def optional_file(what: str, *also: type[Exception]) -> Iterator[None]:
    """Turn the failure to read or write a file that the run does not need into a note.

    also: further exceptions to treat like this. Errors of a full or broken disk are still raised.
    """
    try:
        yield
    except Interrupted:
        raise
    except (OSError, *also) as error:
        if isinstance(error, OSError) and error_number(error) in FULL | BROKEN:
            raise
        events.note(f"{what}; the run continues without it ({str(error).partition(chr(10))[0][:200]})")


def less_memory(settings) -> list[str]:
    """The flags, not given yet, that reduce the memory of a training run; the cheapest first."""
    size, accumulated = settings.train_batch_size, settings.gradient_accumulation_steps
    smaller = next((size // by for by in range(2, size + 1) if size % by == 0), 1)
    full = settings.trains_whole_networks
    flags = {
        "--gradient_checkpointing": not settings.gradient_checkpointing,
        f"--train_batch_size {smaller} --gradient_accumulation_steps {accumulated * size // smaller}": size > 1,
        "--mixed_precision bf16": settings.mixed_precision == "no",
        "--offload_ema": settings.use_ema and not settings.offload_ema,
        "--optimizer adamw_8bit": full and settings.optimizer == "adamw",
        "--adapter lora": full,
    }
    return [flag for flag, helps in flags.items() if helps]


def for_memory(settings) -> str:
    """The remedy for running out of memory."""
    flags = less_memory(settings)
    return (
        f"reduce memory, trying one after another: {', '.join(flags)}"
        if flags
        else "use a smaller --resolution, or another machine"
    )


def safetensors_size(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> int:
    """The size in bytes of a safetensors file with these tensors, to within a few bytes (the order of its header varies)."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + tensor.nbytes
        kind = f"{tensor.dtype}".removeprefix("torch.").replace("bfloat", "BF").replace("float", "F").replace("int", "I")
        header[name] = {"dtype": kind, "shape": [*tensor.shape], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    return 8 + -(-len(text.encode()) // 8) * 8 + end
