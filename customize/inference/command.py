"""What infer.py does: everything is checked, then pictures are made, then their folder appears, whole."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize.config import InferenceSettings
from customize.errors import InputError, Problem
from customize.families import locate
from customize.files import new_folder
from customize.images import open_image
from customize.inference.learned import Learned, find_learned
from customize.resources import resources

if TYPE_CHECKING:
    from PIL.Image import Image

    from customize.inference.pipeline import Pipeline
    from customize.inference.sampler import Moment

OURS = re.compile(r"config\.toml|trace\.jsonl|sheet\.png|\d{3,}(-trace)?\.(png|gif)|\.DS_Store|Thumbs\.db")
MOST_ON_SHEET = 100
FOR_MEMORY = "take a smaller --batch_size, a smaller picture, or --mixed_precision bf16"
PASSED_ON = (
    "negative_prompt", "num_inference_steps", "guidance_scale", "height", "width", "strength", "scheduler",
    "use_karras_sigmas",
    "num_resamples", "jump_length",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What is to be done, as far as a look at files can tell: where to, with what, from which picture."""

    folder: Path
    learned: Learned
    image: "Image | None"
    mask_image: "Image | None"


def run(settings: InferenceSettings) -> None:
    """Generates `num_images` pictures of each prompt into `output_dir`.

    Written there: 000.png, 001.png, ... that carry their settings; config.toml, with which they come out again;
    sheet.png for 2 to `MOST_ON_SHEET` pictures; with `trace` 000-trace.png, 000-trace.gif, ... and trace.jsonl.
    Raises InputError before anything is written; ResourceError when memory or disk give out.
    """
    job = check(settings)
    with resources(FOR_MEMORY, "make room, or name an --output_dir on another disk"):
        pipeline = load(settings)
        with new_folder(job.folder) as unfinished:
            (unfinished / "config.toml").write_text(settings.to_toml(), encoding="utf-8", newline="\n")
            count = draw(settings, job, pipeline, unfinished)
    print(f"{job.folder}: {count} picture{'s' * (count > 1)}")


def check(settings: InferenceSettings) -> Job:
    """Raises one InputError for all that is wrong with files and folders; torch is not needed for it."""
    problems: list[Problem] = []

    def attempt(look: Callable[[], Any]) -> Any:
        try:
            return look()
        except InputError as error:
            problems.extend(error.problems)

    folder = Path(settings.output_dir).expanduser().resolve()
    attempt(lambda: check_folder(folder, settings.overwrite_output_dir))
    learned = attempt(lambda: find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales))
    image = attempt(lambda: open_image(settings.image)) if settings.image else None
    mask = attempt(lambda: open_mask(settings.mask_image, image)) if settings.mask_image else None
    if learned and not learned.files:
        attempt(lambda: locate(learned.base or "demo", variant=settings.variant))
    if problems:
        raise InputError(problems)
    return Job(folder, learned, image, mask)


