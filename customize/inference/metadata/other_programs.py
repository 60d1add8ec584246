"""Reads the metadata of InvokeAI, NovelAI, Fooocus, SwarmUI, Easy Diffusion and Draw Things: JSON, each with its own names.

A table per program maps its names to our settings. Names without effect on the image are ignored; all others become notes.
"""

import html
import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from customize.inference.metadata.parsed import ParsedInfo, Unreadable, short

Texts = Mapping[str, str]
XMP = "XML:com.adobe.xmp"
LONGEST = 20_000
"""Maximum length of a command line, in characters."""
NOTHING = (None, "", False, [], {}, "None", "none", "null", "False", "false", "0", 0)
COMMON = {"prompt": "prompt", "negative_prompt": "negative_prompt", "seed": "seed", "steps": "num_inference_steps",
          "width": "width", "height": "height"}  # fmt: skip
INVOKE = COMMON | {"positive_prompt": "prompt", "cfg_scale": "guidance_scale", "cfg_rescale_multiplier": "guidance_rescale",
                   "clip_skip": "clip_skip"}  # fmt: skip
NOVEL = COMMON | {"uc": "negative_prompt", "scale": "guidance_scale", "cfg_rescale": "guidance_rescale"}
FOOOCUS = COMMON | {"negative": "negative_prompt", "guidance_scale": "guidance_scale", "cfg": "guidance_scale"}
SWARM = COMMON | {"negativeprompt": "negative_prompt", "cfgscale": "guidance_scale"}
EASY = COMMON | {"num_inference_steps": "num_inference_steps", "guidance_scale": "guidance_scale"}
DRAW_THINGS = {"c": "prompt", "uc": "negative_prompt", "seed": "seed", "steps": "num_inference_steps", "scale": "guidance_scale",
               "guidance_rescale": "guidance_rescale"}  # fmt: skip
SILENT = {
    "app_version", "generation_mode", "rand_device", "version", "metadata_scheme", "base_model_hash", "created_by", "software",
    "positive_style_prompt", "negative_style_prompt", "full_prompt", "full_negative_prompt", "images", "aspectratio",
    "request_type",
    "swarm_version", "date", "generation_time", "signed_hash", "n_samples", "numoutputs", "num_outputs", "created_date", "size",
    "output_format", "output_quality", "output_lossless", "metadata_output_format", "session_id", "profile", "vram_usage_level",
    "show_only_filtered_image", "stream_progress_updates", "stream_image_progress", "used_random_seed", "block_nsfw", "seed_mode",
    "automaticvae", "performance", "user", "prep_time", "type", "v2", "id", "name", "controlnets", "sharpness", "adm_guidance",
    "noise_schedule", "fooocus_scheme", "canvas_v2_metadata", "negative_prompt_strength", "extra_noise_seed",
}  # fmt: skip


def programs() -> Mapping[str, Callable[[ParsedInfo, Texts], bool]]:
    """Readers by program; each returns whether its program wrote the texts."""
    return {
        "InvokeAI": invoke, "NovelAI": novel, "Fooocus": fooocus, "SwarmUI": swarm, "Easy Diffusion": easy,
        "Draw Things": draw_things,
    }  # fmt: skip


def parsed(text: str | None, what: str = "JSON") -> dict[str, Any] | None:
    """A JSON object; None if the text is not one. Raises Unreadable for damaged JSON."""
    if not text or not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable(f"has damaged {what}") from None
    return value if isinstance(value, dict) else None


def fields(info: ParsedInfo, metadata: Mapping[str, Any], offered: Mapping[str, str], own: frozenset[str] | set[str]) -> None:
    """Offers every value whose name is in `offered`. All others become notes, except the reader's `own` and the silent ones."""
    for name, value in metadata.items():
        if name in offered and (value or value == 0) and isinstance(value, str | int | float) and not isinstance(value, bool):
            info.offer(offered[name], value, name)
        elif name not in own | SILENT and not name.startswith("_") and (name in offered or value not in NOTHING):
            if not (name in offered and value in (None, "")):
                info.unread(name, value)


