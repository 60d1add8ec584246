"""Colour management: reads the colour space of an image file, and converts to sRGB.

An ICC profile takes precedence over the code points and chromaticities of PNG, AVIF and HEIC (cICP, gAMA, cHRM, nclx),
and these over EXIF's Adobe RGB. Little CMS converts, with the relative colorimetric intent and black point compensation.
Colours that are sRGB already stay bit-identical.
"""

import io
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms

MOST_BYTES = 1 << 24
"""A larger ICC profile is not used."""
NEARLY_SRGB = 3
"""Levels of 255. A profile that changes no colour of a grid by more than this is sRGB with other rounding."""
SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
"""Pillow mode -> colour space of the profiles that fit it."""
CLASSES = ("mntr", "scnr", "prtr", "spac")
NO_OPTIMIZATION = ImageCms.Flags.NOOPTIMIZE
"""Otherwise Little CMS approximates tables (CMYK) by coarser ones: errors of up to 20 levels of 255."""
CONVERTED = "colours converted from "
"""Start of the remark on an image whose colours were converted correctly."""
SRGB, LINEAR = 0.0, 1.0
"""Transfer curves: sRGB's, or the exponent of a power function."""
D65 = (0.3127, 0.3290)
PRIMARIES = {  # ITU-T H.273, table 2: x and y of red, green, blue and white
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, *D65),
    5: (0.640, 0.330, 0.290, 0.600, 0.150, 0.060, *D65),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *D65),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *D65),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *D65),
}
NAMES = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
CURVES = {1: SRGB, 4: 2.2, 5: 2.8, 6: SRGB, 8: LINEAR, 13: SRGB, 14: SRGB, 15: SRGB}
"""ITU-T H.273, table 3. Cameras' curves are treated as sRGB, as in browsers."""
HDR = {16: "PQ", 18: "HLG"}
ADOBE_RGB = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, *D65)
USUAL_GAMMA = (0.42, 0.48)
"""Values of a PNG's gAMA that mean sRGB: about 1 / 2.2, which nearly all programs write for sRGB."""
_EXIF, _COLOUR_SPACE, _INTEROPERABILITY = 0x8769, 0xA001, 0xA005
D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class Colours:
    """The colour space of an image. icc: a profile, empty for sRGB; name: for messages; fault: why it cannot be used."""

    icc: bytes = b""
    name: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Conversion:
    """The conversion of a profile's colours to sRGB. transform: None if they are sRGB already, or `fault` says why not."""

    name: str = ""
    transform: ImageCms.ImageCmsTransform | None = None
    fault: str = ""


def to_srgb(image: Image.Image, colours: Colours) -> tuple[Image.Image, str]:
    """Convert an image of mode RGB, L or CMYK to sRGB: (image of mode RGB, remark, empty if nothing changed).

    If the profile cannot be used, the pixels stay as they are (CMYK as Pillow converts it), and the remark says why.
    """
    if colours.icc and image.mode == "L" and colours.name:
        image = image.convert("RGB")  # a profile made from numbers has three channels
    found = conversion(colours.icc, image.mode) if colours.icc and not colours.fault else Conversion(fault=colours.fault)
    if found.transform:
        converted = ImageCms.applyTransform(image, found.transform)
        assert converted is not None
        return converted, f"{CONVERTED}{colours.name or found.name} to sRGB"
    remark = f"colours treated as sRGB: {found.fault}" if found.fault else ""
    if image.mode == "CMYK":
        remark = f"CMYK converted only roughly, without a colour profile: {found.fault or 'the file has none'}"
    return image.convert("RGB"), remark


