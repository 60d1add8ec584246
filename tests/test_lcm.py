"""Base models whose UNet takes the guidance scale as an input (time_cond_proj_dim), against diffusers' pipelines for LCM."""

import diffusers
import pytest
import torch
from diffusers import LatentConsistencyModelImg2ImgPipeline, LatentConsistencyModelPipeline, UNet2DConditionModel
from test_sampler import picture

from customize import families
from customize.cli.main import main
from customize.errors import InputError
from customize.families.stable_diffusion import guidance_embedding
from customize.inference.explain.trace import Trace
from customize.inference.pipeline import Pipeline
from customize.inference.run import command
from customize.settings.inference import InferenceSettings


@pytest.fixture(scope="module")
def folder(tiny_epsilon, tmp_path_factory):
    """The tiny model with a UNet that takes the guidance scale, and LCM's scheduler."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_epsilon, safety_checker=None)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config({**pipe.unet.config, "time_cond_proj_dim": 33})
    unet.load_state_dict(pipe.unet.state_dict(), strict=False)
    torch.nn.init.normal_(unet.time_embedding.cond_proj.weight, std=0.3)
    torch.set_rng_state(state)
    pipe.register_modules(unet=unet, scheduler=diffusers.LCMScheduler.from_config(pipe.scheduler.config))
    pipe.save_pretrained(folder := tmp_path_factory.mktemp("lcm") / "lcm")
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    return Pipeline(families.load(families.locate(str(folder))))


@pytest.fixture(scope="module")
def stock(folder):
    pipe = LatentConsistencyModelPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


@pytest.mark.parametrize("steps", [1, 4, 8])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3, 4.0, 8.5])
def test_latents_equal_diffusers(ours, stock, scale, steps):
    options = {"num_inference_steps": steps, "guidance_scale": scale, "output_type": "latent"}
    expected = stock(["a dog", "a red car"], generator=seeds(1, 2), **options).images
    found = ours.generate(["a dog", "a red car"], seeds=[1, 2], negative_prompt="a cat", **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    alone = ours.generate("a red car", seeds=2, **options)
    torch.testing.assert_close(alone, expected[1:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("strength", [0.5, 0.8, 1.0])
def test_image_to_image_equals_diffusers(ours, stock, strength):
    pipe = LatentConsistencyModelImg2ImgPipeline(**stock.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    options = {"image": picture(), "strength": strength, "num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent"}
    expected = pipe("a dog", generator=seeds(5), **options).images
    torch.testing.assert_close(ours.generate("a dog", seeds=5, **options), expected, rtol=0, atol=1e-4)


def test_scales_of_a_batch_are_each_image_s_own(ours, stock):
    options = {"num_inference_steps": 3, "output_type": "latent"}
    together = ours.generate("a dog", seeds=[3, 3, 3], guidance_scale=[1.0, 2.3, 9.0], **options)
    for row, scale in zip(together, (1.0, 2.3, 9.0), strict=True):
        expected = stock("a dog", generator=seeds(3), guidance_scale=scale, **options).images
        torch.testing.assert_close(row[None], expected, rtol=0, atol=1e-4)
    assert (together[1] - together[2]).abs().max() > 0.1


def test_other_samplers_and_pieces_of_a_batch(ours, folder):
    options = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent"}
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, steps_offset=1)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe("a dog", generator=seeds(7), **options).images
    torch.testing.assert_close(ours.generate("a dog", seeds=7, scheduler="DDIMScheduler", **options), expected, rtol=0, atol=1e-4)
    whole = ours.generate("a dog", seeds=[1, 2, 3], **options)
    torch.testing.assert_close(ours.generate("a dog", seeds=[1, 2, 3], max_batch=2, **options), whole, rtol=0, atol=1e-4)


def test_the_network_is_evaluated_once_and_the_trace_has_no_guidance(ours, monkeypatch):
    rows, predict = [], ours.family.predict
    monkeypatch.setattr(ours.family, "predict", lambda *inputs: rows.append(len(inputs[0])) or predict(*inputs))
    trace = Trace()
    ours.generate("a dog", seeds=[1, 2], num_inference_steps=3, guidance_scale=6.0, record=trace)
    assert rows == [2, 2, 2] and trace.norms()["guidance_norm"] == [[None, None]] * 3
    with pytest.raises(InputError, match="AND needs classifier-free guidance"):
        ours.generate("a dog AND a cat", num_inference_steps=2)


def test_the_embedding_is_the_formula():
    w = torch.tensor([0.0, 6.5], dtype=torch.float64)
    frequencies = 10_000.0 ** -(torch.arange(16, dtype=torch.float64) / 15)
    angles = 1000 * w[:, None] * frequencies
    expected = torch.cat([angles.sin(), angles.cos(), torch.zeros(2, 1, dtype=torch.float64)], 1)
    torch.testing.assert_close(guidance_embedding(w, 33).double(), expected, rtol=0, atol=2e-3)  # float32 angles of thousands
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, w.float(), 33)
    assert torch.equal(guidance_embedding(w, 33), theirs)


def test_a_sweep_of_guidance_and_a_negative_prompt_on_the_command_line(folder, tmp_path, capsys):
    words = ["--pretrained_model_name_or_path", str(folder), "--prompt", "a dog", "--negative_prompt", "a cat"]
    words += ["--num_inference_steps", "2", "--sweep", "guidance_scale=1,4", "--trace", "--output_dir", str(tmp_path / "out")]
    assert main(InferenceSettings, command.run, words) == 0
    assert "note: negative_prompt has no effect: this base model (LCM)" in capsys.readouterr().err
