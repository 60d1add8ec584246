"""What the course of a run hangs on, resolved: the same course in other words is the same. No torch."""

import math
import os
from typing import Any

from customize.optim.lr_schedules import step_rules

SCHEDULE = ("lr_scheduler", "lr_warmup_steps", "lr_num_cycles", "lr_power", "lr_step_rules", "max_train_steps")
RATES = ("learning_rate", "text_encoder_learning_rate", *SCHEDULE)
"""What decides on the learning rate of each step."""
WITHOUT_WARMUP = ("constant", "piecewise_constant")
WITHOUT_LENGTH = ("constant", "constant_with_warmup", "piecewise_constant")
"""Schedules whose curve does not hang on the number of steps: a run with one of them may be made longer."""


def processes() -> int:
    """How many processes train together, as their launcher says."""
    number = os.environ.get("WORLD_SIZE", "1")
    return max(1, int(number)) if number.isdecimal() else 1


def global_batch(settings, num_processes: int) -> int:
    """Samples of one optimizer step, over all processes."""
    return settings.train_batch_size * settings.gradient_accumulation_steps * num_processes


def steps_per_epoch(settings, num_images: int, num_processes: int) -> int:
    """Steps in which each image is used `repeats` times."""
    return math.ceil(num_images * settings.repeats / global_batch(settings, num_processes))


def max_train_steps(settings, num_images: int, num_processes: int) -> int:
    """The steps of the whole run, however its length is given."""
    return settings.max_train_steps or (settings.num_train_epochs or 1) * steps_per_epoch(settings, num_images, num_processes)


def learning_rate_scale(settings, num_processes: int) -> int:
    """What `scale_lr` multiplies the learning rates by."""
    return global_batch(settings, num_processes) if settings.scale_lr else 1


def warmup_steps(settings) -> int:
    """Steps in which the learning rate rises, 0 for a schedule that has no warm-up."""
    return 0 if settings.lr_scheduler in WITHOUT_WARMUP else settings.lr_warmup_steps


def learning_rates(settings, num_images: int, num_processes: int) -> dict[str, Any]:
    """What decides on the learning rate of each step, by the names of settings, and nothing that has no effect on it."""
    scale, name, warmup = learning_rate_scale(settings, num_processes), settings.lr_scheduler, warmup_steps(settings)
    found = {"learning_rate": settings.learning_rate * scale}
    found |= {name: rate * scale for name, rate in settings.other_learning_rates.items()}
    found["lr_scheduler"] = "constant" if name == "constant_with_warmup" and not warmup else name
    own = {"cosine_with_restarts": "lr_num_cycles", "polynomial": "lr_power", "piecewise_constant": "lr_step_rules"}.get(name)
    if own:
        found[own] = getattr(settings, own)
    if own == "lr_step_rules":
        found[own] = rules_in_words(settings.lr_step_rules)
    if name not in WITHOUT_LENGTH:
        found["max_train_steps"] = max_train_steps(settings, num_images, num_processes)
    return found | {"lr_warmup_steps": warmup}


def rules_in_words(text: str) -> str:
    """Rules as they come out, the same for the same."""
    pieces, last = step_rules(text)
    return ",".join([*(f"{value!r}:{step}" for step, value in pieces), repr(last)])
