"""The images and captions of a dataset of the `datasets` library: on the hub, in a folder, or saved to disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from customize.data.captions.caption_tables import CAPTION_COLUMNS, DEFAULT_COLUMN, caption_texts
from customize.data.findings import Findings
from customize.errors import InputError, Problem
from customize.printable import first_few, printable
from customize.storage import out_of_memory

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True, eq=False)
class Row:
    """The image of one row, not read yet."""

    dataset_name: str
    index: int
    images: datasets.Dataset
    """One column, not decoded."""

    def __str__(self) -> str:
        return f"{self.dataset_name} row {self.index}"

    def read(self) -> Path | bytes:
        """The image's file, or its content. Raises InputError."""
        try:
            (cell,) = self.images[self.index].values()
        except Exception as error:  # of arrow, if the files are damaged or missing
            if out_of_memory.caused(error):
                raise
            what = f"cannot be read ({printable(str(error))})"
            raise InputError(Problem(printable(str(self)), what, "download or save the dataset again")) from error
        if cell and cell["bytes"]:
            return cell["bytes"]
        if cell and cell["path"]:
            return Path(cell["path"])
        raise InputError(Problem(printable(str(self)), "contains no image", "remove the row from the dataset"))


def load_dataset(name: str, config_name: str | None, found: Findings) -> datasets.Dataset | None:
    """The split "train" of a dataset, or its only split if saved to disk; None and a problem if loading fails."""
    import datasets

    folder = Path(name)
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            data = datasets.load_from_disk(name)
            if isinstance(data, dict) and len(data) > 1 and "train" not in data:
                raise ValueError(f"it has the splits {', '.join(data)}, but no split train")
            if isinstance(data, dict):
                data = data["train"] if "train" in data else next(iter(data.values()))
        else:
            data = datasets.load_dataset(name, config_name, split="train")
    except Exception as error:  # of any library: files, network, hub, arrow
        if out_of_memory.caused(error):
            raise
        reason = printable(str(error).strip().partition("\n")[0])
        what = f"cannot be loaded ({type(error).__name__}: {reason})"
        remedy = "check the name, dataset_config_name and the network, or give a folder with the dataset"
        found.problem(f"dataset_name {name}", what, remedy)
        return None
    if len(data) == 0:
        found.problem(f"dataset_name {name}", "has no rows", "choose one with images")
    return data


def image_rows(data: datasets.Dataset, name: str, image_column: str, found: Findings) -> tuple[Row, ...]:
    """The images of a dataset, in order."""
    import datasets

    if not isinstance(data.features.get(image_column), datasets.Image):
        _no_column(data, name, image_column, "with images", "image_column", found)
        return ()
    images = data.with_format(None).select_columns(image_column)
    images = images.cast_column(image_column, datasets.Image(decode=False))
    return tuple(Row(name, index, images) for index in range(len(images)))


def row_captions(data: datasets.Dataset, name: str, column: str, required: bool, found: Findings) -> dict[int, tuple[str, ...]]:
    """The captions of the rows that have some; if none has, a note, or a problem if they are `required`."""
    known = [name for name in CAPTION_COLUMNS if name in data.column_names]
    used = known[0] if column == DEFAULT_COLUMN and column not in data.column_names and known else column
    cells = data[used] if used in data.column_names else ()
    captions = {index: texts for index, cell in enumerate(cells) if (texts := caption_texts(cell))}
    if captions and used != column:
        found.note(name, f"captions are read from the column {used}; --caption_column selects another")
    if required and not captions:
        _no_column(data, name, column, "with captions", "caption_column", found)
    elif not captions:
        found.note(name, f"has no captions in a column {column!r} (its columns: {first_few(data.column_names)})")
    return captions


def _no_column(data: datasets.Dataset, name: str, column: str, kind: str, setting: str, found: Findings) -> None:
    what = f"has no column {printable(column)!r} {kind} (its columns: {first_few(data.column_names)})"
    found.problem(f"dataset_name {name}", what, f"give the right one as --{setting}")
