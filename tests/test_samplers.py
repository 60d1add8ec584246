"""Samplers by the names that programs have for them, and the options of guidance and text, against diffusers' pipelines."""

import inspect
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import AysSchedules
from test_sampler import OPTIONS, base_scheduler, picture

from customize import families
from customize.errors import InputError
from customize.inference.pipeline import Pipeline
from customize.inference.schedulers import make_scheduler, scheduler_names
from customize.methods import DreamBoothSettings
from customize.settings.inference import InferenceSettings
from customize.settings.sampler_names import AUTOMATIC, AYS, KNOWN, NEAREST, SPACINGS, SUPPORTED_BY, find, nearest, parts

SDE, KARRAS = {"algorithm_type": "sde-dpmsolver++"}, {"use_karras_sigmas": True}
EXPONENTIAL = {"use_exponential_sigmas": True, "timestep_spacing": "linspace"}
BETA = {"use_beta_sigmas": True, "timestep_spacing": "linspace"}
TRAILING, LINSPACE = {"timestep_spacing": "trailing"}, {"timestep_spacing": "linspace"}
MULTI, SINGLE = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
EULER, EULER_A = "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"
NAMES = {  # as programs write them -> class and configuration of diffusers
    "DPM++ 2M": (MULTI, {}), "DPM++ 2M Karras": (MULTI, KARRAS), "dpm++ 2m karras": (MULTI, KARRAS),
    "DPM++2MKarras": (MULTI, KARRAS), "  DPM++  2M  Karras ": (MULTI, KARRAS), "dpmpp_2m": (MULTI, {}),
    "dpmpp_2m_k": (MULTI, KARRAS), "k_dpmpp_2m": (MULTI, {}), "DPM++ 2M Exponential": (MULTI, EXPONENTIAL),
    "DPM++ 2M SGM Uniform": (MULTI, TRAILING), "DPM++ 2M Beta": (MULTI, BETA), "DPM++ 2M Automatic": (MULTI, KARRAS),
    "DPM++ 2M SDE": (MULTI, SDE), "DPM++ 2M SDE Karras": (MULTI, SDE | KARRAS), "dpmpp_2m_sde": (MULTI, SDE),
    "dpmpp_2m_sde_gpu": (MULTI, SDE), "DPM++ 2M SDE Exponential": (MULTI, SDE | EXPONENTIAL),
    "dpmpp_2m_sde_k": (MULTI, SDE | KARRAS),
    "DPM++ 2M SDE Heun": (MULTI, SDE | {"solver_type": "heun"}), "DPM++ 3M SDE": (MULTI, SDE | {"solver_order": 3}),
    "DPM++ 3M SDE Karras": (MULTI, SDE | KARRAS | {"solver_order": 3}), "dpmpp_3m_sde_gpu": (MULTI, SDE | {"solver_order": 3}),
    "dpmpp_3m": (MULTI, {"solver_order": 3}), "DPM++ SDE": (SINGLE, SDE), "DPM++ SDE Karras": (SINGLE, SDE | KARRAS),
    "dpmpp_sde": (SINGLE, SDE), "dpmpp_2s": (SINGLE, {}), "DPMSolverMultistepScheduler": (MULTI, {}),
    "Euler": (EULER, {}), "euler": (EULER, {}), "k_euler": (EULER, {}), "Euler Karras": (EULER, KARRAS),
    "euler_k": (EULER, KARRAS),
    "Euler Simple": (EULER, TRAILING), "Euler Normal": (EULER, LINSPACE), "Euler trailing": (EULER, TRAILING),
    "Euler DDIM Uniform": (EULER, {"timestep_spacing": "leading"}), "eulerdiscretescheduler": (EULER, {}),
    "Euler a": (EULER_A, {}), "Euler A": (EULER_A, {}), "euler_a": (EULER_A, {}), "euler_ancestral": (EULER_A, {}),
    "k_euler_ancestral": (EULER_A, {}), "Euler Ancestral": (EULER_A, {}), "Euler a SGM Uniform": (EULER_A, TRAILING),
    "DDIM": ("DDIMScheduler", {}), "ddim": ("DDIMScheduler", {}), "DDIM trailing": ("DDIMScheduler", TRAILING),
    "UniPC": ("UniPCMultistepScheduler", {}), "uni_pc": ("UniPCMultistepScheduler", {}),
    "unipc_k": ("UniPCMultistepScheduler", KARRAS), "uni_pc_bh2": ("UniPCMultistepScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}), "LMS Karras": ("LMSDiscreteScheduler", KARRAS), "k_lms": ("LMSDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}), "heun_k": ("HeunDiscreteScheduler", KARRAS),
    "DPM2": ("KDPM2DiscreteScheduler", {}), "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "kdpm_2_k": ("KDPM2DiscreteScheduler", KARRAS),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}), "DPM2 a Karras": ("KDPM2AncestralDiscreteScheduler", KARRAS),
    "dpm_2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}), "k_dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "PLMS": ("PNDMScheduler", {}), "pndm": ("PNDMScheduler", {}), "DEIS": ("DEISMultistepScheduler", {}),
    "deis_k": ("DEISMultistepScheduler", KARRAS), "DDPM": ("DDPMScheduler", {}), "ddpm": ("DDPMScheduler", {}),
    "LCM": ("LCMScheduler", {}), "lcm": ("LCMScheduler", {}), "TCD": ("TCDScheduler", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_other_programs_are_schedulers_of_diffusers(name):
    scheduler, options = NAMES[name]
    made = make_scheduler(base_scheduler("epsilon"), name)
    assert type(made).__name__ == scheduler
    expected = type(made).from_config(base_scheduler("epsilon").config, clip_sample=False, **options)
    assert {key: made.config[key] for key in options} == options
    own = {
        key: value for key, value in made.config.items() if key not in ("clip_sample", "_use_default_values", "skip_prk_steps")
    }
    assert {key: expected.config[key] for key in own} == own
    assert InferenceSettings(prompt="a", scheduler=name).scheduler == name
    assert DreamBoothSettings(instance_prompt="a", instance_data_dir="b", validation_scheduler=name).validation_scheduler == name


@pytest.mark.parametrize(("name", "words"), [
    ("DPM adaptive", "similar is DPM++ 2M"), ("DPM fast", "similar is DPM++ 2M"), ("dpm_fast", "similar is DPM++ 2M"),
    ("Restart", "similar is Heun"), ("res_multistep", "similar is DPM++ 2M"), ("heunpp2", "similar is Heun"),
    ("DPM++ 2S a Karras", "similar is DPM++ 2S Karras"), ("dpmpp_2s_ancestral", "similar is DPM++ 2S"),
    ("euler_cfg_pp", "similar is Euler"), ("euler_ancestral_cfg_pp", "similar is Euler a"), ("ipndm", "similar is PLMS"),
    ("DDIM CFG++", "similar is DDIM"), ("gradient_estimation", "similar is Euler"), ("Eulr", "did you mean Euler?"),
    ("EulerDiscrete", "did you mean EulerDiscreteScheduler?"), ("DPM++2", "did you mean DPM++ 2M?"),
    ("banana", "use one of DDIM"),
    ("LCM SGM Uniform", "use LCM, or one of"), ("Euler a Karras", "use Euler a, or one of"),
    ("DPM++ SDE SGM Uniform", "not support"), ("DDIM AYS", "use DDIM, or one of"), ("DPMSolverSDEScheduler", "whole batch"),
    ("Karras", "use one of DDIM"), ("none of these", "use one of"), ("a" * 5000, "use one of"), ("dpm++\x1b[31m", "use one"),
])  # fmt: skip
def test_samplers_that_diffusers_lacks_are_refused_with_the_nearest(name, words):
    for settings, where in (
        (lambda: InferenceSettings(prompt="a", scheduler=name), "scheduler"),
        (
            lambda: DreamBoothSettings(instance_prompt="a", instance_data_dir="b", validation_scheduler=name),
            "validation_scheduler",
        ),
    ):
        with pytest.raises(InputError) as caught:
            settings()
        (problem,) = caught.value.problems
        assert problem.where == where and (words in problem.what + problem.remedy or "\x1b" in name)
        assert problem.what.isprintable() and len(problem.what) < 200


@pytest.mark.parametrize(("options", "where"), [
    ({"scheduler": "DPM++ 2M Karras", "use_karras_sigmas": False}, "use_karras_sigmas"),
    ({"scheduler": "Euler a", "use_karras_sigmas": True}, "use_karras_sigmas"),
    ({"scheduler": "Euler SGM Uniform", "timestep_spacing": "linspace"}, "timestep_spacing"),
    ({"scheduler": "LCM", "timestep_spacing": "trailing"}, "timestep_spacing"),
    ({"scheduler": "Euler AYS", "timestep_spacing": "trailing"}, "timestep_spacing"),
    ({"scheduler": "Euler", "eta": 0.5}, "eta"), ({"scheduler": "DDIM", "eta": 1.5}, "eta"),
    ({"scheduler": "PLMS", "rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ({"guidance_rescale": 1.5}, "guidance_rescale"), ({"clip_skip": -1}, "clip_skip"),
    ({"timestep_spacing": "middle"}, "timestep_spacing"),
])  # fmt: skip
def test_options_that_contradict_are_refused_before_anything_loads(options, where):
    with pytest.raises(InputError) as caught:
        InferenceSettings(prompt="a", **options)
    assert [problem.where for problem in caught.value.problems] == [where]


def test_the_tables_are_diffusers_own():
    fitting = scheduler_names(diffusers.PNDMScheduler())
    assert {scheduler for scheduler, _, _ in KNOWN.values()} == set(fitting)
    for option, supporting in SUPPORTED_BY.items():
        if option == "eta":
            found = {name for name in fitting if "eta" in inspect.signature(getattr(diffusers, name).step).parameters}
        elif option in (AYS, "timesteps"):
            found = {
                name for name in fitting if "timesteps" in inspect.signature(getattr(diffusers, name).set_timesteps).parameters
            }
            found -= {"LCMScheduler", "TCDScheduler"} if option == AYS else set()  # which know their own
        else:
            found = {name for name in fitting if option in inspect.signature(getattr(diffusers, name)).parameters}
            found -= {"LCMScheduler", "TCDScheduler"} if option == "timestep_spacing" else set()  # it has no effect there
        assert supporting == found, option
    assert set(NEAREST.values()) <= KNOWN.keys() and set(AUTOMATIC) <= KNOWN.keys() and set(AUTOMATIC.values()) <= SPACINGS.keys()
    assert not [name for name in NEAREST if parts(name)], "a name that is known needs no nearest"
    for name in KNOWN:
        assert parts(name) == (name, "") and not nearest(name)


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def both(request):
    folder = request.getfixturevalue("tiny_epsilon" if request.param == "epsilon" else "tiny_v")
    stock = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    return SimpleNamespace(
        ours=Pipeline(families.load(families.locate(str(folder)))), stock=stock, config=stock.scheduler.config, kind=request.param
    )


def theirs(both, name: str, cls=diffusers.StableDiffusionPipeline, seeds=(7,), **options):
    """Latents of diffusers' pipeline with the scheduler that a name stands for."""
    scheduler, changes = NAMES[name]
    changes = {**changes, **options.pop("config", {})}
    changes |= {"skip_prk_steps": True} if scheduler == "PNDMScheduler" else {}
    scheduler = getattr(diffusers, scheduler).from_config(both.config, **changes)
    pipe = cls(**{**both.stock.components, "scheduler": scheduler}, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(seed) for seed in seeds]
    texts = {"prompt": ["a photo of a dog"] * len(seeds)}
    if skip := options.pop("clip_skip", None):
        texts = embedded(both, skip)
    return pipe(**texts, generator=generator, **{**OPTIONS, **options}).images


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 1e-4, or 2e-5 of the largest where a random network has let latents grow."""
    torch.testing.assert_close(found, expected, rtol=0, atol=max(1e-4, 2e-5 * float(expected.abs().max())))


def embedded(both, clip_skip: int) -> dict:
    """What the text encoder says of the prompts without its last layers, normalised, for diffusers' pipeline.

    (Its own `clip_skip` fails with the installed transformers.)
    """
    found = {}
    encoder = both.stock.text_encoder
    for name, text in ("prompt_embeds", "a photo of a dog"), ("negative_prompt_embeds", ""):
        ids = both.stock.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
        with torch.no_grad():
            layers = encoder(ids, output_hidden_states=True).hidden_states
            found[name] = getattr(encoder, "text_model", encoder).final_layer_norm(layers[len(layers) - 1 - clip_skip])
    return found


OPTIONS = {name: value for name, value in OPTIONS.items() if name != "negative_prompt"}
THEIRS_AND_OURS = [
    "DPM++ 2M SDE Karras", "DPM++ 3M SDE", "DPM++ 2M SDE Heun", "DPM++ SDE", "DPM++ SDE Karras", "DPM++ 2M Exponential",
    "DPM++ 2M SDE Exponential", "Euler Simple", "DPM++ 2M SGM Uniform", "DPM++ 2M Beta", "DDIM trailing",
    "DPM2", "DPM2 a", "LCM", "TCD",
    "DEIS", "heun_k", "dpmpp_2s", "LMS Karras", "Euler a SGM Uniform", "unipc_k",
]  # fmt: skip


@pytest.mark.parametrize("name", THEIRS_AND_OURS)
def test_latents_equal_diffusers_alone_and_in_a_batch(both, name):
    """Each image has its own generator: it is the same among others."""
    expected = theirs(both, name, seeds=(7, 8, 9))
    found = both.ours.generate("a photo of a dog", seeds=[7, 8, 9], scheduler=name, **OPTIONS)
    assert_close(found, expected)
    alone = both.ours.generate("a photo of a dog", seeds=8, scheduler=name, **OPTIONS)
    assert_close(alone, expected[1:2])


@pytest.mark.parametrize("name", ["DPM++ 2M SDE", "DPM++ SDE", "LCM", "TCD", "Euler Simple", "DPM2 a"])
def test_image_to_image_equals_diffusers(both, name):
    options = {"image": picture(), "strength": 0.75}
    expected = theirs(both, name, diffusers.StableDiffusionImg2ImgPipeline, **options)
    found = both.ours.generate("a photo of a dog", seeds=7, scheduler=name, **OPTIONS, **options)
    assert_close(found, expected)


@pytest.mark.parametrize(("name", "config", "options"), [
    ("DDIM", {"timestep_spacing": "trailing"}, {"guidance_rescale": 0.7}),
    ("DDIM", {}, {"eta": 1.0}), ("DDIM", {}, {"eta": 0.3, "clip_skip": 1}), ("TCD", {}, {"eta": 0.0}),
    ("Euler", {"timestep_spacing": "linspace"}, {"clip_skip": 1}),
    ("Euler", {"timestep_spacing": "leading"}, {"guidance_rescale": 1.0}),
    ("DPM++ 2M", {"use_karras_sigmas": True}, {"guidance_rescale": 0.35}), ("UniPC", {"timestep_spacing": "trailing"}, {}),
    ("Euler", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, {"guidance_rescale": 0.7}),
    ("DDIM", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, {"guidance_rescale": 0.7}),
])  # fmt: skip
def test_options_equal_diffusers(both, name, config, options):
    if config.get("rescale_betas_zero_snr") and both.kind == "epsilon" and name == "DDIM":
        with pytest.raises(InputError, match="cannot begin at pure noise"):
            both.ours.generate("a dog", scheduler=name, **config)
        return
    expected = theirs(both, name, config=config, **options)
    found = both.ours.generate("a photo of a dog", seeds=7, scheduler=name, **config, **OPTIONS, **options)
    assert_close(found, expected)


def test_align_your_steps_are_its_timesteps(both):
    options = {**OPTIONS, "num_inference_steps": 10}
    for name, scheduler in ("DPM++ 2M", MULTI), ("Euler", EULER):
        assert NAMES[name] == (scheduler, {})
        pipe = diffusers.StableDiffusionPipeline(**both.stock.components, requires_safety_checker=False)
        pipe.scheduler = getattr(diffusers, scheduler).from_config(both.config)
        pipe.set_progress_bar_config(disable=True)
        expected = pipe(
            "a photo of a dog", generator=torch.Generator().manual_seed(7), timesteps=AysSchedules["StableDiffusionTimesteps"],
            **{key: value for key, value in options.items() if key != "num_inference_steps"},
        ).images  # fmt: skip
        found = both.ours.generate("a photo of a dog", seeds=7, scheduler=f"{name} AYS", **options)
        assert_close(found, expected)


def test_align_your_steps_with_other_numbers_of_steps():
    scheduler = make_scheduler(base_scheduler("epsilon"), "DPM++ 2M AYS")
    for steps in (1, 5, 11, 20, 32):
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.tolist()
        assert len(timesteps) == steps and timesteps == sorted(timesteps, reverse=True) and timesteps[0] >= 998
    with pytest.raises(ValueError, match="fewer timesteps"):
        scheduler.set_timesteps(500)


def test_guidance_rescale_is_the_formula():
    from customize.inference.estimates import rescaled

    generator = torch.Generator().manual_seed(0)
    guided, positive = (torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64) * scale for scale in (3, 1))
    for part in (0.0, 0.3, 1.0):
        expected = []
        for x, y in zip(guided.numpy(), positive.numpy(), strict=True):
            expected.append(part * x * (y.std(ddof=1) / x.std(ddof=1)) + (1 - part) * x)
        found = rescaled(guided, positive, part)
        torch.testing.assert_close(found, torch.tensor(np.stack(expected)), rtol=1e-12, atol=1e-12)


def test_clip_skip_cannot_exceed_the_number_of_layers(both):
    with pytest.raises(InputError, match="the text encoder has 2 layers"):
        both.ours.generate("a dog", num_inference_steps=1, clip_skip=2)
    zero = both.ours.generate("a dog", num_inference_steps=1, clip_skip=0, output_type="latent")
    assert torch.equal(zero, both.ours.generate("a dog", num_inference_steps=1, output_type="latent"))


def test_a_name_is_found_as_a_class_and_back():
    from customize.settings.sampler_names import shown

    assert shown("DPMSolverMultistepScheduler", "", True) == "DPM++ 2M Karras" == shown("dpmpp_2m_k", "")
    assert shown(None, "PNDMScheduler") == "PLMS" and shown("dpmpp_sde", "", True) == "DPM++ SDE Karras"
    assert shown(None, "OddScheduler") == "OddScheduler" and shown("lcm", "") == "LCM"
    for name in NAMES:
        chosen = find(name)
        again = find(shown(name, ""))
        assert (again.scheduler, again.options) == (chosen.scheduler, chosen.options)
