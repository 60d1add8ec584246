"""What infer.py does: everything is checked, then pictures are made, then their folder appears, whole."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize.config import InferenceSettings
from customize.errors import InputError, Problem
from customize.families import locate
from customize.files import new_folder
from customize.images import open_image
from customize.inference.learned import find_learned
from customize.inference.sweep import Grid, Wanted, batches, grid
from customize.prompts import parse
from customize.resources import resources

if TYPE_CHECKING:
    from PIL.Image import Image

    from customize.inference.pipeline import Pipeline
    from customize.inference.sampler import Moment
    from customize.inference.wording import Prompt

OURS = re.compile(r"config\.toml|trace\.jsonl|sheet\.png|\d{3,}(-trace)?\.(png|gif)|\.DS_Store|Thumbs\.db")
MOST_ON_SHEET = 100
FOR_MEMORY = "take a smaller --batch_size, a smaller picture, or --mixed_precision bf16"
PASSED_ON = (
    "num_inference_steps", "height", "width", "strength", "scheduler", "use_karras_sigmas", "num_resamples", "jump_length",
    "plain_prompt",
)  # fmt: skip


PER_PICTURE = ("prompt", "negative_prompt", "guidance_scale", "seed")
"""Settings in which pictures may differ that are made together."""
OF_THE_MODEL = (
    "pretrained_model_name_or_path", "revision", "variant", "prediction_type", "mixed_precision", "allow_tf32",
    "weights", "partial_weights",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What is to be done, as far as a look at files can tell: where to, which pictures, from which ones."""

    folder: Path
    grid: Grid
    images: "dict[str, Image]"
    masks: "dict[str, Image]"


def run(settings: InferenceSettings) -> None:
    """Generates `num_images` pictures of each prompt, at every value that is swept, into `output_dir`.

    Written there: 000.png, 001.png, ... that carry their settings; config.toml, with which they come out again;
    sheet.png for 2 to `MOST_ON_SHEET` pictures; with `trace` 000-trace.png, 000-trace.gif, ... and trace.jsonl.
    Raises InputError before anything is written; ResourceError when memory or disk give out.
    """
    job = check(settings)
    with resources(FOR_MEMORY, "make room, or name an --output_dir on another disk"):
        models = Models()
        models.load(job.grid.wanted[0].settings)
        with new_folder(job.folder) as unfinished:
            (unfinished / "config.toml").write_text(settings.to_toml(), encoding="utf-8", newline="\n")
            count = draw(settings, job, models, unfinished)
    print(f"{job.folder}: {count} picture{'s' * (count > 1)}")


def check(settings: InferenceSettings) -> Job:
    """Raises one InputError for all that is wrong with files and folders; torch is not needed for it."""
    problems: list[Problem] = []

    def attempt(look: Callable[[], Any]) -> Any:
        try:
            return look()
        except InputError as error:
            problems.extend(each for each in error.problems if each not in problems)

    folder = Path(settings.output_dir).expanduser().resolve()
    attempt(lambda: check_folder(folder, settings.overwrite_output_dir))
    found = attempt(lambda: grid(settings))
    different = {wanted.settings: None for wanted in found.wanted} if found else [settings]
    images: dict[str, Image] = {}
    masks: dict[str, Image] = {}
    for each in different:
        attempt(lambda each=each: check_model(each))
        for name, prompts in ("prompt", each.prompt), ("negative_prompt", [each.negative_prompt]):
            for prompt in () if each.plain_prompt else prompts:
                attempt(lambda name=name, prompt=prompt: parse(prompt, name))
        if each.image and each.image not in images:
            images[each.image] = attempt(lambda each=each: open_image(each.image))
        if each.mask_image and each.mask_image not in masks:
            masks[each.mask_image] = attempt(lambda each=each: open_mask(each.mask_image, images[each.image]))
    if problems:
        raise InputError(problems)
    return Job(folder, found, images, masks)


def check_model(settings: InferenceSettings) -> None:
    """Raises InputError when weights or base model are not there or not sound."""
    learned = find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales)
    if not learned.files:
        locate(learned.base or "demo", variant=settings.variant)


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


class Models:
    """The pipeline that is in use, loaded when settings ask for another one."""

    def load(self, settings: InferenceSettings) -> None:
        """Puts the pipeline that the settings name on the best device; says what the user should know of it."""
        import torch

        from customize.inference.loading import load_pipeline
        from customize.inference.records import facts

        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        if settings.mixed_precision == "fp16" and device.type == "cpu":
            remedy = "use --mixed_precision bf16 or no on a machine without GPU"
            raise InputError(Problem("mixed_precision", "fp16 needs a GPU, and there is none", remedy))
        torch.backends.cuda.matmul.allow_tf32 = settings.allow_tf32
        self.name = of_the_model(settings)
        self.pipeline = load_pipeline(
            settings.pretrained_model_name_or_path, settings.weights_and_scales, revision=settings.revision,
            variant=settings.variant, prediction_type=settings.prediction_type, device=device,
            partial=settings.partial_weights,
            torch_dtype={"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[settings.mixed_precision],
        )  # fmt: skip
        files = find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales).files
        self.facts = facts(self.pipeline.family.name, files)
        notes, words = list(self.pipeline.notes), self.pipeline.trigger_words
        if words and not any(word in prompt for word in words for prompt in settings.prompt):
            notes.append(f"no prompt has a word that calls what was learned: {', '.join(words)}")
        for note in notes:
            print(f"note: {note}", file=sys.stderr)

    def of(self, settings: InferenceSettings) -> "Pipeline":
        """The pipeline that the settings name."""
        if of_the_model(settings) != self.name:
            self.load(settings)
        return self.pipeline


