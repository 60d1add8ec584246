"""What a PNG says about how it was made: A1111's `parameters` for other programs, and JSON of ours."""

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
from customize.settings.sampler_names import shown
from customize.settings.scale import Scale
from customize.weights.weight_file import LearnedFile

EXIF_FOLDER, EXIF_COMMENT, EXIF_NOTE = 0x8769, 0x9286, 0x927C
NOTE = b"customize\0"
"""How our text begins in EXIF's maker note."""
MOST_EXIF, QUALITY = 65_000, 95
OF_A_RUN = ("pytorch_lora_weights", "pytorch_lora_weights_kohya", "learned_embeds")
"""Names of files that say nothing: these are told by their folder's."""
VERSIONED = ("customize", "torch", "diffusers", "transformers", "peft")


def facts(base_model: str, files: tuple[LearnedFile, ...]) -> dict[str, Any]:
    """What all images of a pipeline share: the base model, the learned files with hashes, the versions."""
    return {
        "base_model": shared_name(base_model),
        "weights": [{"path": shared_file(file.path), "scale": told(file.scale), **hashes(file)} for file in files],
        "versions": {name: version(name) for name in VERSIONED},
    }


def hashes(file: LearnedFile) -> dict[str, str]:
    """What programs know the file by: SHA-256 of the whole, and A1111's name and hash of it (a LoRA's without the header)."""
    content = file.path.read_bytes()
    whole = hashlib.sha256(content).hexdigest()
    name = file.path.parent.name if file.path.stem in OF_A_RUN and file.path.parent.name else file.path.stem
    if not file.is_adapter:
        return {"sha256": whole, "embedding": name, "hash": whole[:12]}
    data = memoryview(content)[8 + int.from_bytes(content[:8], "little") :]
    return {"sha256": whole, "lora": name, "hash": hashlib.sha256(data).hexdigest()[:12]}


def lora_tag(weights: dict[str, Any]) -> str:
    """A1111's tag of a LoRA, with the text encoder's scale before the UNet's where there are two."""
    name = weights["lora"].translate(str.maketrans("<>:", "___"))
    numbers = str(weights["scale"]).split("@")[0].split(":")  # of a scale that changes on the way, how it begins
    return f"<lora:{':'.join([name, *(f'{float(number):g}' for number in reversed(numbers))])}>"


def quoted_hashes(weights: list[dict[str, Any]], kind: str) -> str:
    """`"name: hash, name: hash"` of the files of one kind, as A1111 writes it; empty where there is none."""
    pairs = ", ".join(f"{each[kind]}: {each['hash']}" for each in weights if kind in each)
    return json.dumps(pairs, ensure_ascii=False) if pairs else ""


def told(scale: Scale) -> float | str:
    """A scale as JSON: a number, or the text of one that changes on the way."""
    return scale if isinstance(scale, float | int) else str(scale)


def texts(
    facts: dict[str, Any], request: ImageRequest, own_scheduler: str, size: tuple[int, int], place: tuple[int, int]
) -> dict[str, str]:
    """What one image says of how it was made, by the names of PNG's text chunks.

    own_scheduler: class name of the base model's; size: (width, height); place: (place, number of images) in its batch,
    on which the last bits of an image can depend.
    """
    of_the_run = of_scope(InferenceSettings, "run")
    settings = {name: value for name, value in shared_settings(request.settings, names=True).items() if name not in of_the_run}
    settings |= {"prompt": list(request.prompts), "seed": request.seed}
    return {
        "parameters": parameters(facts, settings, settings["scheduler"] or own_scheduler, size),
        "customize": json.dumps({"settings": settings, **facts, "batch": place}),
    }


def png_info(said: dict[str, str]) -> PngInfo:
    """The texts as chunks of a PNG."""
    info = PngInfo()
    for name, text in said.items():
        info.add_itxt(name, text)
    return info


def saving(image_format: str, said: dict[str, str]) -> dict[str, Any]:
    """Options of Pillow's `save` with which an image carries the texts: chunks of a PNG; in JPEG and WebP A1111's text as EXIF's
    user comment, as A1111 does, and ours in its maker note. Raises InputError where JPEG's EXIF has no room for them."""
    if image_format == "png":
        return {"pnginfo": png_info(said)}
    exif = Image.Exif()
    own = exif.get_ifd(EXIF_FOLDER)
    own[EXIF_COMMENT] = b"UNICODE\0" + said["parameters"].encode("utf-16-be")
    own[EXIF_NOTE] = NOTE + said["customize"].encode()
    data = exif.tobytes()
    if image_format == "jpg" and len(data) > MOST_EXIF:
        what = f"the settings of an image have {len(data):,} bytes, and a JPEG has room for {MOST_EXIF:,}"
        raise InputError(Problem("image_format", what, "take png or webp"))
    return {"exif": data, "quality": QUALITY} | ({"subsampling": 0} if image_format == "jpg" else {})


def parameters(facts: dict[str, Any], settings: dict[str, Any], scheduler: str, size: tuple[int, int]) -> str:
    """The settings in A1111's wording, which many programs and sites read."""
    values = {
        "Steps": settings["num_inference_steps"],
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
