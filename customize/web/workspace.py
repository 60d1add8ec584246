"""The folders of the page: everything that it shows is a file below one of them."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from customize.errors import InputError
from customize.storage.run_folder import check_place

SERVED = ("runs", "images", "photos")
"""The folders whose files a browser may get."""


@dataclass(frozen=True)
class Workspace:
    """A folder with the results of runs and jobs."""

    folder: Path

    @property
    def runs(self) -> Path:
        """Run folders."""
        return self.folder / "runs"

    @property
    def images(self) -> Path:
        """Folders of generated images."""
        return self.folder / "images"

    @property
    def photos(self) -> Path:
        """Folders of uploaded photos, one for each thing that is taught."""
        return self.folder / "photos"

    @property
    def jobs(self) -> Path:
        """Jobs that wait, run or are done."""
        return self.folder / "jobs"

    def url(self, file: Path) -> str:
        """The address of a file in one of the `SERVED` folders, with its time of change, so that no browser shows an old one.

        Raises ValueError for any other path."""
        name = file.absolute().relative_to(self.folder.absolute()).as_posix()
        if name.partition("/")[0] not in SERVED:
            raise ValueError(f"{name} is not served")
        changed = file.stat().st_mtime_ns if file.exists() else 0
        return f"/files/{quote(name)}?v={changed:x}"

    def served(self, name: str) -> Path | None:
        """The regular file that an address names; None for anything else, wherever it leads."""
        top, _, rest = name.partition("/")
        if top not in SERVED or not rest or "\0" in name:
            return None
        root = os.path.realpath(self.folder / top)
        path = os.path.realpath(os.path.join(root, rest))
        hidden = any(part.startswith(".") for part in os.path.relpath(path, root).split(os.sep))
        inside = path.startswith(root + os.sep) and not hidden
        return Path(path) if inside and os.path.isfile(path) else None


def opened(folder: str | os.PathLike[str]) -> Workspace:
    """The workspace in a folder, which must exist and be writable. Raises InputError."""
    path = Path(os.path.expanduser(folder))
    problems = []
    for place in (path, *(path / name for name in (*SERVED, "jobs"))):
        try:
            check_place("FOLDER", place)
        except InputError as error:
            problems += error.problems
            break
    if problems:
        raise InputError(problems)
    return Workspace(path.absolute())
