"""What this machine is, what is missing, and what to do about it: `customize doctor`. torch is asked in another process."""

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from customize.machine import hub_check, packages, torch_check
from customize.machine.finding import Finding
from customize.machine.hardware import Card, amd_cards, nvidia_cards, torch_build
from customize.printable import printable
from customize.units import size

LEAST_CARD, LEAST_MEMORY = 6 * 10**9, 8 * 10**9
"""Bytes: of a card, below which Stable Diffusion 1.5 hardly fits; of main memory, in which a base model is read."""


def examine() -> list[Finding]:
    """Everything that was found, in the order of importance. Takes some seconds: torch is imported, and the hub is asked."""
    return [
        *torch(), *cards(), *memory(), hub_check.disk(Path.cwd(), "disk"), hub_check.disk(hub_check.cache(), "disk of the cache"),
        *hub_check.findings(), *packages.findings(), *packages.extras(), python(),
    ]  # fmt: skip


def works(findings: list[Finding]) -> bool:
    """Whether nothing is in the way of training and generating."""
    return all(each.status != "error" for each in findings)


def python() -> Finding:
    """Python and the system."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("system", printable(f"Python {version}, {platform.system()} {platform.release()}, {platform.machine()}"))


def torch() -> Iterator[Finding]:
    """The build of torch, the device that it uses, and why it is not a GPU."""
    build = torch_build()
    if build is None:
        yield Finding("torch", "not installed", "error", "pip install torch")
        return
    made_for = f"for CUDA {build.cuda}" if build.cuda else f"for ROCm {build.hip}" if build.hip else "without CUDA"
    answer = torch_check.ask()
    if error := answer.get("error"):
        what = f"{build.version} cannot be used: {printable(error, 200)}"
        yield Finding("torch", what, "error", "pip install --force-reinstall torch")
        return
    yield Finding("torch", f"{build.version}, built {made_for}")
    name, missing = printable(answer.get("name", "")), printable(answer.get("missing", ""))
    if not answer.get("computes"):
        remedy = printable(answer.get("remedy", "")) or "update the driver of the card, then run this again"
        yield Finding("device", f"{name} does not compute: {printable(answer.get('reason', ''), 200)}", "error", remedy)
    elif missing:
        remedy = printable(answer.get("remedy", "")) or "demo runs on it; for Stable Diffusion use a machine with a GPU"
        yield Finding("device", f"{name}: {missing}; Stable Diffusion takes hours to days", "warning", remedy)
    else:
        yield Finding("device", f"{name}, and it computes")


def cards() -> Iterator[Finding]:
    """The cards that the drivers list, whether torch uses them or not."""
    for card in (*nvidia_cards(), *amd_cards()):
        free = f", {size(card.free)} free" if card.free is not None else ""
        driver = f", driver {card.driver}" if card.driver else ""
        yield Finding("card", f"{card.name}, {size(card.memory)}{free}{driver}", *judged(card))


def judged(card: Card) -> tuple:
    """The status of a card by its memory, and the remedy."""
    if card.memory < LEAST_CARD:
        return "warning", "demo and, with gradient checkpointing, Stable Diffusion 1.5 may fit; SDXL does not"
    if card.free is not None and card.free < card.memory / 2:
        return "warning", "other programs use more than half of its memory: close ComfyUI, A1111, games, browsers"
    return ()


def memory() -> Iterator[Finding]:
    """Main memory."""
    found = psutil.virtual_memory()
    short = "" if found.total >= LEAST_MEMORY else "close other programs; Stable Diffusion is read into about 8 GB"
    yield Finding("memory", f"{size(found.available)} of {size(found.total)} free", "warning" if short else "ok", short)
