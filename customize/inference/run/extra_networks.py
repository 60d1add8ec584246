r"""Weights and choices in prompts: resolves the syntax of A1111 and ComfyUI to settings of an image.

    <lora:NAME:0.8>  <lyco:NAME>  <lora:NAME:0.8:0.5>     a LoRA; of two scales, the text encoder's is first (A1111)
    <lora:NAME:te=0.5:unet=0.8>                            the same with named scales
    embedding:NAME  (embedding:NAME:1.2)                   the words of an embedding
    {a|b}  __NAME__                                        see `customize.inference.run.wildcards`

NAME is a file name without its suffix, or a run folder, in `weights_dir` or given as `weights`. It is not case sensitive, and
may include parent folders. torch is not needed here.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from customize.errors import InputError, Problem
from customize.inference.run.grid import Grid, ImageRequest
from customize.inference.run.wildcards import chosen, has_choices
from customize.printable import printable
from customize.settings.inference import InferenceSettings
from customize.settings.scale import LARGEST, path_and_scale
from customize.storage.safetensors_header import read_header
from customize.storage.untrusted_files import PICKLES
from customize.weights.weight_file import LearnedFile, files_of

TAG = re.compile(r"<\s*(lora|lyco|hypernet)\s*:([^<>]*)>", re.IGNORECASE)
EMBEDDING = re.compile(r"\bembedding:\s*([^\s,;()\[\]{}<>|:]+)", re.IGNORECASE)
BREAKS = re.compile(r"[^\S\r\n\t]*[\r\n\t]\s*")
AS_TEXT = "or treat the prompt as plain text with --plain_prompt"
MOST_FILES = 100_000


def resolve_grid(grid: Grid) -> Grid:
    """The grid with each request resolved by `resolve`. Raises InputError with all problems."""
    problems: list[Problem] = []
    rows: list[list[ImageRequest]] = []
    for row in grid.rows:
        rows.append([])
        for request in row:
            try:
                rows[-1].append(resolve(request))
            except InputError as error:
                problems += [each for each in error.problems if each not in problems]
    if problems:
        raise InputError(problems)
    return replace(grid, rows=rows)


def resolve(request: ImageRequest) -> ImageRequest:
    """The request with its tags replaced: prompts that `customize.prompts` can parse, and the weights that they name.

    Raises InputError with all problems: an invalid tag, a file that is missing or of the wrong kind, ...
    """
    settings = request.settings
    if any(map(BREAKS.search, [*settings.prompt, settings.negative_prompt])):
        every = tuple(BREAKS.sub(" ", text).strip() for text in settings.prompt)
        changes = {"prompt": every, "negative_prompt": BREAKS.sub(" ", settings.negative_prompt).strip()}
        settings = settings.model_copy(update=changes)
        request = replace(request, settings=settings, prompts=tuple(BREAKS.sub(" ", text).strip() for text in request.prompts))
    texts = [*request.prompts, *settings.prompt, settings.negative_prompt]
    if settings.plain_prompt or not any(has_choices(text) or TAG.search(text) or EMBEDDING.search(text) for text in texts):
        return request
    caller = Caller(settings)
    prompts = tuple(caller.plain(text, request.seed, "prompt") for text in request.prompts)
    negative = caller.plain(settings.negative_prompt, request.seed, "negative_prompt")
    others = Caller(settings)  # of the other images' prompts, only the text is used
    every = tuple(others.plain(text, request.seed, "prompt") for text in settings.prompt)
    if problems := [*caller.problems, *(each for each in others.problems if each not in caller.problems)]:
        raise InputError(problems)
    changes = {"prompt": every, "negative_prompt": negative, "weights": tuple(caller.weights)}
    return replace(request, settings=settings.model_copy(update=changes), prompts=prompts)


@dataclass
class Caller:
    """Resolves the prompts of one image. weights: those of the settings, and those that the prompts name."""

    settings: InferenceSettings
    weights: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self):
        self.weights = list(self.settings.weights)

    def plain(self, prompt: str, seed: int, where: str) -> str:
        """A prompt with its choices made, tags removed, and each `embedding:NAME` replaced by the embedding's words."""
        try:
            prompt = chosen(prompt, seed, self.settings.wildcards_dir, where) if has_choices(prompt) else prompt
        except InputError as error:
            self.problems += error.problems
            return ""
        if not TAG.search(prompt) and not EMBEDDING.search(prompt):
            return prompt
        text = TAG.sub(lambda found: self.attempt(self.lora, found, where), prompt)
        return EMBEDDING.sub(lambda found: self.attempt(self.embedding, found, where), text).strip()

    def attempt(self, read, found: re.Match, where: str) -> str:
        try:
            return read(found, where)
        except InputError as error:
            self.problems += [each for each in error.problems if each not in self.problems]
            return ""

    def lora(self, tag: re.Match, where: str) -> str:
        """Adds the weights that a tag names, and removes the tag from the prompt."""
        shown = printable(tag[0], 80)
        if tag[1].casefold() == "hypernet":
            raise InputError(Problem(where, f"{shown}: hypernetworks are not supported", f"remove it, {AS_TEXT}"))
        if where == "negative_prompt":
            what = f"{shown}: a LoRA applies to the whole image"
            raise InputError(Problem(where, what, "move it to the prompt; a scale below 0 inverts its effect"))
        name, *numbers = (part.strip() for part in tag[2].split(":"))
        scale = scales_of(shown, numbers, where)
        path = self.find(name, shown, where, has_adapter)
        if not has_adapter(path):
            what = f"{shown}: {path} contains embeddings, not a LoRA"
            raise InputError(Problem(where, what, f"write embedding:{path.stem} in place of its words"))
        replaced = [each for each in self.weights if each in self.settings.weights and same(each, path)]
        self.weights = [each for each in self.weights if each not in replaced]
        for each in replaced:
            folder = str(path_and_scale(each)[0])
            words = files_of(Path(folder)) if Path(folder).is_dir() else ()
            self.weights += [f"{file}{each.removeprefix(folder)}" for file in words if not has_adapter(file)]  # they stay
        self.weights.append(f"{path}:{scale}")
        return ""

    def embedding(self, call: re.Match, where: str) -> str:
        """Adds the weights that are named; returns their words."""
        shown = printable(call[0], 80)
        name, dots = re.fullmatch(r"(.*?)([.!?]*)", call[1]).groups()  # type: ignore[union-attr]
        path = self.find(name, shown, where, lambda file: not has_adapter(file))
        file = LearnedFile(path, 1.0, read_header(path))
        if not file.placeholders:
            raise InputError(Problem(where, f"{shown}: {path} contains a LoRA, not an embedding", f"write <lora:{path.stem}:1>"))
        if not any(same(each, path) for each in self.weights):
            self.weights.append(str(path))
        return " ".join(sorted(file.placeholders, key=lambda word: (len(word), word))) + dots

    def find(self, name: str, shown: str, where: str, is_meant: Callable[[Path], bool]) -> Path:
        """The file with this name; of several in one run folder, the only one of the kind that is meant. Raises InputError if
        there is none, or more than one."""
        folder = self.settings.weights_dir
        given = [Path(path) for path, _ in self.settings.weights_and_scales]
        stem = re.sub(r"\.(safetensors|ckpt|pt|bin)$", "", name.replace("\\", "/").strip("/"), flags=re.IGNORECASE)
        if not stem:
            raise InputError(Problem(where, f"{shown} has no file name", f"write <lora:NAME:0.8>, {AS_TEXT}"))
        if mine := [path for path in given if is_named(path, stem)]:
            return next(filter(is_meant, files_of(mine[0])), files_of(mine[0])[0])
        if folder is None:
            remedy = f"give its folder as --weights_dir, or give the file as --weights and remove this, {AS_TEXT}"
            raise InputError(Problem(where, f"{shown} names a file, but not its folder", remedy))
        files = list(candidates(Path(folder)))
        found = [path for path in files if path.suffix == ".safetensors" and is_named(path, stem, Path(folder))]
        exact = [path for path in found if path.stem == stem.rpartition("/")[2]]
        best = exact if len(exact) == 1 else found
        if len(best) > 1 and len({path.parent for path in best}) == 1:
            best = [path for path in best if is_meant(path)] or best
        if len(best) == 1:
            return best[0]
        if best:
            names = ", ".join(path.relative_to(folder).as_posix() for path in best[:4])
            raise InputError(Problem(where, f"{shown} matches {names}", "add the folder, as in sub/NAME"))
        if pickle := next((path for path in files if path.suffix != ".safetensors" and is_named(path, stem, Path(folder))), None):
            what = f"{shown}: {pickle} is a pickle, which is never opened"
            raise InputError(Problem(where, what, "convert it to .safetensors"))
        raise InputError(Problem(where, f"{shown}: {folder} has no {printable(stem, 60)}.safetensors", near(stem, files)))


