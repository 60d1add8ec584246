"""Views: each undone to the last bit, the orthogonal ones proven so, and each against what its name says."""

import pytest
import torch
from torch import Tensor

from customize.errors import InputError
from customize.inference.illusions.motions import enlarged
from customize.inference.illusions.transformations import View
from customize.inference.illusions.views import VIEWS, parse_view

PERMUTATIONS = [
    "identity", "flip", "rotate_90_cw", "rotate_90_ccw", "rotate_180", "skew", "skew:slope=-0.3", "patch_permute",
    "patch_permute:patches=4,seed=3", "pixel_permute", "pixel_permute:patches=16", "inner_circle",
    "inner_circle:degrees=90,radius=0.5", "square_hinge", "jigsaw", "jigsaw:seed=7",
]  # fmt: skip
LESSONS = ["white_balance", "blur"]


def picture(side: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side), dtype=dtype)


def numbers(side: int) -> Tensor:
    """Every pixel another value: [1, 1, side, side]."""
    return torch.arange(side * side, dtype=torch.float64).view(1, 1, side, side)


def fits(text: str, side: int) -> bool:
    return text != "pixel_permute" or side >= 64


@pytest.mark.parametrize("side", [16, 32, 64])
@pytest.mark.parametrize("text", [*PERMUTATIONS, "negate"])
def test_the_inverse_undoes_every_bit_both_ways(text, side):
    if not fits(text, side):
        with pytest.raises(InputError, match=f"does not support the size {side} x {side}"):
            parse_view(text)(picture(side))
        return
    view = parse_view(text)
    for dtype in (torch.float16, torch.float32, torch.float64):
        tensor = picture(side, dtype)
        assert torch.equal(view.inverse(view(tensor)), tensor)
        assert torch.equal(view(view.inverse(tensor)), tensor)
        assert view(tensor).dtype == dtype and view(tensor).shape == tensor.shape


@pytest.mark.parametrize("text", PERMUTATIONS)
def test_a_permutation_shows_every_pixel_once_and_equally_in_all_channels(text):
    view = parse_view(text)
    shown = view(numbers(64))
    assert torch.equal(shown.flatten().sort().values, numbers(64).flatten())
    assert view.permutes and view.orthogonal and view.name == text.partition(":")[0]
    if text != "identity":
        assert not torch.equal(shown, numbers(64))
    both = view(numbers(64).expand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last))
    assert torch.equal(both, shown.expand_as(both))
    assert torch.equal(view.inverse(both), numbers(64).expand_as(both))


@pytest.mark.parametrize("text", [*PERMUTATIONS[:-2], "jigsaw", "negate", *LESSONS])
def test_a_motion_begins_with_the_image_and_ends_with_the_view(text):
    view, image = parse_view(text), picture(16 if fits(text, 16) else 64)[:1]
    first, between, last = (view.moved(image, fraction, 2) for fraction in (0.0, 0.4, 1.0))
    assert torch.equal(first, enlarged(image, 2)) and torch.equal(last, enlarged(view(image), 2))
    assert text == "identity" or not (torch.equal(between, first) or torch.equal(between, last))


def test_a_motion_turns_and_folds_and_slides():
    image = picture(16)
    half_way = VIEWS["rotate_180"]().moved(image, 0.5, 4)
    assert torch.equal(half_way, enlarged(image.rot90(1, (2, 3)), 4)), "half of half a turn is a quarter"
    eighth = VIEWS["rotate_90_cw"]().moved(image, 0.5, 4)
    assert (eighth[..., 0, 0] == 1).all() and (eighth[..., 32, 2] != 1).all(), "it stands on a corner, within its square"
    folded = VIEWS["flip"]().moved(image, 0.25, 4)
    assert (folded[..., :14, :] == 1).all() and (folded[..., -14:, :] == 1).all() and (folded[..., 17:-17, :] != 1).all()
    hinge = VIEWS["square_hinge"]().moved(picture(24), 0.5, 4)
    middles = hinge[..., 16::32, 16::32]
    assert torch.equal(middles.flatten(), picture(24)[..., 4::8, 4::8].flatten()), "squares turn in their places"
    assert (hinge[..., 2::32, 2::32] == 1).all(), "and have left the corners of these"


