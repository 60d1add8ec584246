"""Configurations of ai-toolkit: the YAML (or JSON) of a job."""

from collections.abc import Mapping
from typing import Any

from customize.cli.imports.several_folders import Folder, of_class, teach
from customize.cli.imports.translation import Reading
from customize.methods import DreamBoothSettings, TextualInversionSettings

PROGRAM = "ai-toolkit"
TABLES: Mapping[str, Mapping[str, str]] = {
    "model": {"name_or_path": "pretrained_model_name_or_path"},
    "network": {"type": "network_type"},
    "train": {
        "dtype": "mixed_precision",
        "sdp": "sdpa",
        "min_denoising_steps": "min_timestep",
        "max_denoising_steps": "max_timestep",
    },
    "save": {"dtype": "save_precision", "hf_repo_id": "hub_model_id"},
    "sample": {"prompts": "validation_prompt", "neg": "negative_prompt"},
    "datasets": {"default_caption": "instance_prompt"},
    "embedding": {"trigger": "placeholder_token", "tokens": "num_vectors"},
}
"""The tables of a process, and what of them `cli/flags` does not know by its own name."""
SILENT = {
    "model": "is_xl is_v2 quantize",
    "train": "noise_scheduler skip_first_sample disable_sampling do_cfg train_unet",
    "save": "hf_private",
    "sample": "width height seed walk_seed sampler sample_start_step",
    "datasets": "resolution",
}
"""Settings that say nothing about a run here."""
WORDS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def of_document(whole: Mapping[str, Any]) -> Reading | None:
    """The settings of a job's first process; None for a configuration of another program."""
    job = whole.get("config")
    processes = job.get("process") if isinstance(job, dict) else None
    if not isinstance(processes, list) or not processes or not isinstance(processes[0], dict):
        return None
    process = processes[0]
    words = isinstance(process.get("embedding"), dict)
    found = Reading(PROGRAM, TextualInversionSettings if words else DreamBoothSettings, {})
    given = found.values
    for table, names in TABLES.items():
        values = process.get(table)
        values = values[0] if isinstance(values, list) and values else values
        for name, value in values.items() if isinstance(values, dict) else ():
            if name not in SILENT.get(table, "").split() and value not in (None, "") and not isinstance(value, dict):
                given.setdefault(names.get(name, name), value)
    if folder := process.get("training_folder"):
        given["output_dir"] = f"{folder}/{job['name']}" if job.get("name") else str(folder)
    if not words:
        given.setdefault("adapter", "lora" if isinstance(process.get("network"), dict) else "none")
        trigger = process.get("trigger_word")
        if trigger:
            given["instance_prompt"] = str(trigger)
            found.written["instance_prompt"] = f"trigger_word = {trigger}"
    for name in ("mixed_precision", "save_precision"):
        given[name] = WORDS.get(str(given[name]), given[name]) if name in given else None
    prompts = given.get("validation_prompt")
    if isinstance(prompts, list) and process.get("trigger_word"):
        given["validation_prompt"] = [str(each).replace("[trigger]", str(process["trigger_word"])) for each in prompts]
    sizes(process, found)
    found.values = {name: value for name, value in given.items() if value is not None}
    return found


def folder(given: Mapping[str, Any]) -> Folder:
    """A folder of images, which the caption of images without one calls, or a trigger word of its own."""
    own = {"instance_data_dir": given.get("folder_path"), "repeats": given.get("num_repeats")}
    own |= {"instance_prompt": given.get("default_caption") or given.get("trigger_word")}
    apart = {"folder_path", "num_repeats", "default_caption", "trigger_word"}
    return Folder(f"folder_path = {own['instance_data_dir']}", own, {n: value for n, value in given.items() if n not in apart})


def sizes(process: Mapping[str, Any], found: Reading) -> None:
    """The resolution, the average of the network's weights, and folders after the first."""
    folders = [each for each in process.get("datasets") or () if isinstance(each, dict)]
    size = folders[0].get("resolution") if folders else None
    size = size if isinstance(size, list) else [size] if size else []
    if len(set(map(str, size))) == 1:
        found.values["resolution"] = size[0]
    elif size:
        found.lose(f"resolution = {size}", "images are trained at one resolution", f"give --resolution {size[0]}")
    if teach(found, [folder(each) for each in folders if not each.get("is_reg")]):
        for name in ("folder_path", "instance_prompt", "num_repeats", "is_reg", "trigger_word"):
            found.values.pop(name, None)
    for each in folders[1:]:
        if each.get("is_reg"):
            of_class(str(each.get("folder_path")), str(each.get("default_caption") or ""), found)
    train = process.get("train")
    average = train.get("ema_config") if isinstance(train, dict) else None
    if isinstance(average, dict) and average.get("use_ema"):
        found.values |= {"use_ema": True, "ema_decay": average.get("ema_decay", 0.99)}
