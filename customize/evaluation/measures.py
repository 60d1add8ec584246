"""Numbers of pictures from a scorer's features: likeness, obedience, drift, copying, variety.

N pictures, R of the user's photos, C pictures of the class by the base model, P patches of a picture, E width of a feature.
"""

import torch
from torch import Tensor

from customize.evaluation.scorers import Features

LEAST_RANGE = 0.05
"""The smallest distance of cosines between floor and ceiling at which likeness can be measured."""
ONE_BACKGROUND = 0.75
"""How alike the surroundings of photos with one background are at least: 0 as those of the base model's pictures, 1 the same."""


def patch_similarity(pictures: Features, photos: Features, mask: Tensor | None = None) -> Tensor:
    """How well the patches of each photo are found in each picture: [N, R], the mean over the patches of a photo of the largest
    cosine with a patch of the picture (masked max-cosine, MaSC 2026). mask: [R, P] in [0, 1], the weights of its patches."""
    best = torch.stack([torch.einsum("rpe,qe->rpq", photos.patches, one).amax(2) for one in pictures.patches])  # [N, R, P]
    if mask is None:
        return best.mean(2)
    return (best * mask).sum(2) / mask.sum(1).clamp(min=1e-6)


def without_itself(similarity: Tensor) -> Tensor:
    """The similarity of each photo to the most similar other one [R], from that of all to all [R, R]; NaN for a single photo."""
    if len(similarity) < 2:
        return similarity.new_full((len(similarity),), float("nan"))
    return similarity.masked_fill(torch.eye(len(similarity), dtype=torch.bool), -2.0).amax(1)


def anchored(values: Tensor, floor: Tensor, ceiling: Tensor) -> Tensor:
    """The values on a scale where the mean of `floor` is 0 and that of `ceiling` is 1; unlimited on both sides. NaN where floor
    and ceiling are too close (`LEAST_RANGE`)."""
    low, high = floor.mean(), ceiling.mean()
    return (values - low) / (high - low) if high - low > LEAST_RANGE else torch.full_like(values, float("nan"))


def style_shift(pictures: Tensor, before: Tensor, photos: Tensor) -> Tensor:
    """How far each picture moved from the base model's one of the same content and seed to the style of the photos: [N], 0 not at
    all, 1 as far as the photos' mean is from that of the base model's pictures. All [.., G], see `Features.style`."""
    way = photos.mean(0) - before.mean(0)
    return (pictures - before) @ way / (way @ way).clamp(min=1e-12)


def nearer(pictures: Features, photos: Features, of_class: Features, prompts: Tensor) -> Tensor:
    """For each picture the share of comparisons in which it is nearer to a photo than to a picture of the class in another scene:
    [N], 0.5 by chance (area under the curve; Finer-Personalization Rank 2025). prompts: int64 [N], those of the pictures and of
    the pictures of the class."""
    to_photos, to_class = mutual(pictures, photos), mutual(pictures, of_class)
    elsewhere = prompts[:, None] != prompts[None, :]
    found = []
    for own, others, which in zip(to_photos, to_class, elsewhere, strict=True):
        difference = own[:, None] - others[which][None, :]
        found.append(((difference > 0).float() + 0.5 * (difference == 0).float()).mean())
    return torch.stack(found)


def mutual(pictures: Features, others: Features) -> Tensor:
    """The mean of how well the patches of either are found in the other: [N, R]."""
    return (patch_similarity(pictures, others) + patch_similarity(others, pictures).T) / 2


def obedience(match: Tensor, own: Tensor) -> Tensor:
    """The share of the other prompts that describe each picture worse than its own: [N], 0.5 by chance.

    match: [N, M], see `Scorer.match`; own: int64 [N], the place of the prompt of each picture.
    """
    mine = match.gather(1, own[:, None])
    worse = (match < mine).float() + 0.5 * (match == mine).float()
    return (worse.sum(1) - 0.5) / (match.shape[1] - 1)


def obedience_of_style(pictures: Features, before: Features, prompts: Tensor) -> Tensor:
    """The share of the base model's pictures of other contents that each picture resembles less than the one of its own content
    and seed: [N], 0.5 by chance. Texts do not tell contents apart where all colours have changed. prompts: int64 [N]."""
    similarity = aligned(pictures, before)
    mine, others = similarity.diagonal()[:, None], prompts[:, None] != prompts[None, :]
    return ((similarity < mine) & others).float().sum(1) / others.sum(1)


def drift(pictures: Features, before: Features) -> Tensor:
    """The change of each picture against that of the base model from the same prompt and seed: [N]; 0: the same, 1: as much as
    between the base model's pictures of different prompts. Mean cosine distance of patches at the same place."""
    change = 1 - aligned(pictures, before).diagonal()
    unrelated = 1 - aligned(before, before)
    count = len(unrelated)
    return change / (unrelated.sum() / max(count * (count - 1), 1)).clamp(min=1e-6)


def copying(pictures: Features, photos: Features) -> Tensor:
    """How near each picture is to its nearest photo, patch by patch at the same place: [N], 0: as near as the photos are to their
    nearest others, 1: the same, 0 for less than that; NaN for a single photo. FineXtract 2024 counts pictures above 0."""
    among = without_itself(aligned(photos, photos)).mean()
    return ((aligned(pictures, photos).amax(1) - among) / (1 - among).clamp(min=1e-6)).clamp(min=0)


def aligned(pictures: Features, others: Features) -> Tensor:
    """The mean cosine of patches at the same place: [N, R]."""
    return torch.einsum("npe,rpe->nr", pictures.patches, others.patches) / pictures.patches.shape[1]


def variety(pictures: Features, prompts: Tensor, base: Features) -> Tensor:
    """The mean distance of each picture to those of other seeds of its prompt, relative to the mean of the base model's: [N].
    prompts: int64 [N], the prompt of each picture, and of each of the base's."""
    return distance_to_others(pictures, prompts) / distance_to_others(base, prompts).mean().clamp(min=1e-6)


def distance_to_others(pictures: Features, prompts: Tensor) -> Tensor:
    """The mean distance of each picture to the others of its prompt: [N]; NaN where there is none."""
    same = (prompts[:, None] == prompts[None, :]) & ~torch.eye(len(prompts), dtype=torch.bool)
    return ((1 - aligned(pictures, pictures)) * same).sum(1) / same.sum(1)
