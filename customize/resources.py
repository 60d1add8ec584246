"""Memory and disk that give out, told in words. torch is not imported for it."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from customize.errors import ResourceError


@contextmanager
def resources(for_memory: str, for_disk: str) -> Iterator[None]:
    """Turns what a full memory or disk raises into ResourceError, with what to do about each."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        place = f" for {error.filename}" if error.filename else ""
        raise ResourceError(f"no room on the disk{place} ({error.strerror})\n    -> {for_disk}") from error
    except SafetensorError as error:  # its writer tells of a full disk in words only
        if not re.search(r"os error (27|28|122)\b", str(error)):
            raise
        raise ResourceError(f"no room on the disk ({error})\n    -> {for_disk}") from error
    except RuntimeError as error:  # torch.OutOfMemoryError is one, and so is the CPU allocator's
        if "out of memory" not in str(error).lower() and "can't allocate" not in str(error):
            raise
        raise ResourceError(f"out of memory\n    -> {for_memory}") from error
