"""Loads checkpoints and intermediate weights of a run like its result. torch is imported only for loading."""

from pathlib import Path
from typing import TYPE_CHECKING

from customize.errors import InputError, Problem
from customize.printable import first_few
from customize.storage import checkpoint, run_folder

if TYPE_CHECKING:
    from torch import Tensor

    from customize.families.base import Family

SETTING = "weights"


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder was written by `checkpoint.save`."""
    return (folder / checkpoint.LEARNED).is_file() and (folder / checkpoint.STATE).is_file()


def weights_in(path: Path) -> Path:
    """The weights of a path: the file of trained weights of a checkpoint; the newest weights of a run without a result; those of
    RUN@STEP; any other path unchanged. Raises InputError for a damaged checkpoint, and for a run without an intact one."""
    path = run_folder.at_step(path)
    if path.is_dir() and is_checkpoint(path):
        if fault := checkpoint.broken(path):
            raise InputError(Problem(SETTING, f"{path}: {fault}", "give another checkpoint, or the run's result"))
        return path / checkpoint.LEARNED
    if not (path / run_folder.CONFIG).is_file() or has_result(path):
        return path
    checkpoints, weights = (checkpoint.every(path / each) for each in (run_folder.CHECKPOINTS, run_folder.WEIGHTS))
    candidates = sorted([*checkpoints, *weights], key=lambda each: (each.name, each in weights), reverse=True)
    for each in candidates:
        if not checkpoint.faults(each):
            return each / checkpoint.LEARNED if is_checkpoint(each) else each
    if not candidates:
        return path
    what = f"{path} has no result yet, and none of its checkpoints is intact: {first_few([each.name for each in candidates])}"
    raise InputError(Problem(SETTING, what, "customize verify reports what is wrong with each"))


def has_result(folder: Path) -> bool:
    """Whether a run's folder holds its result."""
    return run_folder.model_in(folder) is not None or any(
        any(folder.glob(pattern)) for pattern in ("learned_embeds*.safetensors", "pytorch_lora_weights*.safetensors")
    )


def put_into(family: "Family", path: Path, tensors: "dict[str, Tensor]", remedy: str) -> None:
    """Copies fully trained weights into the networks of a family. tensors: by NETWORK.PARAMETER, such as `unet.conv_in.weight`.

    Raises InputError for tensors that are not those of this base model.
    """
    mine = {
        f"{part}.{name}": parameter
        for part, network in family.trainable.items()
        for name, parameter in network.named_parameters()
    }
    wrong = sorted(name for name in tensors if name not in mine or mine[name].shape != tensors[name].shape)
    if wrong:
        raise InputError(Problem(SETTING, f"{path}: tensors do not fit this base model: {first_few(wrong, 3)}", remedy))
    for name, tensor in tensors.items():
        mine[name].data.copy_(tensor)
