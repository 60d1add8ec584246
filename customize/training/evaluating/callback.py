"""Measures a run while it goes on: the base model, and the weights of candidate steps; the best of them becomes the result.

Everything measured is in `evaluation/evaluation.json` of the run's folder. Measuring changes no bit of the training, and a run
that was killed in the middle of it measures the same again.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from customize import events
from customize.errors import InputError, Interrupted, NumericsError
from customize.evaluation import record, report
from customize.evaluation.choice import choose, done
from customize.evaluation.picture_probe import BASE_FOLDER, PICTURES, PictureProbe
from customize.evaluation.probe_loss import CLASS, Plan, Probe
from customize.evaluation.record import Candidate, Verdict
from customize.evaluation.verdict import verdict_of
from customize.evaluation.verdict_words import sentence
from customize.methods.method import TrainingSetup
from customize.storage import out_of_memory
from customize.storage.atomic import write_text
from customize.storage.resources import optional_file
from customize.training.evaluating import pictures
from customize.training.evaluating.kept_weights import KeptWeights
from customize.training.evaluating.probe_sets import has_class_images, of_pictures
from customize.training.evaluating.resumed import continued, has_ended
from customize.training.loop import Callback, State, StepMetrics, Stop
from customize.training.setup import RunContext


class Evaluating(Callback):
    """Measures the weights of the steps of `plan` by the probe's losses, and those of candidate steps by pictures too.

    probe: None if no step is left; save_weights: saves the present weights like a result; log: writes a line of log.jsonl.
    Only the main process measures; the others wait.
    """

    def __init__(
        self, context: RunContext, setup: TrainingSetup, folder: Path, probe: Probe | None, plan: Plan,
        save_weights: Callable[[State], None],
    ):  # fmt: skip
        self.context, self.setup, self.folder, self.probe, self.plan = context, setup, folder, probe, plan
        self.save_weights = save_weights
        self.kept = KeptWeights(folder, setup.method)
        self.record = pictures.new_record(context)
        self.pictures: PictureProbe | None = None
        self.failed, self.seconds, self.concluded = "", 0.0, False
        self.is_base = True

    def base(self) -> AbstractContextManager[Any]:
        """A context in which the denoiser is the base model's, which it is before the first step, unless a run starts from other
        weights."""
        starts_as_base = self.is_base and not self.context.settings.init_weights
        return nullcontext() if starts_as_base else self.setup.method.as_base()

    def begin(self) -> None:
        """Measures the base model: called while the networks are those of the base, also in a run that will be resumed."""
        if self.context.accelerator.is_main_process:
            events.emit(events.Phase("measuring the base model"))
            first, new = self.context.first_step, self.record
            self.record = continued(self.folder, new, first) or new
            kept_from = first if self.record is not new else 0
            self.kept.drop([step for step in self.kept.steps if step > kept_from])
            if self.probe and self.context.evaluation == "pictures":
                with self.measuring("pictures cannot be measured"):
                    self.start_pictures(self.probe)
            self.write()
        self.context.accelerator.wait_for_everyone()
        self.is_base = False

    def start_pictures(self, probe: Probe) -> None:
        """Draws and measures the base model's pictures; those of the class become draws of the probe."""
        self.pictures = pictures.probe_of(self.context, self.setup, self.record, self.folder, self.base)
        base = self.pictures.start()
        number = self.plan.draws.get(CLASS, 0)
        if number and not has_class_images(self.setup):
            prompts = [self.record.prompts[pair.prompt] for pair in self.record.pairs]
            of_class = [
                (self.folder / record.FOLDER / PICTURES / BASE_FOLDER / f"{place:03d}.png", prompts[place].plain)
                for place in self.record.in_turn()
                if prompts[place].kind != "other"
            ]
            probe.add(CLASS, of_pictures(self.context, of_class[:number]))
        self.record = self.pictures.evaluation.with_candidate(base)

    def start(self, state: State) -> Stop | None:
        """A run that was killed when only its result was missing ends as it would have. One that ended by an error while it was
        measured is measured now."""
        if not state.step:
            return None
        with state.whole_weights():
            return self.resumed(state) if state.accelerator.is_main_process else None

    def resumed(self, state: State) -> Stop | None:
        """As `start`, of a run that is resumed."""
        ended = has_ended(self.context.settings, self.record, state.step, state.max_train_steps)
        is_missing = self.probe and self.is_due(state.step) and self.record.candidate(state.step) is None
        if ended and not is_missing:
            return self.conclude(state, self.record.stopped)
        self.record = replace(self.record, chosen=None, stopped="", verdict=None)  # of an earlier end, from which it goes on
        return self.measure(state) if is_missing else None

    def is_due(self, step: int) -> bool:
        """Whether the weights of a step are measured."""
        return step in self.plan.steps or step in self.context.candidates

    def after_step(self, state: State, metrics: StepMetrics) -> Stop | None:
        if not self.is_due(state.step) and state.step < state.max_train_steps:
            return None
        with state.whole_weights():
            stop = self.measure(state) if state.accelerator.is_main_process else None
        state.accelerator.wait_for_everyone()
        return stop

    def measure(self, state: State) -> Stop | None:
        """Measures the present weights; ends the run after its last step, or where nothing more is to be gained."""
        events.emit(events.Phase("measuring what it learned"))
        step = state.step
        found = Candidate(step)
        if self.probe and step in self.plan.steps:
            found = replace(found, losses=self.probe.at(step).losses)
            self.log({"step": step, "probe": found.losses})
        if step in self.context.candidates and self.pictures:
            with optional_file(f"the weights of step {step} cannot be kept"):
                self.kept.keep(step)
            if self.kept.most > 1:
                self.save_weights(state)
            with self.measuring(f"pictures of step {step} could not be drawn"):
                found = replace(found, values=self.pictures.measure(step).values)
        self.record = self.record.with_candidate(found)
        if found.values:
            self.log({"step": step, "evaluation": {name: float(np.mean(each)) for name, each in found.values.items()}})
            self.forget_worse(step)
        reason = done(self.record) if self.context.settings.stop == "auto" and not self.failed else None
        if reason or step == state.max_train_steps:
            return self.conclude(state, reason or "")
        self.write()
        return None

    def conclude(self, state: State, reason: str) -> Stop | None:
        """Chooses the weights that are the result, and says what came of the run."""
        step, self.concluded = state.step, True
        chosen = self.best(step) if self.context.settings.keep == "best" and not self.failed else step
        weights = self.kept.load(chosen) if chosen != step else None
        with self.setup.method.holding(weights):
            words = self.setup.method.report()
        self.record = replace(self.record, chosen=chosen, stopped=reason, words=words)
        why = f"pictures are missing: {self.failed}"
        verdict = Verdict("cannot tell", reasons=(why,)) if self.failed else verdict_of(self.record)
        self.record = replace(self.record, verdict=verdict)
        self.log({"step": step, "verdict": sentence(self.record)})
        self.kept.drop(self.kept.steps - {chosen})
        self.write()
        if weights is None:
            return Stop(reason) if reason else None
        return Stop(reason or f"the weights of step {chosen} are the best", weights, chosen)

    def best(self, step: int) -> int:
        """The best of the candidates whose weights are at hand: those that were kept, and the present ones, of `step`."""
        at_hand = self.kept.steps | {step}
        found = tuple(each for each in self.record.candidates if each.step in at_hand)
        return choose(replace(self.record, candidates=found)) or step

    def forget_worse(self, step: int) -> None:
        """Where weights are large, removes all that were kept but the best so far."""
        if len(self.kept.steps) > self.kept.most:
            self.kept.drop(self.kept.steps - {self.best(step)})

    @contextmanager
    def measuring(self, what: str) -> Iterator[None]:
        """A context in which pictures are drawn and measured. The run goes on without them where memory does not suffice, or
        where the networks give NaN."""
        method, latents, begin = self.setup.method, self.context.family.latents, time.perf_counter()
        was_training = method.training
        method.eval()
        latents.to(self.context.device)
        try:
            yield
        except Interrupted:
            raise
        except (OSError, RuntimeError, MemoryError, NumericsError, InputError) as error:
            if not isinstance(error, NumericsError | InputError) and not out_of_memory.caused(error):
                raise
            cause = "out of memory" if out_of_memory.caused(error) else str(error).partition("\n")[0][:200]
            events.note(f"{what}; the run goes on without an evaluation ({cause})")
            self.failed, self.pictures = cause, None
            torch.cuda.empty_cache()  # no effect without a GPU
        finally:
            latents.to("cpu")
            method.train(was_training)
        self.seconds = time.perf_counter() - begin
        self.record = replace(self.record, seconds=round(self.record.seconds + self.seconds, 1))

    def write(self) -> None:
        """Writes the record and the report."""
        with optional_file("the evaluation could not be saved"):
            write_text(self.folder / record.FOLDER / record.NAME, self.record.to_json())
        report.write(self.folder)

    def time_left(self, state: State) -> float:
        return self.seconds * len([step for step in self.context.candidates if step >= state.step])

    def finish(self, state: State) -> None:
        """A run that another callback ended has a verdict only if the weights of its end were measured."""
        if state.stop and not self.concluded and state.accelerator.is_main_process:
            step = state.step if state.stop.step is None else state.stop.step
            measured = self.record.candidate(step) and not self.failed
            verdict = Verdict("cannot tell", reasons=(f"the weights of step {step:,} were not measured",))
            self.record = replace(self.record, chosen=step, stopped=state.stop.reason)
            self.record = replace(self.record, verdict=verdict_of(self.record) if measured else verdict)
            self.log({"step": state.step, "verdict": sentence(self.record)})
            self.write()
