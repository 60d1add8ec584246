"""Saves complete models as a single .safetensors file in the original (LDM) layout, which ComfyUI, A1111 and others read."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from customize.families.files.ldm_header import MODELSPEC
from customize.families.files.single_file import original_tensors
from customize.storage.atomic import new_file
from customize.storage.run_folder import METADATA, MODEL
from customize.storage.tensor_files import Plan, plan_of, write_tensors

if TYPE_CHECKING:
    from customize.families.base import Family
    from customize.families.files.ldm_header import Layout


def save_model_file(path: Path, family: "Family", metadata: dict[str, str], precision: str = "fp32") -> list[Path]:
    """Writes the networks of a family into a new file, one tensor at a time, with the metadata, the resolution and the prediction
    type.

    Raises InputError for a model that no single file can hold.
    """
    plan = planned(path, family, metadata, precision)
    with new_file(path, plan.size) as unfinished:
        write_tensors(unfinished, plan, tensors_of(family))
    return [path]


def model_file_sizes(family: "Family", metadata: dict[str, str], precision: str = "fp32") -> dict[str, int]:
    """Bytes of the file that `save_model_file` would write, to within its further metadata, and of the metadata beside it."""
    size = planned(Path(MODEL), family, metadata, precision, on_meta=True).size
    return {MODEL: size, METADATA: len(metadata["customize"].encode())}


def planned(path: Path, family: "Family", metadata: dict[str, str], precision: str, on_meta: bool = False) -> Plan:
    """The plan of the file. on_meta: by shapes alone, without looking for numbers that are too large for the precision."""
    layout = layout_of(family)
    own = {"modelspec.resolution": f"{layout.resolution}x{layout.resolution}"}
    own |= {"modelspec.prediction_type": MODELSPEC[layout.prediction_type]}
    tensors = ((name, tensor.to("meta") if on_meta else tensor) for name, tensor in tensors_of(family))
    return plan_of(tensors, {**metadata, **own}, precision, path.name)


def tensors_of(family: "Family") -> Iterator[tuple[str, Tensor]]:
    """(name in the file, tensor) of all networks."""
    return original_tensors(family.components, layout_of(family))


def layout_of(family: "Family") -> "Layout":
    """The layout of the family's file. Raises InputError where it has none."""
    networks = {
        part: network.config.to_dict() if hasattr(network.config, "to_dict") else dict(network.config)
        for part, network in family.components.items()
    }
    return family.spec.single_file_layout({**networks, "scheduler": dict(family.scheduler.config)}, family.name)
