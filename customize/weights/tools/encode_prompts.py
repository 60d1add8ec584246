"""Encodes prompts into a file, so that a large text encoder is loaded once and never beside the denoiser."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from customize import events, units
from customize.errors import InputError, Problem
from customize.families.files import prompt_embeddings
from customize.families.source import locate
from customize.families.specs import every, spec_of
from customize.settings.files.sharing import shared_name
from customize.weights.tools import target as output

DTYPES = {"no": "float32", "fp16": "float16", "bf16": "bfloat16"}


def encode(
    model: str, prompts: Sequence[str], target: Path, mixed_precision: str = "no", save_precision: str = "fp32",
    overwrite: bool = False, variant: str | None = None,
) -> None:  # fmt: skip
    """Writes the embeddings of prompts, and of the empty prompt, which guidance needs, by a model's text encoder, which alone is
    loaded. mixed_precision: in which it computes. Raises InputError before anything is written."""
    options = {"variant": variant, "with_denoiser": False}
    source = locate(model, **options)
    spec, problems = spec_of(source), list(output.in_the_way(target, [], overwrite))
    if not spec.load_prompts:
        able = ", ".join(each.title for each in every() if each.load_prompts)
        what = f"{model} is {spec.title}, whose text encoder is small and always loaded"
        problems.append(Problem("MODEL", what, f"leave prompts to be encoded when they are used; this command is for {able}"))
    if not prompts:
        problems.append(Problem("prompt", "is missing", "give the prompts to encode, each by --prompt"))
    if problems:
        raise InputError(problems)
    import torch

    from customize.device import best_device
    from customize.families.base import Placement
    from customize.families.loading import download

    if not source.folder:
        source = locate(str(download(source)), **options)
    module, _, function = spec.load_prompts.partition(":")
    encoder = getattr(import_module(module), function)(source, Placement(best_device(), getattr(torch, DTYPES[mixed_precision])))
    tensors = {prompt: encoder.encode(prompt) for prompt in dict.fromkeys([*prompts, ""])}
    output.write(target, tensors, {prompt_embeddings.MODEL: shared_name(model)}, save_precision)
    events.info(f"{target}: {len(tensors)} prompts, {units.size(target.stat().st_size)}, for --prompt_embeddings {target}")
