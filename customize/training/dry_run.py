"""`--dry_run`: reports what a training run would do, and the time, memory and disk space it would need.

Everything is checked and prepared as for the run itself, and two optimizer steps are taken and discarded. Only temporary
folders are written to, and they are removed.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch
from accelerate import Accelerator

from customize import device, events, units
from customize.data import bucket_report
from customize.data.buckets import largest
from customize.data.examples import Example, Examples, missing_class_images
from customize.data.samples.image_uses import ImageUses, uses_of_run
from customize.data.samples.latent_dataset import ImageDataset, TurnOf
from customize.errors import ResourceError
from customize.families import Source
from customize.families.whole_models.model_file import model_file_sizes
from customize.families.whole_models.pipeline_folder import pipeline_sizes
from customize.methods import prepare
from customize.methods.method import TrainingSetup
from customize.printable import first_few
from customize.settings.training_parts.validation_prompts import images_per_prompt
from customize.storage import checkpoint, run_folder
from customize.storage.disk import free_bytes
from customize.storage.resources import for_memory, resources
from customize.training import model_card, summary
from customize.training.distributed.accelerator import check_machine, start_accelerator
from customize.training.evaluating.kept_weights import planned_files
from customize.training.loop import Callback, LoopConfig, State, StepMetrics, train
from customize.training.nan_guard import NanGuard
from customize.training.resumable import OPTIMIZER, named_tensors, parts_of
from customize.training.resume import done, find_checkpoint, fitting, identity, planned_steps
from customize.training.run import weights_every
from customize.training.setup import RunContext, load_base, release_unused
from customize.training.validation import ValidationImages
from customize.weights.weight_file import BUNDLED

TRIAL_STEPS = 2
"""The first step creates the optimizer's state and warms up; only the second shows the peak of memory and a step's time."""
TIGHT = 0.9
"""Memory is reported as short when more than this share of it is used."""


@dataclass(frozen=True)
class Trained:
    """The trained parameters of one network, with the modules that hold them, or of one new word."""

    name: str
    modules: tuple[str, ...]
    parameters: int


@dataclass(frozen=True)
class Files:
    """Bytes that will be written. checkpoint, result: of each file; kept: the number of checkpoints kept, None for all;
    intermediate, samples: the number of intermediate weights and of sample images; sample: of one image at most."""

    checkpoint: Mapping[str, int]
    checkpoints: int
    kept: int | None
    result: Mapping[str, int]
    intermediate: int
    samples: int
    sample: int

    @property
    def largest(self) -> int:
        """The peak, in bytes: with a new checkpoint beside the one that it replaces, or with the result at the end."""
        one, result = sum(self.checkpoint.values()), sum(self.result.values())
        kept = self.checkpoints if self.kept is None else min(self.kept, self.checkpoints)
        permanent = self.intermediate * result + self.samples * self.sample
        return permanent + max(min(kept + 1, self.checkpoints) * one, kept * one + result)


@dataclass(frozen=True)
class Plan:
    """What a run would do and need. Sizes are in bytes; where: the kind of memory; seconds: of one step."""

    settings: object
    folder: Path
    steps: int
    trained: tuple[Trained, ...]
    optimizer: int
    uses: tuple[ImageUses, ...]
    to_generate: int
    files: Files
    free_disk: int
    memory: int
    free_memory: int
    where: str
    seconds: float

    @property
    def short(self) -> list[str]:
        """What is insufficient, each with a remedy."""
        found = []
        if self.files.largest > self.free_disk:
            missing = units.size(self.files.largest - self.free_disk)
            what = f"not enough disk space for {self.folder}: {missing} more needed"
            found.append(f"{what}\n    -> free some, or set a lower --checkpoints_total_limit, or another --output_dir")
        if self.memory > TIGHT * self.free_memory:
            needed = f"{units.size(self.memory)} of {units.size(self.free_memory)}"
            found.append(f"{self.where} is short: the run needs {needed}\n    -> {for_memory(self.settings)}")
        return found

    def __str__(self) -> str:
        files, lines = self.files, []
        for each in self.trained:
            modules = f"{len(each.modules)} modules ({first_few(each.modules, 3)}), " if each.modules else ""
            lines.append(("trained", f"{each.name}: {modules}{units.count(each.parameters, 'parameter')}"))
        lines.append(("optimizer", f"{units.size(self.optimizer)} of state"))
        lines += [("images", str(each)) for each in self.uses]
        if self.to_generate:
            lines.append(("", f"{self.to_generate:,} of the class will be generated first"))
        one, result = sum(files.checkpoint.values()), sum(files.result.values())
        kept = "all" if files.kept is None else f"only the newest {files.kept}"
        lines.append(("files", f"{units.count(files.checkpoints, 'checkpoint')} of {units.size(one)}; {kept} kept"))
        if files.intermediate:
            lines.append(("", f"intermediate weights of {units.size(result)}, {units.count(files.intermediate, 'time')}"))
        if files.samples:
            lines.append(("", f"{units.count(files.samples, 'sample image')} of at most {units.size(files.sample)}"))
        lines += [("", f"{name}: {units.size(number)}") for name, number in files.result.items()]
        lines.append(("disk", f"{units.size(files.largest)} at the peak; {units.size(self.free_disk)} free in {self.folder}"))
        lines.append(("memory", f"{units.size(self.memory)} of {units.size(self.free_memory)} ({self.where})"))
        duration = f"{self.steps:,} steps of {units.each(self.seconds)}: {units.about(self.steps * self.seconds)}"
        lines.append(("time", f"{duration}, without loading, encoding and generating images"))
        return "\n".join(f"{head:<10} {text}" for head, text in lines)


def run(settings, folder: Path, source: Source, examples: Examples, callbacks: Sequence[Callback] = ()) -> None:
    """Reports the plan. Raises ResourceError when disk space or memory is insufficient, InputError as the run itself would."""
    plan = make(settings, folder, source, examples, callbacks)
    if plan is None:
        return
    events.info(f"plan of {settings.command} (dry_run: nothing was written)\n{plan}")
    if plan.short:
        raise ResourceError("\n".join(plan.short))


def make(settings, folder: Path, source: Source, examples: Examples, callbacks: Sequence[Callback] = ()) -> Plan | None:
    """Prepares as the run would, except for what only later steps need, and takes two steps. Callbacks only bring their parts.
    The plan is that of the first process; None for others, whose weights may be parts."""
    check_machine(settings)
    accelerator = start_accelerator(settings, folder)
    events.summarize("started", summary.before_loading(settings, folder, source, examples, device.describe(accelerator.device)))
    run_identity = identity(settings, source, examples, accelerator.num_processes)
    steps = planned_steps(settings, source, examples, accelerator.num_processes)
    resume = find_checkpoint(settings, folder, run_identity, events.info, steps)
    family = load_base(settings, source)
    context = RunContext(settings, accelerator, family, examples, *done(resume))
    for note in (*examples.notes, *bucket_report.notes(settings, examples.instances, context.resolution)):
        events.note(note)
    with resources(for_memory(settings), "make room"), trial_of(settings, context) as trial:
        trial_context = TrialContext(trial, accelerator, family, examples, *done(resume))
        training = prepare(trial, trial_context)
        release_unused(trial_context, training.method)
        learning_rates = training.learning_rates(trial, trial.max_train_steps, context.learning_rate_scale)
        own = (each.parts(training.method) for each in callbacks)
        parts = parts_of(training.method, learning_rates.optimizer, accelerator.scaler, *own)
        resume = resume and fitting(resume, parts)
        ValidationImages(context, training.condition, folder / run_folder.SAMPLES)
        clock = Clock()
        config = LoopConfig.of(trial, trial.max_train_steps)
        state = train(config, training.method, training.dataset, [NanGuard(), clock], accelerator, learning_rates, parts, resume)
        state.identity = run_identity
        saved = state.checkpoint()
        with state.whole_weights():
            if not accelerator.is_main_process:
                return None
            files = files_of(settings, context, training, saved)
    square = context.family.latents.stored_shape(context.resolution, context.resolution)
    held = context.streamed.held(math.prod(square) * torch.float32.itemsize, bool(settings.latents_cache_dir))
    memory, free_memory, where = memory_of(accelerator, held)
    optimizer = sum(tensor.nbytes for _, tensor in named_tensors(state.parts[OPTIMIZER].state_dict()))
    uses = uses_of_run(settings, context.examples, context.resolution, context.max_train_steps, context.global_batch)
    return Plan(
        settings, folder, context.max_train_steps - context.first_step, trained(training), optimizer, uses,
        missing_class_images(settings, examples), files, free_bytes(folder / run_folder.CONFIG), memory, free_memory, where,
        clock.seconds,
    )  # fmt: skip


@contextmanager
def trial_of(settings, context: RunContext, steps: int = TRIAL_STEPS):
    """The settings of a run of so many steps that writes nothing; where class images are missing, it generates one in a temporary
    folder."""
    changes: dict[str, object] = {"num_train_epochs": None, "latents_cache_dir": None, "on_nan": "stop"}
    changes["vae_cache_ondemand"] = context.streamed.images
    changes["max_train_steps"] = context.first_step + steps
    with TemporaryDirectory() as folder:
        if missing_class_images(settings, context.examples):
            changes |= {"class_data_dir": folder, "num_class_images": 1}
            changes["concept"] = tuple(one_class_image(own, f"{folder}/{place}") for place, own in enumerate(settings.concept))
        yield settings.model_copy(update=changes)


def one_class_image(own: Mapping[str, object], folder: str) -> Mapping[str, object]:
    """The table of a concept whose class images, if it has any, are one, in a new folder."""
    return {**own, "class_data_dir": folder, "num_class_images": 1} if "class_data_dir" in own else own


class TrialContext(RunContext):
    """The context of a run that deals only images of the largest bucket."""

    def encode_images(self, stream: str, examples: Sequence[Example], turns: TurnOf = int) -> ImageDataset:
        return super().encode_images(stream, largest(self.settings, examples, self.resolution), turns)


class Clock(Callback):
    """Times the last step."""

    def start(self, state: State) -> None:
        self.begin = self.seconds = 0.0

    def after_step(self, state: State, metrics: StepMetrics) -> None:
        if state.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        self.begin, self.seconds = (now := time.perf_counter()), now - self.begin


def memory_of(accelerator: Accelerator, held: int) -> tuple[int, int, str]:
    """(peak bytes of this process, bytes available to it, the kind of memory). held: bytes in main memory beside the peak."""
    if accelerator.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return torch.cuda.max_memory_allocated(), free + torch.cuda.memory_reserved(), "the GPU's memory"
    return peak() + held, psutil.virtual_memory().available + psutil.Process().memory_info().rss, "main memory"


def peak() -> int:
    """Peak main memory of this process, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset
    unit = 1 if psutil.MACOS else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def trained(training: TrainingSetup) -> tuple[Trained, ...]:
    """The trained parameters, by network; each new word by itself."""
    networks = dict(training.method.named_children())
    groups: dict[str, dict[str, int]] = {}
    for name, tensor in training.method.trainable_state_dict().items():
        network, _, rest = name.partition(".")
        module = module_name(networks[network], rest) if network in networks else ""
        group = groups.setdefault(network if module else BUNDLED.sub(r"\1", name), {})
        group[module] = group.get(module, 0) + tensor.numel()
    return tuple(Trained(name, tuple(filter(None, group)), sum(group.values())) for name, group in groups.items())


