"""A noise schedule that ends in pure noise, for base models whose files do not say that they were trained with one."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from kit import prepared, settings_for
from models import tiny_stable_diffusion_xl

from customize.errors import InputError
from customize.families import load, locate
from customize.inference import load_pipeline

ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


@pytest.mark.parametrize("family", ["1.5", "xl"])
def test_a_base_whose_files_do_not_say_so_is_trained_to_zero_snr(family, tiny_epsilon, tiny_xl, image_folder, tmp_path):
    """The loss of the first step equals that of stock's schedule; infer.py and a checkpoint go on with it."""
    from customize.training import preflight

    base = {"1.5": tiny_epsilon, "xl": tiny_xl}[family]
    changes = {**ZERO_SNR, "max_train_steps": 1, "snr_gamma": 5.0}
    settings = settings_for("lora", base, image_folder, tmp_path / "run", **changes)
    context, training = prepared(settings)
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}
    stock = DDIMScheduler(**config, rescale_betas_zero_snr=True)
    [batch] = training.dataset.deal(0, [0])
    batch = replace(batch, timesteps=torch.tensor([999]))
    noisy = stock.add_noise(batch.latents, batch.noise, batch.timesteps)
    torch.testing.assert_close(training.method.noisy_latents(batch), noisy)
    torch.testing.assert_close(training.method.target(batch), stock.get_velocity(batch.latents, batch.noise, batch.timesteps))
    torch.testing.assert_close(noisy, batch.noise)
    assert context.family.scheduler.config.timestep_spacing == "trailing"
    folder = preflight.run(settings)
    drawn = load_pipeline(None, [(folder, 1.0)])
    assert drawn.family.scheduler.config.rescale_betas_zero_snr and drawn.family.prediction_type == "v_prediction"
    assert load_pipeline(str(base), [(folder, 1.0)]).family.prediction_type == "epsilon"  # as the user names it


def test_a_marked_base_may_be_trained_without(tiny_xl, tmp_path):
    folder = tiny_stable_diffusion_xl(tmp_path / "marked", **ZERO_SNR)
    marked = load(locate(str(folder)))
    assert marked.schedule.snr(torch.tensor([999])) < 1e-6
    plain = load(locate(str(folder), rescale_betas_zero_snr=False))
    assert plain.schedule.snr(torch.tensor([999])) == load(locate(str(tiny_xl))).schedule.snr(torch.tensor([999])) > 1e-3


def test_zero_snr_is_refused_where_the_noise_is_predicted(tiny_epsilon, image_folder, tmp_path):
    from customize.training import preflight

    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", rescale_betas_zero_snr=True)
    with pytest.raises(InputError, match="rescale_betas_zero_snr: needs a model that predicts v"):
        preflight.check(settings)
    with pytest.raises(InputError, match="needs a model that predicts v"):
        load(locate(str(tiny_epsilon), rescale_betas_zero_snr=True))
