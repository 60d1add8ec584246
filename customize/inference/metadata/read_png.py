"""Reads the generation metadata of an image as settings of infer.py: our JSON, A1111's text, ComfyUI's graph, and others.

Metadata of strangers is untrusted: it is bounded and checked, and cannot set an output path. Values that cannot be used become
notes.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, PngImageFile, iTXt

from customize.data.images.image_file import open_image, opened
from customize.errors import InputError, Problem
from customize.inference.metadata import a1111, comfyui, other_programs
from customize.inference.metadata.parsed import NamedWeights, ParsedInfo, Unreadable, short
from customize.inference.metadata.seeds import RANDOM
from customize.inference.metadata.write_png import EXIF_COMMENT, EXIF_FOLDER, EXIF_NOTE, NOTE, VERSIONED
from customize.printable import printable
from customize.settings.field import of_scope, table
from customize.settings.files import sharing
from customize.settings.inference import InferenceSettings
from customize.settings.scale import fits, read_scale
from customize.storage import out_of_memory
from customize.storage.untrusted_files import regular_file

__all__ = ["GenerationInfo", "NamedWeights", "Program", "read_generation_info"]

Program = Literal["customize", "A1111", "ComfyUI", "InvokeAI", "NovelAI", "Fooocus", "SwarmUI", "Easy Diffusion", "Draw Things"]

LIKE = "like"
REMEDY = (
    "give an image with the metadata of infer.py, A1111, ComfyUI, InvokeAI, NovelAI, Fooocus, SwarmUI, Easy Diffusion or Draw "
    "Things"
)
MOST_NOTES = 50
MOST_FILES = 100
COMMENT = "EXIF user comment"
OF_COMFYUI = re.compile(r"\s*prompt:", re.IGNORECASE)
MOST_BESIDE = 1 << 20
"""Largest size in bytes of a text file beside an image."""


@dataclass(frozen=True)
class GenerationInfo:
    """The result of `read_generation_info`.

    settings: valid values for InferenceSettings; without `prompt` if the metadata has no usable one. base_model: as it was given
    to infer.py, or the file name that another program stored. size: (width, height) of the image. place_in_batch: (place, size
    of the batch). notes: values that were not read, and differences to this machine; one printable line each.
    """

    program: Program
    settings: dict[str, Any]
    weights: tuple[NamedWeights, ...]
    base_model: str | None
    size: tuple[int, int]
    place_in_batch: tuple[int, int]
    notes: tuple[str, ...]


def read_generation_info(path: Path | str) -> GenerationInfo:
    """Reads the text chunks of a PNG and EXIF and XMP of any image; if they hold no settings, A1111's text file beside it.

    Raises InputError if `open_image` refuses the image, if it has no known metadata, if the metadata is damaged or longer than
    Pillow's limit, and if our own JSON has settings that infer.py refuses.
    """
    info = ParsedInfo(Path(path), places=sharing.local_places(Path(path).parent))
    try:
        size, texts = _opened(path)
        program = _read(info, texts) or _read_beside(info, Path(path))
        if program is None:
            named = ", ".join(short(name) for name, text in list(texts.items())[:8] if text)
            raise Unreadable("has no generation metadata of a known program" + (f" (found: {named})" if named else ""))
    except Unreadable as error:
        raise InputError(Problem(LIKE, f"{printable(str(path))} {what}", REMEDY) for what in error.args) from None
    notes, more = info.notes[:MOST_NOTES], len(info.notes) - MOST_NOTES
    return GenerationInfo(
        program, info.settings, tuple(info.weights), info.base_model, size, info.place_in_batch,
        (*notes, f"and {more} more notes") if more > 0 else tuple(notes),
    )  # fmt: skip


def _opened(path: Path | str) -> tuple[tuple[int, int], dict[str, str]]:
    """The size and the texts of an image that `open_image` accepts."""
    try:
        size = open_image(path).size
        with warnings.catch_warnings(action="ignore"), regular_file(Path(path)) as stream:
            with opened(stream) as image:
                texts = image.text if isinstance(image, PngImageFile) else {}
                return size, _exif(image) | {name: _decoded(text) for name, text in texts.items()}
    except InputError as error:
        raise InputError(Problem(LIKE, f"{each.where} {each.what}", each.remedy) for each in error.problems) from None
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        if out_of_memory.caused(error):
            raise
        raise Unreadable(f"cannot be read ({printable(str(error)) or type(error).__name__})") from None


def _decoded(text: str) -> str:
    """The text of a chunk: tEXt is Latin-1 by the standard, but some programs write UTF-8."""
    try:
        return str(text) if isinstance(text, iTXt) else text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _exif(image: Image.Image) -> dict[str, str]:
    """The texts in EXIF and XMP: the user comment, our maker note, ComfyUI's graph (as `prompt`) in some tag, the XMP packet."""
    found = {COMMENT: _comment(image)}
    try:
        tags = [value for value in image.getexif().values() if isinstance(value, str)]
        note = image.getexif().get_ifd(EXIF_FOLDER).get(EXIF_NOTE)
    except Exception:  # broken EXIF does not invalidate the rest
        tags, note = [], None
    if isinstance(note, bytes) and note.startswith(NOTE):
        found["customize"] = note.removeprefix(NOTE).decode(errors="replace")
    if graph := next(filter(OF_COMFYUI.match, tags), None):
        found["prompt"] = graph.partition(":")[2]
    if isinstance(xmp := image.info.get("xmp"), bytes):
        found[other_programs.XMP] = xmp.decode(errors="replace")
    return found


