"""Masks of every kind that people draw, against masks made by hand and diffusers' pipeline."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from test_inpainting import mask_picture
from test_sampler import OPTIONS, picture

from customize import families
from customize.errors import InputError
from customize.inference.masks import levels, open_mask
from customize.inference.pipeline import Pipeline

SIZE = (16, 16)
SOFT = Image.fromarray(np.tile(np.linspace(0, 255, 16).round().astype(np.uint8), (16, 1)))


def sharp() -> np.ndarray:
    return np.asarray(mask_picture())


def drawn(ink, alpha: np.ndarray, hidden: int = 0) -> Image.Image:
    """RGBA: `ink` (a colour, or pixels) wherever `alpha` is above 0; `hidden` is the colour of what is transparent."""
    pixels = np.full((*alpha.shape, 4), hidden, np.uint8)
    pixels[..., :3] = np.where(alpha[..., None] > 0, np.asarray(ink, np.uint8), pixels[..., :3])
    pixels[..., 3] = alpha
    return Image.fromarray(pixels)


def palette(transparent: int) -> Image.Image:
    """White on black with a palette, one entry of which is transparent."""
    image = Image.fromarray((sharp() // 255).astype(np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.info["transparency"] = transparent
    return image


def sixteen_bits(mask: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(mask).astype(np.uint16) * 257)


def oriented(mask: Image.Image, folder) -> Image.Image:
    """The mask as a camera's file: turned, with the EXIF orientation that turns it back."""
    exif = Image.Exif()
    exif[274] = 6
    mask.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    return Image.open(folder / "turned.png")


PHOTO = np.random.default_rng(5).integers(0, 256, (16, 16, 3), dtype=np.uint8)
OWN = np.asarray(picture())
FORMS = {  # a drawing -> the mask that it means
    "white on black": (lambda: mask_picture(), sharp),
    "white on black, RGB": (lambda: mask_picture().convert("RGB"), sharp),
    "white on black, RGBA": (lambda: mask_picture().convert("RGBA"), sharp),
    "one bit": (lambda: mask_picture().convert("1"), sharp),
    "16 bits": (lambda: sixteen_bits(mask_picture()), sharp),
    "16 bits, soft": (lambda: sixteen_bits(SOFT), lambda: np.asarray(SOFT)),
    "palette": (lambda: palette(9), sharp),
    "palette, black transparent": (lambda: palette(0), sharp),
    "palette, white transparent": (lambda: palette(1), sharp),
    "white on transparency": (lambda: drawn(255, sharp()), sharp),
    "white on white transparency": (lambda: drawn(255, sharp(), hidden=255), sharp),
    "white on transparency, LA": (lambda: drawn(255, sharp()).convert("LA"), sharp),
    "white on transparency, PA": (lambda: drawn(255, sharp()).convert("LA").convert("PA"), sharp),
    "a soft white brush on transparency": (lambda: drawn(255, np.asarray(SOFT)), lambda: np.asarray(SOFT)),
    "grey on transparency": (lambda: drawn(200, sharp()), lambda: np.where(sharp() > 0, 200, 0)),
    "red on transparency": (lambda: drawn((220, 20, 30), sharp()), sharp),
    "black with a hole": (lambda: drawn(0, 255 - sharp()), sharp),
    "black with a soft hole": (lambda: drawn(0, 255 - np.asarray(SOFT), hidden=255), lambda: np.asarray(SOFT)),
    "another image with a hole": (lambda: drawn(PHOTO, 255 - sharp()), sharp),
    "the very image with a hole": (lambda: drawn(OWN, 255 - sharp()), sharp),
    "its grey image with a hole": (
        lambda: drawn(np.asarray(picture().convert("L").convert("RGB")), 255 - sharp()), sharp),
    "soft": (lambda: SOFT, lambda: np.asarray(SOFT)),
    "JPEG": (lambda: mask_picture().convert("RGB"), sharp),
}  # fmt: skip
TOLD = {
    "red on transparency": "has one colour on transparency",
    "black with a hole": "is black with transparent parts",
    "black with a soft hole": "is black with transparent parts",
    "palette, white transparent": "is black with transparent parts",
    "another image with a hole": "is an image with transparent parts",
    "the very image with a hole": "is an image with transparent parts",
    "its grey image with a hole": "is an image with transparent parts",
}


def saved(image: Image.Image, path) -> str:
    options = {"transparency": image.info["transparency"]} if image.mode == "P" else {}
    image.save(path, "TIFF" if image.mode == "PA" else None, **options)
    return str(path)


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_means_what_was_drawn(form, tmp_path):
    make, expected = FORMS[form]
    path = saved(make(), tmp_path / ("mask.jpg" if form == "JPEG" else "mask.tif" if "PA" in form else "mask.png"))
    image = picture().convert("L").convert("RGB") if "its grey" in form else picture()
    mask, notes = open_mask(path, False, 0, image)
    assert mask.mode == "L" and mask.size == SIZE
    assert np.abs(np.asarray(mask).astype(int) - expected()).max() <= 1
    reported = [note for note in notes if "--mask_invert regenerates" not in note]
    assert len(reported) == (form in TOLD) and TOLD.get(form, "") in "".join(reported)
    inverted, _ = open_mask(path, True, 0, image)
    assert np.array_equal(np.asarray(inverted), 255 - np.asarray(mask))