def test_a_picture_that_is_not_square_moves_too():
    image = torch.randn(1, 3, 8, 16, dtype=torch.float64)
    for name in ("flip", "rotate_180", "skew", "patch_permute"):
        assert torch.equal(VIEWS[name]().moved(image, 1.0, 3), enlarged(VIEWS[name]()(image), 3))


def matrix(view: View, side: int) -> Tensor:
    """A view of one channel as the matrix [side^2, side^2] that it is."""
    basis = torch.eye(side * side, dtype=torch.float64).view(side * side, 1, side, side)
    return view(basis).flatten(1).T


@pytest.mark.parametrize("name", VIEWS)
def test_orthogonal_equals_the_matrix_property(name):
    """Geng, Park & Owens 2024: a view is a matrix A with A^T A = 1, so that it keeps norms (Parseval) and white noise."""
    view = parse_view("pixel_permute:patches=16" if name == "pixel_permute" else name)
    a = matrix(view, 16)
    tensor = picture(16)[:, :1]
    torch.testing.assert_close(view(tensor).flatten(1), tensor.flatten(1) @ a.T, rtol=1e-12, atol=1e-12)  # it is linear
    assert torch.equal(a.T @ a, torch.eye(256, dtype=torch.float64)) == view.orthogonal == (name not in LESSONS)
    assert bool((view(tensor).norm() / tensor.norm() - 1).abs() < 1e-12) == view.orthogonal
    assert view.permutes == (name not in ["negate", *LESSONS])


def test_turns_and_flips_are_those_of_pillow():
    from PIL import Image

    pixels = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    image, transpose = Image.fromarray(pixels[0, 0].numpy()), Image.Transpose
    expected = {
        "flip": image.transpose(transpose.FLIP_TOP_BOTTOM), "rotate_180": image.transpose(transpose.ROTATE_180),
        "rotate_90_ccw": image.transpose(transpose.ROTATE_90), "rotate_90_cw": image.transpose(transpose.ROTATE_270),
    }  # fmt: skip
    for name, picture in expected.items():
        assert VIEWS[name]()(pixels)[0, 0].flatten().tolist() == list(picture.tobytes()), name


def test_skew_moves_each_column_by_its_distance_from_the_middle():
    tensor = picture(64)
    shown = VIEWS["skew"]()(tensor)
    for column, down in [(0, -48), (31, -1), (32, 0), (33, 1), (34, 3), (63, 46)]:
        assert torch.equal(shown[..., column], tensor[..., column].roll(down, -1))


def test_patches_move_as_blocks():
    tensor, view = picture(32), VIEWS["patch_permute"](patches=4, seed=1)
    before, after = (
        [t[..., y : y + 8, x : x + 8] for y in range(0, 32, 8) for x in range(0, 32, 8)] for t in (tensor, view(tensor))
    )
    places = [next(i for i, tile in enumerate(before) if torch.equal(tile, shown)) for shown in after]
    assert sorted(places) == list(range(16)) != places
    assert torch.equal(view(tensor), VIEWS["patch_permute"](patches=4, seed=1)(tensor)), "the seed decides"
    assert not torch.equal(view(tensor), VIEWS["patch_permute"](patches=4, seed=2)(tensor))


