"""What checkpoints cost: the time of a save (write, hash, flush, verify, prune) beside the time of 100 steps.

    python benchmarks/checkpoint_cost.py configs/demo_dreambooth_lora.toml [--steps 30] [--setting value ...]

Saves and steps take turns in one run, so that what else the machine does falls on both. The folder of the run is on the
disk of --output_dir, or in the system's folder for temporary files.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from customize import cli, training
from customize.config import DreamBoothSettings, TextualInversionSettings
from customize.watchers import Checkpoints

EVERY = 100  # steps between checkpoints, in the figure that is given


class Timed(Checkpoints):
    """Saves after each third step, and keeps the times of steps and saves apart."""

    steps: list[float] = []
    saves: list[float] = []
    bytes_saved = 0

    def start(self, state) -> None:
        self.every = 3
        super().start(state)
        self.clock = time.perf_counter()

    def after_step(self, state, record) -> None:
        self.steps.append(time.perf_counter() - self.clock)
        before = len(self.saves)
        super().after_step(state, record)
        if len(self.saves) > before:
            newest = max(self.folder.iterdir())
            Timed.bytes_saved = sum(file.stat().st_size for file in newest.iterdir())
        self.clock = time.perf_counter()

    def save(self, state) -> None:
        started = time.perf_counter()
        super().save(state)
        self.saves.append(time.perf_counter() - started)


def main() -> int:
    argv = sys.argv[1:]
    steps = argv.pop(argv.index("--steps") + 1) if "--steps" in argv else "30"
    argv = [word for word in argv if word != "--steps"]
    model = TextualInversionSettings if "textual_inversion" in argv[0] else DreamBoothSettings
    training.Checkpoints = Timed  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        own = ["--max_train_steps", steps, "--checkpoints_total_limit", "2"]
        given = argv if "--output_dir" in argv else [*argv, "--output_dir", f"{folder}/run"]
        status = cli.main(model, "customize.preflight:run", [*given, *own, "--report_to", "none"])
    if status:
        return status
    step, save = statistics.median(Timed.steps[2:]), statistics.median(Timed.saves[1:])
    print(
        f"\na step takes {step:.4f} s, a save of {Timed.bytes_saved:,} bytes {save:.4f} s (medians of {len(Timed.saves)} saves)"
    )
    print(f"a checkpoint every {EVERY} steps adds {100 * save / (EVERY * step):.2f} % to the time of the steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
