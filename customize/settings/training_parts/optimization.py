"""Settings of steps and optimizer. Part of `training.TrainingSettings`."""

from typing import Annotated

from customize.optim.lr_schedules import SCHEDULES
from customize.optim.optimizers import DEFAULT
from customize.settings.common import MANY, Settings
from customize.settings.field import OneOf, setting
from customize.settings.training_parts.optimizer_settings import NAMES, OF_OPTIMIZERS, summaries, with_optimizer


class StepSettings(Settings):
    """How many steps of which size a run takes, and by which optimizer."""

    train_batch_size: int = setting(1, "train", "images per process and micro-batch", ge=1, le=1024)
    gradient_accumulation_steps: int = setting(1, "train", "micro-batches per optimizer step", ge=1, le=4096)
    gradient_checkpointing: bool = setting(False, "train", "recompute activations in the backward pass: less memory, slower")
    max_train_steps: int | None = setting(
        800, "train", "optimizer steps; takes precedence over num_train_epochs", ge=1, le=MANY, scope="run"
    )
    num_train_epochs: int | None = setting(
        None, "train", "passes over the images, if max_train_steps is not given", ge=1, le=MANY, scope="run"
    )
    learning_rate: float = setting(
        1e-4, "train", "learning rate of the optimizer", gt=0, le=10, default_in_words=with_optimizer(1e-4)
    )
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
    optimizer: Annotated[str, OneOf(NAMES)] = setting(DEFAULT, "train", summaries(), page="docs/optimizers.md")


class OptimizationSettings(OF_OPTIMIZERS, StepSettings):
    """What makes a step of the gradients, and what the result is of the steps."""

    max_grad_norm: float | None = setting(1.0, "train", "gradients are clipped to this norm", gt=0, le=1_000_000)
    use_ema: bool = setting(
        False, "train", "the result is an exponential moving average of the weights; samples and checkpoints have it, too"
    )
    ema_decay: float = setting(
        0.9999, "train", "largest share of the average that a step keeps; step n keeps at most n / (n + 9)", ge=0, lt=1,
        only_with=("use_ema", (True,)),
    )  # fmt: skip
    offload_ema: bool = setting(
        False, "train", "keep in main memory whichever is not in use, the average or the weights that take the steps: "
        "less of the GPU's memory, slower", only_with=("use_ema", (True,)), scope="run",
    )  # fmt: skip
