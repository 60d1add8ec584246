"""The only way in for images: `open_image` returns an intact, upright, opaque 8-bit RGB image of a reasonable size.

Anything else (a truncated file, a named pipe, a decompression bomb, floating-point pixels, several pages) raises an
`InputError` that names the file. Pillow's global settings are not changed.

Shapes: `h w` height and width in pixels; arrays are np.uint8 [h, w, 3] in [0, 255].
"""

import io
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from customize import missing_path
from customize.data.images.colour import SPACES, Colours, colours_of, to_srgb
from customize.data.images.decoding_cost import MOST_FRAMES, count_frames, too_costly
from customize.data.images.integrity import covers_all, is_whole
from customize.errors import InputError, Problem
from customize.printable import printable
from customize.storage import out_of_memory
from customize.storage.untrusted_files import REMEDIES, START, kind_of, regular_file

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF", "GIF")
"""Formats that Pillow may try. Not all that it knows: its EPS reader starts another program. pillow-heif reads HEIC."""
EXTENSIONS = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .pjpeg .pjp .webp .gif .bmp .dib .tif .tiff .avif .heic .heif .hif .mpo".split()
)
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"hevc", b"hevx", b"hevm", b"hevs", b"msf1")
SEQUENCES = (b"hevc", b"hevx", b"hevm", b"hevs", b"msf1")
"""Major brands of HEIF files that are animations."""
ANIMATED = ("PNG", "WEBP", "AVIF", "GIF")
"""Formats of animations, of which the first frame is the image."""
FIRST_FRAME = "an animation, of which only the first frame is used"
MAX_PIXELS = 64_000_000
MAX_BYTES = 1 << 29
MAX_RATIO = 10
"""An image whose long side is at least this many times its short side is refused."""
BACKGROUND = (255, 255, 255)
"""The colour behind transparent pixels: white."""
Convert = Callable[[Image.Image], Image.Image]
"""Converts a decoded image of any mode to RGB, or to another mode that the caller needs."""
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "nearest-exact": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_TURNS = {  # EXIF orientation -> the transposition that makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION, _TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC, _TIFF_SUBFILE_TYPE, _DNG_VERSION = 274, 258, 262, 254, 50706
_COPY_AGAIN = "copy or export the image again, or remove it"
_EXPORT = f"save it as PNG or JPEG (supported: {', '.join(FORMATS)})"


logging.getLogger("PIL").addHandler(logging.NullHandler())  # damaged files are reported here, by name


class _Refused(Exception):
    def __init__(self, what: str, remedy: str):
        self.what, self.remedy = what, remedy


def open_image(
    source: Path | str | bytes | Image.Image,
    name: str | None = None,
    convert: Convert | None = None,
    remarks: list[str] | None = None,
) -> Image.Image:
    """Open an image file, its bytes, or a Pillow image of any mode as an upright, opaque Pillow image of mode RGB in sRGB.

    EXIF orientation is applied; colours are converted to sRGB (see `customize.data.images.colour`); transparency is composited
    over `BACKGROUND` after that; 16-bit grey becomes round(value / 257); palettes, and CMYK without a profile, are converted as
    by Pillow. The primary image of a HEIC file is read, and the first frame of an animation. Size and shape are checked in the
    header, before decoding. Raises InputError that names the image by `name` (default: its path).

    convert: replaces the conversion to RGB, such as `with_alpha`; no colour conversion is done then.
    remarks: receives remarks for the user, about the colours and an animation.
    """
    if name is None:
        name = "the image" if isinstance(source, bytes | Image.Image) else str(source)
    try:
        with warnings.catch_warnings():  # on broken EXIF and large sizes, both handled here
            warnings.simplefilter("ignore")
            return _read(source, convert, [] if remarks is None else remarks)
    except _Refused as refusal:
        what, remedy = refusal.what, refusal.remedy
    except UnidentifiedImageError as error:
        what, remedy = _what_else(str(error))
    except Image.DecompressionBombError as error:
        claim = str(error).partition(" exceeds")[0]
        what, remedy = f"has many more than {MAX_PIXELS:,} pixels ({claim})", "scale it down"
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        if out_of_memory.caused(error):
            raise
        reason = printable(str(error)) or type(error).__name__
        what, remedy = f"is damaged and cannot be decoded ({reason})", _COPY_AGAIN
    raise InputError(Problem(printable(name), what, remedy))


def resized_size(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """(width, height) after resizing so that the short side is `resolution`."""
    width, height = size
    short = min(width, height)
    return round(width * resolution / short), round(height * resolution / short)


def resize(image: Image.Image, resolution: int, interpolation: str = "lanczos") -> Image.Image:
    """Resize `image` so that its short side is `resolution` pixels. interpolation: a key of `INTERPOLATIONS`."""
    return resize_to(image, resized_size(image.size, resolution), interpolation)


def resize_to(image: Image.Image, size: tuple[int, int], interpolation: str = "lanczos") -> Image.Image:
    """Resize `image` to (width, height)."""
    return image if size == image.size else image.resize(size, INTERPOLATIONS[interpolation])


def crop(image: Image.Image, left: int, top: int, width: int, height: int, flip: bool) -> np.ndarray:
    """The rectangle of this size at (left, top), flipped left to right if `flip`: np.uint8 [height, width, 3], or
    [height, width] in mode L."""
    assert 0 <= left <= image.width - width and 0 <= top <= image.height - height, (image.size, left, top, width, height)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))
    return np.ascontiguousarray(pixels[:, ::-1]) if flip else pixels.copy()


