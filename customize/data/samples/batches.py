"""The batches of a step: samples of one shape, and the protocol of what deals them.

A dataset deals the samples of a step as batches in which all latents have one shape; datasets are made of datasets.

B positions, C latent channels, H W latent height and width.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor

from customize.families.conditioning import Crop


@dataclass(frozen=True)
class Batch:
    """Samples of one shape; each row is a function of (seed, step, position).

    latents, noise: [B, C, H, W]; perturbation: added to the noise of the input and not to that of the target, of this shape or
    [B, 1, 1, 1]; timesteps: [B]; loss_weights: [B], float32, the factor of each sample's loss;
    loss_mask: [B, 1, H, W], float32, the weight of each place in its sample's loss, of mean 1; taught: [B, 1, H, W], float32, the
    share of the base model's prediction in the target of each place, for methods that have a teacher;
    is_prior: [B], bool, true for the samples of prior preservation; crops: the part of its image that each sample shows;
    extra_channels: [B, K, H, W], further channels of the denoiser's input, K = 0 for none; names: the image behind each sample,
    for messages; positions: that of each sample in the step's global batch.
    """

    latents: Tensor
    noise: Tensor
    perturbation: Tensor
    timesteps: Tensor
    prompts: tuple[str, ...]
    loss_weights: Tensor
    loss_mask: Tensor
    taught: Tensor
    is_prior: Tensor
    crops: tuple[Crop, ...]
    extra_channels: Tensor
    names: tuple[str, ...]
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on the device."""
        return self._map(lambda values: values.to(device) if isinstance(values, Tensor) else values)

    def part(self, rows: slice | Tensor) -> "Batch":
        """Some of the samples. rows: a slice, or bool [B]."""
        chosen = torch.arange(len(self))[rows if isinstance(rows, slice) else rows.cpu()]
        return self._map(
            lambda values: values[chosen.to(values.device)] if isinstance(values, Tensor) else tuple(values[i] for i in chosen)
        )

    @staticmethod
    def cat(batches: "Sequence[Batch]") -> "Batch":
        """One batch of all samples, in this order. Their latents have one shape."""
        columns = {f.name: [getattr(batch, f.name) for batch in batches] for f in fields(Batch)}
        return Batch(**{k: torch.cat(v) if isinstance(v[0], Tensor) else tuple(chain(*v)) for k, v in columns.items()})

    def _map(self, change: Callable) -> "Batch":
        return replace(self, **{f.name: change(getattr(self, f.name)) for f in fields(self)})


class Dataset(Protocol):
    """Where the batches of a step come from."""

    def deal(self, step: int, positions: Sequence[int]) -> Sequence[Any]:
        """The samples at these positions of the step's global batch, as batches that each fit one forward pass.

        step: the number of the draw, which is the step as long as no draw was skipped. A batch has `to(device)`, `names`
        and `positions`, one for each of its samples; a position may occur more than once.
        """
        ...


def by_shape(batches: Iterable[Batch]) -> list[Batch]:
    """One batch for each shape of latents, the samples in their order."""
    of_shape: dict[tuple[int, ...], list[Batch]] = defaultdict(list)
    for batch in batches:
        of_shape[tuple(batch.latents.shape[1:])].append(batch)
    return [Batch.cat(alike) for alike in of_shape.values()]
