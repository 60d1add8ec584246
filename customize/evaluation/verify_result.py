"""Verifies the saved result against the weights in memory.

The result is loaded by the same code as for users, but into the base model that is already in memory: an adapter beside the
same modules once the trained one is detached, new words into the same vocabulary. The result of full fine-tuning, which is a
base model of its own, is loaded one network at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from customize.adapters.peft_layers import is_tuner_layer
from customize.diffusion import rng
from customize.errors import InputError, NumericsError, Problem
from customize.families.base import Family
from customize.families.conditioning import Conditioning, Crop
from customize.families.files.original_layout import NOISE
from customize.families.text_encoder import vectors_by_encoder
from customize.inference.pipeline_loading import read_tensors
from customize.printable import first_few
from customize.storage import run_folder
from customize.weights.learned_weights import find_learned
from customize.weights.load_adapters import add_adapters
from customize.weights.loaded import LoadedWords
from customize.weights.weight_file import LearnedFile

Condition = Callable[[Sequence[str]], Conditioning]
"""Prompts -> conditioning, a row for each."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of two predictions, relative to the largest number in them, by the number format of the result."""


def check(
    folder: Path,
    family: Family,
    prompt: str,
    saved: torch.dtype = torch.float32,
    weights: Mapping[str, Tensor] | None = None,
    condition: Condition | None = None,
) -> float:
    """Compares one prediction of the trained networks with one of the result in `folder`, and the tensors bit for bit.

    The networks are evaluated where the denoiser is, in the precision in which they are. saved: the number format of the
    result; weights: the trained tensors, which must all be in the files, rounded to that format (of a complete pipeline, all
    tensors must be); condition: the conditioning of prompts where the text encoders are frozen, and may have been released. It
    is not used for a complete pipeline with text encoders, which are all in memory: they are compared too.
    Returns the largest difference relative to the largest number. Raises OSError when the result differs by more than the
    `TOLERANCE` of the two formats or cannot be loaded, NumericsError when the trained networks predict NaN or infinity.
    """
    model = run_folder.model_in(folder)
    if model and len(family.components) > 1:
        condition = None
    expected = prediction_of(family, prompt, condition)
    if not expected.isfinite().all():
        remedy = "train again with a lower learning_rate, or resume from an earlier checkpoint"
        raise NumericsError(f"the trained networks predict NaN or infinity, so no result was saved\n    -> {remedy}")
    try:
        if model:
            predictions = predictions_of_model(model, family, prompt, saved, condition)
        else:
            refuse_missing(folder, weights or {}, saved)
            with loaded_into(family, folder):
                predictions = [prediction_of(family, prompt, condition)]
    except InputError as error:
        raise OSError(f"the saved result cannot be loaded: {error}") from error
    difference = max(((each - expected).abs().max() / expected.abs().max()).item() for each in predictions)
    if not difference <= max(TOLERANCE[saved], TOLERANCE[family.dtype]):
        raise OSError(f"{folder} does not reproduce the trained weights: predictions differ by {difference:.1e}")
    return difference


@torch.no_grad()
def prediction_of(family: Family, prompt: str, condition: Condition | None = None) -> Tensor:
    """The denoiser's output [1, C, H, W] for a small latent of noise under the prompt, at the middle of the schedule."""
    device, dtype = family.device, family.dtype
    for network in family.components.values():
        if network.device.type != "meta":  # on which released networks are
            network.to(device)
    side = 2 * family.size_multiple // family.latents.factor
    noise = rng.normal((family.denoiser.config.in_channels, side, side), 0, "readback", 0, [0])
    timesteps = family.schedule.timesteps(torch.tensor([0.5])).to(device)
    sizes = family.size_conditioning([Crop.whole(side * family.latents.factor, side * family.latents.factor)])
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        conditioning = (condition or family.encode_prompts)([prompt])
        return family.predict(noise.to(device), timesteps, conditioning.extended(**sizes)).prediction.float()


def refuse_missing(folder: Path, weights: Mapping[str, Tensor], saved: torch.dtype) -> None:
    """Raises OSError when a trained tensor is in none of the files, exact or rounded, under any name.

    Names are not compared, because files use those of several programs; the prediction depends on every tensor being in place.
    """
    found = {digest(tensor) for file in folder.glob("*.safetensors") for tensor in load_file(file).values()}
    missing = [name for name, tensor in weights.items() if found.isdisjoint({digest(tensor), digest(tensor.to(saved))})]
    if missing:
        raise OSError(f"{folder} does not contain the trained weights: {first_few(missing, 3)}")


def digest(tensor: Tensor) -> bytes:
    """A hash of the number format and the bits of a tensor."""
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return blake2b(data.numpy().tobytes(), digest_size=16, person=str(tensor.dtype).encode()[-16:]).digest()


@contextmanager
def loaded_into(family: Family, folder: Path) -> Iterator[None]:
    """Inside the context the family has the adapters and words that are saved in `folder` in place of the trained ones."""
    files = find_learned(str(family.source), [(folder, 1.0)]).files
    with without_adapters(*family.trainable.values()), without_words(family, files):
        for file in files:
            load_words(family, file)
        beside = [file for file in files if file.is_adapter]
        loaded = add_adapters(family, beside, partial=False)[0] if beside else []
        for adapter in loaded:
            adapter.set_scale(1.0)
        try:
            yield
        finally:
            for adapter in loaded:  # restores weights that an adapter changes in place
                adapter.set_scale(0.0)


