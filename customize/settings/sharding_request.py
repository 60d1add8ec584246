"""Sharding (FSDP): what `accelerate launch` asks for through the environment, and what cannot be had with it. No torch."""

import os
from collections.abc import Iterator

from customize.errors import Problem
from customize.optim import optimizers
from customize.settings import derived

REQUEST = "ACCELERATE_USE_FSDP"
TRUE = ("1", "true", "yes", "y", "on", "t")
ADAPTERS = ("none", "lora")
"""Values of the setting `adapter` with which networks may be sharded."""
OTHERWISE = "launch with configs/accelerate/gpus.yaml, which shards nothing"
REFUSED = {
    "FSDP_OFFLOAD_PARAMS": ("fsdp_offload_params", "weights are not kept in main memory", ""),
    "FSDP_CPU_RAM_EFFICIENT_LOADING": ("fsdp_cpu_ram_efficient_loading", "each process loads the base model", ""),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "fsdp_activation_checkpointing", "it is a setting of the run", ", and give --gradient_checkpointing",
    ),
}  # fmt: skip
"""Entries of accelerate's `fsdp_config` that may not be true, by their variable: name, reason, what else to do."""


def is_on(variable: str, default: str = "false") -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(variable, default).strip().lower() in TRUE


def is_requested() -> bool:
    """Whether networks are sharded over the processes of this run."""
    return is_on(REQUEST) and derived.processes() > 1


def in_words() -> str:
    """What is sharded; "" if nobody asked for it."""
    if not is_on(REQUEST):
        return ""
    if not is_requested():
        return "nothing: one process cannot share weights (FSDP2); set num_processes in the launch configuration"
    return f"over {derived.processes()} processes (FSDP2): each holds a part of every weight"


def reshards() -> bool:
    """Whether gathered weights are freed between the forward and the backward pass, as in ZeRO-3; kept as in ZeRO-2 if not."""
    return is_on("FSDP_RESHARD_AFTER_FORWARD", "true")


def problems(settings) -> list[Problem]:
    """What of the launcher's configuration and of the settings of a training run cannot be had with sharded networks."""
    return [*launch_problems(), *setting_problems(settings)] if is_requested() else []


def launch_problems() -> Iterator[Problem]:
    """The problems of accelerate's `fsdp_config`."""
    if os.environ.get("FSDP_VERSION", "1") != "2":
        yield Problem("fsdp_version", "is not 2: networks are sharded by FSDP2 only", "set fsdp_version: 2 in the configuration")
    for variable, (name, why, more) in REFUSED.items():
        if is_on(variable):
            yield Problem(name, f"is true: {why}", f"set it to false in the configuration{more}")
    if os.environ.get("FSDP_IGNORED_MODULES"):
        yield Problem("fsdp_ignored_modules", "names modules, but whole networks are sharded", "leave it out")


def setting_problems(settings) -> Iterator[Problem]:
    """The settings of a run that cannot be had with sharded networks (FSDP)."""
    adapter = settings.values().get("adapter")
    refused = {
        "placeholder_token": ("new words are too small to be sharded (FSDP)", bool(settings.placeholders)),
        "adapter": (f"{adapter} cannot be sharded (FSDP), only none and lora can", adapter not in (None, *ADAPTERS)),
        "optimizer": (
            f"{settings.optimizer} cannot step sharded weights (FSDP), only adamw can",
            not optimizers.of(settings.optimizer).steps_shards,
        ),
        "use_ema": ("sharded weights (FSDP) have no average", settings.use_ema),
        "mixed_precision": ("fp16 and its loss scale cannot be had with sharding (FSDP)", settings.mixed_precision == "fp16"),
        "masked_prior_preservation_weight": (
            "cannot be had with sharding (FSDP): only processes whose images have a mask would ask the base model",
            bool(settings.masked_prior_preservation_weight),
        ),
    }  # fmt: skip
    remedies = {"optimizer": "use adamw", "mixed_precision": "use bf16 or no", "masked_prior_preservation_weight": "set it to 0"}
    for name, (what, is_refused) in refused.items():
        if is_refused:
            yield Problem(name, what, f"{remedies[name]}, or {OTHERWISE}" if name in remedies else OTHERWISE)
