"""The setting `upscalers`: super-resolution models that enlarge each image of a run, one after the other.

A stage is an image of its own in the grid, which starts from the one before it, as a link of a chain does. All images of a stage
are generated before the next model is loaded. torch is not needed here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from customize.errors import InputError, Problem
from customize.families.source import Source, family_of
from customize.families.specs import spec_of
from customize.inference.run.grid import NOT_SWEPT, Grid, ImageRequest, fit
from customize.inference.run.model_checks import check_model, with_guidance
from customize.printable import printable
from customize.settings.field import table
from customize.settings.files.sharing import shared_name
from customize.settings.inference import InferenceSettings
from customize.settings.suggestions import unknown
from customize.settings.texts import model_and_assignments

SETTING = "upscalers"
PREVIOUS = "the image before"
"""The image to enlarge of a stage, before that image exists."""
OF_THE_FIRST = (
    "pretrained_model_name_or_path", "revision", "variant", "prediction_type", "vae", "weights", "scale", "weights_dir",
    "partial_weights", "guidance_scale", "timesteps", "rescale_betas_zero_snr", "clip_skip", "height", "width", "hires_scale",
    "low_res_image", "noise_level", "wildcards_dir", "upscalers", "sweep",
)  # fmt: skip
"""Settings of the first model alone: a stage has its own, or the defaults."""


def staged(grid: Grid) -> Grid:
    """The grid with each image followed by those of its stages. Raises InputError with all problems."""
    texts = grid.requests[0].settings.upscalers
    if not texts:
        return grid
    problems: list[Problem] = []
    models = [read_upscaler(text, problems) for text in texts]
    if problems:
        raise InputError(problems)
    rows = [[each for request in row for each in (request, *stages(request, models))] for row in grid.rows]
    names = ["", *(f", {shared_name(model)}" for model, _ in models)]
    return replace(grid, rows=rows, column_labels=[f"{label}{name}" for label in grid.column_labels for name in names])


def stages(request: ImageRequest, models: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[ImageRequest]:
    """The image of each stage. Raises InputError for settings that do not go together."""
    kept = {name: value for name, value in request.settings.values().items() if name not in OF_THE_FIRST}
    for number, (model, own) in enumerate(models, 1):
        given = {**kept, "pretrained_model_name_or_path": model, "low_res_image": PREVIOUS, **own}
        if not spec_of(Source(model, family=family_of(model))).load_prompts and "prompt_embeddings" not in own:
            given.pop("prompt_embeddings", None)  # those of the first model's text encoder
        try:
            settings = with_guidance(InferenceSettings(**given))
        except InputError as error:
            raise InputError(of_stage(model, each) for each in error.problems) from error
        prompts, seed = settings.prompt if "prompt" in own else request.prompts, own.get("seed", request.seed)
        yield replace(request, settings=settings, prompts=prompts, seed=seed, link=number, link_to="low_res_image")


def check_model_of(settings: InferenceSettings) -> None:
    """`check_model` of the settings of an image, which may be that of a stage. Raises InputError."""
    try:
        check_model(settings)
    except InputError as error:
        if settings.low_res_image != PREVIOUS:
            raise
        raise InputError(of_stage(settings.pretrained_model_name_or_path or "", each) for each in error.problems) from error


def of_stage(model: str, found: Problem) -> Problem:
    """A problem of the settings or the model of a stage as one of `upscalers`."""
    if found.where == "pretrained_model_name_or_path":
        return replace(found, where=SETTING)
    return Problem(SETTING, f"{printable(model)}: {found.where} {found.what}", found.remedy)


def read_upscaler(text: str, problems: list[Problem]) -> tuple[str, Mapping[str, Any]]:
    """The model and the settings of `MODEL,name=value,name=value`; adds what is wrong to `problems`."""
    model, *assignments = model_and_assignments(text)
    known = {name: line for name, line in table(InferenceSettings).items() if name not in (*NOT_SWEPT, SETTING)}
    own: dict[str, Any] = {}
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        name = name.replace("-", "_")
        if name not in known:
            found = unknown(name, dict.fromkeys(known, ""))
            problems.append(Problem(SETTING, f"{printable(model)}: {found.where} {found.what}", found.remedy))
            continue
        try:
            own[name] = fit(value, known[name])
        except InputError as error:
            problems += [Problem(SETTING, f"{printable(model)}: {each.what}", each.remedy) for each in error.problems]
    return model, own
