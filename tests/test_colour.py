"""Colours against formulas in float64: matrices between primaries, transfer curves, the table of a CMYK profile."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from corpus import chunk, encoded
from PIL import Image

from customize.data.images import colour
from customize.data.images.image_file import open_image

PROFILES = Path(__file__).parent / "profiles"
RANDOM = np.random.default_rng(5).integers(0, 256, (40, 50, 3), dtype=np.uint8)
D65, D50 = (0.3127, 0.3290), np.array([0.96422, 1.0, 0.82521])
P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
SRGB = (0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
ADOBE = (0.640, 0.330, 0.210, 0.710, 0.150, 0.060)
BT2020 = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046)
PROPHOTO = (0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001)


def profile(name: str) -> bytes:
    return (PROFILES / f"{name}.icc").read_bytes()


def opened(data: bytes) -> tuple[np.ndarray, list[str]]:
    remarks: list[str] = []
    image = open_image(data, "it", remarks=remarks)
    assert image.mode == "RGB" and "icc_profile" not in image.info
    return np.asarray(image).astype(int), remarks


def to_light(values: np.ndarray, gamma: float | None) -> np.ndarray:
    values = np.asarray(values, np.float64) / 255
    return values**gamma if gamma else np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def to_code(light: np.ndarray) -> np.ndarray:
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def to_xyz(primaries, white=D65) -> np.ndarray:
    x, y = np.array((*primaries, *white)).reshape(4, 2).T
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    return xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])


def expected(pixels: np.ndarray, primaries, gamma: float | None = None) -> np.ndarray:
    """What colours of these primaries, with a white of D65, are in sRGB: clipped, not rounded."""
    return to_code(to_light(pixels, gamma) @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(primaries)).T)


def png(pixels: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG with these chunks behind its header."""
    plain = encoded(pixels, "PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]


def gamma_chunk(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100000)))


def chromaticities(primaries, white=D65) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in (*white, *primaries))))


def within_one(pixels: np.ndarray, reference: np.ndarray) -> bool:
    return bool(np.abs(pixels - reference).max() <= 1)


@pytest.mark.parametrize(
    ("name", "primaries", "gamma"),
    [("DisplayP3-v2-magic", P3, None), ("DisplayP3-v4", P3, None), ("AdobeCompat-v2", ADOBE, 563 / 256), ("scRGB-v2", SRGB, 1.0)],
)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_a_matrix_profile_is_converted(name, primaries, gamma, format):
    options = {"lossless": True} if format == "WEBP" else {}
    pixels, remarks = opened(encoded(RANDOM, format, icc_profile=profile(name), **options))
    assert within_one(pixels, expected(RANDOM, primaries, gamma))
    assert len(remarks) == 1 and remarks[0].startswith("colours converted from ") and remarks[0].endswith(" to sRGB")
    assert np.abs(pixels - RANDOM).max() > 30


def test_prophoto_whose_white_is_that_of_the_profiles():
    pixels, _ = opened(encoded(RANDOM, "PNG", icc_profile=profile("ProPhoto-v4")))
    ours = colour.BRADFORD
    white = to_xyz(SRGB).sum(axis=1)
    adapt = np.linalg.inv(ours) @ np.diag((ours @ D50) / (ours @ white)) @ ours
    light = np.where(RANDOM / 255 < 16 / 512, RANDOM / 255 / 16, (RANDOM / 255) ** 1.8)
    xyz = to_xyz(PROPHOTO, (0.3457, 0.3585))
    assert within_one(pixels, to_code(light @ (np.linalg.inv(adapt @ to_xyz(SRGB)) @ xyz).T))


def test_the_green_of_a_phone():
    """The sRGB green, as Display P3 codes it: it came out as (117, 251, 76)."""
    green = np.full((4, 4, 3), (117, 251, 76), np.uint8)
    pixels, _ = opened(encoded(green, "PNG", icc_profile=profile("DisplayP3-v4")))
    assert np.abs(pixels - [0, 255, 0]).max() <= 3


@pytest.mark.parametrize("name", ["sRGB-v2-nano", "sRGB-v2-magic", "sRGB-v4"])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_srgb_stays_as_it_is_bit_for_bit(name, format):
    plain, _ = opened(encoded(RANDOM, format))
    pixels, remarks = opened(encoded(RANDOM, format, icc_profile=profile(name)))
    assert np.array_equal(pixels, plain) and remarks == []