def _comment(image: Image.Image) -> str:
    """The EXIF user comment, where JPEG and WebP store A1111's text; empty if there is none."""
    try:
        comment = image.getexif().get_ifd(EXIF_FOLDER).get(EXIF_COMMENT)
    except Exception:  # broken EXIF does not invalidate the rest
        return ""
    if not isinstance(comment, bytes):
        return comment if isinstance(comment, str) else ""
    if not comment.startswith(b"UNICODE\0"):
        return comment.removeprefix(b"ASCII\0\0\0").decode(errors="replace").strip("\0")
    texts = [comment[8:].decode(code, errors="replace").strip("\ufeff\0") for code in ("utf-16-be", "utf-16-le")]
    return next((text for text in texts if "Steps: " in text or text.lstrip().startswith("{")), texts[0])


def _read(info: ParsedInfo, texts: Mapping[str, str]) -> Program | None:
    """Reads the first known text, and returns the program that wrote it, or None."""
    if (own := _checked(texts, "customize")) is not None:
        _read_own(info, own)
        return "customize"
    short_enough = {name: text for name, text in texts.items() if len(text) <= MAX_TEXT_CHUNK}
    short_enough["comment"] = short_enough.get(COMMENT, "")
    for program, reader in other_programs.programs().items():
        if reader(info, short_enough):
            if info.settings:
                return program
            info.notes.clear()
    for name in ("parameters", COMMENT):
        text = (_checked(texts, name) or "").replace("\r\n", "\n").strip()
        if a1111.settings_line(text.split("\n")) is not None:
            a1111.read(info, text)
            return "A1111"
    if (graph := _checked(texts, "prompt")) is not None:
        comfyui.read(info, _parsed(graph))
        return "ComfyUI"
    text = texts.get("parameters", "").strip()
    if text and not text.startswith("{"):
        a1111.read(info, text)
        return "A1111"
    return None


def _read_beside(info: ParsedInfo, path: Path) -> Program | None:
    """Reads A1111's text from a .txt file of the image's name beside it; a caption does not count."""
    for file in (path.with_suffix(".txt"), path.with_name(f"{path.name}.txt")):
        try:
            with regular_file(file) as stream:
                text = stream.read(MOST_BESIDE).decode("utf-8-sig").replace("\r\n", "\n").strip()
        except (OSError, ValueError, InputError):
            continue
        if a1111.settings_line(text.split("\n")) is not None:
            info.note(f"the settings were read from {file.name} beside the image")
            a1111.read(info, text)
            return "A1111"
    return None


