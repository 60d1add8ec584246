"""Settings of the parts that DreamBooth trains, denoiser, text encoders and new words: each has a rate and an end of its own."""

from typing import Annotated

from pydantic import Field

from customize.methods.words_settings import WITH_WORDS
from customize.settings.common import MANY
from customize.settings.field import setting
from customize.settings.training import TrainingSettings
from customize.settings.training_parts.optimizer_settings import with_optimizer

WITH_ENCODER = ("train_text_encoder", (True,))


class PartSettings(TrainingSettings):
    """Rates and ends of the parts, and rates of their layers."""

    unet_train_fraction: float = setting(
        1.0, "method", "share of the steps in which the UNet is trained; it keeps its weights after it, while text encoders or "
        "new tokens go on", gt=0, le=1,
    )  # fmt: skip
    lr_pattern: tuple[str, ...] = setting(
        (), "method", "factors of the learning rate of parts, PART=FACTOR: a block, a module or a group of lora_targets; the "
        "first that fits counts, and 0 is not trained", text="factors",
    )  # fmt: skip
    train_text_encoder: bool = setting(False, "method", "also train the text encoder")
    text_encoder_learning_rate: tuple[Annotated[float, Field(gt=0, le=10)], ...] | None = setting(
        None, "method", "learning rate of the text encoder: one value, or one per text encoder",
        only_with=WITH_ENCODER, default_in_words="none: learning_rate",
    )  # fmt: skip
    text_encoder_train_fraction: float = setting(
        1.0, "method", "share of the steps in which text encoders are trained; they keep their weights after it",
        gt=0, le=1, only_with=WITH_ENCODER,
    )  # fmt: skip
    text_encoder_lr_warmup_steps: int | None = setting(
        None, "method", "warm-up steps of the text encoder's learning rate", ge=0, le=MANY, only_with=WITH_ENCODER,
        default_in_words="none: lr_warmup_steps",
    )  # fmt: skip
    embedding_learning_rate: float = setting(
        5e-3, "method", "learning rate of new tokens", gt=0, le=10, only_with=WITH_WORDS, default_in_words=with_optimizer(5e-3)
    )
    embedding_train_fraction: float = setting(
        1.0, "method", "share of the steps in which new tokens are trained; they keep their embeddings after it",
        gt=0, le=1, only_with=WITH_WORDS,
    )  # fmt: skip
