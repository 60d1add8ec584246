"""Optimizers: how a step is made of the gradients. One module per optimizer.

To add one, add a module with a class `Optimizer`, which implements the protocol below, and a pydantic model `Settings`, whose
fields are made by `option`. `--optimizer NAME` follows from the module's name; its settings join those of training
(`settings/training_parts/optimizer_settings.py`). Modules import torch and their package inside `build`, so that `--help` stays
fast. Saving, resuming, checks of a saved state, parts with rates of their own and EMA work without further code.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    import torch

DEFAULT = "adamw"
Groups = list[dict[str, Any]]
"""Parameter groups: dictionaries with "params" and "lr". Further entries that a method may add: `fraction`, the share of the run
in which the group is trained; `lr_warmup_steps`, if not those of the run; and `vectors`, True for embeddings, which are no
matrices of a network."""


class Optimizer(Protocol):
    """How an optimizer is built, and what is known about it without torch.

    summary: what it is, for `--help`. package: the module that it needs besides those of every installation, or ""; the extra
    that installs it has the optimizer's name. learning_rate: its default learning rate; None: AdamW's times `share`.
    counters: the entries of a parameter group that change from step to step, which are saved and restored with the state.
    steps_shards: whether it steps weights of which each process holds a part (FSDP) as it steps whole ones.
    """

    summary: str
    package: str
    learning_rate: float | None
    share: float
    counters: Sequence[str]
    steps_shards: bool

    def build(self, settings, groups: Groups) -> "torch.optim.Optimizer":
        """The optimizer of these parameter groups. settings: those that its `Settings` declares, by name."""
        ...


class Usual:
    """An optimizer that comes with every installation, takes AdamW's learning rates, and counts nothing in its groups."""

    package = ""
    learning_rate: float | None = None
    share = 1.0
    counters: Sequence[str] = ()
    steps_shards = False


def option(default: Any, description: str, **bounds: float) -> Any:
    """A setting of an optimizer. bounds: ge, gt, le, lt."""
    facts: Any = {"section": "train", "scope": "step"}
    return Field(default, description=description, json_schema_extra=facts, **bounds)  # type: ignore[arg-type]


def names() -> Iterator[str]:
    """The values of the setting `optimizer`, the default first."""
    yield DEFAULT
    yield from sorted(module.name for module in iter_modules(__path__) if module.name != DEFAULT)


def of(name: str) -> Optimizer:
    """The optimizer of that name."""
    return import_module(f"{__name__}.{name}").Optimizer()


def settings_model(name: str) -> type[BaseModel]:
    """The settings that the optimizer of that name declares."""
    return import_module(f"{__name__}.{name}").Settings


def build(settings, groups: Groups) -> "torch.optim.Optimizer":
    """The optimizer of the settings over these parameter groups."""
    from customize.optim.together import members_of

    chosen = of(settings.optimizer)
    optimizer = chosen.build(settings, groups)
    for member in members_of(optimizer):
        setattr(member, COUNTERS, tuple(chosen.counters))
    return optimizer


COUNTERS = "counters"
"""The attribute of a built optimizer with the names of `Optimizer.counters`."""
