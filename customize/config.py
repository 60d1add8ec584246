"""What the user asked for: one flat set of settings per command, each with its default, range or choices. All frozen.

A settings object is valid as a whole or not made at all: its constructor raises `InputError` with every problem found.
"""

from typing import ClassVar, Literal

from customize.methods import SETTINGS, DreamBoothSettings, TextualInversionSettings
from customize.scales import Scale, path_and_scale, times
from customize.setting import again, setting
from customize.settings.rules.inference_rules import INFERENCE
from customize.settings.training import BASE_MODEL, MANY, OWN, Precision, Settings, TrainingSettings

__all__ = [
    "BASE_MODEL", "MANY", "MODELS", "OF_VIEWS", "DreamBoothSettings", "InferenceSettings", "Precision", "Settings",
    "TextualInversionSettings", "TrainingSettings",
]  # fmt: skip

Lesson = Literal["none", "autoencoder", "forward", "denoising", "views"]
OF_VIEWS = ("anagram", "alternating_anagram", "looking_glass")
Illusion = Literal["none", "anagram", "alternating_anagram", "looking_glass", "hybrid", "triple", "colour", "motion"]


class InferenceSettings(Settings):
    """Generate pictures with a base model and what was taught to it."""

    command: ClassVar[str] = "infer.py"
    rules = (*Settings.rules, *INFERENCE)

    pretrained_model_name_or_path: str | None = again(
        Settings, "pretrained_model_name_or_path", None, default_in_words="none: the one of the weights, else demo"
    )
    weights: tuple[str, ...] = setting(
        (), "model", "learned weights as PATH[:SCALE]; PATH is a run folder or a .safetensors file; the scale may change on the "
        "way, as in cat:0@0,1@0.3 (from 0.3 of the steps on 1)", text="weights", scope="batch",
    )  # fmt: skip
    scale: float = setting(
        1.0,
        "model",
        "what the scales of all weights are multiplied by",
        ge=-100,
        le=100,
        only_with=("weights", ()),
        scope="batch",
    )
    vae: str | None = setting(
        None, "model", "autoencoder in place of the base model's: a diffusers folder, or a .safetensors file",
        text="model", default_in_words=OWN,
    )  # fmt: skip
    weights_dir: str | None = setting(
        None,
        "model",
        "the folder in which weights that a prompt calls are looked for: <lora:NAME:0.8>, embedding:NAME",
        text="path",
        scope="batch",
    )
    partial_weights: bool = setting(False, "model", "take what fits of adapters that fit this base model only in part")
    seed: int = again(
        Settings, "seed", 0, description="what noise follows from; -1 draws one and tells it", scope="image", ge=-1, le=2**64 - 1
    )
    prompt: tuple[str, ...] = setting(
        (), "inference", "what to show; num_images pictures for each prompt", text="prompt",
        default_in_words="required, but for some lessons", scope="image",
    )  # fmt: skip
    prompt_file: str | None = setting(
        None, "inference", "a text file with a prompt in each line, after those of prompt", text="path", scope="run"
    )
    negative_prompt: str = setting("", "inference", "what not to show", text="any", scope="image")
    plain_prompt: bool = setting(False, "inference", "take brackets, tags, AND and BREAK in prompts as text", scope="sampling")
    wildcards_dir: str | None = setting(
        None, "inference", "the folder of NAME.txt for __NAME__ in prompts: one of its lines, by the seed", text="path"
    )
    guidance_scale: float = setting(
        7.5, "inference", "how strongly the prompt is obeyed; 1 is no guidance", ge=0, le=100, scope="image"
    )
    num_inference_steps: int = setting(30, "inference", "denoising steps", ge=1, le=10_000, scope="sampling")
    guidance_rescale: float = setting(
        0.0,
        "inference",
        "how far guidance is kept from overexposing (Lin et al. 2023); 0.7 is usual",
        ge=0,
        le=1,
        scope="sampling",
    )
    clip_skip: int | None = setting(
        None, "inference", "last layers of the text encoder that are left out, as diffusers counts: A1111's Clip skip less 1",
        ge=0, le=31, default_in_words="none: 0", scope="sampling",
    )  # fmt: skip
    scheduler: str | None = setting(
        None, "inference", "the sampler: a class of diffusers, or a name of A1111, ComfyUI or InvokeAI such as DPM++ 2M Karras",
        default_in_words=OWN, scope="sampling",
    )  # fmt: skip
    use_karras_sigmas: bool | None = setting(
        None, "inference", "space noise levels as Karras et al. 2022 do", default_in_words=OWN, scope="sampling"
    )
    timestep_spacing: Literal["leading", "trailing", "linspace"] | None = setting(
        None,
        "inference",
        "how timesteps are spaced (Lin et al. 2023, table 2); trailing is SGM Uniform",
        default_in_words=OWN,
        scope="sampling",
    )
    rescale_betas_zero_snr: bool = setting(
        False, "inference", "let the schedule begin at pure noise, for models that were trained so", scope="sampling"
    )
    eta: float | None = setting(
        None, "inference", "noise that DDIM (1: as much as DDPM) or TCD (0.3 is usual) adds at each step", ge=0, le=1,
        default_in_words="none: 0", scope="sampling",
    )  # fmt: skip
    num_images: int = setting(
        1, "inference", "pictures per prompt, with the seeds seed, seed + 1, ...", ge=1, le=10_000, scope="run"
    )
    batch_size: int = setting(4, "inference", "pictures made at a time", ge=1, le=1024, scope="run")
    height: int | None = setting(
        None, "inference", "the height of the pictures",
        unit="pixels", ge=16, le=4096, multiple_of=8, default_in_words=OWN, scope="sampling",
    )  # fmt: skip
    width: int | None = setting(
        None, "inference", "the width of the pictures",
        unit="pixels", ge=16, le=4096, multiple_of=8, default_in_words=OWN, scope="sampling",
    )  # fmt: skip
    hires_scale: float | None = setting(
        None,
        "inference",
        "enlarge each image so many times and make a part of it anew at that size: a second pass",
        gt=1,
        le=4,
    )
    hires_strength: float = setting(
        0.5, "inference", "how much of it is made anew then", gt=0, le=1, only_with=("hires_scale", ())
    )
    vae_tiling: bool = setting(
        False, "inference", "decode large pictures tile by tile, in less memory, with faint seams", scope="sampling"
    )
    image: str | None = setting(None, "inference", "the picture to start from instead of noise", text="path")
    strength: float | None = setting(
        None, "inference", "how much of it is made anew", gt=0, le=1, only_with=("image", ()),
        default_in_words="0.8; with a mask 1", scope="sampling",
    )  # fmt: skip
    chain: int = setting(
        1,
        "inference",
        "pictures in a row of which each starts from the one before",
        ge=1,
        le=1000,
        only_with=("image", ()),
        scope="run",
    )
    show_start: bool = setting(
        False, "inference", "show on the sheet what the pictures start from, with its noise", only_with=("image", ()), scope="run"
    )
    mask_image: str | None = setting(
        None,
        "inference",
        "a picture that is white where the start picture is made anew; the rest stays; greys mix the two",
        text="path",
        only_with=("image", ()),
    )
    mask_invert: bool = setting(False, "inference", "make anew what is black in the mask", only_with=("mask_image", ()))
    mask_blur: float = setting(
        0.0, "inference", "radius of a Gaussian blur of the mask, for soft edges",
        unit="pixels", ge=0, le=1000, only_with=("mask_image", ()),
    )  # fmt: skip
    num_resamples: int = setting(
        1, "inference", "how often RePaint makes each stretch of steps, for a better fit to the rest",
        ge=1, le=100, only_with=("mask_image", ()), scope="sampling",
    )  # fmt: skip
    jump_length: int = setting(
        10, "inference", "steps in such a stretch", ge=1, le=1000, only_with=("mask_image", ()), scope="sampling"
    )
    between: float | None = setting(
        None, "inference", "one picture on the way from the first of two prompts (0) to the second (1)", ge=0, le=1
    )
    interpolation: Literal["linear", "spherical"] = setting(
        "linear", "inference", "the way between two prompts", only_with=("between", ())
    )
    illusion: Illusion = setting(
        "none", "inference", "one picture of all prompts: under views (anagram, looking_glass) or as a sum of parts (hybrid, ...)"
    )
    image_part: Literal["low", "high", "grey", "colour"] | None = setting(
        None, "inference", "the part of such a sum that is `image`'s instead of a prompt's", only_with=("image", ())
    )
    view: tuple[str, ...] = setting(
        (), "inference", "how each prompt is seen: identity, flip, rotate_180, jigsaw, ...", only_with=("illusion", OF_VIEWS)
    )
    like: str | None = setting(
        None,
        "inference",
        "a picture of infer.py, A1111, ComfyUI, InvokeAI, ... whose settings to take; other flags change just these",
        text="path",
        scope="run",
    )
    sweep: tuple[str, ...] = setting(
        (),
        "inference",
        "a setting and its values, such as guidance_scale=1,2.5,5 or seed=1..4; up to three make a grid",
        scope="run",
    )
    lesson: Lesson = setting(
        "none", "inference", "how it works, on `image`: the autoencoder, what noise does, ways to take it out, what views show"
    )
    trace: bool = setting(False, "inference", "write what happens at each step: strip, GIF and trace.jsonl", scope="run")
    trace_decode: Literal["linear", "full"] = setting(
        "linear", "inference", "how its pictures are made: by a linear map that costs nothing, or by the autoencoder",
        only_with=("trace", (True,)), scope="run",
    )  # fmt: skip
    trace_page: bool = setting(
        False,
        "inference",
        "write the trace of each picture as one HTML page with a slider",
        only_with=("trace", (True,)),
        scope="run",
    )
    attention: bool = setting(False, "inference", "write where each word of the prompt looks: a sheet and a GIF", scope="run")
    output_dir: str | None = again(
        Settings, "output_dir", None, default_in_words="a new one each time: images/0001-a-dog-in-the-snow, ..."
    )
    max_images: int = setting(1000, "output", "refuse to make more images than this", ge=1, le=MANY)
    skip_existing: bool = setting(
        False, "output", "go on with images that were stopped: make those of this configuration that output_dir lacks"
    )
    image_format: Literal["png", "jpg", "webp"] = setting(
        "png", "output", "format of the images; jpg and webp lose a little, and carry their settings in EXIF", scope="file"
    )
    merge: str | None = setting(
        None, "output", "draw nothing, but write base model and weights as one: into a folder, or all LoRAs into a .safetensors",
        text="model",
    )  # fmt: skip

    lora_format: Literal["diffusers", "kohya"] = setting(
        "diffusers",
        "output",
        "names in a merged LoRA: those of diffusers, or of kohya (ComfyUI, A1111, Forge)",
        only_with=("merge", ()),
    )

    @property
    def weights_and_scales(self) -> tuple[tuple[str, Scale], ...]:
        """`weights` as (path, scale), with `scale` in it; the scale is 1 where none is given."""
        return tuple((path, times(scale, self.scale)) for path, scale in map(path_and_scale, self.weights))


MODELS = (*SETTINGS, InferenceSettings)
