"""Measures models of digits: share recognised by a classifier, errors of denoisers, sheets of samples.

    python benchmarks/digits.py judge DIGITS --output JUDGE.safetensors
    python benchmarks/digits.py split DIGITS --output FOLDER
    python benchmarks/digits.py recognised MODEL --judge JUDGE.safetensors [--guidance_scale 5] [--steps 50] [--each 20]
    python benchmarks/digits.py denoiser RUN ... --digits DIGITS
    python benchmarks/digits.py sheet MODEL ... --output SHEET.png [--each 4]

DIGITS: a folder that `customize train-digits` accepts; MODEL: a result of it, or the included `digits`. `judge` trains the
classifier on nine tenths of the real digits and states its accuracy on the last tenth; the models never see it. `recognised` is
the share of the samples of each digit that the classifier reads as that digit. `split` writes these nine tenths as IDX files, for
a model that shall not have seen the others either. `denoiser` compares denoisers (a run, or the folder of intermediate weights of
one of its steps) with a Gaussian blur at noise levels from 0 to 1, by mean squared errors of pixels in [0, 1], on 100 of the
digits that the judge is tested on.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from customize.data.digit_images import digit_examples
from customize.data.findings import Findings
from customize.diffusion import rng
from customize.inference import load_pipeline
from customize.inference.pipeline import Pipeline

SIDE = 28
LEVELS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)


def real_digits(folder: str) -> tuple[Tensor, Tensor]:
    """(images [N, 1, 28, 28] in [0, 1], labels [N]), in a fixed random order."""
    found = Findings()
    examples = digit_examples(folder, None, found)
    found.raise_problems()
    images = torch.stack([torch.from_numpy(np.asarray(each.open())[..., 0].copy()) for each in examples])
    order = list(rng.permutation(len(examples), 0, "judge", 0))
    return images[order, None].float() / 255, torch.tensor([int(each.captions[0]) for each in examples])[order]


def split(folder: str, output: Path) -> None:
    """Writes the digits that the judge is trained on as IDX files."""
    images, labels = real_digits(folder)
    count = len(images) * 9 // 10
    output.mkdir(parents=True)
    pixels = (images[:count] * 255).round().to(torch.uint8).numpy()
    header = np.array([0x803, count, SIDE, SIDE], ">i4").tobytes()
    (output / "train-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
    header = np.array([0x801, count], ">i4").tobytes()
    (output / "train-labels-idx1-ubyte").write_bytes(header + labels[:count].to(torch.uint8).numpy().tobytes())


def network() -> nn.Sequential:
    """The classifier: [B, 1, 28, 28] -> [B, 10]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 49, 10),
    )  # fmt: skip


def judge(path: Path) -> nn.Sequential:
    """The trained classifier."""
    classifier = network()
    classifier.load_state_dict(load_file(path))
    return classifier.eval()


def shifted(images: Tensor, most: int = 2) -> Tensor:
    """The images, all moved by up to `most` pixels."""
    down, right = torch.randint(-most, most + 1, (2,)).tolist()
    return images.roll((down, right), (2, 3))


