"""Tensors of which each process holds a part (`torch.distributed.tensor.DTensor`), and whole ones."""

from typing import Any

from torch import Tensor


def is_sharded(tensor: Any) -> bool:
    """Whether this process holds a part of the tensor."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Any) -> Tensor:
    """The part that this process holds, not a copy; a tensor that is not sharded itself."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def placed_like(tensor: Any, own: Any) -> Any:
    """A whole tensor as one that is sharded like `own`, if that is sharded and has its shape; else the tensor itself."""
    if not is_sharded(own) or is_sharded(tensor) or tensor.shape != own.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
