"""diffusers' pipelines of DeepFloyd IF as references for ours."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from customize.inference.inpainting import as_pixels


def noise_image(side: int, seed: int) -> Image.Image:
    """An RGB image of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def stock(ours: Any, cls: Any, seeds: list[int], scheduler: Any = None, **options: Any) -> torch.Tensor:
    """The images [B, 3, H, W] that the pipeline `cls` draws with our networks.

    Lists of images among the options become pixels, and the first of a list of masks its values in [0, 1].
    """
    parts = {**ours.family.pipeline().components, **({"scheduler": scheduler} if scheduler else {})}
    pipeline = cls(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    for name in options.keys() & {"image", "original_image"}:
        options[name] = torch.cat(list(map(as_pixels, options[name])))
    if "mask_image" in options:
        options["mask_image"] = torch.from_numpy(np.array(options["mask_image"][0], dtype=np.float32))[None, None] / 255
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipeline(generator=generators, output_type="pt", **options).images
