import io
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from corpus import UPRIGHT
from PIL import Image, PngImagePlugin

from customize.data.images.image_file import INTERPOLATIONS, MAX_PIXELS, crop, open_image, resize, resized_size
from customize.errors import InputError

NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)  # not symmetric in any direction
LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}, "BMP": {}}


def encoded(image: Image.Image | np.ndarray, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format, **{**LOSSLESS.get(format, {}), **options})
    return buffer.getvalue()


def opened(source) -> np.ndarray:
    image = open_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def refusal(source, name: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        open_image(source, name)
    (problem,) = caught.value.problems
    assert name is None or problem.where == name
    assert problem.remedy and "\n" not in str(problem).replace("\n    -> ", "")
    return problem.what


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG written by hand. rows: the filter byte and the samples of each row."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, bits: int, photometric: int, data: bytes | None = None) -> bytes:
    """A little-endian grey TIFF written by hand."""
    height, width = pixels.shape
    data = pixels.astype("<u2").tobytes() if data is None else data
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(data))]]
    ifd = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + ifd


@pytest.mark.parametrize("format", LOSSLESS)
def test_a_plain_image_keeps_its_pixels(format):
    assert np.array_equal(opened(encoded(NOISE, format)), NOISE)


def test_all_sources_give_the_same_image(tmp_path):
    path = tmp_path / "a.picture"
    path.write_bytes(encoded(NOISE, "PNG"))
    for source in (path, str(path), path.read_bytes(), Image.fromarray(NOISE)):
        assert np.array_equal(opened(source), NOISE)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_obeyed(format, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    plain = opened(encoded(NOISE, format))
    assert np.array_equal(opened(encoded(NOISE, format, exif=exif)), UPRIGHT[orientation](plain))


def test_orientation_of_a_pillow_image_is_obeyed():
    exif = Image.Exif()
    exif[274] = 6
    image = Image.open(io.BytesIO(encoded(NOISE, "PNG", exif=exif)))
    assert np.array_equal(opened(image), UPRIGHT[6](NOISE))


@pytest.mark.parametrize("value", [0, 9, 60000])
def test_invalid_orientation_is_upright(value):
    exif = Image.Exif()
    exif[274] = value
    assert np.array_equal(opened(encoded(NOISE, "PNG", exif=exif)), NOISE)


def test_broken_metadata_do_not_invalidate_the_pixels():
    for broken in (
        b"Exif\0\0II*\0garbage",
        b"Exif\0\0",
        b"\xff" * 40,
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 30,
    ):
        for format in ("PNG", "WEBP"):
            assert np.array_equal(opened(encoded(NOISE, format, exif=broken)), NOISE)
            assert np.array_equal(opened(encoded(NOISE, format, icc_profile=broken)), NOISE)
        plain = opened(encoded(NOISE, "JPEG"))
        assert np.array_equal(opened(encoded(NOISE, "JPEG", exif=broken, icc_profile=broken)), plain)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_transparency_is_composited_over_white(format):
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colour = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    result = opened(encoded(np.dstack([colour, alpha]), format))
    a = alpha[..., None] / 255
    assert np.array_equal(result, np.rint(colour * a + 255 * (1 - a)).astype(np.uint8))


def test_hidden_colour_does_not_show():
    magenta = Image.new("RGBA", (4, 4), (255, 0, 255, 0))
    assert (opened(encoded(magenta, "PNG")) == 255).all()


def test_grey_with_alpha():
    grey, alpha = np.meshgrid(np.arange(0, 256, 5, dtype=np.uint8), np.arange(0, 256, 5, dtype=np.uint8))
    result = opened(encoded(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]), "PNG"))
    expected = np.rint(grey * (alpha / 255) + 255 - alpha.astype(float)).astype(np.uint8)
    assert np.array_equal(result, np.dstack([expected] * 3))


