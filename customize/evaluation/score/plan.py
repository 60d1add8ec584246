"""Checks everything that a measurement needs, and says what is measured and where it goes. torch is not imported."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from customize import families
from customize.data.example import Example
from customize.data.examples import USUAL_RESOLUTION, examine_examples, load_photos
from customize.errors import InputError, Problem
from customize.evaluation import record
from customize.evaluation.photos import of_concept
from customize.evaluation.probe_prompts import MOST_STEPS, encoded_texts, pairs, probe_prompts
from customize.evaluation.record import Evaluation, ProbePrompt
from customize.evaluation.score.subject import SETTING, Subject, Target, concept_of, find, place_of_concept
from customize.evaluation.scorers import at_hand
from customize.families.files import prompt_embeddings
from customize.families.specs import spec_of
from customize.settings import environment
from customize.settings.concept import Concept
from customize.settings.files.prompt_file import read_prompts
from customize.settings.scoring import ScoreSettings
from customize.settings.training_parts.validation_prompts import sample_prompts
from customize.storage import lock, run_folder
from customize.storage.untrusted_files import attempt
from customize.weights.learned_weights import Learned, find_learned

OF_THE_BASE = ("revision", "variant", "prediction_type", "rescale_betas_zero_snr")
"""Settings with which the base model is located."""
OTHERS = (
    "prompt",
    "class_prompt",
    "validation_prompt",
    "prompt_file",
    "evaluation_seeds",
    "num_inference_steps",
    "guidance_scale",
)
"""Settings that make other pictures than those that a run draws of itself."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    evaluation: prompts, pairs and what is known already; missing: the weights and scales that are yet to be measured; photos:
    those that pictures are compared with; base, base_options: the base model, as for `load_pipeline`; options: of
    `Pipeline.generate`; clip_skip, whole_batches: how prompts are encoded; folder: where the results go, None for a new one; why:
    why that is not the run's folder; continues: whether pictures that are there belong to this evaluation; again: whether
    what is measured already is measured again.
    """

    subject: Subject
    evaluation: Evaluation
    missing: tuple[tuple[Target, float], ...]
    photos: tuple[Example, ...]
    base: str
    base_options: dict[str, Any]
    options: dict[str, Any]
    scorer: str
    precision: str
    concept: Concept
    clip_skip: int | None
    whole_batches: bool
    folder: Path | None
    why: str
    continues: bool
    again: bool


def plan(settings: ScoreSettings) -> Plan:
    """Checks everything, and plans the measurement. Raises one InputError with all problems."""
    problems: list[Problem] = []
    subject = find(settings)  # all else depends on it
    learned = attempt(lambda: read_weights(settings, subject), problems)
    stored = stored_settings(subject, learned)
    base = attempt(lambda: base_of(settings, subject, learned), problems) or "demo"
    base_options = {name: stored.get(name) for name in OF_THE_BASE} | {"prompt_embeddings": settings.prompt_embeddings}
    source = attempt(lambda: families.locate(base, **base_options), problems)
    resolution = stored.get("resolution") or (spec_of(source).resolution(source) if source else None) or USUAL_RESOLUTION
    prompts = attempt(lambda: prompts_of(settings, subject, learned), problems)
    if source and prompts and (encoded := settings.prompt_embeddings):
        problems += attempt(lambda: prompt_embeddings.missing(encoded, [*encoded_texts(*prompts), ""], base), problems) or []
    photos = attempt(lambda: photos_of(settings, subject, resolution), problems)
    scorer = settings.scorer or stored.get("scorer", "auto")
    chosen = attempt(lambda: at_hand.choose(scorer), problems)
    precision = settings.mixed_precision or stored.get("mixed_precision", "no")
    problems += environment.fp16_problems(settings.model_copy(update={"mixed_precision": precision}))
    attempt(lambda: check_folders(settings, subject), problems)
    if problems or not (prompts and photos and chosen):
        raise InputError(problems)
    concept, texts = prompts
    options = sampling(settings, stored)
    seeds = settings.evaluation_seeds or stored.get("evaluation_seeds", 2)
    new = Evaluation(
        concept.kind, concept.trigger, concept.class_word, chosen.reason, len(photos), texts, pairs(texts, seeds),
        steps=max(each.step for each in subject.targets), chosen=subject.result, options=options,
    )  # fmt: skip
    folder, why, evaluation = place(settings, subject, new)
    continues = bool(folder and (earlier := recorded(folder)) and earlier.pairs and not difference(earlier, new))
    missing = tuple(each for each in wanted(settings, subject) if settings.again or not is_measured(evaluation, *each))
    learns_texts = bool(subject.settings and subject.settings.trains_text_encoders)
    return Plan(
        subject, evaluation, missing, photos, base, {**base_options, "vae": stored.get("vae")}, {**options, **sizes(stored)},
        scorer, precision, concept, stored.get("clip_skip"), learns_texts, folder, why, continues, settings.again,
    )  # fmt: skip


def stored_settings(subject: Subject, learned: Learned | None) -> Mapping[str, Any]:
    """The settings of the run, or those in the metadata of a file."""
    if subject.settings:
        return dict(subject.settings)
    files = (*([learned.network] if learned and learned.network else []), *(learned.files if learned else ()))
    found = next((each.metadata["settings"] for each in files if "settings" in each.metadata), {})
    return {name: value for name, value in found.items() if name in OF_THE_BASE or name == "clip_skip"}


def read_weights(settings: ScoreSettings, subject: Subject) -> Learned:
    """The weights of the last target, after all have been checked. Raises InputError."""
    given = settings.pretrained_model_name_or_path or (subject.settings and subject.settings.pretrained_model_name_or_path)
    problems: list[Problem] = []
    found = [
        attempt(lambda each=each: find_learned(None if each.model else given, [(each.path, 1.0)]), problems)
        for each in subject.targets
    ]
    if settings.scales and any(each.model for each in subject.targets):
        problems.append(Problem("scales", f"{subject.name} is a complete model, which has no scale", "leave it out"))
    if problems or not (last := found[-1]):
        raise InputError(problems)
    return last


def base_of(settings: ScoreSettings, subject: Subject, learned: Learned | None) -> str:
    """The name of the base model. Raises InputError for a complete model that does not say what it was made of."""
    if settings.pretrained_model_name_or_path:
        return settings.pretrained_model_name_or_path
    if subject.settings:
        return subject.settings.pretrained_model_name_or_path
    if subject.targets[0].model is None:
        return (learned.base if learned else None) or "demo"
    if name := (learned.base_metadata if learned else {}).get("base_model"):
        return name
    what = "is missing: a complete model is compared with the one that it was made of"
    raise InputError(Problem("pretrained_model_name_or_path", what, "name the base model"))


def prompts_of(
    settings: ScoreSettings, subject: Subject, learned: Learned | None
) -> tuple[Concept, tuple[ProbePrompt, ...]]:  # fmt: skip
    """The concept, and the prompts of its pictures. Raises InputError."""
    further = (*settings.validation_prompt, *(read_prompts(settings.prompt_file) if settings.prompt_file else ()))
    of_it = subject.settings
    if not further and of_it and of_it.validation_prompt:
        further = sample_prompts(of_it)
    concept = concept_of(settings, subject, learned)
    return concept, probe_prompts(concept, further)


def photos_of(settings: ScoreSettings, subject: Subject, resolution: int) -> tuple[Example, ...]:
    """The images that pictures are compared with. Raises InputError."""
    if settings.photos:
        return load_photos(settings.photos, "photos")
    if subject.settings is None:
        what = "is missing: a file does not say what it was taught"
        raise InputError(Problem("photos", what, "name the folder with images of the concept"))
    found, problems = examine_examples(subject.settings, resolution)
    if problems:
        remedy = "give the images with --photos DIR"
        raise InputError(Problem(each.where, each.what, remedy) for each in problems)
    place = place_of_concept(settings, subject)
    own = [example for example in found.instances if subject.settings.shows(place, example)]
    return tuple(of_concept(own, subject.settings.concepts[place]))


def check_folders(settings: ScoreSettings, subject: Subject) -> None:
    """Raises InputError for folders that cannot be written to, and for a run that is going on."""
    if settings.output_dir:
        run_folder.check_place("output_dir", Path(settings.output_dir))
    if subject.run is None:
        return
    try:
        lock.check(subject.run)
    except InputError as error:
        remedy = "wait for it to end, or stop it"
        raise InputError(Problem(SETTING, each.what, remedy) for each in error.problems) from error


def sampling(settings: ScoreSettings, stored: Mapping[str, Any]) -> dict[str, Any]:
    """How pictures are drawn: options of `Pipeline.generate` apart from their size, as a run records them."""
    scale = settings.guidance_scale
    return {
        "num_inference_steps": settings.num_inference_steps or min(stored.get("sample_inference_steps", 25), MOST_STEPS),
        "guidance_scale": stored.get("sample_guidance_scale", 7.5) if scale is None else scale,
        "scheduler": stored.get("validation_scheduler"),
    }


def sizes(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The size of pictures, as options of `Pipeline.generate`."""
    return {"height": stored.get("resolution"), "width": stored.get("resolution")}


