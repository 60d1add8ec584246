"""What infer.py does: everything is checked, then pictures are made (`drawing.py`), then their folder appears, whole.

Nothing here imports torch before all is checked.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize import run_folder
from customize.config import InferenceSettings
from customize.disk import sync_tree
from customize.errors import InputError, Problem, ResourceError
from customize.families import locate
from customize.files import new_folder
from customize.images import open_image
from customize.inference import merge
from customize.inference.learned import find_learned
from customize.inference.masks import Mask, mask_of, open_mask
from customize.inference.sweep import Grid, grid
from customize.printable import printable
from customize.prompts import parse
from customize.resources import resources

if TYPE_CHECKING:
    from PIL.Image import Image

    from customize.inference.like import Like

OURS = re.compile(
    r"config\.toml|trace\.jsonl|sheet\.png|\d{3,}(-trace|-attention)?\.(png|gif)|\d{3,}-trace\.html|\.DS_Store|Thumbs\.db"
)
LATENT_WARNING = (
    "views move latents here, and an autoencoder is not equivariant: a turned latent decodes to about the turned picture, which "
    "shows as strokes and seams. --illusion looking_glass works on pixels, a decode and two encodes for each view and step"
)
FOR_MEMORY = "take a smaller --batch_size, a smaller picture, or --mixed_precision bf16"


@dataclass(frozen=True)
class Job:
    """What is to be done, as far as a look at files can tell: where to, which pictures, from which ones."""

    folder: Path
    grid: Grid
    images: "dict[str, Image]"
    masks: "dict[Mask, Image]"
    like: "Like | None" = None
    remarks: tuple[str, ...] = ()

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
    sheet.png for 2 to `drawing.MOST_ON_SHEET` pictures; trace.jsonl and what `looks.Looks.write` names. With `like`, says whether
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
        from customize.inference.drawing import Models, draw

        models = Models()
        models.load(job.grid.wanted[0].settings)
        with new_folder(job.folder) as unfinished:
            (unfinished / "config.toml").write_text(on_its_own(settings).to_toml(), encoding="utf-8", newline="\n")
            draw(settings, job, models, unfinished)
            check_again(job.folder, unfinished, settings.overwrite_output_dir)
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

    folder = Path(os.path.realpath(settings.output_dir))
    attempt(lambda: check_folder(folder, settings.overwrite_output_dir))
    like = attempt(lambda: likened(settings))
    found = attempt(lambda: grid(on_its_own(settings)))
    different = {wanted.settings: None for wanted in found.wanted} if found else [settings]
    images: dict[str, Image] = {}
    masks: dict[Mask, Image] = {}
    remarks: list[str] = []
    colours: list[str] = []
    for each in different:
        attempt(lambda each=each: check_model(each))
        for name, prompts in ("prompt", each.prompt), ("negative_prompt", [each.negative_prompt]):
            for prompt in () if each.plain_prompt else prompts:
                attempt(lambda name=name, prompt=prompt: parse(prompt, name))
        if each.image and each.image not in images:
            images[each.image] = attempt(lambda each=each: open_image(each.image, remarks=colours))
        if (drawn := mask_of(each)) and drawn not in masks:
            masks[drawn], told = attempt(lambda drawn=drawn, each=each: open_mask(*drawn, images[each.image])) or (None, ())
            remarks += [note for note in told if note not in remarks]
    if problems:
        raise InputError(problems)
    return Job(folder, found, images, masks, like, (*remarks, *(f"image: {printable(remark)}" for remark in colours)))


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
    return [*(job.like.told.notes if job.like else ()), *job.remarks, *of_latents]


def check_model(settings: InferenceSettings) -> None:
    """Raises InputError when weights or base model are not there or not sound."""
    learned = find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales)
    if not learned.files:
        locate(learned.base or "demo", variant=settings.variant)


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises InputError when pictures cannot go into the folder, or would take the place of anything but pictures."""
    run_folder.check_place("output_dir", folder)
    if Path.cwd().is_relative_to(folder):
        raise InputError(Problem("output_dir", f"{folder} is where you are, or above it", "name another folder"))
    present = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    foreign = [name for name in present if not OURS.fullmatch(name)]
    if foreign:
        what = f"{folder} holds what is not from infer.py ({foreign[0]})"
        raise InputError(Problem("output_dir", what, "name another folder"))
    if present and not overwrite:
        remedy = "add --overwrite_output_dir, or name another --output_dir"
        raise InputError(Problem("output_dir", f"{folder} holds pictures already", remedy))


def check_again(folder: Path, unfinished: Path, overwrite: bool) -> None:
    """Raises ResourceError when somebody wrote into the folder while the pictures were made; these are beside it, then."""
    try:
        check_folder(folder, overwrite)
    except InputError as error:
        free = next(path for i in count(2) if not os.path.lexists(path := folder.with_name(f"{folder.name}-{i}")))
        with suppress(OSError):
            sync_tree(unfinished)
        try:
            os.rename(unfinished, free)
        except OSError:
            free = Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
            shutil.copytree(unfinished, free, dirs_exist_ok=True)
        what = "; ".join(problem.what for problem in error.problems)
        raise ResourceError(f"{what}; it was free when the pictures were begun\n    -> they are in {free}") from error