def open_mask(path: str, image: "Image | None") -> "Image":
    """The mask, of the size of the picture that it is for and white somewhere; otherwise InputError."""
    mask = open_image(path)
    if image and mask.size != image.size:
        what = f"{path} has {mask.width} x {mask.height} pixels, the picture {image.width} x {image.height}"
        raise InputError(Problem("mask_image", what, "draw the mask over the very picture"))
    if mask.convert("L").getextrema()[1] < 128:
        raise InputError(Problem("mask_image", f"nothing is white in {path}", "paint white what shall be made anew"))
    return mask


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises InputError when pictures cannot go into the folder, or would take the place of anything but pictures."""
    blocking = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
    if blocking or Path.cwd().is_relative_to(folder):
        what = f"{blocking} is a file" if blocking else f"{folder} is where you are, or above it"
        raise InputError(Problem("output_dir", what, "name another folder"))
    present = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    foreign = [name for name in present if not OURS.fullmatch(name)]
    if foreign:
        what = f"{folder} holds what is not from infer.py ({foreign[0]})"
        raise InputError(Problem("output_dir", what, "name another folder"))
    if present and not overwrite:
        remedy = "add --overwrite_output_dir, or name another --output_dir"
        raise InputError(Problem("output_dir", f"{folder} holds pictures already", remedy))


def load(settings: InferenceSettings) -> "Pipeline":
    """The pipeline that the settings name, on the best device; says what the user should know of it."""
    import torch

    from customize.inference.loading import load_pipeline

    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if settings.mixed_precision == "fp16" and device.type == "cpu":
        remedy = "use --mixed_precision bf16 or no on a machine without GPU"
        raise InputError(Problem("mixed_precision", "fp16 needs a GPU, and there is none", remedy))
    torch.backends.cuda.matmul.allow_tf32 = settings.allow_tf32
    pipeline = load_pipeline(
        settings.pretrained_model_name_or_path, settings.weights_and_scales, revision=settings.revision,
        variant=settings.variant, prediction_type=settings.prediction_type, device=device,
        partial=settings.partial_weights,
        torch_dtype={"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[settings.mixed_precision],
    )  # fmt: skip
    pipeline.family.tokenize([*settings.prompt, settings.negative_prompt])  # raises where a prompt is too long
    notes = list(pipeline.notes)
    if pipeline.trigger_words and not any(w in prompt for w in pipeline.trigger_words for prompt in settings.prompt):
        notes.append(f"no prompt has a word that calls what was learned: {', '.join(pipeline.trigger_words)}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return pipeline


def draw(settings: InferenceSettings, job: Job, pipeline: "Pipeline", folder: Path) -> int:
    """Makes the pictures, `batch_size` at a time, and writes each as it comes; returns how many."""
    from customize.inference.records import facts, png_info
    from customize.inference.trace import Trace

    told = facts(settings, pipeline.family.name, job.learned.files)
    scheduler = settings.scheduler or type(pipeline.family.scheduler).__name__
    wanted = [(prompt, settings.seed + i) for prompt in settings.prompt for i in range(settings.num_images)]
    options = {name: getattr(settings, name) for name in PASSED_ON}
    places = range(0, len(wanted), settings.batch_size)
    pictures: list[Image] = []
    with progress(len(places)) as advance:
        for place in places:
            prompts, seeds = zip(*wanted[place : place + settings.batch_size], strict=True)
            trace = Trace()
            watchers = [advance, trace] if settings.trace else [advance]
            pictured = {"image": job.image, "mask_image": job.mask_image}
            drawn = pipeline.generate(prompts, seeds=seeds, record=all_of(watchers), **pictured, **options)
            for picture, prompt, seed, number in zip(drawn, prompts, seeds, range(place, len(wanted)), strict=False):
                info = png_info(told, scheduler, prompt, seed, picture.size)
                picture.save(folder / f"{number:03d}.png", pnginfo=info)
            if settings.trace:
                trace.write(folder, place, pipeline.decode)
            pictures += drawn if len(wanted) <= MOST_ON_SHEET else []
    if len(pictures) > 1:
        sheet(settings, pictures).save(folder / "sheet.png")
    return len(wanted)


def sheet(settings: InferenceSettings, pictures: "Sequence[Image]") -> "Image":
    """All pictures with prompts and seeds beside and above them: a row per prompt."""
    from customize.inference.figures import contact_sheet

    columns = settings.num_images
    rows = [pictures[place : place + columns] for place in range(0, len(pictures), columns)]
    return contact_sheet(rows, [f"seed {settings.seed + i}" for i in range(columns)], settings.prompt)


def all_of(watchers: "Sequence[Callable[[Moment], None]]") -> "Callable[[Moment], None]":
    """One that tells each of them."""

    def record(moment: "Moment") -> None:
        for watcher in watchers:
            watcher(moment)

    return record


@contextmanager
def progress(num_batches: int) -> "Iterator[Callable[[Moment], None]]":
    """A bar over the evaluations of all batches, on a terminal."""
    from tqdm import tqdm

    with tqdm(desc="denoising", unit="step", dynamic_ncols=True, disable=None) as bar:

        def advance(moment: "Moment") -> None:
            bar.total = moment.step.count * num_batches
            bar.update()

        yield advance
