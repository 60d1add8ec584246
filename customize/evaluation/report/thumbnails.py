"""The pictures of the report: small copies as data URIs, each of bounded size, with links to the files beside the page."""

import base64
import io
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image

from customize.data.images.image_file import open_image
from customize.evaluation import record
from customize.storage import checkpoint

PICTURES, BASE_PICTURES = "pictures", "base"
"""Folders in that of the record: probe pictures by step, and the base model's of the plain prompts."""
SMALL = 96
"""Images up to this side are enlarged without smoothing, so that their pixels are seen."""
KIB = 1 << 10


class Thumbnail(NamedTuple):
    """source: a data URI; link: the file, relative to the page, empty if it is not beside it; text: what it shows."""

    source: str
    link: str
    text: str
    is_small: bool


def of_file(path: Path, side: int, most: int, text: str = "", page: Path | None = None) -> Thumbnail | None:
    """The image in a file with a longer side of at most `side` pixels, in at most `most` bytes; None if it cannot be read.

    page: the folder of the page, for the link.
    """
    try:
        source, is_small = encoded(path, path.stat().st_mtime_ns, side, most)
    except (OSError, ValueError):  # InputError is a ValueError
        return None
    return Thumbnail(source, quote(path.relative_to(page).as_posix()) if page else "", text, is_small)


@lru_cache(maxsize=2048)
def encoded(path: Path, changed: int, side: int, most: int) -> tuple[str, bool]:
    """(data URI, whether the image has at most `SMALL` pixels a side). changed: when the file was; kept while a run goes on."""
    image = open_image(path)
    is_small = max(image.size) <= SMALL
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    if is_small and len(data := webp(image, lossless=True, method=4)) <= most:
        return uri(data), is_small
    for quality in (82, 60, 30):
        if len(data := webp(image, quality=quality)) <= most:
            return uri(data), is_small
    return encoded(path, changed, max(1, side // 2), most) if side > 16 else (uri(data), is_small)


def webp(image: Image.Image, **options) -> bytes:
    """The image in a WebP file."""
    file = io.BytesIO()
    image.save(file, "WEBP", **options)
    return file.getvalue()


def uri(data: bytes) -> str:
    """A WebP file as a data URI."""
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def probe_folder(run: Path, step: int, scale: float = 1.0) -> Path:
    """The folder of a candidate's probe pictures, which are named after their places in `Evaluation.pairs`."""
    suffix = "" if scale == 1 else f"@{scale:g}"
    return run / record.FOLDER / PICTURES / f"{checkpoint.name(step)}{suffix}"