def opened(stream: BinaryIO) -> Image.Image:
    """The Pillow image in a file of `FORMATS` or HEIF, not decoded yet. Raises the exceptions of Pillow's readers."""
    start = stream.read(START)
    stream.seek(0)
    if start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS and b"avi" not in start[16:64]:
        try:
            from pillow_heif.as_plugin import HeifImageFile
        except ImportError:
            raise _Refused("is a HEIC image, but pillow-heif is not installed", "pip install pillow-heif") from None
        if start[8:12] in SEQUENCES:
            raise _Refused("is an animation (a HEIF sequence)", "save one frame as a separate image")
        return HeifImageFile(stream)
    try:
        return Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        raise UnidentifiedImageError(_kind(start)) from None


def _kind(start: bytes) -> str:
    """The kind of a file, from its first bytes; empty if unknown."""
    if kind := kind_of(start):
        return kind
    words = start.decode("utf-8", "ignore")
    return "a text file" if len(words) > 3 and all(each.isprintable() or each.isspace() for each in words) else ""


def _what_else(kind: str) -> tuple[str, str]:
    """(what is wrong, remedy) for a file that is not an image in a supported format."""
    if not kind or kind.removeprefix("a ").removesuffix(" image") in FORMATS:  # it starts like one
        return "is not an image in a supported format", f"{_EXPORT}, or remove it"
    remedy = f"{_EXPORT}, or remove it" if kind.endswith(("image", "file")) else "replace it by the image itself, or remove it"
    what = f"is {kind}" if kind in REMEDIES else f"is {kind}, not an image in a supported format"
    return what, REMEDIES.get(kind, remedy)


def _read(source: Path | str | bytes | Image.Image, convert: Convert | None, remarks: list[str]) -> Image.Image:
    if isinstance(source, Image.Image):
        _check_header(source)
        return _converted(source, convert, colours_of(source), remarks)
    with io.BytesIO(source) if isinstance(source, bytes) else _image_file(Path(source)) as stream:
        if cost := too_costly(stream):
            raise _Refused(f"{cost}: it would take minutes to decode", _COPY_AGAIN)
        with opened(stream) as image:
            _check_header(image)
            colours = colours_of(image, stream)
            whole = image.format == "GIF" or covers_all(image)  # a frame of a GIF may be a part of the screen
            if image.format in ANIMATED and getattr(image, "is_animated", False):
                remarks.append(FIRST_FRAME)
            image.load()
            if not whole or not is_whole(stream, image):
                raise _Refused("is damaged: it ends too early, or its last pixels are not as they were written", _COPY_AGAIN)
            return _converted(image, convert, colours, remarks)


def _image_file(path: Path) -> io.BufferedReader:
    if path.is_dir():
        raise _Refused("is a folder, not an image", missing_path.image_remedy(str(path)))
    try:
        stream = regular_file(path)
        size = os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        what = "is a broken link" if path.is_symlink() else "does not exist"
        raise _Refused(what, missing_path.image_remedy(str(path))) from None
    except (OSError, ValueError) as error:
        raise _Refused(f"cannot be read: {getattr(error, 'strerror', None) or error}", _COPY_AGAIN) from None
    if 0 < size <= MAX_BYTES:
        return stream
    stream.close()
    raise _Refused(f"has {size:,} bytes, more than {MAX_BYTES:,}" if size else "is empty (0 bytes)", _COPY_AGAIN)


