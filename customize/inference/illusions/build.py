"""Builds the illusion that the setting `illusion` names.

B images, C latent channels, H W latent height and width.
"""

from collections.abc import Callable

from torch import Tensor

from customize.inference.illusions import illusion_estimates
from customize.inference.illusions.illusion_estimates import Components, Factorised, LookingGlass, anagram
from customize.inference.illusions.views import parse_view
from customize.inference.pipeline import Pipeline
from customize.inference.request import Composition
from customize.settings.inference import InferenceSettings

PARTS: dict[str, Callable[[], Components]] = {
    "hybrid": illusion_estimates.hybrid,
    "triple": illusion_estimates.triple,
    "colour": illusion_estimates.colour,
    "motion": illusion_estimates.motion,
}


def composition(settings: InferenceSettings, pipeline: Pipeline) -> Composition | None:
    """The composition of one image's prompts; None without an illusion. Raises InputError."""
    if settings.illusion == "none":
        return None
    if settings.illusion in PARTS:
        components = PARTS[settings.illusion]()
        if settings.image_part:
            return Composition(lambda estimates: estimates[0], kept=(components, components.names.index(settings.image_part)))
        return Composition(lambda estimates: Factorised(estimates, components))
    views = [parse_view(view) for view in settings.view]
    space = pipeline.family.latents
    if settings.illusion == "looking_glass":

        def encode(pixels: Tensor) -> Tensor:
            return space.sample(space.encode(pixels))

        return Composition(lambda estimates: LookingGlass(estimates, views, encode, space.decode), len(views))
    mode = "mean" if settings.illusion == "anagram" else "alternate"
    return Composition(lambda estimates: anagram(list(zip(estimates, views, strict=True)), mode, latent=space.factor > 1))
