"""Saves complete pipelines in diffusers' layout, and computes their size in advance."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from customize.library_logs import without_bars
from customize.storage.resources import safetensors_size
from customize.storage.run_folder import METADATA
from customize.storage.tensor_files import PRECISIONS, rounded

if TYPE_CHECKING:
    from customize.families.base import Family


def round_files(folder: Path, precision: str) -> None:
    """Rewrites the networks in a pipeline's folder in another number format."""
    for file in sorted(folder.glob("*/*.safetensors")):
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        save_file(rounded(load_file(file), precision, f"{file.parent.name}/{file.name}"), file, metadata)


def save_pipeline(folder: Path, family: "Family", metadata: dict[str, str], precision: str = "fp32") -> list[Path]:
    """Saves a complete pipeline in diffusers' layout into a temporary folder, which `storage.atomic` renames when it is complete.

    Parts of the base model that were never loaded, such as the safety checker, are copied.
    """
    with without_bars():
        family.pipeline().save_pretrained(folder, safe_serialization=True)
    if precision != "fp32":
        round_files(folder, precision)
    copy_unused(family, folder)
    if "customize" in metadata:
        (folder / METADATA).write_text(metadata["customize"], encoding="utf-8", newline="\n")
    return [folder / "model_index.json"]


def copy_unused(family: "Family", folder: Path) -> None:
    """Copies the parts of the base model that are never loaded, and their entries in model_index.json."""
    source = family.source
    kept = [part for part in family.spec.unused_parts if (source / part).is_dir()]
    if not kept:
        return
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    theirs = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
    for part in kept:
        shutil.copytree(source / part, folder / part)
        index[part] = theirs[part]
    index["requires_safety_checker"] = theirs.get("requires_safety_checker", True)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def pipeline_sizes(folder: Path, family: "Family", metadata: dict[str, str], precision: str = "fp32") -> dict[str, int]:
    """Bytes of each part that `save_pipeline` would write. Everything except the networks' weights is
    written to `folder` to measure it."""
    pipeline = family.pipeline()
    pipeline.save_config(folder)
    for part, component in pipeline.components.items():
        network = family.components.get(part)
        if hasattr(network, "save_config"):
            network.save_config(folder / part)
        elif component is not None:  # networks of transformers save only their config
            (network.config if network else component).save_pretrained(folder / part)
    sizes = {path.name: size_of(path) for path in sorted(folder.iterdir())}
    for part, network in family.components.items():
        tensors = {name: tensor.to("meta") for name, tensor in network.state_dict().items()}
        if precision != "fp32":
            tensors = {
                name: each.to(PRECISIONS[precision]) if each.is_floating_point() else each for name, each in tensors.items()
            }
        sizes[part] += safetensors_size(tensors, {"format": "pt"})
    sizes |= {part: size_of(family.source / part) for part in family.spec.unused_parts if (family.source / part).is_dir()}
    return sizes | {METADATA: len(metadata["customize"].encode())}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
