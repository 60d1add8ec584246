"""What happened at every step of sampling: numbers, a strip of pictures, and an animation.

B images, C latent channels, H W latent height and width.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from customize.inference.estimates import Guided
from customize.inference.figures import contact_sheet, gif
from customize.inference.sampler import Moment, Step, noise_and_clean

Decode = Callable[[Tensor], list[Image.Image]]
"""Latents [B, C, H, W] -> B pictures."""
MOST_COLUMNS, MOST_FRAMES = 10, 50


@dataclass(frozen=True)
class Seen:
    """One evaluation, kept on the CPU in float32: latents as the network saw them and predicted clean latents
    [B, C, H, W], and norms [B] over C, H and W (guidance: None when there was none).
    """

    step: Step
    latents: Tensor
    clean: Tensor
    noise_norm: Tensor
    guidance_norm: Tensor | None


class Trace:
    """Give it to the sampler as `record`; afterwards it can be read, drawn and played."""

    def __init__(self) -> None:
        self.steps: list[Seen] = []

    def __call__(self, moment: Moment) -> None:
        latents, clean, noise = (tensor.float().cpu() for tensor in (moment.seen, moment.clean, moment.noise))
        difference = guidance(moment)
        guidance_norm = None if difference is None else norm(difference)
        self.steps.append(Seen(moment.step, latents, clean, norm(noise), guidance_norm))

    def lines(self, first_image: int = 0) -> str:
        """trace.jsonl: one JSON object per image and evaluation; images count from `first_image`."""
        lines = []
        for image in range(len(self.steps[0].latents)):
            for seen in self.steps:
                numbers = {
                    "latents_norm": norm(seen.latents)[image], "clean_norm": norm(seen.clean)[image],
                    "noise_norm": seen.noise_norm[image],
                    "guidance_norm": None if seen.guidance_norm is None else seen.guidance_norm[image],
                }  # fmt: skip
                place = {"image": first_image + image, "step": seen.step.index, "timestep": float(seen.step.timestep)}
                level = {"alpha": seen.step.alpha, "sigma": seen.step.sigma}
                plain = {name: None if number is None else round(float(number), 6) for name, number in numbers.items()}
                lines.append(json.dumps(place | level | plain))
        return "\n".join(lines) + "\n"

    def write(self, folder: Path, first_image: int, decode: Decode) -> None:
        """Adds to trace.jsonl, and writes NNN-trace.png and NNN-trace.gif of each image, counted from `first_image`."""
        with open(folder / "trace.jsonl", "a", encoding="utf-8", newline="\n") as file:
            file.write(self.lines(first_image))
        for image in range(len(self.steps[0].latents)):
            name = f"{first_image + image:03d}-trace"
            self.strip(image, decode).save(folder / f"{name}.png")
            (folder / f"{name}.gif").write_bytes(gif(self.frames(image, decode)))

    def strip(self, image: int, decode: Decode) -> Image.Image:
        """Two rows of pictures over the steps: the latents, and what the network takes them to become."""
        shown = spread(self.steps, MOST_COLUMNS)
        latents, clean = self.pictures(image, shown, decode)
        labels = [f"step {seen.step.index + 1}/{seen.step.count}, t {float(seen.step.timestep):.0f}" for seen in shown]
        return contact_sheet([latents, clean], labels, ["latents", "predicted clean"])

    def frames(self, image: int, decode: Decode) -> list[Image.Image]:
        """The same as an animation: a frame per step, latents beside the predicted clean picture."""
        shown = spread(self.steps, MOST_FRAMES)
        return [
            contact_sheet([pair], [f"latents {seen.step.index + 1}/{seen.step.count}", "predicted clean"])
            for seen, *pair in zip(shown, *self.pictures(image, shown, decode), strict=True)
        ]

    def pictures(self, image: int, shown: Sequence[Seen], decode: Decode) -> tuple[list, list]:
        """For each step a picture of the latents, by a linear map, and the decoded predicted clean picture."""
        clean = torch.stack([seen.clean[image] for seen in shown])
        decoded = [picture for latents in clean for picture in decode(latents[None])]
        late = len(shown) // 2  # early guesses can lie far outside of what the autoencoder knows
        colours = colour_map(clean[late:], decoded[late:])
        previews = [preview(seen.latents[image], colours, decoded[0].size) for seen in shown]
        return previews, decoded


def guidance(moment: Moment) -> Tensor | None:
    """The noise [B, C, H, W] that the prompt adds to the negative one's, before it is scaled; None without guidance."""
    if not isinstance(moment.estimate, Guided):
        return None
    answers = iter(moment.answers)
    parts = moment.estimate.negative, moment.estimate.positive
    negative, positive = (
        noise_and_clean(part.combine(answers, moment.seen, moment.step), moment.seen, moment.step)[0] for part in parts
    )
    return (positive - negative).float().cpu()


def norm(tensor: Tensor) -> Tensor:
    """[B, C, H, W] -> the Euclidean norm of each image's [B]."""
    return tensor.flatten(1).norm(dim=1)


def spread(steps: Sequence[Seen], most: int) -> list[Seen]:
    """At most `most` of the steps, evenly spread, with the first and the last."""
    count = min(len(steps), most)
    return [steps[round(i * (len(steps) - 1) / max(count - 1, 1))] for i in range(count)]


def colour_map(latents: Tensor, pictures: Sequence[Image.Image]) -> Tensor:
    """The linear map [C + 1, 3] from a latent pixel to its colour (0 to 255) that fits these pairs best.

    latents: [N, C, H, W]; it works for any autoencoder, as it is found anew from pictures that were decoded anyway.
    """
    size = latents.shape[3], latents.shape[2]
    small = [picture.convert("RGB").resize(size, Image.Resampling.BOX) for picture in pictures]
    colours = torch.from_numpy(np.stack([np.asarray(picture, dtype=np.float32) for picture in small])).view(-1, 3)
    return torch.linalg.lstsq(with_one(latents), colours, driver="gelsd").solution


def preview(latents: Tensor, colours: Tensor, size: tuple[int, int]) -> Image.Image:
    """Latents [C, H, W] in colours, enlarged to `size` pixels."""
    pixels = (with_one(latents[None]) @ colours).clamp(0, 255).round().to(torch.uint8)
    return Image.fromarray(pixels.view(*latents.shape[1:], 3).numpy()).resize(size, Image.Resampling.NEAREST)


def with_one(latents: Tensor) -> Tensor:
    """[N, C, H, W] -> [N * H * W, C + 1]: the latent pixels, each with a 1 at its end."""
    pixels = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    return torch.cat([pixels, torch.ones(len(pixels), 1)], 1)
