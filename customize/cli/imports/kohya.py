"""Configurations of kohya's sd-scripts: config_file, dataset_config, and the command line in a script."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from customize.cli.flags.arguments import arguments
from customize.cli.imports import kohya_blocks
from customize.cli.imports.documents import commands, document, text_of
from customize.cli.imports.several_folders import Folder, of_class, teach
from customize.cli.imports.translation import Reading
from customize.errors import InputError
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.common import Settings

PROGRAM = "kohya's sd-scripts"
SCRIPT = re.compile(r"(?:^|[/\\])((?:sdxl_)?train_(?:network|db|textual_inversion)|(?:sdxl_train|fine_tune))\.py$")
FOLDER = re.compile(r"(\d+)_(.+)")
"""The name of a folder of images: repeats, and the words of its class."""
DEFAULTS = {"learning_rate": 2e-6, "max_train_steps": 1600, "train_batch_size": 1}
LAYERS = ("attention", "feed-forward", "projections")
"""The layers that get an adapter there."""
OF_A_LORA = {"rank": 4, "lora_alpha": 1.0, "lora_targets": LAYERS}
PRECISIONS = {"float": "fp32", "fp16": "fp16", "bf16": "bf16"}
OWN = frozenset("config_file output_config dataset_config dataset_class debug_dataset console_log_level".split())
"""Flags that are about files and messages, not about a run."""


def of_command(words: Sequence[str]) -> Reading | None:
    """A command that starts a script of sd-scripts; None for other commands."""
    places = [place for place, word in enumerate(words) if SCRIPT.search(word)]
    if not places:
        return None
    script = SCRIPT.search(words[places[0]])[1]  # type: ignore[index]
    model: type[Settings] = TextualInversionSettings if "textual" in script else DreamBoothSettings
    config, values, problems = arguments(model, words[places[0] + 1 :])
    if problems:
        raise InputError(problems)
    filed = flat(document(Path(config if config.endswith(".toml") else f"{config}.toml"))) if config else {}
    return reading({**filed, **values}, script)


def of_document(whole: Mapping[str, Any]) -> Reading | None:
    """A config_file or a dataset_config; None for a configuration of another program."""
    if "datasets" in whole:
        return reading({"datasets": whole["datasets"], "general": whole.get("general", {})}, "dataset_config")
    values = flat(whole)
    ours = {"network_module", "network_dim", "dataset_config", "token_string", "max_data_loader_n_workers", "train_data_dir"}
    return reading(values, "") if ours & values.keys() else None


def flat(whole: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of all tables: as in sd-scripts, tables only group them."""
    values: dict[str, Any] = {}
    for name, value in whole.items():
        values |= value if isinstance(value, dict) and name != "general" else {name: value}
    return values


def reading(values: dict[str, Any], script: str) -> Reading:
    """The settings of a run. script: its script, or "" where the settings tell which it is."""
    words = "token_string" in values or "textual" in script
    is_lora = not words and ("network" in script or (not script and {"network_module", "network_dim"} & values.keys()))
    found = Reading(PROGRAM, TextualInversionSettings if words else DreamBoothSettings, {**values})
    given = found.values
    if script != "dataset_config":
        found.defaults |= DEFAULTS
    if path := given.pop("dataset_config", None):
        given |= dataset(str(path), found)
    if "datasets" in given:
        subsets(given.pop("datasets"), given.pop("general", {}), found)
    for name in OWN & given.keys():
        del given[name]
    lengths(found)
    networks(found, script, is_lora)
    folders(found)
    if given.get("clip_skip"):
        found.written["clip_skip"] = f"clip_skip = {given['clip_skip']}"
        given["clip_skip"] = int(given["clip_skip"]) - 1  # counted from 1 there
    if (precision := given.get("save_precision")) in PRECISIONS:
        given["save_precision"] = PRECISIONS[precision]
    if isinstance(path := given.get("sample_prompts"), str) and path.lower().endswith((".txt", ".toml", ".json")):
        prompts(given.pop("sample_prompts"), found)
    return found


