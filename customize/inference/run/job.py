"""The images that infer.py generates, after its input files were checked."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from customize.inference.masks import Mask
from customize.inference.run.grid import Grid

if TYPE_CHECKING:
    from PIL.Image import Image

    from customize.inference.metadata.reproduce import Like


@dataclass(frozen=True)
class Job:
    """The requests of a run, with their input images and masks, opened."""

    grid: Grid
    images: "dict[str, Image]"
    masks: "dict[Mask, Image]"
    like: "Like | None" = None
    remarks: tuple[str, ...] = ()

    @property
    def is_reproduction(self) -> bool:
        """Whether the only image of the run is the one that `like` names, with unchanged settings."""
        like, requests = self.like, self.grid.requests
        return like is not None and len(requests) == 1 and like.is_reproduced_by(requests[0].settings)

    @property
    def place_in_batch(self) -> tuple[int, int]:
        """(place, size) of a reproduced image in its original batch, because the last bits of an image can depend on them."""
        return self.like.info.place_in_batch if self.like and self.is_reproduction else (0, 1)
