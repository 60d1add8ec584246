"""Values derived from settings, in a canonical form: equivalent settings give equal values. No torch."""

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from customize.optim.lr_schedules import step_rules

SCHEDULE = ("lr_scheduler", "lr_warmup_steps", "lr_num_cycles", "lr_power", "lr_step_rules", "max_train_steps")
RATES = (
    "learning_rate", "text_encoder_learning_rate", "embedding_learning_rate", "text_encoder_lr_warmup_steps", *SCHEDULE
)  # fmt: skip
"""Settings that determine the learning rate of each step."""
WITHOUT_WARMUP = ("constant", "piecewise_constant")
WITHOUT_LENGTH = ("constant", "constant_with_warmup", "piecewise_constant")
"""Schedules whose curve does not depend on the number of steps: a run with one of them may be extended."""
Part = TypeVar("Part")


def from_settings(kind: type[Part], settings) -> Part:
    """The dataclass `kind`, whose fields have the names of settings, with the values of these."""
    return kind(**{each.name: getattr(settings, each.name) for each in fields(kind)})


def processes() -> int:
    """The number of training processes, as set by their launcher (`WORLD_SIZE`)."""
    number = os.environ.get("WORLD_SIZE", "1")
    return max(1, int(number)) if number.isdecimal() else 1


def global_batch(settings, num_processes: int) -> int:
    """Samples of one optimizer step, over all processes."""
    return settings.train_batch_size * settings.gradient_accumulation_steps * num_processes


def steps_per_epoch(settings, uses: Sequence[int], num_processes: int) -> int:
    """Steps in which each image is used `repeats` times, or more where its bucket has too few to fill a step.

    uses: the samples of each bucket in an epoch, before `repeats` (`data.buckets.uses`).
    """
    return sum(-(-number * settings.repeats // global_batch(settings, num_processes)) for number in uses)


def max_train_steps(settings, uses: Sequence[int], num_processes: int) -> int:
    """The number of steps of the whole run, given in steps or in epochs. uses: as for `steps_per_epoch`."""
    return settings.max_train_steps or (settings.num_train_epochs or 1) * steps_per_epoch(settings, uses, num_processes)


def learning_rate_scale(settings, num_processes: int) -> int:
    """The factor that `scale_lr` applies to the learning rates."""
    return global_batch(settings, num_processes) if settings.scale_lr else 1


def warmup_steps(settings) -> int:
    """The number of warm-up steps; 0 for a schedule without warm-up."""
    return 0 if settings.lr_scheduler in WITHOUT_WARMUP else settings.lr_warmup_steps


def learning_rates(settings, uses: Sequence[int], num_processes: int) -> dict[str, Any]:
    """The values that determine the learning rate of each step, by setting; those without effect are left out."""
    scale, name, warmup = learning_rate_scale(settings, num_processes), settings.lr_scheduler, warmup_steps(settings)
    found = {"learning_rate": settings.learning_rate * scale}
    for setting, rates in settings.other_learning_rates.items():
        found[setting] = rates[0] * scale if len(set(rates)) == 1 else [rate * scale for rate in rates]
    found["lr_scheduler"] = "constant" if name == "constant_with_warmup" and not warmup else name
    own = {"cosine_with_restarts": "lr_num_cycles", "polynomial": "lr_power", "piecewise_constant": "lr_step_rules"}.get(name)
    if own:
        found[own] = getattr(settings, own)
    if own == "lr_step_rules":
        found[own] = rules_in_words(settings.lr_step_rules)
    if name not in WITHOUT_LENGTH or settings.depends_on_length:
        found["max_train_steps"] = max_train_steps(settings, uses, num_processes)
    others = {} if name in WITHOUT_WARMUP else settings.other_warmups
    return found | {"lr_warmup_steps": warmup} | {each: steps for each, steps in others.items() if steps != warmup}


def rules_in_words(text: str) -> str:
    """`lr_step_rules` in a canonical form."""
    pieces, last = step_rules(text)
    return ",".join([*(f"{value!r}:{step}" for step, value in pieces), repr(last)])
