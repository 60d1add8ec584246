"""Writes generation metadata: A1111's `parameters`, which other programs read, and our JSON."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from customize.errors import InputError, Problem
from customize.inference.run.grid import ImageRequest
from customize.settings.field import of_scope
from customize.settings.files.sharing import shared_file, shared_name, shared_settings
from customize.settings.inference import InferenceSettings
from customize.settings.sampler_names import num_timesteps, shown
from customize.settings.scale import Scale
from customize.weights.weight_file import LearnedFile

EXIF_FOLDER, EXIF_COMMENT, EXIF_NOTE = 0x8769, 0x9286, 0x927C
NOTE = b"customize\0"
"""Prefix of our text in EXIF's maker note."""
MOST_EXIF, QUALITY = 65_000, 95
OF_A_RUN = ("pytorch_lora_weights", "pytorch_lora_weights_kohya", "learned_embeds")
"""Generic file names: the folder's name is written instead."""
VERSIONED = ("customize", "torch", "diffusers", "transformers", "peft")


def facts(base_model: str, files: tuple[LearnedFile, ...]) -> dict[str, Any]:
    """Metadata common to all images of a pipeline: base model, weight files with hashes, versions."""
    return {
        "base_model": shared_name(base_model),
        "weights": [{"path": shared_file(file.path), "scale": scale_as_json(file.scale), **hashes(file)} for file in files],
        "versions": {name: version(name) for name in VERSIONED},
    }


def hashes(file: LearnedFile) -> dict[str, str]:
    """The SHA-256 of the whole file, and A1111's name and hash (a LoRA's hash excludes the header)."""
    content = file.path.read_bytes()
    whole = hashlib.sha256(content).hexdigest()
    name = file.path.parent.name if file.path.stem in OF_A_RUN and file.path.parent.name else file.path.stem
    if not file.is_adapter:
        return {"sha256": whole, "embedding": name, "hash": whole[:12]}
    data = memoryview(content)[8 + int.from_bytes(content[:8], "little") :]
    return {"sha256": whole, "lora": name, "hash": hashlib.sha256(data).hexdigest()[:12]}


def lora_tag(weights: dict[str, Any]) -> str:
    """A1111's tag of a LoRA. Of two scales, the text encoder's comes first."""
    name = weights["lora"].translate(str.maketrans("<>:", "___"))
    numbers = str(weights["scale"]).split("@")[0].split(":")  # of a schedule, the first scale
    return f"<lora:{':'.join([name, *(f'{float(number):g}' for number in reversed(numbers))])}>"


def quoted_hashes(weights: list[dict[str, Any]], kind: str) -> str:
    """`"name: hash, name: hash"` of the files of one kind, as A1111 writes it; empty if there are none."""
    pairs = ", ".join(f"{each[kind]}: {each['hash']}" for each in weights if kind in each)
    return json.dumps(pairs, ensure_ascii=False) if pairs else ""


def scale_as_json(scale: Scale) -> float | str:
    """A scale as a JSON value: a number, or the text of a schedule."""
    return scale if isinstance(scale, float | int) else str(scale)


def texts(
    facts: dict[str, Any], request: ImageRequest, own_scheduler: str, size: tuple[int, int], place: tuple[int, int]
) -> dict[str, str]:
    """The metadata of one image, by name of the PNG text chunk.

    own_scheduler: class name of the base model's scheduler; size: (width, height); place: (place, number of images) in its batch,
    on which the last bits of an image can depend.
    """
    of_the_run = of_scope(InferenceSettings, "run")
    settings = {name: value for name, value in shared_settings(request.settings, names=True).items() if name not in of_the_run}
    settings |= {"prompt": list(request.prompts), "seed": request.seed}
    return {
        "parameters": parameters(facts, settings, settings["scheduler"] or own_scheduler, size),
        "customize": json.dumps({"settings": settings, **facts, "batch": place}),
    }


def png_info(texts: dict[str, str]) -> PngInfo:
    """The texts as chunks of a PNG."""
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    return info


def saving(image_format: str, texts: dict[str, str]) -> dict[str, Any]:
    """Options for Pillow's `save` that store the texts: in a PNG as chunks; in JPEG and WebP as EXIF, A1111's text as user
    comment and ours as maker note. Raises InputError if they exceed the size of EXIF in a JPEG."""
    if image_format == "png":
        return {"pnginfo": png_info(texts)}
    exif = Image.Exif()
    own = exif.get_ifd(EXIF_FOLDER)
    own[EXIF_COMMENT] = b"UNICODE\0" + texts["parameters"].encode("utf-16-be")
    own[EXIF_NOTE] = NOTE + texts["customize"].encode()
    data = exif.tobytes()
    if image_format == "jpg" and len(data) > MOST_EXIF:
        what = f"the metadata of an image has {len(data):,} bytes, and a JPEG holds at most {MOST_EXIF:,}"
        raise InputError(Problem("image_format", what, "use png or webp"))
    return {"exif": data, "quality": QUALITY} | ({"subsampling": 0} if image_format == "jpg" else {})


def parameters(facts: dict[str, Any], settings: dict[str, Any], scheduler: str, size: tuple[int, int]) -> str:
    """The settings in A1111's format, which many programs and sites read."""
    values = {
        "Steps": settings["num_inference_steps"] if settings.get("timesteps") is None else num_timesteps(settings["timesteps"]),
        "Sampler": shown(scheduler, scheduler, settings.get("use_karras_sigmas")),
        "CFG scale": settings["guidance_scale"],
        "Seed": settings["seed"],
        "Size": f"{size[0]}x{size[1]}",
        "Model": Path(facts["base_model"]).stem,
    }
    if settings.get("image"):
        values["Denoising strength"] = settings["strength"] or (1.0 if settings.get("mask_image") else 0.8)
    if scale := settings.get("hires_scale"):
        values["Size"] = "x".join(f"{round(side / scale)}" for side in size)
        values |= {"Denoising strength": settings["hires_strength"], "Hires upscale": scale, "Hires upscaler": "Lanczos"}
    if settings.get("clip_skip"):
        values["Clip skip"] = settings["clip_skip"] + 1
    loras, embeddings = (quoted_hashes(facts["weights"], kind) for kind in ("lora", "embedding"))
    values |= {"Lora hashes": loras} if loras else {}
    values |= {"TI hashes": embeddings} if embeddings else {}
    values["Version"] = f"customize {facts['versions']['customize']}"
    negative = [f"Negative prompt: {settings['negative_prompt']}"] if settings["negative_prompt"] else []
    prompts, tags = list(settings["prompt"]), [lora_tag(each) for each in facts["weights"] if "lora" in each]
    prompts[-1:] = [" ".join([*prompts[-1:], *tags]).strip()] if tags else prompts[-1:]
    return "\n".join([*prompts, *negative, ", ".join(f"{name}: {value}" for name, value in values.items())])