def with_curve(icc: bytes, table: np.ndarray) -> bytes:
    """The profile that `matrix_profile` made, with the curve as a table in the place of its formula."""
    curve = b"curv" + struct.pack(">4xI", len(table)) + np.round(table * 65535).astype(">u2").tobytes()
    count = struct.unpack_from(">I", icc, 128)[0]
    entries = [struct.unpack_from(">4sII", icc, 132 + 12 * i) for i in range(count)]
    tags = [(tag, curve if tag.endswith(b"TRC") else icc[start : start + size]) for tag, start, size in entries]
    return colour._profile(tags)


@pytest.mark.parametrize("entries", [26, 64, 1024, 4096])
def test_srgb_with_its_curve_as_a_table_is_srgb(entries):
    """As in the profiles of cameras (1024 entries) and in the small one that Facebook embeds (26)."""
    table = to_light(np.linspace(0, 255, entries), None)
    icc = with_curve(colour.matrix_profile(colour.PRIMARIES[1], colour.SRGB), table)
    pixels, remarks = opened(encoded(RANDOM, "PNG", icc_profile=icc))
    assert np.array_equal(pixels, RANDOM) and remarks == []


def test_profiles_made_of_numbers_are_those_of_the_files():
    pixels, _ = opened(encoded(RANDOM, "PNG", icc_profile=colour.matrix_profile(colour.PRIMARIES[12], colour.SRGB)))
    reference, _ = opened(encoded(RANDOM, "PNG", icc_profile=profile("DisplayP3-v4")))
    assert np.abs(pixels - reference).max() <= 1


# CMYK


def tables(icc: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(input tables [4, n], grid [g, g, g, g, 3]) of A2B0 as lut16Type, in 0..1."""
    count = struct.unpack_from(">I", icc, 128)[0]
    start = next(s for tag, s, _ in (struct.unpack_from(">4sII", icc, 132 + 12 * i) for i in range(count)) if tag == b"A2B0")
    assert icc[start : start + 4] == b"mft2"
    grid, (entries, outputs) = icc[start + 10], struct.unpack_from(">HH", icc, start + 48)
    numbers = np.frombuffer(icc, ">u2", 4 * entries + grid**4 * 3 + 3 * outputs, start + 52) / 65535
    assert outputs == 2 and numbers[-6:].tolist() == [0, 1] * 3
    return numbers[: 4 * entries].reshape(4, entries), numbers[4 * entries : -6].reshape(*(grid,) * 4, 3)


def lab_of(ink: np.ndarray, icc: bytes) -> np.ndarray:
    """[N, 3] Lab of [N, 4] inks: linear in C, tetrahedra of M, Y and K, as Little CMS reads such tables."""
    curves, grid = tables(icc)
    steps, size = np.linspace(0, 255, curves.shape[1]), grid.shape[0] - 1
    place = np.stack([np.interp(ink[:, i], steps, curves[i]) for i in range(4)], axis=1) * size
    low = np.minimum(place.astype(int), size - 1)
    rest = place - low
    order = np.argsort(-rest[:, 1:], axis=1, kind="stable") + 1
    rows, result = np.arange(len(ink)), 0
    for side, share in ((0, 1 - rest[:, 0]), (1, rest[:, 0])):
        corner = low.copy()
        corner[:, 0] += side
        value = grid[tuple(corner.T)].copy()
        before = value.copy()
        for k in range(3):
            corner[rows, order[:, k]] += 1
            now = grid[tuple(corner.T)]
            value += rest[rows, order[:, k]][:, None] * (now - before)
            before = now
        result = result + share[:, None] * value
    return result * 65535 / 65280 * [100, 255, 255] - [0, 128, 128]


def xyz_of(lab: np.ndarray) -> np.ndarray:
    f = (lab[:, :1] + 16) / 116 + lab * [0, 1 / 500, -1 / 200] @ np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1]])
    return D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))


def cmyk_in_srgb(ink: np.ndarray, icc: bytes) -> np.ndarray:
    """Relative colorimetric with black point compensation (ISO 18619): the darkest ink becomes black."""
    black = lab_of(np.full((1, 4), 255.0), icc) * [1, 0, 0]
    dark = xyz_of(np.minimum(black, [50, 0, 0]))[0]
    scale = (0 - D50) / (dark - D50)
    xyz = xyz_of(lab_of(ink.astype(np.float64), icc)) * scale + (-D50 * (0 - dark) / (dark - D50))
    ours = colour.BRADFORD
    adapt = np.linalg.inv(ours) @ np.diag((ours @ D50) / (ours @ to_xyz(SRGB).sum(axis=1))) @ ours
    return to_code(xyz @ np.linalg.inv(adapt @ to_xyz(SRGB)).T)


def test_cmyk_with_a_profile():
    icc, ink = profile("CGATS001Compat-v2-micro"), np.random.default_rng(1).integers(0, 256, (60, 60, 4)).astype(np.uint8)
    pixels, remarks = opened(encoded(Image.fromarray(ink, "CMYK"), "TIFF", icc_profile=icc))
    difference = np.abs(pixels.reshape(-1, 3) - cmyk_in_srgb(ink.reshape(-1, 4), icc))
    assert difference.max() <= 1, difference.max()
    assert remarks[0].startswith("colours converted from ")


def test_cmyk_jpeg_of_adobe_with_a_profile():
    icc = profile("CGATS001Compat-v2-micro")
    for ink in [(0, 255, 255, 0), (255, 0, 0, 0), (0, 0, 0, 255), (0, 0, 0, 0), (20, 40, 60, 80), (255, 255, 255, 255)]:
        data = encoded(Image.new("CMYK", (16, 16), ink), "JPEG", icc_profile=icc, quality=100, subsampling=0)
        assert b"Adobe" in data[:200]
        pixels, _ = opened(data)
        assert np.abs(pixels - cmyk_in_srgb(np.array([ink]), icc)).max() <= 2, ink


def test_ycck_jpeg():
    """Adobe's transform 2: cyan, magenta and yellow are stored as luma and chroma, black as it is, all inverted."""
    ink = np.array([200, 30, 90, 40])
    luma = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]) @ ink[:3] + [0, 128, 128]
    stored = np.append(luma, 255 - ink[3]).round().astype(int)
    data = encoded(Image.new("CMYK", (16, 16), tuple(255 - stored)), "JPEG", quality=100)
    place = data.index(b"Adobe") + 11
    assert data[place] == 0
    pixels, remarks = opened(data[:place] + b"\2" + data[place + 1 :])
    assert np.abs(pixels - (255 - ink[:3]) * (255 - ink[3]) / 255).max() <= 3
    assert remarks == ["CMYK converted only roughly, without a colour profile: the file has none"]