@pytest.mark.parametrize("side", [16, 33, 64])
def test_inner_circle_turns_a_disc_and_nothing_else(side):
    middle = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) ** 2
    inside = middle[:, None] + middle < (0.375 * side) ** 2
    tensor = picture(side)
    shown = VIEWS["inner_circle"]()(tensor)
    assert torch.equal(shown[..., ~inside], tensor[..., ~inside])
    assert torch.equal(shown[..., inside], tensor.rot90(2, (2, 3))[..., inside])
    for degrees in (90, 270):
        turned = VIEWS["inner_circle"](degrees=degrees)(tensor)
        assert torch.equal(turned[..., inside], tensor.rot90(degrees // 90, (2, 3))[..., inside])
    with pytest.raises(InputError, match="135 degrees"):
        VIEWS["inner_circle"](degrees=135)(tensor)


def test_square_hinge_turns_neighbours_against_each_other():
    tensor = picture(16)
    shown = VIEWS["square_hinge"]()(tensor)
    assert torch.equal(shown[..., :5, :5], tensor[..., :5, :5].rot90(-1, (2, 3)))
    assert torch.equal(shown[..., :5, 5:10], tensor[..., :5, 5:10].rot90(1, (2, 3)))
    assert torch.equal(shown[..., 15:], tensor[..., 15:])


@pytest.mark.parametrize("side", [4, 8, 12, 16, 20, 36, 64, 100, 128])
def test_a_jigsaw_is_a_permutation_at_every_size(side):
    for seed in range(3):
        view = VIEWS["jigsaw"](seed=seed)
        assert torch.equal(view(numbers(side)).flatten().sort().values, numbers(side).flatten())


def test_jigsaw_pieces_move_with_their_knobs():
    """Neighbours in a piece stay neighbours; pieces of a kind go to places of that kind, most of them turned."""
    side = 64
    source = VIEWS["jigsaw"](seed=1)(numbers(side))[0, 0].long()
    y, x = source // side, source % side
    together = ((y.diff(dim=1).abs() + x.diff(dim=1).abs()) == 1).double().mean()
    assert together > 0.9, "only at the seams, 3 in 64 and those of the knobs, are neighbours from elsewhere"
    ring = [0, 1, 1, 0]
    for row in range(4):
        for column in range(4):
            from_row, from_column = y[row * 16 + 8, column * 16 + 8] // 16, x[row * 16 + 8, column * 16 + 8] // 16
            assert ring[row] + ring[column] == ring[from_row] + ring[from_column]
    steps = y.diff(dim=1).abs() + x.diff(dim=1).abs()
    assert (steps[8, 15:19] == 1).all(), "across the straight cut at 16 there is a knob of the piece at the left above"
    assert steps[2, 15] > 1, "further up there is none, but a seam"


@pytest.mark.parametrize(
    ("text", "shape", "words"),
    [
        ("rotate_90_cw", (8, 16), "8 x 16"), ("jigsaw", (18, 18), "multiple of 4"), ("square_hinge", (9, 12), "square"),
        ("patch_permute", (20, 24), "divide"), ("patch_permute:patches=0", (8, 8), "divide"), ("inner_circle", (8, 4), "square"),
        ("blur", (12, 12), "factor=2"),
    ],
)  # fmt: skip
def test_sizes_that_a_view_does_not_support_are_refused(text, shape, words):
    with pytest.raises(InputError, match=words):
        parse_view(text)(torch.zeros(1, 3, *shape))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("flipp", "did you mean flip"), ("kaleidoscope", "use one of identity, flip"), ("flip:seed=3", "flip takes nothing"),
        ("patch_permute:seed=x", "takes patches=8, seed=0"), ("patch_permute:tiles=4", "takes patches=8"),
        ("skew:2", "slope=1.5"),
    ],
)  # fmt: skip
def test_unknown_views_and_options_are_reported(text, words):
    with pytest.raises(InputError, match=words) as caught:
        parse_view(text)
    assert caught.value.problems[0].where == "views"


def test_views_that_do_not_need_a_square():
    tensor = torch.randn(1, 4, 16, 24, dtype=torch.float64)
    for name in ("identity", "flip", "rotate_180", "skew", "patch_permute", "negate"):
        view = VIEWS[name]()
        assert torch.equal(view.inverse(view(tensor)), tensor)


def test_the_lesson_views_change_the_noise():
    noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert VIEWS["white_balance"]()(noise).std() == pytest.approx(1.5, rel=0.02)
    seen = VIEWS["blur"]()(noise)
    assert seen.std() < 0.2 and (seen[..., 1:] * seen[..., :-1]).mean() > 0.8 * seen.var()
    torch.testing.assert_close(VIEWS["white_balance"]().inverse(VIEWS["white_balance"]()(noise)), noise)
    assert VIEWS["blur"]().inverse(noise) is noise
