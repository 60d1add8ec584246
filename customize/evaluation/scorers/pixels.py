"""What all scorers do with images and features before and after their networks.

N images, S the side of the square that a network sees, E channels, h w height and width of its features, P = h w.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from customize.data.images.image_file import crop, resize, resized_size


def square(image: Image.Image, side: int, interpolation: str = "lanczos") -> np.ndarray:
    """The central square of an image, its short side resized to `side` pixels: np.uint8 [side, side, 3]."""
    width, height = resized_size(image.size, side)
    resized = resize(image.convert("RGB"), side, interpolation)
    return crop(resized, (width - side) // 2, (height - side) // 2, side, side, flip=False)


def squares(images: Sequence[Image.Image], side: int, interpolation: str = "lanczos") -> Tensor:
    """The central squares of images, float32 [N, 3, S, S] in [0, 1]."""
    pixels = np.stack([square(image, side, interpolation) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def unit_patches(activations: Tensor) -> Tensor:
    """Feature maps [N, E, h, w] as unit rows [N, P, E], float32 on the CPU."""
    return F.normalize(activations.float().cpu().flatten(2).transpose(1, 2), dim=-1)


def unit_mean(activations: Tensor) -> Tensor:
    """The mean of feature maps [N, E, h, w] over all places as unit rows [N, E], float32 on the CPU."""
    return F.normalize(activations.float().cpu().mean((2, 3)), dim=-1)
