"""One file of learned weights, identified and checked by its header alone, before torch is imported."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from customize import adapters, missing_path
from customize.adapters.lora_keys import split
from customize.adapters.lora_start import START
from customize.adapters.timestep_rank import MARK, TimestepRank
from customize.diffusion.predictions import DISCRETE_PREDICTIONS
from customize.errors import InputError, Problem
from customize.families import specs
from customize.printable import printable
from customize.settings.scale import Scale
from customize.settings.texts import text_fault
from customize.storage import checkpoint, run_folder
from customize.storage.json_files import json_object
from customize.storage.safetensors_header import Header, read_header, refuse_not_finite
from customize.storage.untrusted_files import PICKLES, refusing_unreadable
from customize.weights import model_spec
from customize.weights.peft_config import PEFT_FILE, configuration_of, is_sound, of_network
from customize.weights.signatures import LEFTOVER, is_adapter, unsupported

SETTING = "weights"
FLOATS = ("F8_E4M3", "F8_E5M2", "F16", "BF16", "F32", "F64")
KOHYA_SUFFIX = "_kohya"
"""Suffix of a file that holds the same weights as the one beside it, for other programs."""
INTEGERS = ("BOOL", "U8", "I8", "I16", "I32", "I64")
PLAIN = (".alpha", ".on_input", ".scaled_oft")
"""Ends of the names of numbers that files also store as integers."""
BASE_MARKS = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conv_in.", "text_model.")
UNNAMED = ("emb_params", "emp_params", "string_to_param.*", "string_to_param", "clip_l", "clip_g", "*")
"""Names of embedding tensors whose placeholder is the file's name."""
BUNDLED = re.compile(r"bundle_emb\.(.+?)\.(?:string_to_param\.\*|[a-z0-9_]+)")
"""An embedding among others in one file, as A1111 and OneTrainer write it into adapters; group 1 is its placeholder."""
PLACEHOLDER = "placeholder_token"
"""Metadata entry with the word of an embedding whose tensors are named after the text encoders."""


@dataclass(frozen=True)
class LearnedFile:
    """A safetensors file with learned weights, and the scale to load them at.

    metadata: our own, such as base_model and trigger_words; empty for files of other programs.
    """

    path: Path
    scale: Scale
    header: Header
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def adapter(self) -> str | None:
        """The adapter of `customize.adapters` that the file names as its own; None for a LoRA, whatever program wrote it."""
        types = (str(value) for name, value in self.adapter_config.items() if name.endswith("peft_type"))
        return next((name for each in types if (name := adapters.by_peft_type().get(each, "lora")) != "lora"), None)

    @cached_property
    def adapter_config(self) -> dict[str, Any]:
        """`configuration_of` the file."""
        return configuration_of(self.header, self.path)

    @property
    def timestep_rank(self) -> TimestepRank | None:
        """How its ranks depend on the timestep; None if they do not."""
        return TimestepRank.read(self.header.metadata)

    @property
    def is_adapter(self) -> bool:
        """Whether it contains an adapter, with or without embeddings."""
        return is_adapter(self.header.tensors) or self.adapter is not None

    @property
    def leaves_weights(self) -> bool:
        """Whether everything that it contains is added beside the weights of the networks: words and a LoRA. Other
        adapters change the weights themselves."""
        kinds = {parts[1] for name in self.header.tensors if (parts := split(name))}
        return self.adapter is None and kinds <= {"A", "B", "alpha", "magnitude"}

    @property
    def is_network(self) -> bool:
        """Whether it contains fully trained networks, like the checkpoint of a run without an adapter."""
        denoisers = tuple(f"{name}." for name in specs.denoisers())
        return not self.is_adapter and any(name.startswith(denoisers) for name in self.header.tensors)

    @property
    def placeholders(self) -> dict[str, tuple[str, ...]]:
        """For embeddings: the tensors of each placeholder, one per text encoder. Most programs use the file's name."""
        words: dict[str, tuple[str, ...]] = {}
        alone = None if self.is_adapter or self.is_network else self.header.metadata.get(PLACEHOLDER, self.path.stem)
        for name in () if self.is_network else self.header.tensors:
            if found := BUNDLED.fullmatch(name):
                word = found[1]
            elif alone is None:
                continue
            else:
                word = alone if name in UNNAMED or PLACEHOLDER in self.header.metadata else name
            words[word] = (*words.get(word, ()), name)
        return words

    @property
    def word_tensors(self) -> set[str]:
        """The names of all tensors of embeddings."""
        return set(chain(*self.placeholders.values()))

    @property
    def trigger_words(self) -> tuple[str, ...]:
        """The trigger words of the file, where it names them."""
        own = self.metadata.get("trigger_words", ()) if self.is_adapter or self.is_network else ()
        return tuple(dict.fromkeys([*own, *self.placeholders]))

    @property
    def summary(self) -> str:
        """One line: kind, scale, trigger words and base model."""
        shapes = [self.header.tensors[name].shape for name, *_ in self.placeholders.values()]
        rows = sum(shape[0] if len(shape) == 2 else 1 for shape in shapes)
        words = f"embeddings, {rows} vector{'s' * (rows > 1)}"
        kind = f"adapter{f' and {words}' if rows else ''}" if self.is_adapter else words
        kind = "network" if self.is_network else kind
        if self.path.name == checkpoint.LEARNED:
            kind = f"checkpoint of step {self.metadata.get('steps', 'unknown')}, {kind}"
        others = {} if self.metadata else model_spec.read(self.header.metadata)
        words = self.trigger_words or filter(None, [others.get("trigger")])
        line = summary_line(self.path, kind, self.metadata, tuple(words), f", scale {self.scale}", others.get("base", ""))
        return line + (f"; most frequent in its captions: {', '.join(others['tags'])}" if "tags" in others else "")


