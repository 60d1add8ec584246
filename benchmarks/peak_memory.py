"""Measures the peak memory (RAM) of complete training runs, including saving and verifying the result, and of infer.py with it.

    python benchmarks/random_models.py sd15 /tmp/models/sd15
    python benchmarks/peak_memory.py /tmp/models/sd15 textual_inversion lora full
    python benchmarks/random_models.py sdxl /tmp/models/sdxl
    python benchmarks/peak_memory.py /tmp/models/sdxl textual_inversion lora lora_16 --mixed_precision bf16

One process per job, without a GPU. The peak is the maximum resident set size reported by the system (`getrusage`), which counts
memory-mapped weights once per mapping. Full fine-tuning of Stable Diffusion 1.5 takes about 16 GB of memory and 20 GB of disk.
--code: the folder of another version of the program to measure.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

WORDS = ["--placeholder_token", "<new>", "--initializer_token", "toy", "--learnable_property", "object"]
SUBJECT = ["--instance_prompt", "a photo of sks dog"]
JOBS = {
    "textual_inversion": ("train_textual_inversion.py", "--train_data_dir", WORDS),
    "lora": ("train_dreambooth.py", "--instance_data_dir", [*SUBJECT, "--adapter", "lora", "--rank", "4"]),
    "lora_16": ("train_dreambooth.py", "--instance_data_dir", [*SUBJECT, "--adapter", "lora", "--rank", "16"]),
    "full": ("train_dreambooth.py", "--instance_data_dir", [*SUBJECT, "--checkpoints_total_limit", "1"]),
}


def write_images(folder: Path, resolution: int) -> None:
    """Two images of noise."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(2):
        pixels = random.integers(0, 256, (resolution, resolution, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


class Cost(NamedTuple):
    """The peak memory of a command in bytes, and its time in seconds."""

    peak: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.peak / 1e9:.2f} GB ({self.peak / 2**30:.2f} GiB) in {self.seconds:.0f} s"


def measure(job: str, arguments: argparse.Namespace, folder: Path) -> tuple[Cost, Cost]:
    """Trains, and generates an image with the result; returns the cost of both."""
    write_images(folder / "images", arguments.resolution)
    script, data_flag, own = JOBS[job]
    train = {
        "--pretrained_model_name_or_path": arguments.model, data_flag: folder / "images", "--output_dir": folder / "run",
        "--resolution": arguments.resolution, "--max_train_steps": arguments.steps, "--train_batch_size": arguments.batch_size,
        "--mixed_precision": arguments.mixed_precision, "--validation_prompt": "none", "--report_to": "none",
    }  # fmt: skip
    generate = {
        "--weights": folder / "run", "--prompt": "a photo of <new>" if own is WORDS else SUBJECT[1],
        "--height": arguments.resolution, "--width": arguments.resolution, "--num_inference_steps": 2,
        "--mixed_precision": arguments.mixed_precision, "--output_dir": folder / "drawn",
    }  # fmt: skip
    return command(arguments.code, script, own, train), command(arguments.code, "infer.py", [], generate)


def command(code: Path, script: str, own: list[str], options: dict[str, object]) -> Cost:
    """Runs a command in a child process."""
    words = [sys.executable, script, *own, *(str(word) for pair in options.items() for word in pair)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(code)}
    begin = time.perf_counter()
    process = subprocess.Popen(words, cwd=code, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(output.decode(errors="replace"))
    return Cost(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), time.perf_counter() - begin)


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a base model's folder")
    parser.add_argument("job", nargs="+", choices=JOBS)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--code", type=Path, default=Path(__file__).parents[1])
    return parser


def main() -> None:
    arguments = parser().parse_args()
    arguments.model = arguments.model.resolve()
    for job in arguments.job:
        with tempfile.TemporaryDirectory() as folder:
            training, generating = measure(job, arguments, Path(folder))
            print(f"{job}: training {training}; infer.py {generating}", flush=True)


if __name__ == "__main__":
    main()
