"""The settings of `customize score`."""

from typing import Annotated, ClassVar

from pydantic import Field

from customize.settings.common import BASE_MODEL, Precision
from customize.settings.field import setting
from customize.settings.frozen_model import Validated
from customize.settings.rules.rule import output_is_a_folder, text_is_no_path

OF_THE_RUN = "none: that of the run"


class ScoreSettings(Validated):
    """Measure what weights have learned: of the steps of a run, or of any file that infer.py reads."""

    command: ClassVar[str] = "customize score"
    rules = (output_is_a_folder, text_is_no_path("prompt"), text_is_no_path("class_prompt"))

    weights: tuple[str, ...] = setting(
        ..., "model", "a run folder, steps of it (RUN@350), or a .safetensors file; may be given without --weights", text="path"
    )
    pretrained_model_name_or_path: str | None = setting(
        None, "model", BASE_MODEL, text="model", default_in_words="none: that of the run, or of the file's metadata"
    )
    prompt_embeddings: str | None = setting(
        None, "model", "file of prompts that customize embed-prompts encoded, in place of a large text encoder (DeepFloyd IF)",
        text="path", default_in_words="none: the text encoder is loaded",
    )  # fmt: skip
    mixed_precision: Precision | None = setting(
        None, "model", "number format of the networks; no is fp32", default_in_words="none: that of the run, else no"
    )
    prompt: str | None = setting(
        None, "method", "the prompt that calls the concept, such as `a photo of sks dog`, in the words that you use",
        text="prompt", default_in_words=OF_THE_RUN,
    )  # fmt: skip
    class_prompt: str | None = setting(
        None, "method", "the same in words that the base model knows, such as `a photo of dog`", text="prompt",
        default_in_words="none: that of the run, or the prompt without the trigger words of the file",
    )  # fmt: skip
    style: bool = setting(False, "method", "the concept is a style: the prompt is what follows a content, as in `in sks style`")
    photos: str | None = setting(
        None, "data", "folder with images of the concept, with which pictures are compared", text="path",
        default_in_words="none: the training images of the run",
    )  # fmt: skip
    scales: tuple[Annotated[float, Field(gt=0, le=10)], ...] = setting(
        (), "inference", "scales at which the result, or the given step, is measured, as in 0.5,0.7,1,1.2"
    )
    validation_prompt: tuple[str, ...] = setting(
        (), "inference", "further prompts of your own", text="prompt", default_in_words="none: those of the run"
    )
    prompt_file: str | None = setting(None, "inference", "text file with such prompts, one per line", text="path")
    evaluation_seeds: int | None = setting(
        None,
        "inference",
        "pictures of each prompt of the concept",
        ge=1,
        le=64,
        default_in_words="none: as many as the run, else 2",
    )
    num_inference_steps: int | None = setting(
        None, "inference", "denoising steps", ge=1, le=1000, default_in_words="none: those of the run, else 25, and 12 at most"
    )
    guidance_scale: float | None = setting(
        None, "inference", "scale of classifier-free guidance", ge=0, le=100, default_in_words="none: that of the run, else 7.5"
    )
    scorer: str | None = setting(
        None, "inference", "what compares pictures: auto, base, dinov3, dinov2, siglip2, clip, efficientnet, or a model of "
        "transformers", text="model", default_in_words="none: that of the run, else auto",
    )  # fmt: skip
    again: bool = setting(False, "output", "measure again what the run has measured already")
    output_dir: str | None = setting(
        None, "output", "folder for the results", text="path", default_in_words="none: the run; for files, and prompts, pictures "
        "or a scorer other than those of the run, a new one: runs/score-0001, ...",
    )  # fmt: skip
