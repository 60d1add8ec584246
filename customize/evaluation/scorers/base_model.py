"""The base model as a scorer, which needs no other weights: its denoiser's activations, and its own likelihood.

Tang et al. 2023, "Emergent Correspondence from Image Diffusion" (DIFT): activations of a denoiser on a noised image are features.
Li et al. 2023, "Your Diffusion Model is Secretly a Zero-Shot Classifier": the prompt under which it predicts the noise best
describes the image.

N images, M prompts, B rows of a batch, C latent channels, H W latent height and width, E channels of a block, h w its size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from customize.diffusion import losses, predictions, rng
from customize.evaluation.scorers import Features
from customize.evaluation.scorers.pixels import squares, unit_mean, unit_patches
from customize.families.base import Family
from customize.families.conditioning import Conditioning, Crop


class Place(NamedTuple):
    """Where activations are read. blocks: "down_blocks", "mid_block" or "up_blocks" of a UNet; index: which of them, -1 the last;
    time: the noise level, as a share of the schedule: 0 no noise, 1 the last timestep. Read is the output of the block's last
    layer, before it changes the resolution."""

    blocks: str
    index: int
    time: float


PATCHES, STYLE = Place("down_blocks", 1, 0.15), Place("down_blocks", 0, 0.15)
"""Subjects are compared by the second block, styles by the first: `docs/evaluation.md` has the comparison with others."""
MATCH_TIMES = (0.4, 0.7)
"""The noise levels at which prompts are compared. A level that is given twice has two draws of noise."""
GRID = 16
"""The largest number of patches along a side: finer activations (32 with Stable Diffusion, 64 with SDXL) are averaged, since all
patches of two images are compared with one another."""
BATCH, SEED = 8, 0


class Reached(Exception):
    """The denoiser evaluated all blocks that are read."""


class BaseModelScorer:
    """Scores images with the base model itself; the caller switches adapters and learned words off.

    condition: prompts -> conditioning, a row for each, on the device; the empty prompt is asked for too. device: where the
    denoiser and the autoencoder are; autocast: the context in which they are evaluated.
    """

    name = "base model"

    def __init__(
        self,
        family: Family,
        condition: Callable[[Sequence[str]], Conditioning],
        device: torch.device | str = "cpu",
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        *,
        patches: Place = PATCHES,
        style: Place = STYLE,
        match_times: Sequence[float] = MATCH_TIMES,
    ):
        self.family, self.condition, self.device, self.autocast = family, condition, device, autocast
        self.patches, self.style, self.match_times = patches, style, tuple(match_times)
        self.side = family.resolution
        self.known: dict[tuple[int, int], Tensor] = {}

    def features(self, images: Sequence[Image.Image]) -> Features:
        """One evaluation per image, up to the deeper of the two places: see `Scorer`."""
        patches, style = self.activations(images, (self.patches, self.style))
        side = min(GRID, patches.shape[-1])
        return Features(unit_mean(patches), unit_patches(F.adaptive_avg_pool2d(patches, side)), gram(style))

    def activations(self, images: Sequence[Image.Image], places: Sequence[Place]) -> list[Tensor]:
        """The outputs [N, E, h, w] of the blocks at these places, float32 on the CPU, on the empty prompt. The denoiser is
        evaluated once for each noise level of the places, which has the same noise for all images."""
        latents, found = self.latents(images), {}
        for time in sorted({place.time for place in places}):
            here = [place for place in places if place.time == time]
            parts = []
            for rows in latents.split(BATCH):
                noise = self.noise(f"features/{time}", [0] * len(rows), latents)
                noisy, timesteps, _ = self.noised(rows, noise, [time] * len(rows))
                with reading(self.family.denoiser, here) as outputs:
                    self.predict(noisy, timesteps, self.condition([""])[[0] * len(rows)])
                parts.append(outputs)
            found |= {place: torch.cat([part[place].float().cpu() for part in parts]) for place in here}
        return [found[place] for place in places]

    def match(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """Minus the mean squared error of the denoiser's prediction under each prompt [N, M], for the same noise at the same
        levels; evaluates the denoiser N * M times per level."""
        latents, conditioning = self.latents(images), self.condition(prompts)
        errors = torch.zeros(len(images), len(self.match_times), len(prompts))
        for rows in torch.cartesian_prod(*map(torch.arange, errors.shape)).split(BATCH):
            image, level, prompt = rows.T.tolist()
            noise = self.noise("match", level, latents)
            noisy, timesteps, target = self.noised(latents[image], noise, [self.match_times[each] for each in level])
            predicted = self.predict(noisy, timesteps, conditioning[prompt])
            errors[image, level, prompt] = losses.mean_squared_error(predicted, target).cpu()
        return -errors.mean(1)

    @torch.no_grad()
    def latents(self, images: Sequence[Image.Image]) -> Tensor:
        """The latents [N, C, H, W] of images, each encoded by itself: the last bits can depend on the rest of a batch."""
        pixels, space = 2 * squares(images, self.side) - 1, self.family.latents
        return torch.cat([space.sample(space.encode(each[None].to(self.device))).float() for each in pixels])

    def hidden(self, height: int, width: int) -> Tensor:
        """The latents [1, C, H, W] of an image of this size in pixels that is all hidden, for base models that fill in images."""
        if (height, width) not in self.known:
            space = self.family.latents
            self.known[height, width] = space.sample(space.encode(torch.zeros(1, 3, height, width, device=self.device)))
        return self.known[height, width]

    def noise(self, name: str, draws: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal noise [B, C, H, W] of these draws, from streams of its own."""
        return rng.normal(like.shape[1:], SEED, f"scorer/{name}", 0, draws).to(like)

    def noised(self, latents: Tensor, noise: Tensor, times: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents [B, C, H, W], timesteps [B] and the target of the prediction, at noise levels given as shares."""
        timesteps = self.family.schedule.timesteps(torch.tensor(times)).to(latents.device)
        levels = self.family.schedule.alpha_sigma(timesteps, latents.dtype)
        target = predictions.target(latents, noise, *levels, self.family.prediction_type)
        return predictions.add_noise(latents, noise, *levels), timesteps, target

    @torch.no_grad()
    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's output [B, C, H, W]. One that fills in images is told that all of the image is hidden."""
        family, denoiser, size = self.family, self.family.denoiser, len(noisy)
        height, width = (side * family.latents.factor for side in noisy.shape[2:])
        inputs = dict(family.size_conditioning([Crop.whole(height, width)] * size))
        if family.takes_guidance:
            inputs["guidance_scale"] = torch.ones(size)
        if family.takes_mask:
            known = self.hidden(height, width).to(noisy).expand(size, -1, -1, -1)
            noisy = torch.cat([noisy, torch.ones_like(noisy[:, :1]), known], 1)
        was_training = denoiser.training
        denoiser.eval()
        try:
            with self.autocast():
                return family.predict(noisy.to(family.dtype), timesteps, conditioning.extended(**inputs)).prediction
        finally:
            denoiser.train(was_training)


def supports(family: Family) -> bool:
    """Whether activations of the family's denoiser can be read: it is a UNet."""
    return all(hasattr(family.denoiser, name) for name in ("down_blocks", "mid_block", "up_blocks"))


@contextmanager
def reading(denoiser: nn.Module, places: Sequence[Place]) -> Iterator[dict[Place, Tensor]]:
    """Inside the context one evaluation of the denoiser puts the outputs of these blocks into the dictionary, and ends at the
    deepest of them, which ends the block of `with`."""
    found: dict[Place, Tensor] = {}
    blocks = {place: block(denoiser, place) for place in places}

    def keep(module: nn.Module, _inputs, output) -> None:
        value = output[0] if isinstance(output, tuple) else output
        found.update({place: value for place, each in blocks.items() if each is module})
        if len(found) == len(blocks):
            raise Reached

    handles = [module.register_forward_hook(keep) for module in set(blocks.values())]
    try:
        with suppress(Reached):
            yield found
    finally:
        for handle in handles:
            handle.remove()


def block(denoiser: nn.Module, place: Place) -> nn.Module:
    """The block of a UNet at this place, or its last layer before the resolution changes."""
    if place.blocks == "mid_block":
        return getattr(denoiser, place.blocks)
    found = getattr(denoiser, place.blocks)[place.index]
    return (getattr(found, "attentions", None) or found.resnets)[-1]


def gram(activations: Tensor) -> Tensor:
    """The Gram matrices of activations [N, E, h, w] with unit columns, as rows [N, E * E]: which channels occur together,
    wherever they do. Gatys et al. 2016, "Image Style Transfer Using Convolutional Neural Networks", equation 3."""
    columns = F.normalize(activations.float().cpu().flatten(2), dim=1)
    return torch.einsum("nap,nbp->nab", columns, columns).flatten(1) / columns.shape[2]