def weight(value: Any) -> float | None:
    """The value as a number, or None."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def loras(info: ParsedInfo, names: Any, weights: Any = ()) -> None:
    """Stores LoRA files by name."""
    names, weights = (each if isinstance(each, list) else [each] for each in (names, weights))
    for place, name in enumerate(names):
        if isinstance(name, str) and name not in NOTHING:
            info.file(f"LoRA {name}", name, weight(weights[place]) if place < len(weights) else None, None)


def named(value: Any) -> str:
    """The name of a model, in the format of any version of a program."""
    if isinstance(value, dict):
        value = next((value[key] for key in ("name", "model_name", "model", "key") if value.get(key)), "")
        return named(value)
    return value if isinstance(value, str) else ""


def model(info: ParsedInfo, value: Any) -> None:
    """Stores the name of the base model."""
    if name := named(value):
        info.model(name)
    else:
        info.note("base model (not read: it has no name)")


def sampler(info: ParsedInfo, name: Any, spacing: Any = "") -> None:
    """Stores a sampler and its spacing of noise levels."""
    if isinstance(name, str) and name:
        info.sampler(name, spacing if isinstance(spacing, str) else "")


def of_gpu(info: ParsedInfo, drawn_on: Any = None) -> None:
    """Adds a note if the noise was not drawn on the CPU, as it is here."""
    if "seed" in info.settings and drawn_on != "cpu":
        info.note("Seed: reproduces the same noise only if it was drawn on the CPU")


def invoke(info: ParsedInfo, texts: Texts) -> bool:
    """InvokeAI: `invokeai_metadata` since version 3.0, before that `sd-metadata`, or the command line in `Dream`."""
    if (metadata := parsed(texts.get("invokeai_metadata"))) is not None:
        fields(info, metadata, INVOKE, {"scheduler", "model", "loras"})
        sampler(info, metadata.get("scheduler"))
        for each in metadata.get("loras") or () if isinstance(metadata.get("loras"), list) else ():
            if isinstance(each, dict):
                loras(info, named(each.get("model") or each.get("lora")), each.get("weight"))
        model(info, metadata.get("model"))
        of_gpu(info, metadata.get("rand_device"))
        return True
    if (metadata := parsed(texts.get("sd-metadata"))) and isinstance(metadata.get("image"), dict):
        image = dict(metadata["image"])
        prompts = image.pop("prompt", None)
        text = prompts[0].get("prompt") if isinstance(prompts, list) and prompts and isinstance(prompts[0], dict) else prompts
        in_brackets(info, text)
        fields(info, image, INVOKE, {"sampler"})
        sampler(info, image.get("sampler"))
        model(info, metadata.get("model_weights"))
        of_gpu(info)
        return True
    return dream(info, texts.get("Dream") or texts.get("dream") or "")


def dream(info: ParsedInfo, text: str) -> bool:
    """InvokeAI's command line: "a prompt [negative]" -s 20 -S 42 -W 512 -H 512 -C 7.5 -A k_lms"""
    try:
        words = shlex.split(text[:LONGEST])
    except ValueError:
        return False
    flags = {"-s": "num_inference_steps", "-S": "seed", "-W": "width", "-H": "height", "-C": "guidance_scale"}
    if len(words) < 3 or not flags.keys() & set(words):
        return False
    in_brackets(info, words[0])
    rest = iter(words[1:])
    for flag in rest:
        if flag in flags:
            info.offer(flags[flag], next(rest, ""), flag)
        elif flag == "-A":
            sampler(info, next(rest, ""))
        else:
            info.unread("Dream", flag)
    model(info, None)
    of_gpu(info)
    return True


def in_brackets(info: ParsedInfo, text: Any) -> None:
    """A prompt with its negative prompt in brackets."""
    if not isinstance(text, str):
        return info.unread("prompt", text)
    negative = re.findall(r"\[([^\[\]]*)\]", text)
    info.offer("prompt", " ".join(re.sub(r"\[[^\[\]]*\]", "", text).split()), "prompt")
    if negative:
        info.offer("negative_prompt", ", ".join(negative), "negative prompt")


def novel(info: ParsedInfo, texts: Texts) -> bool:
    """NovelAI: JSON in `Comment`, the prompt in `Description`."""
    whole = parsed(texts.get("comment")) or {}
    if isinstance(whole.get("Comment"), str):  # WebP: one JSON object of all texts
        texts = {name: text for name, text in whole.items() if isinstance(text, str)}
    if texts.get("Software") != "NovelAI" and not texts.get("Source", "").startswith("NovelAI"):
        return False
    metadata = parsed(texts.get("Comment")) or {}
    fields(info, {"prompt": texts.get("Description"), **metadata}, NOVEL, {"sampler", "strength", "noise", "hide_debug_overlay"})
    sampler(info, metadata.get("sampler"), metadata.get("noise_schedule"))
    for name in ("strength", "noise"):  # written for every image, relevant only with an input image
        if metadata.get(name) not in NOTHING and str(metadata.get("request_type")).endswith("Img2ImgRequest"):
            info.unread(name, metadata[name], "its input image is unknown; give it as --image, with --strength")
    model(info, texts.get("Source"))
    of_gpu(info)
    return True


