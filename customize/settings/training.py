"""Settings of all training methods. Each method adds its own (`customize.methods`)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from customize.families.specs.family_spec import Source
from customize.optim.lr_schedules import SCHEDULES
from customize.settings.common import MANY, OWN, Settings
from customize.settings.concept import Concept
from customize.settings.evaluation import EvaluationSettings
from customize.settings.field import OneOf, override, setting
from customize.settings.rules import training_rules
from customize.settings.validation_prompts import SampleImageSettings

Interpolation = Literal["nearest", "nearest-exact", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Tracker = Literal["tensorboard", "wandb", "all", "none"]

WITH_DATASET = ("dataset_name", ())
WITH_CAPTIONS = ("captions", ("auto", "files"))


class TrainingSettings(SampleImageSettings, EvaluationSettings):
    """Settings of all training methods. The properties describe what a method teaches, from what, and what it writes, to code
    that does not know the method; each method (`customize.methods`) implements the abstract ones."""

    subject_setting: ClassVar[str]
    """The setting that names the subject. If it is given, this method is meant."""
    image_folder_setting: ClassVar[str]
    """The setting that lists the folders of training images."""
    untrained: ClassVar[Source | None] = None
    """The network with random weights that is trained, for a method without a base model."""

    rules = (*Settings.rules, *training_rules.COMMON)

    pretrained_model_name_or_path: str = override(Settings, "pretrained_model_name_or_path", "demo")
    vae: str | None = override(Settings, "vae", None, default_in_words=OWN, scope="run")

    rescale_betas_zero_snr: bool | None = setting(
        None, "model", "whether the noise schedule ends in zero SNR (pure noise), if the model's files do not specify it",
        default_in_words=OWN,
    )  # fmt: skip
    clip_skip: int | None = setting(
        None, "model", "last layers of the text encoder to skip, counted as in diffusers (A1111's and kohya's Clip skip minus 1)",
        ge=0, le=31, default_in_words="none: 0",
    )  # fmt: skip
    init_weights: str | None = setting(
        None, "model", "learned weights to start from, as in infer.py's weights; settings stored in the file are the default",
        text="path", scope="run",
    )  # fmt: skip
    dataset_name: str | None = setting(
        None, "data", "dataset of the `datasets` library, instead of folders: path or hub name", text="path", scope="run"
    )
    dataset_config_name: str | None = setting(
        None, "data", "configuration of the dataset, if it has several", only_with=WITH_DATASET, scope="run"
    )
    image_column: str = setting("image", "data", "column of the images", only_with=WITH_DATASET, scope="run")
    caption_column: str = setting("text", "data", "column of the captions, in a dataset or in metadata.jsonl/.csv", scope="run")
    resolution: int | None = setting(
        None, "data", "width and height of the training images",
        unit="pixels", ge=16, le=4096, multiple_of=8, default_in_words=OWN,
    )  # fmt: skip
    center_crop: bool = setting(False, "data", "crop images that are not square at the center instead of at random positions")
    crop_variants: int = setting(4, "data", "random crops per image", ge=1, le=64)
    random_flip: bool = setting(False, "data", "also train on each image flipped horizontally")
    repeats: int = setting(1, "data", "number of times each image is used per epoch", ge=1, le=MANY, scope="run")
    caption_prefix: str | None = setting(
        None, "data", "text to prepend to each caption from a file, such as `sks dog,`", only_with=WITH_CAPTIONS, scope="run"
    )
    caption_suffix: str | None = setting(
        None, "data", "text to append to each caption from a file", only_with=WITH_CAPTIONS, scope="run"
    )
    caption_dropout: float = setting(0.0, "data", "probability of replacing a caption by an empty one", ge=0, le=1)
    image_interpolation_mode: Interpolation = setting("lanczos", "data", "interpolation for resizing images")
    validation_data_dir: str | None = setting(
        None, "data", "folder of images of the subject that are not trained on: the loss on them is measured",
        text="path", scope="run",
    )  # fmt: skip
    num_held_out: int = setting(
        0, "data", "images of the training set that are not trained on, but measured like those of validation_data_dir",
        ge=0, le=MANY, scope="run",
    )  # fmt: skip
    latents_cache_dir: str | None = setting(
        None, "data", "folder in which encoded images are cached for other runs", text="path", scope="run"
    )

    train_batch_size: int = setting(1, "train", "images per process and micro-batch", ge=1, le=1024)
    gradient_accumulation_steps: int = setting(1, "train", "micro-batches per optimizer step", ge=1, le=4096)
    gradient_checkpointing: bool = setting(False, "train", "recompute activations in the backward pass: less memory, slower")
    max_train_steps: int | None = setting(
        800, "train", "optimizer steps; takes precedence over num_train_epochs", ge=1, le=MANY, scope="run"
    )
    num_train_epochs: int | None = setting(
        None, "train", "passes over the images, if max_train_steps is not given", ge=1, le=MANY, scope="run"
    )
    learning_rate: float = setting(1e-4, "train", "learning rate of the optimizer", gt=0, le=10)
    scale_lr: bool = setting(False, "train", "multiply the learning rate by batch size, accumulation and processes", scope="run")
    change_learning_rate: bool = setting(
        False, "train", "resume with a learning rate or schedule that differs from the checkpoint's",
        only_with=("resume_from_checkpoint", ()), scope="run",
    )  # fmt: skip
    lr_scheduler: Annotated[str, OneOf(tuple(SCHEDULES))] = setting("constant", "train", "learning-rate schedule")
    lr_warmup_steps: int = setting(
        0, "train", "warm-up steps, in which the learning rate rises from 0 (not with constant)", ge=0, le=MANY
    )
    lr_num_cycles: int = setting(1, "train", "cycles of cosine_with_restarts", ge=1, le=1000)
    lr_power: float = setting(1.0, "train", "exponent of the polynomial schedule", gt=0, le=100)
    lr_step_rules: str | None = setting(
        None, "train", "factors of the learning rate and the steps at which they end, such as 1:100,0.1:200,0.01",
        only_with=("lr_scheduler", ("piecewise_constant",)),
    )  # fmt: skip
    use_8bit_adam: bool = setting(False, "train", "8-bit AdamW of bitsandbytes: a quarter of the optimizer's memory")
    adam_beta1: float = setting(0.9, "train", "decay of AdamW's mean of gradients", ge=0, lt=1)
    adam_beta2: float = setting(0.999, "train", "decay of AdamW's mean of squared gradients", ge=0, lt=1)
    adam_epsilon: float = setting(1e-8, "train", "epsilon, added to AdamW's denominator", gt=0, le=1)
    adam_weight_decay: float = setting(1e-2, "train", "AdamW's decoupled weight decay", ge=0, le=10)
    max_grad_norm: float | None = setting(1.0, "train", "gradients are clipped to this norm", gt=0, le=1_000_000)
    snr_gamma: float | None = setting(
        None, "train", "gamma of min-SNR loss weights (Hang et al. 2023); 5 is typical", gt=0, le=1000
    )
    noise_offset: float = setting(0.0, "train", "noise offset: share of noise that is constant over each channel", ge=0, le=1)
    on_nan: Literal["stop", "retry"] = setting(
        "stop", "train", "on NaN or infinity: stop, or skip the batch and halve the learning rate, up to 3 times at one step",
        scope="run",
    )  # fmt: skip

    dry_run: bool = setting(
        False, "output", "write nothing: check everything, run two steps, and report the memory, disk space and time of the run"
    )
    checkpointing_steps: int = setting(500, "output", "steps between checkpoints", ge=1, le=MANY)
    checkpoints_total_limit: int | None = setting(
        None, "output", "number of newest checkpoints to keep; none keeps all", ge=1, le=MANY
    )
    resume_from_checkpoint: str | None = setting(None, "output", "checkpoint to resume from: latest, or its folder", text="path")
    save_steps: int | None = setting(
        0, "output", "steps between saved intermediate weights; 0: whenever sample images are drawn", ge=0, le=MANY,
        default_in_words="0 for embeddings and adapters, none for full networks",
    )  # fmt: skip
    save_precision: Literal["fp32", "fp16", "bf16"] = setting("fp32", "output", "number format of the saved weights")
    no_metadata: bool = setting(
        False, "output", "learned files without metadata, except for what is needed to load them", scope="run"
    )
    report_to: tuple[Tracker, ...] = setting(
        ("tensorboard",), "output", "trackers that receive the losses, what is measured, and the sample images"
    )
    logging_dir: str = setting("logs", "output", "folder in output_dir for the trackers' files")
    push_to_hub: bool = setting(False, "output", "upload the result to the hub")
    hub_model_id: str | None = setting(None, "output", "repository to upload to", default_in_words="none: the name of output_dir")
    hub_token: str | None = setting(None, "output", "access token for the hub; never written to a file", secret=True)

    @property
    def subject(self) -> str:
        """The subject that is taught, for messages."""
        raise NotImplementedError

    @property
    def description(self) -> str:
        """One line that describes the run."""
        raise NotImplementedError

    @property
    def concept(self) -> Concept:
        """What the run teaches, as prompts call it."""
        raise NotImplementedError

    @property
    def image_folders(self) -> tuple[str, ...]:
        """The folders of training images."""
        raise NotImplementedError

    def own_examples(self, found: Any) -> Any:
        """The `example.Example`s of a method that reads its images itself; None: others do. found: `Findings`, gets problems."""

    def caption_rule(self, index: int, num_folders: int) -> Any:
        """How the images of a folder get their captions: a `captions.CaptionRule`."""
        raise NotImplementedError

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """The words of a prompt that trigger the subject."""
        raise NotImplementedError

    def is_called_by(self, prompts: Sequence[str]) -> bool:
        """Whether one of the prompts triggers the subject."""
        raise NotImplementedError

    def can_change(self, prompt: str) -> bool:
        """Whether training can change the pictures of a prompt: always, where it changes the denoiser."""
        return True

    @property
    def evaluations_per_sample(self) -> int:
        """Evaluations of the denoiser that a step costs for each image: one, and its gradient about two more."""
        return 3

    @property
    def default_validation_prompts(self) -> tuple[str, ...]:
        """The prompts of validation images if none are given. Each triggers the subject without describing it."""
        raise NotImplementedError

    @property
    def result_files(self) -> tuple[str, ...]:
        """The names of the files and folders of the result."""
        raise NotImplementedError

    @classmethod
    def standing_in(cls, folder: str, given: Collection[str]) -> dict[str, str]:
        """Stand-ins for the required settings, for a check of the images of a folder alone. given: names of given settings."""
        raise NotImplementedError

    @property
    def start_label(self) -> str:
        """What the validation images before the first step show."""
        return "base model"

    @property
    def placeholders(self) -> dict[str, int]:
        """New words, and the number of vectors of each."""
        return {}

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts that are encoded besides captions and validation prompts, by setting."""
        return {}

    @property
    def class_images(self) -> int:
        """The number of class images that prior preservation trains on."""
        return 0

    @property
    def class_folder(self) -> str | None:
        """The folder of class images, if they are used."""
        return None

    @property
    def read_by_others(self) -> bool:
        """Whether other programs read the files of the result."""
        return True

    @property
    def trains_whole_networks(self) -> bool:
        """Whether all weights of a network are trained."""
        return False

    @property
    def formats(self) -> dict[str, str | bool]:
        """The settings that determine how the same result is written."""
        return {"save_precision": self.save_precision, "no_metadata": self.no_metadata}

    @property
    def writes_model_file(self) -> bool:
        """Whether the result is a complete model in a single file."""
        return False

    @property
    def trains_text_encoders(self) -> bool:
        """Whether weights of text encoders are trained."""
        return False

    @property
    def leaves_out_text_encoder(self) -> bool:
        """Whether the result is a complete model but for its text encoder."""
        return False

    @property
    def depends_on_length(self) -> bool:
        """Whether steps depend on `max_train_steps` apart from the learning-rate schedule."""
        return False

    @property
    def other_learning_rates(self) -> dict[str, tuple[float, ...]]:
        """Learning rates besides `learning_rate`, by setting: of all text encoders, or of each; of new words."""
        return {}

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if values.get("num_train_epochs") not in (None, "none"):
            values = {"max_train_steps": None, **values}
        return values

    def notes(self) -> list[str]:
        return [*training_rules.notes(self)]
