"""Every option of the loss in a run: its loss by hand, accumulated and resumed to the same bits, bad values reported."""

import math
import shlex
import signal
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from kit import conditioning, hidden_states, prepared, settings_for, train_loop, write_images
from test_accumulation import Double
from whole_runs import LATEST, Run

from customize.cli.main import read
from customize.data.samples.latent_dataset import LatentDataset
from customize.diffusion.distances import DISTANCES, SCHEDULES
from customize.diffusion.loss_weights import WEIGHTINGS
from customize.diffusion.noise import Noise
from customize.diffusion.timestep_sampling import DISTRIBUTIONS, TimestepSampling
from customize.errors import InputError
from customize.methods import DreamBoothSettings, FromScratchSettings
from customize.settings.common import Settings
from customize.settings.derived import from_settings
from customize.settings.training_parts.objective import ObjectiveSettings

OPTIONS = {
    **{f"weighting {name}": {"loss_weighting": name} for name in WEIGHTINGS},
    **{f"distance {name}": {"loss_type": name} for name in DISTANCES},
    **{f"threshold {name}": {"loss_type": "huber", "huber_schedule": name, "huber_c": 0.3} for name in SCHEDULES},
    **{f"timesteps {name}": {"timestep_sampling": name, "min_timestep": 200, "max_timestep": 700} for name in DISTRIBUTIONS},
    "gamma": {"snr_gamma": 2.0},
    "gamma of P2": {"loss_weighting": "p2", "p2_gamma": 0.5},
    "velocity": {"v_pred_like_loss": 0.5},
    "logits": {"timestep_sampling": "logit_normal", "logit_mean": -1.0, "logit_std": 0.5},
    "strata": {"stratified_timesteps": True},
    "offset": {"noise_offset": 0.1},
    "multires": {"multires_noise_iterations": 4, "multires_noise_discount": 0.5},
    "perturbation": {"input_perturbation": 0.2},
    "dco": {"dco_beta": 50.0},
}
BETA = 40.0
TOGETHER = {
    "loss_weighting": "soft_min_snr", "snr_gamma": 3.0, "loss_type": "smooth_l1", "timestep_sampling": "logit_normal",
    "logit_std": 0.8, "min_timestep": 50, "max_timestep": 900, "stratified_timesteps": True, "noise_offset": 0.05,
    "multires_noise_iterations": 3, "input_perturbation": 0.1, "dco_beta": BETA,
}  # fmt: skip
"""One of each kind at once."""
PRIORS = {"none": {}, "images": {"num_class_images": 3}, "teacher": {}}


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def plain(tiny_epsilon, image_folder, tmp_path_factory):
    """The dataset of a run without options."""
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path_factory.mktemp("plain"), train_batch_size=4)
    return prepared(settings)[1].dataset


def test_every_setting_is_an_option():
    own = ObjectiveSettings.model_fields.keys() - Settings.model_fields.keys()
    assert own | {"dco_beta"} == {name for option in OPTIONS.values() for name in option}


@pytest.mark.parametrize("option", OPTIONS)
def test_samples_do_not_depend_on_micro_batches(option, plain, tiny_epsilon, image_folder, tmp_path):
    """Each sample has the same bits, dealt with others or alone. An option changes what it is about, and no other draw."""
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **OPTIONS[option])
    objective = {
        "noise": from_settings(Noise, settings), "timesteps": from_settings(TimestepSampling, settings),
        "weighting": settings.weighting,
    }  # fmt: skip
    dataset = LatentDataset(plain.family, replace(plain.config, **objective), plain.sampler, plain.images)
    [whole], [before] = dataset.deal(3, range(4)), plain.deal(3, range(4))
    parts = [dataset.deal(3, [position])[0] for position in range(4)]
    changed = set()
    for name in ("latents", "noise", "perturbation", "timesteps", "loss_weights"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts])), name
        changed |= set() if torch.equal(getattr(whole, name), getattr(before, name)) else {name}
    assert (whole.names, whole.prompts, whole.crops) == (before.names, before.prompts, before.crops)
    kind = {"offset": "noise", "multires": "noise", "perturbation": "perturbation", "strata": "timesteps", "logits": "timesteps"}
    weights = option.startswith(("weighting", "gamma", "velocity")) and option != "weighting noise"  # 1 where noise is predicted
    expected = {kind[option]} if option in kind else {"loss_weights"} if weights else set()
    assert changed == ({"timesteps"} if option.startswith("timesteps") else expected)


