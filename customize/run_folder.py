"""The folder of a run: claimed before the start, described at the end."""

import json
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path

from customize.errors import InputError, Problem
from customize.files import write_text

CONFIG, LOG, CARD = "config.toml", "log.jsonl", "README.md"
CHECKPOINTS, SAMPLES, WEIGHTS, BEFORE_AFTER = "checkpoints", "samples", "weights", "before_after.png"
WRITTEN = (
    CONFIG, LOG, CARD, CHECKPOINTS, SAMPLES, WEIGHTS, BEFORE_AFTER, "learned_embeds*.safetensors",
    "pytorch_lora_weights.safetensors",
    "customize.json", "model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler", "safety_checker",
    "feature_extractor",
)  # fmt: skip
VERSIONED = ("customize", "torch", "diffusers", "transformers", "peft")


def check(settings) -> Path:
    """The run's folder. Raises InputError when it holds a run and nothing says what to do with it, or is no folder."""
    folder = Path(settings.output_dir)
    for path in (folder, *folder.parents):
        if path.exists():
            if not path.is_dir():
                raise InputError(Problem("output_dir", f"{path} is a file", "name another folder"))
            break
    if (folder / CONFIG).exists() and not (settings.resume_from_checkpoint or settings.overwrite_output_dir):
        remedy = "add --resume_from_checkpoint latest, or --overwrite_output_dir, or name another --output_dir"
        raise InputError(Problem("output_dir", f"{folder} holds a run already", remedy))
    if foreign := [] if (folder / CONFIG).exists() else present(folder):
        what = f"{folder} holds no run, but what a run would write over: {', '.join(path.name for path in foreign)}"
        raise InputError(Problem("output_dir", what, "name another folder"))
    return folder


def present(folder: Path) -> list[Path]:
    """What is in the folder under names that a run writes."""
    return sorted(path for pattern in WRITTEN for path in folder.glob(pattern))


def config(settings) -> str:
    """The settings that start the same run again, as TOML; whether to go on or to overwrite is asked anew each time."""
    kept = {
        name: value for name, value in settings.values().items() if name not in ("overwrite_output_dir", "resume_from_checkpoint")
    }
    return type(settings)(**kept).to_toml()


def clear(folder: Path) -> None:
    """Removes what an earlier run wrote, and nothing else; in a folder that holds no run, nothing."""
    for path in present(folder) if (folder / CONFIG).exists() else ():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def embedding_file(placeholder: str, alone: bool) -> str:
    """learned_embeds.safetensors, or learned_embeds_NAME.safetensors when it is one of several."""
    name = "".join(letter for letter in placeholder if letter.isalnum() or letter in "-_")
    return "learned_embeds.safetensors" if alone else f"learned_embeds_{name}.safetensors"


def metadata(settings, method, family, max_train_steps: int) -> dict[str, str]:
    """What goes into every file of a result: where it came from and how it is called up."""
    facts = {
        "base_model": family.name,
        "method": method.name,
        "trigger_words": list(method.trigger_words),
        "example_prompt": method.example_prompt,
        "steps": max_train_steps,
        "settings": settings.values(),
        "versions": {name: version(name) for name in VERSIONED},
    }
    return {"customize": json.dumps(facts)}


def write_card(folder: Path, facts: dict, files: list[Path], report: str) -> None:
    """The model card: how the result was made and how to use it, with the header that the hub reads."""
    base, triggers = facts["base_model"], facts["trigger_words"]
    tags = ["text-to-image", "diffusers", facts["method"].replace("_", "-")]
    lines = [
        "---",
        *([f"base_model: {base}"] if "/" in base and not Path(base).exists() else []),
        "library_name: diffusers",
        f"tags: [{', '.join(tags)}]",
        *(
            [f"instance_prompt: {json.dumps(facts['settings']['instance_prompt'])}"]
            if "instance_prompt" in facts["settings"]
            else []
        ),
        "---",
        f"# {folder.resolve().name}",
        "",
        f"Learned on `{base}` by {facts['method'].replace('_', ' ')}, {facts['steps']} steps.",
        "",
        f"Trigger words: {', '.join(f'`{word}`' for word in triggers)}" if triggers else "No trigger words.",
        "",
        "```bash",
        f"python infer.py --weights {folder.as_posix()} --prompt {shlex.quote(facts['example_prompt'])}",
        "```",
        "",
        "Files: " + ", ".join(f"`{file.name}`" for file in files) + f"; all settings: `{CONFIG}`.",
        *(["", "```", report, "```"] if report else []),
        "",
        "Made with " + ", ".join(f"{name} {number}" for name, number in facts["versions"].items()) + ".",
    ]
    write_text(folder / CARD, "\n".join(lines) + "\n")