@lru_cache(maxsize=16)
def conversion(icc: bytes, mode: str) -> Conversion:
    """The conversion from an ICC profile to sRGB, for an image of mode RGB, L or CMYK."""
    if len(icc) > MOST_BYTES:
        return Conversion(fault=f"its colour profile has more than {MOST_BYTES >> 20} MiB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space, kind = profile.profile.xcolor_space.strip(), profile.profile.device_class.strip()
        name = (profile.profile.profile_description or "").strip("\0 \n") or "an unnamed profile"
        if mode == "L" and space == "RGB" and _is_srgb(_transform(profile, "RGB"), "L"):
            return Conversion(name)
        if space != SPACES[mode]:
            return Conversion(fault=f"its colour profile ({name[:60]}) is for {space} pixels, not for {SPACES[mode]}")
        if kind not in CLASSES:
            return Conversion(fault=f"its colour profile ({name[:60]}) does not describe a device")
        transform = _transform(profile, mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, MemoryError):
        return Conversion(fault="its colour profile is damaged")
    return Conversion(name[:60], None if _is_srgb(transform, mode) else transform)


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    if mode != "RGB" or not profile.profile.is_matrix_shaper:
        flags |= NO_OPTIMIZATION
    srgb = ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(profile, srgb, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, flags)


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether the transform changes no colour of a grid (of greys for L) by more than `NEARLY_SRGB`."""
    if mode == "CMYK":
        return False
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    colours = grey if mode == "L" else np.concatenate([grey, grid])
    inputs = colours if transform.input_mode == "RGB" else colours[:, 0]
    converted = ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(inputs[:, None])), transform)
    return int(np.abs(np.asarray(converted, np.int16)[:, 0] - colours).max()) <= NEARLY_SRGB


def colours_of(image: Image.Image, stream: BinaryIO | None = None) -> Colours:
    """The colour space of an image. stream: its file, whose position may change."""
    icc = image.info.get("icc_profile")
    code = _code_points(image, stream) if stream else None
    if code and not (icc and image.format != "PNG"):
        return coded(*code)
    if isinstance(icc, bytes) and icc:
        return Colours(icc)
    if image.format == "PNG":
        return _of_png(image)
    return _of_exif(image)


def coded(primaries: int, curve: int) -> Colours:
    """The colour space of code points of ITU-T H.273 (cICP, nclx): 1 and 13 are sRGB's; 2 means unspecified."""
    if curve in HDR:
        fault = f"it is HDR ({HDR[curve]}), which would look pale: export it as a standard (SDR) image"
        return Colours(fault=fault)
    if primaries == curve == 2 or (primaries in (1, 2) and CURVES.get(curve, SRGB) == SRGB and curve in (2, *CURVES)):
        return Colours()
    points = PRIMARIES.get(1 if primaries == 2 else primaries)
    exponent = SRGB if curve == 2 else CURVES.get(curve)
    if points is None or exponent is None:
        return Colours(fault=f"its code points {primaries}/{curve} are not supported")
    return Colours(matrix_profile(points, exponent), NAMES.get(primaries, f"code points {primaries}/{curve}"))


def _code_points(image: Image.Image, stream: BinaryIO) -> tuple[int, int] | None:
    """(primaries, transfer curve) from a PNG's cICP or an AVIF's or HEIC's nclx; None if there is none."""
    if image.format == "PNG":
        stream.seek(8)
        for _ in range(1000):
            header = stream.read(8)
            if len(header) < 8 or header[4:] == b"IDAT":
                return None
            size = int.from_bytes(header[:4])
            if header[4:] == b"cICP" and size == 4:
                return struct.unpack(">BB", stream.read(2))
            stream.seek(size + 4, io.SEEK_CUR)
    if image.format == "AVIF":
        stream.seek(0)
        start = stream.read(1 << 16)
        if (place := start.find(b"colrnclx")) >= 0 and len(start) >= place + 12:
            return struct.unpack_from(">HH", start, place + 8)
    if image.format == "HEIF" and isinstance(nclx := image.info.get("nclx_profile"), dict):
        return int(nclx.get("color_primaries", 2)), int(nclx.get("transfer_characteristics", 2))
    return None


def _of_png(image: Image.Image) -> Colours:
    """PNG specification, third edition, 4.3: sRGB takes precedence over gAMA and cHRM."""
    gamma, points = image.info.get("gamma"), image.info.get("chromaticity")
    if "srgb" in image.info or (gamma is None and points is None):
        return Colours()
    if gamma is not None and not 0.1 <= gamma <= 10:
        return Colours(fault=f"its gAMA of {gamma:g} is out of range")
    exponent = SRGB if gamma is None or USUAL_GAMMA[0] <= gamma <= USUAL_GAMMA[1] else 1 / gamma
    try:
        icc = matrix_profile((*points[2:8], *points[:2]) if points else PRIMARIES[1], exponent)
    except (ValueError, ArithmeticError):
        return Colours(fault="its cHRM is invalid")
    return Colours(icc, "gAMA/cHRM" if gamma is None or exponent == SRGB else f"gamma {gamma:g}")


def _of_exif(image: Image.Image) -> Colours:
    """DCF 2.0, option file: colour space 'uncalibrated' with interoperability index R03 is Adobe RGB."""
    try:
        exif = image.getexif()
        space = exif.get_ifd(_EXIF).get(_COLOUR_SPACE) if _EXIF in exif else None
        index = exif.get_ifd(_INTEROPERABILITY).get(1) if space == 0xFFFF else None
    except Exception:  # broken EXIF data do not affect the pixels
        return Colours()
    if space == 2 or (isinstance(index, str) and index.startswith("R03")):
        return Colours(matrix_profile(ADOBE_RGB, 563 / 256), "Adobe RGB")
    return Colours()


@lru_cache(maxsize=64)
def matrix_profile(points: tuple[float, ...], exponent: float) -> bytes:
    """An ICC profile (version 4) with these primaries. points: x and y of red, green, blue and white.

    exponent: of the curve from code to light; 0 is sRGB's curve. Raises ValueError for impossible colours.
    """
    x, y = np.array(points, np.float64).reshape(4, 2).T
    if not (y > 1e-4).all():
        raise ValueError("a colour without light")
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])  # columns: red, green, blue, white
    if abs(np.linalg.det(xyz[:, :3])) < 1e-3:
        raise ValueError("primaries on a line")
    scaled = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
    adapted = np.linalg.solve(BRADFORD, ((BRADFORD @ D50) / (BRADFORD @ xyz[:, 3]))[:, None] * (BRADFORD @ scaled))
    if np.abs(adapted).max() > 100:
        raise ValueError("colours beyond all bounds")
    curve = _curve(exponent)
    words = _words("made from numbers in an image".encode("utf-16-be"))
    tags = [(b"desc", words), (b"cprt", words), (b"wtpt", _xyz(D50))]
    tags += [(name + b"XYZ", _xyz(adapted[:, i])) for i, name in enumerate((b"r", b"g", b"b"))]
    tags += [(name + b"TRC", curve) for name in (b"r", b"g", b"b")]
    return _profile(tags)


def _profile(tags: list[tuple[bytes, bytes]]) -> bytes:
    """An RGB display profile with these tags (ICC.1:2010, 7)."""
    table, data = b"", b""
    for name, body in tags:
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    size = 132 + len(table) + len(data)
    head = struct.pack(">I4s4s12s12s4s", size, b"", b"\4\2\0\0", b"mntrRGB XYZ ", b"", b"acsp")
    head = head.ljust(68, b"\0") + _xyz(D50)[8:]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def _words(text: bytes) -> bytes:
    return b"mluc" + struct.pack(">4x2I4s2I", 1, 12, b"enUS", len(text), 28) + text


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def _curve(exponent: float) -> bytes:
    """The curve from code to light: a power function, or sRGB's (IEC 61966-2-1)."""
    if exponent == SRGB:
        return b"para" + struct.pack(">4xHH", 3, 0) + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para" + struct.pack(">4xHH", 0, 0) + _fixed(exponent)
