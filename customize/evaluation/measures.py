"""Numbers of pictures from a scorer's features: likeness, obedience, drift, copying, variety.

N pictures, R of the user's photos, C pictures of the class by the base model, P patches of a picture, E width of a feature.
"""

import torch
from torch import Tensor

from customize.evaluation.scorers import Features


def patch_similarity(pictures: Features, photos: Features, mask: Tensor | None = None) -> Tensor:
    """How well the patches of each photo are found in each picture: [N, R], the mean over the patches of a photo of the largest
    cosine with a patch of the picture (masked max-cosine, MaSC 2026). mask: [R, P], the patches of the subject."""
    best = torch.stack([torch.einsum("rpe,qe->rpq", photos.patches, one).amax(2) for one in pictures.patches])  # [N, R, P]
    if mask is None:
        return best.mean(2)
    weights = mask.float()
    return (best * weights).sum(2) / weights.sum(1).clamp(min=1e-6)


def anchored(values: Tensor, floor: Tensor, ceiling: Tensor) -> Tensor:
    """The values on a scale where the mean of `floor` is 0 and that of `ceiling` is 1; unlimited on both sides."""
    low, high = floor.mean(), ceiling.mean()
    return (values - low) / (high - low).clamp(min=1e-3)


def leave_one_out(similarity: Tensor) -> Tensor:
    """The similarity of each photo to the others [R], from that of all to all [R, R]."""
    count = len(similarity)
    if count < 2:
        return similarity.new_full((count,), float("nan"))
    return (similarity.sum(1) - similarity.diagonal()) / (count - 1)


def nearer(to_photos: Tensor, to_class: Tensor) -> Tensor:
    """For each picture the share of comparisons in which it is nearer to a photo than to a picture of the class: [N], 0.5 by
    chance (area under the curve; Finer-Personalization Rank 2025). to_photos: [N, R]; to_class: [N, C]."""
    more = to_photos[:, :, None] > to_class[:, None, :]
    equal = to_photos[:, :, None] == to_class[:, None, :]
    return (more.float() + 0.5 * equal.float()).mean((1, 2))


def obedience(match: Tensor, own: Tensor) -> Tensor:
    """The share of the other prompts that describe each picture worse than its own: [N], 0.5 by chance.

    match: [N, M], see `Scorer.match`; own: int64 [N], the place of the prompt of each picture.
    """
    mine = match.gather(1, own[:, None])
    worse = (match < mine).float() + 0.5 * (match == mine).float()
    return (worse.sum(1) - 0.5) / (match.shape[1] - 1)


def drift(pictures: Features, before: Features) -> Tensor:
    """The change of each picture against that of the base model from the same prompt and seed: [N]; 0: the same, 1: as much as
    between the base model's pictures of different prompts. Mean cosine distance of patches at the same place."""
    change = 1 - (pictures.patches * before.patches).sum(-1).mean(1)
    unrelated = 1 - torch.einsum("npe,mpe->nmp", before.patches, before.patches).mean(2)
    count = len(unrelated)
    scale = unrelated.sum() / max(count * (count - 1), 1)
    return change / scale.clamp(min=1e-6)


def copying(to_photos: Tensor) -> Tensor:
    """How much nearer each picture is to its nearest photo than to the second nearest: [N]; NaN with fewer than two photos.
    to_photos: [N, R], similarities of whole pictures."""
    if to_photos.shape[1] < 2:
        return to_photos.new_full((len(to_photos),), float("nan"))
    first, second = to_photos.topk(2, dim=1).values.unbind(1)
    return first - second


def variety(pictures: Features, prompts: Tensor, base: Features) -> Tensor:
    """The mean distance of each picture to those of other seeds of its prompt, relative to the mean of the base model's: [N].
    prompts: int64 [N], the prompt of each picture, and of each of the base's."""
    return distance_to_others(pictures, prompts) / distance_to_others(base, prompts).mean().clamp(min=1e-6)


def distance_to_others(pictures: Features, prompts: Tensor) -> Tensor:
    """The mean cosine distance of each picture to the others of its prompt: [N]; NaN where there is none."""
    distance = 1 - torch.einsum("npe,mpe->nm", pictures.patches, pictures.patches) / pictures.patches.shape[1]
    same = (prompts[:, None] == prompts[None, :]) & ~torch.eye(len(prompts), dtype=torch.bool)
    return (distance * same).sum(1) / same.sum(1)
