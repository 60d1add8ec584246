"""What the user asked for: one flat set of settings per command, each with its default, range or choices. All frozen.

A settings object is valid as a whole or not made at all: its constructor raises `InputError` with every problem found.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from customize import adapters
from customize.scales import Scale, path_and_scale, times
from customize.schedules import SCHEDULES
from customize.setting import OneOf, again, setting
from customize.settings.rules import training_rules
from customize.settings.rules.inference_rules import INFERENCE
from customize.settings.rules.rule import output_is_a_folder
from customize.validated import Validated

Precision = Literal["no", "fp16", "bf16"]
Interpolation = Literal["nearest", "nearest-exact", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Tracker = Literal["tensorboard", "wandb", "all", "none"]

MANY = 10_000_000
WITH_DATASET = ("dataset_name", ())
WITH_CAPTIONS = ("captions", ("auto", "files"))
WITH_PRIOR = ("prior_preservation", ())
WITH_CLASS_IMAGES = ("prior_preservation", ("images",))
BASE_MODEL = "base model: a hub name, a diffusers folder, a .safetensors file, or demo (it comes with the program)"
OWN = "none: the base model's own"


Lesson = Literal["none", "autoencoder", "forward", "denoising", "views"]
OF_VIEWS = ("anagram", "alternating_anagram", "looking_glass")
Illusion = Literal["none", "anagram", "alternating_anagram", "looking_glass", "hybrid", "triple", "colour", "motion"]


class Settings(Validated):
    """What training and generating have in common."""

    rules = (output_is_a_folder,)

    pretrained_model_name_or_path: str | None = setting("demo", "model", BASE_MODEL, text="model")
    revision: str | None = setting(None, "model", "branch, tag or commit of the base model on the hub")
    variant: str | None = setting(None, "model", "variant of the base model's files, such as fp16")
    prediction_type: Literal["epsilon", "v_prediction"] | None = setting(
        None, "model", "what the network predicts, where the model does not say", default_in_words="none: what the model says"
    )
    mixed_precision: Precision = setting("no", "model", "number format of the networks; no is fp32")
    allow_tf32: bool = setting(False, "model", "let the GPU multiply in TF32: faster, slightly less exact")
    seed: int = setting(0, "model", "what everything drawn at random follows from", ge=0, le=2**32 - 1, scope="step")
    output_dir: str | None = setting(None, "output", "the folder for all that is written", text="path")
    overwrite_output_dir: bool = setting(
        False, "output", "remove first what an earlier run has written to output_dir, and nothing else"
    )


class TrainingSettings(Settings):
    """What every way of training has in common."""

    rules = (*Settings.rules, *training_rules.COMMON)

    pretrained_model_name_or_path: str = again(Settings, "pretrained_model_name_or_path", "demo")

    init_weights: str | None = setting(
        None,
        "model",
        "learned weights to start from, as for infer.py's weights; what they tell need not be given",
        text="path",
        scope="run",
    )
    dataset_name: str | None = setting(
        None, "data", "a data set of `datasets` in place of folders: path or hub name", text="path", scope="run"
    )
    dataset_config_name: str | None = setting(
        None, "data", "configuration of the data set, where it has several", only_with=WITH_DATASET, scope="run"
    )
    image_column: str = setting("image", "data", "column of the pictures", only_with=WITH_DATASET, scope="run")
    caption_column: str = setting("text", "data", "column of the captions, in a data set or a metadata.jsonl/.csv", scope="run")
    resolution: int | None = setting(
        None, "data", "width and height of the training pictures",
        unit="pixels", ge=16, le=4096, multiple_of=8, default_in_words=OWN,
    )  # fmt: skip
    center_crop: bool = setting(False, "data", "crop pictures that are not square in the middle, not at random places")
    crop_variants: int = setting(4, "data", "random crops that are made of each picture", ge=1, le=64)
    random_flip: bool = setting(False, "data", "use each picture mirrored as well")
    repeats: int = setting(1, "data", "uses of each picture in an epoch", ge=1, le=MANY, scope="run")
    caption_prefix: str | None = setting(
        None, "data", "what is put before each caption that is read, such as `sks dog,`", only_with=WITH_CAPTIONS, scope="run"
    )
    caption_suffix: str | None = setting(
        None, "data", "what is put behind each caption that is read", only_with=WITH_CAPTIONS, scope="run"
    )
    caption_dropout: float = setting(0.0, "data", "share of captions replaced by an empty one", ge=0, le=1)
    image_interpolation_mode: Interpolation = setting("lanczos", "data", "how pictures are resized")
    latents_cache_dir: str | None = setting(
        None, "data", "folder that keeps what the autoencoder says about the pictures, for other runs", text="path", scope="run"
    )

    train_batch_size: int = setting(1, "train", "pictures per process and micro-batch", ge=1, le=1024)
    gradient_accumulation_steps: int = setting(1, "train", "micro-batches per step", ge=1, le=4096)
    gradient_checkpointing: bool = setting(False, "train", "compute activations twice: less memory, slower")
    max_train_steps: int | None = setting(800, "train", "optimizer steps; wins over num_train_epochs", ge=1, le=MANY, scope="run")
    num_train_epochs: int | None = setting(
        None, "train", "passes over the pictures, where max_train_steps is not given", ge=1, le=MANY, scope="run"
    )
    learning_rate: float = setting(1e-4, "train", "the size of the optimizer's steps", gt=0, le=10)
    scale_lr: bool = setting(False, "train", "multiply the learning rate by batch size, accumulation and processes", scope="run")
    change_learning_rate: bool = setting(
        False, "train", "go on with another learning rate or schedule than the run was begun with",
        only_with=("resume_from_checkpoint", ()), scope="run",
    )  # fmt: skip
    lr_scheduler: Annotated[str, OneOf(tuple(SCHEDULES))] = setting("constant", "train", "the course of the learning rate")
    lr_warmup_steps: int = setting(0, "train", "steps in which the learning rate rises from 0 (constant has none)", ge=0, le=MANY)
    lr_num_cycles: int = setting(1, "train", "waves of cosine_with_restarts", ge=1, le=1000)
    lr_power: float = setting(1.0, "train", "exponent of polynomial", gt=0, le=100)
    lr_step_rules: str | None = setting(
        None, "train", "factors of the learning rate and the steps at which they end, as in 1:100,0.1:200,0.01",
        only_with=("lr_scheduler", ("piecewise_constant",)),
    )  # fmt: skip
    use_8bit_adam: bool = setting(False, "train", "8-bit AdamW of bitsandbytes: a quarter of the optimizer's memory")
    adam_beta1: float = setting(0.9, "train", "decay of AdamW's mean of gradients", ge=0, lt=1)
    adam_beta2: float = setting(0.999, "train", "decay of AdamW's mean of squared gradients", ge=0, lt=1)
    adam_epsilon: float = setting(1e-8, "train", "what is added to AdamW's denominator", gt=0, le=1)
    adam_weight_decay: float = setting(1e-2, "train", "AdamW's decoupled weight decay", ge=0, le=10)
    max_grad_norm: float | None = setting(1.0, "train", "longer gradients are shortened to this norm", gt=0, le=1_000_000)
    snr_gamma: float | None = setting(
        None, "train", "gamma of min-SNR loss weights (Hang et al. 2023); 5 is usual", gt=0, le=1000
    )
    noise_offset: float = setting(0.0, "train", "share of noise that a whole channel has in common", ge=0, le=1)
    on_nan: Literal["stop", "retry"] = setting(
        "stop",
        "train",
        "at NaN or infinity: stop, or leave the draw out and halve the learning rate, 3 times at one step",
        scope="run",
    )

    dry_run: bool = setting(
        False, "output", "write nothing: check all, take two steps, and say what the run takes of memory, disk and time"
    )
    checkpointing_steps: int = setting(500, "output", "steps between checkpoints", ge=1, le=MANY)
    checkpoints_total_limit: int | None = setting(
        None, "output", "number of newest checkpoints that are kept; none keeps all", ge=1, le=MANY
    )
    resume_from_checkpoint: str | None = setting(
        None, "output", "the checkpoint to go on from: latest, or its folder", text="path"
    )
    save_steps: int | None = setting(
        0, "output", "steps between intermediate weights; 0: with the sample images", ge=0, le=MANY,
        default_in_words="0 for words and adapters, none for whole networks",
    )  # fmt: skip
    save_precision: Literal["fp32", "fp16", "bf16"] = setting("fp32", "output", "number format of the weights in the result")
    validation_prompt: tuple[str, ...] | None = setting(
        None, "output", "prompts of the sample images, or none for no sample images; {instance_prompt} and {placeholder_token} "
        "stand for those settings", default_in_words="made from instance_prompt or placeholder_token",
    )  # fmt: skip
    num_validation_images: int | None = setting(
        None, "output", "sample images per prompt", ge=1, le=64, default_in_words="4; of a prompt that is made 1"
    )
    validation_steps: int | None = setting(
        None, "output", "steps between sample images; wins over validation_epochs", ge=1, le=MANY,
        default_in_words="100; of prompts that are made half of the run",
    )  # fmt: skip
    validation_epochs: int | None = setting(
        None, "output", "epochs between them, where validation_steps is not given", ge=1, le=MANY
    )
    validation_scheduler: str | None = setting(
        None, "output", "sampler of the sample pictures, such as DPM++ 2M Karras", default_in_words=OWN
    )
    sample_guidance_scale: float = setting(
        7.5, "output", "how strongly sample and class pictures obey their prompt", ge=0, le=100
    )
    sample_inference_steps: int = setting(25, "output", "denoising steps of sample and class pictures", ge=1, le=1000)
    report_to: tuple[Tracker, ...] = setting(("tensorboard",), "output", "trackers of loss and sample pictures")
    logging_dir: str = setting("logs", "output", "folder of the trackers' files, in output_dir")
    push_to_hub: bool = setting(False, "output", "upload the result to the hub")
    hub_model_id: str | None = setting(
        None, "output", "the repository to upload to", default_in_words="none: the name of output_dir"
    )
    hub_token: str | None = setting(None, "output", "token for the hub; written nowhere", secret=True)

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if values.get("num_train_epochs") not in (None, "none"):
            values = {"max_train_steps": None, **values}
        return values

    def notes(self) -> list[str]:
        return [*training_rules.notes(self)]


class TextualInversionSettings(TrainingSettings):
    """Teach new words to a base model by textual inversion: vectors are learned for them, nothing else changes."""

    command: ClassVar[str] = "train_textual_inversion.py"
    rules = (*TrainingSettings.rules, *training_rules.TEXTUAL_INVERSION)

    placeholder_token: tuple[str, ...] = setting(..., "method", "new words to learn, such as <cat-toy>", text="placeholder")
    initializer_token: tuple[str, ...] = setting(
        ..., "method", "known words or phrases to start from; one, or one per placeholder_token"
    )
    num_vectors: tuple[Annotated[int, Field(ge=1, le=75)], ...] = setting(
        (1,), "method", "vectors per word; one count, or one per placeholder_token"
    )
    learnable_property: Literal["object", "style"] = setting("object", "method", "what the words stand for")
    normalize_embedding: bool = setting(
        False, "method", "learn directions only, at the vocabulary's norm (Directional Textual Inversion)"
    )
    train_data_dir: tuple[str, ...] = setting(
        (), "data", "folders of pictures; one, or one per placeholder_token", text="path", scope="run"
    )
    captions: Literal["auto", "files", "templates"] = setting(
        "auto",
        "data",
        "captions from files beside the pictures, from templates, or (auto) files where there are some",
        scope="run",
    )
    train_batch_size: int = again(TrainingSettings, "train_batch_size", 4)
    learning_rate: float = again(TrainingSettings, "learning_rate", 5e-3)
    max_train_steps: int | None = again(TrainingSettings, "max_train_steps", 500)
    output_dir: str | None = again(
        TrainingSettings, "output_dir", None, default_in_words="a new one each time: runs/textual_inversion-0001, ..."
    )


class SubjectSettings(TrainingSettings):
    """What DreamBooth has, whatever learns."""

    instance_prompt: str = setting(..., "method", "the prompt of the subject, such as `a photo of sks dog`")
    class_prompt: str | None = setting(
        None, "method", "the prompt of the subject's class, such as `a photo of dog`", only_with=WITH_PRIOR
    )
    prior_preservation: Literal["none", "images", "teacher"] = setting(
        "none", "method", "what keeps the class as it was: images of it, or the model itself without its adapter"
    )
    prior_loss_weight: float = setting(1.0, "method", "weight of the class's loss", ge=0, le=100, only_with=WITH_PRIOR)
    num_class_images: int = setting(
        100, "method", "pictures of the class; missing ones are generated",
        ge=1, le=100_000, only_with=WITH_CLASS_IMAGES,
    )  # fmt: skip
    max_images: int = setting(
        1000, "method", "refuse to generate more class images than this", ge=1, le=MANY, only_with=WITH_CLASS_IMAGES, scope="run"
    )
    sample_batch_size: int = setting(
        4, "method", "class pictures generated at a time", ge=1, le=1024, only_with=WITH_CLASS_IMAGES, scope="run"
    )
    prior_generation_precision: Literal["no", "fp32", "fp16", "bf16"] | None = setting(
        None, "method", "number format in which class pictures are generated",
        only_with=WITH_CLASS_IMAGES, default_in_words="none: mixed_precision", scope="run",
    )  # fmt: skip
    train_text_encoder: bool = setting(False, "method", "train the text encoder as well")
    text_encoder_learning_rate: float | None = setting(
        None, "method", "the text encoder's own learning rate",
        gt=0, le=10, only_with=("train_text_encoder", (True,)), default_in_words="none: learning_rate",
    )  # fmt: skip
    adapter: Annotated[str, OneOf(tuple(adapters.names()))] = setting(
        "none", "method", "what learns: all weights, or an adapter beside them"
    )
    instance_data_dir: str | None = setting(None, "data", "the folder of pictures of the subject", text="path", scope="run")
    class_data_dir: str | None = setting(
        None, "data", "the folder of pictures of the class", text="path", only_with=WITH_CLASS_IMAGES, scope="run"
    )
    captions: Literal["auto", "files", "prompt"] = setting(
        "auto",
        "data",
        "captions from files beside the pictures, instance_prompt, or (auto) files where there are some",
        scope="run",
    )
    learning_rate: float = again(TrainingSettings, "learning_rate", 2e-6, default_in_words="2e-06; of an adapter 0.0001")
    max_train_steps: int | None = again(TrainingSettings, "max_train_steps", 800)
    output_dir: str | None = again(
        TrainingSettings, "output_dir", None, default_in_words="a new one each time: runs/dreambooth-0001, ..."
    )


class DreamBoothSettings(adapters.settings(), SubjectSettings):
    """Teach a subject to a base model by DreamBooth: in full, or as a small adapter beside it."""

    command: ClassVar[str] = "train_dreambooth.py"
    rules = (*TrainingSettings.rules, *training_rules.DREAMBOOTH)

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        values = super().completed(values)
        if values.get("adapter", adapters.NONE) == adapters.NONE:
            return {"save_steps": None, **values}
        return {"learning_rate": 1e-4, **values}


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


MODELS = (TextualInversionSettings, DreamBoothSettings, InferenceSettings)
