"""Checks that an image file contains all of its pixels, undamaged.

Decoders stop when the last row is full, without checking the checksums after it, and fill missing rows with black (PNG,
TIFF) or middle grey (JPEG). Only an image that ends like that is read twice.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from PIL import Image, ImageFile

END_OF_JPEG = b"\xff\xd9"
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
MORE_OF_JPEG = b"\x55\xaa\x33\xcc" * 64
"""Code that draws something if blocks are missing, and nothing if the image is complete."""
MIDDLE_GREY = range(126, 131)
SAMPLES_OF_PNG = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""For each pass: left and top of its first pixel, and the steps across and down (PNG specification, 8.2)."""


def covers_all(image: Image.Image) -> bool:
    """Whether the tiles listed in the file reach the right and lower edges. Call it before the image is decoded."""
    extents = [tile[1] for tile in getattr(image, "tile", ()) if tile[1]]
    reach = [max(extent[side] for extent in extents) for side in (2, 3)] if extents else image.size
    return reach[0] * reach[1] >= image.width * image.height  # in a TIFF they may be rotated


def is_whole(stream: BinaryIO, image: ImageFile.ImageFile) -> bool:
    """Whether the file of a decoded image contains its end and its last row. stream: the file; its position may change."""
    if image.format == "PNG":
        ends_in_black = not any(_last_rows(image))
        return _sums_hold(stream) and not (ends_in_black and _inflated(stream, announced := _announced(stream)) < announced)
    if image.format in ("JPEG", "MPO"):
        return _is_closed_jpeg(stream, image)
    return True


def _last_rows(image: Image.Image) -> bytes:
    """The last two rows: the last pass of an interlaced image contains every other row."""
    return image.crop((0, max(0, image.height - 2), image.width, image.height)).tobytes()


def _last_pixel(image: Image.Image) -> bytes:
    return image.crop((image.width - 1, image.height - 1, image.width, image.height)).tobytes()


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(kind, data, checksum) of the critical chunks of a PNG (their kinds start with a capital)."""
    stream.seek(8)
    while len(header := stream.read(8)) == 8:
        size, kind = struct.unpack(">I4s", header)
        if kind[:1].isupper():
            yield kind, stream.read(size), stream.read(4)
        else:
            stream.seek(size + 4, io.SEEK_CUR)


def _sums_hold(stream: BinaryIO) -> bool:
    for kind, data, check_sum in _chunks(stream):
        if zlib.crc32(data, zlib.crc32(kind)).to_bytes(4) != check_sum:
            return False
        if kind == b"IEND":
            return True
    return False


def _inflated(stream: BinaryIO, most: int) -> int:
    """The number of bytes of pixels in the file, decompressed in pieces, up to about `most`."""
    inflater, length = zlib.decompressobj(), 0
    for data in (data for kind, data, _ in _chunks(stream) if kind == b"IDAT"):
        while data and length < most:
            length += len(inflater.decompress(data, 1 << 20))
            data = inflater.unconsumed_tail
    return length


def _announced(stream: BinaryIO) -> int:
    """The number of bytes of pixels according to the header of a PNG, including one byte per row for its filter."""
    stream.seek(16)
    width, height, depth, colour, interlaced = struct.unpack(">IIBBxxB", stream.read(13))
    bits = depth * SAMPLES_OF_PNG[colour]
    passes = (
        [(len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in ADAM7] if interlaced else [(width, height)]
    )
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in passes if columns)


def _is_closed_jpeg(stream: BinaryIO, image: ImageFile.ImageFile) -> bool:
    """Whether the image has an end, and more code before it draws nothing."""
    stream.seek(0)
    data = stream.read()
    if not (end := _end_of_jpeg(data)):
        return False
    if "progressive" not in image.info and not set(_last_pixel(image)) <= set(MIDDLE_GREY):
        return True
    with Image.open(io.BytesIO(data[:end] + MORE_OF_JPEG + END_OF_JPEG), formats=("JPEG",)) as longer:
        longer.load()
        return longer.tobytes() == image.tobytes()


def _end_of_jpeg(data: bytes) -> int:
    """The end of the first image in the file, skipping previews in its metadata; 0 if there is none."""
    place = 2
    while data[place : place + 1] == b"\xff":
        kind = data[place + 1 : place + 2]
        if kind == END_OF_JPEG[1:]:
            return place
        place += 1 if kind == b"\xff" else 2 + int.from_bytes(data[place + 2 : place + 4])
        if kind == b"\xda":  # pixels follow
            found = MARKER.search(data, place)
            place = found.start() if found else len(data)
    return 0
