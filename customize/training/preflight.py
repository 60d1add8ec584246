"""Checks everything that a training run needs, and reports all problems at once, before torch is imported."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from customize import events
from customize.data import kohya_folder
from customize.data.buckets import uses
from customize.data.examples import USUAL_RESOLUTION, Examples, examine_examples, missing_class_images
from customize.data.findings import Findings
from customize.data.images.image_file import open_image
from customize.data.mask_files import beside
from customize.data.masked_crops import hidden_subjects
from customize.diffusion.loss_weights import NOISE
from customize.diffusion.timestep_sampling import LEVELS
from customize.errors import InputError, Problem
from customize.evaluation.masks.given import given_masks
from customize.evaluation.probe_prompts import encoded_texts, probes_of
from customize.evaluation.scorers import at_hand
from customize.families import Source, locate
from customize.families.files import prompt_embeddings
from customize.families.files.autoencoder import locate_autoencoder
from customize.families.source import known_token_problems, refuse_clip_skip, refuse_noise_weighting, refuse_zero_snr
from customize.families.specs import spec_of
from customize.families.specs.text_limits import too_long
from customize.printable import first_few
from customize.settings import derived, environment, sharding_request
from customize.settings.files import run_folders
from customize.settings.rules.bucket_rules import bound_problems
from customize.settings.rules.training_rules import warmup_problems
from customize.settings.training_parts.evaluation import WITH_PICTURES
from customize.settings.training_parts.validation_prompts import sample_prompts
from customize.storage import run_folder
from customize.storage.untrusted_files import attempt
from customize.training import output_folder
from customize.units import count
from customize.weights import init_weights

if TYPE_CHECKING:
    from customize.training.loop import Callback


@dataclass(frozen=True)
class Report:
    """The results of all checks. folder, source: None where they failed; examples: the valid ones."""

    folder: Path | None
    source: Source | None
    examples: Examples
    resolution: int
    problems: tuple[Problem, ...]


def run(settings, callbacks: "Sequence[Callback]" = ()) -> Path:
    """Checks, then trains, or with `dry_run` reports what training would need; returns the run's folder."""
    folder, source, examples = check(settings)
    examples = with_lengths_for_the_hub(settings, source, examples)
    if removed := output_folder.removal(settings, folder):
        events.info(removed)
    if settings.dry_run:
        from customize.training.dry_run import run

        run(settings, folder, source, examples, callbacks)
        return folder
    with run_folders.made(settings, folder) as folder:
        from customize.training.run import run

        return run(settings.model_copy(update={"output_dir": str(folder)}), folder, source, examples, callbacks)


def check(settings) -> tuple[Path, Source, Examples]:
    """The run's folder, the located base model and the examples. Raises one InputError with every problem found."""
    report = examine(settings)
    problems = [*report.problems, *environment.lacking(settings), *sharding_request.problems(settings)]
    if problems or not report.folder or not report.source:
        raise InputError(problems)
    return report.folder, report.source, report.examples


def examine(settings) -> Report:
    """Runs all checks; the report holds every problem found."""
    problems: list[Problem] = []
    folder = attempt(lambda: output_folder.check(settings), problems)
    if settings.latents_cache_dir:
        attempt(lambda: run_folder.check_place("latents_cache_dir", Path(settings.latents_cache_dir)), problems)
    attempt(lambda: check_class_folder(settings), problems)
    source = attempt(lambda: check_source(settings), problems)
    if settings.vae:
        attempt(lambda: locate_autoencoder(settings.vae), problems)
    resolution = settings.resolution or (spec_of(source).resolution(source) if source else None) or USUAL_RESOLUTION
    if settings.resolution is None and source:
        problems += bound_problems(resolution, settings.min_bucket_reso, settings.max_bucket_reso)
    examples, found = examine_examples(settings, resolution)
    problems += [*found, *too_many_class_images(settings, examples)]
    if settings.masked_loss and not found:
        problems += attempt(lambda: list(hidden_subjects(settings, examples.instances, resolution)), problems) or []
    if settings.max_train_steps is None and examples.instances and not found:
        steps = derived.max_train_steps(settings, uses(settings, examples.instances, resolution), derived.processes())
        problems += warmup_problems(settings.lr_scheduler, settings.lr_warmup_steps, steps)
        for name, own in settings.other_warmups.items():
            problems += warmup_problems(settings.lr_scheduler, own, steps, setting=name)
    if settings.evaluation in WITH_PICTURES[1]:
        problems += evaluation_problems(settings, examples)
    if settings.init_weights:
        problems += attempt(lambda: list(init_weights.problems(settings)), problems) or []
    problems += enlarging_problems(settings, source, examples) if source else []
    if source and settings.prompt_embeddings:
        problems += attempt(lambda: missing_prompts(settings, examples), problems) or []
    problems += filter(None, (spec_of(source).prompt_problem(text) for text in sample_prompts(settings) if source))
    if source and not source.is_remote:
        examples = attempt(lambda: check_lengths(settings, source, examples), problems) or examples
    return Report(folder, source, examples, resolution, tuple(problems))


