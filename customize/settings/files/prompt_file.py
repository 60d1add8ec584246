"""Prompts from a text file: one a line; blank lines and lines that begin with # are none."""

from pathlib import Path

from customize.errors import InputError, Problem
from customize.printable import printable
from customize.storage.untrusted_files import regular_file

SETTING = "prompt_file"
LARGEST = 10_000_000
MOST = 10_000


def read_prompts(path: str) -> tuple[str, ...]:
    """The prompts in a UTF-8 file (UTF-16 with its mark as well). Raises InputError that names the line at fault."""
    try:
        with regular_file(Path(path)) as stream:
            content = stream.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise InputError(Problem(SETTING, f"{printable(path)} cannot be read ({error})", "name a text file")) from error
    if len(content) > LARGEST:
        raise InputError(Problem(SETTING, f"{printable(path)} has more than {LARGEST:,} bytes", "name a file of prompts"))
    try:
        text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"{printable(path)} is no UTF-8 text (byte {error.start:,})"
        raise InputError(Problem(SETTING, what, "save it as UTF-8 text, a prompt a line")) from error
    prompts = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().startswith("--"):
            remedy = "give them on the command line for all prompts, and leave the prompt alone in its line"
            raise InputError(Problem(f"{printable(path)}:{number}", "holds options, which prompts in a file have not", remedy))
        if line.strip() and not line.lstrip().startswith("#"):
            prompts.append(line.strip())
    if not prompts:
        raise InputError(Problem(SETTING, f"{printable(path)} holds no prompt", "write one a line"))
    if len(prompts) > MOST:
        raise InputError(Problem(SETTING, f"{printable(path)} holds {len(prompts):,} prompts", f"give {MOST:,} at most"))
    return tuple(prompts)
