"""Augmented crops: their pixels against formulas in float64, and that they are functions of the draw."""

import colorsys
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from kit import prepared, settings_for, write_images
from PIL import Image

from customize.data.augmentation import Ranges, around_a_turned, augmented, training_crops
from customize.data.buckets import fits
from customize.data.crops import Variant, cut_out
from customize.data.images.colour_change import ColourChange
from customize.data.masked_crops import showing_the_subject
from customize.errors import InputError

RANGES = Ranges(0.3, 0.2, 0.5, 0.1, 30.0, 0.5)
CUTS = tuple(Variant((40, 24), left, 0, 24, 24, flip) for left in (0, 9, 16) for flip in (False, True))


def noise(size=(40, 24), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def test_colours_follow_their_formulas():
    pixels = noise()
    image, values = Image.fromarray(pixels), pixels.astype(np.float64)
    grey = values @ [0.299, 0.587, 0.114]
    expected = {
        ColourChange(brightness=1.3): values * 1.3,
        ColourChange(contrast=0.6): grey.mean() + (values - grey.mean()) * 0.6,
        ColourChange(saturation=1.5): grey[..., None] + (values - grey[..., None]) * 1.5,
    }
    for change, formula in expected.items():
        assert np.abs(np.asarray(change.of(image)) - formula.clip(0, 255)).max() < 2
    turned = np.asarray(ColourChange(hue=0.25).of(image)).astype(float)
    hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in values.reshape(-1, 3) / 255]
    formula = 255 * np.array([colorsys.hsv_to_rgb((h + 0.25) % 1, s, v) for h, s, v in hsv]).reshape(pixels.shape)
    assert np.abs(turned - formula).mean() < 3 and np.abs(turned - formula).max() < 12  # hues have 256 steps
    assert np.array_equal(np.asarray(ColourChange().of(image)), pixels)


@pytest.mark.parametrize("angle", [-30.0, 7.5, 45.0])
def test_a_turned_crop_samples_the_image_at_turned_places(angle):
    """On a slope, which bicubic interpolation keeps: the value at a place is known between pixels, too."""
    size = (60, 50)
    y, x = np.mgrid[0.5 : size[1], 0.5 : size[0]]
    slope = 20.5 + 2 * x + y  # whole numbers
    margins = around_a_turned(24, 16, angle)
    cut = Variant(size, margins[0] + 1, margins[1] + 2, 24, 16, False, angle)
    [found] = cut_out(Image.fromarray(slope.round().astype(np.uint8)), [cut], "lanczos")
    radians = math.radians(angle)
    row, column = np.mgrid[0.5:16, 0.5:24]
    dx, dy = column - 12, row - 8
    there_x = cut.left + 12 + math.cos(radians) * dx + math.sin(radians) * dy
    there_y = cut.top + 8 - math.sin(radians) * dx + math.cos(radians) * dy
    assert 0 <= there_x.min() and there_x.max() <= size[0] and 0 <= there_y.min() and there_y.max() <= size[1]
    assert np.abs(found - (20.5 + 2 * there_x + there_y)).max() < 1.5  # Pillow cuts off fractions
    [mirrored] = cut_out(Image.fromarray(slope.round().astype(np.uint8)), [replace(cut, flip=True)], "lanczos")
    assert np.array_equal(mirrored[:, ::-1], found)


@pytest.mark.parametrize("seed", range(20))
def test_augmented_crops_are_within_the_image(seed):
    for number, cuts in ((6, CUTS), (5, [Variant((24, 24), 0, 0, 24, 24, False)]), (4, [Variant((30, 47), 0, 3, 30, 40, False)])):
        found = augmented(f"{seed}.png", cuts, RANGES, number, seed % 2 == 0, seed)
        assert found[0] == cuts[0] and len(found) == number * len({cut.flip for cut in cuts}) and len({*found}) == len(found)
        white = Image.new("RGB", (3 * cuts[0].resized[0], 3 * cuts[0].resized[1]), "white")
        for cut in found:
            margins = around_a_turned(cut.width, cut.height, cut.angle)
            assert margins[0] <= cut.left <= cut.resized[0] - cut.width - margins[0]
            assert margins[1] <= cut.top <= cut.resized[1] - cut.height - margins[1]
            assert abs(cut.angle) <= 30 and (cut_out(white, [replace(cut, colours=None)], "lanczos") == 255).all()
            scale = cut.resized[1] / cuts[0].resized[1]
            least = max(1 + 2 * m / side for m, side in zip(margins, (cut.width, cut.height), strict=True)) if cut.angle else 1
            assert least <= scale + 1e-9 and scale <= least * 1.5 + 1 / 24 + 1e-9
        for cut in found[len({cut.flip for cut in cuts}) :]:
            factors = cut.colours.brightness - 1, cut.colours.contrast - 1, cut.colours.saturation - 1, cut.colours.hue
            assert all(0 < abs(factor) <= reach for factor, reach in zip(factors, RANGES[:4], strict=True))


def test_crops_are_a_function_of_seed_name_and_number():
    one = augmented("a.png", CUTS, RANGES, 6, False, 0)
    assert one == augmented("a.png", CUTS, RANGES, 6, False, 0) and one[:8] == augmented("a.png", CUTS, RANGES, 4, False, 0)
    for other in (augmented("b.png", CUTS, RANGES, 6, False, 0), augmented("a.png", CUTS, RANGES, 6, False, 1)):
        assert not {*one[2:]} & {*other[2:]}
    assert augmented("a.png", CUTS, Ranges(), 6, False, 0) == CUTS
    angles = [cut.angle for number in range(200) for cut in augmented(f"{number}", CUTS[:1], RANGES, 2, False, 0)[1:]]
    assert abs(np.mean(angles)) < 4 and abs(np.std(angles) - 30 / math.sqrt(3)) < 3


def test_a_run_trains_on_augmented_crops_and_masks_follow(tiny_epsilon, tmp_path):
    folder = write_images(tmp_path / "images", 1, (32, 32))
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :16] = 255
    Image.fromarray(mask).save(folder / "0-mask.png")
    changes = {"resolution": 16, "crop_variants": 6, "random_flip": False, "train_batch_size": 8, "masked_loss": True}
    augmentation = {"random_zoom": 0.5, "random_rotate": 20.0, "random_brightness": 0.2}
    settings = settings_for("lora", tiny_epsilon, folder, tmp_path / "run", **changes, **augmentation)
    context, training = prepared(settings)
    [image] = training.dataset.images
    shown = {tuple(stored.flatten().tolist()) for stored in image.stored.values()}
    assert len(shown) == len(image.stored) > 3
    [example] = context.examples.instances
    cuts = showing_the_subject(example, training_crops(settings, example, fits(settings, [example], 16)[0]))
    for variant, found in training.dataset.masks[0].items():
        [expected] = cut_out(Image.fromarray(mask), [cuts[variant]], "box")
        side = found.shape[-1]
        means = expected.reshape(side, 16 // side, side, 16 // side).mean((1, 3)) / 255
        np.testing.assert_allclose(found[0], means, rtol=1e-5, atol=1e-6)
    [batch], [again] = training.dataset.deal(2, range(8)), prepared(settings, first_step=2)[1].dataset.deal(2, range(8))
    assert torch.equal(batch.latents, again.latents) and torch.equal(batch.loss_mask, again.loss_mask)


def test_augmentation_without_further_crops_is_refused(tiny_epsilon, image_folder, tmp_path):
    with pytest.raises(InputError, match="crop_variants"):
        settings_for("lora", tiny_epsilon, image_folder, tmp_path, crop_variants=1, random_hue=0.1)
