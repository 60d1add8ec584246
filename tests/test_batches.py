"""The batches of a step: loss weights by hand, epochs without gaps, captions and their dropout."""

from dataclasses import replace

import pytest
import torch
from kit import hidden_states, prepared, settings_for, write_images
from torch.nn import functional as F

from customize.data.samples.latent_dataset import EpochSampler, SampleConfig


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("pictures"))


@pytest.mark.parametrize("base", ["tiny_epsilon", "tiny_v"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_min_snr_with_prior_preservation_by_hand(base, batch_size, image_folder, tmp_path, request):
    """Every sample of the batch, of the subject and of the class, has its own min-SNR weight; the class's are scaled."""
    changes = {
        "train_batch_size": batch_size, "prior_preservation": "images", "class_prompt": "a photo of dog", "num_class_images": 4,
        "class_data_dir": str(write_images(tmp_path / "class", 4, seed=1)), "prior_loss_weight": 0.7, "snr_gamma": 5.0,
    }  # fmt: skip
    context, training = prepared(settings_for("full", request.getfixturevalue(base), image_folder, tmp_path / "run", **changes))
    family = context.family
    batch = training.dataset.deal(2, range(batch_size))[0]
    assert batch.prompts == ("a photo of sks dog",) * batch_size + ("a photo of dog",) * batch_size
    losses = training.method(batch)
    for i in range(2 * batch_size):
        t = int(batch.timesteps[i])
        a = float(family.schedule.alphas_cumprod[t])
        x, e = batch.latents[i : i + 1], batch.noise[i : i + 1]
        noisy = a**0.5 * x + (1 - a) ** 0.5 * e
        answer = family.unet(noisy, t, encoder_hidden_states=hidden_states(training.condition([batch.prompts[i]]))).sample
        snr = a / (1 - a)
        if family.prediction_type == "epsilon":
            error, weight = F.mse_loss(answer, e).item(), min(snr, 5) / snr
        else:
            error, weight = F.mse_loss(answer, a**0.5 * e - (1 - a) ** 0.5 * x).item(), min(snr, 5) / (snr + 1)
        assert losses[i].item() == pytest.approx((0.7 if i >= batch_size else 1) * weight * error, rel=1e-4)
    assert len(set(batch.timesteps.tolist())) == 2 * batch_size  # the class has its own draws
    assert not torch.equal(batch.noise[:batch_size], batch.noise[batch_size:])
    plain = replace(batch, loss_weights=torch.ones(2 * batch_size))
    assert not torch.allclose(losses, training.method(plain))


def test_the_epoch_sampler_draws_every_image_equally_often():
    sampler = EpochSampler("instance", SampleConfig(seed=0, global_batch=4), 5, [2] * 5)
    dealt = [sampler.draw(step, position) for step in range(25) for position in range(4)]
    assert all([picture for picture, _ in dealt].count(i) == 20 for i in range(5))
    assert sampler.needed(range(25)) == set(dealt) and sampler.needed(range(3, 5)) == set(dealt[12:20])


def test_captions_are_drawn_and_dropped_at_their_rate(tiny_epsilon, image_folder, tmp_path):
    settings = settings_for(
        "textual_inversion", tiny_epsilon, image_folder, tmp_path, train_batch_size=8, max_train_steps=40, caption_dropout=0.25
    )
    _, training = prepared(settings)
    prompts = [prompt for step in range(40) for prompt in training.dataset.deal(step, range(8))[0].prompts]
    assert 0.17 < prompts.count("") / 320 < 0.33
    assert len(set(prompts)) > 15 and all("<new>" in prompt for prompt in prompts if prompt)


def test_min_snr_and_offset_noise_do_not_change_other_draws(tiny_epsilon, image_folder, tmp_path):
    plain, changed = (
        prepared(settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **more))[1].dataset.deal(1, [0])[0]
        for more in ({}, {"snr_gamma": 5.0, "noise_offset": 0.1, "caption_dropout": 1.0})
    )
    assert torch.equal(plain.latents, changed.latents) and torch.equal(plain.timesteps, changed.timesteps)
    shift = changed.noise - plain.noise
    torch.testing.assert_close(shift, shift.mean((2, 3), keepdim=True).expand_as(shift), rtol=0, atol=1e-6)
    assert changed.prompts == ("",) and plain.loss_weights == 1 and changed.loss_weights <= 1
