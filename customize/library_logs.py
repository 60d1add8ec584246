"""Lines of libraries that warn of nothing: left out, and nothing else of what they log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

NOISE = {
    "transformers.utils.import_utils": ("requires torchvision (not installed)",),
    "diffusers.models.modeling_utils": ("that should be kept in float32: [].",),
    "bitsandbytes.backends.cpu.ops": ("gemm_4bit_forward from kernels-community",),
}
"""Logger -> parts of lines that tell a user nothing: a reader of images that is not used, a list that is empty, a faster
4-bit product that some processors would have."""


class Leaves(logging.Filter):
    """Lets through what holds none of the parts."""

    def __init__(self, parts: tuple[str, ...]):
        super().__init__()
        self.parts = parts

    def filter(self, record: logging.LogRecord) -> bool:
        return not any(part in record.getMessage() for part in self.parts)


def quiet() -> None:
    """Leaves these lines out from now on; before the libraries are imported, or later. Twice is the same as once."""
    for name, parts in NOISE.items():
        logger = logging.getLogger(name)
        if not any(isinstance(each, Leaves) for each in logger.filters):
            logger.addFilter(Leaves(parts))


@contextmanager
def without_bars() -> Iterator[None]:
    """Within it transformers draws no progress bars, such as one for a single file that is written."""
    from transformers.utils import logging as theirs

    shown = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            theirs.enable_progress_bar()
