"""Settings of all training methods. Each method adds its own (`customize.methods`)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from customize.families.specs.family_spec import Source
from customize.settings.common import MANY, OWN, Settings
from customize.settings.concept import Concept
from customize.settings.field import override, setting, table
from customize.settings.rules import training_rules
from customize.settings.training_parts import optimizer_settings
from customize.settings.training_parts.augmentation_settings import AugmentationSettings
from customize.settings.training_parts.evaluation import EvaluationSettings
from customize.settings.training_parts.mask_settings import MaskSettings
from customize.settings.training_parts.objective import ObjectiveSettings
from customize.settings.training_parts.optimization import OptimizationSettings
from customize.settings.training_parts.training_data import DataSettings
from customize.settings.training_parts.validation_prompts import SampleImageSettings

Tracker = Literal["tensorboard", "wandb", "all", "none"]


class TrainingSettings(
    SampleImageSettings,
    EvaluationSettings,
    ObjectiveSettings,
    OptimizationSettings,
    MaskSettings,
    AugmentationSettings,
    DataSettings,
):
    """Settings of all training methods. The properties describe what a method teaches, from what, and what it writes, to code
    that does not know the method; each method (`customize.methods`) implements the abstract ones."""

    subject_setting: ClassVar[str]
    """The setting that names the subject. If it is given, this method is meant."""
    image_folder_setting: ClassVar[str]
    """The setting that lists the folders of training images."""
    untrained: ClassVar[Source | None] = None
    """The network with random weights that is trained, for a method without a base model."""

    rules = (*Settings.rules, *training_rules.COMMON, *optimizer_settings.RULES)

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
    def parts(self) -> tuple[Self, ...]:
        """The settings of each concept, as of a run that teaches it alone; those of the run itself where it teaches one."""
        return (self,)

    @property
    def repeats_of_concepts(self) -> tuple[int, ...] | None:
        """How often an epoch uses each image of a concept, for each of `parts`; None: they are shown equally often."""
        return None

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """What the run teaches, as prompts call it: a concept for each of `parts`."""
        raise NotImplementedError

    def shows(self, place: int, example: Any) -> bool:
        """Whether an `example.Example` shows this one of `concepts`."""
        return example.concept == place

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

    @property
    def other_warmups(self) -> dict[str, int]:
        """Warm-up steps besides `lr_warmup_steps`, by setting."""
        return {}

    @classmethod
    def usual_rates(cls, values: Mapping[str, Any]) -> dict[str, float]:
        """The default learning rates with AdamW, by setting, of those that have an effect."""
        lines = table(cls)
        return {name: lines[name].default for name in ("learning_rate", "embedding_learning_rate") if name in lines}

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        values = {**optimizer_settings.defaults(values, cls.usual_rates(values)), **values}
        if values.get("num_train_epochs") not in (None, "none"):
            values = {"max_train_steps": None, **values}
        return values

    def notes(self) -> list[str]:
        return [*training_rules.notes(self)]
