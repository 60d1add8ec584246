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


def test_the_schedule_is_that_of_the_paper_and_of_kohya(tiny_epsilon):
    """sqrt(a) is shifted so that it ends at 0, and scaled so that it starts as before (algorithm 1), in float64."""
    rescaled = load(locate(str(tiny_epsilon), **ZERO_SNR)).scheduler
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    root = (1 - betas).cumprod(0).sqrt()
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    torch.testing.assert_close(rescaled.alphas_cumprod.double(), expected, rtol=1e-4, atol=1e-6)
    assert rescaled.alphas_cumprod[-1] == 0


def test_a_whole_model_and_the_card_of_an_adapter_say_how_they_are_sampled(tiny_epsilon, image_folder, tmp_path):
    """Stock's scheduler, from the folder that is saved and from the lines of the card, is that of the run."""
    from customize.training.model_card import other_programs

    context, training = prepared(settings_for("full", tiny_epsilon, image_folder, tmp_path / "run", **ZERO_SNR))
    own = context.family.scheduler
    training.method.save(tmp_path / "saved", {})
    saved = DDIMScheduler.from_pretrained(tmp_path / "saved", subfolder="scheduler")
    facts = {"base_model": "someone/model", "example_prompt": "a dog", "settings": ZERO_SNR}
    [card] = [text for text in other_programs("mine", facts, [tmp_path / "pytorch_lora_weights.safetensors"]) if "```" in text]
    [line] = [line for line in card.splitlines() if line.startswith("pipeline.scheduler")]
    base = load(locate(str(tiny_epsilon))).scheduler
    made = eval(line.partition(" = ")[2].replace("pipeline.scheduler", "base"), {"DDIMScheduler": DDIMScheduler, "base": base})
    for scheduler in (saved, made):
        assert torch.equal(scheduler.alphas_cumprod, own.alphas_cumprod) and not scheduler.config.clip_sample
        assert scheduler.config.timestep_spacing == "trailing" and scheduler.config.prediction_type == "v_prediction"
    assert "import DDIMScheduler, DiffusionPipeline" in card and "guidance_rescale=0.7" in card
    [plain] = [
        text
        for text in other_programs("mine", {**facts, "settings": {}}, [tmp_path / "pytorch_lora_weights.safetensors"])
        if "```" in text
    ]
    assert "scheduler" not in plain.lower() and "rescale" not in plain


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