def _converted(image: Image.Image, convert: Convert | None, colours: Colours, remarks: list[str]) -> Image.Image:
    rgb = convert(image) if convert else _opaque_rgb(image, colours, remarks)
    turn = _TURNS.get(_orientation(image))
    upright = rgb if turn is None else rgb.transpose(turn)
    for what in ("icc_profile", "gamma", "chromaticity", "srgb"):  # these describe the colours before conversion
        upright.info.pop(what, None)
    return upright


def _check_header(image: Image.Image) -> None:
    """Refuse, before decoding, images that are too large, too long, of several pages, or cannot be converted to 8 bits."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _Refused(f"has {width} x {height} pixels, more than {MAX_PIXELS:,}", "scale it down")
    if max(width, height) >= MAX_RATIO * min(width, height):
        raise _Refused(f"has {width} x {height} pixels, an aspect ratio of 1:{MAX_RATIO} or more", "crop it")
    # a camera's file may contain previews after the image itself
    if image.format not in ("MPO", "HEIF", *ANIMATED) and (frames := count_frames(image)) > 1:
        raise _Refused(
            f"has {frames}{' or more' * (frames == MOST_FRAMES)} frames or pages",
            "save one of them as a separate image",
        )
    tags = getattr(image, "tag_v2", {})
    if image.format == "TIFF" and (_DNG_VERSION in tags or tags.get(_TIFF_SUBFILE_TYPE, 0) == 1):
        raise _Refused("is a camera's raw file with only a readable preview", "export it as JPEG or PNG")
    if image.mode in ("I", "F"):
        what = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        remedy = "save it with 8 or 16 bits per channel"
        raise _Refused(f"has {what} as pixels: the values of black and white are unknown", remedy)
    if "transparency" in image.info and _raw_mode(image) in ("L;2", "L;4", "RGB;16B"):
        what = "marks a colour as transparent at a bit depth for which Pillow loses it"
        raise _Refused(what, "save it with an alpha channel")


def _raw_mode(image: Image.Image) -> str | None:
    tiles = getattr(image, "tile", None)
    return tiles[0].args if tiles and isinstance(tiles[0].args, str) else None


def _opaque_rgb(image: Image.Image, colours: Colours, remarks: list[str]) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _from_16_bit(image)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("L", "LA") else "RGBA")
        alpha, image = image.getchannel("A"), image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode == "LAB":
        colours = Colours()  # LAB is independent of any profile
    if image.mode not in SPACES:
        image = image.convert("L" if image.mode == "1" else "RGB")
    rgb, remark = to_srgb(image, colours)
    if remark:
        remarks.append(remark)
    if alpha is None:
        return rgb
    flat = Image.new("RGB", image.size, BACKGROUND)
    flat.paste(rgb, mask=alpha)
    return flat


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey (12-bit in some TIFFs) to mode L: round(value * 255 / largest value), `BACKGROUND` if transparent."""
    tags = getattr(image, "tag_v2", {})
    largest = 4095 if tags.get(_TIFF_BITS_PER_SAMPLE) in (12, (12,)) else 65535
    values = np.arange(65536, dtype=np.int64).clip(max=largest)
    grey = ((values * 510 + largest) // (2 * largest)).astype(np.uint8)
    if tags.get(_TIFF_PHOTOMETRIC) == 0:  # white is zero
        grey = 255 - grey
    if "transparency" in image.info:
        grey[image.info["transparency"]] = BACKGROUND[0]
    return Image.fromarray(grey[np.asarray(image)])


def with_alpha(image: Image.Image) -> Image.Image:
    """The image in mode RGBA if it has transparency, otherwise in mode RGB."""
    if image.has_transparency_data and not image.mode.startswith("I;16"):
        return image.convert("RGBA")
    return _opaque_rgb(image, Colours(), [])


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) if there is none or the EXIF data are broken."""
    try:
        value = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # broken EXIF data do not affect the pixels
        return 1
    return value if isinstance(value, int) else 1
