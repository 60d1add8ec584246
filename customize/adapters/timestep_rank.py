"""T-LoRA: the number of ranks of a LoRA that take part depends on the timestep, fewer where there is more noise.

Soboleva et al. 2025, "T-LoRA: Single Image Diffusion Model Customization Without Overfitting":
r(t) = floor(((T - t) / T)^a (r - r_min)) + r_min. The first r(t) rows of A x are kept, the others are 0. B samples.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

MARK = "timestep_rank"
"""The metadata entry of files whose ranks depend on the timestep: r_min and a."""
TIMESTEPS = 1000
"""T of every base model that learns in discrete steps."""
MOST_IMAGES = 3
"""For how many images a T-LoRA is meant, at most."""
OTHERS = "other programs use all ranks of a T-LoRA at every timestep, so their images differ"


@dataclass(frozen=True)
class TimestepRank:
    """min_rank: r_min, that at the noisiest timestep; power: a, above 1 to have fewer ranks in between."""

    min_rank: int
    power: float = 1.0

    @classmethod
    def of(cls, settings) -> "TimestepRank | None":
        """What the settings of a LoRA say; None for one whose ranks all take part."""
        return cls(settings.tlora_min_rank, settings.tlora_alpha) if settings.tlora_min_rank else None

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> "TimestepRank | None":
        """What the metadata of a file says; None if it says nothing. Raises ValueError for values out of range."""
        if MARK not in metadata:
            return None
        found = json.loads(metadata[MARK])
        min_rank, power = found["min_rank"], found["power"]
        if not (type(min_rank) is int and 1 <= min_rank <= 4096 and isinstance(power, int | float) and 0 < power <= 100):
            raise ValueError(f"no ranks by timestep: {found}")
        return cls(min_rank, float(power))

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata entry of a file, which `read` takes."""
        return {MARK: json.dumps({"min_rank": self.min_rank, "power": self.power})}

    def kept(self, timesteps: "Tensor", rank: int) -> "Tensor":
        """r(t), int64 [B], of timesteps [B]. A layer of no more than r_min ranks keeps them all."""
        share = ((TIMESTEPS - timesteps.double()) / TIMESTEPS).clamp(min=0) ** self.power
        least = min(self.min_rank, rank)
        return (share * (rank - least)).floor().long() + least

    def attach(self, network: "nn.Module", name: str) -> None:
        """Masks the adapter `name` in all layers of a denoiser, which it reads the timesteps of: its second argument."""
        import torch

        layers = [module for module in network.modules() if name in getattr(module, "lora_A", ())]
        now: list[Tensor] = []

        def remember(module: "nn.Module", args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not layers[0].disable_adapters:  # a teacher's forward pass may be between this one and its backward pass
                timesteps = kwargs["timestep"] if "timestep" in kwargs else args[1]
                now[:] = [torch.as_tensor(timesteps).reshape(-1)]

        def mask(module: "nn.Module", inputs: "tuple[Tensor, ...]", output: "Tensor") -> "Tensor":
            rank = module.weight.shape[0]
            kept = self.kept(now[0].to(output.device), rank).expand(len(output))
            rows = torch.arange(rank, device=output.device) < kept[:, None]
            shape = (len(output), rank, 1, 1) if output.dim() == 4 else (len(output), *[1] * (output.dim() - 2), rank)
            return output * rows.reshape(shape)

        network.register_forward_pre_hook(remember, with_kwargs=True)
        for layer in layers:
            layer.lora_A[name].register_forward_hook(mask)
