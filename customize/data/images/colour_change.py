"""Changes of an image's colours, as augmentation."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance


@dataclass(frozen=True)
class ColourChange:
    """Factors of brightness, contrast and saturation, and hue as a share of the colour circle, in that order: as torchvision's
    `ColorJitter`."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0

    def of(self, image: Image.Image) -> Image.Image:
        """The changed image, mode RGB: p * brightness; g + (p - g) * contrast, g the mean of the grey image; y + (p - y) *
        saturation, y the grey of each pixel; then the hue of each pixel turned."""
        for enhancer, factor in (
            (ImageEnhance.Brightness, self.brightness), (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ):  # fmt: skip
            image = enhancer(image).enhance(factor) if factor != 1 else image
        if not self.hue:
            return image
        hue, saturation, value = image.convert("HSV").split()
        turned = (np.asarray(hue).astype(int) + round(256 * self.hue)) % 256
        return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")
