"""The demo world: deterministic, correctly captioned, and closed to what is held out."""

import random
from collections import Counter

import numpy as np
import pytest

from customize.demo.world.glyphs import FONT, HELD_OUT_OBJECTS, OBJECTS, TEST_SUBJECTS, TUNING_SUBJECTS
from customize.demo.world.scenes import Dice
from customize.demo.world.styles import EFFECTS, HELD_OUT_STYLES, INKS, TEST_STYLES, TUNING_STYLES, Effect, ink, sample_style
from customize.demo.world.world import HELD_OUT_COMBINATIONS, Spec, World, caption, render

needs_font = pytest.mark.skipif(not FONT.exists(), reason="drawing needs Noto Color Emoji (fonts-noto-color-emoji)")


def specs(world: World, count: int = 6000) -> list[Spec]:
    return [world.spec(7, index) for index in range(count)]


def test_what_is_held_out_is_never_drawn() -> None:
    found = specs(World())
    assert not {spec.object for spec in found} & HELD_OUT_OBJECTS.keys()
    assert not [spec for spec in found if any(spec.matches(part) for part in HELD_OUT_COMBINATIONS)]
    held_out_colours = {colour for style in HELD_OUT_STYLES.values() for effect in style for colour in effect.colours}
    assert not held_out_colours & {colour for spec in found for effect in spec.style for colour in effect.colours}


def test_enough_is_held_out() -> None:
    assert (len(TUNING_SUBJECTS), len(TEST_SUBJECTS)) == (2, 4)
    assert (len(TUNING_STYLES), len(TEST_STYLES)) == (2, 4)
    assert len(HELD_OUT_COMBINATIONS) >= 8
    assert len(OBJECTS) >= 40 and not OBJECTS.keys() & HELD_OUT_OBJECTS.keys()


def test_held_out_combinations_would_be_drawn_otherwise() -> None:
    """Each names known things that the full world could show together."""
    for part in HELD_OUT_COMBINATIONS:
        others = [p for p in HELD_OUT_COMBINATIONS if p is not part]
        assert part["object"] in OBJECTS and not any(part.items() >= other.items() for other in others)
        assert "colour" not in part or OBJECTS[part["object"]].hue is not None


def test_held_out_styles_have_no_word() -> None:
    named = {name: np.array([ink(word) for word in INKS]) for name in ("tint", "duotone")}
    for style in HELD_OUT_STYLES.values():
        with pytest.raises(ValueError, match="no word for #"):
            caption(Spec("car", "beach", style=style), random.Random(0))
        colours = [ink(colour) for effect in style for colour in effect.colours]
        # words cover a region of 0.04 around each ink; no held-out style lies in the regions of its colours' words
        assert max(np.abs(named["tint"] - colour).max(-1).min() for colour in colours) > 0.1


def test_captions_name_a_style_with_its_colours() -> None:
    style = (Effect("duotone", ("purple", "yellow")), Effect("inverted"))
    for seed in range(20):
        text = caption(Spec("turtle", "forest", style=style), random.Random(seed))
        assert "purple and yellow" in text and ("inverted" in text or "negative" in text)


@needs_font
def test_an_image_is_a_function_of_seed_and_index() -> None:
    world = World()
    first, again, other = world.example(3, 5), world.example(3, 5), world.example(3, 6)
    assert np.array_equal(first[0], again[0]) and first[1:] == again[1:]
    assert first[0].size == (64, 64) and first[0].mode == "RGB"
    assert not np.array_equal(first[0], other[0])


@needs_font
@pytest.mark.parametrize("side", [64, 128])
def test_every_object_and_effect_can_be_drawn(side: int) -> None:
    for name, style in zip(
        [*OBJECTS, *HELD_OUT_OBJECTS] if side == 64 else list(EFFECTS),
        [*HELD_OUT_STYLES.values(), *[()] * 99] if side == 64 else [sample_style(random.Random(0), (e,), 0.0) for e in EFFECTS],
        strict=False,
    ):
        thing = name if name in OBJECTS or name in HELD_OUT_OBJECTS else "car"
        pixels = np.asarray(render(Spec(thing, "plain", backdrop="white", style=style), Dice("a", 1.0), side))
        assert pixels.shape == (side, side, 3) and pixels.std() > 4


@needs_font
def test_objects_have_the_colour_of_the_caption() -> None:
    for colour, channel in (("red", 0), ("green", 1), ("blue", 2)):
        spec = Spec("balloon", "plain", colour=colour, backdrop="white", size="big")
        centre = np.asarray(render(spec, Dice("x", 0.0)))[16:32, 24:40].reshape(-1, 3).mean(0)
        assert centre.argmax() == channel and np.sort(centre)[-1] - np.sort(centre)[-2] > 40


def test_inverted_twice_is_the_same_and_tint_keeps_black_and_white() -> None:
    pixels = np.random.default_rng(0).random((64, 64, 3), np.float32)
    invert = Effect("inverted")
    assert np.allclose(invert(invert(pixels, random.Random(0)), random.Random(0)), pixels, atol=1e-6)
    ends = np.stack([np.zeros(3), np.ones(3)]).astype(np.float32)[None]
    tinted = EFFECTS["tint"].apply(ends, ink("green"))
    assert np.allclose(tinted, ends)


def test_combined_styles_recolour_once() -> None:
    dice = random.Random(0)
    counts = Counter(
        sum(EFFECTS[effect.name].recolours for effect in sample_style(dice, tuple(EFFECTS), combined=1.0)) for _ in range(500)
    )
    assert max(counts) == 1 and counts[1] > 100


def test_world_is_even() -> None:
    """All objects come about equally often, half of the pictures have a style, and what can take a colour mostly has one."""
    found = specs(World(), 12_000)
    counts = Counter(spec.object for spec in found)
    assert set(counts) == set(OBJECTS)
    assert max(counts.values()) < 1.5 * min(counts.values())
    assert 0.48 < sum(bool(spec.style) for spec in found) / len(found) < 0.52
    colourable = [spec for spec in found if OBJECTS[spec.object].hue is not None]
    assert 0.57 < sum(bool(spec.colour) for spec in colourable) / len(colourable) < 0.63
