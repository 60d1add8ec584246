"""Removes everything about this machine from results that are shared: file names stay, their folders are removed."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Any

from customize.errors import InputError
from customize.families.source import INCLUDED
from customize.settings.field import table
from customize.settings.texts import PATHS, model_and_assignments
from customize.storage import run_folder

PLACES = ("pretrained_model_name_or_path", "weights", "image", "low_res_image", "mask_image", "vae", "upscalers")
MOST_CONFIGS = 50
USUAL = ("pytorch_lora_weights", "learned_embeds", "learned.", "adapter_model")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
"""OWNER/NAME, of a model or dataset on the hub."""


def shared_name(name: str) -> str:
    """A base model's name in shared files: that of an included model and a hub name as it is, else the last part of the path."""
    return name if name in INCLUDED or is_hub_name(name) else last_part(name)


def is_hub_name(name: str) -> bool:
    """Whether a name is a hub name; a local folder of that name takes precedence."""
    plain = HUB_NAME.fullmatch(name) and not name.startswith((".", "~")) and not name.lower().endswith(".safetensors")
    return bool(plain) and not os.path.exists(name)


def last_part(path: str) -> str:
    """The last part of a path of this system or of Windows; empty if there is none."""
    parts = [part for part in re.split(r"[/\\]+", os.path.normpath(path) if path else "") if part not in ("", ".", "..", "~")]
    return "" if not parts or PureWindowsPath(path).drive.rstrip("\\/") == path.rstrip("\\/") else parts[-1]


def shared_settings(settings: Any, names: bool = False) -> dict[str, Any]:
    """The settings without those that contain local paths; names: with the last part of these paths instead."""
    lines, shared = table(type(settings)), {}
    for name, value in settings.values().items():
        if lines[name].type is dict:
            shared[name] = [{key: own for key, own in each.items() if lines[key].text not in PATHS} for each in value]
        elif lines[name].text not in PATHS:
            shared[name] = value
        elif lines[name].text == "model" and isinstance(value, str):
            shared[name] = shared_name(value)
        elif names and (parts := list(filter(None, map(last_part, value if lines[name].many else [value or ""])))):
            shared[name] = parts if lines[name].many else parts[0]
    return shared


def shared_config(settings: Any) -> str:
    """config.toml for sharing, without local paths; the base model has its name."""
    return settings.to_toml(shared_settings(settings))


def local_places(folder: Path) -> dict[str, str]:
    """The local paths in a folder's configurations, by the last part of each.

    They resolve the names in shared files.
    """
    from customize.settings.files import toml_file
    from customize.settings.scale import path_and_scale

    found: dict[str, set[str]] = {}
    for path in sorted(folder.glob("*.toml"))[:MOST_CONFIGS]:
        try:
            given = toml_file.read(str(path))[0]
        except InputError:
            continue
        for name in PLACES:
            values = given.get(name)
            for value in values if isinstance(values, list) else [values]:
                if isinstance(value, str) and value:
                    value = model_and_assignments(value)[0] if name == "upscalers" else value
                    place = path_and_scale(value)[0] if name == "weights" else value
                    with suppress(InputError):
                        place = str(run_folder.at_step(Path(place))) if name == "weights" else place
                    found.setdefault(last_part(place), set()).add(place)
    return {name: next(iter(paths)) for name, paths in found.items() if len(paths) == 1}


def restored(value: Any, places: Mapping[str, str]) -> Any:
    """A value of a shared file with local paths restored, in NAME, NAME:SCALE and NAME/FILE, or a list of them."""
    if isinstance(value, list):
        return [restored(each, places) for each in value]
    if not isinstance(value, str):
        return value
    name, mark, rest = next((found for mark in "/:" if (found := value.partition(mark))[0] in places), (value, "", ""))
    return places.get(name, name) + mark + rest


def beside(image: Path, name: Any) -> str | None:
    """The path of a file that is given by name only and lies beside the image, such as the previous one of a chain."""
    other = isinstance(name, str) and name == last_part(name) and name != image.name
    return str(image.with_name(name)) if other and os.path.isfile(image.parent / name) else None


def shared_file(path: Path) -> str:
    """A file's name, with that of its folder if the file has a standard name."""
    return f"{path.absolute().parent.name}/{path.name}" if path.name.startswith(USUAL) else path.name


def local_base(file: Path, shared: str) -> str | None:
    """The local base model of a result, from the configuration of its run; None if there is none."""
    folders = [file.parent, *file.absolute().parents[1:3]]
    return next((found for folder in folders if (found := local_places(folder).get(shared))), None)