@pytest.mark.parametrize(
    ("prior", "base"),
    [
        ("none", "tiny_v"),
        ("images", "tiny_epsilon"),
        ("teacher", "tiny_v"),
        pytest.param("none", "tiny_epsilon", marks=pytest.mark.slow),
        pytest.param("images", "tiny_v", marks=pytest.mark.slow),
        pytest.param("teacher", "tiny_epsilon", marks=pytest.mark.slow),
    ],
)
def test_the_loss_with_one_option_of_each_kind_by_hand(prior, base, image_folder, tmp_path, request):
    """In float64, with stock's UNet as the base model; a prior sample has its weight, and no comparison with the base model."""
    base = request.getfixturevalue(base)
    changes = {**TOGETHER, "train_batch_size": 2, "prior_preservation": prior, **PRIORS[prior]}
    if prior != "none":
        changes |= {"class_prompt": "a photo of dog", "prior_loss_weight": 0.7}
    if prior == "images":
        changes["class_data_dir"] = str(write_images(tmp_path / "class", 3, seed=1))
    _, training = prepared(settings_for("lora", base, image_folder, tmp_path / "run", **changes))
    method, condition = training.method.double(), training.condition
    method.condition = lambda prompts: conditioning(hidden_states(condition(prompts)).double())
    for name, parameter in method.trainable_state_dict().items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    [batch] = Double(training.dataset).deal(1, range(2))
    losses = method(batch)

    stock = UNet2DConditionModel.from_pretrained(base, subfolder="unet").double()
    for i, found in enumerate(losses.tolist()):
        t, x, e = int(batch.timesteps[i]), batch.latents[i : i + 1], batch.noise[i : i + 1]
        a = method.family.scheduler.alphas_cumprod[t].double().item()
        snr = a / (1 - a)
        noisy = a**0.5 * x + (1 - a) ** 0.5 * (e + batch.perturbation[i : i + 1])
        prompt = hidden_states(method.condition([batch.prompts[i]]))
        with torch.no_grad():
            own, other = (unet(noisy, t, encoder_hidden_states=prompt).sample for unet in (method.unet, stock))
        of_v = method.family.prediction_type == "v_prediction"
        target = a**0.5 * e - (1 - a) ** 0.5 * x if of_v else e
        if prior == "teacher" and batch.is_prior[i]:
            target = other
        c = 0.9 / (1 + snr**-0.5) ** 2 + 0.1
        weight = 3 * snr / (snr + 3) / (snr + of_v if of_v else snr)
        of_own, of_base = (2 * weight * (((y - target) ** 2 + c**2).sqrt() - c).mean().item() for y in (own, other))
        expected = 0.7 * of_own if batch.is_prior[i] else math.log1p(math.exp(BETA * (of_own - of_base)))
        assert 50 <= t < 900 and abs(of_own - of_base) > 1e-4
        assert found == pytest.approx(expected, rel=1e-5)
    assert batch.is_prior.tolist() == [False] * 2 + [True] * (2 if prior != "none" else 0)


def learned(base, image_folder, folder, size, accumulated):
    settings = settings_for(
        "lora", base, image_folder, folder, train_batch_size=size, gradient_accumulation_steps=accumulated, max_train_steps=2,
        **TOGETHER,
    )  # fmt: skip
    context, training = prepared(settings)
    model, condition = training.method.double(), training.method.condition
    model.condition = lambda prompts: conditioning(hidden_states(condition(prompts)).double())
    train_loop(settings, training, context.accelerator, 2, dataset=Double(training.dataset))
    return {name: tensor.detach().clone() for name, tensor in model.trainable_state_dict().items()}


def test_accumulation_is_a_large_batch(tiny_epsilon, image_folder, tmp_path):
    expected = learned(tiny_epsilon, image_folder, tmp_path, 4, 1)
    found = learned(tiny_epsilon, image_folder, tmp_path, 1, 4)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-12)


