"""Latents of an autoencoder and pixels, behind one protocol: against the formulas of diffusers' pipelines, in float64."""

import pytest
import torch
from diffusers import AutoencoderKL

from customize.families.latents import KLLatents, LatentSpace, Pixels

SCALES = {
    "Stable Diffusion": {"scaling_factor": 0.18215},
    "SD3, FLUX": {"scaling_factor": 1.5305, "shift_factor": 0.0609},
    "means and deviations": {
        "scaling_factor": 0.5, "latents_mean": [-1.6574, 1.886, -1.383, 2.5155], "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
    },
}  # fmt: skip


def autoencoder(**options) -> AutoencoderKL:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4}
    return AutoencoderKL(**blocks, **sizes, **options).double().eval().requires_grad_(False)


def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("kind", SCALES)
def test_scaled_latents_follow_the_formula_and_decode_to_the_pixels_of_the_unscaled(kind):
    vae, config = autoencoder(**SCALES[kind]), SCALES[kind]
    space = KLLatents(vae)
    stored = space.encode(pixels())
    noise = torch.randn(2, *space.shape(stored), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mean, log_variance = vae.encode(pixels()).latent_dist.parameters.chunk(2, 1)
    plain = mean + (0.5 * log_variance).exp() * noise
    shift, std = (torch.tensor(config.get(name, default)).view(-1, 1, 1) for name, default in
                  (("latents_mean", config.get("shift_factor", 0.0)), ("latents_std", 1.0)))  # fmt: skip
    tolerance = {"rtol": 1e-6, "atol": 1e-6}  # means and deviations are float32 here
    torch.testing.assert_close(space.sample(stored, noise), (plain - shift) * config["scaling_factor"] / std, **tolerance)
    torch.testing.assert_close(space.sample(stored), (mean - shift) * config["scaling_factor"] / std, **tolerance)
    torch.testing.assert_close(space.decode(space.sample(stored, noise)), vae.decode(plain).sample, **tolerance)


@pytest.mark.parametrize("space", [KLLatents(autoencoder()), Pixels()], ids=lambda space: type(space).__name__)
def test_shapes_are_those_of_what_is_encoded_and_sampled(space: LatentSpace):
    stored = space.encode(pixels())
    assert tuple(stored.shape) == (2, *space.stored_shape(16, 24))
    latents = space.sample(stored, torch.zeros(2, *space.shape(stored)))
    assert tuple(latents.shape) == (2, *space.shape(stored)) == (2, space.channels, 16 // space.factor, 24 // space.factor)
    assert space.decode(latents).shape == pixels().shape


def test_pixels_are_stored_sampled_and_decoded_as_they_are():
    space = Pixels()
    assert all(torch.equal(pixels(), same) for same in (space.encode(pixels()), space.sample(pixels()), space.decode(pixels())))


def test_the_identity_follows_the_autoencoder():
    vae = autoencoder()
    own, spaces = KLLatents(vae).identity(), [KLLatents(autoencoder(scaling_factor=3.0)), Pixels()]
    assert own == spaces[0].identity(), "what is stored is not scaled"
    vae.encoder.conv_in.bias.data[0] += 1e-9
    assert len({str(sorted(each.items())) for each in (own, KLLatents(vae).identity(), spaces[1].identity())}) == 3
