"""A training run from beginning to end: load, evaluate frozen networks once, train, save, verify the result."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from customize import device, events
from customize.data import bucket_report
from customize.data.examples import Examples
from customize.evaluation import report, verify_result
from customize.evaluation.probe_loss import Probe
from customize.evaluation.record import Evaluation
from customize.families import Source
from customize.families.base import Family
from customize.methods import prepare
from customize.methods.method import DenoisingMethod, Method
from customize.settings.files import sharing
from customize.storage import checkpoint, manifest, run_folder
from customize.storage.atomic import new_entries, new_folder
from customize.storage.checkpoint import Checkpoint, size
from customize.storage.resources import for_memory, optional_file, resources
from customize.storage.tensor_files import PRECISIONS
from customize.training import expected_time, model_card, output_folder, summary
from customize.training.callbacks import (
    Checkpoints,
    EveryNSteps,
    JsonlLogger,
    Progress,
    Signals,
    Trackers,
    tracker_options,
)
from customize.training.distributed.accelerator import check_machine, start_accelerator
from customize.training.evaluating.callback import Evaluating
from customize.training.evaluating.probe_sets import planned, sets_of
from customize.training.evaluating.resumed import is_measured, result_step
from customize.training.loop import Callback, LoopConfig, State, Stop, train
from customize.training.nan_guard import NanGuard
from customize.training.resumable import parts_of
from customize.training.resume import done, find_checkpoint, fitting, identity, planned_steps, refuse_other_class_images
from customize.training.setup import RunContext, load_base, release_unused
from customize.training.validation import ValidationImages

SMALL = 256 << 20
"""Bytes of trained weights up to which they are saved whenever sample images are generated."""
MetadataOfStep = Callable[[int], dict[str, str]]
"""The metadata of the weights of a step."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of the loop: the method with its last weights, the sample images, the step reached, and the stop if the loop
    ended early or with other weights. began: its start, by `time.perf_counter`; evaluation: what was measured."""

    method: DenoisingMethod
    samples: ValidationImages
    step: int
    stop: Stop | None
    began: float
    evaluation: Evaluation | None = None

    @property
    def result_step(self) -> int:
        """The step of the weights that are the result."""
        return self.step if self.stop is None or self.stop.step is None else self.stop.step


def run(settings, folder: Path, source: Source, examples: Examples, callbacks: Sequence[Callback] = ()) -> Path:
    """Trains, and saves the result in `folder`. The arguments have passed `preflight.check`.

    callbacks: called after those of every run; an exception of one ends the run with a checkpoint, a `Stop` with a result.
    Returns the folder of the first process, which all processes share.
    """
    check_machine(settings)
    accelerator = start_accelerator(settings, folder)
    folder = agreed(settings, folder, accelerator)
    events.summarize("started", summary.before_loading(settings, folder, source, examples, device.describe(accelerator.device)))
    run_identity = identity(settings, source, examples, accelerator.num_processes)
    steps = planned_steps(settings, source, examples, accelerator.num_processes)
    resume = find_checkpoint(settings, folder, run_identity, events.info, steps)
    family = load_base(settings, source)
    context = RunContext(settings, accelerator, family, examples, *done(resume))
    ended = result_step(settings, folder, resume.step, context.max_train_steps) if resume else None
    if ended is not None and run_folder.is_finished(folder, ended, **settings.formats):
        events.info(f"{folder} is finished: nothing to do")
        events.summarize("finished", summary.next_rows(settings, folder, family.takes_mask))
        if settings.push_to_hub and accelerator.is_main_process:
            model_card.upload(settings, folder)
        accelerator.state.destroy_process_group()
        return folder
    for note in (*examples.notes, *bucket_report.notes(settings, examples.instances, context.resolution)):
        events.note(note)
    with resources(for_memory(settings), "make room, then resume with --resume_from_checkpoint latest"), ExitStack() as claim:
        outcome = fit(context, folder, resume, run_identity, callbacks, claim)
        accelerator.free_memory()  # the optimizer, gradients and cached latents are no longer needed
        if accelerator.is_main_process:
            files = finish(settings, folder, family, outcome)
            outcome.samples.write_before_after(folder / run_folder.BEFORE_AFTER, examples.instances, outcome.result_step)
            if outcome.evaluation:
                report.write(folder)
            facts = len(examples.instances), outcome.step, time.perf_counter() - outcome.began, family.takes_mask
            events.summarize("finished", summary.finished(settings, folder, files, source, *facts, outcome.evaluation))
    accelerator.wait_for_everyone()
    accelerator.state.destroy_process_group()
    return folder


def fit(
    context: RunContext, folder: Path, resume: Checkpoint | None, run_identity: dict[str, Any],
    further: Sequence[Callback], claim: ExitStack,
) -> Outcome:  # fmt: skip
    """Prepares the method and runs the loop. The folder is claimed once everything is prepared; `claim` releases it."""
    settings, accelerator, family = context.settings, context.accelerator, context.family
    setup = prepare(settings, context)
    method, dataset = setup.method, setup.dataset
    plan = planned(context, setup)
    evaluates = context.evaluation == "pictures" or (context.evaluation == "loss" and bool(plan.steps))
    has_steps = context.first_step < context.max_train_steps  # else a killed run lacks only its result, or its last measurement
    measures = has_steps or (evaluates and not is_measured(folder, context.first_step))
    sets = sets_of(context, setup, plan.draws) if measures and accelerator.is_main_process else {}
    release_unused(context, method)
    learning_rates = setup.learning_rates(settings, context.max_train_steps, context.learning_rate_scale)
    own = (callback.parts(method) for callback in further)
    parts = parts_of(method, learning_rates.optimizer, accelerator.scaler, *own)
    resume = resume and fitting(resume, parts)
    refuse_other_class_images(settings, resume, run_identity, setup.class_examples)
    samples = ValidationImages(context, setup.condition, folder / run_folder.SAMPLES)
    metadata_of = partial(model_card.metadata, settings, method, family)
    expected = expected_time.of_a_run(context, expected_time.of_a_step(context, setup))
    events.summarize("prepared", summary.prepared(context, setup, expected))
    began = time.perf_counter()
    probe = Probe(method, sets, accelerator.device, settings.train_batch_size, accelerator.autocast) if sets else None
    # nothing is written before this
    config_file = claim.enter_context(claimed(settings, folder, accelerator, resume, run_identity))
    evaluating = Evaluating(context, setup, folder, probe, plan, save_weights(folder / run_folder.WEIGHTS, method, metadata_of))
    if evaluates:
        evaluating.begin()
    more = ([evaluating] if evaluates else []) + [*further]
    callbacks = callbacks_of(settings, config_file, context, method, samples, metadata_of, more)
    config = LoopConfig.of(settings, context.max_train_steps)
    state = train(config, method, dataset, callbacks, accelerator, learning_rates, parts, resume, run_identity)
    if state.stop and state.step < state.max_train_steps:
        events.info(f"stopped after step {state.step:,} of {state.max_train_steps:,}: {state.stop.reason}")
    outcome = Outcome(method, samples, state.step, state.stop, began, evaluating.record if evaluates else None)
    chosen = state.stop.weights if state.stop else None
    claim.enter_context(state.whole_weights())
    if accelerator.is_main_process:
        with method.holding(chosen):
            if chosen is not None and samples.prompts:
                samples.draw_step(state, outcome.result_step)
            if probe:
                events.info(str(probe.at(outcome.result_step).change))
    return outcome


def agreed(settings, folder: Path, accelerator: Accelerator) -> Path:
    """The folder of the first process, for all processes: where it is numbered, only the first one has created it."""
    if accelerator.num_processes > 1:
        folder = Path(broadcast_object_list([str(folder)])[0])
        accelerator.project_configuration.set_directories(str(folder))
        accelerator.project_configuration.logging_dir = str(folder / settings.logging_dir)
    return folder


@contextmanager
def claimed(
    settings, folder: Path, accelerator: Accelerator, resume: Checkpoint | None, run_identity: dict[str, Any]
) -> Iterator[Path]:
    """Claims the folder for this run: removes an earlier run if the settings say so, then writes config.toml.

    Yields the file with the settings.
    """
    config = folder / run_folder.CONFIG
    with run_folder.claimed(folder) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            if settings.overwrite_output_dir and not settings.resume_from_checkpoint:
                run_folder.clear(folder)
            config = output_folder.write_config(settings, folder)
        accelerator.wait_for_everyone()
        values = sharing.shared_settings(settings).items()
        plain = {name: value if isinstance(value, int | float | str) else str(value) for name, value in values}
        started = False
        with optional_file("the trackers could not be started", Exception):
            accelerator.init_trackers("customize", config=plain, init_kwargs=tracker_options(resume, run_identity))
            started = True
        if not started:
            accelerator.trackers = []
        with reported(folder, accelerator) if accelerator.is_main_process else nullcontext():
            yield config


@contextmanager
def reported(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Reports that the run begins to write into its folder, and how it ended."""
    events.emit(events.RunBegun(folder, device.describe(accelerator.device).name))
    try:
        yield
    except BaseException as error:
        events.emit(events.RunEnded(error))
        raise
    events.emit(events.RunEnded())


