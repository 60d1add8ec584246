"""Measures the cost of traces, attention maps, sweeps and start-up in inference, as ratios of interleaved runs.

    python benchmarks/inference_costs.py [--model FOLDER] [--steps 20] [--rounds 5]

Measured: a batch of four images with and without `--trace` (including its files) and `--attention`; a sweep of 12 images in one
call against 12 calls, in one process and in separate processes; the first image of a cold start.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from customize.inference.run import command, generate, image_folder, output
from customize.settings.inference import InferenceSettings


def seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def take_turns(rounds: int, **works: Callable[[], None]) -> dict[str, float]:
    """The median seconds of each. Every round runs all of them, so that other load affects all equally."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            spent = seconds(work)
            if number:  # the first round warms up
                times[name].append(spent)
    return {name: statistics.median(spent) for name, spent in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    common = {"pretrained_model_name_or_path": arguments.model, "num_inference_steps": arguments.steps, "guidance_scale": 4.0}
    models: dict[str, generate.PipelineCache] = {}

    def draw(**values) -> Callable[[], None]:
        """Generates and writes images with a loaded model."""
        settings = InferenceSettings(
            **{"prompt": "a red house in the snow", **common, **values, "output_dir": str(folder / "out")}
        )

        def work() -> None:
            shutil.rmtree(folder / "out", ignore_errors=True)
            job = command.check(settings)
            if "one" not in models:
                models["one"] = generate.PipelineCache()
                models["one"].load(settings)
            with image_folder.claimed(settings, len(job.grid.requests)) as place:
                output.write_images(
                    settings, job.grid, place, generate.generate_batches(settings, job, models["one"], place.image)
                )

        return work

    def process(*flags: str) -> Callable[[], None]:
        words = [sys.executable, "infer.py", "--prompt", "a red house in the snow", "--output_dir", str(folder / "cold")]
        words += [word for name, value in common.items() for word in (f"--{name}", str(value))]
        return lambda: subprocess.run([*words, "--overwrite_output_dir", *flags], check=True, capture_output=True) and None

    def one_by_one() -> None:
        for scale in (1.0, 2.5, 5.0, 7.5):
            for seed in range(3):
                draw(guidance_scale=scale, seed=seed)()

    with redirect_stdout(StringIO()):
        variants = {"plain": {}, "trace": {"trace": True}, "page": {"trace": True, "trace_page": True}}
        variants["attention"] = {"attention": True}
        batches = take_turns(arguments.rounds, **{name: draw(num_images=4, **values) for name, values in variants.items()})
        sweep = ["guidance_scale=1,2.5,5,7.5", "seed=0..2"]
        sweeps = take_turns(arguments.rounds, calls=one_by_one, sweep=draw(sweep=sweep))
        cold = take_turns(2, first=process("--num_images", "1"), swept=process("--sweep", *sweep))
    print(f"a batch of 4 images, {arguments.steps} steps: {batches['plain']:.2f} s")
    for name in ("trace", "page", "attention"):
        print(f"  with {name}: {batches[name] / batches['plain']:.3f} of that")
    print(f"12 images by a sweep: {sweeps['sweep'] / sweeps['calls']:.3f} of 12 calls in one process")
    print(f"the first image of a cold start: {cold['first']:.1f} s; 12 images of a sweep: {cold['swept']:.1f} s,")
    print(f"  which is {cold['swept'] / (12 * cold['first']):.3f} of 12 cold starts")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
