"""A training run from beginning to end: check, load, ask the frozen parts once, train, save, read back."""

import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, broadcast_object_list

from customize import checkpoint, course, events, expected_time, machine, manifest, readback, run_folder, sharing, summary
from customize.checkpoint import Checkpoint, size
from customize.data import Examples, small_pictures_note
from customize.errors import InputError
from customize.families import Source, load
from customize.families.stable_diffusion import StableDiffusion
from customize.files import new_entries, new_folder
from customize.guard import NanGuard
from customize.learned_change import Probe
from customize.preparation import RunContext, TrainingSetup, prepare
from customize.resources import for_memory, only_looked_at, resources
from customize.resume import find_checkpoint, fitting, identity, refuse_other_class_images
from customize.samples import ValidationImages
from customize.tensor_files import PRECISIONS
from customize.trainer import Callback, State, train
from customize.watchers import Checkpoints, EveryNSteps, JsonlLogger, Progress, Signals, Trackers

SMALL = 256 << 20
"""Bytes of what learns up to which its weights are kept beside the sample images."""
About = Callable[[int], dict[str, str]]
"""What a file of the weights of a step says of itself."""


def run(settings, folder: Path, source: Source, examples: Examples) -> None:
    """Trains what the settings say and leaves the result in `folder`; what it is given has passed `preflight.check`."""
    check_machine(settings)
    accelerator = start_accelerator(settings, folder)
    folder = agreed(settings, folder, accelerator)
    events.summarize("started", summary.before_loading(settings, folder, source, examples, machine.describe(accelerator.device)))
    same = identity(settings, source, examples, accelerator.num_processes)
    steps = course.max_train_steps(settings, len(examples.instances), accelerator.num_processes)
    resume = find_checkpoint(settings, folder, same, events.info, steps)
    family = load(source)
    done = (resume.step, len(resume.state.get("left_out", ()))) if resume else (0, 0)
    context = RunContext(settings, accelerator, family, examples, *done)
    if resume and resume.step >= context.max_train_steps and run_folder.is_finished(folder, resume.step, settings.save_precision):
        events.info(f"{folder} is finished: nothing to do")
        events.summarize("finished", summary.next_rows(settings, folder))
        if settings.push_to_hub and accelerator.is_main_process:
            upload(settings, folder)
        accelerator.state.destroy_process_group()
        return
    for note in filter(None, (*examples.notes, small_pictures_note(examples.instances, context.resolution))):
        events.note(note)
    with resources(for_memory(settings), "make room, then go on with --resume_from_checkpoint latest"):
        training = prepare(settings, context)
        resume = resume and fitting(resume, training.method, settings, accelerator.scaler)
        refuse_other_class_images(resume, same, training.of_class)
        samples = ValidationImages(settings, context.sample_prompts, family, training.condition, folder / run_folder.SAMPLES)
        about = partial(run_folder.metadata, settings, training.method, family)
        expected = expected_time.of_a_run(context, expected_time.of_a_step(context, training))
        events.summarize("prepared", summary.prepared(context, training, expected))
        begin, size = time.perf_counter(), settings.train_batch_size
        has_steps = context.first_step < context.max_train_steps  # else a kill left only the result to be made, of no image drawn
        probe = has_steps and Probe(training.method, training.dataset, accelerator.device, size, accelerator.autocast)
        with claimed(settings, folder, accelerator, resume, same) as config:  # up to here nothing is written
            train(
                settings, training.method, training.dataset, callbacks(settings, config, context, training, samples, about),
                accelerator, context.max_train_steps, context.learning_rate_scale, resume, same,
            )  # fmt: skip
            if accelerator.is_main_process:
                if probe:
                    events.info(probe.change())
                files = finish(settings, folder, family, training, about(context.max_train_steps))
                samples.write_before_after(folder / run_folder.BEFORE_AFTER, examples.instances)
                seconds = time.perf_counter() - begin
                number, steps = len(examples.instances), context.max_train_steps
                events.summarize("finished", summary.finished(settings, folder, files, source, number, steps, seconds))
    accelerator.wait_for_everyone()
    accelerator.state.destroy_process_group()


def check_machine(settings) -> None:
    """Raises InputError where fp16 is asked for and torch has no GPU for it; the rest was looked at by `preflight.check`."""
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if problems := machine.fp16_problem(settings.mixed_precision, "cuda" if has_gpu else "cpu"):
        raise InputError(problems)


def start_accelerator(settings, folder: Path) -> Accelerator:
    """Device, precision, processes and trackers."""
    torch.backends.cuda.matmul.allow_tf32 = settings.allow_tf32
    return Accelerator(
        mixed_precision=settings.mixed_precision,
        log_with=trackers(settings) or None,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        project_config=ProjectConfiguration(str(folder), logging_dir=str(folder / settings.logging_dir)),
    )


def agreed(settings, folder: Path, accelerator: Accelerator) -> Path:
    """The folder of the first process, for all of them: where it is numbered, only that one has made it."""
    if accelerator.num_processes > 1:
        folder = Path(broadcast_object_list([str(folder)])[0])
        accelerator.project_configuration.set_directories(str(folder))
        accelerator.project_configuration.logging_dir = str(folder / settings.logging_dir)
    return folder