def place(settings: ScoreSettings, subject: Subject, new: Evaluation) -> tuple[Path | None, str, Evaluation]:
    """The folder of the results, why it is not that of the run, and the record to go on with: what is there already, where that
    belongs together with `new`. Raises InputError for an `output_dir` with other measurements."""
    named = Path(settings.output_dir) if settings.output_dir else None
    given = dict(settings)
    why = next((f"{name} is given" for name in OTHERS if given[name] not in (None, ())), "")
    folder = named or (subject.run if not why else None)
    earlier = recorded(folder) if folder else None
    if earlier is None:
        return folder, why if subject.run and not named else "", new
    own = replace(new, held_out=earlier.held_out, steps=max(earlier.steps, new.steps), words=earlier.words)
    own = replace(own, stopped=earlier.stopped, chosen=earlier.chosen or new.chosen, seconds=earlier.seconds)
    if differs := difference(earlier, new):
        if settings.again:
            return folder, "", with_losses_of(own, earlier)
        if named:
            what = f"{folder} has measurements with other {differs}"
            raise InputError(Problem("output_dir", what, "name another folder, or add --again to replace them"))
        return None, f"the run was measured with other {differs}; --again replaces that", new
    if not earlier.pairs:
        return folder, "", with_losses_of(own, earlier)
    return folder, "", replace(earlier, steps=own.steps, chosen=own.chosen, options=own.options)