def too_many_class_images(settings, examples: Examples) -> list[Problem]:
    """The problem of more class images to generate than `max_images`, or beside those of kohya's layout."""
    for place, part in enumerate(settings.parts):
        present = sum(example.concept == place for example in examples.classes)
        if part.class_images > present and kohya_folder.subsets(part.class_folder):
            what = f"is {part.class_images:,}, but the folders in class_data_dir have {present:,} images"
            return [Problem("num_class_images", what, "leave it out to use all of them")]
        if part.class_images > present and part.class_image_captions == "files":
            what = f"files are missing: {part.class_images - present:,} class images would be generated, which have no captions"
            return [Problem("class_image_captions", what, "add images with captions, or give auto")]
    missing = missing_class_images(settings, examples)
    if not missing or missing <= settings.max_images:
        return []
    what = f"{missing:,} class images would be generated, more than max_images = {settings.max_images:,}"
    return [Problem("num_class_images", what, f"reduce it, or add --max_images {missing}")]


def enlarging_problems(settings, source: Source, examples: Examples) -> list[Problem]:
    """What a super-resolution model cannot do in training, and the images that only it enlarges."""
    problems: list[Problem] = []
    for path in settings.validation_images:
        attempt(lambda path=path: open_image(path), problems)
    if not spec_of(source).enlarges(source):
        what = f"are for super-resolution models, and {source.name} is none"
        return problems + ([Problem("validation_images", what, "leave it out")] if settings.validation_images else [])
    missing, remedy = missing_class_images(settings, examples), "leave it out, or give evaluation = loss"
    if missing:
        what = f"lacks {missing} of {settings.class_images} images, and {source.name}, which enlarges images, generates none"
        problems.append(Problem("class_data_dir", what, "add images, or set prior_preservation = teacher"))
    if settings.evaluation == "pictures":
        problems.append(Problem("evaluation", f"pictures are not measured of {source.name}, which enlarges images", remedy))
    return problems


def evaluation_problems(settings, examples: Examples) -> list[Problem]:
    """What is wrong with the scorer, and with masks beside the images, if the loss has none."""
    scorer, masks = at_hand.problem(settings.scorer), Findings()
    given_masks([each for each in examples.instances if not settings.masked_loss and beside(each)], None, masks)
    return [*([scorer] if scorer else []), *masks.problems]


def missing_prompts(settings, examples: Examples) -> list[Problem]:
    """The problem of prompts and captions that the file of encoded prompts lacks."""
    texts = [*sample_prompts(settings), *settings.prompts.values()]
    texts += [text for part in settings.parts for text in part.default_validation_prompts[:1]]
    texts += [text for example in (*examples.instances, *examples.held_out, *examples.classes) for text in example.captions]
    if settings.evaluation != "none":
        texts += [concept.plain for concept in settings.concepts]
    if settings.evaluation == "pictures":
        probes = probes_of(settings.concepts, settings.validation_prompt and sample_prompts(settings) or ())
        texts += [text for concept, own in zip(settings.concepts, probes, strict=True) for text in encoded_texts(concept, own)]
    return prompt_embeddings.missing(settings.prompt_embeddings, [*texts, ""], settings.pretrained_model_name_or_path)


def check_class_folder(settings) -> None:
    """Raises InputError if class images could not be written."""
    for folder in dict.fromkeys(filter(None, (part.class_folder for part in settings.parts))):
        run_folder.check_place("class_data_dir", Path(folder))


