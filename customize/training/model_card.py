"""Documents how a result was made: the metadata of its files, and the model card, with which it may be uploaded."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from customize import adapters, events
from customize.evaluation import verdict_words
from customize.evaluation.record import Evaluation
from customize.printable import code, code_block, html_lines, markdown
from customize.settings.files.sharing import is_hub_name, shared_config, shared_name, shared_settings
from customize.storage import manifest
from customize.storage.run_folder import CARD, CONFIG, KOHYA_LORA, LORA, METADATA, MODEL, SAMPLES, SCHEDULER, SHEET, VERSIONED

TAGS = {
    "dreambooth_lora": ["dreambooth", "lora", "template:sd-lora"],
    "pivotal_tuning_lora": ["pivotal-tuning", "textual-inversion", "lora", "template:sd-lora"],
}
"""The tags of methods by which the hub finds and shows models, where they are not the method's name."""
MOST_PICTURES = 12
OTHER_SCHEDULER = f"pipeline.scheduler = type(pipeline.scheduler).from_pretrained({{}}, subfolder={SCHEDULER!r})"
"""For an adapter that needs another scheduler than its base model: a line of Python."""


def usage(name: str, facts: dict) -> str:
    """The command that generates with the result."""
    options = generation_options(facts["settings"], facts["base_model"])
    more = "".join(f" --{option} {shlex.quote(str(value))}" for option, value in options.items())
    return f"python infer.py --weights {shlex.quote(name)} --prompt {shlex.quote(facts['example_prompt'])}{more}"


def generation_options(settings: Mapping[str, Any], base: str) -> dict[str, Any]:
    """The settings of infer.py that its files of weights do not tell: without metadata also the base model and its changes."""
    found: dict[str, Any] = {"clip_skip": settings["clip_skip"]} if settings.get("clip_skip") else {}
    if settings.get("no_metadata") and settings.get("adapter") != adapters.NONE:
        found |= {"pretrained_model_name_or_path": base} if base != "demo" else {}
        found |= {"prediction_type": settings["prediction_type"]} if settings.get("prediction_type") else {}
        if settings.get("rescale_betas_zero_snr"):
            found |= {"rescale_betas_zero_snr": "true", "timestep_spacing": "trailing"}
    return found


def scheduler_changes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the settings change in the scheduler of the base model's files, for one of diffusers that knows it all."""
    found = {name: settings[name] for name in ("prediction_type", "rescale_betas_zero_snr") if settings.get(name) is not None}
    found |= {"timestep_spacing": "trailing"} if found.get("rescale_betas_zero_snr") else {}
    return {**found, "clip_sample": False} if found else {}


def metadata(settings, method, family, max_train_steps: int) -> dict[str, str]:
    """The metadata of every file of a result: how it was made, and its trigger words."""
    facts = {
        "base_model": shared_name(family.name),
        "method": method.name,
        "trigger_words": list(method.trigger_words),
        "example_prompt": method.example_prompt,
        "steps": max_train_steps,
        "settings": shared_settings(settings),
        "versions": {name: version(name) for name in VERSIONED},
    }
    return {"customize": json.dumps(facts)}


