"""Reads a file of concepts: a list of tables in JSON, as scripts for several subjects take it by `--concepts_list`."""

import json
from pathlib import Path
from typing import Any

from customize.errors import InputError, Problem
from customize.storage.untrusted_files import NotText, read_text, reason

MAX_BYTES = 1_000_000


def read_concepts(path: str) -> list[dict[str, Any]]:
    """The tables in the file. Raises InputError."""
    remedy = 'give a list such as [{"instance_prompt": "a photo of sks dog", "instance_data_dir": "dog"}]'
    try:
        found = json.loads(read_text(Path(path), MAX_BYTES))
        what = "" if isinstance(found, list) and all(isinstance(each, dict) for each in found) else "is no list of tables"
    except NotText as error:
        what = str(error)
    except RecursionError:
        what = "nests too deeply"
    except OSError as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {reason(error)}"
    except ValueError as error:
        what = f"is not JSON: {error}"
    what = what or ("" if found else "has no concepts")
    if what:
        raise InputError(Problem("concepts_list", f"{path} {what}", remedy))
    return found
