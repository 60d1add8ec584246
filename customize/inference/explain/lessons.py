"""Lessons: contact sheets that show how a diffusion model works: the autoencoder, the forward process, denoising, and views.

B images, C latent channels, H W latent height and width. A lesson takes a pipeline and an image, and returns a sheet.
"""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from customize.diffusion.predictions import add_noise
from customize.inference.estimates import Estimate
from customize.inference.explain.contact_sheet import contact_sheet, stacked
from customize.inference.explain.trace import colour_map
from customize.inference.illusions.views import VIEWS
from customize.inference.inpainting import as_pixels
from customize.inference.pipeline import Pipeline
from customize.inference.run.grid import ImageRequest
from customize.inference.sampler import evaluate, sample
from customize.inference.schedulers import make_scheduler
from customize.inference.solvers import Solver
from customize.inference.starts import fitted

LEVELS = (250, 500, 750)
"""The timesteps, of 1000, that are shown."""
AMPLIFIED = 4
VIEWS_IN_A_ROW = 7


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB of two RGB images of one size; infinite if they are equal."""
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    error = np.square(difference).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


@torch.no_grad()
def autoencoder(pipeline: Pipeline, image: Image.Image, request: ImageRequest) -> Image.Image:
    """The image, its latents (as colours by the best linear map), the decoded image, and the difference.

    Rombach et al. 2022, section 3.1. The latents are the mean of the posterior.
    """
    family, image = pipeline.family, fitting(pipeline, image)
    latents = family.latents.sample(family.latents.encode(as_pixels(image)))
    (decoded,) = pipeline.decode(latents)
    difference = ImageChops.difference(image, decoded).point(lambda value: min(255, AMPLIFIED * value))
    plain = latents[0].float().cpu()
    coloured = Image.fromarray(colour_map(plain, decoded)(plain[None])[0]).resize(image.size, Image.Resampling.NEAREST)
    ratio = 3 * image.width * image.height / latents.numel()
    columns = ["image", f"latents: {ratio:.0f} times fewer numbers", f"decoded: {psnr(image, decoded):.1f} dB"]
    return contact_sheet([[image, coloured, decoded, difference]], [*columns, f"difference x {AMPLIFIED}"])


@torch.no_grad()
def forward(pipeline: Pipeline, image: Image.Image, request: ImageRequest) -> Image.Image:
    """The forward process (DDPM, equation 4): the image's latents with increasing levels of the same noise, decoded."""
    image, schedule = fitting(pipeline, image), pipeline.family.schedule
    clean, noise = clean_and_noise(pipeline, image, request.seed)
    levels = [schedule.alpha_sigma(torch.tensor([timestep])) for timestep in LEVELS]
    noisy = [pipeline.decode(add_noise(clean, noise, *level))[0] for level in levels]
    labels = [f"t {timestep}, signal {float(alpha):.2f}" for timestep, (alpha, _) in zip(LEVELS, levels, strict=True)]
    return contact_sheet([[image, *noisy]], ["image", *labels])


@torch.no_grad()
def denoising(pipeline: Pipeline, image: Image.Image, request: ImageRequest) -> Image.Image:
    """A noisy image denoised by a Gaussian blur, in one step, and in many steps.

    One step: the clean latents that the network predicts (DDPM, equation 15). Many steps: DDIM (Song et al. 2021, "Denoising
    Diffusion Implicit Models") with `num_inference_steps` for the whole schedule.
    """
    image, settings = fitting(pipeline, image), request.settings
    solver = Solver(make_scheduler(pipeline.family.scheduler, "DDIM", spec=pipeline.family.spec))
    solver.set_steps(settings.num_inference_steps, device=pipeline.family.device)
    estimate = pipeline.estimate(
        [request.prompts[0]], [settings.negative_prompt], [settings.guidance_scale], settings.num_inference_steps,
        rescale=settings.guidance_rescale, clip_skip=settings.clip_skip, size=(image.height, image.width),
    )  # fmt: skip
    clean, noise = clean_and_noise(pipeline, image, request.seed)
    rows, labels = [], []
    for level in LEVELS:
        solver.first = int((solver.timesteps - level).abs().argmin())
        start = solver.start(noise, clean)
        (noisy,) = pipeline.decode(start)
        blurred = noisy.filter(ImageFilter.GaussianBlur(level / 1000 * image.width / 16))
        (once,) = pipeline.decode(in_one_step(pipeline, solver, start, estimate))
        (stepwise,) = pipeline.decode(sample(pipeline.family.predict, solver, start, estimate))
        rows.append([noisy, blurred, once, stepwise, image])
        labels.append(f"t {int(solver.timesteps[solver.first])}, {len(solver.timesteps) - solver.first} steps")
    return contact_sheet(rows, ["noisy", "blurred", "in one step", "in many steps", "image"], labels)


def views(pipeline: Pipeline, image: Image.Image, request: ImageRequest) -> Image.Image:
    """The image under each view of `--illusion anagram`; those that change the statistics of noise are marked."""
    side = max(pipeline.family.resolution // 64, 1) * 64  # a size that all views support
    (image,) = fitted([image], (side, side))
    all_views = [make() for make in VIEWS.values()]
    shown = [to_image(view(as_pixels(image))) for view in all_views]
    labels = [view.name.replace("_", " ") + ("" if view.orthogonal else " (no anagrams)") for view in all_views]
    rows = range(0, len(all_views), VIEWS_IN_A_ROW)
    return stacked([contact_sheet([shown[i : i + VIEWS_IN_A_ROW]], labels[i : i + VIEWS_IN_A_ROW]) for i in rows])


def to_image(pixels: Tensor) -> Image.Image:
    """Converts pixels [1, 3, height, width] in [-1, 1] to an image."""
    return Image.fromarray(((pixels[0] / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def in_one_step(pipeline: Pipeline, solver: Solver, start: Tensor, estimate: Estimate) -> Tensor:
    """The clean latents [B, C, H, W] that the network predicts at the solver's first step."""
    step = next(solver.steps())
    model_input = solver.scale(start, step.timestep)
    inputs = estimate.inputs(model_input, step)
    outputs = [each.prediction for each in evaluate(pipeline.family.predict, inputs, step.timestep, max_batch=len(start))]
    return step.split(estimate.combine(iter(outputs), model_input, step), model_input)[1]


def clean_and_noise(pipeline: Pipeline, image: Image.Image, seed: int) -> tuple[Tensor, Tensor]:
    """An image's latents [1, C, H, W] and noise of the same shape, both sampled with this seed."""
    generators = [torch.Generator().manual_seed(seed)]
    clean = pipeline.encode([image], generators)
    return clean, pipeline.noise((image.height, image.width), generators)


def fitting(pipeline: Pipeline, image: Image.Image) -> Image.Image:
    """The image as RGB in its own aspect ratio, at the resolution of the base model."""
    return fitted([image], pipeline.size(None, None, image))[0]


LESSONS: dict[str, Callable[[Pipeline, Image.Image, ImageRequest], Image.Image]] = {
    "autoencoder": autoencoder,
    "forward": forward,
    "denoising": denoising,
    "views": views,
}