def scales_of(shown: str, numbers: list[str], where: str) -> str:
    """The scales of a tag in the format of `weights`: one number, or UNet:TEXT_ENCODER."""
    named = {"te": 1.0, "unet": None}
    for place, number in enumerate(numbers):
        name, equals, value = number.rpartition("=")
        name = name.strip().casefold() if equals else ("te", "unet", "dyn")[min(place, 2)]
        if name not in named:
            remedy = "write <lora:NAME:SCALE>, or <lora:NAME:TEXT_ENCODER:UNET>"
            raise InputError(Problem(where, f"{shown}: {printable(number, 40)} is not supported", remedy))
        try:
            named[name] = float(value)
            fit = abs(float(value)) <= LARGEST
        except ValueError:
            fit = False
        if not fit:
            what = f"{shown}: {printable(value, 40) or 'nothing'} is not a number from -{LARGEST} to {LARGEST}"
            raise InputError(Problem(where, what, "write a scale such as 0.8"))
    te, unet = named["te"], named["unet"]
    return f"{te}" if unet is None or unet == te else f"{unet}:{te}"


def candidates(folder: Path) -> Iterator[Path]:
    """The weight files in a folder and its subfolders in a fixed order; each real folder is visited once."""
    seen, count = set(), 0
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        for name in [] if real in seen else sorted(names):
            if Path(name).suffix in (".safetensors", *PICKLES):
                yield Path(root, name)
                count += 1
        seen.add(real)
        if count > MOST_FILES:
            raise InputError(Problem("weights_dir", f"{folder} has more than {MOST_FILES:,} files", "give a smaller folder"))