# grey, alpha, palettes


def test_grey_with_a_profile():
    """A dot gain or gamma of grey: gamma 1.8, by hand."""
    body = {b"wtpt": colour._xyz(D50), b"kTRC": colour._curve(1.8), b"desc": colour._words("grey".encode("utf-16-be"))}
    icc = colour._profile(list(body.items())).replace(b"mntrRGB ", b"mntrGRAY")
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    reference = to_code(to_light(ramp, 1.8))[..., None].repeat(3, axis=2)
    pixels, remarks = opened(encoded(ramp, "PNG", icc_profile=icc))
    assert within_one(pixels, reference) and remarks == ["colours converted from grey to sRGB"]
    deep = ramp.astype(np.uint16) * 257
    assert np.array_equal(opened(encoded(deep, "PNG", icc_profile=icc))[0], pixels)
    alpha = Image.fromarray(ramp.T.copy())
    mixed, _ = opened(encoded(Image.merge("LA", [Image.fromarray(ramp), alpha]), "PNG", icc_profile=icc))
    share = np.asarray(alpha)[..., None] / 255
    assert np.abs(mixed - (pixels * share + 255 * (1 - share))).max() <= 1
    bits = Image.fromarray(ramp > 99)
    assert np.array_equal(opened(encoded(bits, "PNG", icc_profile=icc))[0], (ramp > 99)[..., None].repeat(3, axis=2) * 255)


def test_grey_of_srgb_is_left_alone():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for name in ("sGrey-v2-nano", "sRGB-v4", "DisplayP3-v4"):
        pixels, remarks = opened(encoded(ramp, "PNG", icc_profile=profile(name)))
        assert np.array_equal(pixels[..., 1], ramp) and remarks == [], name


def test_alpha_is_composed_after_conversion():
    alpha = np.random.default_rng(8).integers(0, 256, (40, 50, 1), dtype=np.uint8)
    pixels, _ = opened(encoded(np.dstack([RANDOM, alpha]), "PNG", icc_profile=profile("DisplayP3-v4")))
    share = alpha / 255
    assert np.abs(pixels - (expected(RANDOM, P3) * share + 255 * (1 - share))).max() <= 1.5


