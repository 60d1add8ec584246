"""What is looked at while a batch of pictures is made, and what is written of it afterwards.

B images, C latent channels, H W latent height and width.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image

from customize.events import DenoisingStep, emit
from customize.inference.explain.attention import AttentionMaps, heat_gif, heat_levels, heat_sheet
from customize.inference.explain.trace import Trace
from customize.inference.explain.trace_page import page
from customize.inference.pipeline import Pipeline
from customize.inference.run.grid import ImageRequest
from customize.inference.sampler import StepResult
from customize.settings.field import table
from customize.settings.inference import InferenceSettings
from customize.storage.atomic import write_bytes, write_image, write_text


class Observers:
    """Give it to the sampler as `record`, within `with`: tells those who look on of every result."""

    def __init__(self, pipeline: Pipeline, batch: Sequence[ImageRequest], others: Sequence[Callable[[StepResult], None]]):
        self.settings, self.pipeline, self.batch = batch[0].settings, pipeline, batch
        self.trace = Trace() if self.settings.trace else None
        self.start = Start() if self.settings.show_start else None
        self.maps = attention(pipeline, batch) if self.settings.attention else None
        self.watchers = [*others, *filter(None, (self.trace, self.start, self.maps))]

    def __enter__(self) -> "Observers":
        with ExitStack() as stack:
            if self.maps:
                stack.enter_context(self.maps)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.stack.close()

    def __call__(self, result: StepResult) -> None:
        for watcher in self.watchers:
            watcher(result)

    def starts(self) -> list[Image.Image]:
        """With `show_start`: what the network saw first, decoded."""
        assert self.start
        return self.pipeline.decode(self.start.seen)

    def write(self, folder: Path, places: Sequence[int], pictures: Sequence[Image.Image], listing: str = "trace.jsonl") -> None:
        """Of each picture, whose number NNN is its place: NNN-trace.png, .gif, .html and NNN-attention.png, .gif.

        listing: the file to which the numbers of each step are added.
        """
        if self.trace:
            decode = self.pipeline.decode if self.settings.trace_decode == "full" else None
            self.trace.write(folder, places, pictures, decode, listing)
        for image, (place, picture) in enumerate(zip(places, pictures, strict=True)):
            looks = self.maps.of(image) if self.maps else None
            if looks:
                sheet = heat_sheet(picture, looks.words, heat_levels(looks.maps.mean(0)))
                write_image(folder / f"{place:03d}-attention.png", sheet)
                write_bytes(folder / f"{place:03d}-attention.gif", heat_gif(picture, looks))
            if self.trace and self.settings.trace_page:
                told = page(self.trace, image, picture, " / ".join(self.batch[image].prompts), chosen(self.batch[image]), looks)
                write_text(folder / f"{place:03d}-trace.html", told)


class DenoisingProgress:
    """Give it to the sampler as `record`: reports how many evaluations of the network all batches of a job take."""

    def __init__(self, num_images: int, batch_size: int):
        self.left, self.size, self.done, self.total = num_images, batch_size, 0, 0

    def begin(self, num_images: int) -> None:
        """To be called before a batch of so many images."""
        self.left -= num_images

    def __call__(self, result: StepResult) -> None:
        if result.step.index == 0:
            self.total = self.done + result.step.count * (1 + -(-self.left // self.size))
        self.done += 1
        emit(DenoisingStep(self.done, self.total))


class Start:
    """Give it to the sampler as `record`; afterwards `seen` [B, C, H, W] is what the network saw first."""

    def __call__(self, result: StepResult) -> None:
        if result.step.index == 0:
            self.seen = result.model_input


def attention(pipeline: Pipeline, batch: Sequence[ImageRequest]) -> AttentionMaps:
    """Records where the words of each picture's prompt look."""
    settings, prompts = batch[0].settings, [request.prompts[0] for request in batch]
    steps, plain = settings.num_inference_steps, settings.plain_prompt
    return AttentionMaps(pipeline.family, prompts, num_inference_steps=steps, plain_prompt=plain)


def chosen(request: ImageRequest) -> dict[str, Any]:
    """The settings of a picture that are not the usual ones, with its seed and guidance."""
    lines, said = table(InferenceSettings), request.settings.values()
    unusual = {name: value for name, value in said.items() if lines[name].scope != "run" and value != lines[name].default}
    unusual.pop("prompt", None)  # it is the page's title
    return unusual | {"seed": request.seed, "guidance_scale": request.settings.guidance_scale}