def test_a_killed_run_resumes_to_the_same_bits(server, tiny_epsilon, image_folder, tmp_path):
    changes = {**TOGETHER, "train_batch_size": 2, "max_train_steps": 3}
    straight = Run(server, tmp_path / "straight", "lora", tiny_epsilon, image_folder, **changes)
    killed = Run(server, tmp_path / "killed", "lora", tiny_epsilon, image_folder, **changes)
    assert straight()[0] == 0 and killed(moment="in a step", number=3)[0] == -signal.SIGKILL
    status, output = killed(*LATEST)
    assert status == 0 and "resuming after step 2" in output
    assert killed.result() == straight.result() and killed.losses() == straight.losses()
    status, output = killed(*LATEST, "--huber_c", "0.2", "--dco_beta", "none")
    assert status == 2 and "huber_c: was 0.1" in output and "dco_beta: was 40.0" in output


def test_new_words_are_compared_with_the_words_that_they_start_from(tiny_epsilon, image_folder, tmp_path):
    """The base model does not know the new word: its loss is that of the prompt with `toy dog` instead."""
    settings = settings_for("pivotal", tiny_epsilon, image_folder, tmp_path / "run", dco_beta=BETA)
    _, training = prepared(settings)
    method, prompts = training.method, ("a photo of <new> dog", "a photo of toy dog dog")
    width, generator = method.unet.config.cross_attention_dim, torch.Generator().manual_seed(0)
    known = {prompt: 100 * torch.randn(77, width, generator=generator) for prompt in prompts}
    method.condition = lambda asked: conditioning(torch.stack([known[prompt] for prompt in asked]))
    [batch] = training.dataset.deal(0, [0])
    assert batch.prompts == prompts[:1]
    a = method.family.scheduler.alphas_cumprod[batch.timesteps][:, None, None, None]
    noisy = a.sqrt() * batch.latents + (1 - a).sqrt() * batch.noise
    losses = []
    for prompt in prompts:
        losses.append((method.unet(noisy, batch.timesteps, known[prompt][None]).sample - batch.noise).square().mean().item())
    assert abs(losses[0] - losses[1]) > 1e-5  # the adapter is new, and changes nothing yet
    assert method(batch).item() == pytest.approx(math.log1p(math.exp(BETA * (losses[0] - losses[1]))), rel=1e-5)


def test_a_probe_measures_the_squared_error_whatever_is_minimized(tiny_epsilon, image_folder, tmp_path):
    from customize.evaluation.probe_loss import Probe

    found = []
    for options in ({}, TOGETHER):
        context, training = prepared(settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **options))
        probe = Probe(training.method, {"training": training.dataset.probe(8)}, context.device, 4, context.accelerator.autocast)
        found.append(probe.base["training"])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


DOG = '--instance_prompt "a photo of sks dog" --instance_data_dir . '


@pytest.mark.parametrize(
    "line, where, words",
    [
        ("--loss_weighting min_snr_gamma", "--loss_weighting", "min_snr"),
        ("--loss_weighting debiased --snr_gamma 5", "--snr_gamma", "loss_weighting = debiased"),
        ("--loss_weighting p2 --v_pred_like_loss 1", "--v_pred_like_loss", "loss_weighting = noise"),
        ("--snr_gamma 5 --v_pred_like_loss 1", "--v_pred_like_loss", "snr_gamma"),
        ("--p2_gamma 1", "--p2_gamma", "loss_weighting = p2"),
        ("--huber_c 0.2", "--huber_c", "loss_type = huber"),
        ("--loss_type l1 --huber_schedule snr", "--huber_schedule", "loss_type = huber"),
        ("--loss_type huber --huber_c 1e-20", "--huber_c", "from 1e-06 to 1"),
        ("--logit_mean 1", "--logit_mean", "timestep_sampling = logit_normal"),
        ("--timestep_sampling cosmap", "--timestep_sampling", "uniform, logit_normal"),
        ("--min_timestep 500 --max_timestep 500", "--min_timestep", "no timestep would be trained"),
        ("--max_timestep 1001", "--max_timestep", "from 1 to 1000"),
        ("--multires_noise_discount 0.5", "--multires_noise_discount", "multires_noise_iterations"),
        ("--input_perturbation -0.1", "--input_perturbation", "from 0 to 1"),
        ("--dco_beta 1000", "--dco_beta", "--adapter lora"),
        ("--adapter lora --dco_beta 0", "--dco_beta", "above 0"),
        (
            "--adapter lora --dco_beta 9 --masked_loss --masked_prior_preservation_weight 1",
            "--dco_beta",
            "masked_prior_preservation_weight",
        ),
        ("--adaptive_noise_scale 0.01", "--adaptive_noise_scale", "--noise_offset"),
        ("--max_noising_strength 0.5", "--max_noising_strength", "--max_timestep"),
        ("--huber_strength 1", "--huber_strength", "--loss_type"),
        ("--weighting_scheme cosmap", "--weighting_scheme", "--timestep_sampling"),
    ],
)
def test_bad_values_are_reported(line, where, words):
    with pytest.raises(InputError) as error:
        read(DreamBoothSettings, shlex.split(DOG + line))
    (problem,) = error.value.problems
    assert problem.where == where and words in str(problem)


