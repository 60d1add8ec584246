"""Documents how a result was made: the metadata of its files, and the model card."""

import json
import shlex
from importlib.metadata import version
from pathlib import Path

from customize.printable import code, code_block, html_lines, markdown
from customize.settings.files.sharing import is_hub_name, shared_name, shared_settings
from customize.storage.run_folder import CONFIG, VERSIONED


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


def card(folder: Path, facts: dict, files: list[Path], report: str) -> str:
    """The model card: how the result in `folder` was made and how to use it, with the header that the hub reads."""
    base, triggers = facts["base_model"], facts["trigger_words"]
    outside = folder.is_absolute() or ".." in folder.parts
    place = shlex.quote(folder.resolve().name if outside else folder.as_posix())
    tags = ["text-to-image", "diffusers", facts["method"].replace("_", "-")]
    lines = [
        "---",
        *([f"base_model: {base}"] if is_hub_name(base) else []),
        "library_name: diffusers",
        f"tags: [{', '.join(tags)}]",
        *(
            [f"instance_prompt: {json.dumps(facts['settings']['instance_prompt'])}"]
            if triggers and "instance_prompt" in facts["settings"]
            else []
        ),
        "---",
        f"# {markdown(folder.resolve().name)}",
        "",
        f"Learned on {code(base)} by {facts['method'].replace('_', ' ')}, {facts['steps']} steps.",
        "",
        f"Trigger words: {', '.join(map(code, triggers))}" if triggers else "No trigger words.",
        "",
        code_block(f"python infer.py --weights {place} --prompt {shlex.quote(facts['example_prompt'])}", "bash"),
        "",
        "Files: " + ", ".join(code(file.name) for file in files) + f"; all settings: `{CONFIG}`.",
        *(["", f"<pre>\n{html_lines(report)}\n</pre>"] if report else []),
        "",
        "Made with " + ", ".join(f"{name} {number}" for name, number in facts["versions"].items()) + ".",
    ]
    return "\n".join(lines) + "\n"
