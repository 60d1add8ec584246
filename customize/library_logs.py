"""Hides meaningless warnings of libraries, and only these."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

NOISE = {
    "transformers.utils.import_utils": ("requires torchvision (not installed)",),
    "diffusers.models.modeling_utils": ("that should be kept in float32: [].",),
    "bitsandbytes.backends.cpu.ops": ("gemm_4bit_forward from kernels-community",),
}
"""Logger -> parts of the lines to hide: about an unused image reader, an empty list, and a 4-bit product for some processors."""


class HideLines(logging.Filter):
    """Passes lines that contain none of the parts."""

    def __init__(self, parts: tuple[str, ...]):
        super().__init__()
        self.parts = parts

    def filter(self, record: logging.LogRecord) -> bool:
        return not any(part in record.getMessage() for part in self.parts)


def quiet() -> None:
    """Hide these lines from now on. Can be called before the libraries are imported, and repeatedly."""
    for name, parts in NOISE.items():
        logger = logging.getLogger(name)
        if not any(isinstance(each, HideLines) for each in logger.filters):
            logger.addFilter(HideLines(parts))


@contextmanager
def without_bars() -> Iterator[None]:
    """Within this context, transformers shows no progress bars, such as one for writing a single file."""
    from transformers.utils import logging as theirs

    shown = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            theirs.enable_progress_bar()
