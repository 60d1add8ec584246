"""What infer.py does: everything is checked, then pictures are made, then their folder appears, whole."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize.config import InferenceSettings
from customize.errors import InputError, Problem
from customize.families import locate
from customize.files import new_folder
from customize.images import open_image
from customize.inference import merge
from customize.inference.learned import find_learned
from customize.inference.sweep import Grid, Wanted, batches, grid
from customize.prompts import parse
from customize.resources import resources

if TYPE_CHECKING:
    from PIL.Image import Image

    from customize.inference.like import Like
    from customize.inference.pipeline import Pipeline
    from customize.inference.sampler import Moment
    from customize.inference.wording import Prompt

OURS = re.compile(
    r"config\.toml|trace\.jsonl|sheet\.png|\d{3,}(-trace|-attention)?\.(png|gif)|\d{3,}-trace\.html|\.DS_Store|Thumbs\.db"
)
LATENT_WARNING = (
    "views move latents here, and an autoencoder is not equivariant: a turned latent decodes to about the turned picture, which "
    "shows as strokes and seams. --illusion looking_glass works on pixels, a decode and two encodes for each view and step"
)
MOST_ON_SHEET = 100
FOR_MEMORY = "take a smaller --batch_size, a smaller picture, or --mixed_precision bf16"
PASSED_ON = (
    "num_inference_steps", "height", "width", "strength", "scheduler", "use_karras_sigmas", "num_resamples", "jump_length",
    "plain_prompt", "vae_tiling",
)  # fmt: skip


PER_PICTURE = ("prompt", "negative_prompt", "guidance_scale", "seed")
"""Settings in which pictures may differ that are made together."""
OF_THE_MODEL = (
    "pretrained_model_name_or_path", "revision", "variant", "prediction_type", "mixed_precision", "allow_tf32", "partial_weights",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What is to be done, as far as a look at files can tell: where to, which pictures, from which ones."""

    folder: Path
    grid: Grid
    images: "dict[str, Image]"
    masks: "dict[str, Image]"
    like: "Like | None" = None

    @property
    def is_again(self) -> bool:
        """Whether one picture is made, which was made before."""
        like, wanted = self.like, self.grid.wanted
        return like is not None and len(wanted) == 1 and like.is_asked_again(wanted[0].settings)

    @property
    def seat(self) -> tuple[int, int]:
        """Where a picture that is made again was in its batch, and how large that was: the last bits hang on it."""
        return self.like.told.place_in_batch if self.like and self.is_again else (0, 1)


def run(settings: InferenceSettings) -> None:
    """Generates `num_images` pictures of each prompt, at every value that is swept, into `output_dir`.

    Written there: 000.png, 001.png, ... that carry their settings; config.toml, with which they come out again;
    sheet.png for 2 to `MOST_ON_SHEET` pictures; trace.jsonl and what `looks.Looks.write` names. With `like`, says whether
    the picture came out the same.
    With `merge` no picture, but what `merge.run` says.
    Raises InputError before anything is written; ResourceError when memory or disk give out.
    """
    if settings.merge is not None:
        return merge.run(settings)
    job = check(settings)
    for note in notes(settings, job):
        print(f"note: {note}", file=sys.stderr)
    with resources(FOR_MEMORY, "make room, or name an --output_dir on another disk"):
        models = Models()
        models.load(job.grid.wanted[0].settings)
        with new_folder(job.folder) as unfinished:
            (unfinished / "config.toml").write_text(on_its_own(settings).to_toml(), encoding="utf-8", newline="\n")
            draw(settings, job, models, unfinished)
    count = len(job.grid.wanted)
    print(f"{job.folder}: {count} picture{'s' * (count > 1)}")
    if job.like and job.is_again:
        print(f"{settings.like}: {job.like.verdict(open_image(job.folder / '000.png'))}")


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
    like = attempt(lambda: likened(settings))
    found = attempt(lambda: grid(on_its_own(settings)))
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
    return Job(folder, found, images, masks, like)


def likened(settings: InferenceSettings) -> "Like | None":
    """The picture that others are to be made like, if there is one. Raises InputError."""
    if settings.like is None:
        return None
    from customize.inference.like import Like

    like = Like.read(settings.like)
    like.check(settings)
    return like


def on_its_own(settings: InferenceSettings) -> InferenceSettings:
    """The settings, which hold all that was taken from another picture, without its name."""
    return settings.model_copy(update={"like": None})


def notes(settings: InferenceSettings, job: Job) -> list[str]:
    """What the user should know before it starts."""
    of_latents = [LATENT_WARNING] if settings.illusion in ("anagram", "alternating_anagram") else []
    return [*(job.like.told.notes if job.like else ()), *of_latents]


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
    """The pipeline that is in use, loaded when settings ask for another one; where just scales differ, these are set anew."""

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
        self.scales = settings.weights_and_scales
        self.facts = facts(self.pipeline.family.name, self.pipeline.weights.files)
        for line in find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales).described:
            print(line)
        notes, words = list(self.pipeline.notes), self.pipeline.trigger_words
        if words and not any(word in prompt for word in words for prompt in settings.prompt):
            notes.append(f"no prompt has a word that calls what was learned: {', '.join(words)}")
        for note in notes:
            print(f"note: {note}", file=sys.stderr)

    def of(self, settings: InferenceSettings) -> "Pipeline":
        """The pipeline that the settings name."""
        if of_the_model(settings) != self.name:
            self.load(settings)
        if settings.weights_and_scales != self.scales:
            self.rescale(settings)
        return self.pipeline

    def rescale(self, settings: InferenceSettings) -> None:
        """Gives the files that are loaded the scales that the settings name."""
        from customize.inference.records import told

        files = find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales).files
        self.scales = settings.weights_and_scales
        self.pipeline.weights.scales = tuple(file.scale for file in files)
        said = zip(self.facts["weights"], files, strict=True)
        self.facts = {**self.facts, "weights": [{**each, "scale": told(file.scale)} for each, file in said]}