def fooocus(info: ParsedInfo, texts: Texts) -> bool:
    """Fooocus: JSON in `parameters` or an EXIF comment, with the names of its own scheme or of its log."""
    metadata = next((each for name in ("parameters", "comment") if (each := parsed(texts.get(name)))), None)
    if metadata is None or "sui_image_params" in metadata or "prompt" not in {key.casefold() for key in metadata}:
        return False
    metadata = {key.casefold().replace(" ", "_"): value for key, value in metadata.items()}
    scheme = "fooocus" in f"{texts.get('fooocus_scheme')} {metadata.get('version')} {metadata.get('software')}".casefold()
    if not scheme and not {"base_model", "performance", "fooocus_v2_expansion", "base_model_name"} & metadata.keys():
        return False
    numbered = sorted(name for name in metadata if re.fullmatch(r"lora_\d+|lora_combined_\d+", name))
    own = {"sampler", "sampler_name", "scheduler", "resolution", "base_model", "base_model_name", "loras", "clip_skip", *numbered}
    fields(info, metadata, FOOOCUS, own)
    sampler(info, metadata.get("sampler") or metadata.get("sampler_name"), metadata.get("scheduler"))
    if size := re.fullmatch(r"\D*(\d+)\D+(\d+)\D*", str(metadata.get("resolution", ""))[:40]):
        for setting, value in zip(("width", "height"), size.groups(), strict=True):
            info.offer(setting, value, "resolution")
    if (skip := weight(metadata.get("clip_skip"))) and 1 <= skip < 100:
        info.clip_skip(int(skip) - 1, "clip_skip")
    for each in metadata.get("loras") or () if isinstance(metadata.get("loras"), list) else ():
        if isinstance(each, list) and each:
            loras(info, each[0], each[1:2])
    for name in numbered:
        text, _, scale = str(metadata[name]).rpartition(" : ")
        loras(info, text, scale)
    model(info, metadata.get("base_model") or metadata.get("base_model_name"))
    of_gpu(info, "cpu" if scheme else None)
    return True


def swarm(info: ParsedInfo, texts: Texts) -> bool:
    """SwarmUI: `sui_image_params` within JSON in `parameters` or an EXIF comment."""
    whole = next(
        (each for name in ("parameters", "comment") if "sui_image_params" in (each := parsed(texts.get(name)) or {})), None
    )
    metadata = whole and whole["sui_image_params"]
    if not isinstance(metadata, dict):
        return False
    fields(info, metadata, SWARM, {"sampler", "scheduler", "model", "loras", "loraweights", "clipstopatlayer"})
    sampler(info, metadata.get("sampler"), metadata.get("scheduler"))
    loras(info, metadata.get("loras") or [], metadata.get("loraweights") or [])
    if (layer := weight(metadata.get("clipstopatlayer"))) and -100 < layer <= -1:
        info.clip_skip(-1 - int(layer), "clipstopatlayer")
    model(info, metadata.get("model"))
    return True


def easy(info: ParsedInfo, texts: Texts) -> bool:
    """Easy Diffusion: one text per setting, or JSON in an EXIF comment."""
    metadata = parsed(texts.get("comment")) or dict(texts)
    if not {"prompt", "num_inference_steps"} <= metadata.keys() and "use_stable_diffusion_model" not in metadata:
        return False
    own = {"sampler_name", "use_stable_diffusion_model", "use_lora_model", "lora_alpha", "clip_skip", "comment"}
    fields(info, metadata, EASY, own)
    sampler(info, metadata.get("sampler_name"))
    if str(metadata.get("clip_skip")).casefold() == "true":
        info.clip_skip(1, "clip_skip")
    names, scales = metadata.get("use_lora_model"), metadata.get("lora_alpha")
    loras(info, *(parsed_list(each) for each in (names, scales)))
    model(info, metadata.get("use_stable_diffusion_model"))
    of_gpu(info)
    return True


def parsed_list(value: Any) -> Any:
    """Parses a Python or JSON list that was stored as text; returns anything else unchanged."""
    if not isinstance(value, str) or not value.startswith("["):
        return value
    return [each.strip(" '\"") for each in value.strip("[]").split(",") if each.strip(" '\"")]


def draw_things(info: ParsedInfo, texts: Texts) -> bool:
    """Draw Things: JSON in the user comment of XMP."""
    parts = (part.partition(">")[2].partition("</rdf:li>")[0].strip() for part in texts.get(XMP, "").split("<rdf:li")[1:])
    text = next((part for part in parts if part.startswith("{")), None)
    metadata = parsed(html.unescape(text), "JSON in its XMP") if text else None
    if metadata is None or "c" not in metadata:
        return False
    fields(info, metadata, DRAW_THINGS, {"sampler", "size", "model", "lora", "strength"})
    sampler(info, metadata.get("sampler"))
    if size := re.fullmatch(r"(\d+)\s*x\s*(\d+)", str(metadata.get("size", ""))[:40]):
        for setting, value in zip(("width", "height"), size.groups(), strict=True):
            info.offer(setting, value, "size")
    if (strength := weight(metadata.get("strength"))) is not None and strength < 1:
        info.unread("strength", short(strength), "its input image is unknown; give it as --image, with --strength")
    for each in metadata.get("lora") or () if isinstance(metadata.get("lora"), list) else ():
        if isinstance(each, dict):
            loras(info, named(each), each.get("weight"))
    model(info, metadata.get("model"))
    of_gpu(info)
    return True
