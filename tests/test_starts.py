"""Generation requests, and starts of denoising; a new start is one class."""

import numpy as np
import pytest
import torch
from PIL import Image

from customize import families
from customize.errors import InputError
from customize.inference.illusions.components import colour
from customize.inference.pipeline import Pipeline
from customize.inference.request import Composition, GenerationRequest, request_of
from customize.inference.sampler import DenoisingTask
from customize.inference.starts import ImageToImage, Inpainting, KeepComponent, TextToImage

SHORT = {"num_inference_steps": 4, "scheduler": "DDIM"}


@pytest.fixture(scope="module")
def pipeline(tiny_epsilon) -> Pipeline:
    return Pipeline(families.load(families.locate(str(tiny_epsilon))))


def random_image(seed: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


PAIR = [random_image(1), random_image(2)]
MASK = Image.fromarray(np.pad(np.full((8, 16), 255, np.uint8), ((0, 8), (0, 0))))
KEPT = Composition(lambda estimates: estimates[0], kept=(colour(), 1))


def request(start, **changes) -> GenerationRequest:
    """Of two images, one entry each."""
    given = {
        "prompts": [("a dog",), ("a cat",)],
        "negative_prompts": ["", "small"],
        "guidance_scales": [7.5] * 2,
        "seeds": [3, 4],
    }
    return GenerationRequest(**{**given, **SHORT, **changes}, start=start)


@pytest.mark.parametrize(
    ("start", "options"),
    [
        pytest.param(TextToImage(), {}, id="text to image"),
        pytest.param(ImageToImage(PAIR), {"image": PAIR}, id="image to image, at the usual strength"),
        pytest.param(ImageToImage(PAIR, 0.5), {"image": PAIR, "strength": 0.5}, id="image to image"),
        pytest.param(Inpainting(PAIR, [MASK] * 2), {"image": PAIR, "mask_image": MASK}, id="inpainting"),
        pytest.param(
            Inpainting(PAIR, [MASK] * 2, 0.75, 2, 1),
            {"image": PAIR, "mask_image": MASK, "strength": 0.75, "num_resamples": 2, "jump_length": 1},
            id="inpainting, resampled",
        ),
        pytest.param(KeepComponent(PAIR, *KEPT.kept), {"image": PAIR, "composition": KEPT}, id="a component is kept"),
        pytest.param(
            ImageToImage(PAIR, 1.0),
            {"image": PAIR, "composition": Composition(lambda estimates: estimates[0])},
            id="an image under a composition",
        ),
    ],
)
def test_options_make_the_request(start, options, pipeline):
    composition = options.get("composition")
    prompts = [("a dog",), ("a cat",)] if composition else ["a dog", "a cat"]
    made = request_of(prompts, negative_prompt=["", "small"], seeds=[3, 4], **SHORT, **options)
    expected = request(start, composition=composition)
    assert made == expected
    found = pipeline.generate(prompts, negative_prompt=["", "small"], seeds=[3, 4], **SHORT, **options, output_type="latent")
    assert torch.equal(found, pipeline.run(expected, output_type="latent")) and found.shape[0] == 2
    assert found.isfinite().all()


def test_each_start_is_its_own(pipeline):
    """None falls back to another: all of them give other latents, and other than without an image."""
    starts = TextToImage(), ImageToImage(PAIR, 0.5), Inpainting(PAIR, [MASK] * 2, 0.5), KeepComponent(PAIR, *KEPT.kept)
    found = [pipeline.run(request(start), output_type="latent") for start in starts]
    for number, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-3 for other in found[:number])


def test_a_new_start_is_one_class(pipeline):
    """Latents that are given, as an inversion gives them."""

    class Given:
        gives_mask, shortens, images, strength = False, False, (), 1.0

        def __init__(self, noise):
            self.noise = noise

        def task(self, pipeline, solver, estimate, size, generators):
            return DenoisingTask(solver.start(self.noise), estimate)

    noise = torch.cat([torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4)])
    own = pipeline.run(request(Given(noise)), output_type="latent")
    options = {"negative_prompt": ["", "small"], "seeds": [3, 4], "output_type": "latent", **SHORT}
    assert torch.equal(own, pipeline.generate(["a dog", "a cat"], start=Given(noise), **options))
    assert torch.equal(own, pipeline.run(request(TextToImage()), output_type="latent"))
    assert not torch.allclose(own, pipeline.run(request(Given(noise.flip(0))), output_type="latent"), atol=1e-2)


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"mask_image": MASK}, "mask_image"), ({"strength": 0.5}, "strength"), ({"seeds": [1, 2, 3]}, "prompts"),
        ({"image": PAIR, "strength": 0.0}, "strength"), ({"start": TextToImage(), "image": PAIR}, "start"),
    ],
)  # fmt: skip
def test_contradicting_options_are_refused(options, where, pipeline):
    with pytest.raises(InputError) as caught:
        pipeline.generate(["a dog", "a cat"], **SHORT, **options)
    assert [problem.where for problem in caught.value.problems] == [where]


def test_an_unknown_option_is_an_error(pipeline):
    with pytest.raises(TypeError, match="num_steps"):
        pipeline.generate("a dog", num_steps=3)
