"""Measures the cost of reliability: the NaN guard and checkpoints, relative to the time of the steps.

    python benchmarks/reliability_cost.py configs/demo_dreambooth_lora.toml [--steps 30] [--setting value ...]

The guard runs at each step, and a checkpoint (write, hash, flush, verify, prune) is saved at every third step of one run, so that
other load affects all equally. The reported share is that of a run with a checkpoint every 100 steps. The run is written to
--output_dir, or to the system's folder for temporary files.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from customize.cli import commands
from customize.cli import main as cli
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.training import loop
from customize.training.callbacks import Checkpoints
from customize.training.nan_guard import NanGuard

EVERY = 100  # steps between checkpoints, for the reported share
SAVES = 3  # steps between checkpoints in the measured run
TIMES: dict[str, list[float]] = defaultdict(list)


def timed(place: object, name: str) -> None:
    """Records the durations of all calls of a function."""
    function: Callable = getattr(place, name)

    @wraps(function)
    def measured(*args):
        started = time.perf_counter()
        function(*args)
        TIMES[function.__qualname__].append(time.perf_counter() - started)

    setattr(place, name, measured)


def main() -> int:
    argv = sys.argv[1:]
    steps = argv.pop(argv.index("--steps") + 1) if "--steps" in argv else "30"
    argv = [word for word in argv if word != "--steps"]
    model = TextualInversionSettings if "textual_inversion" in argv[0] else DreamBoothSettings
    for place, name in ((loop, "step"), (NanGuard, "before_step"), (NanGuard, "after_step"), (Checkpoints, "save")):
        timed(place, name)
    with tempfile.TemporaryDirectory() as folder:
        own = ["--max_train_steps", steps, "--checkpointing_steps", str(SAVES), "--checkpoints_total_limit", "2"]
        given = argv if "--output_dir" in argv else [*argv, "--output_dir", f"{folder}/run"]
        if status := cli.main(model, commands.run_training, [*given, *own, "--report_to", "none"]):
            return status
    guard = [a + b for a, b in zip(TIMES["NanGuard.before_step"], TIMES["NanGuard.after_step"], strict=True)]
    plain = [time - guard[i] for i, time in enumerate(TIMES["step"]) if i > 1 and (i + 1) % SAVES]
    step, guard_time, save = median(plain), median(guard[2:]), median(TIMES["Checkpoints.save"][1:])
    print(f"\na step takes {step:.4f} s, the guard {guard_time:.5f} s, a save {save:.4f} s (medians of {len(plain)} steps)")
    shares = 100 * guard_time / step, 100 * save / (EVERY * step)
    print(f"guard {shares[0]:.2f} %, a checkpoint every {EVERY} steps {shares[1]:.2f} %, together {sum(shares):.2f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
