"""What a PNG says about how it was made: A1111's `parameters` for other programs, and JSON of ours."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL.PngImagePlugin import PngInfo

from customize.config import InferenceSettings
from customize.inference.learned import LearnedFile

VERSIONED = ("customize", "torch", "diffusers", "transformers", "peft")
OF_THE_RUN = ("output_dir", "overwrite_output_dir", "batch_size", "trace")
"""Settings that say nothing about a single picture."""
SAMPLERS = {
    "DDIMScheduler": "DDIM",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "HeunDiscreteScheduler": "Heun",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "KDPM2DiscreteScheduler": "DPM2",
    "LMSDiscreteScheduler": "LMS",
    "PNDMScheduler": "PLMS",
    "UniPCMultistepScheduler": "UniPC",
}


def facts(settings: InferenceSettings, base_model: str, files: tuple[LearnedFile, ...]) -> dict[str, Any]:
    """What all pictures of a run share: the settings, the base model, the learned files with hashes, the versions."""
    return {
        "settings": {name: value for name, value in settings.values().items() if name not in OF_THE_RUN},
        "base_model": base_model,
        "weights": [
            {"path": str(file.path), "scale": file.scale, "sha256": hashlib.sha256(file.path.read_bytes()).hexdigest()}
            for file in files
        ],
        "versions": {name: version(name) for name in VERSIONED},
    }


def png_info(facts: dict[str, Any], scheduler: str, prompt: str, seed: int, size: tuple[int, int]) -> PngInfo:
    """The text chunks of one picture. scheduler: class name; size: (width, height)."""
    info = PngInfo()
    info.add_itxt("parameters", parameters(facts, scheduler, prompt, seed, size))
    own = facts["settings"] | {"prompt": [prompt], "seed": seed, "num_images": 1}
    info.add_itxt("customize", json.dumps(facts | {"settings": own}))
    return info


def parameters(facts: dict[str, Any], scheduler: str, prompt: str, seed: int, size: tuple[int, int]) -> str:
    """The settings in A1111's wording, which many programs and sites read."""
    settings = facts["settings"]
    sampler = SAMPLERS.get(scheduler, scheduler) + (" Karras" if settings.get("use_karras_sigmas") else "")
    values = {
        "Steps": settings["num_inference_steps"],
        "Sampler": sampler,
        "CFG scale": settings["guidance_scale"],
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model": Path(facts["base_model"]).stem,
    }
    if settings.get("image"):
        values["Denoising strength"] = settings["strength"] or (1.0 if settings.get("mask_image") else 0.8)
    values["Version"] = f"customize {facts['versions']['customize']}"
    negative = [f"Negative prompt: {settings['negative_prompt']}"] if settings["negative_prompt"] else []
    return "\n".join([prompt, *negative, ", ".join(f"{name}: {value}" for name, value in values.items())])
