"""Which segmenter there is on this machine. Without torch: a wrong name is reported before anything loads."""

import os
from pathlib import Path

from customize.errors import InputError, Problem
from customize.evaluation.scorers.at_hand import FILES, cached
from customize.printable import printable
from customize.storage.json_files import read_object

CLIPSEG = "CIDAS/clipseg-rd64-refined"


def segmenter_folder(name: str | None) -> Path | None:
    """The folder of the segmenter; None if none is named and the usual one is not here. Raises InputError."""
    if name is None:
        return cached(CLIPSEG)
    folder = Path(os.path.expanduser(name))
    folder = folder if folder.is_dir() else cached(name)
    remedy = f"give a CLIPSeg as transformers saves it, or fetch one: hf download {CLIPSEG}"
    if folder is None:
        raise InputError(Problem("segmenter", f"{printable(name)} is no folder, and not in the hub's cache", remedy))
    if missing := [file for file in FILES if not (folder / file).is_file()]:
        raise InputError(Problem("segmenter", f"{printable(name)} has no {' and no '.join(missing)}", remedy))
    try:
        kind = read_object(folder / "config.json").get("model_type")
    except (OSError, ValueError) as error:
        raise InputError(Problem("segmenter", f"{printable(folder / 'config.json')}: {printable(error)}", remedy)) from error
    if kind != "clipseg":
        raise InputError(Problem("segmenter", f"{printable(name)} is {printable(repr(kind), 60)}, no CLIPSeg", remedy))
    return folder
