"""The first and last lines of a training run: what is trained on what, the result, and the next command."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from customize import units
from customize.data import bucket_report
from customize.data.bucket_report import in_words
from customize.data.buckets import Buckets
from customize.data.examples import Examples, missing_class_images
from customize.data.samples import concept_turns
from customize.data.samples.on_demand import BYTES
from customize.data.samples.streaming import Streamed
from customize.device import Machine
from customize.evaluation import verdict_words
from customize.evaluation.probe_prompts import pairs
from customize.evaluation.record import Evaluation
from customize.families import Source
from customize.families.specs import spec_of
from customize.inference.run.base_summary import Rows, base_rows, device_rows
from customize.next_command import command_line
from customize.optim.optimizers import DEFAULT
from customize.printable import printable
from customize.settings import sharding_request
from customize.settings.training_parts.validation_prompts import MOST_WORDS, are_made, images_per_prompt
from customize.storage.json_files import read_object
from customize.storage.run_folder import BEFORE_AFTER, INDEX, KOHYA_LORA, LORA, MODEL, REPORT, SAMPLES, SCHEDULER, SHEET
from customize.training import model_card


def before_loading(settings, folder: Path, source: Source, examples: Examples, machine: Machine) -> Rows:
    """The rows before the base model is loaded."""
    resolution = settings.resolution or spec_of(source).resolution(source)
    yield from base_rows(source, distilled="training undoes that; train on the model it was made of, and use the result with it")
    yield "method", printable(settings.description)
    yield "images", images(settings, examples, resolution)
    if settings.parts[1:]:
        yield "concepts", printable(concept_turns.in_words(settings, examples.instances))
    if resolution:
        yield from bucket_report.rows(settings, examples.instances, resolution)
    yield from device_rows(machine, settings.mixed_precision, source, resolution, "a run takes hours to days")
    if sharded := sharding_request.in_words():
        yield "sharded", sharded
    yield "folder", printable(folder)


def images(settings, examples: Examples, resolution: int | None) -> str:
    """The number of images, their sizes, and how they are resized."""
    sizes = sorted({example.size for example in examples.instances}, key=lambda size: size[0] * size[1])
    where = ", ".join(settings.image_folders or (settings.dataset_name or "",))
    span = " to ".join(dict.fromkeys(f"{width} x {height}" for width, height in [*sizes[:1], *sizes[-1:]]))
    text = f"{len(examples.instances):,} in {where}, {span} pixels"
    if resolution and sizes and set(sizes) != {(resolution, resolution)}:
        fits = [Buckets.of(settings, resolution).fit(size) for size in sizes]
        crop = "cropped and " if any(fit.cut for fit in fits) else ""
        found = {fit.bucket for fit in fits}
        text += f", {crop}scaled to {len(found)} sizes" if len(found) > 1 else f", {crop}scaled to {in_words(*found)}"
    if settings.class_images:
        missing = missing_class_images(settings, examples)
        text += f"; {settings.class_images:,} of the class" + (f", {missing:,} of them generated first" if missing else "")
    if masked := sum(example.mask is not None for example in examples.instances):
        text += f"; {masked:,} with a mask, outside of which {outside_of_masks(settings)}"
    return printable(text)


def outside_of_masks(settings) -> str:
    """What is learned outside of masks."""
    if settings.masked_prior_preservation_weight:
        return f"the base model's prediction is kept (weight {settings.masked_prior_preservation_weight:g})"
    return f"the loss has a weight of {settings.unmasked_weight:g}" if settings.unmasked_weight else "nothing is learned"


def prepared(context, training, seconds: float) -> Rows:
    """The rows before the first step. seconds: the expected time of the run."""
    settings, steps = context.settings, context.max_train_steps - context.first_step
    learned = sum(tensor.numel() for tensor in training.method.trainable_state_dict().values())
    left = f" left of {context.max_train_steps:,}" if context.first_step else ""
    parameters = f"{units.count(learned, 'trainable parameter')}"
    by = "" if settings.optimizer == DEFAULT else f" by {settings.optimizer}"
    by += ", averaged (EMA)" if settings.use_ema else ""
    text = f"{units.count(steps, 'step')}{left}{by}, batch size {context.global_batch}; {parameters}; {units.about(seconds)}"
    yield "training", text + (" without a GPU: Ctrl-C saves and stops" if context.is_slow else "")
    if in_steps := [*encoded_in_steps(context.streamed, settings)]:
        yield "encoded", printable(f"in the steps that first need them: {'; '.join(in_steps)}")
    yield "samples", samples(context, settings)
    if context.evaluation == "pictures":
        yield "measured", measured(context, settings)


def encoded_in_steps(streamed: Streamed, settings) -> Iterator[str]:
    """What is not encoded before the first step, and where its encodings are kept."""
    if streamed.images:
        again = f"those beyond {units.size(BYTES)} again each time, unless --latents_cache_dir FOLDER keeps them"
        kept = f"kept in {settings.latents_cache_dir}" if settings.latents_cache_dir else again
        yield f"{units.count(streamed.num_crops, 'crop')} of images, {kept}"
    if streamed.captions and not settings.varies_captions:
        yield units.count(streamed.num_captions, "caption")


def measured(context, settings) -> str:
    """Which pictures are measured, and what follows from them."""
    number = units.count(len(pairs(context.probe_prompts, settings.evaluation_seeds)), "picture")
    costs, steps = context.cost_of_pictures, len(context.candidates)
    pictures = costs.start + costs.each * steps
    share = f"about {100 * pictures / (pictures + context.evaluations_of_training):.0f} % of the work of the run"
    keeps = "the best weights are kept" if settings.keep == "best" else "the last weights are kept"
    stops = "; ends when they become no better" if settings.stop == "auto" else ""
    when = f"each of {steps} steps" if steps > 1 else "the last step"
    return f"{number} after {when}, and of the base model: {share}; {keeps}{stops}"


def samples(context, settings) -> str:
    """Which sample images are generated, and when."""
    prompts, number = context.sample_prompts, images_per_prompt(settings)
    if not prompts:
        return "none, so no before_after.png"
    every, last = context.validation_steps, context.max_train_steps
    shown = ", ".join(f'"{prompt}"' for prompt in prompts[:2]) + (f" and {len(prompts) - 2} more" if len(prompts) > 2 else "")
    tokens = settings.placeholders
    some_lack = (
        are_made(settings) and len(tokens) > MOST_WORDS and not all(any(each in text for text in prompts) for each in tokens)
    )
    left_out = f"; only of the first {MOST_WORDS} of {len(tokens)} words" if some_lack else ""
    each = units.count(number, "image") + (f" of each of {len(prompts)} prompts" if len(prompts) > 1 else "")
    return printable(f"{each} every {units.count(min(every, last), 'step')}: {shown}{left_out}")


def saved(folder: Path, files: Sequence[Path], difference: float) -> Rows:
    """The location of the result. difference: of its predictions from those of the weights in memory."""
    whole = any(file.name == INDEX for file in files)
    places = [folder / file.name for file in files]
    size = sum(file.stat().st_size for file in (folder.glob("*/*") if whole else places) if file.suffix == ".safetensors")
    where = f"{folder}, a complete pipeline in diffusers' layout" if whole else ", ".join(map(str, places))
    yield "saved", printable(f"{where} ({units.size(size)}; verified: predictions differ by {difference:.1e})")


def finished(
    settings, folder: Path, files: Sequence[Path], source: Source, num_images: int, steps: int, seconds: float,
    takes_mask: bool = False, evaluation: Evaluation | None = None,
) -> Rows:  # fmt: skip
    """What was trained, what came of it, which images to look at, and the next command. seconds: since the first step of this
    process."""
    number, took = units.count(num_images, "image"), units.duration(seconds)
    yield "trained", printable(f"{settings.subject} from {number} in {units.count(steps, 'step')}, {took}")
    yield from verdict_words.rows(evaluation, folder)
    if evaluation is None and settings.evaluation == "loss":
        draws = "" if settings.untrained else "; `customize score` draws pictures"
        yield "verdict", f"cannot tell: the run is too short for losses to be measured{draws}"
    yield from next_rows(settings, folder, takes_mask, spec_of(source).enlarges(source))
    if source.name != "demo" and settings.read_by_others:
        yield from (("elsewhere", text) for text in elsewhere(folder, files))


def next_rows(settings, folder: Path, takes_mask: bool = False, enlarges: bool = False) -> Rows:
    """The images to look at, and the command that generates with the result. takes_mask: as `Family.takes_mask`; enlarges: as
    `FamilySpec.enlarges`."""
    images = [path for path in (folder / REPORT, folder / BEFORE_AFTER, folder / SAMPLES / SHEET) if path.exists()]
    if images:
        yield "look at", printable(" and ".join(map(str, images)))
    options = {"image": "IMAGE.png", "mask_image": "MASK.png"} if takes_mask else {}
    options |= {"low_res_image": "IMAGE.png"} if enlarges else {}
    options |= model_card.generation_options(settings.values(), settings.pretrained_model_name_or_path)
    prompt = settings.default_validation_prompts[-1]
    if settings.prompt_embeddings:  # in which the first one is
        prompt, options["prompt_embeddings"] = settings.default_validation_prompts[0], settings.prompt_embeddings
    yield "next", command_line("infer.py", weights=folder, prompt=prompt, num_images=4, **options)


def elsewhere(folder: Path, files: Sequence[Path]) -> Iterator[str]:
    """How to use the result in other programs."""
    names = {file.name for file in files}
    if INDEX in names:
        pipeline = read_object(folder / INDEX).get("_class_name", "DiffusionPipeline")
        yield printable(f"diffusers: {pipeline}.from_pretrained({str(folder)!r})")
    elif MODEL in names:
        yield printable(f"copy {folder / MODEL} to ComfyUI/models/checkpoints or stable-diffusion-webui/models/Stable-diffusion")
    elif LORA in names and (folder / SCHEDULER).is_dir():
        yield printable(f"diffusers: pipeline.load_lora_weights({str(folder)!r}), with the scheduler in {folder / SCHEDULER}")
    elif adapter := next((name for name in (KOHYA_LORA, LORA) if name in names), None):
        yield printable(f"copy {folder / adapter} to ComfyUI/models/loras or stable-diffusion-webui/models/Lora")
    if any(name.startswith("learned_embeds") for name in names):
        what = "the file" if len(names) == 1 else "each learned_embeds file"
        yield f"copy {what} to ComfyUI/models/embeddings or stable-diffusion-webui/embeddings; its name is the word there"


def resume_command(settings, config: Path) -> str:
    """The command that resumes a stopped run."""
    return command_line(settings.command, str(config), resume_from_checkpoint="latest")