def card(
    folder: Path, facts: dict, files: Sequence[Path], report: str, family: str = "", images: Sequence[tuple[str, Path]] = (),
    evaluation: Evaluation | None = None,
) -> str:  # fmt: skip
    """The model card: how the result in `folder` was made and how to use it, with the header that the hub reads.

    evaluation: what was measured of it; family: the name of the base model's spec; images: (prompt, file in the folder) of
    sample images, which the hub shows as a gallery. No license is stated: that is the user's to choose, within the base model's.
    """
    base, triggers, name = facts["base_model"], facts["trigger_words"], folder.resolve().name
    pictures = [(prompt, file.relative_to(folder).as_posix()) for prompt, file in images]
    sheet = f"{SAMPLES}/{SHEET}"
    lines = [
        *header(facts, family, pictures),
        f"# {markdown(name)}",
        "",
        *(["<Gallery />", ""] if pictures else []),
        f"Learned on {code(base)} by {facts['method'].replace('_', ' ')}, {facts['steps']} steps.",
        "",
        f"Trigger words: {', '.join(map(code, triggers))}" if triggers else "No trigger words.",
        "",
        code_block(usage(name, facts), "bash"),
        "",
        *(line for text in other_programs(name, facts, files) for line in (text, "")),
        "Files: " + ", ".join(code(file.name) for file in files) + f"; all settings: `{CONFIG}`.",
        *(["", f"The same prompts and seeds during training; the first column is the base model:\n\n![samples]({sheet})"]
          if pictures else []),
        *(["", *evaluated] if (evaluated := [*verdict_words.card(evaluation)]) else []),
        *(["", f"<pre>\n{html_lines(report)}\n</pre>"] if report else []),
        "",
        "Made with " + ", ".join(f"{name} {number}" for name, number in facts["versions"].items()) + ".",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def other_programs(name: str, facts: dict, paths: Sequence[Path]) -> Iterator[str]:
    """How other programs use the files of a result."""
    folders = {MODEL: "checkpoints", KOHYA_LORA: "LoRAs"}
    files, own_scheduler = [path.name for path in paths], any((path.parent / SCHEDULER).is_dir() for path in paths)
    for file in files if not (own_scheduler and LORA in files) else ():
        if file in folders or file.startswith("learned_embeds"):
            named = ", under the name that you write in prompts" if file not in folders else ""
            yield f"ComfyUI, A1111, Forge: put {code(file)} into the folder of {folders.get(file, 'embeddings')}{named}."
    if LORA in files and is_hub_name(facts["base_model"]):
        changes = scheduler_changes(facts["settings"])
        rescaled = ", guidance_rescale=0.7" if "timestep_spacing" in changes else ""
        lines = [
            f"from diffusers import {'DDIMScheduler, ' if changes else ''}DiffusionPipeline",
            "",
            f"pipeline = DiffusionPipeline.from_pretrained({facts['base_model']!r})",
            f"pipeline.load_lora_weights({name!r}, weight_name={LORA!r})  # this folder, or its name on the hub",
            *([OTHER_SCHEDULER.format(repr(name))] if own_scheduler else []),
            *([f"pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, **{changes})"] if changes else []),
            f"image = pipeline({facts['example_prompt']!r}{rescaled}).images[0]",
        ]
        yield code_block("\n".join(lines), "python")


def header(facts: dict, family: str, pictures: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The lines of YAML that the hub reads: every value is JSON, which YAML includes."""
    base, method, own = facts["base_model"], facts["method"], facts["settings"]
    prompt = own.get("instance_prompt") or ", ".join(each["instance_prompt"] for each in own.get("concept", ())) or None
    tags = [
        "text-to-image",
        "diffusers",
        *filter(None, [family.replace("_", "-")]),
        *TAGS.get(method, [method.replace("_", "-")]),
    ]
    yield "---"
    if is_hub_name(base):
        yield f"base_model: {json.dumps(base)}"
    yield "library_name: diffusers"
    yield "pipeline_tag: text-to-image"
    yield f"tags: {json.dumps(tags)}"
    if facts["trigger_words"] and prompt is not None:
        yield f"instance_prompt: {json.dumps(prompt)}"
    if pictures:
        yield "widget:"
    for text, url in pictures[:MOST_PICTURES]:
        yield f"- text: {json.dumps(text)}"
        yield f"  output: {json.dumps({'url': url})}"
    yield "---"


def upload(settings, folder: Path) -> None:
    """Uploads the run's result, its card and sample images to the hub, with the settings that say nothing of this machine.

    Nothing else goes: no checkpoints, logs or training images, which `before_after.png` shows, and no files of the user.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=settings.hub_token)
    repository = api.create_repo(settings.hub_model_id or folder.resolve().name, exist_ok=True).repo_id
    names = (*settings.result_files, CARD, METADATA, manifest.NAME)
    shared = [*names, *(f"{name}/*" for name in names), f"{SAMPLES}/*.png", f"{SCHEDULER}/*"]
    api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=shared)
    config = shared_config(settings).encode()
    api.upload_file(repo_id=repository, path_or_fileobj=config, path_in_repo=CONFIG)
    events.info(f"uploaded to {repository}")