@contextmanager
def without_adapters(*networks: nn.Module) -> Iterator[None]:
    """Inside the context the base model's own modules replace the adapter layers around them. Layers that are added meanwhile
    are removed at the end."""
    trained = tuner_places(networks)
    configs = [vars(network).pop("peft_config", None) for network in networks]
    for parent, name, layer in trained:
        setattr(parent, name, layer.get_base_layer())
    try:
        yield
    finally:
        for parent, name, layer in tuner_places(networks):
            setattr(parent, name, layer.get_base_layer())
        for parent, name, layer in trained:
            setattr(parent, name, layer)
        for network, config in zip(networks, configs, strict=True):
            vars(network).pop("peft_config", None)
            if config is not None:
                vars(network)["peft_config"] = config


def tuner_places(networks: tuple[nn.Module, ...]) -> list[tuple[nn.Module, str, nn.Module]]:
    """(parent, attribute name, layer) of each adapter layer."""
    parents = [parent for network in networks for parent in network.modules()]
    return [(parent, name, child) for parent in parents for name, child in parent.named_children() if is_tuner_layer(child)]


@contextmanager
def without_words(family: Family, files: tuple[LearnedFile, ...]) -> Iterator[None]:
    """Inside the context the vectors of learned words are zero, if the files hold words; `load_words` fills them."""
    hold_words = any(file.placeholders for file in files)
    vectors = [each for encoder in family.text_encoders if hold_words for each in encoder.vectors.values()]
    trained = [each.detach().clone() for each in vectors]
    for each in vectors:
        each.data.zero_()
    try:
        yield
    finally:
        for each, own in zip(vectors, trained, strict=True):
            each.data.copy_(own)


def load_words(family: Family, file: LearnedFile) -> None:
    """Gives the words of a file, which the family already has, the vectors of the file."""
    tensors, encoders = read_tensors(file) if file.placeholders else {}, family.text_encoders
    for placeholder, names in file.placeholders.items():
        if any(placeholder not in encoder.vectors for encoder in encoders):
            raise InputError(Problem(str(file.path), f"contains the word {placeholder}, which was not trained", "train again"))
        try:
            own = vectors_by_encoder(encoders, {name: tensors[name] for name in names})
        except ValueError as error:
            raise InputError(Problem(str(file.path), f"{placeholder} {error}", "train again")) from error
        LoadedWords([(encoder.vectors[placeholder], each) for encoder, each in zip(encoders, own, strict=True)]).set_scale(1.0)


def predictions_of_model(
    model: Path, family: Family, prompt: str, saved: torch.dtype, condition: Condition | None
) -> list[Tensor]:
    """The predictions of the family with each saved network in turn in place of its own.

    One saved network is in memory at a time. Raises OSError when a tensor, a tokenizer or the scheduler differs.
    """
    tokenizers = [(each.tokenizer, family.load_component(model, each.tokenizer_folder)) for each in family.text_encoders]
    same_tokens = all(own(prompt).input_ids == saved_one(prompt).input_ids for own, saved_one in tokenizers)
    known = noise_levels if model.is_file() else configuration  # a single file has no scheduler, only its noise levels
    if not same_tokens or known(family.load_component(model, "scheduler")) != known(family.scheduler):
        raise OSError(f"{model} has another tokenizer or scheduler than the model that was trained")
    predictions = []
    for part, trained in family.components.items():
        fresh = family.load_component(model, part).eval().to(family.device)
        refuse_different(model / part, trained, fresh, saved)
        predictions.append(prediction_of(family.with_component(part, fresh), prompt, condition))
    return predictions


def configuration(scheduler: Any) -> dict[str, Any]:
    """The class and the configuration of a scheduler, without diffusers' own entries (`_use_default_values`, ...)."""
    plain = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return {"class": type(scheduler).__name__, **plain}


def noise_levels(scheduler: Any) -> list[Any]:
    """What determines a scheduler's noise levels and prediction type."""
    return [scheduler.config.get(name) or None for name in (*sorted(NOISE), "prediction_type", "rescale_betas_zero_snr")]


def refuse_different(folder: Path, trained: nn.Module, fresh: nn.Module, saved: torch.dtype) -> None:
    """Raises OSError when the tensors of two networks differ by more than rounding to `saved`."""
    own, theirs = trained.state_dict(), fresh.state_dict()
    different = [
        name
        for name in sorted(own.keys() | theirs.keys())
        if name not in own or name not in theirs or not is_rounded(theirs[name], own[name], saved)
    ]
    if different:
        raise OSError(f"{folder} does not contain the trained weights: {first_few(different, 3)}")


def is_rounded(found: Tensor, expected: Tensor, saved: torch.dtype) -> bool:
    """Whether two tensors are equal, exactly or after rounding to `saved`."""
    return torch.equal(found, expected) or torch.equal(found, expected.to(saved).to(found.dtype))
