"""The processor that a run would use, and its memory, found without importing torch."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from customize.printable import printable

DRM = Path("/sys/class/drm")
MIB = 1 << 20
SECONDS = 10
"""That nvidia-smi may take."""


@dataclass(frozen=True)
class Card:
    """A GPU. memory: bytes in all; free: bytes that nobody uses, None if unknown; driver: its version; capability: of CUDA, such
    as (8, 6), None if it is no NVIDIA card or unknown."""

    name: str
    memory: int
    free: int | None = None
    driver: str = ""
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch, as its files say. cuda, hip: versions that it was built for, None without."""

    version: str
    cuda: str | None
    hip: str | None


@dataclass(frozen=True)
class Hardware:
    """What a run would use. kind: of device; name: for people; memory: bytes in all that a run may use; bf16: whether the device
    computes in bfloat16 at full speed."""

    kind: Literal["cuda", "mps", "cpu"]
    name: str
    memory: int
    bf16: bool = False

    @property
    def has_gpu(self) -> bool:
        return self.kind != "cpu"


def hardware() -> Hardware:
    """The device that torch would choose on this machine: a GPU that it was built for, otherwise the processor."""
    build = torch_build()
    if os.environ.get("ACCELERATE_USE_CPU", "").casefold() not in ("1", "true", "yes", "on") and build:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() not in ("", "-1")
        cards = [*(nvidia_cards() if build.cuda and visible else ()), *(amd_cards() if build.hip else ())]
        if cards:
            card = cards[0]
            return Hardware("cuda", card.name, card.memory, card.capability is None or card.capability >= (8, 0))
    memory = psutil.virtual_memory().total
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return Hardware("mps", "Apple GPU", memory)
    return Hardware("cpu", f"no GPU, {psutil.cpu_count(logical=False) or os.cpu_count() or 1} cores", memory)


def torch_build() -> TorchBuild | None:
    """The installed torch, read from its file version.py; None without torch."""
    with suppress(ImportError, OSError, AttributeError, TypeError):
        spec = importlib.util.find_spec("torch")
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")  # type: ignore[union-attr, arg-type]
        found = dict(re.findall(r"^(\w+)[^=\n]*= *['\"]([^'\"]+)['\"]", text, re.MULTILINE))
        if version := found.get("__version__"):
            return TorchBuild(version, found.get("cuda"), found.get("hip"))
    return None


def nvidia_cards() -> list[Card]:
    """The NVIDIA cards that nvidia-smi lists; none without it."""
    program, names = shutil.which("nvidia-smi"), "name,memory.total,memory.free,driver_version,compute_cap"
    if not program:
        return []
    command = [program, f"--query-gpu={names}", "--format=csv,noheader,nounits"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=True)
        return [card for line in done.stdout.splitlines() if (card := nvidia_card_of(line))]
    return []


def nvidia_card_of(line: str) -> Card | None:
    """The card of a line of nvidia-smi; None for another line."""
    parts = [part.strip() for part in line.split(",")]
    if len(parts) != 5 or not parts[1].isdecimal():
        return None
    name, total, free, driver, capability = parts
    major, _, minor = capability.partition(".")
    known = (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
    return Card(
        printable(name, 60), int(total) * MIB, int(free) * MIB if free.isdecimal() else None, printable(driver, 40), known
    )


def amd_cards() -> Iterator[Card]:
    """The AMD cards that the kernel's driver lists."""
    for device in sorted(DRM.glob("card*/device")):
        with suppress(OSError, ValueError):
            total, used = (int((device / f"mem_info_vram_{what}").read_text()) for what in ("total", "used"))
            name = (device / "product_name").read_text(errors="replace").strip() if (device / "product_name").is_file() else ""
            yield Card(printable(name or "AMD GPU", 60), total, total - used)