def train_judge(folder: str, output: Path, epochs: int = 8, batch: int = 100) -> None:
    """Trains the classifier and prints its accuracy on the digits that it has not seen."""
    torch.manual_seed(0)
    images, labels = real_digits(folder)
    count = len(images) * 9 // 10
    classifier = network()
    optimizer = torch.optim.Adam(classifier.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * -(-count // batch))
    for _ in range(epochs):
        for rows in torch.randperm(count).split(batch):
            loss = F.cross_entropy(classifier(shifted(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    classifier.eval()
    with torch.no_grad():
        right = (classifier(images[count:]).argmax(1) == labels[count:]).sum().item()
    save_file(classifier.state_dict(), output)
    print(f"{right} of {len(images) - count} digits that it was not trained on: {right / (len(images) - count):.1%}")


def samples(pipeline: Pipeline, digit: int, each: int, scale: float, steps: int) -> Tensor:
    """[each, 1, 28, 28] in [0, 1], of seeds 0, 1, ..."""
    options = {"guidance_scale": scale, "num_inference_steps": steps, "output_type": "latent"}
    return pipeline.generate([str(digit)] * each, seeds=list(range(each)), **options).clamp(0, 1)


@torch.no_grad()
def recognised(model: str, judge_file: Path, each: int, scale: float, steps: int) -> None:
    """Prints the share of samples that the classifier reads as the digit of their prompt."""
    pipeline, classifier = load_pipeline(model), judge(judge_file)
    shares = []
    for digit in range(10):
        found = classifier(samples(pipeline, digit, each, scale, steps)).argmax(1)
        shares.append((found == digit).float().mean().item())
        print(f"{digit}: {shares[-1]:.0%}", flush=True)
    print(f"{model}, guidance {scale:g}, {steps} steps: {sum(shares) / 10:.1%} of {10 * each} recognised")


def blurred(noisy: Tensor, clean: Tensor) -> float:
    """The least mean squared error of a Gaussian blur, over its standard deviations from 0 to 3 pixels."""
    errors = [F.mse_loss(noisy, clean).item()]
    for deviation in torch.arange(0.2, 3.01, 0.1).tolist():
        kernel = torch.exp(-torch.arange(-9, 10).float().square() / (2 * deviation**2))
        kernel = kernel / kernel.sum()
        rows = F.conv2d(noisy, kernel.view(1, 1, 1, -1), padding=(0, 9))
        errors.append(F.mse_loss(F.conv2d(rows, kernel.view(1, 1, -1, 1), padding=(9, 0)), clean).item())
    return min(errors)


@torch.no_grad()
def denoisers(runs: list[str], folder: str) -> None:
    """Prints the errors of denoisers at each noise level, and the correlation of what they make of pure noise with the mean."""
    images, _ = real_digits(folder)
    clean, mean = images[-100:], images.mean(0)
    noise = rng.normal(clean.shape[1:], 0, "denoiser", 0, range(len(clean)))
    noises = [clean + level * noise for level in LEVELS]
    print("sigma     " + "".join(f"{level:9g}" for level in LEVELS) + "   pure noise: correlation with the mean digit")
    print("blur      " + "".join(f"{blurred(noisy, clean):9.4f}" for noisy in noises))
    for run in runs:
        family = load_pipeline(run).family
        alpha, _ = family.schedule.alpha_sigma(torch.tensor([0]))
        empty, time = family.encode_prompts([""] * len(clean)), torch.zeros(len(clean))
        outputs = [family.predict(alpha * noisy, time, empty).prediction for noisy in noises]
        of_noise = family.predict(noise, time, empty).prediction
        pairs = [torch.corrcoef(torch.stack([each.flatten(), mean.flatten()]))[0, 1] for each in of_noise]
        between = torch.corrcoef(torch.stack([of_noise.mean(0).flatten(), mean.flatten()]))[0, 1]
        errors = "".join(f"{F.mse_loss(output, clean):9.4f}" for output in outputs)
        print(f"{Path(run).name:10}{errors}   {torch.stack(pairs).mean():.3f} each, {between:.3f} their mean", flush=True)


def sheet(models: list[str], output: Path, each: int, scale: float, steps: int) -> None:
    """Writes one image with a block of samples for each model: a column for each digit."""
    blocks = []
    for model in models:
        pipeline = load_pipeline(model)
        columns = [samples(pipeline, digit, each, scale, steps)[:, 0] for digit in range(10)]
        blocks.append(F.pad(torch.cat([torch.cat(list(column), 0) for column in columns], 1), (0, 0, 0, 4), value=0.5))
    array = (255 * torch.cat(blocks)[:-4]).round().to(torch.uint8).numpy()
    Image.fromarray(array).resize((array.shape[1] * 2, array.shape[0] * 2), Image.Resampling.NEAREST).save(output)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("judge", "split", "recognised", "denoiser", "sheet"))
    parser.add_argument("what", nargs="+")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--digits")
    parser.add_argument("--guidance_scale", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--each", type=int, default=20)
    given = parser.parse_args()
    match given.command:
        case "judge":
            train_judge(given.what[0], given.output)
        case "split":
            split(given.what[0], given.output)
        case "recognised":
            recognised(given.what[0], given.judge, given.each, given.guidance_scale, given.steps)
        case "denoiser":
            denoisers(given.what, given.digits)
        case "sheet":
            sheet(given.what, given.output, given.each, given.guidance_scale, given.steps)


if __name__ == "__main__":
    main()