def is_named(path: Path, stem: str, folder: Path | None = None) -> bool:
    """Whether a name, possibly with parent folders, matches a file or a run folder."""
    base = path.relative_to(folder) if folder else Path(path)
    whole = [base.with_suffix("") if base.suffix.casefold() in (".safetensors", *PICKLES) else base]
    if path.name in ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors"):
        whole.append(base.parent if base.parent.name else Path(path.absolute().parent.name))
    names = [each.as_posix().casefold() for each in whole]
    return any(name == stem.casefold() or name.endswith(f"/{stem.casefold()}") for name in names)


def has_adapter(path: Path) -> bool:
    """Whether a file contains an adapter. Raises InputError."""
    return LearnedFile(path, 1.0, read_header(path)).is_adapter


def same(weights: str, path: Path) -> bool:
    """Whether an entry of `weights` is this file, or its run folder."""
    own = os.path.realpath(path_and_scale(weights)[0])
    return own in (os.path.realpath(path), os.path.realpath(path.parent))


def near(stem: str, files: list[Path]) -> str:
    """The remedy for a name that matches no file."""
    from difflib import get_close_matches

    stems = {path.stem.casefold(): path.stem for path in files if path.suffix == ".safetensors"}
    close = get_close_matches(stem.rpartition("/")[2].casefold()[:100], stems, n=3, cutoff=0.5)
    close += [key for key in stems if stem.casefold() in key and key not in close][: 3 - len(close)]
    return (
        f"did you mean {', '.join(printable(stems[each], 60) for each in close)}?"
        if close
        else "check the name and --weights_dir"
    )
