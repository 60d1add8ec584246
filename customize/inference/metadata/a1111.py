"""Reads A1111's infotext, which Forge, SD.Next, stable-diffusion.cpp and Civitai write too.

    the prompt, on any number of lines
    Negative prompt: likewise, if there is one
    Steps: 20, Sampler: Euler a, Schedule type: Automatic, Lora hashes: "cat: 0123456789ab", Version: v1.10.1

Values with a comma or colon are quoted as in JSON; Civitai writes JSON lists and objects.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence

from customize.inference.metadata.parsed import ParsedInfo, short

HEADING = "Negative prompt:"
OFFERED = {"Steps": "num_inference_steps", "CFG scale": "guidance_scale", "Seed": "seed"}
SECOND_PASS = ("Hires", "First pass")
HIRES = {"Hires upscale": "hires_scale", "Denoising strength": "hires_strength"}
READ = {*OFFERED, "Size", "Sampler", "Schedule type", "Model", "Model hash", "Lora hashes", "TI hashes", "RNG", "Version", "App"}
"""Names that need no note."""
WHY = {
    "Hires upscaler": "Lanczos is used instead",
    "Hires steps": "the second pass has as many steps as the first",
    **dict.fromkeys(SECOND_PASS, "the second pass differs from the first only in size"),
    "Variation seed": "not supported",
    "Seed resize": "not supported",
    "VAE": "only a name; give the file as --vae",
    "Mask blur": "its mask is unknown; with --mask_image, give --mask_blur",
    "Refiner": "refiners are not supported",
    "ADetailer": "post-processing is not supported",
    "Face restoration": "post-processing is not supported",
}
"""Why a value is not read, by the beginning of its name."""
STEPS = re.compile(r"\s*Steps: *\d")
SIZE = re.compile(r"(\d+)\s*x\s*(\d+)")
TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
BLANKS = re.compile(r"\s*")
JSON = json.JSONDecoder(strict=False)


def read(info: ParsedInfo, text: str) -> None:
    """Reads the prompts without their tags (<lora:NAME:SCALE>), the settings, and the names of learned weights."""
    lines = text.split("\n")
    place = settings_line(lines)
    end = len(lines) if place is None else place
    values = {} if place is None else pairs(lines[place])
    if place is None:
        info.note("the text has no line of settings")
    heading = next((i for i in range(end) if lines[i].lstrip().startswith(HEADING)), end)
    hashes = pairs(values.get("Lora hashes", ""))
    info.offer("prompt", _without_tags(info, "\n".join(lines[:heading]), hashes), "prompt")
    if heading < end:
        negative = "\n".join(lines[heading:end]).lstrip().removeprefix(HEADING)
        for tag in TAG.findall(negative):
            info.note(f"{short(tag)} (not read: A1111 ignores weights in the negative prompt)")
        info.offer("negative_prompt", TAG.sub("", negative), HEADING[:-1])
    for name, hash in hashes.items():
        info.file(f"LoRA {name}", name, None, hash)
    for name, hash in pairs(values.get("TI hashes", "")).items():
        info.file(f"embedding {name}", name, None, hash)
    _read_settings(info, values)
    if rest := "\n".join(lines[end + 1 :]).strip():
        info.unread("after the settings", rest)


def settings_line(lines: Sequence[str]) -> int | None:
    """The index of the settings line: the last that begins with Steps, else the last of all if it looks like one."""
    for i in reversed(range(len(lines))):
        if STEPS.match(lines[i]):
            return i
    return len(lines) - 1 if lines and len(READ & pairs(lines[-1]).keys()) >= 3 else None


def pairs(line: str) -> dict[str, str]:
    """The values of `Name: value, ...`; a part without a colon belongs to the value before it. Takes linear time."""
    found: dict[str, str] = {}
    place, name = 0, ""
    while (colon := line.find(":", place)) >= 0:
        before, _, following = line[place:colon].rpartition(",")
        if name and before.strip():
            found[name] += before.rstrip()
        name = following.strip()
        value, place = _value(line, BLANKS.match(line, colon + 1).end())
        found[name] = value
    if name:
        found[name] += line[place:].rstrip(", ")
    found.pop("", None)
    return found


def _value(line: str, start: int) -> tuple[str, int]:
    """The value that begins at `start`, and the index of its end."""
    if quoted := QUOTED.match(line, start):
        try:
            return JSON.decode(quoted[0]), quoted.end()
        except ValueError:
            return quoted[0][1:-1], quoted.end()
    comma = line.find(",", start)
    end = len(line) if comma < 0 else comma
    if line[start : start + 1] in ("[", "{"):
        try:
            end = JSON.raw_decode(line, start)[1]
        except (ValueError, RecursionError):
            end = len(line)  # another try at the next bracket would take quadratic time
    return line[start:end].rstrip(), end


def _without_tags(info: ParsedInfo, prompt: str, hashes: dict[str, str]) -> str:
    """The prompt without tags, as the text encoder gets it; stores the weights that the tags name, with their hashes."""
    for tag in TAG.findall(prompt):
        kind, name, *numbers = tag[1:-1].split(":")
        if kind.casefold() == "hypernet":
            info.note(f"{short(tag)} (not read: hypernetworks are not supported)")
        else:
            info.file(tag, name, _scale(numbers), hashes.pop(name, None))
    return TAG.sub("", prompt)


def _scale(numbers: Sequence[str]) -> float:
    """The first word that is a number, else 1."""
    for word in numbers:
        try:
            if math.isfinite(number := float(word)):
                return number
        except ValueError:
            continue
    return 1.0


def _read_settings(info: ParsedInfo, values: Mapping[str, str]) -> None:
    for name, setting in OFFERED.items():
        if name in values:
            info.offer(setting, values[name], name)
    if "Sampler" in values or "Schedule type" in values:
        info.sampler(values.get("Sampler", ""), values.get("Schedule type", ""))
    if size := SIZE.fullmatch(values.get("Size", "")):
        for setting, value in zip(("width", "height"), size.groups(), strict=True):
            info.offer(setting, value, "Size")
    elif "Size" in values:
        info.unread("Size", values["Size"], "not two numbers")
    if "Model" in values or "Model hash" in values:
        info.model(values.get("Model", ""), values.get("Model hash", ""))
    if "seed" in info.settings and values.get("RNG", "").casefold() != "cpu":
        info.note("Seed: reproduces the same noise only if it was drawn on the CPU (RNG: CPU)")
    if "Hires upscale" in values:
        for name, setting in HIRES.items():
            if name in values:
                info.offer(setting, values[name], name)
        same = {"Hires upscaler": "Lanczos", "Hires steps": values.get("Steps")}
        values = {name: value for name, value in values.items() if name not in HIRES and same.get(name) != value}
    if (skip := values.get("Clip skip", "").removesuffix(".0")).isdecimal() and int(skip) > 0:
        info.clip_skip(int(skip) - 1, "Clip skip")
        values = {name: value for name, value in values.items() if name != "Clip skip"}
    for name, value in values.items():
        if name not in READ:
            info.unread(name, value, _why(name, value, values))


def _why(name: str, value: str, values: Mapping[str, str]) -> str:
    if name == "Denoising strength" and not any(other.startswith(SECOND_PASS) for other in values):
        return f"its input image is unknown; with --image, give --strength {short(value)}"
    name = name.replace("Denoising strength", SECOND_PASS[0])
    return next((why for start, why in WHY.items() if name.startswith(start)), "")
