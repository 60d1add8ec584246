"""The text of a file of captions: UTF-8, or UTF-16 with a byte-order mark."""

from pathlib import Path

from customize.data.findings import Findings
from customize.printable import printable
from customize.storage.untrusted_files import kind_of, regular_file

MAX_BYTES = 1 << 26


def read_text(path: Path, found: Findings) -> str | None:
    """The text of a file in UTF-8, or in UTF-16 with byte-order mark, its line ends as \\n; None and a problem otherwise."""
    where, remedy = printable(str(path)), "save the file as UTF-8"
    try:
        with regular_file(path) as stream:
            data = stream.read(MAX_BYTES + 1)
        text = decoded(data)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        what = f"is not UTF-8 in line {line} (byte 0x{error.object[error.start]:02x})"
        shown = error.object.split(b"\n")[line - 1].decode("cp1252", "replace").strip()
        remedy += f" (if it reads {printable(shown, 60)!r}, it is Windows-1252 now)" if shown.isprintable() else ""
        if kind := kind_of(data):
            what, remedy = f"is {kind}, not a text file", "put a readable text file there, or take it out"
        elif error.encoding.startswith("utf-16"):
            what = "is UTF-16 that breaks off"
    except OSError as error:
        what, remedy = f"cannot be read: {error.strerror or error}", "put a readable text file there, or take it out"
    else:
        if "\0" in text:
            what = "holds zero bytes, as UTF-16 does"
        elif len(data) > MAX_BYTES:
            what, remedy = f"is larger than {MAX_BYTES:,} bytes", "put a file of captions there, or take it out"
        else:
            return text
    found.problem(where, what, remedy)
    return None


def decoded(data: bytes) -> str:
    """The text of UTF-8, or of UTF-16 that begins with its mark; line ends as \\n. Raises UnicodeDecodeError."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