def dataset(path: str, found: Reading) -> dict[str, Any]:
    """The tables of a file that `dataset_config` names, if it is there."""
    if os.path.isfile(path):
        return dict(document(Path(path)))
    found.lose(f"dataset_config = {path}", "there is no such file here", "give the folder of images, --instance_data_dir FOLDER")
    return {}


def subsets(datasets: Any, general: Any, found: Reading) -> None:
    """The folders of images, concepts where there are several, and those of class images, with the settings of their tables."""
    tables = [each for each in datasets if isinstance(each, dict)] if isinstance(datasets, list) else []
    general = general if isinstance(general, dict) else {}
    every = [
        {**general, **{k: v for k, v in table.items() if k != "subsets"}, **subset}
        for table in tables for subset in table.get("subsets", ()) if isinstance(subset, dict)
    ]  # fmt: skip
    own = [each for each in every if not each.get("is_reg")]
    several = teach(found, [folder(each) for each in own])
    for each in own[:1]:
        found.values |= {name: value for name, value in each.items() if name not in ("image_dir", "class_tokens", "is_reg")}
        if not several:
            found.values["train_data_dir"] = each.get("image_dir")
        if "class_tokens" in each and found.model is DreamBoothSettings and not several:
            found.values["instance_prompt"] = each["class_tokens"]
    for name in OF_A_SUBSET if several else ():
        found.values.pop(name, None)
    for each in every:
        if each.get("is_reg"):
            of_class(str(each.get("image_dir")), str(each.get("class_tokens", "")), found)


OF_A_SUBSET = {"num_repeats": "repeats", "caption_prefix": "caption_prefix", "caption_suffix": "caption_suffix"}
"""Settings of a folder there that a concept has here, by our names."""


def folder(subset: Mapping[str, Any]) -> Folder:
    """A folder of images with what is set for it."""
    own = {"instance_data_dir": subset.get("image_dir"), "instance_prompt": subset.get("class_tokens")}
    own |= {ours: subset[name] for name, ours in OF_A_SUBSET.items() if name in subset}
    apart = {"image_dir", "class_tokens", "is_reg", *OF_A_SUBSET}
    return Folder(f"image_dir = {own['instance_data_dir']}", own, {name: v for name, v in subset.items() if name not in apart})


def lengths(found: Reading) -> None:
    """Numbers of steps that sd-scripts takes as shares of the run, and sizes that it takes as pairs."""
    given = found.values
    steps = int(given.get("max_train_steps", DEFAULTS["max_train_steps"]))
    for name in ("lr_warmup_steps", "token_warmup_step"):
        if not isinstance(share := number(given.get(name)), float) or not 0 < share < 1:
            continue
        if "max_train_epochs" in given:
            del given[name]
            found.lose(
                f"{name} = {share}", "it is a share of steps that epochs decide on", f"give the number of steps as --{name}"
            )
        else:
            found.written[name], given[name] = f"{name} = {share}", math.floor(share * steps)
    last = number(given.get("stop_text_encoder_training"))
    if last is not None and 0 < last < steps and "max_train_epochs" not in given:
        del given["stop_text_encoder_training"]
        given["text_encoder_train_fraction"] = last / steps
        found.written["text_encoder_train_fraction"] = f"stop_text_encoder_training = {last:g}"
    size = given.get("resolution")
    sides = [str(each).strip() for each in (size.split(",") if isinstance(size, str) else size if isinstance(size, list) else [])]
    if sides and len(set(sides)) == 1:
        given["resolution"] = int(sides[0])
    elif sides:
        del given["resolution"]
        found.lose(f"resolution = {size}", "width and height of the training images are equal here", "give --resolution 512")
    if "max_train_epochs" in given:
        given.pop("max_train_steps", None)  # epochs take precedence there
        found.defaults.pop("max_train_steps", None)