def callbacks_of(
    settings, config: Path, context: RunContext, method: Method, samples: ValidationImages, metadata_of: MetadataOfStep,
    further: Sequence[Callback],
) -> list[Callback]:  # fmt: skip
    """The callbacks of a run, in call order. config: the file in the run's folder with the settings."""
    folder = config.parent
    checkpoints = Checkpoints(
        folder / run_folder.CHECKPOINTS, settings.checkpointing_steps, settings.checkpoints_total_limit,
        lambda step: {**method.description(), **metadata_of(step)},
    )  # fmt: skip
    tracked = Trackers()
    found: list[Callback] = [NanGuard(settings.on_nan), tracked]
    if context.accelerator.is_main_process:
        log = JsonlLogger(folder / run_folder.LOG)
        found += [Progress(found), log]
        for callback in further:
            callback.log = to_each(log.write, tracked.write)
    found += further
    if samples.prompts:
        found.append(EveryNSteps(context.validation_steps, samples, at_start=True))
    if every := weights_every(settings, context, method):
        found.append(EveryNSteps(every, save_weights(folder / run_folder.WEIGHTS, method, metadata_of)))
    found += [checkpoints, Signals(summary.resume_command(settings, config))]
    return found


def to_each(*writers: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Writes a line of log.jsonl with each of these."""

    def write(entry: dict[str, Any]) -> None:
        for writer in writers:
            writer(entry)

    return write


def weights_every(settings, context: RunContext, method: Method) -> int | None:
    """Steps between intermediate weights: with the sample images, where `save_steps` is 0 and the file is small."""
    if settings.save_steps != 0:
        return settings.save_steps
    return context.validation_steps if context.sample_prompts and size(method.trainable_state_dict()) <= SMALL else None


def save_weights(folder: Path, method: Method, metadata_of: MetadataOfStep) -> Callable[[State], None]:
    """Returns an action that saves the present weights like a result, in a subfolder per step."""

    def save(state: State) -> None:
        what = f"the weights of step {state.step} could not be saved"
        with state.whole_weights():
            if state.accelerator.is_main_process:
                with optional_file(what), new_folder(folder / checkpoint.name(state.step)) as unfinished:
                    method.save(unfinished, metadata_of(state.step))
                    manifest.write(unfinished)

    return save


def finish(settings, folder: Path, family: Family, outcome: Outcome) -> list[Path]:
    """Saves the result, verifies it by loading it like a user, and only then moves it, with its model card, into the folder."""
    events.emit(events.Phase("saving the result"))
    method, chosen = outcome.method.eval(), outcome.stop.weights if outcome.stop else None
    metadata = model_card.metadata(settings, method, family, outcome.result_step)
    with (
        method.holding(chosen),
        new_entries(folder, size(method.trainable_state_dict()), unlisted=(run_folder.CARD,)) as unfinished,
    ):
        files = method.save(unfinished, metadata)
        saved, learned = PRECISIONS[settings.save_precision], method.tensors_in_result()
        difference = verify_result.check(unfinished, family, method.example_prompt, saved, learned, method.condition)
        report = method.report()
        images, facts = outcome.samples.of_step(outcome.result_step), json.loads(metadata["customize"])
        card = model_card.card(folder, facts, files, report, family.spec.name, images, outcome.evaluation)
        (unfinished / run_folder.CARD).write_text(card, encoding="utf-8", newline="\n")
        (unfinished / run_folder.METADATA).write_text(metadata["customize"], encoding="utf-8", newline="\n")
    if report:
        events.info(report)
    events.summarize("saved", summary.saved(folder, files, difference))
    if settings.push_to_hub:
        model_card.upload(settings, folder)
    return files
