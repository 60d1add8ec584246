"""Settings of what a training run measures of itself, and of what follows from it. Part of `training.TrainingSettings`."""

from typing import Literal

from customize.settings.common import Settings
from customize.settings.field import setting

WITH_PICTURES = ("evaluation", ("auto", "pictures"))


Evaluation = Literal["auto", "pictures", "loss", "none"]


class EvaluationSettings(Settings):
    """Whether a run draws pictures that show what was learned, and which weights are its result."""

    evaluation: Evaluation = setting(
        "auto", "output", "what is measured during the run: pictures that show whether the concept was learned, and the loss on "
        "fixed samples; or that loss alone, as with auto where validation_prompt is none or a step takes a minute",
    )  # fmt: skip
    num_candidates: int | None = setting(
        None, "output", "steps, evenly spread and the last one among them, whose weights are measured by pictures", ge=1, le=100,
        only_with=WITH_PICTURES, default_in_words="4, or as many as cost no more than the training, at least 1",
    )  # fmt: skip
    evaluation_seeds: int = setting(
        2, "output", "pictures of each prompt of the concept by which weights are measured", ge=1, le=64, only_with=WITH_PICTURES
    )
    keep: Literal["best", "last"] = setting(
        "best", "output", "which weights are the result: the best of those that were measured by pictures, or the last",
        only_with=WITH_PICTURES,
    )  # fmt: skip
    scorer: str = setting(
        "auto", "output", "what compares pictures: auto takes the best at hand; base, the base model itself; dinov3, dinov2, "
        "siglip2, clip or efficientnet; or the folder or hub name of a model of transformers", text="model",
        only_with=WITH_PICTURES,
    )  # fmt: skip
    stop: Literal["off", "auto"] = setting(
        "off", "output", "end the run when its pictures have not become better for a while", only_with=WITH_PICTURES
    )