def test_a_palette_and_its_transparent_entry():
    indices = np.random.default_rng(2).integers(0, 4, (6, 5), dtype=np.uint8)
    palette = np.array([[10, 220, 30], [200, 100, 0], [0, 255, 1], [7, 8, 9]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    icc = profile("DisplayP3-v4")
    assert within_one(opened(encoded(image, "PNG", icc_profile=icc))[0], expected(palette[indices], P3))
    clear, _ = opened(encoded(image, "PNG", icc_profile=icc, transparency=2))
    assert (clear[indices == 2] == 255).all() and within_one(clear[indices != 2], expected(palette[indices], P3)[indices != 2])


def test_a_colour_key_is_that_of_the_file():
    key = tuple(int(value) for value in RANDOM[3, 4])
    pixels, _ = opened(encoded(RANDOM, "PNG", transparency=key, icc_profile=profile("DisplayP3-v4")))
    reference = expected(RANDOM, P3)
    reference[3, 4] = 255
    assert within_one(pixels, reference)


def test_lab_pixels_are_read():
    lab = Image.new("LAB", (8, 8), (136, 208, 67 + 128))  # sRGB red: L 53.24, a 80.09, b 67.20
    pixels, _ = opened(encoded(lab, "TIFF"))
    assert np.abs(pixels - [255, 0, 0]).max() <= 16


# what PNG says in numbers


def test_gamma_of_a_png():
    linear, remarks = opened(png(RANDOM, gamma_chunk(1.0)))
    assert within_one(linear, to_code(to_light(RANDOM, 1.0))) and remarks == ["colours converted from gamma 1 to sRGB"]
    mac, _ = opened(png(RANDOM, gamma_chunk(1 / 1.8)))
    assert within_one(mac, to_code(to_light(RANDOM, 1.8)))
    for usual in (0.45455, 0.45, 0.454):
        pixels, remarks = opened(png(RANDOM, gamma_chunk(usual), chromaticities(SRGB)))
        assert np.array_equal(pixels, RANDOM) and remarks == []
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey, _ = opened(png(ramp, gamma_chunk(1.0)))
    assert within_one(grey[..., 0], to_code(to_light(ramp, 1.0)))


def test_chromaticities_of_a_png():
    pixels, remarks = opened(png(RANDOM, gamma_chunk(0.45455), chromaticities(P3)))
    assert within_one(pixels, expected(RANDOM, P3)) and len(remarks) == 1
    pixels, remarks = opened(png(RANDOM, gamma_chunk(1.0), chromaticities(ADOBE)))
    assert within_one(pixels, expected(RANDOM, ADOBE, 1.0))


@pytest.mark.parametrize(
    ("chunks", "word"),
    [
        ((gamma_chunk(0.0),), "gAMA"),
        ((gamma_chunk(900.0),), "gAMA"),
        ((gamma_chunk(0.45455), chromaticities((0, 0, 0, 0, 0, 0), (0, 0))), "cHRM"),
        ((gamma_chunk(0.45455), chromaticities((0.3, 0.3, 0.3, 0.3, 0.3, 0.3))), "cHRM"),
        ((chunk(b"cICP", bytes([9, 16, 0, 1])),), "HDR (PQ)"),
        ((chunk(b"cICP", bytes([9, 18, 0, 1])),), "HDR (HLG)"),
        ((chunk(b"cICP", bytes([77, 13, 0, 1])),), "77/13"),
    ],
)
def test_unusable_numbers_are_reported(chunks, word):
    pixels, remarks = opened(png(RANDOM, *chunks))
    assert np.array_equal(pixels, RANDOM)
    assert len(remarks) == 1 and word in remarks[0] and remarks[0].startswith("colours treated as sRGB: ")


def test_srgb_chunk_and_code_points_go_before_the_rest():
    srgb = chunk(b"sRGB", b"\0")
    assert np.array_equal(opened(png(RANDOM, srgb, gamma_chunk(1.0), chromaticities(P3)))[0], RANDOM)
    p3 = chunk(b"cICP", bytes([12, 13, 0, 1]))
    assert within_one(opened(png(RANDOM, p3, srgb))[0], expected(RANDOM, P3))
    assert within_one(opened(png(RANDOM, chunk(b"cICP", bytes([9, 13, 0, 1]))))[0], expected(RANDOM, BT2020))
    with_icc = encoded(RANDOM, "PNG", icc_profile=profile("ProPhoto-v4"))
    assert within_one(opened(with_icc[:33] + p3 + with_icc[33:])[0], expected(RANDOM, P3))
    for plain in ([1, 13, 0, 1], [1, 1, 0, 1], [2, 2, 0, 1], [1, 6, 0, 1]):
        pixels, remarks = opened(png(RANDOM, chunk(b"cICP", bytes(plain))))
        assert np.array_equal(pixels, RANDOM) and remarks == []


# EXIF


def exif(space: int, index: str | None) -> Image.Exif:
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0xA001] = space
    if index:
        tags.get_ifd(0x8769)[0xA005] = {1: index}
    return tags


def test_adobe_rgb_that_only_exif_declares():
    plain, _ = opened(encoded(RANDOM, "JPEG", quality=95))
    for space, index in ((65535, "R03"), (2, None)):
        data = encoded(RANDOM, "JPEG", quality=95, exif=exif(space, index))
        tags = Image.open(io.BytesIO(data)).getexif()
        assert tags.get_ifd(0x8769)[0xA001] == space
        pixels, remarks = opened(data)
        if index is None or tags.get_ifd(0xA005):
            assert within_one(pixels, expected(plain, ADOBE, 563 / 256))
            assert remarks == ["colours converted from Adobe RGB to sRGB"]
    for space, index in ((1, "R98"), (65535, None), (65535, "R98")):
        pixels, remarks = opened(encoded(RANDOM, "JPEG", quality=95, exif=exif(space, index)))
        assert np.array_equal(pixels, plain) and remarks == []
    tagged = encoded(RANDOM, "JPEG", quality=95, exif=exif(65535, "R03"), icc_profile=profile("sRGB-v4"))
    assert np.array_equal(opened(tagged)[0], plain)


# profiles that cannot be used

BROKEN = {
    "rubbish": b"\xff" * 500,
    "cut": profile("DisplayP3-v4")[:300],
    "cut in the header": profile("DisplayP3-v4")[:100],
    "no curves": profile("DisplayP3-v4").replace(b"TRC", b"XXX"),
    "for CMYK": profile("CGATS001Compat-v2-micro"),
    "for grey": profile("sGrey-v2-nano"),
    "a link": profile("DisplayP3-v4").replace(b"mntr", b"link"),
    "named colours": profile("DisplayP3-v4").replace(b"mntr", b"nmcl"),
    "empty text": b" ",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_broken_profiles_are_reported_and_leave_the_pixels_unchanged(name, format):
    plain, _ = opened(encoded(RANDOM, format))
    pixels, remarks = opened(encoded(RANDOM, format, icc_profile=BROKEN[name]))
    assert np.array_equal(pixels, plain)
    assert len(remarks) == 1 and remarks[0].startswith("colours treated as sRGB: its colour profile"), remarks


def test_a_profile_of_another_kind_in_a_cmyk_image():
    ink = Image.new("CMYK", (16, 16), (10, 20, 30, 40))
    plain, _ = opened(encoded(ink, "TIFF"))
    pixels, remarks = opened(encoded(ink, "TIFF", icc_profile=profile("DisplayP3-v4")))
    assert np.array_equal(pixels, plain) and "is for RGB pixels, not for CMYK" in remarks[0]


def test_a_huge_profile_is_not_used():
    huge = profile("DisplayP3-v4") + bytes(colour.MOST_BYTES)
    pixels, remarks = opened(encoded(RANDOM, "TIFF", icc_profile=huge))
    assert np.array_equal(pixels, RANDOM) and "more than 16 MiB" in remarks[0]


def test_mutated_profiles_are_used_or_reported():
    icc, random = profile("DisplayP3-v4"), np.random.default_rng(3)
    plain = np.asarray(RANDOM)
    for place in random.integers(0, len(icc), 150):
        mutated = bytearray(icc)
        mutated[place] ^= 1 << int(random.integers(8))
        pixels, remarks = opened(encoded(RANDOM, "TIFF", icc_profile=bytes(mutated)))
        assert pixels.shape == plain.shape and len(remarks) <= 1
        if remarks and remarks[0].startswith("colours treated"):
            assert np.array_equal(pixels, plain)
