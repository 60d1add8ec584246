"""Detects images that would take minutes to decode, by counting their parts before decoding.

Images written by cameras and programs are far below these limits.
"""

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

MOST_SCANS = 100
"""Scans of a progressive JPEG, each over all pixels; programs write 10 to 40."""
MOST_SCANNED = 1_000_000_000
"""Pixels times scans."""
MOST_PARTS = 50_000
"""Segments of a JPEG's header, chunks of a PNG, strips or tiles of a TIFF."""
MOST_FILL = 10_000
"""Meaningless bytes of 0xFF before the markers of a JPEG."""
MOST_FRAMES = 100
MOST_RLE_BYTES = 2_000_000
"""Size of a BMP with run-length codes, which Pillow decodes run by run."""
FILL, NEXT_MARKER = re.compile(rb"\xff+"), re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
SIZE_MARKERS = range(0xC0, 0xD0)
STRIPS, TILES = 273, 324


def too_costly(stream: BinaryIO) -> str | None:
    """Why the file would take minutes to decode; None if it would not. Rewinds the stream."""
    start = stream.read(16)
    stream.seek(0)
    if start.startswith(b"\xff\xd8"):
        found = jpeg_cost(stream.read())
    elif start.startswith(b"\x89PNG"):
        parts = sum(1 for _ in zip(range(MOST_PARTS + 1), png_chunks(stream), strict=False))
        found = f"has more than {MOST_PARTS:,} chunks" if parts > MOST_PARTS else None
    elif start[:4] in (b"II*\0", b"MM\0*"):
        found = tiff_cost(stream)
    elif start.startswith(b"BM"):
        header = stream.read(34)
        coded, size = header[30:31] in (b"\1", b"\2"), stream.seek(0, 2)
        found = f"has {size:,} bytes of run-length codes" if coded and size > MOST_RLE_BYTES else None
    else:
        found = None
    stream.seek(0)
    return found


def jpeg_cost(data: bytes) -> str | None:
    """The problem of a JPEG with too many scans, segments or fill bytes."""
    place, parts, scans, pixels, fills = 2, 0, 0, 0, 0
    while (fill := FILL.match(data, place)) and parts <= MOST_PARTS:
        fills += fill.end() - place - 1
        if fills > MOST_FILL:
            return f"has {fills:,} fill bytes before its markers"
        place, parts = fill.end() + 1, parts + 1
        kind = data[fill.end()] if fill.end() < len(data) else 0xD9
        if kind == 0xD9:
            return None
        if kind == 1 or 0xD0 <= kind <= 0xD8:
            continue
        if kind in SIZE_MARKERS and kind not in (0xC4, 0xC8, 0xCC):
            pixels = int.from_bytes(data[place + 3 : place + 5]) * int.from_bytes(data[place + 5 : place + 7])
        place += int.from_bytes(data[place : place + 2])
        if kind == 0xDA:
            scans += 1
            if scans > MOST_SCANS or scans * pixels > MOST_SCANNED:
                return f"has {scans} scans or more, each over all of its pixels"
            place = found.start() if (found := NEXT_MARKER.search(data, place)) else len(data)
    return f"has more than {MOST_PARTS:,} segments" if parts > MOST_PARTS else None


def png_chunks(stream: BinaryIO) -> Iterator[bytes]:
    """The types of the chunks of a PNG."""
    stream.seek(8)
    while len(header := stream.read(8)) == 8:
        yield header[4:]
        stream.seek(int.from_bytes(header[:4]) + 4, 1)


def tiff_cost(stream: BinaryIO) -> str | None:
    """The problem of a TIFF with too many strips or tiles in its first page."""
    order = "<" if stream.read(4)[:1] == b"I" else ">"
    stream.seek(int.from_bytes(stream.read(4), "little" if order == "<" else "big"))
    entries = int.from_bytes(stream.read(2), "little" if order == "<" else "big")
    table = stream.read(12 * entries)
    for tag, _, count in struct.iter_unpack(f"{order}HHI4x", table[: len(table) // 12 * 12]):
        if tag in (STRIPS, TILES) and count > MOST_PARTS:
            return f"is cut into {count:,} strips or tiles"
    return None


def count_frames(image) -> int:
    """The number of frames or pages of an opened image; up to `MOST_FRAMES` for a TIFF, whose pages are counted one by one."""
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1)
    count = 1
    try:
        while count < MOST_FRAMES:
            image.seek(count)
            count += 1
    except Exception:  # the end of the pages, or a damaged page: Pillow's reader raises nearly anything
        pass
    image.seek(0)
    return count
