"""Callbacks that record a batch while it is generated, and the files written from the recordings.

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
    """A context manager to pass to the sampler as `record`: forwards every result to the callbacks that the settings select."""

    def __init__(self, pipeline: Pipeline, batch: Sequence[ImageRequest], others: Sequence[Callable[[StepResult], None]]):
        self.settings, self.pipeline, self.batch = batch[0].settings, pipeline, batch
        self.trace = Trace() if self.settings.trace else None
        self.start = FirstInput() if self.settings.show_start else None
        self.maps = attention(pipeline, batch) if self.settings.attention else None
        self.callbacks = [*others, *filter(None, (self.trace, self.start, self.maps))]

    def __enter__(self) -> "Observers":
        with ExitStack() as stack:
            if self.maps:
                stack.enter_context(self.maps)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.stack.close()

    def __call__(self, result: StepResult) -> None:
        for callback in self.callbacks:
            callback(result)

    def starts(self) -> list[Image.Image]:
        """With `show_start`: the network's first input, decoded."""
        assert self.start
        return self.pipeline.decode(self.start.model_input)

    def write(self, folder: Path, places: Sequence[int], images: Sequence[Image.Image], listing: str = "trace.jsonl") -> None:
        """Writes NNN-trace.png, .gif, .html and NNN-attention.png, .gif of each image, where NNN is its place.

        listing: the file to which the numbers of each step are appended.
        """
        if self.trace:
            decode = self.pipeline.decode if self.settings.trace_decode == "full" else None
            self.trace.write(folder, places, images, decode, listing)
        for position, (place, image) in enumerate(zip(places, images, strict=True)):
            word_maps = self.maps.of(position) if self.maps else None
            if word_maps:
                sheet = heat_sheet(image, word_maps.words, heat_levels(word_maps.maps.mean(0)))
                write_image(folder / f"{place:03d}-attention.png", sheet)
                write_bytes(folder / f"{place:03d}-attention.gif", heat_gif(image, word_maps))
            if self.trace and self.settings.trace_page:
                request = self.batch[position]
                html = page(self.trace, position, image, " / ".join(request.prompts), changed_settings(request), word_maps)
                write_text(folder / f"{place:03d}-trace.html", html)


class DenoisingProgress:
    """A callback for `record`: emits the number of evaluations made, and the total of all batches of the job."""

    def __init__(self, num_images: int, batch_size: int):
        self.left, self.size, self.done, self.total = num_images, batch_size, 0, 0

    def begin(self, num_images: int) -> None:
        """Call this before each batch, with its number of images."""
        self.left -= num_images

    def __call__(self, result: StepResult) -> None:
        if result.step.index == 0:
            self.total = self.done + result.step.count * (1 + -(-self.left // self.size))
        self.done += 1
        emit(DenoisingStep(self.done, self.total))


class FirstInput:
    """A callback for `record`: `model_input` [B, C, H, W] is the network's first input."""

    def __call__(self, result: StepResult) -> None:
        if result.step.index == 0:
            self.model_input = result.model_input


def attention(pipeline: Pipeline, batch: Sequence[ImageRequest]) -> AttentionMaps:
    """Records the attention maps of the words of each image's prompt."""
    settings, prompts = batch[0].settings, [request.prompts[0] for request in batch]
    steps, plain = settings.steps, settings.plain_prompt
    return AttentionMaps(pipeline.family, prompts, num_inference_steps=steps, plain_prompt=plain)


def changed_settings(request: ImageRequest) -> dict[str, Any]:
    """The settings of an image that differ from the defaults, with its seed and guidance scale."""
    fields, values = table(InferenceSettings), request.settings.values()
    changed = {name: value for name, value in values.items() if fields[name].scope != "run" and value != fields[name].default}
    changed.pop("prompt", None)  # it is the page's title
    return changed | {"seed": request.seed, "guidance_scale": request.settings.guidance_scale}
