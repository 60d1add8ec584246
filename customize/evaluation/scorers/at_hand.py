"""Which scorers there are on this machine, and which one is taken. Without torch: a wrong name is reported before anything loads.

Nothing is downloaded: weights come from a folder, the hub's cache or an installed package.
"""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from customize.errors import InputError, Problem
from customize.evaluation.scorers import EFFICIENTNET, Scorer
from customize.printable import printable
from customize.settings.files.sharing import shared_name
from customize.storage.json_files import read_object

if TYPE_CHECKING:
    from customize.families.base import Family
    from customize.families.conditioning import Conditioning

SETTING = "scorer"
FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
"""Of a model of transformers, in its folder or on the hub."""
MODEL_TYPES = ("dinov2", "dinov2_with_registers", "dinov3_vit", "clip", "siglip")
"""The architectures of transformers that can score; SigLIP 2 with a fixed resolution is "siglip"."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
LEAST = 0.6
"""A scorer whose likeness was found to agree less with the truth (rank correlation) is taken only by name."""
SIMPLEST = f"pip install {EFFICIENTNET}"
"""The command that brings a scorer which works with every base model."""
FACES = "faces are not measured: no embedding of faces is supported; likeness compares the whole subject"


class Known(NamedTuple):
    """A scorer with a name. weights: its name on the hub, its package, or "" where it needs none; agreement: the rank correlation
    of its likeness with what the judge of `demo` recognises, None where its weights could not be had."""

    name: str
    title: str
    weights: str = ""
    agreement: float | None = None


BASE = Known("base", "the base model's own features", agreement=0.87)
KNOWN = (
    Known("dinov3", "DINOv3", "facebook/dinov3-vitb16-pretrain-lvd1689m"),
    Known("dinov2", "DINOv2", "facebook/dinov2-base"),
    Known("siglip2", "SigLIP 2", "google/siglip2-base-patch16-224"),
    Known("clip", "CLIP", "openai/clip-vit-base-patch32"),
    BASE,
    Known("efficientnet", "EfficientNet-Lite0", EFFICIENTNET, 0.85),
)
"""`auto` takes the first that is at hand."""


class Chosen(NamedTuple):
    """The scorer to load. folder: of a model of transformers; reason: a sentence for the user."""

    known: Known
    folder: Path | None
    reason: str


def problem(setting: str) -> Problem | None:
    """What is wrong with a value of the setting: a name in `KNOWN`, "auto", a folder, or OWNER/NAME on the hub."""
    try:
        choose(setting)
    except InputError as error:
        return error.problems[0]
    return None


def best_at_hand(
    setting: str,
    family: "Family",
    condition: "Callable[[Sequence[str]], Conditioning]",
    device="cpu",
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> tuple[Scorer | None, str]:
    """The scorer that the setting names, and a sentence that says which it is and why; None if the base model is to score itself
    and its denoiser is no UNet. family ... autocast: as in `base_model.BaseModelScorer`. Raises InputError."""
    chosen = choose(setting)
    if chosen.known == BASE:
        from customize.evaluation.scorers.base_model import BaseModelScorer, supports

        if not supports(family):
            return None, f"not scored: this base model cannot score images, and no other scorer is here ({SIMPLEST})"
        return BaseModelScorer(family, condition, device, autocast), chosen.reason
    if chosen.folder:
        from customize.evaluation.scorers.transformers_models import TransformersScorer

        return TransformersScorer(chosen.folder, chosen.known.title, device), chosen.reason
    from customize.evaluation.scorers.efficientnet import EfficientNetScorer

    return EfficientNetScorer(device), chosen.reason


def choose(setting: str) -> Chosen:
    """The scorer that the setting names, or the best at hand for "auto". Raises InputError."""
    if setting == "auto":
        return automatic()
    if known := next((each for each in KNOWN if each.name == setting), None):
        if not at_hand(known):
            what = f"{known.title} is not on this machine"
            raise InputError(Problem(SETTING, what, f"use auto, or fetch it: {command(known.weights)}"))
        return Chosen(known, cached(known.weights), f"scored by {known.title}, as set")
    folder = Path(os.path.expanduser(setting))
    if not folder.is_dir():
        folder = cached(setting)
    if folder is None:
        names = ", ".join(["auto", *(each.name for each in KNOWN)])
        fetch = f"; or fetch it: {command(setting)}" if HUB_NAME.fullmatch(setting) else ""
        what = f"{printable(setting)} is none of {names}, no folder, and not in the hub's cache"
        raise InputError(Problem(SETTING, what, f"use one of these names, or the folder of a model of transformers{fetch}"))
    check(folder, setting)
    title = printable(shared_name(setting))
    return Chosen(Known(title, title), folder, f"scored by {title}, as set")


def automatic() -> Chosen:
    """The first of `KNOWN` that is at hand and agrees with the truth; the base model itself is always at hand."""
    good = [each for each in KNOWN if each.agreement is None or each.agreement >= LEAST] or [BASE]
    best = next((each for each in good if at_hand(each)), BASE)
    missing = ", ".join(each.title for each in KNOWN[: KNOWN.index(best)] if each in good)
    reason = f"the best on this machine (better, but not here: {missing})" if missing else "the best"
    return Chosen(best, cached(best.weights), f"scored by {best.title}, {reason}")


def at_hand(known: Known) -> bool:
    """Whether the weights of a scorer are on this machine."""
    if known.weights == EFFICIENTNET:
        return any(metadata.distributions(name=EFFICIENTNET))
    return known == BASE or cached(known.weights) is not None


def cached(name: str) -> Path | None:
    """The folder of a model in the hub's cache, if all its files are there."""
    from huggingface_hub import try_to_load_from_cache

    if not HUB_NAME.fullmatch(name):
        return None
    found = [try_to_load_from_cache(name, file) for file in FILES]
    return Path(str(found[0])).parent if all(isinstance(each, str) for each in found) else None


def check(folder: Path, setting: str) -> None:
    """Raises InputError if a folder does not contain a model of transformers that can score."""
    remedy = f"give a model as transformers saves it, with its image processor: {', '.join(MODEL_TYPES)}"
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise InputError(Problem(SETTING, f"{printable(setting)} has no {' and no '.join(missing)}", remedy))
    try:
        kind = read_object(folder / "config.json").get("model_type")
    except ValueError as error:
        raise InputError(Problem(SETTING, f"{printable(folder / 'config.json')}: {printable(error)}", remedy)) from error
    if kind not in MODEL_TYPES:
        raise InputError(Problem(SETTING, f"{printable(setting)} is {printable(repr(kind), 60)}, which cannot score", remedy))


def command(weights: str) -> str:
    """The command that brings weights onto this machine."""
    return SIMPLEST if weights == EFFICIENTNET else f"hf download {printable(weights)}"
