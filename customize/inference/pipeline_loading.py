"""Base model + learned weights -> pipeline."""

from collections.abc import Sequence
from pathlib import Path

import torch

from customize import families
from customize.errors import InputError, Problem
from customize.families.base import Placement
from customize.families.files.autoencoder import load_autoencoder, locate_autoencoder
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
) -> Pipeline:
    """Loads a base model and puts any number of learned weights into it, each at its scale.

    base: as `pretrained_model_name_or_path`; None: the one that the weights name, or the embedded demo model.
    weights: (path, scale) pairs, see `find_learned`; the scale of embeddings multiplies their vectors. A scale may be a
    `Schedule`, which changes during denoising.
    vae: a folder or .safetensors file with an autoencoder that takes the place of the base model's own.
    partial: load adapters of which only a part fits the base model; the pipeline's notes say what was left out.
    Raises InputError, before the base model is loaded where that can be known.
    """
    learned = find_learned(base, weights)
    source = locate(base, learned, revision=revision, variant=variant, prediction_type=prediction_type)
    read = [(file, read_tensors(file)) for file in learned.files]
    other = locate_autoencoder(vae) if vae else None
    changed = bool(learned.files or learned.network or other)  # what goes into the networks is added to them in float32
    family = families.load(source) if changed else families.load(source, Placement(device, torch_dtype))
    if other:
        family.replace_vae(load_autoencoder(other), other)
    if learned.network:
        put_into(family, learned.network.path, read_tensors(learned.network), other_base(learned.network))
    words = [add_embeddings(family, file, tensors) for file, tensors in read]
    adapters, notes = add_adapters(family, [file for file in learned.files if file.is_adapter], partial)
    family.to(device, torch_dtype)
    in_place = LoadedWeights(learned.files, joined(learned.files, words, adapters))
    return Pipeline(family, learned.trigger_words, notes, in_place)


def locate(base: str | None, learned: Learned, **options: str | None) -> families.Source:
    """The base model, by the user's name for it or by that of the weights, which also know how it was loaded.

    options: revision, variant, prediction_type. Raises InputError.
    """
    options = options_of(base, learned, **options)
    try:
        source = families.locate(learned.base or "demo", **options)
    except InputError as error:
        if base or learned.base is None:
            raise
        what = f"{(learned.network or learned.files[0]).path} was learned on {learned.base}, which is not here"
        remedy = "say where it is with --pretrained_model_name_or_path"
        raise InputError([Problem(SETTING, what, remedy), *error.problems]) from error
    words = [word for file in learned.files for word in file.placeholders]
    if problems := known_token_problems(spec_of(source).vocabulary(source), words):
        remedy = "load it into the model that it was learned on"
        raise InputError(Problem(SETTING, problem.what, remedy) for problem in problems)
    return source


def options_of(base: str | None, learned: Learned, **options: str | None) -> dict[str, str | None]:
    """How to load the base model, where the user did not say: as the first of the weights that name it were learned."""
    files = (*filter(None, [learned.network]), *learned.files)
    said = files[0].about.get("settings", {}) if base is None and files else {}
    return {name: given or said.get(name) for name, given in options.items()}
