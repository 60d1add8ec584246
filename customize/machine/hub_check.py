"""The hub of Hugging Face: its cache on this machine, whether there is a token, and whether it answers. No library of it is
imported, and the token is not read."""

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from customize.machine.finding import Finding
from customize.printable import printable
from customize.units import count, size

SECONDS = 3
"""That an answer of the hub may take."""
TRUE = ("1", "true", "yes", "on")
LITTLE = 10 * 10**9
"""Bytes of free disk below which a base model and its runs hardly fit: SDXL takes 7 GB in half precision."""


def home() -> Path:
    """The folder of Hugging Face's files, as its library finds it."""
    usual = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_HOME") or usual))


def cache() -> Path:
    """The folder of downloaded models, as its library finds it."""
    return Path(os.path.expanduser(os.environ.get("HF_HUB_CACHE") or home() / "hub"))


def findings() -> Iterator[Finding]:
    """Cache, token and connection."""
    folders = sorted(cache().glob("models--*")) if cache().is_dir() else []
    number = sum(size_of(path) for folder in folders for path in (folder / "blobs").glob("*"))
    held = f"{count(len(folders), 'model')}, {size(number)}" if folders else "no model yet"
    yield Finding("hub's cache", f"{printable(cache())}: {held}")
    token = bool(os.environ.get("HF_TOKEN")) or Path(os.environ.get("HF_TOKEN_PATH") or home() / "token").is_file()
    need = "only base models that ask for consent need one: hf auth login"
    yield Finding("hub's token", "there is one" if token else "none", "ok", "" if token else need)
    yield connection()


def size_of(path: Path) -> int:
    """The bytes of a file; 0 if it cannot be told."""
    with suppress(OSError):
        return path.stat().st_size
    return 0


def connection() -> Finding:
    """Whether the hub answers."""
    remedy = "base models in its cache and local files work without it; for others check the network or the proxy (HTTPS_PROXY)"
    if os.environ.get("HF_HUB_OFFLINE", "").casefold() in TRUE:
        return Finding("hub", "not asked: HF_HUB_OFFLINE is set", "warning", "unset HF_HUB_OFFLINE to download base models")
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=SECONDS):
            return Finding("hub", f"{printable(address)} answers")
    except urllib.error.HTTPError:  # an answer, too
        return Finding("hub", f"{printable(address)} answers")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding("hub", f"{printable(address)} does not answer: {printable(reason, 100)}", "warning", remedy)


def disk(folder: Path, name: str) -> Finding:
    """The free disk space of a folder, which need not exist."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding(name, f"{printable(place)} cannot be read: {error.strerror}", "warning", "check its permissions")
    what = f"{size(free)} free in {printable(place)}"
    remedy = "free some: a base model and its runs take 5 to 20 GB" if free < LITTLE else ""
    return Finding(name, what, "warning" if remedy else "ok", remedy)
