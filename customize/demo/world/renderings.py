"""Renderings of the demo world on disk: rendered once, in parallel, and read by every stage of the training."""

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from customize.demo.world.world import RESOLUTION, Spec, World


def _one(world: World, seed: int, index: int) -> tuple[np.ndarray, dict]:
    spec = world.spec(seed, index)
    return np.asarray(world.render(spec, seed, index)), spec.to_dict()


def prepare(world: World, seed: int, count: int, folder: Path, workers: int = 1, progress: Callable = iter) -> None:
    """Writes `count` renderings to `folder`: pixels.npy (uint8 [count, 64, 64, 3]) and specs.jsonl."""
    if (folder / "specs.jsonl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    pixels, lines = np.empty((count, RESOLUTION, RESOLUTION, 3), np.uint8), []
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(partial(_one, world, seed), range(count), chunksize=64)
        for index, (image, spec) in enumerate(progress(results)):
            pixels[index] = image
            lines.append(json.dumps(spec))
    with open(folder / "pixels.npy.part", "wb") as file:
        np.save(file, pixels)
    (folder / "pixels.npy.part").replace(folder / "pixels.npy")
    (folder / "specs.jsonl.part").write_text("\n".join(lines), encoding="utf-8")
    (folder / "specs.jsonl.part").replace(folder / "specs.jsonl")


def load(folder: Path) -> tuple[np.ndarray, list[Spec]]:
    """The pixels (uint8 [N, 64, 64, 3], memory-mapped) and specs that `prepare` wrote."""
    lines = (folder / "specs.jsonl").read_text(encoding="utf-8").splitlines()
    return np.load(folder / "pixels.npy", mmap_mode="r"), [Spec.from_dict(json.loads(line)) for line in lines]