@pytest.mark.parametrize(
    "line, meaning",
    [
        ("--min_snr_gamma 5", {"snr_gamma": 5.0}),
        ("--debiased_estimation_loss", {"loss_weighting": "debiased"}),
        ("--scale_v_pred_loss_like_noise_pred", {"loss_weighting": "noise"}),
        ("--use_soft_min_snr --snr_gamma 4", {"loss_weighting": "soft_min_snr", "snr_gamma": 4.0}),
        ("--loss_weight_fn DEBIASED_ESTIMATION", {"loss_weighting": "debiased"}),
        ("--loss_type smooth_l1 --huber_schedule exponential --huber_c 0.1 --huber_scale 1", {"loss_type": "smooth_l1"}),
        ("--loss_type mse --mse_strength 1 --mae_strength 0", {"loss_type": "l2"}),
        ("--min_timestep 0 --max_timestep 900", {"max_timestep": 900}),
        ("--timestep_sampling sigmoid", {"timestep_sampling": "logit_normal"}),
        (
            "--weighting_scheme logit_normal --logit_mean 0.5 --logit_std 1",
            {"timestep_sampling": "logit_normal", "logit_mean": 0.5},
        ),
        ("--multires_noise_iterations 6 --multires_noise_discount 0.3", {"multires_noise_iterations": 6}),
        ("--ip_noise_gamma 0.1 --noise_offset 0.05", {"input_perturbation": 0.1, "noise_offset": 0.05}),
        ("--adapter lora --dcoloss_beta 1000", {"dco_beta": 1000.0}),
    ],
)
def test_names_of_other_programs(line, meaning):
    settings, _ = read(DreamBoothSettings, shlex.split(DOG + line))
    assert {name: getattr(settings, name) for name in meaning} == meaning


def test_weighting_like_noise_is_refused_where_the_noise_is_predicted(tiny_epsilon, tiny_v, image_folder, tmp_path):
    from customize.training import preflight

    of = lambda base, **more: settings_for("lora", base, image_folder, tmp_path / "run", loss_weighting="noise", **more)  # noqa: E731
    with pytest.raises(InputError, match="loss_weighting: noise has no effect: the model predicts the noise"):
        preflight.check(of(tiny_epsilon))
    preflight.check(of(tiny_epsilon, v_pred_like_loss=0.5))
    preflight.check(of(tiny_v))


def test_strata_of_one_sample_are_noted():
    notes = [read(DreamBoothSettings, shlex.split(DOG + line))[1] for line in ("--stratified_timesteps", "")]
    assert sum("stratified_timesteps has no effect" in note for note in notes[0]) == 1 and not notes[1]
    assert not read(DreamBoothSettings, shlex.split(DOG + "--stratified_timesteps --train_batch_size 2"))[1]


@pytest.mark.parametrize("bound", [{"min_timestep": 300}, {"max_timestep": 400}])
def test_a_schedule_has_the_timesteps(bound, tmp_path):
    """DDPM of digits has 300."""
    from customize.training import preflight

    preflight.check(FromScratchSettings(process="ddpm", output_dir=str(tmp_path / "run"), min_timestep=299, max_timestep=300))
    settings = FromScratchSettings(process="ddpm", output_dir=str(tmp_path / "run"), **bound)
    with pytest.raises(InputError, match="is beyond the 300 timesteps of random weights"):
        preflight.check(settings)
    preflight.check(FromScratchSettings(process="flow", output_dir=str(tmp_path / "run"), **bound))
