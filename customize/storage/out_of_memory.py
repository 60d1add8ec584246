"""Recognises errors that mean out of memory. No torch."""

import errno

from customize.storage.disk import error_number

PHRASES = (
    "out of memory", "can't allocate", "cannot allocate memory", "could not create a primitive", "could not create a memory",
    "bad_alloc", "failed to map segment", "unable to mmap", "alloc_failed", "not enough memory", "can't start new thread",
    "unable to allocate", "insufficient memory",
)  # fmt: skip
"""Messages of libraries that do not raise MemoryError: torch, oneDNN, CUDA's, safetensors, the system's loader, numpy."""
REMEDY = "close other programs, or raise the memory limit (ulimit -v, the container's)"


def caused(error: BaseException) -> bool:
    """Whether the error, or one that caused it, means out of memory."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or type(seen).__name__ == "OutOfMemoryError":
            return True
        if isinstance(seen, Exception) and error_number(seen) == errno.ENOMEM:
            return True
        if isinstance(seen, RuntimeError | ImportError | OSError) and any(phrase in str(seen).lower() for phrase in PHRASES):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False
