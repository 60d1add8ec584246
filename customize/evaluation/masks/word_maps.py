"""Where the base model sees a word in an image: the cross-attention to it, in the layers that know.

Only a few layers of a denoiser attend to a noun where its object is; the mean of all (DAAM, Tang et al. 2023) is less clear, and
which layers they are depends on the model. Those are taken that agree with a second map, which needs no layer: where the
prediction changes when the prompt names the object (Couairon et al. 2023, "DiffEdit: Diffusion-based Semantic Image Editing with
Mask Guidance").

N images, C latent channels, H W latent height and width, K layers that are taken, T noise levels.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from customize import prompts as grammar
from customize.evaluation.probe_prompts import mask_prompts
from customize.evaluation.scorers.base_model import BaseModelScorer
from customize.families.conditioning import Conditioning
from customize.inference.explain.attention import averaged, cross_attention, recording_hook, words

TIMES = (0.05, 0.1, 0.2)
"""The noise levels, as shares of the schedule."""
AGREES = 0.7
"""Layers are considered whose agreement with the change of the prediction is at least this share of the best one's."""
LEAST_CONTRAST = 0.25
"""Standard deviation over mean of a map below which a layer does not see the word. On `demo`, words that it was not trained on
have at most 0.13, others at least 0.36."""


@torch.no_grad()
def word_maps(base: BaseModelScorer, images: Sequence[Image.Image], word: str) -> list[np.ndarray]:
    """Maps of each image, float32 [K, H, W], larger where the word is: of the layers, the same for all images, that agree with
    the change of the prediction; 0 everywhere if a layer does not see it. Evaluates the denoiser 2 T times per image."""
    prompt, without = mask_prompts(word)
    places = [place for each in last_words(base, prompt, word) for place in each.places]
    conditioning = base.condition([prompt, without])
    found = [attention_and_change(base, image, conditioning, places) for image in images]
    fit = torch.stack([agreement(maps, change) for maps, change in found]).mean(0)
    if not len(fit) or fit.max() <= 0:
        return [change[None].numpy() for _, change in found]
    return [where_seen(maps[fit >= AGREES * fit.max()]).numpy() for maps, _ in found]


def last_words(base: BaseModelScorer, prompt: str, word: str) -> list:
    """The words at the end of the prompt that the tokenizer makes of `word`; none without attention maps."""
    if not base.family.spec.shows_attention:
        return []
    count = len(words(base.family, grammar.plain(word).clauses[0].at(0, 1)))
    return words(base.family, grammar.plain(prompt).clauses[0].at(0, 1))[-count:]


def attention_and_change(
    base: BaseModelScorer, image: Image.Image, conditioning: Conditioning, places: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The attention [layers, H, W] of each cross-attention layer to the tokens at `places`, and the change of the prediction
    [H, W] between the two prompts; means over the noise levels."""
    latents = latents_of(base, image).repeat(len(TIMES), 1, 1, 1)
    noise = base.noise("masks", range(len(TIMES)), latents)
    noisy, timesteps, _ = base.noised(latents, noise, TIMES)
    layers = cross_attention(base.family) if places else []
    recorded: list[list[Tensor]] = [[] for _ in layers]
    hooks = [
        layer.register_forward_pre_hook(recording_hook(into), with_kwargs=True)
        for layer, into in zip(layers, recorded, strict=True)
    ]
    try:
        named = base.predict(noisy, timesteps, conditioning[[0] * len(TIMES)])
    finally:
        for hook in hooks:
            hook.remove()
    change = (named - base.predict(noisy, timesteps, conditioning[[1] * len(TIMES)])).float().norm(dim=1)
    change = (change / change.mean((1, 2), keepdim=True).clamp(min=1e-12)).mean(0).cpu()
    maps = [averaged(one, noisy.shape[2:])[:, places].sum(1).mean(0).cpu() for one in recorded]
    return torch.stack(maps) if maps else change.new_zeros(0, *change.shape), change


def latents_of(base: BaseModelScorer, image: Image.Image) -> Tensor:
    """The latents [1, C, H, W] of a whole image, in its own ratio, scaled to the area of the model's own images."""
    space, step = base.family.latents, base.family.size_multiple
    factor = base.side / math.sqrt(image.width * image.height)
    size = [max(1, round(factor * side / step)) * step for side in image.size]
    pixels = np.array(image.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS))
    pixels = 2 * torch.from_numpy(pixels).permute(2, 0, 1).float() / 255 - 1
    return space.sample(space.encode(pixels[None].to(base.device))).float()


def where_seen(maps: Tensor) -> Tensor:
    """The maps [K, H, W], those without contrast set to 0."""
    contrast = maps.std((1, 2)) / maps.mean((1, 2)).clamp(min=1e-12)
    return maps * (contrast >= LEAST_CONTRAST).float().view(-1, 1, 1)


def agreement(maps: Tensor, change: Tensor) -> Tensor:
    """The correlation of each map [layers, H, W] with the change [H, W] over the places of the image: [layers]."""
    rows, other = maps.flatten(1) - maps.flatten(1).mean(1, keepdim=True), change.flatten() - change.mean()
    return (rows @ other) / (rows.norm(dim=1) * other.norm()).clamp(min=1e-12)
