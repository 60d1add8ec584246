"""A segmenter that reads a word: CLIPSeg of transformers, from a folder or the hub's cache. Lüddecke & Ecker 2022, "Image
Segmentation Using Text and Image Prompts".

The image processor is read, not run, as for scorers. N images, S the side of the square that the network sees.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPSegForImageSegmentation

from customize.evaluation.masks.segmenter_files import segmenter_folder
from customize.evaluation.scorers.transformers_models import side_of
from customize.storage.json_files import read_object

SEEN = 0.5
"""Where no place has at least this probability, the word is not in the image."""


class Segmenter:
    """Finds words in images with a CLIPSeg in a folder. Raises OSError and ValueError, as transformers do, if that fails."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        options: Any = dict(local_files_only=True, use_safetensors=True, dtype=torch.float32)
        self.network = CLIPSegForImageSegmentation.from_pretrained(folder, **options)
        self.network.requires_grad_(False).eval().to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.processor, self.device = read_object(folder / "preprocessor_config.json"), device

    @torch.no_grad()
    def maps(self, images: Sequence[Image.Image], word: str) -> list[np.ndarray]:
        """The probability that each place shows the word: for each image float32 [1, S, S], over all of it; 0 everywhere if the
        word is not in it."""
        tokens = self.tokenizer(word, truncation=True, return_tensors="pt").to(self.device)
        found = []
        for image in images:
            probability = self.network(**tokens, pixel_values=self.pixels(image)).logits.sigmoid().view(1, *self.size).cpu()
            found.append((probability * (probability.max() >= SEEN)).numpy())
        return found

    @property
    def size(self) -> tuple[int, int]:
        """(S, S)."""
        return (side_of(self.processor),) * 2

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """The normalised pixels [1, 3, S, S] of the whole image, squeezed into a square as CLIPSeg's own processor does."""
        values = np.asarray(image.convert("RGB").resize(self.size, Image.Resampling.BICUBIC)).astype(np.float32) / 255
        mean, deviation = (np.float32(self.processor[f"image_{name}"]) for name in ("mean", "std"))
        return torch.from_numpy((values - mean) / deviation).permute(2, 0, 1)[None].to(self.device)


def at_hand(device: torch.device | str = "cpu") -> Segmenter | None:
    """CLIPSeg, if its weights are in the hub's cache."""
    folder = segmenter_folder(None)
    return Segmenter(folder, device) if folder else None
