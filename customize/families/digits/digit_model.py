"""Small models of handwritten digits: class-conditional diffusion in pixel space, without text encoder and autoencoder.

B samples, H W height and width, K classes.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from customize.diffusion import rng
from customize.diffusion.predictions import FLOW_PREDICTION
from customize.diffusion.process import DiscreteSchedule, FlowSchedule, NoiseSchedule
from customize.errors import InputError, Problem
from customize.families.base import DenoiserOutput, Placement
from customize.families.conditioning import Conditioning
from customize.families.digits.digit_unet import SIDE, DigitUNet
from customize.families.files.folder_check import weight_files
from customize.families.files.networks import copy_tensors, refuse_mismatch
from customize.families.files.scheduler import build_scheduler, scheduler_of
from customize.families.latents import Pixels
from customize.families.loading import refuse_broken
from customize.families.prompt_encoding import Prompt, spans_of
from customize.families.specs.digits_spec import DIGITS, NETWORK, digits_in
from customize.families.specs.family_spec import Source
from customize.families.unet_family import UNetFamily
from customize.prompts import BREAK
from customize.storage.json_files import read_object
from customize.storage.safetensors_header import read_header


class DigitsPipeline(DiffusionPipeline):
    """The parts of a model of digits, for `save_pretrained`."""

    def __init__(self, unet: DigitUNet, scheduler: Any):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)


class Digits(UNetFamily):
    """A model of digits. Its latents are the pixels in [0, 1]; a prompt is a digit, and the empty prompt none.

    The prediction type and the noise schedule are those of the scheduler: a discrete schedule (DDPM) or a flow.
    """

    spec = DIGITS
    text_encoders = ()
    lora_targets: Mapping[str, Sequence[str]] = {}
    model_spec: Mapping[str, str] = {}
    latents = Pixels(channels=1, shift=-1.0, scale=0.5)
    resolution, size_multiple = SIDE, SIDE
    takes_mask = takes_guidance = keeps_known_clean = False
    super_resolution = None

    def __init__(self, name: str, source: Path, unet: DigitUNet, scheduler: Any):
        self.name, self.source, self.scheduler = name, source, scheduler
        self.unet = unet.requires_grad_(False).eval()
        self.prediction_type: str = scheduler.config.get("prediction_type", FLOW_PREDICTION)
        self.schedule = schedule_of(scheduler)

    trainable = UNetFamily.components

    def replace_vae(self, vae: Any, where: Path) -> None:
        raise InputError(Problem("vae", f"{self.name} is {self.spec.title}, which has no autoencoder", "leave it out"))

    def encode_prompts(self, prompts: Sequence[Prompt], *, clip_skip: int | None = None, min_chunks: int = 1) -> Conditioning:
        """`class_labels` [B, K]: one-hot vectors of the digits, times the weight of the prompt; zeros for the empty prompt."""
        return Conditioning({"class_labels": torch.stack([self.label_of(prompt) for prompt in prompts]).to(self.device)})

    def label_of(self, prompt: Prompt) -> Tensor:
        """The vector of one prompt [K]. Raises InputError for a prompt that does not name one digit."""
        label = torch.zeros(self.unet.config.num_classes)
        spans = [span for span in spans_of(prompt) if span != BREAK]
        text = "".join(span.text for span in spans)
        if problem := self.spec.prompt_problem(text):
            raise InputError(problem)
        for digit in digits_in(text) if len(label) else ():
            label[digit] = next(span.weight for span in spans if digits_in(span.text))
        return label

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> DenoiserOutput:
        """noisy_latents: [B, 1, 28, 28]; timesteps: [B]; conditioning: `class_labels` [B, K]."""
        time = timesteps / self.scheduler.config.num_train_timesteps
        return DenoiserOutput(self.unet(noisy_latents, time, **conditioning.tensors))

    def with_component(self, name: str, network: nn.Module) -> "Digits":
        other = copy(self)
        setattr(other, name, network)
        return other

    def pipeline(self) -> DigitsPipeline:
        return DigitsPipeline(self.unet, self.scheduler)

    def load_component(self, model: Path, name: str) -> Any:
        return build_scheduler(model) if name == "scheduler" else load_network(model / name).eval()


def schedule_of(scheduler: Any) -> NoiseSchedule:
    """The noise levels that a model with this scheduler is trained on."""
    config = scheduler.config
    if "prediction_type" in config:
        return DiscreteSchedule.of(scheduler)
    return FlowSchedule(shift=config.shift, num_train_timesteps=config.num_train_timesteps)


def load(source: Source, placement: Placement) -> Digits:
    """Loads a folder that passed the check of `DigitsSpec`, or makes an untrained model. Raises InputError, also for weights that
    are NaN or infinite."""
    if source.untrained:
        return untrained(source.name, **source.untrained).to(placement.device)
    folder = source.folder
    assert folder, "a model of digits is a folder"
    unet = load_network(folder / "unet", source.variant, placement.dtype_of("unet"))
    family = Digits(source.name, folder, unet, build_scheduler(folder)).to(placement.device)
    refuse_broken(family, placement)
    return family


def untrained(name: str, unet: Mapping[str, Any], scheduler: Mapping[str, Any], seed: int) -> Digits:
    """A model with random weights, a function of the seed. unet, scheduler: configurations, as in their folders."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(rng.generator(seed, "weights", 0).initial_seed())
        network = DigitUNet(**unet)
    return Digits(name, Path(name), network, scheduler_of(scheduler))


def load_network(folder: Path, variant: str | None = None, dtype: torch.dtype = torch.float32) -> DigitUNet:
    """The network in a folder. Raises InputError if its configuration and file contradict each other."""
    declared = read_object(folder / "config.json")
    with torch.device("meta"):
        unet = DigitUNet(**{name: declared[name] for name in NETWORK if name in declared})
    files = weight_files(folder, variant)
    found = {name: info.shape for file in files for name, info in read_header(file).tensors.items()}
    refuse_mismatch(str(folder), {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}, found)
    for file in files:
        unet.load_state_dict(copy_tensors(file, str, dtype), strict=len(files) == 1, assign=True)
    return unet
