"""Settings that all commands share, and those that every way of training shares. Each method adds its own."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from customize.schedules import SCHEDULES
from customize.setting import OneOf, again, setting
from customize.settings.rules import training_rules
from customize.settings.rules.rule import output_is_a_folder
from customize.validated import Validated

Precision = Literal["no", "fp16", "bf16"]
Interpolation = Literal["nearest", "nearest-exact", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Tracker = Literal["tensorboard", "wandb", "all", "none"]

MANY = 10_000_000
WITH_DATASET = ("dataset_name", ())
WITH_CAPTIONS = ("captions", ("auto", "files"))
BASE_MODEL = "base model: a hub name, a diffusers folder, a .safetensors file, or demo (it comes with the program)"
OWN = "none: the base model's own"


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
    """What every method of training has in common.

    The properties say what a method teaches, from what, and what it writes, to code that must not know the method. Those
    that have no value here are declared by each method (`customize.methods`).
    """

    subject_setting: ClassVar[str]
    """The setting that names what is taught; where it is given, this method is meant."""
    image_folder_setting: ClassVar[str]
    """The setting that names the folders of training images."""

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

    @property
    def subject(self) -> str:
        """What is taught, for messages."""
        raise NotImplementedError

    @property
    def description(self) -> str:
        """What the run does, in one line."""
        raise NotImplementedError

    @property
    def image_folders(self) -> tuple[str, ...]:
        """The folders of training images."""
        raise NotImplementedError

    def caption_rule(self, index: int, num_folders: int) -> Any:
        """How the images of one of the folders come by their captions: a `captions.CaptionRule`."""
        raise NotImplementedError

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """The words of a prompt that call up what is taught."""
        raise NotImplementedError

    def is_called_by(self, prompts: Sequence[str]) -> bool:
        """Whether one of the prompts calls up what is taught."""
        raise NotImplementedError

    @property
    def default_validation_prompts(self) -> tuple[str, ...]:
        """The prompts of validation images where none are given. Each calls up what is taught, and says nothing else of it."""
        raise NotImplementedError

    @property
    def result_files(self) -> tuple[str, ...]:
        """The names of the files and folders of the result."""
        raise NotImplementedError

    @classmethod
    def standing_in(cls, folder: str) -> dict[str, str]:
        """The required settings, where only the images of a folder are to be checked."""
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
        """Prompts that the text encoder reads besides captions and validation prompts, by setting."""
        return {}

    @property
    def class_images(self) -> int:
        """The number of class images that prior preservation trains on."""
        return 0

    @property
    def class_folder(self) -> str | None:
        """The folder of class images, where they are used."""
        return None

    @property
    def trains_whole_networks(self) -> bool:
        """Whether all weights of a network are trained."""
        return False

    @property
    def other_learning_rates(self) -> dict[str, float]:
        """Learning rates besides `learning_rate`, by setting."""
        return {}

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if values.get("num_train_epochs") not in (None, "none"):
            values = {"max_train_steps": None, **values}
        return values

    def notes(self) -> list[str]:
        return [*training_rules.notes(self)]
