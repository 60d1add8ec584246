"""What was learned in the workspace: the weights in runs/, with the words that trigger them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from customize.errors import InputError
from customize.storage import run_folder
from customize.storage.json_files import read_object
from customize.storage.safetensors_header import read_header
from customize.weights.weight_file import LearnedFile, metadata_of

MOST = 500
"""Runs and files that are looked at, the newest first."""


@dataclass(frozen=True)
class LearnedWords:
    """Weights that a prompt can use. path: as --weights takes it; words: those that trigger them, none where they are not known;
    base: the base model by name, example: a prompt, each "" where it is not known."""

    path: str
    words: tuple[str, ...]
    base: str = ""
    example: str = ""

    @property
    def title(self) -> str:
        """The words, and where they were learned."""
        return f"{', '.join(self.words) or 'words unknown'} · {Path(self.path).name}"


def learned(runs: Path, shown: Path) -> list[LearnedWords]:
    """All finished runs and loose .safetensors files of a folder, the newest first. shown: paths are relative to this folder.

    What cannot be read is left out: generating with it says why.
    """
    try:
        entries = [(entry.stat().st_mtime, entry) for entry in runs.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return []
    newest = sorted(entries, key=lambda pair: pair[0], reverse=True)[:MOST]
    return [found for _, entry in newest for found in _of(entry, _relative(entry, shown))]


def _of(entry: Path, path: str) -> Iterator[LearnedWords]:
    try:
        if entry.is_dir():
            metadata = read_object(entry / run_folder.METADATA)
            words = metadata.get("trigger_words", [])
        elif entry.suffix == ".safetensors":
            header = read_header(entry)
            metadata = metadata_of(header, entry)
            words = LearnedFile(entry, 1.0, header, metadata).trigger_words
        else:
            return
    except (OSError, ValueError, InputError):
        return
    words = tuple(word for word in words if isinstance(word, str))
    base, example = (text if isinstance(text := metadata.get(name), str) else "" for name in ("base_model", "example_prompt"))
    yield LearnedWords(path, words, base, example)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def with_words(prompt: str, words: tuple[str, ...]) -> str:
    """The prompt with each of these words in it; those that it lacks are appended."""
    missing = [word for word in words if word not in prompt]
    return ", ".join([*filter(None, [prompt.strip().rstrip(",")]), *missing])


def without_words(prompt: str, words: tuple[str, ...]) -> str:
    """The prompt without these words where `with_words` put them: as parts of their own between commas."""
    parts = [part.strip() for part in prompt.split(",")]
    return ", ".join(part for part in parts if part not in words) if set(parts) & set(words) else prompt