def summary_line(path: object, kind: str, metadata: dict[str, Any], words: Iterable[str], scale: str = "", base: str = "") -> str:
    """One line on learned weights, from their metadata. base: the base model that a file of another program names."""
    method = f" ({metadata['method']})" if metadata.get("method") else ""
    triggers = f"trigger words: {', '.join(map(str, words))}" if words else "trigger words unknown"
    base = str(metadata.get("base_model") or base)
    base = f"learned on {base}" if base else "base model unknown"
    return printable(f"{path}: {kind}{method}{scale}; {triggers}; {base}")


@refusing_unreadable()
def files_of(path: Path) -> list[Path]:
    """The weight files of a path: the file itself, or those of a run folder. Raises InputError where there are none."""
    path = run_folder.at_step(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        if path.exists():
            raise InputError(Problem(SETTING, printable(f"{path} is no regular file"), "give a .safetensors file"))
        raise InputError(
            Problem(SETTING, f"no file or folder {path}", missing_path.remedy_for_missing(str(path), "check the path"))
        )
    patterns = "learned_embeds*.safetensors", "pytorch_lora_weights*.safetensors", PEFT_FILE
    files = sorted(file for pattern in patterns for file in path.glob(pattern))
    files = [
        file
        for file in files
        if not file.stem.endswith(KOHYA_SUFFIX) or file.with_stem(file.stem.removesuffix(KOHYA_SUFFIX)) not in files
    ]
    if not files:
        pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
        what = f"{path} contains no learned_embeds*.safetensors and no pytorch_lora_weights.safetensors"
        remedy = f"convert {pickles[0]} to .safetensors first" if pickles else missing_path.weights_remedy(path)
        raise InputError(Problem(SETTING, what, remedy))
    return files


def refuse_pickle(path: Path) -> None:
    """Raises InputError for a file with the name of a pickle."""
    if path.suffix in PICKLES:
        remedy = "convert it to .safetensors: a pickle can run any code when it is opened"
        raise InputError(Problem(SETTING, f"{path} is a pickle, which is not opened", remedy))


def check_file(path: Path, scale: Scale) -> LearnedFile:
    """Checks the header of a weight file. Raises InputError where it is damaged, or of a kind that cannot be loaded."""
    refuse_pickle(path)
    header = read_header(path)
    file = LearnedFile(path, scale, header, metadata_of(header, path))
    problems = [problem for problem in [unsupported(path, header.tensors)] if problem and not file.adapter]
    may_be_integers = {name for name in header.tensors if name.endswith(PLAIN) or LEFTOVER.search(name)}
    integers = {name for name in may_be_integers if header.tensors[name].dtype in INTEGERS}
    wrong = sorted(name for name, info in header.tensors.items() if info.dtype not in FLOATS and name not in integers)
    if wrong and not problems:
        what = f"{path}: {listed(wrong)} contain {header.tensors[wrong[0]].dtype}, not floating point numbers"
        problems.append(Problem(SETTING, what, "give a file in float32, float16 or bfloat16"))
    if not problems and not file.is_network and not (file.is_adapter and not file.placeholders):
        shapes = [header.tensors[name].shape for names in file.placeholders.values() for name in names]
        if not file.is_adapter and any(name.startswith(BASE_MARKS) for name in header.tensors):
            remedy = "give it as --pretrained_model_name_or_path"
            problems.append(Problem(SETTING, f"{path} is a base model, not learned weights", remedy))
        elif faults := [f"{word[:80]!r} {fault}" for word in file.placeholders if (fault := text_fault("placeholder", word))]:
            remedy = (
                "rename the file" if set(UNNAMED) & header.tensors.keys() else "rename the word in the program that made the file"
            )
            problems.append(Problem(SETTING, printable(f"{path}: the word {faults[0]}"), remedy))
        elif not shapes or not all(len(shape) in (1, 2) and min(shape) > 0 for shape in shapes):
            what = f"{path} contains neither embeddings nor an adapter: {listed(sorted(header.tensors)) or 'nothing'}"
            if file.is_adapter:
                what = f"{path} contains embeddings that are not rows of vectors: {listed(sorted(file.word_tensors))}"
            problems.append(Problem(SETTING, what, "give the learned_embeds or pytorch_lora_weights file of a run"))
    if START in header.metadata:
        what = f"{path} is a checkpoint of a LoRA that starts by {header.metadata[START]}, whose factors are not its change"
        problems.append(Problem(SETTING, printable(what), "give the result of the run; --save_steps writes one on the way"))
    if problems:
        raise InputError(problems)
    refuse_not_finite(path, header)
    return file


def metadata_of(header: Header, path: Path) -> dict[str, Any]:
    """Our own metadata of a file (base_model, method, trigger_words, ...); empty for files of other programs.

    Raises InputError where that, or the configuration of an adapter for diffusers, is damaged.
    """
    try:
        adapter = configuration_of(header, path)
        TimestepRank.read(header.metadata)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(damaged(path)) from error
    if not is_sound(adapter):
        raise InputError(damaged(path))
    return parse_metadata(header.metadata.get("customize", "{}"), path)


def adapter_description(file: LearnedFile, part: str) -> dict[str, Any]:
    """peft's configuration of the file's adapter of one network, by the name of its folder; empty where there is none."""
    metadata = file.adapter_config
    own = {name.removeprefix(f"{part}."): value for name, value in metadata.items() if name.startswith(f"{part}.")}
    own = own if any(map(of_network, metadata)) else metadata  # of a single network, as its save_lora_adapter writes it
    return {**own, MARK: file.timestep_rank} if file.timestep_rank and part in specs.denoisers() else own


def parse_metadata(text: str, path: Path) -> dict[str, Any]:
    """The metadata that a run or a merge writes into its result. Raises InputError for values of the wrong type."""
    try:
        metadata = json_object(text)
    except ValueError as error:
        raise InputError(damaged(path)) from error
    words, settings = metadata.get("trigger_words", []), metadata.get("settings", {})
    if not isinstance(words, list) or not isinstance(settings, dict):
        raise InputError(damaged(path))
    texts = [*words, *(metadata.get(name, "") for name in ("base_model", "method"))]
    texts += [settings.get(name) or "" for name in ("revision", "variant")]
    choices = {"prediction_type": (None, *DISCRETE_PREDICTIONS), "rescale_betas_zero_snr": (None, True, False)}
    if not all(isinstance(each, str) for each in texts) or any(settings.get(name) not in own for name, own in choices.items()):
        raise InputError(damaged(path))
    return metadata


def damaged(path: Path) -> Problem:
    """The problem of a result with unusable metadata."""
    return Problem(SETTING, printable(f"{path} has damaged metadata"), "get the file again")


def other_base(file: LearnedFile) -> str:
    """The remedy for weights that do not fit the base model."""
    named = file.metadata.get("base_model") or model_spec.read(file.header.metadata).get("base")
    return f"load it with the base model that it was learned on{f', {named}' if named else ''}"


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