def test_an_oriented_mask_is_turned_as_its_image(tmp_path):
    oriented(mask_picture(), tmp_path)
    assert np.array_equal(np.asarray(open_mask(str(tmp_path / "turned.png"), False, 0, picture())[0]), sharp())


def test_a_mask_of_another_size_is_scaled_and_stays_sharp(tmp_path):
    mask_picture().resize((160, 160), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    mask, notes = open_mask(str(tmp_path / "large.png"), False, 0, picture())
    assert np.array_equal(np.asarray(mask), sharp())
    assert notes == [f"{tmp_path}/large.png has 160 x 160 pixels; it is scaled to the image's 16 x 16"]


def test_blur_is_pillow_s_gaussian(tmp_path):
    mask_picture().save(tmp_path / "mask.png")
    mask, _ = open_mask(str(tmp_path / "mask.png"), False, 1.5, picture())
    assert np.array_equal(np.asarray(mask), np.asarray(mask_picture().filter(ImageFilter.GaussianBlur(1.5))))
    with pytest.raises(InputError, match="a blur of .* pixels leaves no part"):
        open_mask(str(tmp_path / "mask.png"), False, 100, picture())


@pytest.mark.parametrize(("mask", "invert", "words"), [
    (Image.new("L", SIZE), False, "nothing is white"), (Image.new("L", SIZE, 255), True, "nothing is black"),
    (Image.new("RGBA", SIZE), False, "completely transparent"), (drawn(100, sharp()), False, "nothing is white"),
    (Image.new("L", (24, 16), 255), False, "has 24 x 16 pixels, the image 16 x 16"),
])  # fmt: skip
def test_a_mask_that_selects_nothing_is_refused(mask, invert, words, tmp_path):
    mask.save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=words):
        open_mask(str(tmp_path / "mask.png"), invert, 0, picture())


@pytest.mark.parametrize(("mask", "words"), [
    (Image.new("L", SIZE, 255), "is completely white: the whole image is regenerated"),
    (Image.fromarray(np.where(np.arange(256).reshape(SIZE) < 240, 255, 0).astype(np.uint8)), "regenerates 94% of the image"),
])  # fmt: skip
def test_a_note_reports_a_mask_that_selects_nearly_everything(mask, words, tmp_path):
    mask.save(tmp_path / "mask.png")
    assert words in open_mask(str(tmp_path / "mask.png"), False, 0, picture())[1][0]


@pytest.fixture(scope="module")
def both(tiny_epsilon):
    stock = diffusers.StableDiffusionInpaintPipeline.from_pretrained(tiny_epsilon, safety_checker=None)
    stock.scheduler = diffusers.DDIMScheduler.from_config(stock.scheduler.config, clip_sample=False, steps_offset=1)
    stock.set_progress_bar_config(disable=True)
    return Pipeline(families.load(families.locate(str(tiny_epsilon)))), stock


def latents(pipeline: Pipeline, mask: Image.Image) -> torch.Tensor:
    options = {**OPTIONS, "image": picture(), "mask_image": mask, "scheduler": "DDIMScheduler"}
    return pipeline.generate("a photo of a dog", seeds=7, **options)


def reference(stock, mask: np.ndarray) -> torch.Tensor:
    """diffusers' pipeline with a mask made by hand, soft where that is."""
    stock.mask_processor.register_to_config(do_binarize=False)
    return stock(
        "a photo of a dog", image=picture(), mask_image=Image.fromarray(mask.astype(np.uint8)), height=16, width=16, strength=1.0,
        generator=torch.Generator().manual_seed(7), **OPTIONS,
    ).images  # fmt: skip


@pytest.mark.parametrize("form", [
    "white on transparency", "a soft white brush on transparency", "black with a hole", "the very image with a hole", "soft",
    "grey on transparency", "palette, black transparent", "16 bits, soft",
])  # fmt: skip
def test_latents_equal_those_of_a_mask_made_by_hand(both, form):
    pipeline, stock = both
    make, expected = FORMS[form]
    image = make()
    mask = levels(image, picture())[0] if image.mode != "I;16" else SOFT
    torch.testing.assert_close(latents(pipeline, mask), reference(stock, expected()), rtol=0, atol=1e-4)
    if image.mode in ("RGBA", "LA"):
        torch.testing.assert_close(latents(pipeline, image), reference(stock, expected()), rtol=0, atol=1e-4)


def test_a_soft_mask_mixes_the_pixels(both):
    (made,) = both[0].generate("a dog", seeds=1, num_inference_steps=2, image=picture(), mask_image=SOFT)
    (alone,) = both[0].generate("a dog", seeds=1, num_inference_steps=2, image=picture(), mask_image=SOFT.point(lambda v: v))
    assert np.array_equal(np.asarray(made), np.asarray(alone))
    known = np.asarray(SOFT) == 0
    assert np.array_equal(np.asarray(made)[known], np.asarray(picture())[known])
