"""Base model + learned weights -> pipeline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from customize import families
from customize.errors import InputError, Problem
from customize.families.base import Placement
from customize.families.files.autoencoder import load_autoencoder, locate_autoencoder
from customize.families.files.scheduler import with_fixed_variance
from customize.families.source import known_token_problems
from customize.families.specs import spec_of
from customize.inference.pipeline import Pipeline
from customize.inference.scale_schedules import LoadedWeights
from customize.settings.scale import Scale
from customize.weights.checkpoint_weights import put_into
from customize.weights.learned_weights import Learned, find_learned
from customize.weights.load_adapters import add_adapters
from customize.weights.load_weights import add_embeddings, joined, read_tensors
from customize.weights.weight_file import SETTING, other_base


def load_pipeline(
    base: str | None = None,
    weights: Sequence[tuple[str | Path, Scale]] = (),
    *,
    revision: str | None = None,
    variant: str | None = None,
    prediction_type: str | None = None,
    torch_dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    partial: bool = False,
    vae: str | None = None,
    rescale_betas_zero_snr: bool | None = None,
    prompt_embeddings: str | None = None,
) -> Pipeline:
    """Loads a base model and any number of learned weights, each at its scale.

    base: as `pretrained_model_name_or_path`. None: the base model named in the weights' metadata, or the demo model.
    weights: (path, scale) pairs, see `find_learned`. A scale of embeddings multiplies their vectors. A scale may be a
    `Schedule`, which changes it during denoising.
    vae: a folder or .safetensors file with an autoencoder that replaces the base model's own.
    prompt_embeddings: a file of encoded prompts, in place of the text encoder, which is not loaded (`customize embed-prompts`).
    partial: also load adapters that fit the base model only in part; the pipeline's notes list what was skipped.
    Raises InputError, if possible before the base model is loaded.
    """
    learned = find_learned(base, weights)
    options = {"revision": revision, "variant": variant, "prediction_type": prediction_type}
    source = locate(base, learned, prompt_embeddings, **options, rescale_betas_zero_snr=rescale_betas_zero_snr)
    read = [(file, read_tensors(file)) for file in learned.files]
    other = locate_autoencoder(vae) if vae else None
    changed = bool(learned.files or learned.network)
    exact = all(file.leaves_weights for file in learned.files)  # else the weights are changed in float32, and rounded once
    family = families.load(source, Placement("cpu" if changed else device, torch_dtype if exact else torch.float32))
    if other:
        family.replace_vae(load_autoencoder(other, family.spec.autoencoder), other)
    if learned.network:
        put_into(family, learned.network.path, read_tensors(learned.network), other_base(learned.network))
    words = [add_embeddings(family, file, tensors) for file, tensors in read]
    adapters, notes = add_adapters(family, [file for file in learned.files if file.is_adapter], partial)
    if adapters or learned.network:
        family.scheduler = with_fixed_variance(family.scheduler)
    family.to(device, torch_dtype)
    loaded = LoadedWeights(learned.files, joined(learned.files, words, adapters))
    return Pipeline(family, learned.trigger_words, notes, loaded)


def locate(base: str | None, learned: Learned, prompt_embeddings: str | None = None, **options: Any) -> families.Source:
    """Locates the base model: the one that the user names, else the one in the weights' metadata, with its loading options.

    options: those of `families.locate`. Raises InputError.
    """
    options = options_of(base, learned, **options)
    try:
        source = families.locate(learned.base or "demo", prompt_embeddings=prompt_embeddings, **options)
    except InputError as error:
        if base or learned.base is None:
            raise
        what = f"{(learned.network or learned.files[0]).path} was trained on {learned.base}, which was not found"
        remedy = "give its location with --pretrained_model_name_or_path"
        raise InputError([Problem(SETTING, what, remedy), *error.problems]) from error
    words = [word for file in learned.files for word in file.placeholders]
    if problems := known_token_problems(spec_of(source).vocabulary(source), words):
        remedy = "load it into the base model that it was trained on"
        raise InputError(Problem(SETTING, problem.what, remedy) for problem in problems)
    return source


def options_of(base: str | None, learned: Learned, **options: Any) -> dict[str, Any]:
    """The options for loading the base model. Without a base, missing ones are those that the first weights were trained with."""
    files = (*filter(None, [learned.network]), *learned.files)
    stored = files[0].metadata.get("settings", {}) if base is None and files else {}
    return {name: stored.get(name) if given is None else given for name, given in options.items()}
