"""Views: transformations of an image, under each of which an illusion shows something else.

Geng, Park & Owens 2024, "Visual Anagrams: Generating Multi-View Optical Illusions with Diffusion Models". By its
"conditions on views", a view is invertible, linear (so that the result is alpha * clean + sigma * noise again) and orthogonal
(so that the noise is standard normal again). All but `blur` and `white_balance` are, and are inverted to the last bit. To add
one, write a function here and decorate it: of a permutation, it says which pixel moves where, and how its piece turns (see
`Permutation.rule`), from which also follow its inverse and its animation. H W height and width.
"""

import difflib
from collections.abc import Callable
from functools import wraps
from inspect import signature
from itertools import product

import torch
from torch import Tensor

from customize.diffusion import rng
from customize.errors import InputError, Problem
from customize.inference.illusions.transformations import Blur, Permutation, Scale, View, unfit

VIEWS: dict[str, Callable[..., View]] = {}


def offered(make: Callable[..., View]) -> Callable[..., View]:
    """Registers a function that returns a view, under its own name."""
    VIEWS[make.__name__] = make
    return make


def permutation(rule: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Registers the view of a rule (see `Permutation`) with its options, under the rule's name."""
    offered(wraps(rule)(lambda **options: Permutation(rule.__name__, rule, tuple(options.items()))))
    return rule


def parse_view(text: str) -> View:
    """Parses a view, with optional options: "flip", "patch_permute:patches=4,seed=3". Raises InputError."""
    name, _, rest = text.partition(":")
    if name not in VIEWS:
        near = difflib.get_close_matches(name, VIEWS, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"use one of {', '.join(VIEWS)}"
        raise InputError(Problem("views", f"unknown view {name!r}", remedy))
    known = {p.name: p.default for p in signature(VIEWS[name]).parameters.values() if p.default is not p.empty}
    options = {}
    for option in filter(None, rest.split(",")):
        key, _, value = option.partition("=")
        try:
            options[key] = type(known[key])(value)
        except (KeyError, ValueError) as error:
            takes = ", ".join(f"{key}={default}" for key, default in known.items()) or "nothing"
            raise InputError(Problem("views", f"invalid option {option!r} in {text!r}", f"{name} takes {takes}")) from error
    return VIEWS[name](**options)


def turned(grid: Tensor, quarters: int) -> Tensor:
    """A grid, or a square part of one, turned counterclockwise; see `Permutation.rule`."""
    return grid.rot90(quarters) + torch.tensor([0, quarters])


def square(grid: Tensor, name: str, unit: int = 1) -> int:
    """The side of a square grid [H, W, 2]. Raises InputError unless it is square and its side a multiple of `unit`."""
    height, width = grid.shape[:2]
    if height != width or height % unit:
        raise unfit(name, grid[..., 0], f"use a square size, a multiple of {unit}" if unit > 1 else "use a square size")
    return height


@permutation
def identity(grid: Tensor) -> Tensor:
    """Unchanged."""
    return grid


@permutation
def flip(grid: Tensor) -> Tensor:
    """Mirrored top to bottom."""
    return grid.flip(0)


@permutation
def rotate_90_cw(grid: Tensor) -> Tensor:
    """A quarter turn clockwise."""
    square(grid, "rotate_90_cw")
    return turned(grid, -1)


@permutation
def rotate_90_ccw(grid: Tensor) -> Tensor:
    """A quarter turn counterclockwise."""
    square(grid, "rotate_90_ccw")
    return turned(grid, 1)


@permutation
def rotate_180(grid: Tensor) -> Tensor:
    """Upside down."""
    return turned(grid, 2)


@permutation
def skew(grid: Tensor, slope: float = 1.5) -> Tensor:
    """Each column is shifted down by `slope` pixels more than the one before it, around the middle column; pixels wrap around.

    A slope looks the same at every size: the paper's 1.5 moves the outermost columns by 48 at 64 pixels, and by 96 at 128.
    """
    middle = grid.shape[1] // 2
    columns = [column.roll(int(slope * (i - middle)), 0) for i, column in enumerate(grid.unbind(1))]
    return torch.stack(columns, 1)


@permutation
def patch_permute(grid: Tensor, patches: int = 8, seed: int = 0) -> Tensor:
    """Shuffled patches, `patches` along a side."""
    height, width = grid.shape[:2]
    if patches < 1 or height % patches or width % patches:
        raise unfit(
            f"a permutation of {patches} x {patches} patches", grid[..., 0], "use a number of patches that divides the sides"
        )
    tiles = grid.view(patches, height // patches, patches, width // patches, 2).transpose(1, 2)
    shuffled = tiles.flatten(0, 1)[list(rng.permutation(patches**2, seed, "patches", 0))]
    return shuffled.view_as(tiles).transpose(1, 2).reshape(grid.shape)


@permutation
def pixel_permute(grid: Tensor, patches: int = 64, seed: int = 0) -> Tensor:
    """`patch_permute` with patches of one pixel at 64 x 64; smaller tensors need fewer patches."""
    return patch_permute(grid, patches, seed)


@permutation
def inner_circle(grid: Tensor, degrees: int = 180, radius: float = 0.375) -> Tensor:
    """Rotates the central disc counterclockwise. radius: as a fraction of the side; 0.5 is the inscribed circle.

    The default is the authors' (half a turn, 24 pixels of 64); quarter turns are exact too. Other angles raise InputError:
    they would need interpolation, one of the views that fail in the paper.
    """
    side = square(grid, "inner_circle")
    if degrees % 90:
        raise InputError(Problem("views", f"inner_circle cannot rotate by {degrees} degrees", "use 90, 180 or 270"))
    squares = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) ** 2
    disc = squares[:, None] + squares < (radius * side) ** 2
    return torch.where(disc[..., None], turned(grid, degrees // 90), grid)


@permutation
def square_hinge(grid: Tensor) -> Tensor:
    """3 x 3 squares, rotated by a quarter, alternately clockwise and counterclockwise, as if hinged at their corners.

    If the side is not a multiple of 3, the remaining pixels at the right and bottom stay.
    """
    side = square(grid, "square_hinge") // 3
    shown = grid.clone()
    for row, column in product(range(3), repeat=2):
        place = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
        shown[place] = turned(grid[place], 1 if (row + column) % 2 else -1)
    return shown


RIGHT, LEFT, DOWN, UP, OUT, IN = (0, 1), (0, -1), (1, 0), (-1, 0), 1, -1
PIECES = {
    "corner": ((0, 0), {RIGHT: OUT, DOWN: IN}),
    "edge": ((0, 1), {LEFT: IN, RIGHT: OUT, DOWN: OUT}),
    "inner": ((1, 1), {UP: IN, LEFT: IN, RIGHT: OUT, DOWN: IN}),
}
"""One piece of each kind: its row and column of 4 x 4, and on which sides it has a knob (OUT) or a hole (IN)."""
OFFSET, RADIUS = 1 / 8, 5 / 32  # of a knob, in sides of a piece; binary fractions, so that a rotated knob is exact to the pixel


@permutation
def jigsaw(grid: Tensor, seed: int = 0) -> Tensor:
    """A jigsaw puzzle of 4 x 4 pieces, reassembled: every piece moves to a place of its kind, rotated to fit.

    Knobs run clockwise along the rim and around the middle, and from the rim inwards. The cut is therefore invariant under
    quarter turns, and both pieces of an edge have one shape: each of the 4 corner, 8 edge and 4 inner pieces fits every place of
    its kind.
    """
    side = square(grid, "jigsaw", 4)
    shown = grid.flatten(0, 1).clone()
    for kind in PIECES:
        piece = piece_mask(side, kind)
        steps = (0, side // 4) if kind == "edge" else (0,)
        places = torch.stack([turned(grid, turn).roll(-step, 1)[piece] for turn in range(4) for step in steps])
        (index, turns), moved = places.unbind(-1), places[list(rng.permutation(len(places), seed, kind, 0))]
        shown[index] = torch.stack([moved[..., 0], (moved[..., 1] - turns + 1) % 4 - 1], -1)
    return shown.view_as(grid)


def piece_mask(side: int, kind: str) -> Tensor:
    """[side, side], true inside the piece of this kind: its square plus its knobs, minus its holes."""
    unit = side // 4
    (row, column), knobs = PIECES[kind]
    y, x = torch.meshgrid(*2 * [torch.arange(side, dtype=torch.float64) + 0.5], indexing="ij")
    piece = (y // unit == row) & (x // unit == column)
    for (down, right), sense in knobs.items():
        reach = 0.5 + sense * OFFSET
        centre_y, centre_x = (row + 0.5 + down * reach) * unit, (column + 0.5 + right * reach) * unit
        knob = (y - centre_y) ** 2 + (x - centre_x) ** 2 < (RADIUS * unit) ** 2
        piece = piece | knob if sense == OUT else piece & ~knob
    return piece


@offered
def negate() -> View:
    """Inverted colours. Orthogonal, but for pixels only (see `View.permutes`)."""
    return Scale("negate", -1.0, orthogonal=True)


@offered
def white_balance(factor: float = 1.5) -> View:
    """Brighter, as in another light. For lessons: the transformed noise is `factor` times too strong."""
    return Scale("white_balance", factor)


@offered
def blur(factor: int = 8) -> View:
    """As seen from far away. For lessons: the transformed noise is too weak and correlated, and the view is not invertible."""
    return Blur("blur", factor)
