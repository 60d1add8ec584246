"""Measures illusions of digits: of how many images a classifier reads every digit where it should be seen.

    python infer.py --pretrained_model_name_or_path digits --illusion anagram --view identity --view rotate_180 \\
        --prompt 6 --prompt 9 --num_images 100 --output_dir images/six_and_nine
    python infer.py --pretrained_model_name_or_path digits --illusion hybrid --hybrid_blur 6 \\
        --prompt 0 --prompt 3 --num_images 100 --output_dir images/zero_and_three
    python -m benchmarks.digit_illusions images/six_and_nine images/zero_and_three --judge JUDGE.safetensors [--digits DIGITS]

The classifier, made by `benchmarks/digits.py judge`, sees each reading as `sheet.png` shows it: the image under each view, or
each of its components. Prints the share of the images, and the seeds of those of which it is surest. As a control, with the
folder of the real digits: how many of 300 real digits of the last prompt it reads, in the same way, as that of the first.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.digits import judge, real_digits
from customize.cli.main import read
from customize.inference.illusions.readings import Reading, readings
from customize.inference.run.grid import ImageRequest, grid
from customize.settings.inference import InferenceSettings

BEST, CONTROLS = 8, 300


@torch.no_grad()
def probabilities(classifier: nn.Module, shown: list[Reading]) -> Tensor:
    """[readings, 10]: of each digit, for each reading of an image."""
    greys = np.stack([np.asarray(each.image.convert("L")) for each in shown])
    return classifier(torch.from_numpy(greys)[:, None].float() / 255).softmax(1)


def mistaken(classifier: nn.Module, request: ImageRequest, images: Tensor) -> int:
    """How many images of the last prompt's digit are read as that of the first. images: [N, 1, 28, 28] in [0, 1]."""
    shown = [Image.fromarray((255 * image[0]).byte().numpy()).convert("RGB") for image in images]
    found = probabilities(classifier, [readings(request, image)[0] for image in shown])
    return int((found.argmax(1) == int(request.prompts[0])).sum())


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--judge", type=Path, required=True)
    parser.add_argument("--digits")
    given = parser.parse_args()
    classifier = judge(given.judge)
    for folder in given.folders:
        settings, _ = read(InferenceSettings, [str(folder / "config.toml")])
        sure: dict[int, float] = {}
        for number, request in enumerate(grid(settings).requests):
            found = probabilities(classifier, readings(request, Image.open(folder / f"{number:03d}.png").convert("RGB")))
            wanted = torch.tensor([int(prompt) for prompt in request.prompts])
            if (found.argmax(1) == wanted).all():
                sure[request.seed] = found.gather(1, wanted[:, None]).min().item()
        best = sorted(sure, key=sure.__getitem__, reverse=True)[:BEST]
        print(f"{folder}: {len(sure)} of {len(grid(settings).requests)}; best seeds: {', '.join(map(str, best))}")
        if given.digits:
            images, labels = real_digits(given.digits)
            real = images[labels == int(settings.prompt[-1])][:CONTROLS]
            number = mistaken(classifier, grid(settings).requests[0], real)
            print(f"control: {number} of {len(real)} real {settings.prompt[-1]} are read as {settings.prompt[0]}")


if __name__ == "__main__":
    main()
