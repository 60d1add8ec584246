"""The settings of optimizers: each has an effect only with those that declare it. No torch. Part of `OptimizationSettings`."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from customize.errors import Problem
from customize.optim import optimizers
from customize.settings.field import Setting, table, united
from customize.settings.rules.rule import rule, within_own_range

NAMES = tuple(optimizers.names())
OF_OPTIMIZERS = united({name: optimizers.settings_model(name) for name in NAMES}, "optimizer")
"""The settings of all optimizers."""


def settings_of(name: str) -> Mapping[str, Setting]:
    """The settings of the optimizer of that name, with its own defaults and ranges."""
    return table(optimizers.settings_model(name))


def summaries() -> str:
    """What each optimizer is, for `--help`."""
    lines = {name: optimizers.of(name) for name in NAMES}
    extra = ' (pip install "customize[{}]")'
    return "; ".join(f"{name}: {each.summary}{extra.format(name) if each.package else ''}" for name, each in lines.items())


def rates_in_words() -> str:
    """The default learning rates of optimizers that do not take AdamW's."""
    of_all = {name: optimizers.of(name) for name in NAMES}
    own = [f"{each.learning_rate:g} with optimizer {name}" for name, each in of_all.items() if each.learning_rate is not None]
    shares = {each.share: [name for name in of_all if of_all[name].share == each.share] for each in of_all.values()}
    return "; ".join(own + [f"{share:g} of it with {', '.join(those)}" for share, those in shares.items() if share != 1])


def with_optimizer(rate: float) -> str:
    """AdamW's default learning rate, and those with other optimizers."""
    return f"{rate:g}; {rates_in_words()}"


def defaults(values: Mapping[str, Any], usual: Mapping[str, float]) -> dict[str, Any]:
    """The defaults that depend on the optimizer. usual: AdamW's learning rates, by setting."""
    name = str(values.get("optimizer", optimizers.DEFAULT))
    if name not in NAMES:  # a fault of the settings that is reported elsewhere
        return {}
    chosen = optimizers.of(name)
    rates = {each: rate * chosen.share if chosen.learning_rate is None else chosen.learning_rate for each, rate in usual.items()}
    return {**{each: line.default for each, line in settings_of(name).items()}, **rates}


@rule("optimizer")
def optimizer_is_installed(optimizer: str) -> Iterator[Problem]:
    """The optimizer's package is installed."""
    package = optimizers.of(optimizer).package
    if package and find_spec(package) is None:
        yield Problem("optimizer", f"{optimizer} needs the package {package}", f'pip install "customize[{optimizer}]"')


@rule("optimizer", "use_ema")
def averages_once(optimizer: str, use_ema: bool) -> Iterator[Problem]:
    """The result of a schedule-free optimizer is an average already."""
    if use_ema and optimizer == "schedule_free":
        yield Problem("use_ema", "cannot be combined with schedule_free, whose result is an average already", "leave it out")


RULES = (
    optimizer_is_installed, averages_once,
    *(within_own_range("optimizer", settings_of, name) for name in OF_OPTIMIZERS.model_fields),
)  # fmt: skip
