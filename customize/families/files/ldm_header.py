"""Identifies the Stable Diffusion or SDXL in a single .safetensors file of the original (LDM) layout, from its header alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from customize.errors import InputError, Problem
from customize.families.files.recognition import ADDED, CHANNELS, MOST_TENSORS, SUPPORTED, other_tensors
from customize.storage.safetensors_header import Header, TensorInfo, read_header

CONFIGS = Path(__file__).parents[1] / "configs"
UNET, VAE, TEXT_ENCODER = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
PARTS = {UNET: "UNet", VAE: "VAE", TEXT_ENCODER: "text encoder"}
CLIP, OPEN_CLIP = f"{TEXT_ENCODER}transformer.", f"{TEXT_ENCODER}model."
CLIP_L, CLIP_G = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
"""The text encoders of SDXL: CLIP as 1.x has it, and OpenCLIP as 2.x has it."""
XL_PARTS = {UNET: "UNet", VAE: "VAE", CLIP_L: "first text encoder (CLIP)", CLIP_G: "second text encoder (OpenCLIP)"}
FIRST, SIZES = f"{UNET}input_blocks.0.0.weight", f"{UNET}label_emb.0.0.weight"
"""The first convolution of a UNet, and the layer that is given the size of an image."""
XL_WIDTH = 2048
"""Of the prompts' embeddings that the UNet of SDXL reads."""
AVERAGES = "model_ema."
"""Of the UNet's weights during training, beside them or alone, under names without dots."""
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"
"""Tensors without content that mark files: the UNet predicts v (SDXL only); its noise schedule ends in pure noise."""
EDM = re.compile(r"edm_(mean|std|vpred\..*)")
"""Tensors of SDXL files that were trained with EDM preconditioning: Playground v2.5, CosXL."""
WHOLE_FILE = "get the whole model, with the VAE and text encoder in it"
WHOLE_XL_FILE = "get the whole model, with VAE and both text encoders in it; ComfyUI's Save Checkpoint makes one from parts"
PREDICTION_TYPES = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
MODELSPEC = {"epsilon": "epsilon", "v_prediction": "v"}
"""How Stability AI's model specification writes prediction types."""


@dataclass(frozen=True)
class Layout:
    """The networks of a file. config: the folder of their configuration; prediction_type, resolution: of their training;
    channels: that the UNet takes, 4 or 9 (inpainting); text_encoders: the beginnings of their tensors' names, by their folders;
    zero_snr: the noise schedule ends in pure noise (Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are
    Flawed", section 3.1)."""

    config: Path
    prediction_type: str
    resolution: int
    channels: int
    text_encoders: Mapping[str, str]
    zero_snr: bool = False

    @property
    def markers(self) -> tuple[str, ...]:
        """The names of the empty tensors that tell programs of `prediction_type` (SDXL only) and `zero_snr`."""
        predicts_v = len(self.text_encoders) > 1 and self.prediction_type == "v_prediction"
        return (*([V_PREDICTION] if predicts_v else []), *([ZERO_SNR] if self.zero_snr else []))


def read_layout(file: Path, prediction_type: str | None = None) -> Layout:
    """Reads the version, prediction type and resolution from the names, shapes and metadata in the header.

    prediction_type: "epsilon" or "v_prediction", overrides the file. Without metadata, a 2.x file predicts v at 768
    pixels, a 1.x file epsilon at 512. Raises InputError for everything that is not Stable Diffusion 1.x or 2.x.
    """
    header = read_header(file)
    refuse_foreign(file, header)
    is_v1 = any(name.startswith(CLIP) for name in header.tensors)
    predicts = prediction_type or declared_prediction_type(file, header.metadata)
    declared = declared_resolution(header.metadata)
    if is_v1:
        config, resolution = "sd15", 512
        predicts = predicts or "epsilon"
    else:
        predicts = predicts or ("epsilon" if declared == 512 else "v_prediction")
        config, resolution = ("sd21_base", 512) if predicts == "epsilon" else ("sd21", 768)
    text_encoders = {"text_encoder": CLIP if is_v1 else OPEN_CLIP}
    zero_snr = predicts == "v_prediction" and ZERO_SNR in header.tensors
    return Layout(CONFIGS / config, predicts, declared or resolution, header.tensors[FIRST].shape[1], text_encoders, zero_snr)


def read_xl_layout(file: Path, prediction_type: str | None = None) -> Layout:
    """As `read_layout`, of a file of SDXL: 1024 pixels; epsilon, unless a tensor or the metadata say that it predicts v."""
    header = read_header(file)
    refuse_other_xl(file, header)
    marked = "v_prediction" if V_PREDICTION in header.tensors else None
    predicts = prediction_type or marked or declared_prediction_type(file, header.metadata) or "epsilon"
    zero_snr = predicts == "v_prediction" and ZERO_SNR in header.tensors
    resolution, channels = declared_resolution(header.metadata) or 1024, header.tensors[FIRST].shape[1]
    text_encoders = {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G}
    return Layout(CONFIGS / "sdxl", predicts, resolution, channels, text_encoders, zero_snr)


