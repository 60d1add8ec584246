"""Vision models of transformers as scorers: DINOv2, DINOv3, CLIP, SigLIP and SigLIP 2, from a folder.

The image processor is read, not run: all scorers see the same square of an image, and the newer processors need torchvision.

N images, M prompts, S the side of the square that the network sees, P patches, E the network's width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from customize.data.images.image_file import INTERPOLATIONS
from customize.evaluation.scorers import Features
from customize.evaluation.scorers.pixels import squares
from customize.storage.json_files import read_object

BATCH = 8
BICUBIC = 3


class TransformersScorer:
    """Scores images with a model in a folder that `at_hand.check` accepts. name: for reports."""

    def __init__(self, folder: Path, name: str, device: torch.device | str = "cpu"):
        self.name, self.device = name, device
        self.network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        self.network.requires_grad_(False).eval().to(device)
        self.vision = getattr(self.network, "vision_model", self.network)
        self.processor = read_object(folder / "preprocessor_config.json")
        self.side = side_of(self.processor)
        reads = hasattr(self.network, "text_model")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True) if reads else None

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Features:
        """pooled: the class token (DINO), or the embedding that is compared with texts; patches: the last layer's."""
        pooled, patches = [], []
        for pixels in self.pixels(images).split(BATCH):
            output = self.vision(pixel_values=pixels.to(self.device))
            project = getattr(self.network, "visual_projection", torch.nn.Identity())
            pooled.append(F.normalize(project(output.pooler_output).cpu(), dim=-1))
            number = (self.side // self.vision.config.patch_size) ** 2  # before them: the class token and registers
            patches.append(F.normalize(output.last_hidden_state[:, -number:].cpu(), dim=-1))
        return Features(torch.cat(pooled), torch.cat(patches))

    @torch.no_grad()
    def match(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor | None:
        """The scaled cosines of images and prompts [N, M] (Radford et al. 2021, CLIP); None for DINO."""
        if self.tokenizer is None:
            return None
        longest = self.network.config.text_config.max_position_embeddings
        options: Any = dict(padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
        tokens = self.tokenizer(list(prompts), **options).to(self.device)
        if self.network.config.model_type == "siglip":
            tokens = {"input_ids": tokens["input_ids"]}  # it was trained without a mask
        pixels = self.pixels(images).split(BATCH)
        logits = [self.network(**tokens, pixel_values=each.to(self.device)).logits_per_image.cpu() for each in pixels]
        return torch.cat(logits)

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """The normalised squares of images [N, 3, S, S]."""
        code = self.processor.get("resample", BICUBIC)
        interpolation = next(name for name, value in INTERPOLATIONS.items() if value == code)
        mean, deviation = (torch.tensor(self.processor[f"image_{name}"]).view(3, 1, 1) for name in ("mean", "std"))
        return (squares(images, self.side, interpolation) - mean) / deviation


def side_of(processor: Mapping[str, Any]) -> int:
    """The side of the square that a model sees, from the settings of its image processor."""
    size = processor.get("crop_size") or processor["size"]
    return int(size if isinstance(size, int) else size.get("height") or size["shortest_edge"])