def _checked(texts: Mapping[str, str], name: str) -> str | None:
    text = texts.get(name)
    if text and len(text) > MAX_TEXT_CHUNK:
        raise Unreadable(f"has a text of {len(text):,} characters ({name}), more than {MAX_TEXT_CHUNK:,}")
    return text


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable("has damaged JSON") from None
    if not isinstance(value, dict):
        raise Unreadable("has JSON that is not an object")
    return value


def _read_own(info: ParsedInfo, text: str) -> None:
    """Reads the JSON of `write_png.texts`; settings of scope "run" are ignored."""
    match _parsed(text):
        case {"settings": dict(stored), "base_model": str(base), "weights": list(files), "versions": dict(versions), **more}:
            info.base_model = info.places.get(base, base)
        case _:
            raise Unreadable("has damaged settings")
    match more.get("batch", [0, 1]):
        case [int(place), int(count)] if 0 <= place < count <= (table(InferenceSettings)["batch_size"].le or 0):
            info.place_in_batch = int(place), int(count)
        case _:
            raise Unreadable("has damaged settings: batch is not [place, size]")
    of_the_run = of_scope(InferenceSettings, "run")
    known = table(InferenceSettings).keys() - set(of_the_run)
    values = {name: value for name, value in stored.items() if name in known}
    found = _beside(info, values)
    values |= {name: sharing.restored(values[name], info.places) for name in sharing.PLACES if name in values} | found
    if values.get("prompt") == [""]:  # a lesson without a prompt
        values["prompt"] = []
    if not all(_is_plain(each) for value in values.values() for each in (value if isinstance(value, list) else [value])):
        raise Unreadable("has damaged settings: nested lists")
    settings, problems = InferenceSettings.examine(values)
    faults = [f"has {each.where}: {each.what}" for each in problems]
    if settings.seed == RANDOM:
        faults.append("has seed: -1, which cannot be the seed of an image")
    if faults:
        raise Unreadable(*faults)
    info.settings = {name: getattr(settings, name) for name in values}
    for name, value in stored.items():
        if name not in known and name not in of_the_run:
            info.unread(name, value, "not a setting of this version")
    _read_files(info, files)
    for name in VERSIONED:
        if name in versions and versions[name] != (here := _installed(name)):
            info.note(f"generated with {name} {short(versions[name])}; installed is {here}")


def _beside(info: ParsedInfo, values: Mapping[str, Any]) -> dict[str, str]:
    """The paths of input images that lie beside the image and are named in its metadata; each is noted."""
    found: dict[str, str] = {}
    for name in ("image", "low_res_image", "mask_image"):
        if (place := sharing.beside(info.image, values.get(name))) and values[name] not in info.places:
            found[name] = place
            info.note(f"{name}: using {values[name]} beside the image")
    return found


def _is_plain(value: Any) -> bool:
    return not isinstance(value, list | dict)


def _read_files(info: ParsedInfo, files: list[Any]) -> None:
    if len(files) > MOST_FILES:
        raise Unreadable(f"lists {len(files):,} files of weights, more than {MOST_FILES}")
    for file in files:
        match file:
            case {"path": str(path), "scale": int() | float() | str() as scale, "sha256": str(sha256)} if is_scale(scale):
                info.weights.append(NamedWeights(sharing.restored(path, info.places), scale, sha256))
            case _:
                raise Unreadable("has damaged settings: weights are not files with scale and sha256")
    for path, sha256 in dict.fromkeys((file.name, file.hash) for file in info.weights):
        if (here := _sha256(path)) != sha256:
            what = f"now has SHA-256 {here}" if here else "was not found as a .safetensors file"
            info.note(f"weights {short(path)}: {what}; generated with SHA-256 {short(sha256)}")


def is_scale(scale: float | str) -> bool:
    """Whether it is a number, or the text of a schedule."""
    try:
        return not isinstance(scale, str) or fits(read_scale(scale))
    except ValueError:
        return False


def _sha256(path: str) -> str:
    """The SHA-256 of a regular .safetensors file, else empty: metadata must not make us read any other file."""
    try:
        if path.endswith(".safetensors"):
            with regular_file(Path(path)) as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError):
        pass
    return ""


@cache
def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
