"""`--like`: generate an image again from its metadata, and compare the pixels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from customize.data.images.image_file import open_image
from customize.errors import InputError, Problem
from customize.inference.metadata.read_png import GenerationInfo, read_generation_info
from customize.settings.inference import InferenceSettings


@dataclass(frozen=True)
class Like:
    """An image to reproduce, with its metadata."""

    info: GenerationInfo
    image: Image.Image

    @classmethod
    def read(cls, path: str | Path) -> "Like":
        """Raises InputError as `read_generation_info`."""
        return cls(read_generation_info(path), open_image(path))

    def check(self, settings: InferenceSettings) -> None:
        """Raises InputError if the base model is unknown: other programs store its name, not its location."""
        if self.info.program == "customize" or settings.pretrained_model_name_or_path or settings.weights:
            return
        named = f"only the name of the base model, {self.info.base_model}" if self.info.base_model else "no base model"
        what = f"is missing: the metadata of {self.info.program} has {named}"
        raise InputError(Problem("pretrained_model_name_or_path", what, "give its location, or `demo`"))

    def is_reproduced_by(self, settings: InferenceSettings) -> bool:
        """Whether the settings equal those that the image was generated with."""
        stored = self.info.settings.items()
        return self.info.program == "customize" and all(getattr(settings, name) == value for name, value in stored)

    def verdict(self, image: Image.Image) -> str:
        """Says whether an image has the same pixels, and if not, how many values differ."""
        if image.size != self.image.size:
            return f"not the same: {image.width} x {image.height} pixels, not {self.image.width} x {self.image.height}"
        ours, theirs = (np.asarray(each.convert("RGB")).astype(int) for each in (image, self.image))
        difference = np.abs(ours - theirs)
        if not difference.any():
            return f"the same: all {difference.size:,} values are equal"
        return (
            f"not the same: {(difference > 0).sum():,} of {difference.size:,} values differ, by up to {difference.max()} of 255"
        )
