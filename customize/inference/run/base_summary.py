"""The lines about base model and device at the start of a command."""

from collections.abc import Iterator

from customize.data.examples import USUAL_RESOLUTION
from customize.device import Machine
from customize.families import Source
from customize.families.specs import spec_of
from customize.printable import printable

STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
TOY = 128
Rows = Iterator[tuple[str, str]]


def base_rows(source: Source, purpose: str = "for your own photos", distilled: str = "") -> Rows:
    """The base model; for the demo model, a remark and the model to use instead.

    distilled: what follows from it if the model is known to be distilled to few steps.
    """
    if source.name == "demo":
        yield "base", "demo, a toy model of 64 x 64 pixels that comes with the program to show how it works"
        yield "", f"{purpose}: --pretrained_model_name_or_path {STABLE_DIFFUSION}"
    else:
        where = f" (from the hub{f', {source.revision}' if source.revision else ''})" if source.is_remote else ""
        yield "base", printable(f"{source.name}{where}")
        if by := spec_of(source).distilled(source):
            yield "", f"by its name ({by}) distilled to few steps: {distilled}"


def device_rows(machine: Machine, precision: str, source: Source, resolution: int | None, cost: str) -> Rows:
    """The device and precision; without a GPU the reason, and for a base model above `TOY` pixels what that costs."""
    suffix = "" if precision == "no" else f", {precision}"
    yield "device", f"{machine.name}{suffix}" + (f": {machine.missing}" if machine.missing else "")
    if machine.remedy:
        yield "", f"-> {machine.remedy}"
    if not machine.has_gpu and source.name != "demo" and (resolution or USUAL_RESOLUTION) > TOY:
        yield "", f"a model of Stable Diffusion's size needs a GPU: on a CPU {cost}"
