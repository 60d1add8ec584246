"""The first and last lines that infer.py prints: base model, device and images; then the results and a next command."""

from collections.abc import Sequence

from customize import units
from customize.device import Machine
from customize.families import Source
from customize.families.specs import spec_of
from customize.inference.run.base_summary import Rows, base_rows, device_rows
from customize.inference.run.grid import ImageRequest
from customize.inference.run.image_folder import ImageFolder
from customize.next_command import command_line
from customize.printable import first_few, printable
from customize.settings.field import table as setting_table
from customize.settings.files.sharing import shared_name
from customize.settings.inference import InferenceSettings
from customize.settings.texts import model_and_assignments


def before_loading(settings: InferenceSettings, requests: Sequence[ImageRequest], source: Source, machine: Machine) -> Rows:
    """The lines before the base model is loaded."""
    given = f"{units.count(settings.steps, 'step')} and guidance_scale {settings.guidance_scale:g}"
    base = list(base_rows(source, "for photos", f"its author says how many, and which guidance; here {given}"))
    side = settings.width or spec_of(source).resolution(source)
    device = device_rows(machine, settings.mixed_precision, source, side, "an image takes minutes")
    yield from base[:1] if settings.weights and source.name == "demo" else base
    yield from device
    width, height = settings.width, settings.height
    own = "the size of image" if settings.image else "the base model's own size"
    size = f"{width} x {height} pixels" if width and height else own
    prompts = len(dict.fromkeys(each.prompts for each in requests))
    first = [each for each in requests if each.link_to == "image"]
    text = f"{len(first):,}" + (f" of {prompts:,} prompts" if prompts > 1 else "")
    yield "images", f"{text}, {size}, {units.count(settings.steps, 'denoising step')} each"
    if settings.upscalers:
        models = ", then by ".join(shared_name(model_and_assignments(each)[0]) for each in settings.upscalers)
        yield "", printable(f"each enlarged by {models}: {len(requests):,} images in all")


def finished(settings: InferenceSettings, requests: Sequence[ImageRequest], place: ImageFolder) -> Rows:
    """The paths of the images and pages, and a command for more images."""
    first, last = place.image(0), place.image(len(requests) - 1)
    names = f"{first} to {last.name}" if len(requests) > 1 else f"{first}"
    yield "done", printable(f"{units.count(len(requests), 'image')} of {seeds(requests)}: {names}")
    pages = [place.folder / f"{first.stem}-{name}" for name in ("illusion.gif", "trace.html", "attention.png")]
    if existing := [str(path) for path in (place.file("sheet.png"), *pages) if path.exists()]:
        yield "look at", printable(" and ".join(existing))
    following = max(each.seed for each in requests) + 1
    if settings.lesson == "none" and settings.chain == 1 and following <= (setting_table(InferenceSettings)["seed"].le or 0):
        stages = {"upscalers": settings.upscalers} if settings.upscalers else {}
        more = {"like": first, **stages, "seed": following, "num_images": 4}
        yield "next", command_line("infer.py", **more)


def seeds(requests: Sequence[ImageRequest]) -> str:
    """`seed 3`, `seeds 0 to 3` or the first few."""
    found = sorted({each.seed for each in requests})
    if len(found) == 1:
        return f"seed {found[0]}"
    is_range = found[-1] - found[0] == len(found) - 1
    return f"seeds {f'{found[0]} to {found[-1]}' if is_range else first_few([str(seed) for seed in found], 4)}"
