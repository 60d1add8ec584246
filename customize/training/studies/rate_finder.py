"""The run of a learning-rate range test (`customize find-lr`): a short training run that is discarded, whose rates rise.

Everything is checked and prepared as for the run itself; after every few steps the loss on fixed samples is measured. Only
temporary folders are written to, and they are removed.
"""

from dataclasses import replace
from pathlib import Path

from customize import device, events, units
from customize.data.examples import Examples, missing_class_images
from customize.errors import NumericsError
from customize.evaluation.probe_loss import TRAINING, Probe
from customize.evaluation.studies.range_test import Curve, Point, end_of
from customize.families import Source
from customize.methods import prepare
from customize.optim.learning_rates import LearningRates
from customize.storage.resources import for_memory, resources
from customize.training import summary
from customize.training.callbacks import Progress
from customize.training.distributed.accelerator import check_machine, start_accelerator
from customize.training.dry_run import trial_of
from customize.training.loop import Callback, LoopConfig, State, StepMetrics, Stop, train
from customize.training.nan_guard import NanGuard
from customize.training.resumable import parts_of
from customize.training.setup import RunContext, load_base, release_unused

STEPS, PER_DECADE, EVERY = 90, 16, 2
"""The most steps; those in which the rate becomes ten times as high; those from one measurement to the next."""
LOWEST = 1 / 30
"""The first rates, relative to the settings'."""
SAMPLES = 8
"""Fixed samples on which the loss is measured, at noise levels spread over the schedule."""


class RisingRates(LearningRates):
    """Rates that rise exponentially, all by the same factor, whatever schedule the settings name."""

    def set(self, step: int, share: float = 1.0) -> float:
        """Sets the rates for `step`; returns the first group's."""
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * share * factor(step)
        return self.optimizer.param_groups[0]["lr"]


def factor(step: int) -> float:
    """The factor of the settings' rates at a step."""
    return LOWEST * 10 ** (step / PER_DECADE)


class Measuring(Callback):
    """Measures the loss on fixed samples after every few steps, and ends the run once higher rates would say nothing more."""

    def __init__(self, probe: Probe):
        self.probe = probe
        self.curve = Curve(probe.base[TRAINING][1].mean().item())

    def after_step(self, state: State, metrics: StepMetrics) -> Stop | None:
        if state.step % EVERY:
            return None
        _, losses = self.probe.predicted(self.probe.sets[TRAINING])
        if not losses.isfinite().all():
            self.curve = replace(self.curve, ended="diverged")
            return Stop("the loss is not finite")
        points = (*self.curve.points, Point(factor(state.step - 1), losses.mean().item()))
        self.curve = replace(self.curve, points=points)
        self.curve = replace(self.curve, ended=end_of(self.curve))
        return Stop("enough is known") if self.curve.ended else None


def measure(settings, folder: Path, source: Source, examples: Examples) -> Curve:
    """Runs the test; the arguments have passed `preflight.check`. NaN and infinity end it, and so does Ctrl-C.

    folder: for the curve; nothing is written there yet.
    """
    check_machine(settings)
    accelerator = start_accelerator(settings, folder)
    events.summarize("started", summary.before_loading(settings, folder, source, examples, device.describe(accelerator.device)))
    if missing := missing_class_images(settings, examples):
        events.note(f"{units.count(missing, 'class image')} missing: one is generated for the test, and discarded")
    context = RunContext(settings, accelerator, load_base(settings, source), examples, 0)
    with resources(for_memory(settings), "make room"), trial_of(settings, context, STEPS) as trial:
        context = replace(context, settings=trial)
        training = prepare(trial, context)
        method = training.method
        release_unused(context, method)
        rates = RisingRates(trial, method.build_optimizer(trial), STEPS, context.learning_rate_scale)
        draws = {TRAINING: training.dataset.probe(SAMPLES)}
        measuring = Measuring(Probe(method, draws, accelerator.device, settings.train_batch_size, accelerator.autocast))
        callbacks = [NanGuard(), Progress(), measuring]
        config = LoopConfig.of(trial, STEPS)
        parts = parts_of(method, rates.optimizer, accelerator.scaler)
        try:
            train(config, method, training.dataset, callbacks, accelerator, rates, parts)
        except NumericsError:
            return replace(measuring.curve, ended="diverged")
        except KeyboardInterrupt:
            return replace(measuring.curve, ended="interrupted")
    return measuring.curve
