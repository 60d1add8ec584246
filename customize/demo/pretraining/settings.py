"""Settings of the demo model's training, and of each of its stages."""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from customize.settings.common import MANY, Precision, Settings
from customize.settings.field import override, setting
from customize.settings.frozen_model import Validated


class DemoSettings(Validated):
    """Train the demo model from scratch on rendered images (needs the font Noto Color Emoji)."""

    command: ClassVar[str] = "-m customize.demo.pretraining.train"

    num_pictures: int = setting(60_000, "data", "images to render", ge=64, le=MANY)
    num_workers: int = setting(2, "data", "rendering processes", ge=1, le=1024)
    initial_model: str | None = setting(
        None, "model", "a model folder of an earlier training: continue to train its denoiser, with unchanged latents"
    )
    size: Literal["tiny", "small"] = setting("small", "model", "width of the networks; tiny is for tests")
    autoencoder_steps: int = setting(3000, "train", "optimizer steps of the autoencoder", ge=1, le=MANY)
    autoencoder_batch_size: int = setting(16, "train", "images per step of the autoencoder", ge=1, le=1024)
    decoder_steps: int = setting(
        0, "train", "additional optimizer steps of the autoencoder's decoder",
        ge=0, le=MANY, only_with=("initial_model", ()),
    )  # fmt: skip
    max_train_steps: int = setting(6300, "train", "optimizer steps of UNet and text encoder", ge=1, le=MANY)
    train_batch_size: int = setting(64, "train", "images per step of these", ge=1, le=4096)
    learning_rate: float = setting(0.02, "train", "learning rate of Muon; that of AdamW is a tenth of it", gt=0, le=10)
    checkpointing_steps: int = setting(250, "output", "steps between checkpoints", ge=1, le=MANY)
    minimum_psnr: float = setting(27.0, "train", "minimum PSNR of the autoencoder", unit="dB", ge=0, le=100)
    minimum_explained: float = setting(0.95, "train", "minimum explained variance of each colour axis", ge=-MANY, le=1)
    output_dir: str = override(Settings, "output_dir", "runs/demo_model")
    mixed_precision: Precision = override(Settings, "mixed_precision", "no")
    seed: int = override(Settings, "seed", 0)


@dataclass(frozen=True)
class Stage:
    """The settings of one stage, as the trainer needs them."""

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
