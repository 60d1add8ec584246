"""Prior preservation: samples of the class beside those of the subject."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from customize.data.samples.batches import Batch, by_shape
from customize.data.samples.latent_dataset import ImageDataset


class PriorPreservation:
    """Prior preservation (DreamBooth, equation 2): beside each sample of the subject one of the class, weighted."""

    def __init__(self, subject: ImageDataset, of_class: ImageDataset, prior_loss_weight: float):
        self.subject, self.of_class, self.prior_loss_weight = subject, of_class, prior_loss_weight

    def probe(self, number: int) -> Batch:
        """Fixed samples of the subject."""
        return self.subject.probe(number)

    def deal(self, step: int, positions: Sequence[int]) -> list[Batch]:
        """The samples of the subject and of the class; those of one shape are one batch, the subject first."""
        of_class = [as_prior(batch, self.prior_loss_weight) for batch in self.of_class.deal(step, positions)]
        return by_shape([*self.subject.deal(step, positions), *of_class])


class PriorDistillation:
    """Prior preservation by the base model as teacher: the same noisy latents once more, under the class prompt, weighted."""

    def __init__(self, subject: ImageDataset, class_prompt: str, prior_loss_weight: float):
        self.subject, self.class_prompt, self.prior_loss_weight = subject, class_prompt, prior_loss_weight

    def probe(self, number: int) -> Batch:
        """Fixed samples of the subject."""
        return self.subject.probe(number)

    def deal(self, step: int, positions: Sequence[int]) -> list[Batch]:
        """The samples of the subject, then the same under the class prompt, in one batch for each shape."""
        batches = self.subject.deal(step, positions)
        of_class = [as_prior(batch, self.prior_loss_weight) for batch in batches]
        of_class = [
            replace(batch, prompts=(self.class_prompt,) * len(batch), taught=torch.ones_like(batch.taught)) for batch in of_class
        ]
        return by_shape([*batches, *of_class])


def as_prior(batch: Batch, prior_loss_weight: float) -> Batch:
    """The batch as samples of prior preservation, of whole images, with their share of the loss."""
    weights, mask = prior_loss_weight * batch.loss_weights, torch.ones_like(batch.loss_mask)
    return replace(batch, loss_weights=weights, loss_mask=mask, is_prior=torch.ones_like(batch.is_prior))
