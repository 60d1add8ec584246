"""How often 90 % intervals contain the true mean, and how wide they are, for the few prompts and seeds of a run's evaluation.

`python benchmarks/interval_coverage.py` prints a table: the interval of `customize.evaluation.statistics` beside Student's
interval that takes all pictures as independent, and a bootstrap over prompts and the seeds within each (percentiles of 1,000
draws).

R repetitions, P prompts, S seeds of each; the variance of seeds is 1.
"""

import argparse

import numpy as np
from scipy.special import stdtrit

from customize.evaluation.statistics import LEVEL, interval

SHAPES = ((4, 2), (4, 4), (8, 4))
TAIL = (1 - LEVEL) / 2


def normal(generator: np.random.Generator, shape: tuple[int, int, int], variance: float) -> tuple[np.ndarray, float]:
    """Numbers [R, P, S] with an effect of each prompt, and their true mean."""
    return np.sqrt(variance) * generator.normal(size=(*shape[:2], 1)) + generator.normal(size=shape), 0.0


def skewed(generator: np.random.Generator, shape: tuple[int, int, int], variance: float) -> tuple[np.ndarray, float]:
    """The same with exponential distributions."""
    effect = np.sqrt(variance) * (generator.exponential(size=(*shape[:2], 1)) - 1)
    return effect + generator.exponential(size=shape) - 1, 0.0


def yes_or_no(generator: np.random.Generator, shape: tuple[int, int, int], variance: float) -> tuple[np.ndarray, float]:
    """0 or 1, with a mean of 0.8; with a variance, prompts have means of their own (standard deviation 0.12)."""
    means = generator.beta(8, 2, size=(*shape[:2], 1)) if variance else np.full((*shape[:2], 1), 0.8)
    return (generator.random(shape) < means).astype(float), 0.8


def ours(values: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """The interval of the project, of numbers [P, S]."""
    groups = np.repeat(range(len(values)), values.shape[1]).tolist()
    return interval(values.ravel().tolist(), groups)[1:]


def independent(values: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """Student's interval of all pictures."""
    reach = stdtrit(values.size - 1, 1 - TAIL) * values.std(ddof=1) / np.sqrt(values.size)
    return values.mean() - reach, values.mean() + reach


def bootstrap(values: np.ndarray, generator: np.random.Generator, draws: int = 1000) -> tuple[float, float]:
    """Percentiles of the means of prompts drawn with replacement, and of seeds within each."""
    prompts, seeds = values.shape
    rows = generator.integers(prompts, size=(draws, prompts))
    columns = generator.integers(seeds, size=(draws, prompts, seeds))
    return tuple(np.quantile(values[rows[..., None], columns].mean((1, 2)), [TAIL, 1 - TAIL]))


METHODS = {"ours": ours, "all independent": independent, "bootstrap": bootstrap}
CASES = {"normal": (normal, (0.0, 0.5, 2.0)), "skewed": (skewed, (0.0, 0.5, 2.0)), "yes or no": (yes_or_no, (0.0, 1.0))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    repetitions = parser.parse_args().repetitions
    print("| numbers | variance of prompts | prompts x seeds |", " | ".join(METHODS), "|")
    print("|---" * (3 + len(METHODS)), end="|\n")
    for name, (make, variances) in CASES.items():
        for variance in variances:
            for prompts, seeds in SHAPES:
                generator = np.random.default_rng(0)
                values, true = make(generator, (repetitions, prompts, seeds), variance)
                cells = []
                for method in METHODS.values():
                    found = np.array([method(each, generator) for each in values])
                    inside = ((found[:, 0] <= true) & (true <= found[:, 1])).mean()
                    cells.append(f"{100 * inside:.0f} %, width {np.diff(found).mean():.2f}")
                print(f"| {name} | {variance:g} | {prompts} x {seeds} |", " | ".join(cells), "|", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
