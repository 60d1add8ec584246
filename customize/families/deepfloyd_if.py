"""DeepFloyd IF, stages I and II: diffusion of pixels, with a T5 text encoder.

B batch, H W height and width in pixels, L = 77 tokens, D embedding width (4096 of T5-XXL).
Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding" (Imagen), whose design it
follows; Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", equation 15 (the predicted variance).
"""

import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DDPMScheduler, IFPipeline, IFSuperResolutionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import T5EncoderModel

from customize.diffusion.process import DiscreteSchedule
from customize.errors import InputError, Problem
from customize.families.base import DenoiserOutput, Placement
from customize.families.conditioning import Conditioning, SuperResolution
from customize.families.encoded_prompts import EncodedPrompts, Prompts, T5Prompts, keep_in_float32, load_t5
from customize.families.files.networks import OTHER, load_network
from customize.families.files.scheduler import changed_scheduler, load_scheduler
from customize.families.files.t5_tokenizer import load_t5_tokenizer
from customize.families.latents import Pixels
from customize.families.loading import placed
from customize.families.prompt_encoding import Prompt
from customize.families.specs.deepfloyd_if_spec import DEEPFLOYD_IF, NOISING
from customize.families.specs.family_spec import SETTING, Source
from customize.families.text_encoder import TextEncoder
from customize.families.unet_family import UNetFamily
from customize.storage.untrusted_files import refusing