def test_palette_and_its_transparency():
    indices = np.random.default_rng(2).integers(0, 4, (6, 5), dtype=np.uint8)
    palette = np.array([[10, 20, 30], [200, 100, 0], [0, 255, 1], [7, 8, 9]], dtype=np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    assert np.array_equal(opened(encoded(image, "PNG")), palette[indices])
    assert np.array_equal(opened(encoded(image, "BMP")), palette[indices])
    alpha = np.array([0, 51, 255, 255])
    expected = np.rint(palette * (alpha / 255)[:, None] + 255 - alpha[:, None]).astype(np.uint8)
    assert np.array_equal(opened(encoded(image, "PNG", transparency=bytes(alpha.tolist()))), expected[indices])


def test_colour_keys():
    grey = np.arange(30, dtype=np.uint8).reshape(5, 6)
    assert np.array_equal(opened(encoded(grey, "PNG", transparency=7))[..., 0], np.where(grey == 7, 255, grey))
    key = tuple(int(value) for value in NOISE[2, 3])
    expected = NOISE.copy()
    expected[2, 3] = 255
    assert np.array_equal(opened(encoded(NOISE, "PNG", transparency=key)), expected)


def test_colour_keys_that_pillow_would_lose_are_refused():
    rows = b"\0" + struct.pack(">6H", 1, 2, 3, 4000, 5000, 6000)
    assert "transparent" in refusal(png(2, 1, 16, 2, rows, chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))))
    assert "transparent" in refusal(png(4, 1, 2, 0, b"\0\x1b", chunk(b"tRNS", struct.pack(">H", 3))))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_a_16_bit_ramp_stays_a_ramp(format):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(ramp / 65535 * 255).astype(np.uint8)
    assert np.array_equal(opened(encoded(ramp, format)), np.dstack([expected] * 3))


def test_16_bit_colour_and_alpha_within_one():
    values = np.linspace(0, 65535, 60).astype(">u2").reshape(4, 5, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    result = opened(png(5, 4, 16, 2, rows)).astype(int)
    assert np.abs(result - values / 257).max() <= 1


def test_16_bit_grey_with_a_transparent_value():
    rows = b"\0" + struct.pack(">3H", 0, 1234, 65535)
    assert opened(png(3, 1, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 0))))[0, :, 0].tolist() == [255, 5, 255]


def test_tiffs_of_other_kinds():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    grey = np.rint(ramp / 257).astype(np.uint8)
    assert np.array_equal(opened(tiff(ramp, 16, 1))[..., 0], grey)
    assert np.array_equal(opened(tiff(ramp, 16, 0))[..., 0], 255 - grey), "white is zero"
    packed = bytes.fromhex("000 fff 800 001".replace(" ", ""))
    assert opened(tiff(np.zeros((1, 4)), 12, 1, packed))[0, :, 0].tolist() == [0, 255, 128, 0]


def test_one_bit_and_grey():
    bits = np.random.default_rng(3).integers(0, 2, (9, 11)).astype(bool)
    for format in LOSSLESS:
        assert np.array_equal(opened(encoded(bits, format)), np.dstack([bits * np.uint8(255)] * 3))
    grey = NOISE[..., 0]
    assert np.array_equal(opened(encoded(grey, "PNG")), np.dstack([grey] * 3))


