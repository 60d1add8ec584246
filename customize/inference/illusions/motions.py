"""How an image moves from one reading of an illusion to another, as frames of an animation.

B images, C channels, H W height and width, P = H * W pixels. Places are complex: x + iy in pixels, y downwards.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PAPER = 1.0
"""The value of what no pixel covers: white."""
QUARTER_TURNS = torch.tensor([1, -1j, -1, 1j], dtype=torch.complex128)
"""The factors of a place under 0 to 3 quarter turns counterclockwise."""


def enlarged(image: Tensor, scale: int) -> Tensor:
    """[B, C, H, W] -> [B, C, scale * H, scale * W], each pixel repeated."""
    return image.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def receded(image: Tensor, size: float) -> Tensor:
    """[B, C, H, W], the image in the middle of a white one, at this fraction of its size."""
    down, across = (round(side * (1 - size) / 2) for side in image.shape[-2:])
    small = F.interpolate(image, (image.shape[-2] - 2 * down, image.shape[-1] - 2 * across), mode="area")
    return F.pad(small, (across, across, down, down), value=PAPER)


@dataclass(frozen=True)
class Pieces:
    """The pixels of an image in pieces, each of which moves as a whole.

    start: the place of each pixel, complex [P]; end: that in the view, [P]; quarters: the quarter turns on its way,
    counterclockwise, [P]; piece: the number of its piece [P], those that move furthest last.
    """

    start: Tensor
    end: Tensor
    quarters: Tensor
    piece: Tensor

    @classmethod
    def of(cls, grid: Tensor) -> "Pieces":
        """grid: see `Permutation.rule`. Pixels that one turn and shift takes to their places are one piece."""
        (height, width), (shown, quarters) = grid.shape[:2], grid.flatten(0, 1).unbind(-1)
        x, y = (torch.arange(side).double() + 0.5 for side in (width, height))
        start, place = (x + 1j * y[:, None]).flatten(), shown.argsort()
        end, quarters = start[place], quarters[place]
        shift = end - QUARTER_TURNS[quarters % 4] * start
        piece = numbered(shift.real, shift.imag, quarters)
        travel = (mean(end, piece) - mean(start, piece)).abs().round(decimals=6)
        return cls(start, end, quarters, numbered(travel, piece))

    def moved(self, image: Tensor, fraction: float, scale: int) -> Tensor:
        """[B, C, H, W] -> [B, C, scale * H, scale * W] with every piece at this fraction of its way.

        A piece slides along a straight line and turns about its middle. While it turns it shrinks, so that it is never wider or
        higher than it is on the way between the sides that it has at both ends.
        """
        middle, last = mean(self.start, self.piece), mean(self.end, self.piece)
        arm, turn = self.start - middle, torch.exp(-0.5j * torch.pi * fraction * self.quarters)
        still = torch.ones_like(turn)
        room = torch.lerp(reach(arm, still, self.piece), reach(self.end - last, still, self.piece), fraction)
        turn = turn * (room / reach(arm, turn, self.piece)).amin(0).clamp(max=1)
        place = middle + fraction * (last - middle) + turn * arm
        shown = topmost(place, turn, self.piece, image.shape[-2:], scale)
        return torch.cat([image.flatten(-2), torch.full_like(image[..., :1, 0], PAPER)], -1)[..., shown]


def topmost(place: Tensor, turn: Tensor, piece: Tensor, size: tuple[int, int], scale: int) -> Tensor:
    """Draws each pixel as a square around its place, turned and scaled by `turn`, in the order of the pieces.

    Returns [scale * H, scale * W]: the number of the pixel that is visible there, or P where there is none.
    """
    count, (height, width) = len(place), (scale * side for side in size)
    points = -(-3 * scale // 2)  # along a side of a pixel: enough to leave no gap in a turned one
    offset = (torch.arange(points).float() + 0.5) / points - 0.5
    square = (offset + 1j * offset[:, None]).flatten()
    drawn = torch.addcmul((scale * place).to(square)[:, None], (scale * turn).to(square)[:, None], square)
    x, y = drawn.real.floor().int(), drawn.imag.floor().int()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    spot = torch.where(inside, y * width + x, height * width).flatten().long()
    order = (piece * count + torch.arange(count))[:, None].expand_as(x).flatten()
    top = torch.full((height * width + 1,), -1).scatter_reduce(0, spot, order, "amax")[:-1]
    return torch.where(top < 0, count, top % count).view(height, width)


def numbered(*keys: Tensor) -> Tensor:
    """Numbers [P] of the different combinations of keys [P], in ascending order."""
    return torch.unique(torch.stack([key.double() for key in keys]), dim=1, return_inverse=True)[1]


def mean(place: Tensor, piece: Tensor) -> Tensor:
    """The mean place [P] of each pixel's piece."""
    sums = [torch.bincount(piece, part) for part in (place.real, place.imag)]
    return (torch.complex(*sums) / torch.bincount(piece))[piece]


def reach(arm: Tensor, turn: Tensor, piece: Tensor) -> Tensor:
    """Half the width and half the height [2, P] of each pixel's piece, turned by `turn` [P].

    arm: the place of the pixel as seen from the middle of its piece, complex [P].
    """
    sides = torch.view_as_real(turn * arm).abs().mT + torch.view_as_real(turn).abs().sum(1) / 2
    longest = torch.zeros(2, int(piece.max()) + 1, dtype=torch.float64)
    return longest.scatter_reduce(1, piece.expand_as(sides), sides, "amax")[:, piece]