class DeepFloydIF(UNetFamily):
    """A text-conditional diffusion model of pixels. Stage I draws 64 x 64 pixels; stage II enlarges such a picture to 256 x 256.

    name: the name that the user gave; source: the folder that it was loaded from; scheduler: its own, for sampling; schedule: the
    noise levels it was trained with; prompts: T5, or prompts that it encoded before, or None where their conditioning comes from
    elsewhere; image_noising_scheduler: of stage II, else None.
    """

    spec = DEEPFLOYD_IF
    lora_targets = {"attention": ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")}
    latents = Pixels()
    text_encoders: tuple[TextEncoder, ...] = ()
    """None that learns words: T5 is evaluated, and never trained."""
    takes_mask = takes_guidance = False
    keeps_known_clean = True
    model_spec: dict[str, str] = {}

    def __init__(
        self,
        name: str,
        source: Path,
        unet: UNet2DConditionModel,
        scheduler,
        prompts: Prompts | None,
        image_noising_scheduler=None,
    ):
        self.name, self.source = name, source
        self.unet, self.prompts = unet, prompts
        self.scheduler, self.image_noising_scheduler = scheduler, image_noising_scheduler
        self.schedule = DiscreteSchedule.of(DDPMScheduler.from_config(scheduler.config))
        for network in self.components.values():
            network.requires_grad_(False).eval()

    @property
    def components(self) -> dict[str, nn.Module]:
        read = {"text_encoder": self.prompts.encoder} if isinstance(self.prompts, T5Prompts) else {}
        return {"unet": self.unet, **read}

    @property
    def trainable(self) -> dict[str, nn.Module]:
        return {"unet": self.unet}

    @property
    def takes_low_resolution(self) -> bool:
        """Whether the UNet also reads a smaller picture, enlarged to its size (stage II)."""
        return self.unet.config.in_channels > self.latents.channels

    @property
    def super_resolution(self) -> SuperResolution | None:
        """Of stage II; its noise levels are the defaults of diffusers' pipelines."""
        scheduler = self.image_noising_scheduler
        return SuperResolution(scheduler, 250, 0, scheduler.config.num_train_timesteps - 1) if scheduler else None

    @property
    def resolution(self) -> int:
        """Side in pixels of the images that the stage was trained on. Raises InputError if its files do not specify it."""
        if self.unet.config.sample_size is None:
            remedy = "set --resolution for training, --height and --width for generating: 64 for stage I, 256 for stage II"
            raise InputError(Problem(str(self.source), "does not specify the image size that it was trained on", remedy))
        return self.unet.config.sample_size

    @property
    def prediction_type(self) -> str:
        """The key of `diffusion.predictions.PREDICTIONS` that the scheduler names."""
        return self.scheduler.config.prediction_type

    @property
    def size_multiple(self) -> int:
        """Sides in pixels that are multiples of this are divisible by two in every block of the UNet."""
        return 2 ** (len(self.unet.config.block_out_channels) - 1)

    def to(self, *args, **kwargs) -> Self:
        """Moves or casts every network, as `torch.nn.Module.to`; see `encoded_prompts.keep_in_float32`."""
        super().to(*args, **kwargs)
        if isinstance(self.prompts, T5Prompts):
            keep_in_float32(self.prompts.encoder)
        return self

    def replace_vae(self, vae: Any, where: Path) -> None:
        what = f"{self.name} is {self.spec.title}, which draws pixels and has no autoencoder"
        raise InputError(Problem("vae", what, "leave it out"))

    def encode_prompts(self, prompts: Sequence[Prompt], *, clip_skip: int | None = None, min_chunks: int = 1) -> Conditioning:
        """`encoder_hidden_states` [B, L, D], see `customize.families.encoded_prompts`. Raises InputError, also for clip_skip."""
        if self.prompts is None:
            what = "has been loaded without its text encoder (T5), and cannot read prompts"
            raise InputError(Problem(SETTING, f"{self.name} {what}", "give prompts that were encoded before"))
        if clip_skip:
            raise InputError(Problem("clip_skip", "T5 has no layers to skip", "leave it out"))
        rows = torch.stack([self.prompts.encode(prompt) for prompt in prompts])
        return Conditioning({"encoder_hidden_states": rows.to(self.device, self.dtype)})

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> DenoiserOutput:
        """noisy_latents: pixels [B, 3, H, W]; timesteps: [B]; conditioning: `encoder_hidden_states` [B, L, D].

        Stage II takes [B, 6, H, W], the second half the enlarged smaller picture, with `class_labels` [B], the timestep of the
        noise added to it. Where they are not given, as while it is trained, the noisy pixels and their timestep take their places
        (the DreamBooth scripts of diffusers, `--class_labels_conditioning timesteps`).

        Returns the prediction and the variance, each [B, 3, H, W].
        """
        inputs = dict(conditioning.tensors)
        if self.takes_low_resolution:
            inputs.setdefault("class_labels", timesteps)
            if noisy_latents.shape[1] == self.latents.channels:
                noisy_latents = torch.cat([noisy_latents, noisy_latents], 1)
        output = self.unet(noisy_latents, timesteps, **inputs, return_dict=False)[0]
        return DenoiserOutput(*output.split(self.latents.channels, 1))

    def leave_out_text_encoder(self) -> None:
        """Drops T5, which is not in `pipeline` then."""
        self.prompts = None

    def with_component(self, name: str, network: nn.Module) -> "DeepFloydIF":
        """The same model with another network as the component `name`; all other networks are shared."""
        other = copy(self)
        if isinstance(self.prompts, T5Prompts) and isinstance(network, T5EncoderModel):
            other.prompts = T5Prompts(network, self.prompts.tokenizer)
        else:
            setattr(other, name, network)
        return other

    def pipeline(self) -> IFPipeline | IFSuperResolutionPipeline:
        """diffusers' pipeline of these components (not copies), without safety checker and watermarker."""
        t5 = self.prompts if isinstance(self.prompts, T5Prompts) else None
        parts = {"tokenizer": t5 and t5.tokenizer, "text_encoder": t5 and t5.encoder, "unet": self.unet}
        parts["scheduler"] = self.scheduler
        left_out = {**dict.fromkeys(self.spec.unused_parts), "requires_safety_checker": False}
        if self.takes_low_resolution:
            return IFSuperResolutionPipeline(**parts, image_noising_scheduler=self.image_noising_scheduler, **left_out)
        return IFPipeline(**parts, **left_out)

    def load_component(self, model: Path, name: str) -> Any:
        """A network in float32, the tokenizer or a scheduler of a complete pipeline. Raises InputError."""
        if (network := self.components.get(name)) is not None:
            return load_network(type(network), model / name, "t5" if name == "text_encoder" else name).eval()
        return load_t5_tokenizer(model / name) if name == "tokenizer" else load_scheduler(model)


def load(source: Source, placement: Placement) -> DeepFloydIF:
    """Loads a folder that the spec has checked. Raises InputError, also for weights that are NaN or infinite."""
    folder = source.folder
    assert folder, "a model on the hub is downloaded by families.load"
    prompts = load_t5(source, placement) if source.loads_text_encoder else None
    if source.prompt_embeddings:
        prompts = EncodedPrompts.read(Path(os.path.expanduser(source.prompt_embeddings)))
    unet = load_network(UNet2DConditionModel, folder / "unet", "unet", source.variant, placement.dtype_of("unet"))
    scheduler = changed_scheduler(load_scheduler(folder), source.prediction_type, source.rescale_betas_zero_snr)
    with refusing(folder / "scheduler", OTHER):
        noising = load_scheduler(folder, NOISING) if DEEPFLOYD_IF.stage(folder) == 2 else None
        return placed(DeepFloydIF(source.name, folder, unet, scheduler, prompts, noising), placement)
