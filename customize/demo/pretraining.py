"""The second stage: text encoder and UNet learn from nothing what captions mean, on latents that were computed once."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from customize import draws
from customize.batches import LatentDataset
from customize.demo.muon import Muon, parameter_groups
from customize.families.stable_diffusion import StableDiffusion
from customize.files import new_folder, write_text
from customize.methods.method import DenoisingMethod

DECAY = 0.999


class EvenSamples(LatentDataset):
    """LatentDataset whose noise levels are spread evenly over each step's batch, by one draw for all of them.

    Kingma et al. 2021, "Variational Diffusion Models", appendix I.1: each is uniform, their loss varies less.
    """

    def timesteps(self, step: int, positions: Sequence[int]) -> Tensor:
        """The noise levels [B]."""
        first = draws.uniform(self.config.seed, f"{self.sampler.stream}/timestep", step, [0])
        places = (first + torch.tensor(positions) / self.config.global_batch) % 1
        return self.family.schedule.timesteps(places)


class Pretraining(DenoisingMethod):
    """All weights of UNet and text encoder learn; a moving average of them is what is saved."""

    name = "pretraining"

    def __init__(self, family: StableDiffusion):
        super().__init__(family, lambda prompts: family.encode_prompts(family.tokenize(prompts)))
        self.unet, self.text_encoder = family.unet.requires_grad_(True), family.text_encoder.requires_grad_(True)
        # On so few pixels plain attention is faster than the fused one, and in bfloat16 on a CPU much faster.
        self.unet.to(memory_format=torch.channels_last).set_attn_processor(AttnProcessor())
        self.averages = {name: parameter.detach().clone() for name, parameter in super().learned().items()}
        self.count = torch.zeros(())

    def build_optimizer(self, settings) -> torch.optim.Optimizer:
        rate = settings.learning_rate
        return Muon(parameter_groups([self.unet, self.text_encoder], rate, rate / 10))

    def learned(self) -> dict[str, Tensor]:
        averages = {f"average.{name}": tensor for name, tensor in self.averages.items()}
        return {**super().learned(), **averages, "count": self.count}

    @torch.no_grad()
    def after_step(self) -> None:
        """Moving average whose memory grows from nothing to 1 / (1 - DECAY) steps."""
        self.count += 1
        decay = min(DECAY, ((1 + self.count) / (10 + self.count)).item())
        for name, parameter in super().learned().items():
            self.averages[name] = self.averages[name].to(parameter.device).lerp_(parameter, 1 - decay)

    def save(self, folder: Path, metadata: dict[str, str]) -> list[Path]:
        """Writes the averaged weights as a complete pipeline folder, in float16."""
        pipeline = copy.deepcopy(self.family.pipeline())
        for part in ("unet", "text_encoder"):
            for name, parameter in getattr(pipeline, part).named_parameters():
                parameter.data = self.averages[f"{part}.{name}"]
        for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
            part.half()
        with new_folder(folder) as unfinished:
            pipeline.save_pretrained(unfinished)
            forget_paths(unfinished)
        return [folder]


def forget_paths(folder: Path) -> None:
    """Removes from the configurations what names the machine that wrote them."""
    for file in [folder / "model_index.json", *folder.rglob("*config.json")]:
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        write_text(file, json.dumps(config, indent=2) + "\n")