def recorded(folder: Path) -> Evaluation | None:
    """The record in a folder, if there is one. Raises InputError for a damaged one."""
    return record.read(folder) if record.place_of(folder).exists() else None


def difference(earlier: Evaluation, new: Evaluation) -> str:
    """In what an earlier record with pictures was measured otherwise; empty if it was not."""
    if not earlier.pairs:
        return ""
    for name in ("prompts", "pairs", "photos", "scorer", "options"):
        if getattr(earlier, name) != getattr(new, name) and not (name == "options" and not earlier.options):
            return name.replace("pairs", "seeds")
    return ""


def with_losses_of(new: Evaluation, earlier: Evaluation) -> Evaluation:
    """A record without numbers of pictures, with the losses of an earlier one."""
    return replace(new, candidates=tuple(replace(each, values={}) for each in earlier.candidates if each.losses))


def wanted(settings: ScoreSettings, subject: Subject) -> Iterator[tuple[Target, float]]:
    """The weights and scales that the settings ask for; the full scale is among them."""
    for target in subject.targets:
        for scale in sorted({1.0, *settings.scales}):
            yield target, scale


def is_measured(evaluation: Evaluation, target: Target, scale: float) -> bool:
    """Whether the record has numbers of these weights."""
    found = evaluation.candidate(target.step, scale)
    return found is not None and bool(found.values)
