"""Files as strangers and accidents make them, made by code: pictures that are refused, accepted and ignored, and pickles."""

import io
import json
import os
import pickle
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = (48, 40)
PLAIN = np.random.default_rng(7).integers(0, 256, (40, 48, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(PLAIN[:3, :4]).resize(SIDE, Image.Resampling.BILINEAR))
"""What JPEG keeps within a few levels."""


def encoded(image: Image.Image | np.ndarray, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG written by hand. rows: the filter byte and the samples of each row."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


@cache
def refused() -> dict[str, bytes]:
    """Pictures that stop a run, by name."""
    jpeg, whole = encoded(SMOOTH, "JPEG", quality=95), encoded(PLAIN, "PNG")
    bomb = png(30000, 30000, 1, 0, b"")
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 26), 1))
    few_rows = b"".join(b"\0" + row.tobytes() for row in PLAIN[:20])
    height = jpeg.index(b"\xff\xc0") + 5
    frames = {"save_all": True, "append_images": [Image.fromarray(PLAIN[::-1].copy())]}
    return {
        "zero_bytes.png": b"",
        "text.jpg": b"this is no picture\n",
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "no_end.jpg": jpeg[:-2],
        "cut.png": whole[: len(whole) // 2],
        "bit_in_data.png": flipped(whole, len(whole) // 2),
        "bit_in_header.png": flipped(whole, 18),
        "bit_in_marker.jpg": flipped(jpeg, 1),
        "float.tiff": encoded(Image.fromarray(np.linspace(0, 1, 1920, dtype=np.float32).reshape(40, 48)), "TIFF"),
        "integers.tiff": encoded(Image.new("I", SIDE), "TIFF"),
        "bomb_13000.png": png(13000, 13000, 1, 0, bytes(13000 * 1626)),
        "bomb_30000.png": bomb,
        "lying_size.png": png(*SIDE, 8, 2, few_rows),
        "lying_size.jpg": jpeg[:height] + struct.pack(">H", 90) + jpeg[height + 2 :],
        "closed_too_early.jpg": jpeg[: len(jpeg) * 3 // 4] + jpeg[-2:],
        "text_chunk_bomb.png": png(1, 1, 8, 0, b"\0\0", comment),
        "huge_screen.png": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\2L\1\0;",
        "size_2_31.png": png(2**31 - 1, 2**31 - 1, 8, 0, b""),
        "animated.png": encoded(PLAIN, "PNG", **frames),
        "animated.webp": encoded(PLAIN, "WEBP", **frames),
        "moving.gif": encoded(PLAIN, "GIF"),
        "wide.png": encoded(np.zeros((4, 400), np.uint8), "PNG"),
        "tall.png": encoded(np.zeros((100, 10), np.uint8), "PNG"),
    }


def put_special_files(folder: Path) -> list[str]:
    """Names under which something is that is no file of its own: a pipe, a socket, links. All stop a run."""
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # the address has room for 108 bytes
        try:
            server.bind("socket.png")
        finally:
            os.chdir(here)
    os.symlink("/dev/zero", folder / "device.png")
    os.symlink("loop.png", folder / "loop.png")
    os.symlink("gone.png", folder / "dangling.png")
    return ["pipe.png", "socket.png", "device.png", "loop.png", "dangling.png"]


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # the table of the EXIF standard: (0th row, 0th column)
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@cache
def accepted() -> dict[bytes, tuple[bytes, np.ndarray, int]]:
    """Pictures to learn from, by name: (file, what its pixels are, within so many levels)."""
    ramp = np.linspace(0, 65535, 1920).astype(np.uint16).reshape(40, 48)
    clear = np.dstack([np.full((40, 48, 3), (255, 0, 255), np.uint8), np.zeros((40, 48), np.uint8)])
    clear[:20, :, :3], clear[:20, :, 3] = PLAIN[:20], 255
    flat = PLAIN.copy()
    flat[20:] = 255
    ink = Image.fromarray(np.dstack([255 - SMOOTH, np.zeros((40, 48), np.uint8)]), "CMYK")
    broken = {"exif": b"Exif\0\0II*\0garbage", "icc_profile": b"\xff" * 40}
    grey = np.dstack([np.rint(ramp / 257).astype(np.uint8)] * 3)
    plain = encoded(PLAIN, "PNG")
    return {
        **{f"exif_{n}.png".encode(): (encoded(PLAIN, "PNG", exif=exif(n)), turn(PLAIN), 0) for n, turn in UPRIGHT.items()},
        b"exif_6.jpg": (encoded(SMOOTH, "JPEG", quality=95, exif=exif(6)), UPRIGHT[6](SMOOTH), 12),
        b"cmyk.jpg": (encoded(ink, "JPEG", quality=95), SMOOTH, 12),
        b"cmyk.tiff": (encoded(ink, "TIFF"), SMOOTH, 1),
        b"grey_16_bit.png": (encoded(ramp, "PNG"), grey, 0),
        b"hidden_magenta.png": (encoded(clear, "PNG"), flat, 0),
        b"hidden_magenta.webp": (encoded(clear, "WEBP", lossless=True, exact=True), flat, 0),
        b"broken_metadata.png": (encoded(PLAIN, "PNG", **broken), PLAIN, 0),
        b"broken_metadata.jpg": (encoded(SMOOTH, "JPEG", quality=95, **broken), SMOOTH, 12),
        "köttbullar \N{GRINNING FACE}.png".encode(): (plain, PLAIN, 0),
        b"line\nbreak.png": (plain, PLAIN, 0),
        b"not \xff utf-8.png": (plain, PLAIN, 0),
        b"UPPER.PNG": (plain, PLAIN, 0),
    }


def put_ignored(folder: Path) -> list[str]:
    """Puts files into a folder that are none of a run's business; returns the names that it tells."""
    for name in (".DS_Store", "._a.png", ".hidden.jpg", "Thumbs.db", "notes.md", "alone.txt", "weights.bin"):
        (folder / name).write_bytes(b"\xff\0")
    (folder / "sub").mkdir()
    (folder / "sub" / "c.png").write_bytes(encoded(PLAIN, "PNG"))
    return ["Thumbs.db", "alone.txt", "notes.md", "weights.bin", "sub"]


class Hostile:
    """Unpickled, it makes the file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return open, (str(self.canary), "w")


def pickles(canary: Path) -> dict[str, bytes]:
    """Pickles of every kind that make the file `canary` when they are loaded."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:  # as torch.save writes it
        file.writestr("archive/data.pkl", pickle.dumps(Hostile(canary), 2))
        file.writestr("archive/version", "3\n")
    legacy = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}, Hostile(canary)))
    plain = {f"protocol {protocol}": pickle.dumps(Hostile(canary), protocol) for protocol in (0, 1, 2, 4, 5)}
    return {**plain, "torch": archive.getvalue(), "torch before 1.6": legacy}


A = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def safetensors(header: object, num_bytes: int = 24) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(num_bytes)


def bad_safetensors() -> dict[str, tuple[bytes, str]]:
    """Files that no header describes, by fault: (file, the cause in words)."""
    b = {"dtype": "F32", "shape": [1], "data_offsets": [24, 28]}
    whole = safetensors({"a": A})
    return {
        "empty": (b"", "not a complete safetensors file"),
        "seven bytes": (whole[:7], "not a complete safetensors file"),
        "cut in the header": (whole[:30], "not a complete safetensors file"),
        "cut in the data": (whole[:-1], "wrong size"),
        "too long": (whole + b"\0", "wrong size"),
        "header longer than the file": ((1 << 20).to_bytes(8, "little") + whole[8:], "not a complete safetensors file"),
        "header of 2^63 bytes": ((1 << 63).to_bytes(8, "little") + whole[8:], "not a complete safetensors file"),
        "overlap": (safetensors({"a": A, "b": b | {"data_offsets": [20, 24]}}), "overlap"),
        "gap": (safetensors({"a": A, "b": b | {"data_offsets": [28, 32]}}, 32), "gap"),
        "negative offset": (safetensors({"a": A | {"data_offsets": [-24, 0]}}), "whole numbers of at least 0"),
        "backwards": (safetensors({"a": A | {"data_offsets": [24, 0]}}), "gap"),
        "shape": (safetensors({"a": A | {"shape": [2, 4]}}), "do not fit its shape"),
        "huge shape": (safetensors({"a": A | {"shape": [1 << 40, 1 << 40]}}), "do not fit its shape"),
        "huge size": (safetensors({"a": A | {"shape": [1 << 60], "data_offsets": [0, 1 << 62]}}), "wrong size"),
        "many axes": (safetensors({"a": A | {"shape": [1] * 100}}), "axes"),
        "unknown dtype": (safetensors({"a": A | {"dtype": "Q4_K"}}), "unknown dtype"),
        "twice": (safetensors(b'{"a": %s, "a": %s}' % ((json.dumps(A).encode(),) * 2)), "twice"),
        "deep": (safetensors(b"[" * 200_000), "brackets are nested too deeply"),
        "deep objects": (safetensors(b'{"a":' * 200_000), "brackets are nested too deeply"),
        "not UTF-8": (safetensors(b'{"\xff": 1}'), "not UTF-8"),
        "not JSON": (safetensors(b"{'a': 1}"), "not JSON"),
        "infinite": (safetensors(b'{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 24]}}'), "whole numbers"),
        "minus zero": (safetensors(b'{"a": {"dtype": "F32", "shape": [6], "data_offsets": [-0, 24]}}'), "whole numbers"),
        "no offsets": (safetensors({"a": {"dtype": "F32", "shape": [6]}}), "no dtype, shape and data_offsets"),
        "a list": (safetensors([A]), "not a JSON object"),
        "web page": (b"<!DOCTYPE html><html>not found</html>", "not a safetensors file"),
    }  # fmt: skip