def trackers(settings) -> list[str]:
    """The trackers to report to; "all" is those that are installed."""
    if "all" in settings.report_to:
        return [name for name in ("tensorboard", "wandb") if importlib.util.find_spec(name)]
    return [name for name in settings.report_to if name != "none"]


@contextmanager
def claimed(settings, folder: Path, accelerator: Accelerator, resume: Checkpoint | None, same: dict[str, Any]) -> Iterator[Path]:
    """Makes the folder this run's: an earlier run's files go when the settings say so, config.toml comes first.

    Yields the file that holds the settings.
    """
    config = folder / run_folder.CONFIG
    with run_folder.claimed(folder) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            if settings.overwrite_output_dir and not settings.resume_from_checkpoint:
                run_folder.clear(folder)
            config = run_folder.write_config(settings, folder)
        accelerator.wait_for_everyone()
        values = sharing.shared_settings(settings, names=True).items()
        plain = {name: value if isinstance(value, int | float | str) else str(value) for name, value in values}
        started = False
        with only_looked_at("no trackers", Exception):
            accelerator.init_trackers("customize", config=plain, init_kwargs=tracker_options(resume, same))
            started = True
        if not started:
            accelerator.trackers = []
        yield config


def tracker_options(resume: Checkpoint | None, same: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """How trackers go on: TensorBoard drops what an earlier part of the run logged after this step, Weights & Biases goes on
    with the run of the same number."""
    purge_step = resume.step + 1 if resume else 0
    return {"tensorboard": {"purge_step": purge_step}, "wandb": {"id": same["run"], "resume": "allow"}}


def callbacks(
    settings, config: Path, context: RunContext, training: TrainingSetup, samples: ValidationImages, about: About
) -> list[Callback]:
    """Those who look on, in the order in which they are asked. config: the file in the run's folder that holds the settings."""
    folder = config.parent
    checkpoints = Checkpoints(
        folder / run_folder.CHECKPOINTS, settings.checkpointing_steps, settings.checkpoints_total_limit,
        lambda step: {**training.method.description(), **about(step)},
    )  # fmt: skip
    found: list[Callback] = [NanGuard(settings.on_nan), Trackers()]
    if context.accelerator.is_main_process:
        found += [Progress(found), JsonlLogger(folder / run_folder.LOG)]
    if samples.prompts:
        found.append(EveryNSteps(context.validation_steps, samples, at_start=True))
    if every := weights_every(settings, context, training):
        found.append(EveryNSteps(every, save_weights(folder / run_folder.WEIGHTS, training, about)))
    found += [checkpoints, Signals(summary.resume_command(settings, config))]
    return found


def weights_every(settings, context: RunContext, training: TrainingSetup) -> int | None:
    """Steps between intermediate weights: with the sample images, where `save_steps` is 0 and the file is small."""
    if settings.save_steps != 0:
        return settings.save_steps
    return context.validation_steps if context.sample_prompts and size(training.method.learned()) <= SMALL else None


def save_weights(folder: Path, training: TrainingSetup, about: About) -> Callable[[State], None]:
    """Saves the result so far into a folder of its own, to choose from."""

    def save(state: State) -> None:
        what = f"no weights of step {state.step}"
        if state.accelerator.is_main_process:
            with only_looked_at(what), new_folder(folder / checkpoint.name(state.step)) as unfinished:
                training.method.save(unfinished, about(state.step))
                manifest.write(unfinished)

    return save


def finish(settings, folder: Path, family: StableDiffusion, training: TrainingSetup, metadata: dict[str, str]) -> list[Path]:
    """Saves the result, reads it back through the public loader, and only then puts it, with its card, in its place."""
    training.method.eval()
    with new_entries(folder, size(training.method.learned()), unlisted=(run_folder.CARD,)) as unfinished:
        files = training.method.save(unfinished, metadata)
        saved = PRECISIONS[settings.save_precision]
        difference = readback.check(unfinished, family, training.method.example_prompt, saved, settings.variant)
        report = training.method.report()
        card = run_folder.card(folder, json.loads(metadata["customize"]), files, report)
        (unfinished / run_folder.CARD).write_text(card, encoding="utf-8", newline="\n")
        (unfinished / run_folder.ABOUT).write_text(metadata["customize"], encoding="utf-8", newline="\n")
    if report:
        events.info(report)
    events.summarize("saved", summary.saved(folder, files, difference))
    if settings.push_to_hub:
        upload(settings, folder)
    return files


def upload(settings, folder: Path) -> None:
    """Puts the run's result on the hub, without checkpoints and logs."""
    from huggingface_hub import HfApi

    api = HfApi(token=settings.hub_token)
    repository = api.create_repo(settings.hub_model_id or folder.resolve().name, exist_ok=True).repo_id
    ignore = [f"{run_folder.CHECKPOINTS}/*", f"{settings.logging_dir}/*", ".*"]
    api.upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=[*ignore, "*.toml", run_folder.LOG])
    config = sharing.shared_config(settings).encode()
    api.upload_file(repo_id=repository, path_or_fileobj=config, path_in_repo=run_folder.CONFIG)
    events.info(f"uploaded to {repository}")
