"""Sharded networks (FSDP2): each process holds a part of every weight, of its gradient and of the optimizer's state of it.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models"; Zhao et al. 2023, "PyTorch FSDP".

Within a step each block of a network is gathered for as long as it computes, and every process evaluates its own samples.
Between steps, what looks at the weights (sample images, evaluation, the result) does so on the first process inside
`whole_weights`, where its networks are whole ones in all respects; checkpoints hold whole tensors (`gathered`). So nothing else
knows of parts, and files are those of a run that shards nothing.
"""

import copy
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel

from customize.errors import Interrupted, NumericsError
from customize.methods.method import Method
from customize.settings import sharding_request
from customize.training.distributed.sharded_tensors import is_sharded
from customize.training.resumable import copied, replaced


class ShardingAccelerator(Accelerator):
    """Accelerate's processes, which shard the networks of a method where `Accelerator` would replicate them."""

    def prepare(self, *args: Any, device_placement: Any = None) -> Any:
        """Shards the networks of a method and replaces their parameters in its optimizer; returns both, ready for the loop."""
        method, optimizer = args
        return Sharded(method, optimizer, self), super().prepare(optimizer)


class Sharded(nn.Module):
    """A method whose networks are sharded, as `DistributedDataParallel` is one whose networks are replicated.

    The gradients of every micro-batch are averaged over the processes, so that none holds whole ones. twins: for each network,
    one without weights that takes its place in `whole_weights`.
    """

    def __init__(self, method: Method, optimizer: torch.optim.Optimizer, accelerator: Accelerator):
        super().__init__()
        self.method, self.accelerator, self.is_whole = method, accelerator, False
        before = dict(method.named_parameters())
        networks = [*method.children()]
        self.twins = [(network, twin_of(network)) for network in networks]
        computed = {"bf16": torch.bfloat16}.get(accelerator.mixed_precision)
        policy = MixedPrecisionPolicy(computed, torch.float32, cast_forward_inputs=False)
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        for network in networks:
            for block in blocks_of(network):
                fully_shard(block, mesh=mesh, reshard_after_forward=sharding_request.reshards(), mp_policy=policy)
            for root in roots_of(network):
                fully_shard(root, mesh=mesh, mp_policy=policy)
        now = dict(method.named_parameters())
        assert all(map(is_sharded, now.values())), "a network has parameters outside of its roots"
        of_before = {parameter: now[name] for name, parameter in before.items()}
        for group in optimizer.param_groups:
            group["params"] = [of_before[parameter] for parameter in group["params"]]

    def forward(self, batch: Any) -> Tensor:
        """The weighted loss of each sample [B], float32, of this process."""
        with self.accelerator.autocast():
            return self.method(batch)

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        """Inside the context the networks of the first process hold whole weights; it may be entered again there."""
        if self.is_whole:
            yield
            return
        is_first = self.accelerator.is_main_process
        for network, twin in self.twins:
            weights = self.gathered(dict(network.named_parameters()), device=None)
            if is_first:
                twin.load_state_dict(weights, strict=False, assign=True)
                twin.train(network.training)
        exchanged = self.twins if is_first else []
        exchange(exchanged)
        self.is_whole = is_first
        try:
            yield
        finally:
            self.is_whole = False
            exchange(exchanged)
            for _, twin in exchanged:
                twin.load_state_dict(without_memory(twin), strict=False, assign=True)

    def gathered(self, tree: Any, device: torch.device | str | None = "cpu") -> Any:
        """The tree of tensors with whole ones in place of sharded ones, on the first process; the others only give their parts.
        device: of whole tensors; None: that of the parts. Not inside `whole_weights`, where the first has no parts to give."""
        assert not self.is_whole
        tensors: list[Any] = []
        copied(tree, tensors)
        by_id = {id(tensor): tensor for tensor in tensors}
        for key, tensor in [(key, tensor) for key, tensor in by_id.items() if is_sharded(tensor)]:
            whole = tensor.detach().full_tensor()
            if self.accelerator.is_main_process:
                by_id[key] = whole.to(device or whole.device)
        return replaced(tree, by_id)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The modules of a network that are gathered one after another, inner ones first: those that its library says are whole."""
    classes, roots = getattr(network, "_no_split_modules", None) or (), roots_of(network)
    found = [module for module in network.modules() if type(module).__name__ in classes and module not in roots]
    return found[::-1]


def roots_of(network: nn.Module) -> list[nn.Module]:
    """The outermost modules that are sharded: the network itself; of one of transformers, its parts. There a class is asked which
    outputs it can record, and a sharded module has another class."""
    if not isinstance(network, PreTrainedModel):
        return [network]
    return [root for child in network.children() for root in roots_of(child)]


def twin_of(network: nn.Module) -> nn.Module:
    """The same network with parameters that have no memory, on the meta device. Buffers are copied."""
    own, empty = dict(network.named_parameters()), without_memory(network)
    memo: dict[int, Any] = {id(each): nn.Parameter(empty[name], each.requires_grad) for name, each in own.items()}
    return copy.deepcopy(network, memo)


def without_memory(network: nn.Module) -> dict[str, Tensor]:
    """Tensors like the parameters of a network, by name, on the meta device."""
    return {name: torch.empty_like(parameter, device="meta") for name, parameter in network.named_parameters()}


def exchange(pairs: list[tuple[nn.Module, nn.Module]]) -> None:
    """Exchanges all that two networks consist of, their submodules and hooks included: whoever holds one now sees the other."""
    for one, other in pairs:
        one.__dict__, other.__dict__ = other.__dict__, one.__dict__
        one.__class__, other.__class__ = other.__class__, one.__class__


def whole_weights(model: Any) -> AbstractContextManager[None]:
    """Inside the context the networks of the first process hold whole weights, and those of the others compute nothing. All
    processes enter it together. model: what `Accelerator.prepare` made of a method."""
    return model.whole_weights() if isinstance(model, Sharded) else nullcontext()


def can_gather(model: Any) -> bool:
    """Whether weights can be gathered now. Not by a process that ends by an error of its own: the others would not give their
    parts. Ctrl-C and numbers that are not finite end all processes after the same step. model: as in `whole_weights`."""
    return not isinstance(model, Sharded) or isinstance(sys.exception(), Interrupted | NumericsError | None)


def gathered(model: Any, tree: Any) -> Any:
    """A state with whole tensors, on the first process. All processes call it together; model: as in `whole_weights`."""
    return model.gathered(tree) if isinstance(model, Sharded) else tree
