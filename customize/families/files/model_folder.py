"""Identifies a folder that was given as a base model but is none: a part of a model, its parent folder, something else.

Only names and small configuration files are read; folders are searched to a depth of two.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from customize.errors import InputError, Problem
from customize.families.files.recognition import ADDED, BESIDE, SUPPORTED, WHOLE, other_network
from customize.printable import first_few, printable
from customize.storage.json_files import read_object

INDEX = "model_index.json"
MOST_ENTRIES = 2000
"""The largest number of names read from a folder."""
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".heic", ".tif", ".tiff", ".bmp")
CONVERT = "convert it to diffusers' folders or to one .safetensors file, and give that"
UNSAFE = "pickles can run code when they are loaded; convert it to .safetensors and give that file"
OTHER_FORMATS = {
    ".gguf": ("GGUF", "GGUF is not read: give the model as .safetensors or as a folder of diffusers"),
    ".onnx": ("ONNX", CONVERT), ".xml": ("OpenVINO", CONVERT), ".msgpack": ("Flax", CONVERT), ".h5": ("TensorFlow", CONVERT),
    ".mlmodelc": ("Core ML", CONVERT), ".mlpackage": ("Core ML", CONVERT), ".engine": ("TensorRT", CONVERT),
    ".ckpt": ("pickles", UNSAFE), ".pt": ("pickles", UNSAFE), ".pth": ("pickles", UNSAFE), ".bin": ("pickles", UNSAFE),
}  # fmt: skip
"""By the suffix of a weight file: its format, and the remedy."""
LEARNED = ("pytorch_lora_weights*.safetensors", "learned_embeds*.safetensors", "adapter_config.json", "adapter_model.safetensors")


def inside_cache(folder: Path) -> Path:
    """The folder itself; for a folder of the hub's cache (models--OWNER--NAME), its snapshot.

    Raises InputError if there are several and none is main.
    """
    root = folder.parent if folder.name == "snapshots" else folder
    if not (root / "snapshots").is_dir() or (folder / INDEX).is_file():
        return folder
    snapshots = sorted(path for path in subfolders(root / "snapshots"))
    try:
        main = (root / "refs/main").read_text(encoding="utf-8").strip() if (root / "refs/main").is_file() else ""
    except (OSError, UnicodeDecodeError):
        main = ""
    chosen = [path for path in snapshots if path.name == main] or snapshots
    if len(chosen) == 1:
        return chosen[0]
    names = first_few([path.name for path in chosen], 4)
    what = f"is a folder of the hub's cache with {f'several snapshots: {names}' if chosen else 'no snapshot'}"
    raise InputError(Problem(printable(folder), what, "give one of the folders in snapshots/, or the model's name on the hub"))


def no_model(folder: Path) -> Problem:
    """The problem of a folder without model_index.json: what it probably is, and the remedy."""
    where = printable(folder)
    what, remedy = next(signs(folder), ("contains no model: it has no model_index.json", WHOLE))
    return Problem(where, what, remedy)


def signs(folder: Path) -> Iterator[tuple[str, str]]:
    """What a folder may be, most reliable sign first."""
    files, folders = names_in(folder)
    if not files and not folders:
        yield f"is empty: no {INDEX}", WHOLE
    for place in (folder.parent, folder.parent.parent):
        if (place / INDEX).is_file() and folder.name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
            yield f"is one part of a model: no {INDEX}", f"give the folder above it: {printable(place)}"
    if repositories := [name for name in folders if name.startswith(("models--", "datasets--"))]:
        yield f"is the hub's cache of {len(repositories)} repositories", f"give one of them: {first_few(repositories, 5)}"
    if below := [name for name in folders if (folder / name / INDEX).is_file()]:
        yield f"contains no {INDEX}, but {first_few(below, 5)} in it", f"give {printable(folder / below[0])}"
    if any(next(folder.glob(pattern), None) for pattern in LEARNED):
        yield "contains learned weights, not a base model", ADDED
    if any(name.startswith("ip-adapter") for name in files) or "ip_adapter" in folders:
        yield "contains an IP-Adapter, not a base model", BESIDE
    yield from network_signs(folder, files)
    yield from single_file_signs(folder, files, folders)
    for suffix, (kind, remedy) in OTHER_FORMATS.items():
        if found := [name for name in (*files, *folders) if name.lower().endswith(suffix)]:
            yield f"contains only {kind} ({first_few(found, 3)}): no {INDEX}", remedy
    if sum(name.lower().endswith(IMAGES) for name in files) > 0:
        yield "contains images, not a model", "give it as the image folder, and a base model here"


def network_signs(folder: Path, files: list[str]) -> Iterator[tuple[str, str]]:
    """The sign of a folder with a single network."""
    if "config.json" not in files:
        return
    try:
        kind = other_network(read_object(folder / "config.json"))
    except (OSError, ValueError):
        return
    if kind:
        yield f"is {kind}, not a complete model: no {INDEX}", WHOLE if "alone" in kind else SUPPORTED


def single_file_signs(folder: Path, files: list[str], folders: list[str]) -> Iterator[tuple[str, str]]:
    """The single-file models in a folder and its subfolders, as ComfyUI and A1111 store them."""
    found = [name for name in files if name.endswith(".safetensors")]
    for name in folders if not found else ():
        found += [f"{name}/{file}" for file in names_in(folder / name)[0] if file.endswith(".safetensors")]
    if found:
        best = sorted(found, key=lambda name: ("checkpoint" not in name.lower() and "stable" not in name.lower(), name))
        what = f"contains no {INDEX}, but {len(found)} single file{'s' * (len(found) > 1)}: {first_few(best, 5)}"
        yield what, f"give the file itself: {printable(folder / best[0])}"


def names_in(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the files and of the subfolders in a folder, without hidden ones."""
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for _, entry in zip(range(MOST_ENTRIES), entries, strict=False):
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError:
        pass
    return sorted(files), sorted(folders)


def subfolders(folder: Path) -> list[Path]:
    """The subfolders of a folder."""
    return [folder / name for name in names_in(folder)[1]]
