"""Identifies the Stable Diffusion in a single .safetensors file of the original (LDM) layout, from its header alone."""

import re
from dataclasses import dataclass
from pathlib import Path

from customize.errors import InputError, Problem
from customize.families.files.recognition import ADDED, CHANNELS, MOST_TENSORS, SUPPORTED, other_tensors
from customize.storage.safetensors_header import Header, read_header

CONFIGS = Path(__file__).parents[1] / "configs"
UNET, VAE, TEXT_ENCODER = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
PARTS = {UNET: "UNet", VAE: "VAE", TEXT_ENCODER: "text encoder"}
CLIP, OPEN_CLIP = f"{TEXT_ENCODER}transformer.", f"{TEXT_ENCODER}model."
FIRST = f"{UNET}input_blocks.0.0.weight"
PREDICTION_TYPES = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
MODELSPEC = {"epsilon": "epsilon", "v_prediction": "v"}
"""How Stability AI's model specification writes prediction types."""


@dataclass(frozen=True)
class Layout:
    """The networks of a file. config: the folder of their configuration; prediction_type, resolution: of their training;
    channels: that the UNet takes, 4 or 9 (inpainting)."""

    config: Path
    prediction_type: str
    resolution: int
    channels: int = 4


def read_layout(file: Path, prediction_type: str | None = None) -> Layout:
    """Reads the version, prediction type and resolution from the names, shapes and metadata in the header.

    prediction_type: "epsilon" or "v_prediction", overrides the file. Without metadata, a 2.x file predicts v at 768
    pixels, a 1.x file epsilon at 512. Raises InputError for everything that is not Stable Diffusion 1.x or 2.x.
    """
    header = read_header(file)
    refuse_foreign(file, header)
    is_v1 = any(name.startswith(CLIP) for name in header.tensors)
    predicts = prediction_type or declared_prediction_type(file, header.metadata)
    declared_resolution = re.fullmatch(r"(\d+)(x\1)?", header.metadata.get("modelspec.resolution", ""))
    if is_v1:
        config, resolution = "sd15", 512
        predicts = predicts or "epsilon"
    else:
        small = predicts is None and declared_resolution and declared_resolution[1] == "512"
        predicts = predicts or ("epsilon" if small else "v_prediction")
        config, resolution = ("sd21_base", 512) if predicts == "epsilon" else ("sd21", 768)
    channels = header.tensors[FIRST].shape[1]
    return Layout(CONFIGS / config, predicts, int(declared_resolution[1]) if declared_resolution else resolution, channels)


def declared_prediction_type(file: Path, metadata: dict[str, str]) -> str | None:
    """The prediction type in the metadata: `modelspec.prediction_type` (Stability's model specification), `ss_v_prediction`."""
    if declared := metadata.get("modelspec.prediction_type"):
        if declared not in PREDICTION_TYPES:
            remedy = "name the prediction type in the settings, epsilon or v_prediction"
            raise InputError(Problem(str(file), f"says that it predicts {declared!r}, which is unknown", remedy))
        return PREDICTION_TYPES[declared]
    if declared := metadata.get("ss_v_prediction"):
        return "v_prediction" if declared.lower() in ("true", "1") else "epsilon"
    return None


def refuse_foreign(file: Path, header: Header) -> None:
    """Raises InputError unless the header is that of a whole Stable Diffusion 1.x or 2.x, text-to-image or inpainting."""

    def refuse(what: str, remedy: str) -> InputError:
        return InputError(Problem(str(file), what, remedy))

    names = header.tensors
    if len(names) > MOST_TENSORS:
        raise refuse(f"holds {len(names):,} tensors, more than {MOST_TENSORS:,}", SUPPORTED)
    if other := other_tensors(names):
        raise refuse(*other)
    missing = [part for prefix, part in PARTS.items() if not any(name.startswith(prefix) for name in names)]
    if len(missing) == len(PARTS):
        if len(names) < 10 and all(len(tensor.shape) <= 2 for tensor in names.values()):
            raise refuse("looks like a textual inversion embedding, not a base model", ADDED)
        raise refuse("holds no Stable Diffusion in the original layout", SUPPORTED)
    if missing:
        raise refuse(f"holds no {' and no '.join(missing)}", "get the whole model, with the VAE and text encoder in it")
    if not any(name.startswith((CLIP, OPEN_CLIP)) for name in names):
        raise refuse("has a text encoder that is neither CLIP (1.x) nor OpenCLIP (2.x)", SUPPORTED)
    conv_in = names.get(FIRST)
    if conv_in is None or len(conv_in.shape) != 4:
        raise refuse("has a UNet without a first convolution (input_blocks.0.0)", "get the file again, whole")
    if (channels := conv_in.shape[1]) not in (4, 9):
        kind = CHANNELS.get(channels, "another task's")
        raise refuse(f"has a UNet of {channels} input channels ({kind}), not of 4 (text-to-image) or 9 (inpainting)", SUPPORTED)
