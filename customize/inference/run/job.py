"""What a run of infer.py generates, once its files have been looked at."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from customize.inference.masks import Mask
from customize.inference.run.grid import Grid

if TYPE_CHECKING:
    from PIL.Image import Image

    from customize.inference.metadata.reproduce import Like


@dataclass(frozen=True)
class Job:
    """What is to be done, as far as a look at files can tell: which pictures, from which ones."""

    grid: Grid
    images: "dict[str, Image]"
    masks: "dict[Mask, Image]"
    like: "Like | None" = None
    remarks: tuple[str, ...] = ()

    @property
    def is_reproduction(self) -> bool:
        """Whether one picture is made, which was made before."""
        like, requests = self.like, self.grid.requests
        return like is not None and len(requests) == 1 and like.is_reproduced_by(requests[0].settings)

    @property
    def seat(self) -> tuple[int, int]:
        """Where a picture that is made again was in its batch, and how large that was: the last bits hang on it."""
        return self.like.told.place_in_batch if self.like and self.is_reproduction else (0, 1)
