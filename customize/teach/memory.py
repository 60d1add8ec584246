"""The memory that a run needs on each family, before anything is loaded, and which switches make it fit. No torch.

The numbers of networks follow from their numbers of parameters; those of steps are counted on the real architectures by
`benchmarks/training_memory.py`, which has no card: what CUDA itself takes is an estimate, and marked as one.
"""

from dataclasses import dataclass

from customize.errors import Problem
from customize.machine.hardware import Hardware
from customize.units import size

GIB = 1 << 30
RESERVE = 3 * GIB // 2
"""Estimated, not measured: the context of CUDA, workspaces of its libraries, gaps between blocks, and the desktop."""
REST_OF_CPU = 3 * GIB
"""Without a GPU: of Python, torch and the checked images; a dry run of `demo` takes 0.9 GiB."""
SMALLEST = "stable_diffusion"


def gib(number: float) -> int:
    """Bytes."""
    return int(number * GIB)


@dataclass(frozen=True)
class Need:
    """Bytes that training on a family needs, in bfloat16 or float16.

    unet: of its frozen weights; step: what a step adds, of a subject and a sample of its prior, with and without gradient
    checkpointing; words: the same for textual inversion, of one image; decode: of the autoencoder in float32 for one picture.
    """

    unet: int
    step: tuple[int, int]
    words: tuple[int, int]
    decode: int

    def of(self, method: str, checkpointing: bool, gpu: bool) -> int:
        """The peak of a run: of a step, or of drawing a picture beside the UNet. method: "lora" or "words"."""
        factor = 1 if gpu else 2  # float32 without a GPU
        step = (self.step if method == "lora" else self.words)[0 if checkpointing else 1]
        return factor * self.unet + max(factor * step, self.decode) + (RESERVE if gpu else REST_OF_CPU)


NEEDS = {
    "stable_diffusion": Need(gib(1.60), (gib(0.51), gib(1.97)), (gib(0.21), gib(0.71)), gib(0.31 + 0.75)),
    "stable_diffusion_xl": Need(gib(4.78), (gib(1.07), gib(12.24)), (gib(0.51), gib(4.84)), gib(0.31 + 3.00)),
}
"""By family, at 512 and 1024 pixels."""


def problem(family: str, machine: Hardware) -> Problem | None:
    """Why a family does not fit this machine; None if it does, or is not known here."""
    need = NEEDS.get(family)
    if need is None or (least := need.of("lora", True, machine.has_gpu)) <= machine.memory:
        return None
    what = f"needs about {size(least)}, and {machine.name} has {size(machine.memory)}"
    return Problem("--base", what, "give a smaller base model" if family != SMALLEST else "give demo, which is a toy")


def in_words(family: str, machine: Hardware) -> str:
    """What a LoRA on a family needs on this machine."""
    need = NEEDS[family].of("lora", True, machine.has_gpu)
    return f"needs at least {size(need)} of memory" + ("" if machine.has_gpu else ", and hours to days without a GPU")


def checkpointing(family: str, method: str, machine: Hardware) -> tuple[bool, str]:
    """Whether gradient checkpointing is needed to fit, and why."""
    need = NEEDS.get(family)
    if need is None:
        return True, "the base model's need of memory is not known, so it saves where it can"
    without, with_it = (need.of(method, saves, machine.has_gpu) for saves in (False, True))
    if without <= machine.memory:
        return False, f"about {size(without)} of {size(machine.memory)} without it, so that nothing is computed twice"
    return True, f"about {size(with_it)} of {size(machine.memory)} with it, {size(without)} without"
