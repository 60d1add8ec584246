"""Builds the illusion that the setting `illusion` names.

B images, C latent channels, H W latent height and width.
"""

from collections.abc import Callable

from torch import Tensor

from customize.inference.illusions import components
from customize.inference.illusions.components import Components
from customize.inference.illusions.illusion_estimates import Factorised, LookingGlass, anagram
from customize.inference.illusions.views import parse_view
from customize.inference.pipeline import Pipeline
from customize.inference.request import Composition
from customize.settings.inference import InferenceSettings

PARTS: dict[str, Callable[[InferenceSettings], Components]] = {
    "hybrid": lambda settings: components.hybrid(settings.hybrid_blur),
    "triple": lambda settings: components.triple(),
    "colour": lambda settings: components.colour(),
    "motion": lambda settings: components.motion(),
}


def composition(settings: InferenceSettings, pipeline: Pipeline) -> Composition | None:
    """The composition of one image's prompts; None without an illusion. Raises InputError."""
    if settings.illusion == "none":
        return None
    if settings.illusion in PARTS:
        parts = PARTS[settings.illusion](settings)
        if settings.image_part:
            return Composition(lambda estimates: estimates[0], kept=(parts, parts.names.index(settings.image_part)))
        return Composition(lambda estimates: Factorised(estimates, parts))
    views = [parse_view(view) for view in settings.view]
    space = pipeline.family.latents
    if settings.illusion == "looking_glass":

        def encode(pixels: Tensor) -> Tensor:
            return space.sample(space.encode(pixels))

        return Composition(lambda estimates: LookingGlass(estimates, views, encode, space.decode), len(views))
    mode = "mean" if settings.illusion == "anagram" else "alternate"
    return Composition(lambda estimates: anagram(list(zip(estimates, views, strict=True)), mode, negates=space.negates))
