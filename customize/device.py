"""The device of a run and, if it is not a GPU, the reason and the remedy. torch is imported lazily."""

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
"""The parent of /proc and /dev."""
NO_FP16 = "use --mixed_precision bf16 or no, which runs on the CPU: with Stable Diffusion for hours to days"
SIGNS = ("proc/driver/nvidia/version", "dev/nvidia0", "dev/nvidiactl")
WINDOWS_INDEX = "https://download.pytorch.org/whl/cu130"
CHOICE = "https://pytorch.org/get-started/locally"


@dataclass(frozen=True)
class Machine:
    """The device, for messages. missing: why there is no GPU, empty if there is one; remedy: what to do, if anything."""

    name: str
    missing: str = ""
    remedy: str = ""

    @property
    def has_gpu(self) -> bool:
        return not self.missing

    def __str__(self) -> str:
        return f"{self.name}: {self.missing}" if self.missing else self.name


def best_device():
    """The best available torch.device: a GPU, otherwise the CPU."""
    import torch

    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def describe(device) -> Machine:
    """Describe a device. device: torch.device."""
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
    """Why torch uses the CPU, and what to do, such as the pip command for another build of torch; may be empty."""
    import torch

    if os.environ.get("ACCELERATE_USE_CPU", "").casefold() in ("1", "true", "yes", "on"):
        return "accelerate is configured to use the CPU", "leave out --cpu, or run `accelerate config` again"
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        return "the GPU is not used", ""
    version = torch.__version__.partition("+")[0]
    if card := nvidia_card():
        if torch.version.cuda is None:
            return f"{card} found, but torch {torch.__version__} is a build without CUDA", cuda_command(version)
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None and hidden.strip() in ("", "-1"):
            return f"{card} is hidden by CUDA_VISIBLE_DEVICES={hidden}", "unset CUDA_VISIBLE_DEVICES"
        remedy = f"update the NVIDIA driver, or install a torch for an older CUDA ({CHOICE})"
        return f"{card} found, but this torch (CUDA {torch.version.cuda}) cannot use it", remedy
    if (ROOT / "dev/kfd").exists() and torch.version.hip is None:
        return (
            f"AMD GPU found, but torch {torch.__version__} is a build without ROCm",
            f"install torch for ROCm: {CHOICE}",
        )
    if sys.platform == "darwin":
        return (
            ("this Python is not for Apple silicon", "") if platform.machine() != "arm64" else ("macOS provides no GPU here", "")
        )
    return "no GPU found", ""


def fp16_problem(precision: str, device_type: str) -> list[Problem]:
    """The problem of `mixed_precision` fp16 without a GPU: why there is none, and the alternative."""
    if precision != "fp16" or device_type != "cpu":
        return []
    reason, remedy = why_no_gpu()
    return [Problem("mixed_precision", f"fp16 needs a GPU: {reason}", f"{remedy}; or {NO_FP16}" if remedy else NO_FP16)]


def cuda_command(version: str) -> str:
    """The pip command that replaces torch by a CUDA build of the same version."""
    index = f" --index-url {WINDOWS_INDEX}" if os.name == "nt" else ""  # PyPI has CUDA builds for Linux only
    return f"pip install --force-reinstall torch=={version}{index}"


def nvidia_card() -> str:
    """The NVIDIA GPU of this machine, from the driver's files or nvidia-smi; empty if there is none."""
    with suppress(OSError):
        for path in sorted((ROOT / "proc/driver/nvidia/gpus").glob("*/information")):
            for line in path.read_text(errors="replace").splitlines():
                if line.startswith("Model:"):
                    return printable(line.removeprefix("Model:").strip(), 60)
    program = shutil.which("nvidia-smi")
    if program:
        with suppress(OSError, subprocess.SubprocessError):
            command = [program, "--query-gpu=name", "--format=csv,noheader"]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=5, check=True)
            if lines := done.stdout.strip().splitlines():
                return printable(lines[0].strip(), 60)
    return "an NVIDIA driver" if any((ROOT / sign).exists() for sign in SIGNS) else ""
