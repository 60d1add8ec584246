"""The second stage: trains text encoder and UNet from scratch, on cached latents."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from customize.data.samples.latent_dataset import LatentDataset
from customize.demo.pretraining.conv_muon import Muon, parameter_groups
from customize.diffusion import rng
from customize.families.base import Family
from customize.methods.method import DenoisingMethod
from customize.storage.atomic import new_folder, write_text

DECAY = 0.999


class EvenSamples(LatentDataset):
    """A LatentDataset with stratified timesteps: one uniform draw per step, spread evenly over the batch.

    Kingma et al. 2021, "Variational Diffusion Models", appendix I.1: each timestep is uniform, and the loss has less variance.
    """

    def timesteps(self, step: int, positions: Sequence[int]) -> Tensor:
        """The timesteps [B]."""
        first = rng.uniform(self.config.seed, f"{self.sampler.stream}/timestep", step, [0])
        places = (first + torch.tensor(positions) / self.config.global_batch) % 1
        return self.family.schedule.timesteps(places)


def warmed_up(averages: list[Tensor], parameters: list[Tensor], count: Tensor) -> None:
    """Updates the averages in place; the decay rises to DECAY during the first updates.

    count: the number of this update, from 1.
    """
    decay = min(DECAY, ((1 + count) / (10 + count)).item())
    torch._foreach_lerp_(averages, parameters, 1 - decay)


class Pretraining(DenoisingMethod):
    """Trains all weights of UNet and text encoder; saves their exponential moving average."""

    name = "pretraining"

    def __init__(self, family: Family):
        super().__init__(family, family.encode_prompts)
        self.networks = nn.ModuleDict({name: network.requires_grad_(True) for name, network in family.trainable.items()})
        # At so few pixels, plain attention is faster than fused attention, in bfloat16 on a CPU much faster.
        family.denoiser.to(memory_format=torch.channels_last).set_attn_processor(AttnProcessor())
        self.average = AveragedModel(self.networks, multi_avg_fn=warmed_up).requires_grad_(False)
        self.average.n_averaged.fill_(1)  # type: ignore[operator]  # the initial weights are averaged, not replaced

    def build_optimizer(self, settings) -> torch.optim.Optimizer:
        rate = settings.learning_rate
        return Muon(parameter_groups([*self.networks.values()], rate, rate / 10))

    def trainable_state_dict(self) -> dict[str, Tensor]:
        return {
            **super().trainable_state_dict(),
            **{f"average.{name}": tensor for name, tensor in self.average.state_dict().items()},
        }

    def after_step(self) -> None:
        self.average.update_parameters(self.networks)

    def save(self, folder: Path, metadata: dict[str, str]) -> list[Path]:
        """Writes the averaged weights as a complete pipeline folder, in float16."""
        pipeline = copy.deepcopy(self.family.pipeline())
        pipeline.register_modules(**copy.deepcopy(dict(self.average.module.items())))  # type: ignore[operator]
        for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
            part.half()
        with new_folder(folder) as unfinished:
            pipeline.save_pretrained(unfinished)
            forget_paths(unfinished)
        return [folder]


def forget_paths(folder: Path) -> None:
    """Removes paths of the machine from the configurations."""
    for file in [folder / "model_index.json", *folder.rglob("*config.json")]:
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        write_text(file, json.dumps(config, indent=2) + "\n")
