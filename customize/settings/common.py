"""Settings shared by training and inference."""

from typing import Literal

from customize.settings.field import setting
from customize.settings.frozen_model import Validated
from customize.settings.rules.rule import output_is_a_folder

Precision = Literal["no", "fp16", "bf16"]
MANY = 10_000_000
BASE_MODEL = "base model: a hub name, a diffusers folder, a .safetensors file, or demo (included in this package)"
OWN = "none: the base model's own"


class Settings(Validated):
    """Settings shared by training and inference."""

    rules = (output_is_a_folder,)

    pretrained_model_name_or_path: str | None = setting("demo", "model", BASE_MODEL, text="model")
    revision: str | None = setting(None, "model", "branch, tag or commit of the base model on the hub")
    variant: str | None = setting(None, "model", "variant of the base model's files, such as fp16")
    prediction_type: Literal["epsilon", "v_prediction"] | None = setting(
        None,
        "model",
        "what the network predicts, if the model's files do not specify it",
        default_in_words="none: as in the model's files",
    )
    vae: str | None = setting(
        None, "model", "autoencoder that replaces the base model's: a diffusers folder, a .safetensors file, or a hub name",
        text="model", default_in_words=OWN,
    )  # fmt: skip
    prompt_embeddings: str | None = setting(
        None, "model", "file of prompts that customize embed-prompts encoded, in place of a large text encoder (DeepFloyd IF)",
        text="path", default_in_words="none: the text encoder is loaded",
    )  # fmt: skip
    mixed_precision: Precision = setting("no", "model", "number format of the networks; no is fp32")
    allow_tf32: bool = setting(False, "model", "allow TF32 matrix products on the GPU: faster, slightly less exact")
    seed: int = setting(0, "model", "random seed", ge=0, le=2**32 - 1, scope="step")
    output_dir: str | None = setting(None, "output", "folder for all output files", text="path")
    overwrite_output_dir: bool = setting(
        False, "output", "first remove the files that an earlier run wrote to output_dir, and no others"
    )
