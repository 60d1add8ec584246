"""Losses on fixed draws, against float64 by hand; what they cost."""

import itertools

import pytest
import torch
from kit import prepared, settings_for, train_loop

from customize.evaluation import probe_loss
from customize.evaluation.choice import spread_over
from customize.evaluation.learned_change import adapted
from customize.evaluation.probe_loss import Probe, plan


def test_losses_against_float64_by_hand(tiny_epsilon, image_folder, tmp_path):
    """Relative to the base model by band; equal weights give equal bits."""
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path, max_train_steps=3, learning_rate=1e-2)
    context, training = prepared(settings)
    method, family, batch = training.method, context.family, training.dataset.probe(8)
    probe = Probe(method, {"training": batch}, context.device, 3, context.accelerator.autocast)
    assert probe.measure().losses == {"training": (1.0,) * 4} and method.training
    probe.add("class", batch.part(slice(0, 4)))
    train_loop(settings, training, context.accelerator, 3)
    found = probe.at(3)
    assert found == probe.measure()

    alphas = family.scheduler.alphas_cumprod.double()[batch.timesteps][:, None, None, None]
    noisy = alphas.sqrt() * batch.latents.double() + (1 - alphas).sqrt() * batch.noise.double()
    prompts = method.condition(batch.prompts).tensors["encoder_hidden_states"].double()
    unet, losses = family.denoiser.double().eval(), {}
    with torch.no_grad():
        for name, scale in ("now", 1.0), ("base", 0.0):
            for layer in adapted(method).values():
                layer.set_scale("default", scale)
            losses[name] = (unet(noisy, batch.timesteps, prompts).sample - batch.noise.double()).square().mean((1, 2, 3))
    bands = [(losses["now"][each].mean() / losses["base"][each].mean()).item() for each in torch.arange(8).chunk(4)]
    assert found.losses["training"] == pytest.approx(bands, rel=1e-5) and max(abs(band - 1) for band in bands) > 1e-3
    assert found.losses["class"] == pytest.approx((losses["now"] / losses["base"])[:4].tolist(), rel=1e-5)
    assert batch.timesteps.reshape(4, 2).div(250).long().tolist() == [[band] * 2 for band in range(4)]


def test_a_plan_costs_at_most_two_percent():
    """Of the predictions of a run, a step's sample counting as three; in short runs, as many as its change always took."""
    sets = ("training", "other crops", "class", "training as class")
    for steps, batch, times, count in itertools.product((1, 10, 100, 800, 5000), (1, 4, 64), (1, 4, 12), (1, 2, 3, 4)):
        found = plan(steps, batch, sets[:count], times)
        cost = sum(found.draws.values()) * (len(found.steps) + 1)
        assert cost <= 0.02 * 3 * steps * batch or (found.draws, found.steps) == ({"training": 8}, ())
        assert found.steps[-1:] in ((steps,), ()) and found.draws["training"] >= 4 and found.draws.keys() <= set(sets[:count])
        assert len(found.steps) < times or set(spread_over(steps, times)) <= set(found.steps)
    assert plan(800, 1, sets, 4) == probe_loss.Plan({"training": 4, "other crops": 4}, (200, 400, 600, 800))
    assert plan(500, 4, sets, 4).draws == {"training": 8, "other crops": 4, "class": 4, "training as class": 4}
    assert spread_over(10, 4) == [2, 5, 8, 10] and spread_over(2, 4) == [1, 2]
