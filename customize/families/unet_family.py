"""What base models of one UNet have in common."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from customize.families.conditioning import Conditioning, Crop
from customize.families.prompt_encoding import Prompt


class UNetFamily:
    """A part of `customize.families.base.Family`, for a model whose prompts all have one length, and which takes no image sizes:
    others override what differs.

    unet: a network with the attributes `device` and `dtype`.
    """

    unet: Any

    @property
    def components(self) -> Mapping[str, nn.Module]:
        return {"unet": self.unet}

    @property
    def denoiser(self) -> Any:
        return self.unet

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves or casts every network, as `torch.nn.Module.to`."""
        for network in self.components.values():
            network.to(*args, **kwargs)
        return self

    def num_chunks(self, prompt: Prompt) -> int:
        return 1

    def collate(self, prompts: Sequence[Conditioning], empty: Conditioning) -> Conditioning:
        return Conditioning.cat(prompts)

    def size_conditioning(self, crops: Sequence[Crop]) -> dict[str, Tensor]:
        return {}
