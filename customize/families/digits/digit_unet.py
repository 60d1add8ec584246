"""A small UNet for images of 28 x 28 pixels (or multiples), conditioned on time and class: from its blocks to the forward pass.

The architecture is that of the exercises of UC Berkeley's CS180: two levels down, one vector in between, two levels up, with
skip connections; time and class enter by fully connected blocks. Batch normalisation is replaced by group normalisation, so
that the output for a sample does not depend on the others in its batch.

B samples, D channels of the first level, K classes, H W height and width.
"""

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from customize.families.specs.digits_spec import SIDE

GROUPS = 8
"""Groups of channels that are normalised together."""


def normalised(channels: int) -> nn.Sequential:
    """What follows each convolution: group normalisation (Wu & He 2018) and GELU."""
    return nn.Sequential(nn.GroupNorm(GROUPS, channels), nn.GELU())


class ConvBlock(nn.Sequential):
    """Two convolutions of 3 x 3: [B, `channels`, H, W] -> [B, `out`, H, W]."""

    def __init__(self, channels: int, out: int):
        first, second = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        super().__init__(first, normalised(out), second, normalised(out))


class DownBlock(nn.Sequential):
    """Halves height and width: [B, `channels`, H, W] -> [B, `out`, H / 2, W / 2]."""

    def __init__(self, channels: int, out: int):
        super().__init__(nn.Conv2d(channels, out, 3, stride=2, padding=1), normalised(out), ConvBlock(out, out))


class UpBlock(nn.Sequential):
    """Doubles height and width: [B, `channels`, H, W] -> [B, `out`, 2 H, 2 W]."""

    def __init__(self, channels: int, out: int):
        super().__init__(nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1), normalised(out), ConvBlock(out, out))


class Flatten(nn.Sequential):
    """Averages a quarter of the side, which is all of the image there: [B, C, 7, 7] -> [B, C, 1, 1]."""

    def __init__(self):
        super().__init__(nn.AvgPool2d(SIDE // 4), nn.GELU())


class Unflatten(nn.Sequential):
    """The inverse in shape: [B, C, 1, 1] -> [B, C, 7, 7]."""

    def __init__(self, channels: int):
        super().__init__(nn.ConvTranspose2d(channels, channels, SIDE // 4, stride=SIDE // 4), normalised(channels))


class FCBlock(nn.Sequential):
    """Two fully connected layers: [B, `inputs`] -> [B, `channels`, 1, 1], one number per channel."""

    def __init__(self, inputs: int, channels: int):
        layers = nn.Linear(inputs, channels), nn.GELU(), nn.Linear(channels, channels)
        super().__init__(*layers, nn.Unflatten(1, (channels, 1, 1)))


class DigitUNet(ModelMixin, ConfigMixin):
    """Predicts from a noisy image, its time and its class what `prediction_type` of the model's scheduler names.

    channels: D, a multiple of 8; num_classes: K, 0 for a network without classes; takes_time: whether the network is told the
    noise level; in_channels: of the image.
    """

    @register_to_config
    def __init__(self, channels: int = 32, num_classes: int = 10, takes_time: bool = True, in_channels: int = 1):
        super().__init__()
        D = channels
        self.first = ConvBlock(in_channels, D)
        self.down_1, self.down_2 = DownBlock(D, D), DownBlock(D, 2 * D)
        self.flatten, self.unflatten = Flatten(), Unflatten(2 * D)
        self.up_1, self.up_2 = UpBlock(4 * D, D), UpBlock(2 * D, D)
        self.last = nn.Sequential(ConvBlock(2 * D, D), nn.Conv2d(D, in_channels, 3, padding=1))
        if takes_time:
            self.time_1, self.time_2 = FCBlock(1, 2 * D), FCBlock(1, D)
        if num_classes:
            self.class_1, self.class_2 = FCBlock(num_classes, 2 * D), FCBlock(num_classes, D)

    def forward(self, sample: Tensor, time: Tensor, class_labels: Tensor) -> Tensor:
        """sample: [B, 1, 28, 28]; time: [B] in [0, 1]; class_labels: [B, K], one-hot, zeros for no class. Returns the shape of
        `sample`."""
        first = self.first(sample)
        half = self.down_1(first)
        quarter = self.down_2(half)
        up = self.unflatten(self.flatten(quarter))
        up = self.conditioned(up, time, class_labels, level=1)
        up = self.up_1(torch.cat([up, quarter], 1))
        up = self.conditioned(up, time, class_labels, level=2)
        up = self.up_2(torch.cat([up, half], 1))
        return self.last(torch.cat([up, first], 1))

    def conditioned(self, features: Tensor, time: Tensor, class_labels: Tensor, level: int) -> Tensor:
        """class * features + time, each a number per channel; a network without one of the two leaves it out."""
        if self.config.num_classes:
            features = getattr(self, f"class_{level}")(class_labels.to(features)) * features
        if self.config.takes_time:
            features = features + getattr(self, f"time_{level}")(time.to(features)[:, None])
        return features
