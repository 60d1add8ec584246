"""Measures a training run on many images: the time to its first step, its memory, and how often each crop is read and encoded.

    python benchmarks/many_images.py /tmp/many
    python benchmarks/many_images.py /tmp/many --number 1000 --steps 200 --code ../another_version

Makes the images in FOLDER/images (gradients as JPEG, of three shapes, each with a caption of its own), then trains twice on them,
each time in a fresh process: cold, with an empty latents cache, and again with the cache of the first. Seconds count from the
start of the process; memory is its resident set. --no_cache trains without a latents cache.
"""

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

SHAPES = ((1, 1), (1.25, 0.8), (0.8, 1.25))
"""Width and height, compared with the side of a square."""
WORDS = "red blue green small big wooden old bright dark quiet round flat soft cold warm".split()
MEASURED = (1, 50, 200, 500, 1000, 2000)
"""Steps after which time and memory are noted."""


def write_image(folder: Path, side: int, number: int) -> None:
    """An image of two gradients and a little noise, and its caption."""
    random = np.random.default_rng(number)
    across, down = SHAPES[number % len(SHAPES)]
    width, height = round(side * across) // 8 * 8, round(side * down) // 8 * 8
    corners = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = (smooth + random.integers(-6, 7, (height, width, 1))).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(folder / f"{number:06d}.jpg", quality=90)
    words = " ".join(random.choice(WORDS, 3))
    (folder / f"{number:06d}.txt").write_text(f"a photo of sks dog, {words}, number {number}")


def make_images(folder: Path, number: int, side: int) -> None:
    """The images of a folder, if they are not there already."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [each for each in range(number) if not (folder / f"{each:06d}.txt").exists()]
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(write_image, folder, side), missing, chunksize=64))


def train(arguments: argparse.Namespace) -> None:
    """One run; prints its figures as a line of JSON."""
    import psutil

    process = psutil.Process()
    import customize
    from customize import events
    from customize.data import crops
    from customize.data.samples import encoding
    from customize.families.latents import KLLatents
    from customize.methods import DreamBoothSettings
    from customize.training import setup
    from customize.training.loop import Callback, Stop

    name = "images.checked_images" if find_spec("customize.data.images.checked_images") else "examples"  # of an earlier version
    checking = importlib.import_module(f"customize.data.{name}")
    checked, read, encoded = [], Counter(), []
    points = {}
    digest_of, all_pixels, encode = checking.digest_of, crops.all_pixels, KLLatents.encode

    def counted_pixels(example, cuts, *options):
        read.update((example.name, cut) for cut in cuts)
        return all_pixels(example, cuts, *options)

    checking.digest_of = lambda image: checked.append(1) or digest_of(image)
    KLLatents.encode = lambda self, pixels: encoded.append(1) or encode(self, pixels)
    for module in (encoding, setup):
        if hasattr(module, "all_pixels"):
            module.all_pixels = counted_pixels

    class Notes(Callback):
        def after_step(self, state, metrics):
            if state.step in MEASURED:
                times = process.cpu_times()
                seconds = time.time() - process.create_time(), times.user + times.system
                points[state.step] = *seconds, process.memory_info().rss, len(encoded)
            return Stop("all is measured") if state.step == arguments.stop else None

    values = {
        "pretrained_model_name_or_path": arguments.base, "instance_data_dir": str(arguments.folder / "images"),
        "instance_prompt": "a photo of sks dog", "output_dir": str(arguments.folder / "run"), "adapter": "lora", "rank": 4,
        "max_train_steps": arguments.steps, "train_batch_size": arguments.batch_size, "resolution": arguments.resolution,
        "validation_prompt": (), "evaluation": "loss", "report_to": ("none",), "crop_variants": arguments.crop_variants,
        "latents_cache_dir": None if arguments.no_cache else str(arguments.folder / "cache"),
        "checkpointing_steps": arguments.steps,
    }  # fmt: skip
    with events.sent_to(partial(show, process.create_time())):
        customize.train(DreamBoothSettings.model_validate(values), callbacks=[Notes()])
    print(json.dumps({"points": points, "checked": len(checked), "read": [*read.values()], "encoded": len(encoded)}))


def show(began: float, event) -> None:
    """Writes what the run says, with the seconds since its start, to standard error."""
    texts = [event.text] if hasattr(event, "text") else [f"{head}: {text}" for head, text in getattr(event, "rows", ())]
    for text in texts:
        print(f"{time.time() - began:7.1f} s  {text[:300]}", file=sys.stderr)


def measure(arguments: argparse.Namespace, what: str, *more: str) -> None:
    """Trains in a fresh process, and prints what it took. more: arguments."""
    shutil.rmtree(arguments.folder / "run", ignore_errors=True)
    environment = {**os.environ, "PYTHONPATH": str(arguments.code), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, __file__, *sys.argv[1:], *more, "--train"]
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{what}:", flush=True)
    for step, (seconds, busy, memory, encoded) in found["points"].items():
        took = f"{seconds:7.1f} s ({busy:.1f} s of processor time)"
        print(f"  step {int(step):>5,}: after {took}, {memory / 2**20:6.0f} MiB, {encoded:>6,} crops encoded")
    read = found["read"]
    again = sum(times > 1 for times in read)
    print(f"  {found['checked']:,} images decoded by the check")
    print(f"  {len(read):,} crops decoded {sum(read):,} times, {again:,} of them more than once")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=10_000, help="of images")
    parser.add_argument("--side", type=int, default=512, help="of the images, in pixels")
    parser.add_argument("--base", default="demo", help="base model")
    parser.add_argument("--resolution", type=int, help="of the run")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--stop", type=int, help="end the run after this step, as if it were longer")
    parser.add_argument("--crop_variants", type=int, default=4)
    parser.add_argument("--no_cache", action="store_true")
    parser.add_argument("--code", type=Path, default=Path(__file__).parents[1], help="folder of the version to measure")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments)
        return
    make_images(arguments.folder / "images", arguments.number, arguments.side)
    shutil.rmtree(arguments.folder / "cache", ignore_errors=True)
    measure(arguments, "cold")
    measure(arguments, "again", "--stop", "50")


if __name__ == "__main__":
    main()
