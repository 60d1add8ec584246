"""Rules about combinations of the settings of adapters. See `settings.rules.rule`."""

from collections.abc import Iterator

from customize.errors import Problem
from customize.settings.rules.rule import rule


@rule("adapter", "rank", "tlora_min_rank", "tlora_alpha", "use_dora", "init_lora_weights")
def timestep_rank_fits(
    adapter: str, rank: int, tlora_min_rank: int | None, tlora_alpha: float, use_dora: bool, init_lora_weights: str
) -> Iterator[Problem]:
    """The ranks of a T-LoRA rise, and they are ranks of factors that are the change."""
    if adapter == "lora" and tlora_min_rank is None and tlora_alpha != 1:
        yield Problem("tlora_alpha", "has no effect without tlora_min_rank", "set that too, or leave tlora_alpha out")
    if adapter != "lora" or tlora_min_rank is None:
        return
    if tlora_min_rank > rank:
        yield Problem("tlora_min_rank", f"is {tlora_min_rank}, above rank = {rank}", "set a lower one, such as half the rank")
    if use_dora:
        yield Problem("use_dora", "is not combined with tlora_min_rank: its magnitudes hold for all ranks", "leave one out")
    if init_lora_weights == "pissa":
        what = "pissa is not combined with tlora_min_rank: its result has other ranks than the trained ones"
        yield Problem("init_lora_weights", what, "use orthogonal or gaussian")


@rule("adapter", "rank", "init_lora_weights", "use_dora", "init_weights")
def start_fits(adapter: str, rank: int, init_lora_weights: str, use_dora: bool, init_weights: str | None) -> Iterator[Problem]:
    """A start by the weights of the base model is one of a LoRA that begins anew."""
    if adapter != "lora":
        return
    if init_lora_weights == "orthogonal" and rank % 2:
        yield Problem("rank", f"is {rank}, where init_lora_weights = orthogonal needs an even one", f"use {rank + 1}")
    if init_lora_weights == "pissa" and use_dora:
        yield Problem("use_dora", "is not combined with init_lora_weights = pissa", "leave one of them out")
    if init_lora_weights != "gaussian" and init_weights:
        what = f"{init_lora_weights} has no effect with init_weights, whose factors are the start"
        yield Problem("init_lora_weights", what, "leave one of them out")


RULES = (timestep_rank_fits, start_fits)
