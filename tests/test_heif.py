"""HEIC and AVIF: upright once, in sRGB, bounded, and never another image than the one that is meant."""

import io
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from corpus import UPRIGHT, encoded
from PIL import Image
from test_colour import P3, expected, opened, profile

from customize.data.examples import load_examples
from customize.data.images.image_file import MAX_PIXELS, open_image
from customize.errors import InputError
from customize.methods import DreamBoothSettings

FLAT = np.repeat(np.repeat(np.random.default_rng(0).integers(30, 220, (6, 8, 3)).astype(np.uint8), 16, 0), 16, 1)


def heic(pixels: np.ndarray | Image.Image, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    options = {"quality": -1, "chroma": 444, "matrix_coefficients": 0, **options}
    pillow_heif.from_pillow(image).save(buffer, **options)
    return buffer.getvalue()


def avif(pixels: np.ndarray, **options) -> bytes:
    return encoded(pixels, "AVIF", **{"quality": 100, "subsampling": "4:4:4", **options})


def near(pixels: np.ndarray, reference: np.ndarray, levels: float = 3) -> bool:
    return pixels.shape == reference.shape and float(np.abs(pixels - reference.astype(float)).max()) <= levels


@pytest.mark.parametrize("kind", [heic, avif])
def test_pixels(kind):
    pixels, remarks = opened(kind(FLAT))
    assert near(pixels, FLAT) and remarks == []


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", [heic, avif])
def test_orientation_is_obeyed_once(kind, orientation):
    """HEIF turns by irot and imir, and repeats it in EXIF: who obeys both turns twice."""
    tags = Image.Exif()
    tags[274] = orientation
    pixels, _ = opened(kind(FLAT, exif=tags.tobytes()) if kind is heic else kind(FLAT, exif=tags))
    assert near(pixels, UPRIGHT[orientation](FLAT))


@pytest.mark.parametrize("kind", [heic, avif])
def test_profile(kind):
    image = Image.fromarray(FLAT)
    if kind is heic:
        image.info["icc_profile"] = profile("DisplayP3-v4")
        pixels, remarks = opened(heic(image))
    else:
        pixels, remarks = opened(avif(FLAT, icc_profile=profile("DisplayP3-v4")))
    plain, _ = opened(kind(FLAT))
    assert near(pixels, expected(plain, P3), 1.01) and remarks[0].startswith("colours converted from ")


def test_colours_in_numbers():
    """nclx 12/13 is Display P3, as some phones write it."""
    data = avif(FLAT)
    place = data.index(b"colrnclx") + 8
    plain, _ = opened(data)
    pixels, remarks = opened(data[:place] + b"\0\x0c\0\x0d" + data[place + 4 :])
    assert near(pixels, expected(plain, P3), 1.01) and remarks == ["colours converted from Display P3 to sRGB"]
    hdr, remarks = opened(data[:place] + b"\0\x09\0\x10" + data[place + 4 :])
    assert np.array_equal(hdr, plain) and "HDR (PQ)" in remarks[0]
    phone = heic(FLAT, color_primaries=12, transfer_characteristics=13, full_range_flag=1, save_nclx_profile=True)
    assert near(opened(phone)[0], expected(FLAT, P3), 4)


def test_the_primary_image_of_several_is_read():
    """As in bursts and portraits: more images, previews and depth beside the one that is meant."""
    file = pillow_heif.HeifFile()
    for pixels in (FLAT[::-1].copy(), FLAT, FLAT[:, ::-1].copy()):
        file.add_from_pillow(Image.fromarray(pixels))
    buffer = io.BytesIO()
    file.save(buffer, quality=-1, chroma=444, matrix_coefficients=0, primary_index=1)
    assert near(opened(buffer.getvalue())[0], FLAT)


def test_transparency_and_ten_bits():
    alpha = np.zeros((*FLAT.shape[:2], 1), np.uint8)
    alpha[:48] = 255
    for kind in (heic, avif):
        pixels, _ = opened(kind(np.dstack([FLAT, alpha])))
        assert near(pixels[:40], FLAT[:40]) and (pixels[56:] == 255).all()
    deep = pillow_heif.from_bytes("RGB;16", (128, 96), (FLAT.astype(np.uint16) * 257).tobytes())
    buffer = io.BytesIO()
    deep.save(buffer, quality=-1, chroma=444, matrix_coefficients=0)
    assert near(opened(buffer.getvalue())[0], FLAT)


def test_sequences_are_refused():
    with pytest.raises(InputError, match="HEIF sequence"):
        open_image(heic(FLAT)[:8] + b"hevc" + heic(FLAT)[12:])


@pytest.mark.parametrize("kind", [heic, avif])
def test_truncated_and_damaged_files_are_refused_or_intact(kind):
    data = kind(FLAT)
    plain, _ = opened(data)
    for length in (12, 40, len(data) // 4, len(data) // 2, len(data) - 20):
        with pytest.raises(InputError):
            open_image(data[:length])
    random = np.random.default_rng(9)
    for place in random.integers(0, 400, 60):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(random.integers(8))
        try:
            open_image(bytes(damaged))
        except InputError as error:
            assert len(error.problems) == 1


def test_size_is_judged_before_decoding():
    data = bytearray(heic(FLAT))
    while (place := data.find(b"ispe")) >= 0:
        data[place : place + 16] = b"ISPE" + bytes(4) + (30000).to_bytes(4) * 2
    data = data.replace(b"ISPE", b"ispe")
    with pytest.raises(InputError) as caught:
        open_image(bytes(data))
    assert f"{MAX_PIXELS:,}" in str(caught.value) or "damaged" in str(caught.value)


def test_without_pillow_heif_the_report_has_the_remedy(monkeypatch):
    data = heic(FLAT)
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    with pytest.raises(InputError) as caught:
        open_image(data, "IMG_1.HEIC")
    assert "IMG_1.HEIC: is a HEIC image" in str(caught.value) and "pip install pillow-heif" in str(caught.value)


def test_a_folder_from_a_phone(tmp_path: Path):
    """HEIC, one of them under the name of a JPEG as messengers leave it, beside live photos and edits."""
    (tmp_path / "IMG_0001.HEIC").write_bytes(heic(FLAT))
    (tmp_path / "IMG_0002.jpg").write_bytes(heic(FLAT[::-1].copy()))
    (tmp_path / "IMG_0003.avif").write_bytes(avif(FLAT[:, ::-1].copy()))
    Image.fromarray(FLAT[::-1, ::-1].copy()).save(tmp_path / "IMG_0004.JPG")
    (tmp_path / "IMG_0001.MOV").write_bytes(b"\0\0\0\x14ftypqt  ")
    (tmp_path / "IMG_0001.AAE").write_text("<?xml version='1.0'?>")
    examples = load_examples(DreamBoothSettings(instance_prompt="sks dog", instance_data_dir=str(tmp_path)))
    assert [example.name for example in examples.instances] == ["IMG_0001.HEIC", "IMG_0002.jpg", "IMG_0003.avif", "IMG_0004.JPG"]
    assert [example.size for example in examples.instances] == [(128, 96)] * 4
    assert "ignored, not images (2): IMG_0001.AAE, IMG_0001.MOV" in examples.notes[-1]
