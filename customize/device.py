"""What computes, and where it is no GPU, why not and what to do about it. torch is imported when it is asked."""

import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from customize.errors import Problem
from customize.printable import printable
from customize.units import count, size

ROOT = Path("/")
"""Where /proc and /dev are."""
NO_FP16 = "use --mixed_precision bf16 or no, which runs on the CPU: with Stable Diffusion for hours to days"
SIGNS = ("proc/driver/nvidia/version", "dev/nvidia0", "dev/nvidiactl")
WINDOWS_INDEX = "https://download.pytorch.org/whl/cu130"
CHOICE = "https://pytorch.org/get-started/locally"


@dataclass(frozen=True)
class Machine:
    """The device in words. missing: why there is no GPU, empty where there is one; remedy: what to do, if anything."""

    name: str
    missing: str = ""
    remedy: str = ""

    @property
    def has_gpu(self) -> bool:
        return not self.missing

    def __str__(self) -> str:
        return f"{self.name}: {self.missing}" if self.missing else self.name


def best_device():
    """The torch.device that there is: a GPU, else the CPU."""
    import torch

    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def describe(device) -> Machine:
    """The device of a run. device: torch.device."""
    import torch

    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        return Machine(f"{torch.cuda.get_device_name(device)} ({size(total)})")
    if device.type == "mps":
        return Machine("Apple GPU (MPS)")
    if device.type != "cpu":
        return Machine(f"{device.type} accelerator")
    return Machine(f"CPU ({count(torch.get_num_threads(), 'thread')})", *why_no_gpu())


def why_no_gpu() -> tuple[str, str]:
    """Why torch computes on the CPU, and what to do: the pip command where the build of torch is at fault, else nothing."""
    import torch

    if os.environ.get("ACCELERATE_USE_CPU", "").casefold() in ("1", "true", "yes", "on"):
        return "accelerate was told to use the CPU", "leave out --cpu, or run `accelerate config` again"
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return "the GPU is not used", ""
    version = torch.__version__.partition("+")[0]
    if card := nvidia_card():
        if torch.version.cuda is None:
            return f"{card} is there, but torch {torch.__version__} is a build without CUDA", cuda_command(version)
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None and hidden.strip() in ("", "-1"):
            return f"{card} is hidden by CUDA_VISIBLE_DEVICES={hidden}", "unset CUDA_VISIBLE_DEVICES"
        remedy = f"update the NVIDIA driver, or install a torch for an older CUDA ({CHOICE})"
        return f"{card} is there, but CUDA {torch.version.cuda} of this torch cannot use it", remedy
    if (ROOT / "dev/kfd").exists() and torch.version.hip is None:
        return (
            f"an AMD GPU is there, but torch {torch.__version__} is a build without ROCm",
            f"install torch for ROCm: {CHOICE}",
        )
    if sys.platform == "darwin":
        return ("this Python is not for Apple silicon", "") if platform.machine() != "arm64" else ("macOS offers no GPU here", "")
    return "no GPU found", ""


def fp16_problem(precision: str, device_type: str) -> list[Problem]:
    """What is wrong with `mixed_precision` fp16 where there is no GPU: why there is none, and what the other way would mean."""
    if precision != "fp16" or device_type != "cpu":
        return []
    reason, remedy = why_no_gpu()
    return [Problem("mixed_precision", f"fp16 needs a GPU: {reason}", f"{remedy}; or {NO_FP16}" if remedy else NO_FP16)]


def cuda_command(version: str) -> str:
    """The pip command that puts a CUDA build of this version of torch in the place of one without."""
    index = f" --index-url {WINDOWS_INDEX}" if os.name == "nt" else ""  # the index of Python's packages has CUDA for Linux only
    return f"pip install --force-reinstall torch=={version}{index}"


def nvidia_card() -> str:
    """What there is of NVIDIA's on this machine, by its driver's files or its program nvidia-smi; empty if nothing is."""
    with suppress(OSError):
        for path in sorted((ROOT / "proc/driver/nvidia/gpus").glob("*/information")):
            for line in path.read_text(errors="replace").splitlines():
                if line.startswith("Model:"):
                    return printable(line.removeprefix("Model:").strip(), 60)
    program = shutil.which("nvidia-smi")
    if program:
        with suppress(OSError, subprocess.SubprocessError):
            asked = [program, "--query-gpu=name", "--format=csv,noheader"]
            done = subprocess.run(asked, capture_output=True, text=True, errors="replace", timeout=5, check=True)
            if lines := done.stdout.strip().splitlines():
                return printable(lines[0].strip(), 60)
    return "an NVIDIA driver" if any((ROOT / sign).exists() for sign in SIGNS) else ""
