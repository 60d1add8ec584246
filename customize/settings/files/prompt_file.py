"""Prompts from a text file: one per line; blank lines and lines that start with # are skipped."""

from pathlib import Path

from customize.errors import InputError, Problem
from customize.printable import printable
from customize.storage.untrusted_files import regular_file

SETTING = "prompt_file"
LARGEST = 10_000_000
MOST = 10_000


def read_prompts(path: str) -> tuple[str, ...]:
    """The prompts in a UTF-8 file (or UTF-16 with a byte order mark). Raises InputError with the faulty line."""
    try:
        with regular_file(Path(path)) as stream:
            content = stream.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise InputError(Problem(SETTING, f"{printable(path)} cannot be read ({error})", "give a text file")) from error
    if len(content) > LARGEST:
        raise InputError(Problem(SETTING, f"{printable(path)} has more than {LARGEST:,} bytes", "give a file of prompts"))
    try:
        text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"{printable(path)} is not UTF-8 text (byte {error.start:,})"
        raise InputError(Problem(SETTING, what, "save it as UTF-8 text, one prompt per line")) from error
    prompts = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip().startswith("--"):
            remedy = "give options on the command line, where they apply to all prompts, and keep only the prompt in its line"
            raise InputError(
                Problem(f"{printable(path)}:{number}", "contains options, but only prompts are read from this file", remedy)
            )
        if line.strip() and not line.lstrip().startswith("#"):
            prompts.append(line.strip())
    if not prompts:
        raise InputError(Problem(SETTING, f"{printable(path)} contains no prompt", "write one per line"))
    if len(prompts) > MOST:
        raise InputError(Problem(SETTING, f"{printable(path)} contains {len(prompts):,} prompts", f"give at most {MOST:,}"))
    return tuple(prompts)