def is_xl(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether a file is one of SDXL, whole or not: by its text encoders, or by a UNet that is given sizes and reads prompts of
    `XL_WIDTH`."""
    if any(name.startswith((CLIP_L, CLIP_G)) for name in tensors):
        return True
    key = next((name for name in tensors if name.startswith(UNET) and name.endswith(".attn2.to_k.weight")), None)
    return SIZES in tensors and key is not None and tensors[key].shape[1:] == (XL_WIDTH,)


def declared_resolution(metadata: Mapping[str, str]) -> int | None:
    """The side in pixels of square images, in the metadata."""
    declared = re.fullmatch(r"(\d{1,5})(x\1)?", metadata.get("modelspec.resolution", ""))
    return int(declared[1]) if declared else None


def declared_prediction_type(file: Path, metadata: Mapping[str, str]) -> str | None:
    """The prediction type in the metadata: `modelspec.prediction_type` (Stability's model specification), which ComfyUI calls
    `modelspec.predict_key`, or kohya's `ss_v_prediction`."""
    if declared := metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key"):
        if declared not in PREDICTION_TYPES:
            remedy = "name the prediction type in the settings, epsilon or v_prediction"
            raise InputError(Problem(str(file), f"says that it predicts {declared!r}, which is unknown", remedy))
        return PREDICTION_TYPES[declared]
    if declared := metadata.get("ss_v_prediction"):
        return "v_prediction" if declared.lower() in ("true", "1") else "epsilon"
    return None


def refuse_foreign(file: Path, header: Header) -> None:
    """Raises InputError unless the header is that of a whole Stable Diffusion 1.x or 2.x, text-to-image or inpainting."""
    names = header.tensors
    refuse_many(file, names)
    if other := other_tensors(names):
        raise unusable(file, *other)
    missing = missing_parts(PARTS, names)
    if len(missing) == len(PARTS):
        if len(names) < 10 and all(len(tensor.shape) <= 2 for tensor in names.values()):
            raise unusable(file, "looks like a textual inversion embedding, not a base model", ADDED)
        raise unusable(file, "holds no Stable Diffusion in the original layout", SUPPORTED)
    if missing:
        raise unusable(file, f"holds no {' and no '.join(missing)}", WHOLE_FILE)
    if not any(name.startswith((CLIP, OPEN_CLIP)) for name in names):
        raise unusable(file, "has a text encoder that is neither CLIP (1.x) nor OpenCLIP (2.x)", SUPPORTED)
    refuse_channels(file, names)


def refuse_other_xl(file: Path, header: Header) -> None:
    """Raises InputError unless the header is that of a whole SDXL, text-to-image or inpainting, that predicts epsilon or v.

    Other tensors than those of the networks are allowed: merges hold many kinds of them.
    """
    names = header.tensors
    refuse_many(file, names)
    if other := other_tensors(name for name in names if not name.startswith(f"{UNET}label_emb.")):
        raise unusable(file, *other)
    if missing := missing_parts(XL_PARTS, names):
        raise unusable(file, f"is SDXL, but holds no {' and no '.join(missing)}", WHOLE_XL_FILE)
    if SIZES not in names:
        what = "has text encoders of SDXL, but a UNet that does not take the size of an image (label_emb)"
        raise unusable(file, what, "get the file again, whole")
    refuse_channels(file, names)
    if any(map(EDM.fullmatch, names)):
        what = "is SDXL that was trained with EDM preconditioning, such as Playground v2.5 or CosXL"
        raise unusable(file, what, "use a model that predicts epsilon or v")


def unusable(file: Path, what: str, remedy: str) -> InputError:
    """The error of a file."""
    return InputError(Problem(str(file), what, remedy))


def missing_parts(parts: Mapping[str, str], names: Mapping[str, TensorInfo]) -> list[str]:
    """The parts that no tensor belongs to. parts: their titles, by the beginnings of their tensors' names."""
    missing = [part for prefix, part in parts.items() if not any(name.startswith(prefix) for name in names)]
    averages = any(name.startswith(AVERAGES) for name in names)
    return [f"{part} but the averages of its training ({AVERAGES})" if averages and part == "UNet" else part for part in missing]


def refuse_many(file: Path, names: Mapping[str, TensorInfo]) -> None:
    """Raises InputError for a file of too many tensors."""
    if len(names) > MOST_TENSORS:
        raise unusable(file, f"holds {len(names):,} tensors, more than {MOST_TENSORS:,}", SUPPORTED)


def refuse_channels(file: Path, names: Mapping[str, TensorInfo]) -> None:
    """Raises InputError unless the UNet takes as many channels as one for text-to-image or inpainting."""
    conv_in = names.get(FIRST)
    if conv_in is None or len(conv_in.shape) != 4:
        raise unusable(file, "has a UNet without a first convolution (input_blocks.0.0)", "get the file again, whole")
    if (channels := conv_in.shape[1]) not in (4, 9):
        kind = CHANNELS.get(channels, "another task's")
        what = f"has a UNet of {channels} input channels ({kind}), not of 4 (text-to-image) or 9 (inpainting)"
        raise unusable(file, what, SUPPORTED)
