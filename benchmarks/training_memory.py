"""Counts the memory of a training step on Stable Diffusion 1.5 and SDXL, without weights and without a GPU.

    python benchmarks/training_memory.py

The networks have their real architectures, and tensors that have a shape and no content (torch's fake tensors). Every
storage that a forward and a backward pass create is counted from its creation to its release; the table has the largest sum.
What a GPU adds is not in it: the context of CUDA, workspaces of its libraries, and gaps between blocks.
`customize/teach/memory.py` has the numbers.
"""

import weakref
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CONFIGS = Path(__file__).parents[1] / "customize" / "families" / "configs"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2"]
GIB = 1 << 30


class LiveBytes(TorchDispatchMode):
    """The bytes of storages that operations inside the context created and that still exist, and their peak."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):  # a view of a weight has the weight's storage, which is not new
            if isinstance(tensor, torch.Tensor):
                self.seen.add(tensor.untyped_storage())
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return result

    def add(self, storage) -> None:
        if storage in self.seen:
            return
        self.seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.release, size)

    def release(self, size: int) -> None:
        self.now -= size


def made(network, folder: Path, dtype: torch.dtype):
    """A network of a configuration, made in this precision."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return network.from_config(network.load_config(folder))
    finally:
        torch.set_default_dtype(usual)


class WithLora(nn.Module):
    """A linear layer with a LoRA in float32 beside it, computed as peft does."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False, dtype=torch.float32)
        self.up = nn.Linear(rank, base.out_features, bias=False, dtype=torch.float32)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result = self.base(values)
        return result + self.up(self.down(values.float())).to(result.dtype)


def attach(network: nn.Module, targets: list[str], rank: int = 16) -> int:
    """Put a LoRA beside the linear layers with these ends of their names; returns its number of parameters."""
    layers = [(name, each) for name, each in network.named_modules() if isinstance(each, nn.Linear)]
    for name, layer in layers:
        if any(name.endswith(f".{end}") for end in targets):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, WithLora(layer, rank))
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def step(name: str, pixels: int, targets: list[str], batch: int, checkpointing: bool, train: bool = True) -> tuple[int, int, int]:
    """Bytes of the frozen UNet in bfloat16, of what a step adds at its peak, and parameters of the LoRA. targets: none for new
    words, whose gradient goes through the whole UNet; batch: samples, those of the prior among them; train: False for a
    denoising step."""
    dtype = torch.bfloat16
    with FakeTensorMode():
        unet = made(UNet2DConditionModel, CONFIGS / name / "unet", dtype)
        frozen = sum(parameter.nbytes for parameter in unet.parameters())
        unet.requires_grad_(False)
        learned = attach(unet, targets)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        side, live, more = pixels // 8, LiveBytes(), {}
        if name == "sdxl":
            more = {
                "added_cond_kwargs": {"text_embeds": torch.randn(batch, 1280, dtype=dtype), "time_ids": torch.randn(batch, 6)}
            }
        with live, torch.autocast("cpu", dtype), torch.set_grad_enabled(train):
            latents = torch.randn(batch, 4, side, side, dtype=dtype)
            text = torch.randn(batch, 77, unet.config.cross_attention_dim, dtype=dtype, requires_grad=not targets)
            output = unet(latents, torch.tensor([1] * batch), text, **more).sample
            if train:
                (output.float() ** 2).mean().backward()
        return frozen, live.peak, learned


def autoencoder(name: str, pixels: int, decode: bool) -> tuple[int, int]:
    """Bytes of the autoencoder in float32, and what it adds at its peak for one image."""
    with FakeTensorMode():
        vae = made(AutoencoderKL, CONFIGS / name / "vae", torch.float32)
        live = LiveBytes()
        with live, torch.no_grad():
            if decode:
                vae.decode(torch.randn(1, 4, pixels // 8, pixels // 8))
            else:
                vae.encode(torch.randn(1, 3, pixels, pixels))
        return sum(parameter.nbytes for parameter in vae.parameters()), live.peak


def main() -> None:
    """Print the table."""
    for name, pixels, groups in (("sd15", 512, (ATTENTION + FEED_FORWARD, ATTENTION, [])), ("sdxl", 1024, (ATTENTION, []))):
        for targets in groups:
            for batch in (1, 2):
                for checkpointing in (True, False):
                    frozen, peak, learned = step(name, pixels, targets, batch, checkpointing)
                    what = f"LoRA on {len(targets)} kinds of layers" if targets else "words"
                    print(
                        f"{name}, {pixels} pixels, {what}, batch {batch}, checkpointing {checkpointing}: "
                        f"UNet {frozen / GIB:.2f} GiB, step {peak / GIB:.2f} GiB, {learned:,} parameters",
                        flush=True,
                    )
        _, peak, _ = step(name, pixels, [], 2, False, train=False)
        print(f"{name}, {pixels} pixels, denoising step with guidance: {peak / GIB:.2f} GiB", flush=True)
        for decode in (False, True):
            frozen, peak = autoencoder(name, pixels, decode)
            what = "decode" if decode else "encode"
            print(f"{name}, {pixels} pixels, autoencoder, {what}: {frozen / GIB:.2f} + {peak / GIB:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