def of_the_model(settings: InferenceSettings) -> tuple:
    """What tells one loaded pipeline from another."""
    return tuple(getattr(settings, name) for name in OF_THE_MODEL)


def alike(settings: InferenceSettings) -> tuple:
    """What must be equal for pictures to be made together."""
    given = {name: value for name, value in settings.values().items() if name not in PER_PICTURE}
    return of_the_model(settings), settings.guidance_scale > 1, tuple(given.items())


def draw(settings: InferenceSettings, job: Job, models: Models, folder: Path) -> int:
    """Makes the pictures, `batch_size` at a time, and writes each as it comes; returns how many."""
    from customize.inference.records import png_info
    from customize.inference.trace import Trace

    wanted = [at_its_link(each, place, job.folder) for place, each in enumerate(job.grid.wanted)]
    groups = list(batches(job.grid.wanted, alike, settings.batch_size))
    pictures: dict[int, Image] = {}
    starts: dict[int, Image] = {}
    with progress(len(groups)) as advance:
        for places in groups:
            pipeline, trace, start = models.of(wanted[places[0]].settings), Trace(), Start()
            own = type(pipeline.family.scheduler).__name__
            watchers = [advance, *([trace] if settings.trace else []), *([start] if settings.show_start else [])]
            drawn = generate(pipeline, wanted, places, job.images | given_back(pictures, job.folder), job.masks, all_of(watchers))
            for number, (place, picture) in enumerate(zip(places, drawn, strict=True)):
                info = png_info(models.facts, wanted[place], own, picture.size, (number, len(places)))
                picture.save(folder / f"{place:03d}.png", pnginfo=info)
            if settings.trace:
                trace.write(folder, places, drawn, pipeline.decode if settings.trace_decode == "full" else None)
            if settings.show_start:
                starts |= dict(zip(places, pipeline.decode(start.seen), strict=True))
            if len(wanted) <= MOST_ON_SHEET or settings.chain > 1:
                pictures |= dict(zip(places, drawn, strict=True))
    if 1 < len(wanted) <= MOST_ON_SHEET or settings.show_start:
        sheet(job.grid, pictures, starts).save(folder / "sheet.png")
    return len(wanted)


class Start:
    """Give it to the sampler as `record`; afterwards `seen` [B, C, H, W] is what the network saw first."""

    def __call__(self, moment: "Moment") -> None:
        if moment.step.index == 0:
            self.seen = moment.seen


def at_its_link(wanted: Wanted, place: int, folder: Path) -> Wanted:
    """What is asked for, with the start that it has in its chain: the picture before it."""
    if not wanted.link:
        return wanted
    return replace(wanted, settings=wanted.settings.model_copy(update={"image": f"{folder / f'{place - 1:03d}.png'}"}))


def given_back(pictures: "Mapping[int, Image]", folder: Path) -> "dict[str, Image]":
    """The pictures under the names that they will have."""
    return {f"{folder / f'{place:03d}.png'}": picture for place, picture in pictures.items()}


def generate(
    pipeline: "Pipeline",
    wanted: "Sequence[Wanted]",
    places: "Sequence[int]",
    images: "Mapping[str, Image]",
    masks: "Mapping[str, Image]",
    record: "Callable[[Moment], None]",
) -> "list[Image]":
    """The pictures at these places, in one batch."""
    from customize.inference.compositions import composition
    from customize.inference.lessons import LESSONS

    chosen = [wanted[place] for place in places]
    common = chosen[0].settings
    if common.lesson != "none":
        return [LESSONS[common.lesson](pipeline, images[each.settings.image], each) for each in chosen]
    options = {name: getattr(common, name) for name in PASSED_ON}
    return pipeline.generate(
        [asked(each) for each in chosen],
        negative_prompt=[each.settings.negative_prompt for each in chosen],
        guidance_scale=[each.settings.guidance_scale for each in chosen],
        seeds=[each.seed for each in chosen],
        image=[images.get(each.settings.image or "") for each in chosen],
        mask_image=masks.get(common.mask_image or ""),
        composition=composition(common, pipeline),
        record=record,
        **options,
    )


def asked(wanted: Wanted) -> "Prompt | tuple[Prompt, ...]":
    """What the pipeline is asked for one picture."""
    from customize.inference.wording import Between

    if wanted.settings.between is not None:
        return Between(*wanted.prompts, wanted.settings.between, wanted.settings.interpolation == "spherical")
    return wanted.prompts if wanted.settings.illusion != "none" else wanted.prompts[0]


def sheet(grid: Grid, pictures: "Mapping[int, Image]", starts: "Mapping[int, Image]") -> "Image":
    """All pictures, with what they were made by beside and above them; above each row its noised starts, if there are any."""
    from customize.inference.figures import contact_sheet

    places, rows, labels = iter(range(len(grid.wanted))), [], []
    for number, row in enumerate(grid.rows):
        here = [next(places) for _ in row]
        for kind, shown in (("start with noise", starts), ("result", pictures)):
            if shown:
                rows.append([shown[place] for place in here])
                own = grid.row_labels[number] if grid.row_labels else ""
                labels.append(f"{own} {kind}".strip() if starts else own)
    return contact_sheet(rows, grid.column_labels, labels if any(labels) else [])


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

    left = num_batches
    with tqdm(desc="denoising", unit="step", dynamic_ncols=True, disable=None) as bar:

        def advance(moment: "Moment") -> None:
            nonlocal left
            if moment.step.index == 0:
                bar.total = bar.n + moment.step.count * left
                left -= 1
            bar.update()

        yield advance
