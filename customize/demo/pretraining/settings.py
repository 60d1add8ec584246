"""Settings of the demo model's training, and of each of its stages."""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from customize.settings.common import MANY, Precision, Settings
from customize.settings.field import again, setting
from customize.settings.frozen_model import Validated


class DemoSettings(Validated):
    """Train the demo model from nothing, on pictures that are drawn for it (needs the font Noto Color Emoji)."""

    command: ClassVar[str] = "-m customize.demo.pretraining.train"

    num_pictures: int = setting(60_000, "data", "pictures that are drawn", ge=64, le=MANY)
    num_workers: int = setting(2, "data", "processes that draw", ge=1, le=1024)
    initial_model: str | None = setting(
        None, "model", "a folder that such a training wrote: its denoiser is trained further, its latents stay as they are"
    )
    size: Literal["tiny", "small"] = setting("small", "model", "width of the networks; tiny is for tests")
    autoencoder_steps: int = setting(3000, "train", "optimizer steps of the autoencoder", ge=1, le=MANY)
    autoencoder_batch_size: int = setting(16, "train", "pictures per step of the autoencoder", ge=1, le=1024)
    decoder_steps: int = setting(
        0, "train", "optimizer steps in which the autoencoder's decoder is trained further",
        ge=0, le=MANY, only_with=("initial_model", ()),
    )  # fmt: skip
    max_train_steps: int = setting(6300, "train", "optimizer steps of UNet and text encoder", ge=1, le=MANY)
    train_batch_size: int = setting(64, "train", "pictures per step of these", ge=1, le=4096)
    learning_rate: float = setting(0.02, "train", "of Muon; AdamW takes a tenth", gt=0, le=10)
    checkpointing_steps: int = setting(250, "output", "steps between checkpoints", ge=1, le=MANY)
    minimum_psnr: float = setting(27.0, "train", "an autoencoder below this is not built on", unit="dB", ge=0, le=100)
    minimum_explained: float = setting(0.95, "train", "least explained variance of each colour axis", ge=-MANY, le=1)
    output_dir: str = again(Settings, "output_dir", "runs/demo_model")
    mixed_precision: Precision = again(Settings, "mixed_precision", "no")
    seed: int = again(Settings, "seed", 0)


@dataclass(frozen=True)
class Stage:
    """What the trainer asks of the settings of one stage."""

    seed: int
    train_batch_size: int
    max_train_steps: int
    learning_rate: float
    gradient_accumulation_steps: int = 1
    max_grad_norm: float = 1.0
    lr_scheduler: str = "cosine"
    lr_warmup_steps: int = 30
    lr_num_cycles: int = 1
    lr_power: float = 1.0
    resume_from_checkpoint: str = "latest"

    def values(self) -> dict[str, int | float | str]:
        return asdict(self)
