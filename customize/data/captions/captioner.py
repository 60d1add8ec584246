"""`customize caption`: a caption beside each image of a folder, by a captioner of transformers, for the user to correct.

No file is ever replaced. torch is imported only when the captioner is loaded.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from customize import events
from customize.data.captions.caption_files import SIDECARS
from customize.data.examples import Example, load_photos
from customize.errors import InputError, Problem
from customize.printable import first_few, printable
from customize.storage.atomic import write_text
from customize.storage.json_files import read_object
from customize.storage.untrusted_files import attempt

USUAL = "Salesforce/blip-image-captioning-base"
KINDS = ("blip", "git")
"""The architectures of transformers that are supported."""
FILES = ("config.json", "model.safetensors")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
LONGEST = 64
"""Tokens of a caption, at most."""
BEAMS = 3


@dataclass(frozen=True)
class Wording:
    """What is made of a captioner's words. prefix: before each caption; trigger: replaces the class word where it is named first,
    or else comes first."""

    prefix: str = ""
    trigger: str = ""
    class_word: str = ""

    def of(self, text: str) -> str:
        """The caption on one line."""
        caption = " ".join(text.split()).strip(" .")
        if self.trigger:
            named = re.compile(rf"\b((?:an?|the) )?{re.escape(self.class_word)}\b", re.IGNORECASE) if self.class_word else None
            found = named.search(caption) if named else None
            if found:
                article = "the " if (found[1] or "").casefold() == "the " else "a " if found[1] else ""
                caption = caption[: found.start()] + article + self.trigger + caption[found.end() :]
            else:
                caption = f"{self.trigger}, {caption}" if caption else self.trigger
        return f"{self.prefix}{caption}"


def write_captions(folder: Path, model: str = USUAL, wording: Wording = Wording(), prompt: str | None = None) -> list[Path]:
    """Writes NAME.txt for each image of the folder that has no caption; returns the files. Raises InputError before that.

    model: the folder of a captioner, or its name in the hub's cache; prompt: the text that its captions continue.
    """
    problems: list[Problem] = []
    examples = attempt(lambda: load_photos(folder, "FOLDER"), problems) or ()
    place = attempt(lambda: captioner_folder(model), problems)
    if wording.class_word and not wording.trigger:
        problems.append(Problem("class_word", "has no effect without a trigger", 'add --trigger "sks dog"'))
    todo = [example for example in examples if not has_caption(example)]
    stems = [Path(example.name).stem for example in todo]
    if both := sorted({stem for stem in stems if stems.count(stem) > 1}):
        what = f"has several images of one name, which cannot each have a caption: {first_few(both)}"
        problems.append(Problem("FOLDER", what, "rename one of each"))
    if problems or place is None:
        raise InputError(problems)
    if kept := [example.name for example in examples if example not in todo]:
        events.note(f"these images have a caption, which stays as it is: {first_few(kept)}")
    paths = []
    for example, text in zip(todo, captions_of(todo, place, prompt), strict=False):
        assert isinstance(example.source, Path)
        path = example.source.with_suffix(".txt")
        if os.path.lexists(path):
            events.note(f"{path} exists and stays as it is")
        else:
            caption = wording.of(text)
            paths.append(write_text(path, caption + "\n"))
            events.info(f"{path}: {caption}")
    return paths


def has_caption(example: Example) -> bool:
    """Whether a caption file is beside the image."""
    source = example.source
    assert isinstance(source, Path)
    names = (each for suffix in SIDECARS for each in (source.with_suffix(suffix), source.with_name(source.name + suffix)))
    return any(map(os.path.lexists, names))


def captioner_folder(name: str) -> Path:
    """The folder of a captioner. Raises InputError if it is not here, or not one that is supported."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(os.path.expanduser(name))
    if not folder.is_dir() and HUB_NAME.fullmatch(name):
        found = [try_to_load_from_cache(name, file) for file in FILES]
        folder = Path(str(found[0])).parent if all(isinstance(each, str) for each in found) else folder
    remedy = f"give the folder of a captioner as transformers saves it ({', '.join(KINDS)}), or fetch one: hf download {USUAL}"
    if not folder.is_dir():
        raise InputError(Problem("model", f"{printable(name)} is no folder, and not in the hub's cache", remedy))
    missing = [file for file in FILES if not (folder / file).is_file()]
    if not any((folder / file).is_file() for file in ("preprocessor_config.json", "processor_config.json")):
        missing.append("processor_config.json")
    if missing:
        raise InputError(Problem("model", f"{printable(name)} has no {' and no '.join(missing)}", remedy))
    try:
        kind = read_object(folder / "config.json").get("model_type")
    except (OSError, ValueError) as error:
        raise InputError(Problem("model", f"{printable(folder / 'config.json')}: {printable(error)}", remedy)) from error
    if kind not in KINDS:
        raise InputError(
            Problem("model", f"{printable(name)} is {printable(repr(kind), 60)}, no captioner that is known", remedy)
        )
    return folder


def captions_of(examples: Sequence[Example], folder: Path, prompt: str | None) -> Iterator[str]:
    """What the captioner says about each image, the same each time. Raises InputError for files that it cannot be loaded from."""
    if not examples:
        return
    from safetensors import SafetensorError

    from customize.device import best_device

    try:
        captioner = Captioner(folder, best_device())
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        what = f"{printable(folder)} cannot be loaded: {printable(error, 200)}"
        raise InputError(Problem("model", what, "fetch it again")) from error
    for example in examples:
        yield captioner.caption(example.open(), prompt)


class Captioner:
    """A captioner in a folder that `captioner_folder` accepts. Raises what transformers does if it cannot load it."""

    def __init__(self, folder: Path, device: Any = "cpu"):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        options: Any = dict(local_files_only=True, use_safetensors=True)
        self.network: Any = AutoModelForImageTextToText.from_pretrained(folder, **options).float().eval().to(device)
        self.device = device

    def caption(self, image: Image.Image, prompt: str | None = None) -> str:
        """What it says about an RGB image, by beam search. prompt: see `write_captions`."""
        import torch

        inputs = self.processor(images=image, return_tensors="pt", **({"text": prompt} if prompt else {})).to(self.device)
        with torch.no_grad():
            tokens = self.network.generate(**inputs, max_new_tokens=LONGEST, num_beams=BEAMS, do_sample=False)
        return self.processor.batch_decode(tokens, skip_special_tokens=True)[0]