def test_cmyk_as_pillow_documents_it():
    """Each of red, green, blue is what its ink and black leave: (255 - ink) * (255 - black) / 255."""
    ink = np.random.default_rng(4).integers(0, 256, (32, 32, 4)).astype(np.uint8)
    result = opened(encoded(Image.fromarray(ink, "CMYK"), "TIFF")).astype(int)
    light = 255 - ink.astype(float)
    assert np.abs(result - light[..., :3] * light[..., 3:] / 255).max() <= 1
    flat = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(opened(encoded(flat, "JPEG")).astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize(("mode", "word"), [("F", "floating-point"), ("I", "32-bit")])
def test_pixels_without_a_known_white_are_refused(mode, word):
    assert word in refusal(encoded(Image.new(mode, (4, 4)), "TIFF"))
    assert word in refusal(Image.new(mode, (4, 4)), "mine")


def test_several_pages_are_refused():
    more = [Image.fromarray(NOISE[::-1].copy())]
    assert "2 frames or pages" in refusal(encoded(NOISE, "TIFF", save_all=True, append_images=more))


FRAMES = {"PNG": {}, "WEBP": {"lossless": True}, "GIF": {}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}


@pytest.mark.parametrize("format", FRAMES)
def test_the_first_frame_of_an_animation_is_the_image(format):
    """NOISE in 64 colours, so that a palette has them all."""
    first = (NOISE // 85 * 85).astype(np.uint8)
    more = {"save_all": True, "append_images": [Image.fromarray(first[::-1].copy())] * 2}
    found = open_image(encoded(first, format, **more, **FRAMES[format]), remarks=(remarks := []))
    difference = np.abs(np.asarray(found).astype(int) - first).max()
    assert difference <= (3 if format == "AVIF" else 0) and found.mode == "RGB"
    assert remarks == ["an animation, of which only the first frame is used"]
    open_image(encoded(first, format, **FRAMES[format]), remarks=(still := []))
    assert still == []


def test_a_frame_that_is_a_part_of_the_screen_lies_on_the_background():
    """A GIF of 4 x 3 pixels whose only frame is a red pixel at (1, 2)."""
    palette = bytes([0, 0, 255, 255, 0, 0])
    screen = b"GIF89a" + struct.pack("<HHBBB", 4, 3, 0x80, 0, 0) + palette
    frame = b"," + struct.pack("<HHHHB", 1, 2, 1, 1, 0) + bytes([2, 2, 0x4C, 1, 0])
    found = np.asarray(open_image(screen + frame + b";"))
    assert found.shape == (3, 4, 3) and found[2, 1].tolist() == [255, 0, 0] and len(np.unique(found.reshape(-1, 3), axis=0)) == 2


def test_a_cameras_jpeg_with_previews_is_an_image():
    two = encoded(NOISE, "MPO", save_all=True, append_images=[Image.fromarray(NOISE[::-1].copy())])
    assert np.array_equal(opened(two), opened(encoded(NOISE, "JPEG")))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_truncated_files_are_named(format, tmp_path):
    whole = encoded(np.random.default_rng(5).integers(0, 256, (40, 40, 3), dtype=np.uint8), format)
    for length in (1, 8, 20, len(whole) // 4, len(whole) // 2, len(whole) * 9 // 10):
        path = tmp_path / f"{length}.png"
        path.write_bytes(whole[:length])
        assert refusal(path, str(path))


def passes(damaged: bytes, pixels: np.ndarray) -> bool:
    """Whether a damaged picture is accepted, which it may be only when its pixels are whole."""
    try:
        assert np.array_equal(opened(damaged), pixels)
        return True
    except InputError:
        return False


def test_no_damaged_png_is_accepted_as_another_image():
    whole = encoded(NOISE, "PNG")
    flipped = [whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :] for place in range(len(whole))]
    assert sum(passes(each, NOISE) for each in flipped) < len(whole) / 5
    assert not any(passes(whole[:length], NOISE) for length in range(len(whole)))


@pytest.mark.parametrize("progressive", [False, True])
def test_no_truncated_jpeg_is_accepted_as_another_image(progressive):
    for seed in range(20):
        noise = np.random.default_rng(seed).integers(0, 256, (17 + seed, 40, 3), dtype=np.uint8)
        whole = encoded(noise, "JPEG", progressive=progressive)
        pixels = opened(whole)
        assert not passes(whole[:-3], pixels)
        assert not passes(whole[:-2], pixels), "only the marker of its end is missing"


def test_files_that_are_not_images(tmp_path, capfd):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    for name, data in {"text.jpg": b"hello", "eps.jpg": eps, "zeros.png": bytes(100)}.items():
        (tmp_path / name).write_bytes(data)
        assert "not an image" in refusal(tmp_path / name, str(tmp_path / name))
    (tmp_path / "empty.png").touch()
    assert "empty" in refusal(tmp_path / "empty.png")
    assert "does not exist" in refusal(tmp_path / "missing.png")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices in the file system")
def test_only_regular_files_are_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket.png")
    os.symlink("loop.png", "loop.png")
    os.symlink("gone.png", "dangling.png")
    Path("folder.png").mkdir()
    assert "named pipe" in refusal("pipe.png")
    assert "socket" in refusal("socket.png")
    assert "device" in refusal("/dev/zero")
    assert "folder" in refusal("folder.png")
    assert "broken link" in refusal("dangling.png")
    assert "links" in refusal("loop.png")
    server.close()


def test_the_name_in_a_message_is_printable(tmp_path):
    path = tmp_path / "a\n\x1b[31mb.png"
    path.write_bytes(b"no picture")
    with pytest.raises(InputError) as caught:
        open_image(path)
    assert "\\n\\x1b[31mb.png" in str(caught.value) and "\x1b" not in str(caught.value)


def test_size_and_shape_are_judged_from_the_header():
    def empty(width, height):
        return png(width, height, 8, 0, b"")

    assert "13000 x 13000" in refusal(empty(13000, 13000))
    assert "900000000 pixels" in refusal(empty(30000, 30000))
    assert refusal(empty(2**31 - 1, 2**31 - 1))
    assert "1:10" in refusal(empty(4000, 2)) and "1:10" in refusal(empty(10, 100))
    assert opened(encoded(np.zeros((1, 1), np.uint8), "PNG")).shape == (1, 1, 3)
    assert opened(encoded(np.zeros((99, 10), np.uint8), "PNG")).shape == (99, 10, 3)
    assert "64,000,000" in refusal(Image.new("1", (8001, 8000)), "mine")
    assert MAX_PIXELS == 64_000_000


def test_bombs_take_no_memory(tmp_path):
    """Measured in a process of its own."""
    pytest.importorskip("resource")
    (tmp_path / "large.png").write_bytes(png(13000, 13000, 1, 0, bytes(13000 * (1 + 13000 // 8))))
    text = b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 26), 1)
    (tmp_path / "text.png").write_bytes(png(1, 1, 8, 0, b"\0\0", chunk(*text)))
    wide = [struct.pack("<HHII", 256, 4, 1, width) for width in (3, 99999)]
    (tmp_path / "wide.tiff").write_bytes(tiff(np.zeros((99, 3)), 16, 1).replace(*wide))
    samples = [struct.pack("<HHII", 277, 4, 1, number) for number in (1, 2048)]
    (tmp_path / "logged.tiff").write_bytes(tiff(np.zeros((3, 3)), 16, 1).replace(*samples))
    code = """
import resource, sys
from pathlib import Path
from customize.errors import InputError
from customize.data.images.image_file import open_image
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        open_image(path)
        print(path.name, "passed")
    except InputError as error:
        assert path.name in str(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    megabytes, torch = done.stdout.split()
    assert int(megabytes) < 100 and torch == "False" and done.stderr == ""


def test_pillow_is_left_as_it_was():
    before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    refusal(png(30000, 30000, 8, 0, b""))
    opened(encoded(NOISE, "PNG"))
    assert before == (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK)


@pytest.mark.parametrize("size", [(64, 64), (100, 64), (64, 639), (1, 1), (7, 5), (3000, 2000)])
def test_the_short_side_becomes_the_resolution(size):
    width, height = resized_size(size, 48)
    assert min(width, height) == 48
    assert abs(max(width, height) - 48 * max(size) / min(size)) <= 0.5
    assert (width >= height) == (size[0] >= size[1])


def test_resize_interpolates_by_name():
    """Box means over 2 x 2; nearest picks one of them; all keep a flat colour flat."""
    image = Image.fromarray(NOISE[:4, :6])
    means = NOISE[:4, :6].reshape(2, 2, 3, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(np.asarray(resize(image, 2, "box")) - means).max() < 1
    assert np.array_equal(np.asarray(resize(image, 2, "nearest")), NOISE[1:4:2, 1:6:2])
    flat = Image.new("RGB", (9, 6), (1, 128, 254))
    for name in INTERPOLATIONS:
        assert (np.asarray(resize(flat, 4, name)) == [1, 128, 254]).all()
    assert resize(image, 4, "lanczos") is image


def test_crop_and_flip():
    image = Image.fromarray(NOISE)
    assert np.array_equal(crop(image, 2, 1, 4, 3, flip=False), NOISE[1:4, 2:6])
    assert np.array_equal(crop(image, 2, 1, 4, 3, flip=True), NOISE[1:4, 2:6][:, ::-1])
    with pytest.raises(AssertionError):
        crop(image, 4, 0, 4, 4, flip=False)
