"""Reads text files with captions: UTF-8, or UTF-16 with a byte order mark."""

from pathlib import Path

from customize.data.findings import Findings
from customize.printable import printable
from customize.storage.untrusted_files import kind_of, regular_file

MAX_BYTES = 1 << 26


def read_text(path: Path, found: Findings) -> str | None:
    """The text of a file in UTF-8, or UTF-16 with a byte order mark, with \\n as line ends; otherwise None and a problem."""
    where, remedy = printable(str(path)), "save the file as UTF-8"
    try:
        with regular_file(path) as stream:
            data = stream.read(MAX_BYTES + 1)
        text = decoded(data)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        what = f"is not UTF-8 in line {line} (byte 0x{error.object[error.start]:02x})"
        shown = error.object.split(b"\n")[line - 1].decode("cp1252", "replace").strip()
        remedy += f" (it is Windows-1252 now if the line reads {printable(shown, 60)!r})" if shown.isprintable() else ""
        if kind := kind_of(data):
            what, remedy = f"is {kind}, not a text file", "replace it by a readable text file, or remove it"
        elif error.encoding.startswith("utf-16"):
            what = "is incomplete UTF-16"
    except OSError as error:
        what, remedy = f"cannot be read: {error.strerror or error}", "replace it by a readable text file, or remove it"
    else:
        if "\0" in text:
            what = "contains zero bytes, like UTF-16 without a byte order mark"
        elif len(data) > MAX_BYTES:
            what, remedy = f"is larger than {MAX_BYTES:,} bytes", "replace it by a file of captions, or remove it"
        else:
            return text
    found.problem(where, what, remedy)
    return None


def decoded(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark; line ends become \\n. Raises UnicodeDecodeError."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
