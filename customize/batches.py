"""From examples to the samples of a step: which picture, how cut, under which words, with which noise, at which level.

Each choice is a function of (seed, step, position in the global batch); see `customize.draws`.

B positions, C latent channels, H W latent height and width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from customize import draws, objective
from customize.conditioning import encode_texts
from customize.families.conditioning import Conditioning
from customize.families.stable_diffusion import StableDiffusion
from customize.methods.method import Batch


@dataclass(frozen=True)
class Recipe:
    """What turns latents into samples: the settings that bear on noise, timesteps, words and weights."""

    seed: int
    global_batch: int
    caption_dropout: float = 0.0
    noise_offset: float = 0.0
    snr_gamma: float | None = None


@dataclass(frozen=True)
class Picture:
    """A picture as the loop needs it. moments: one [2C, H, W] for each variant (crop, flip) that the run draws."""

    name: str
    captions: tuple[str, ...]
    moments: dict[int, Tensor]


class Deck:
    """Pictures drawn one after another in an endless row of shuffled epochs. stream tells one deck from another."""

    def __init__(self, stream: str, recipe: Recipe, num_pictures: int, num_variants: Sequence[int]):
        self.stream, self.recipe = stream, recipe
        self.num_pictures, self.num_variants = num_pictures, num_variants

    def draw(self, step: int, position: int) -> tuple[int, int]:
        """(picture, variant) of a sample."""
        number = step * self.recipe.global_batch + position
        picture = draws.shuffled(number, self.num_pictures, self.recipe.seed, f"{self.stream}/order")
        variant = draws.integers(self.num_variants[picture], self.recipe.seed, f"{self.stream}/variant", step, [position])
        return picture, int(variant)

    def needed(self, steps: Iterable[int]) -> set[tuple[int, int]]:
        """Every (picture, variant) that is drawn in these steps: what has to be encoded."""
        found: set[tuple[int, int]] = set()
        for step in steps:
            found.update(self.draw(step, position) for position in range(self.recipe.global_batch))
            if len(found) == sum(self.num_variants):
                break
        return found


class Samples:
    """The samples of one deck of pictures."""

    def __init__(self, family: StableDiffusion, recipe: Recipe, deck: Deck, pictures: Sequence[Picture]):
        self.family, self.recipe, self.deck, self.pictures = family, recipe, deck, pictures
        self.alphas_cumprod = family.noise_scheduler.alphas_cumprod

    def batch(self, step: int, positions: Sequence[int]) -> Batch:
        """The samples at these positions of the step's global batch."""
        seed, stream = self.recipe.seed, self.deck.stream
        drawn = [self.deck.draw(step, position) for position in positions]
        pictures = [self.pictures[index] for index, _ in drawn]
        moments = torch.stack([self.pictures[index].moments[variant] for index, variant in drawn])
        shape = (moments.shape[1] // 2, *moments.shape[2:])
        noise = draws.normal(shape, seed, f"{stream}/noise", step, positions)
        if self.recipe.noise_offset:
            shift = draws.normal(shape[:1], seed, f"{stream}/noise_offset", step, positions)
            noise = objective.offset_noise(noise, shift, self.recipe.noise_offset)
        timesteps = self.timesteps(step, positions)
        return Batch(
            latents=self.family.sample_latents(moments, draws.normal(shape, seed, f"{stream}/latent", step, positions)),
            noise=noise,
            timesteps=timesteps,
            prompts=self.prompts(pictures, step, positions),
            weights=self.weights(timesteps),
            names=tuple(picture.name for picture in pictures),
        )

    def probe(self, number: int) -> Batch:
        """So many fixed samples, of noise levels and images spread evenly, whatever the seed draws in the steps: the first cut of
        an image that is there, and its first caption."""
        places = range(number)
        pictures = [self.pictures[place % len(self.pictures)] for place in places]
        pictures = [picture if picture.moments else self.shown for picture in pictures]
        moments = torch.stack([picture.moments[min(picture.moments)] for picture in pictures])
        shape = (moments.shape[1] // 2, *moments.shape[2:])
        levels = len(self.alphas_cumprod)
        return Batch(
            latents=self.family.sample_latents(moments, draws.normal(shape, self.recipe.seed, "probe/latent", 0, places)),
            noise=draws.normal(shape, self.recipe.seed, "probe/noise", 0, places),
            timesteps=torch.tensor([(2 * place + 1) * levels // (2 * number) for place in places]),
            prompts=tuple(picture.captions[0] for picture in pictures),
            weights=torch.ones(number),
            names=tuple(picture.name for picture in pictures),
        )

    @property
    def shown(self) -> Picture:
        """The first image of which the run draws a cut."""
        return next(picture for picture in self.pictures if picture.moments)

    def timesteps(self, step: int, positions: Sequence[int]) -> Tensor:
        """The noise levels [B], uniform over all that were trained (DDPM, algorithm 1)."""
        return draws.integers(len(self.alphas_cumprod), self.recipe.seed, f"{self.deck.stream}/timestep", step, positions)

    def prompts(self, pictures: Sequence[Picture], step: int, positions: Sequence[int]) -> tuple[str, ...]:
        """A caption of each picture, or none at the rate of `caption_dropout` (Ho & Salimans 2022)."""
        seed, stream = self.recipe.seed, self.deck.stream
        captions = [
            picture.captions[draws.integers(len(picture.captions), seed, f"{stream}/caption", step, [position])]
            for picture, position in zip(pictures, positions, strict=True)
        ]
        kept = draws.uniform(seed, f"{stream}/caption_dropout", step, positions) >= self.recipe.caption_dropout
        return tuple(caption if keep else "" for caption, keep in zip(captions, kept, strict=True))

    def weights(self, timesteps: Tensor) -> Tensor:
        """The weight of each sample [B]: 1, or that of min-SNR."""
        if self.recipe.snr_gamma is None:
            return torch.ones(len(timesteps))
        alphas_cumprod = self.alphas_cumprod[timesteps]
        return objective.min_snr_weights(alphas_cumprod, self.recipe.snr_gamma, self.family.prediction_type)


class WithClassPictures:
    """Prior preservation (DreamBooth, equation 2): beside each sample of the subject one of the class, weighted."""

    def __init__(self, subject: Samples, of_class: Samples, prior_loss_weight: float):
        self.subject, self.of_class, self.prior_loss_weight = subject, of_class, prior_loss_weight

    def probe(self, number: int) -> Batch:
        """Fixed samples of the subject."""
        return self.subject.probe(number)

    def batch(self, step: int, positions: Sequence[int]) -> Batch:
        """The samples of the subject, then those of the class."""
        subject, of_class = (samples.batch(step, positions) for samples in (self.subject, self.of_class))
        return joined(subject, of_class, self.prior_loss_weight)


class WithClassPrompt:
    """Prior preservation by a teacher: the same noisy latents once more, under the class prompt, weighted."""

    def __init__(self, subject: Samples, class_prompt: str, prior_loss_weight: float):
        self.subject, self.class_prompt, self.prior_loss_weight = subject, class_prompt, prior_loss_weight

    def probe(self, number: int) -> Batch:
        """Fixed samples of the subject."""
        return self.subject.probe(number)

    def batch(self, step: int, positions: Sequence[int]) -> Batch:
        """The samples of the subject, then the same under the class prompt."""
        subject = self.subject.batch(step, positions)
        of_class = Batch(**{**vars(subject), "prompts": (self.class_prompt,) * len(positions)})
        return joined(subject, of_class, self.prior_loss_weight)


def joined(subject: Batch, of_class: Batch, prior_loss_weight: float) -> Batch:
    """Both batches as one, the losses of the class weighted."""
    return Batch(
        latents=torch.cat([subject.latents, of_class.latents]),
        noise=torch.cat([subject.noise, of_class.noise]),
        timesteps=torch.cat([subject.timesteps, of_class.timesteps]),
        prompts=subject.prompts + of_class.prompts,
        weights=torch.cat([subject.weights, prior_loss_weight * of_class.weights]),
        names=subject.names + of_class.names,
    )


@torch.no_grad()
def encode_pictures(
    family: StableDiffusion, needed: Iterable[tuple[int, int]], read_pixels: Callable[[int, list[int]], Tensor]
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Asks the frozen VAE once about every (picture, variant); yields each with its moments.

    One at a time: what a network says about a picture can differ in the last bits with what else is in the batch, and a
    resumed run needs fewer of them. read_pixels: (picture, variants) -> [V, 3, 8H, 8W] in [-1, 1]. Moments: [2C, H, W],
    float32, on the CPU.
    """
    for picture, keys in groupby(sorted(needed), key=itemgetter(0)):
        variants = [variant for _, variant in keys]
        for variant, pixels in zip(variants, read_pixels(picture, variants), strict=True):
            yield (picture, variant), family.encode(pixels[None])[0].float().cpu()


@torch.no_grad()
def encode_captions(family: StableDiffusion, captions: Iterable[str], least: int = 1) -> dict[str, Conditioning]:
    """Evaluates the frozen text encoder once for every caption; returns one row for each, of `least` or more chunks."""
    return {caption: encode_texts(family, [caption], least) for caption in sorted(set(captions))}