def number(value: Any) -> Any:
    """A number that the command line gave as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def networks(found: Reading, script: str, is_lora: bool) -> None:
    """Which networks learn, and how fast: sd-scripts train the text encoder, too, unless told otherwise."""
    given = found.values
    if found.model is TextualInversionSettings or script == "dataset_config":
        return
    if "unet_lr" in given and "learning_rate" in given:
        both = given.pop("learning_rate")  # that of the UNet takes precedence
        given.setdefault("text_encoder_lr", both)
    if is_lora:
        found.defaults |= {"adapter": "lora", **OF_A_LORA}
        adapters(found)
        kohya_blocks.of_weights(found, script)
    else:
        kohya_blocks.of_rates(found)
    alone = ("network_train_unet_only", "cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk")
    off = any(given.get(name) for name in alone) or number(given.get("stop_text_encoder_training")) == -1
    asked = script in ("sdxl_train", "fine_tune")  # with --train_text_encoder only
    if off or asked:
        given.pop("text_encoder_lr", None) if off else None
    else:
        found.defaults["train_text_encoder"] = True


def adapters(found: Reading) -> None:
    """The words of `network_args`, each a setting: LyCORIS' algorithm, and the rank of convolutions, which get adapters then."""
    given = found.values
    words = given.pop("network_args", ())
    for word in [words] if isinstance(words, str) else words:
        name, _, value = str(word).partition("=")
        given.setdefault(name.strip(), value.strip())
    if "algo" in given:  # before a rank, which would mean a LoRA
        given.pop("network_module", None)
        others = {name: given.pop(name) for name in [*given] if name != "algo"}
        given |= others
    if str(rank := given.get("conv_dim", "")).isdecimal():
        del given["conv_dim"]
        found.written["rank_pattern"] = f"conv_dim = {rank}"
        given |= {"lora_targets": [*LAYERS, "convolutions"], "rank_pattern": [f"convolutions={rank}"]}


def folders(found: Reading) -> None:
    """Folders whose subfolders are named by repeats and class, `10_sks dog`, if there is one of them; several are read as
    they are (`data/kohya_folder.py`)."""
    given = found.values
    if isinstance(parent := given.get("train_data_dir"), str):
        inside = named(parent)
        if len(inside) == 1:
            name, repeats, words = inside[0]
            given |= {"train_data_dir": os.path.join(parent, name), "dataset_repeats": repeats}
            if found.model is DreamBoothSettings:
                given.setdefault("instance_prompt", words)
    if isinstance(parent := given.get("reg_data_dir"), str) and len(inside := named(parent)) == 1:
        del given["reg_data_dir"]
        of_class(os.path.join(parent, inside[0][0]), inside[0][2], found)


def named(parent: str) -> list[tuple[str, int, str]]:
    """(name, repeats, words of the class) of the subfolders that are named so."""
    try:
        names = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir())
    except (OSError, ValueError):
        return []
    return [(name, int(match[1]), match[2].strip()) for name in names if (match := FOLDER.fullmatch(name))]


def prompts(path: str, found: Reading) -> None:
    """The prompts of a file, a line each, without their options."""
    if not path.lower().endswith(".txt") or not os.path.isfile(path):
        return found.lose(
            f"sample_prompts = {path}", "no file of one prompt per line is there", "give --validation_prompt PROMPTS"
        )
    lines = [line.strip() for line in text_of(Path(path)).splitlines() if line.strip() and not line.startswith("#")]
    texts = [re.split(r"\s--[a-z]+\s", line)[0].strip() for line in lines]
    if any(text != line for text, line in zip(texts, lines, strict=True)):
        found.lose(f"options in {path}", "sample images have one size and number of steps", "give --sample_inference_steps")
    found.values["validation_prompt"] = list(dict.fromkeys(texts))
    return None


def in_script(path: Path) -> Reading | None:
    """The first command of a script that starts sd-scripts."""
    return next((found for words in commands(path) if (found := of_command(words))), None)