def check_source(settings) -> Source:
    """The located base model. Raises InputError if it cannot be trained, or already knows a new word."""
    if settings.untrained:
        if problems := timestep_problems(settings, settings.untrained):
            raise InputError(problems)
        return settings.untrained
    source = locate(
        settings.pretrained_model_name_or_path, revision=settings.revision, variant=settings.variant,
        prediction_type=settings.prediction_type, rescale_betas_zero_snr=settings.rescale_betas_zero_snr,
        prompt_embeddings=settings.prompt_embeddings,
    )  # fmt: skip
    spec = spec_of(source)
    if settings.rescale_betas_zero_snr:
        refuse_zero_snr(spec.prediction_type(source))
    if settings.weighting == (NOISE, 0.0):
        refuse_noise_weighting(spec.prediction_type(source))
    if problems := timestep_problems(settings, source):
        raise InputError(problems)
    if problem := spec.not_trainable(source):
        raise InputError(problem)
    if settings.clip_skip:
        refuse_clip_skip(settings.clip_skip, spec.most_clip_skip(source))
    encoders = len(spec.networks) - 1
    if not encoders and (settings.placeholders or settings.trains_text_encoders):
        name = "train_text_encoder" if settings.trains_text_encoders else "placeholder_token"
        what = f"{spec.title} has no text encoder that can be trained, and none that learns words"
        raise InputError(Problem(name, what, "leave it out, or use Stable Diffusion 1.x, 2.x or XL"))
    for name, rates in settings.other_learning_rates.items():
        if len(rates) not in (1, encoders):
            what = f"has {len(rates)} values; {spec.title} has {count(encoders, 'text encoder')}"
            raise InputError(Problem(name, what, "give one value, or one for each"))
    if settings.leaves_out_text_encoder and not spec.load_prompts:
        what = f"leaves out a text encoder that is large; that of {spec.title} is small, and a saved pipeline is complete"
        raise InputError(Problem("skip_save_text_encoder", what, "leave it out, and delete text_encoder/ if you do not need it"))
    if settings.writes_model_file:
        spec.refuse_single_file(source)
    if problems := known_token_problems(spec.vocabulary(source), tuple(settings.placeholders)):
        raise InputError(problems)
    return source


def timestep_problems(settings, source: Source) -> list[Problem]:
    """The problems of bounds on timesteps that the base model's noise schedule does not have."""
    if (settings.min_timestep, settings.max_timestep) == (0, LEVELS):
        return []
    levels = spec_of(source).num_levels(source) or LEVELS
    bounds = ("min_timestep", settings.min_timestep, levels - 1), ("max_timestep", settings.max_timestep % LEVELS, levels)
    what = f"is beyond the {levels} timesteps of {source.name}"
    return [Problem(name, f"{value} {what}", f"give at most {most}") for name, value, most in bounds if value > most]


def with_lengths_for_the_hub(settings, source: Source | None, examples: Examples) -> Examples:
    """As `check_lengths` for a model on the hub, whose tokenizer is slow to import: called after all other checks."""
    return check_lengths(settings, source, examples) if source and source.is_remote else examples


def check_lengths(settings, source: Source, examples: Examples) -> Examples:
    """Returns the examples with a note on captions and prompts that the text encoder reads in several chunks. Raises InputError
    for longer ones than it can read."""
    of_text: dict[str, list[str]] = {text: ["validation_prompt"] for text in sample_prompts(settings)}
    of_text |= {text: [name] for name, text in settings.prompts.items()}
    for example in examples.instances:
        for caption in example.captions:
            of_text.setdefault(caption, []).append(example.name)
    found = too_long(spec_of(source).text_limits(source), list(of_text), settings.placeholders)
    if not found:
        return examples
    problems = [
        Problem(
            f"{text if len(text) <= 60 else f'{text[:57]}...'!r} ({first_few(of_text[text], 3)})",
            f"is too long: {tokens} tokens, more than {limit.most}", "shorten it",
        )
        for text, tokens, limit in found if tokens > limit.most
    ]  # fmt: skip
    if problems:
        raise InputError(problems)
    named = first_few([f"{first_few(of_text[text], 3)} ({tokens} tokens)" for text, tokens, _ in found])
    at_once = found[0].limit.at_once
    note = f"longer than the {at_once} tokens that the text encoder reads at once, so read in chunks, as infer.py does: {named}"
    return replace(examples, notes=(*examples.notes, note))
