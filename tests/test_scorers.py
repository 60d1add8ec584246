"""Scorers against the same networks called by hand."""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from customize.diffusion import rng
from customize.evaluation.scorers.base_model import BaseModelScorer, Place
from customize.evaluation.scorers.pixels import squares
from customize.families import load
from customize.families.source import locate


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Three images of noise, square, wide and tall."""
    generator = torch.Generator().manual_seed(1)
    sizes = ((16, 16), (16, 24), (40, 20))
    return [Image.fromarray(torch.randint(256, (*size, 3), generator=generator, dtype=torch.uint8).numpy()) for size in sizes]


def noised(family, images, stream, draw, timestep):
    """Latents with noise, and the noise, by diffusers' own scheduler."""
    from diffusers import DDPMScheduler

    pixels = 2 * squares(images, 16) - 1
    latents = family.vae.encode(pixels).latent_dist.mean * family.vae.config.scaling_factor
    noise = rng.normal(latents.shape[1:], 0, f"scorer/{stream}", 0, [draw]).expand_as(latents)
    scheduler = DDPMScheduler.from_config(family.scheduler.config)
    timesteps = torch.full((len(images),), timestep)
    return scheduler.add_noise(latents, noise, timesteps), latents, noise, timesteps, scheduler


@pytest.fixture(params=["tiny_epsilon", "tiny_v"])
def family(request):
    return load(locate(str(request.getfixturevalue(request.param))))


@torch.no_grad()
def test_features_of_the_base_model_are_activations_of_the_whole_network(family, images):
    places = Place("down_blocks", 0, 0.05), Place("up_blocks", -1, 0.6), Place("mid_block", 0, 0.05)
    scorer = BaseModelScorer(family, family.encode_prompts, patches=places[0], pooled=places[1])
    family.unet.train()
    found = scorer.features(images)
    assert family.unet.training and not any(module._forward_hooks for module in family.unet.modules())
    middle = scorer.activations(images, places)[2]
    family.unet.eval()
    blocks = family.unet.down_blocks[0], family.unet.up_blocks[1], family.unet.mid_block
    for place, module, timestep in zip(places, blocks, (50, 600, 50), strict=True):
        noisy, *_, timesteps, _ = noised(family, images, f"features/{place.time}", 0, timestep)
        seen = []
        handle = module.register_forward_hook(lambda *call, seen=seen: seen.append(call[2]))
        family.unet(noisy, timesteps, family.encode_prompts([""] * 3).tensors["encoder_hidden_states"])
        handle.remove()
        output = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
        if module is blocks[0]:
            assert torch.allclose(found.patches[1, 3], F.normalize(output[1, :, 0, 3], dim=0), atol=1e-5)
            assert found.patches.shape == (3, 16, 32)
        elif module is blocks[1]:
            assert torch.allclose(found.pooled, F.normalize(output.mean((2, 3)), dim=1), atol=1e-5)
        else:
            assert torch.allclose(middle, output, atol=1e-5)


@torch.no_grad()
def test_the_match_of_the_base_model_is_minus_its_error_under_each_prompt(family, images):
    prompts = ["a dog", "red house"]
    found = BaseModelScorer(family, family.encode_prompts, match_times=(0.2, 0.7)).match(images, prompts)
    for column, prompt in enumerate(prompts):
        errors = []
        for draw, timestep in enumerate((200, 700)):
            noisy, latents, noise, timesteps, scheduler = noised(family, images, "match", draw, timestep)
            is_v = family.prediction_type == "v_prediction"
            target = scheduler.get_velocity(latents, noise, timesteps) if is_v else noise
            output = family.unet(noisy, timesteps, family.encode_prompts([prompt] * 3).tensors["encoder_hidden_states"]).sample
            errors.append((output - target).square().mean((1, 2, 3)))
        assert torch.allclose(found[:, column], -torch.stack(errors).mean(0), rtol=1e-4)
