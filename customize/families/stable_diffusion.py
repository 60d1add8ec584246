"""Stable Diffusion 1.x and 2.x: the parts of the model and what they answer; nothing here trains or samples.

B batch, C latent channels, H W latent height and width, L tokens, D embedding width.
Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models".
"""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AddedToken, CLIPTextModel, CLIPTokenizer

from customize.diffusion.process import DiscreteSchedule
from customize.errors import InputError, Problem
from customize.families.conditioning import Conditioning
from customize.families.latents import KLLatents
from customize.families.source import known_token_problems
from customize.families.tokens import added_words, token_table


class StableDiffusion:
    """A text-conditional latent diffusion model with one CLIP text encoder.

    name: what the user called it; source: the folder or file that it came from. scheduler: the base's own, for sampling;
    schedule: its noise levels, those that it was trained with.
    """

    def __init__(self, name: str, source: Path, unet, vae, text_encoder, tokenizer, scheduler):
        self.name, self.source = name, source
        self.unet: UNet2DConditionModel = unet
        self.vae: AutoencoderKL = vae
        self.text_encoder: CLIPTextModel = text_encoder
        self.tokenizer: CLIPTokenizer = tokenizer
        self.scheduler = scheduler
        self.schedule = DiscreteSchedule.of(DDPMScheduler.from_config(scheduler.config))
        self.placeholders = added_words(tokenizer)
        for network in self.networks:
            network.requires_grad_(False).eval()

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.unet, self.vae, self.text_encoder

    @property
    def latents(self) -> KLLatents:
        """The autoencoder's latents, in which the UNet denoises."""
        return KLLatents(self.vae)

    @property
    def resolution(self) -> int:
        """Side in pixels of the pictures that the model was made for. Raises InputError where the model does not say."""
        if self.unet.config.sample_size is None:
            remedy = "give --resolution in training, --height and --width in generating"
            raise InputError(Problem(str(self.source), "does not say for which size of pictures it was made", remedy))
        return self.unet.config.sample_size * self.latents.factor

    @property
    def prediction_type(self) -> str:
        """The row of `diffusion.predictions.PREDICTIONS` that the base's scheduler names."""
        return self.scheduler.config.prediction_type

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def to(self, *args, **kwargs) -> "StableDiffusion":
        """Moves (or casts) every network, as `torch.nn.Module.to`."""
        for network in self.networks:
            network.to(*args, **kwargs)
        return self

    def replace_vae(self, vae: AutoencoderKL, where: Path) -> None:
        """Takes another autoencoder for its own. Raises InputError for one of another shape of latents."""
        sizes = [(each.factor, each.channels) for each in (KLLatents(vae), self.latents)]
        if sizes[0] != sizes[1]:
            said = [f"{channels} channels of 1/{factor} the size" for factor, channels in sizes]
            what = f"{where} makes latents of {said[0]}, the base model's own of {said[1]}"
            raise InputError(Problem("vae", what, "take an autoencoder of the same kind of model"))
        self.vae = vae.requires_grad_(False).eval()

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Returns input_ids [B, L] on the text encoder's device, padded to the tokenizer's length.

        Raises InputError when a prompt is longer than the text encoder can read: nothing is cut off silently.
        """
        problems = [
            Problem(f"prompt {prompt!r}", f"too long: {lost!r} would not be read", "shorten the prompt")
            for prompt in prompts
            if (lost := self.words_beyond_the_end(prompt))
        ]
        if problems:
            raise InputError(problems)
        texts = [self.expand(prompt) for prompt in prompts]
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return tokens.input_ids.to(self.text_encoder.device)

    def expand(self, prompt: str) -> str:
        """The prompt with each placeholder written out as the tokens that stand for it."""
        if not self.placeholders:
            return prompt
        written_out = {placeholder.casefold(): " ".join(tokens) for placeholder, tokens in self.placeholders.items()}
        patterns = "|".join(sorted(map(as_a_word, self.placeholders), key=len, reverse=True))
        # "<cat>s" is "<cat> <cat>_1 s": the last token, as a word of its own, would not be found in "<cat>_1s"
        return re.sub(
            f"({patterns})(?=(\\w?))",
            lambda found: written_out[found[1].casefold()] + (" " if found[2] else ""),
            prompt,
            flags=re.IGNORECASE,
        )

    def words_beyond_the_end(self, prompt: str) -> str:
        """The end of the prompt that the text encoder cannot see; empty when all of it fits."""
        input_ids = self.tokenizer(self.expand(prompt), truncation=False, verbose=False).input_ids
        return self.tokenizer.decode(input_ids[self.tokenizer.model_max_length - 1 : -1])

    def encode_prompts(self, input_ids: Tensor, clip_skip: int | None = None) -> Conditioning:
        """input_ids: [B, L]; returns `encoder_hidden_states` [B, L, D]: the last layer's, normalised.

        clip_skip: how many last layers are left out. Raises InputError where there are not as many.
        """
        if not clip_skip:
            return Conditioning({"encoder_hidden_states": self.text_encoder(input_ids, return_dict=False)[0]})
        if clip_skip >= (layers := self.text_encoder.config.num_hidden_layers):
            what = f"{clip_skip} is too many: the text encoder has {layers} layers"
            raise InputError(Problem("clip_skip", what, f"take {layers - 1} at most; 1 is usual (A1111's Clip skip 2)"))
        hidden_states = self.text_encoder(input_ids, output_hidden_states=True).hidden_states[-1 - clip_skip]
        hidden_states = getattr(self.text_encoder, "text_model", self.text_encoder).final_layer_norm(hidden_states)
        return Conditioning({"encoder_hidden_states": hidden_states})

    def collate(self, prompts: Sequence[Conditioning], empty: Conditioning) -> Conditioning:
        """One batch of prompts that were encoded apart, one row each. A shorter prompt is padded with chunks of the empty one."""
        rows = [prompt.tensors["encoder_hidden_states"] for prompt in prompts]
        longest, padding = max(row.shape[1] for row in rows), empty.tensors["encoder_hidden_states"]
        padded = [torch.cat([row, *[padding] * ((longest - row.shape[1]) // padding.shape[1])], 1) for row in rows]
        return Conditioning({"encoder_hidden_states": torch.cat(padded)})

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance scale is an input of the UNet, as in a latent consistency model (LCM)."""
        return self.unet.config.time_cond_proj_dim is not None

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """noisy_latents: [B, C, H, W]; timesteps: [B]; conditioning: `encoder_hidden_states` [B, L, D], and where
        `takes_guidance`, `guidance_scale` [B].

        Returns the UNet's output [B, C, H, W], of the kind that `prediction_type` names.
        """
        inputs = dict(conditioning.tensors)
        if (scale := inputs.pop("guidance_scale", None)) is not None:
            width = self.unet.config.time_cond_proj_dim
            inputs["timestep_cond"] = guidance_embedding(scale - 1, width).to(noisy_latents)
        return self.unet(noisy_latents, timesteps, **inputs, return_dict=False)[0]

    def initial_vectors(self, words: str, num_vectors: int) -> Tensor:
        """[num_vectors, D]: the embeddings of the words' tokens, repeated in turn or cut to the number asked for.

        Raises InputError when the words hold no token.
        """
        input_ids = self.tokenizer(words, add_special_tokens=False).input_ids
        if not input_ids:
            raise InputError(Problem("initializer_token", f"{words!r} holds no token", "give a word, such as toy"))
        rows = [input_ids[i % len(input_ids)] for i in range(num_vectors)]
        return self.text_encoder.get_input_embeddings().weight[rows].detach().clone()

    def add_tokens(self, placeholder: str, vectors: Tensor) -> None:
        """Teaches the tokenizer a placeholder that stands for `vectors` [N, D]; a Parameter is used as it is.

        Raises InputError when the placeholder is a word already.
        """
        tokens = (placeholder, *(f"{placeholder}_{i}" for i in range(1, len(vectors))))
        if problems := known_token_problems(set(self.tokenizer.get_vocab()), tokens):
            raise InputError(problems)
        table = token_table(self.text_encoder)
        vectors = vectors if isinstance(vectors, nn.Parameter) else nn.Parameter(vectors, requires_grad=False)
        if len(self.tokenizer) != table.num_rows:
            what = f"its tokenizer knows {len(self.tokenizer)} words, its text encoder {table.num_rows}"
            raise InputError(Problem(self.name, what, "new words need a base model in which the two agree"))
        self.tokenizer.add_tokens([AddedToken(token, single_word=is_letter(token[-1])) for token in tokens])
        table.vectors.append(vectors)
        self.placeholders[placeholder] = tokens

    def pipeline(self) -> StableDiffusionPipeline:
        """diffusers' own pipeline around these very parts (nothing is copied), without a safety checker."""
        return StableDiffusionPipeline(
            vae=self.vae, text_encoder=self.text_encoder, tokenizer=self.tokenizer, unet=self.unet,
            scheduler=self.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip


def guidance_embedding(w: Tensor, width: int) -> Tensor:
    """w: [B], the guidance scale less 1; returns [B, width] in float32: sines, then cosines, of 1000 w f, with `width` // 2
    frequencies f from 1 down to 1/10000.

    Luo et al. 2023, "Latent Consistency Models", section 4.2 and appendix; w as in Meng et al. 2023, "On Distillation of
    Guided Diffusion Models".
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(torch.tensor(10_000.0).log() / (half - 1)))
    angles = 1000 * w.cpu().float()[:, None] * frequencies  # up to thousands: on the CPU, so that they are the same everywhere
    return F.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 2))


def is_letter(character: str) -> bool:
    """Whether a word goes on with it: <cat> ends by itself, sks ends where no letter, digit or _ follows."""
    return character.isalnum() or character == "_"


def as_a_word(placeholder: str) -> str:
    """A pattern that finds the placeholder, but not inside a longer word."""
    before, after = ("(?<!\\w)" if is_letter(placeholder[0]) else "", "(?!\\w)" if is_letter(placeholder[-1]) else "")
    return before + re.escape(placeholder) + after
