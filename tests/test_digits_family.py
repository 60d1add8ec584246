"""The family of small models of digits: network, prompts, folder, and sampling against the algorithms of the papers."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image

from customize import families
from customize.cli import commands
from customize.errors import InputError
from customize.families.digits.digit_model import Digits
from customize.families.digits.digit_unet import DigitUNet
from customize.families.latents import Pixels
from customize.inference import load_pipeline
from customize.inference.pipeline import Pipeline
from customize.prompts import Span

STEPS = 6


def network(channels=8, **config) -> DigitUNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DigitUNet(channels, **config).eval()


def model(folder, scheduler=None, **config) -> Digits:
    scheduler = scheduler or DDPMScheduler(num_train_timesteps=STEPS, beta_end=0.5, clip_sample=False)
    return Digits("digits", folder, network(**config), scheduler)


@pytest.fixture
def folder(tmp_path):
    model(tmp_path).pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_network_has_the_size_of_the_course_and_its_conditioning():
    unet = DigitUNet(32)
    assert sum(parameter.numel() for parameter in unet.parameters()) == 506_817
    unet, generator = network().double(), torch.Generator().manual_seed(1)
    x, time = torch.randn(2, 1, 28, 28, generator=generator).double(), torch.tensor([0.2, 0.9]).double()
    features, labels = torch.randn(2, 16, 1, 1, generator=generator).double(), torch.eye(10)[[3, 7]].double()
    by_class, at_time = unet.class_1(labels), unet.time_1(time[:, None])
    torch.testing.assert_close(unet.conditioned(features, time, labels, 1), by_class * features + at_time, rtol=0, atol=0)
    both = unet(x, time, labels)
    for row in range(2):  # a sample does not depend on the others of its batch
        torch.testing.assert_close(unet(x[[row]], time[[row]], labels[[row]]), both[[row]], rtol=0, atol=1e-12)
    assert (unet(x, time, 0 * labels) - both).abs().max() > 1e-4 and (unet(x, time.flip(0), labels) - both).abs().max() > 1e-4
    plain = network(num_classes=0, takes_time=False)
    assert not any(name.startswith(("time", "class")) for name in plain.state_dict())
    assert plain(x.float(), time, torch.zeros(2, 0)).shape == x.shape


def test_prompts_are_digits(tmp_path):
    family = model(tmp_path)
    prompts = ["7", "a Seven", "the digit 0", "", [Span("a "), Span("3", 1.5)]]
    labels = family.encode_prompts(prompts).tensors["class_labels"]
    expected = torch.zeros(5, 10)
    expected[[0, 1, 2, 4], [7, 7, 0, 3]] = torch.tensor([1.0, 1.0, 1.0, 1.5])
    assert torch.equal(labels, expected)
    for prompt in ("a cat", "10", "3 or 5"):
        with pytest.raises(InputError, match="this model draws one digit"):
            family.encode_prompts([prompt])
    unconditional = model(tmp_path, num_classes=0)
    assert unconditional.encode_prompts(["7", ""]).tensors["class_labels"].shape == (2, 0)


def test_grey_pixels():
    space = Pixels(channels=1, shift=-1.0, scale=0.5)
    grey = torch.linspace(-1, 1, 256).view(1, 1, 16, 16)
    stored = space.encode(grey.expand(1, 3, 16, 16))
    assert stored.shape == (1, 1, 16, 16) and space.shape(stored) == (1, 16, 16)
    latents = space.sample(stored)
    torch.testing.assert_close(latents, torch.linspace(0, 1, 256).view(1, 1, 16, 16), rtol=0, atol=1e-6)
    torch.testing.assert_close(space.decode(latents), grey.expand(1, 3, 16, 16), rtol=0, atol=1e-6)
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(space.encode(red), torch.tensor(0.299 - 0.587 - 0.114).view(1, 1, 1, 1))
    colour = torch.rand(1, 3, 4, 4)
    assert torch.equal(Pixels().sample(Pixels().encode(colour)), colour)


def guided(family, x, timestep, label, scale):
    """Classifier-free guidance, written out; float64."""
    labels = torch.eye(10, dtype=torch.float64)[[label]]
    time = torch.tensor([timestep / family.scheduler.config.num_train_timesteps], dtype=torch.float64)
    with torch.no_grad():
        unconditional, conditional = family.unet(x, time, 0 * labels), family.unet(x, time, labels)
    return unconditional + scale * (conditional - unconditional)


def test_sampling_is_algorithm_2_of_ddpm(tmp_path):
    """Ho et al. 2020, algorithm 2, with the variance of equation 7."""
    family = model(tmp_path).to(torch.float64)
    options = {"guidance_scale": 5.0, "num_inference_steps": STEPS, "seeds": 3, "output_type": "latent"}
    found = Pipeline(family).generate("4", **options)
    generator = torch.Generator().manual_seed(3)
    betas = torch.linspace(1e-4, 0.5, STEPS, dtype=torch.float32).double()
    alphas = 1 - betas
    bars = alphas.cumprod(0)
    x = torch.randn(1, 1, 28, 28, generator=generator, dtype=torch.float64)
    for t in reversed(range(STEPS)):
        noise = guided(family, x, t, 4, 5.0)
        x = (x - betas[t] / (1 - bars[t]).sqrt() * noise) / alphas[t].sqrt()
        if t:
            variance = (1 - bars[t - 1]) / (1 - bars[t]) * betas[t]
            x = x + variance.sqrt() * torch.randn(1, 1, 28, 28, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-4)  # the scheduler's own numbers are float32


def test_sampling_a_flow_is_eulers_method(tmp_path):
    """Lipman et al. 2023: x <- x + (next sigma - sigma) * velocity, from noise at sigma 1 to the digit at 0."""
    family = model(tmp_path, FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)).to(torch.float64)
    found = Pipeline(family).generate("4", guidance_scale=5.0, num_inference_steps=STEPS, seeds=3, output_type="latent")
    x = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    sigmas = [*torch.linspace(1, 1e-3, STEPS).tolist(), 0.0]
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        x = x + (following - sigma) * guided(family, x, 1000 * sigma, 4, 5.0)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-4)
    assert family.spec.prediction_type is not None and family.prediction_type == "flow_prediction"


def test_a_folder_is_recognised_and_drawn_from(folder, tmp_path, capsys):
    source = families.locate(str(folder))
    assert source.family == "digits"
    words = ["--pretrained_model_name_or_path", str(folder), "--num_inference_steps", "3", "--guidance_scale", "5"]
    assert commands.infer([*words, "--prompt", "a seven", "--negative_prompt", "1", "--output_dir", str(tmp_path / "out")]) == 0
    [expected] = load_pipeline(str(folder)).generate("7", negative_prompt="1", num_inference_steps=3, guidance_scale=5, seeds=0)
    found = Image.open(tmp_path / "out/000.png")
    assert found.size == (28, 28) and found.tobytes() == expected.tobytes()
    image = ["--image", str(tmp_path / "out/000.png"), "--strength", "0.7", "--trace", "--output_dir", str(tmp_path / "again")]
    assert commands.infer([*words, "--prompt", "7", *image]) == 0
    assert commands.infer([*words, "--prompt", "a cat", "--output_dir", str(tmp_path / "no")]) == 2
    assert "names no digit" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_the_included_model_draws_digits(capsys, tmp_path):
    """The middle of a 1 is white and its side is black; of a 0 the other way around."""
    images = load_pipeline("digits").generate(["1"] * 4 + ["0"] * 4, num_inference_steps=8, guidance_scale=5, seeds=[*range(8)])
    grey = torch.stack([torch.from_numpy(np.array(image))[..., 0].float() / 255 for image in images])
    middle, sides = grey[:, 10:18, 13:16].mean((1, 2)), grey[:, 10:18, [*range(5, 9), *range(20, 24)]].mean((1, 2))
    assert (middle[:4] > 0.5).all() and (sides[:4] < 0.2).all() and (middle[4:] < 0.2).all() and (sides[4:] > 0.3).all()
    assert commands.show(["digits"]) == 0
    assert commands.infer(["--pretrained_model_name_or_path", "digits", "--prompt", "cat", "--output_dir", str(tmp_path)]) == 2


def test_what_is_wrong_with_a_folder_is_said(folder, capsys):
    words = ["--pretrained_model_name_or_path", str(folder), "--instance_data_dir", "x", "--instance_prompt", "sks"]
    assert commands.train_dreambooth(words) == 2
    assert "it reads a class, and no text" in capsys.readouterr().err
    config = json.loads((folder / "unet/config.json").read_text())
    for change, report in ({"channels": 12}, "channels is '12'"), ({"channels": 16}, "cannot be loaded"):
        (folder / "unet/config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=report):
            families.load(families.locate(str(folder)))
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    (folder / "scheduler/scheduler_config.json").write_text('{"_class_name": "PNDMScheduler"}')
    with pytest.raises(InputError) as caught:
        families.locate(str(folder))
    assert len(caught.value.problems) == 2