def of_the_model(settings: InferenceSettings) -> tuple:
    """What tells one loaded pipeline from another; the scales of weights do not."""
    return *(getattr(settings, name) for name in OF_THE_MODEL), *(path for path, _ in settings.weights_and_scales)


def alike(settings: InferenceSettings) -> tuple:
    """What must be equal for pictures to be made together."""
    given = {name: value for name, value in settings.values().items() if name not in PER_PICTURE}
    return of_the_model(settings), settings.guidance_scale > 1, tuple(given.items())


def draw(settings: InferenceSettings, job: Job, models: Models, folder: Path) -> None:
    """Makes the pictures, `batch_size` at a time, and writes each as it comes."""
    from customize.inference.looks import Bar, Looks
    from customize.inference.records import png_info

    wanted = [at_its_link(each, place, job.folder) for place, each in enumerate(job.grid.wanted)]
    seat, crew = job.seat
    pictures: dict[int, Image] = {}
    starts: dict[int, Image] = {}
    with Bar(len(wanted), settings.batch_size) as bar:
        for pipeline, places in together(job.grid.wanted, models, settings.batch_size):
            batch = [wanted[place] for place in places] * crew
            own = type(pipeline.family.scheduler).__name__
            with Looks(pipeline, batch, [bar.begun(len(places))]) as looks:
                drawn = generate(pipeline, batch, job.images | given_back(pictures, job.folder), job.masks, looks)
            drawn = drawn[seat : seat + len(places)]
            for number, (place, picture) in enumerate(zip(places, drawn, strict=True)):
                info = png_info(models.facts, wanted[place], own, picture.size, (seat + number, len(batch)))
                picture.save(folder / f"{place:03d}.png", pnginfo=info)
            looks.write(folder, places, drawn)
            if settings.show_start:
                starts |= dict(zip(places, looks.starts(), strict=True))
            if len(wanted) <= MOST_ON_SHEET or settings.chain > 1:
                pictures |= dict(zip(places, drawn, strict=True))
    if 1 < len(wanted) <= MOST_ON_SHEET or settings.show_start:
        sheet(job.grid, pictures, starts).save(folder / "sheet.png")


def together(wanted: Sequence[Wanted], models: Models, size: int) -> "Iterator[tuple[Pipeline, list[int]]]":
    """The places of pictures that are made in one batch, each after what it starts from, with their pipeline."""
    in_order = sorted(range(len(wanted)), key=lambda place: wanted[place].link)
    for group in batches(in_order, lambda place: (wanted[place].link, alike(wanted[place].settings)), len(wanted)):
        pipeline = models.of(wanted[group[0]].settings)
        chunks = {place: lengths(pipeline, wanted[place]) for place in group}
        yield from ((pipeline, places) for places in batches(group, chunks.__getitem__, size))


def at_its_link(wanted: Wanted, place: int, folder: Path) -> Wanted:
    """What is asked for, with the start that it has in its chain: the picture before it."""
    if not wanted.link:
        return wanted
    return replace(wanted, settings=wanted.settings.model_copy(update={"image": f"{folder / f'{place - 1:03d}.png'}"}))


def given_back(pictures: "Mapping[int, Image]", folder: Path) -> "dict[str, Image]":
    """The pictures under the names that they will have."""
    return {f"{folder / f'{place:03d}.png'}": picture for place, picture in pictures.items()}


def lengths(pipeline: "Pipeline", wanted: Wanted) -> tuple[int, int]:
    """See `Pipeline.lengths`: a picture among longer prompts would be another one."""
    settings = wanted.settings
    return pipeline.lengths(wanted.prompts, settings.negative_prompt, settings.num_inference_steps, settings.plain_prompt)


def generate(
    pipeline: "Pipeline",
    batch: "Sequence[Wanted]",
    images: "Mapping[str, Image]",
    masks: "Mapping[str, Image]",
    record: "Callable[[Moment], None]",
) -> "list[Image]":
    """The pictures of one batch."""
    from customize.inference.compositions import composition
    from customize.inference.lessons import LESSONS

    common = batch[0].settings
    if common.lesson != "none":
        return [LESSONS[common.lesson](pipeline, images[each.settings.image], each) for each in batch]
    options = {name: getattr(common, name) for name in PASSED_ON}
    return pipeline.generate(
        [asked(each) for each in batch],
        negative_prompt=[each.settings.negative_prompt for each in batch],
        guidance_scale=[each.settings.guidance_scale for each in batch],
        seeds=[each.seed for each in batch],
        image=[images.get(each.settings.image or "") for each in batch],
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
