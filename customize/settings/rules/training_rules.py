"""Rules about combinations of training settings. See `rule.py`."""

import os.path
from collections.abc import Iterator

from customize.errors import InputError, Problem
from customize.optim.lr_schedules import step_rules
from customize.settings import derived
from customize.settings.rules import bucket_rules, caption_rules
from customize.settings.rules.augmentation_rules import augmentation_has_crops
from customize.settings.rules.mask_rules import outside_has_one_target
from customize.settings.rules.objective_rules import OBJECTIVE
from customize.settings.rules.rule import Rule, rule, text_is_no_path
from customize.settings.sampler_names import find


def examples(name: str) -> tuple[Rule, ...]:
    """Either the image folder `name` or a dataset is given, and nothing is written into that folder."""

    @rule(name, "dataset_name")
    def one_source(folders: str | tuple[str, ...] | None, dataset_name: str | None) -> Iterator[Problem]:
        """Either a folder of images or a dataset is given, not both."""
        if not folders and not dataset_name:
            yield Problem(name, "is missing: no images to learn from", f"set {name} to a folder of images (or dataset_name)")
        if folders and dataset_name:
            yield Problem(name, "cannot be combined with dataset_name", "leave one of the two out")

    return one_source, *not_written_to(name)


def not_written_to(name: str) -> tuple[Rule, ...]:
    """Nothing is written into the image folder, or folders, `name`."""

    def is_not(other: str) -> Rule:
        @rule(name, other)
        def check(folders: str | tuple[str, ...] | None, written: str | None) -> Iterator[Problem]:
            """No output goes into a folder of images."""
            for folder in (folders,) if isinstance(folders, str) else folders or ():
                if written and same(folder, written):
                    yield Problem(other, f"is the same folder as {name}", "write to a different folder than the training images")

        return check

    return is_not("output_dir"), is_not("latents_cache_dir")


def same(one: str, other: str) -> bool:
    """Whether two paths refer to the same file or folder."""
    return os.path.realpath(one) == os.path.realpath(other)


@rule("max_train_steps", "lr_scheduler", "lr_warmup_steps")
def warmup_ends(max_train_steps: int | None, lr_scheduler: str, lr_warmup_steps: int) -> Iterator[Problem]:
    """The warm-up ends before the run does."""
    if max_train_steps is not None:
        yield from warmup_problems(lr_scheduler, lr_warmup_steps, max_train_steps, "max_train_steps")


def warmup_problems(
    lr_scheduler: str, warmup_steps: int, steps: int, counted_by: str = "them", setting: str = "lr_warmup_steps"
) -> Iterator[Problem]:
    """The problem of a warm-up, of this setting, that does not end within a run of `steps` steps."""
    if warmup_steps >= steps and lr_scheduler not in derived.WITHOUT_WARMUP:
        what = f"{warmup_steps} of {steps} steps: the learning rate would never reach its full value"
        yield Problem(setting, what, f"give a tenth of {counted_by} or less")


@rule("lr_scheduler", "lr_step_rules")
def pieces_have_rules(lr_scheduler: str, lr_step_rules: str | None) -> Iterator[Problem]:
    """piecewise_constant has valid lr_step_rules."""
    if lr_scheduler != "piecewise_constant":
        return
    remedy = "give factors and the steps at which they end, as in 1:100,0.1:200,0.01"
    if lr_step_rules is None:
        yield Problem("lr_step_rules", "is missing: lr_scheduler = piecewise_constant needs it", remedy)
        return
    try:
        step_rules(lr_step_rules)
    except ValueError as error:
        yield Problem("lr_step_rules", str(error), remedy)


@rule("max_train_steps", "num_train_epochs")
def steps_or_epochs(max_train_steps: int | None, num_train_epochs: int | None) -> Iterator[Problem]:
    """The length of the run is given, in steps or in epochs."""
    if max_train_steps is None and num_train_epochs is None:
        yield Problem("max_train_steps", "is none, and so is num_train_epochs", "give one of the two")


@rule("report_to")
def none_and_all_are_alone(report_to: tuple[str, ...]) -> Iterator[Problem]:
    """none and all are not combined with other trackers."""
    if len(report_to) > 1 and {"none", "all"} & set(report_to):
        yield Problem(
            "report_to", "none and all cannot be combined with others", "list the trackers, or give only none, or only all"
        )


@rule("overwrite_output_dir", "resume_from_checkpoint")
def overwrite_or_resume(overwrite_output_dir: bool, resume_from_checkpoint: str | None) -> Iterator[Problem]:
    """A run either overwrites an earlier one or resumes it."""
    if overwrite_output_dir and resume_from_checkpoint is not None:
        yield Problem("resume_from_checkpoint", "cannot be combined with overwrite_output_dir", "leave one of the two out")


@rule("validation_scheduler")
def validation_sampler_is_known(validation_scheduler: str | None) -> Iterator[Problem]:
    """validation_scheduler is the name of a sampler."""
    if validation_scheduler is not None:
        try:
            find(validation_scheduler, "validation_scheduler")
        except InputError as error:
            yield from error.problems


COMMON = (
    text_is_no_path("validation_prompt"), validation_sampler_is_known, warmup_ends, pieces_have_rules, steps_or_epochs,
    none_and_all_are_alone, overwrite_or_resume, *not_written_to("validation_data_dir"), *not_written_to("mask_data_dir"),
    outside_has_one_target, augmentation_has_crops, *OBJECTIVE, *caption_rules.RULES, *bucket_rules.RULES,
)  # fmt: skip


def notes(settings) -> Iterator[str]:
    """One line for each setting that is allowed but has no effect."""
    if settings.lr_scheduler in derived.WITHOUT_WARMUP and settings.lr_warmup_steps > 0:
        yield f"lr_warmup_steps has no effect: {settings.lr_scheduler} has no warm-up (constant_with_warmup has)"
    if settings.stratified_timesteps and derived.global_batch(settings, derived.processes()) == 1:
        yield "stratified_timesteps has no effect: a step has one sample, and nothing to spread"
    if settings.hub_model_id is not None and not settings.push_to_hub:
        yield "hub_model_id has no effect without push_to_hub"
    for steps, epochs in ("max_train_steps", "num_train_epochs"), ("validation_steps", "validation_epochs"):
        if getattr(settings, steps) is not None and getattr(settings, epochs) is not None:
            yield f"{epochs} has no effect: {steps} = {getattr(settings, steps)} takes precedence"
    if settings.validation_prompt:
        from customize.settings.training_parts import validation_prompts

        yield from validation_prompts.notes(settings)