def module_name(network: torch.nn.Module, parameter: str) -> str:
    """The module of the base model that a parameter belongs to; for an adapter, the module that it is attached to."""
    return parameter.partition(".lora_")[0] if ".lora_" in parameter else parameter.rpartition(".")[0]


def files_of(settings, context: RunContext, training: TrainingSetup, saved: checkpoint.Checkpoint) -> Files:
    """What will be written, without config.toml, model card, log, manifests and trackers' files, which are small."""
    first, last = context.first_step, context.max_train_steps
    metadata = model_card.metadata(settings, training.method, context.family, last)
    at = {0, last, *range(0, last + 1, context.validation_steps)}
    images = len(context.sample_prompts) * images_per_prompt(settings)
    samples = images * len([step for step in at if step > first or step == first == 0])
    pictures, weights = planned_files(context, training.method)
    return Files(
        checkpoint.file_sizes(saved, {**training.method.description(), **metadata}),
        times(first, last, settings.checkpointing_steps),
        settings.checkpoints_total_limit,
        result_sizes(settings, training, context, metadata),
        weights + (times(first, last, every) if (every := weights_every(settings, context, training.method)) else 0),
        samples + pictures,
        3 * context.resolution**2 + 1024,
    )


def times(first: int, last: int, every: int) -> int:
    """How often something is due that is due every so many steps and after the last one."""
    return len({last, *range(first + every - first % every, last + 1, every)}) if last > first else 0


def result_sizes(settings, training: TrainingSetup, context: RunContext, metadata: dict[str, str]) -> dict[str, int]:
    """Bytes of each file of the result: computed from the shapes for a complete pipeline, measured by saving for small files."""
    if settings.writes_model_file:
        return model_file_sizes(context.family, metadata, settings.save_precision)
    with TemporaryDirectory() as folder:
        if settings.trains_whole_networks:
            return pipeline_sizes(Path(folder), context.family, metadata, settings.save_precision)
        sizes = {path.name: path.stat().st_size for path in training.method.save(Path(folder), metadata)}
        return sizes | {run_folder.METADATA: len(metadata["customize"].encode())}
