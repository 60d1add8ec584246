"""Safe reading of untrusted files: regular files of bounded size, identified by their first bytes.

A file is checked here before a library opens it: a named pipe would make the library wait forever, a link to a device would
fill the memory.
"""

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from customize.errors import InputError, Interrupted, Problem
from customize.printable import printable
from customize.storage import out_of_memory

T = TypeVar("T")

START = 512
"""The number of bytes that identify a file."""
KIB, MIB = 1 << 10, 1 << 20
NOT_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
LFS_POINTER, WEB_PAGE = "a Git LFS pointer, not the file itself", "a web page (HTML)"
REMEDIES = {
    LFS_POINTER: "get the file itself: run `git lfs pull` in its folder, or download it again",
    WEB_PAGE: "download the file itself: this is a web page about it, or a login page",
}
"""Remedies for files that are something else than their name says."""
PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
"""Suffixes of files that can run code when loaded."""
SIGNATURES = (
    (b"version https://git-lfs", LFS_POINTER),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"v/1\1", "an OpenEXR image"),
    (b"\0\0\1\0", "an icon (ICO)"),
    *((start, "a camera's raw file") for start in (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript file"),
    (b"GGUF", "a GGUF file (quantised weights of llama.cpp and ComfyUI-GGUF)"),
    (b"\x89HDF", "an HDF5 file (weights of Keras or TensorFlow)"),
    (b"\x08\x01\x12", "an ONNX file"),
    (b"PK\x03\x04", "a zip archive (PyTorch's pickles are zip archives too)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program for Windows"),
    (b"#!", "a script"),
    (b"SQLite format 3", "a database"),
    *((b"\x80" + bytes([protocol]), "a pickle, which can run code when loaded") for protocol in range(2, 6)),
)
BRANDS = {b"heim": "a HEIC image", b"heis": "a HEIC image", b"hevc": "a HEIF sequence", b"crx ": "a camera's raw file",
          b"avif": "an AVIF image", b"avis": "an AVIF image", b"heic": "a HEIC image", b"heix": "a HEIC image",
          b"mif1": "a HEIF image", b"msf1": "a HEIF image", b"qt  ": "a QuickTime video"}  # fmt: skip


class NotRegular(OSError):
    """A path that is not a regular file; `strerror` says what it is."""


class TooLarge(OSError):
    """A file that is larger than allowed."""


class NotText(ValueError):
    """A file that is not UTF-8 text. line: the first invalid one."""

    def __init__(self, what: str, line: int):
        self.line = line
        super().__init__(what)


def regular_file(path: Path | str, most: int | None = None) -> io.BufferedReader:
    """Open a regular file of at most `most` bytes for reading, without ever blocking.

    Raises OSError: NotRegular for pipes, sockets, devices and folders, TooLarge for larger files.
    """
    if "\0" in str(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    _refuse_others(os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        found = os.fstat(descriptor)  # another file may have got the name meanwhile
        _refuse_others(found.st_mode)
        if most is not None and found.st_size > most:
            raise TooLarge(0, f"has {found.st_size:,} bytes, more than {most:,}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path | str, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises OSError like `regular_file`."""
    with regular_file(path, most) as file:
        size = os.fstat(file.fileno()).st_size  # files of /proc have size 0 and may be endless
        return file.read(size)


def read_text(path: Path | str, most: int) -> str:
    """The text of a regular UTF-8 file of at most `most` bytes. Raises OSError, or NotText, which says what it is instead."""
    data = read_bytes(path, most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise NotText(f"is {kind_of(data) or 'not UTF-8 text'}", line) from None


def kind_of(start: bytes) -> str:
    """The kind of a file, from its first bytes (`START` are enough); empty if unknown."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WebP image"
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return "an AVI video"
    if start[4:8] == b"ftyp":
        return BRANDS.get(start[8:12], "an MP4 video")
    if start[4:16] == b"JXL \r\n\x87\n" or start[:2] == b"\xff\x0a":
        return "a JPEG XL image"
    for signature, kind in SIGNATURES:
        if start.startswith(signature):
            return kind
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return WEB_PAGE
    return "an XML or SVG file" if text.startswith((b"<?xml", b"<svg")) else ""


def reason(error: Exception) -> str:
    """Why a file cannot be read."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


@contextmanager
def refusing(where: object, remedy: str, what: str = "cannot be loaded") -> Iterator[None]:
    """Turn any exception of a library into InputError with the first line of its message; MemoryError passes through."""
    try:
        yield
    except (InputError, Interrupted, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of tokenizers, written in Rust, is not an Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if out_of_memory.caused(error):
            raise
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(Problem(printable(str(where)), printable(f"{what} ({cause})"), remedy)) from error


def unreadable(error: OSError) -> Problem:
    """The problem of a file or folder that the system refuses to open."""
    where = printable(str(error.filename or "a file"))
    return Problem(where, f"cannot be read ({error.strerror or error})", "fix its permissions, or give another one")


@contextmanager
def refusing_unreadable() -> Iterator[None]:
    """Turn a refusal of the system to open a file or folder into InputError."""
    try:
        yield
    except PermissionError as error:
        raise InputError(unreadable(error)) from error


def _refuse_others(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = NOT_FILES.get(stat.S_IFMT(mode), "something special")
        raise NotRegular(0, f"not a regular file but {kind}")


def attempt(one: Callable[[], T], problems: list[Problem]) -> T | None:
    """The result; None where InputError or OSError is raised, whose problems are added."""
    try:
        return one()
    except InputError as error:
        if out_of_memory.caused(error):
            raise
        problems += [each for each in error.problems if each not in problems]
    except OSError as error:
        if out_of_memory.caused(error):
            raise
        problems.append(unreadable(error))
    return None
