"""Base models unlike Stable Diffusion, each one class of `families_of_tests.py`: LoRA is trained by the one loop, and images
are made by the one sampler, as ten lines of formula say."""

from copy import deepcopy

import pytest
import torch
from families_of_tests import FlowTransformer, PixelUNet, TinySpec
from kit import context_of, settings_for, train_loop

from customize.errors import InputError
from customize.families.base import Family
from customize.inference.explain.trace import Trace
from customize.inference.pipeline import Pipeline

FAMILIES = [FlowTransformer, PixelUNet]
STEPS, SCALE = 4, 3.0


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request) -> Family:
    return request.param()


def run_of(family: Family, base, image_folder, folder, **changes):
    """Settings and context of a run with this family in place of the base model."""
    settings = settings_for("lora", base, image_folder, folder, train_batch_size=3, resolution=16, **changes)
    return settings, context_of(family, settings)


def test_the_loss_of_a_batch_is_its_formula(family, tiny_epsilon, image_folder, tmp_path):
    from customize.methods import prepare

    settings, context = run_of(family, tiny_epsilon, image_folder, tmp_path / "run")
    training = prepare(settings, context)
    (batch,) = training.dataset.deal(0, range(3))
    clean, noise, t = batch.latents, batch.noise, batch.timesteps
    tensors = family.encode_prompts(batch.prompts).tensors
    with torch.no_grad():
        if family.name == "tiny-flow":
            part = (t / 1000).view(-1, 1, 1, 1)
            assert t.is_floating_point() and 0 < part.min() and part.max() < 1
            output = family.denoiser((1 - part) * clean + part * noise, timestep=t, **tensors).sample
            expected = ((output - (noise - clean)) ** 2).mean((1, 2, 3))
        else:
            alphas = family.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
            output = family.denoiser(alphas.sqrt() * clean + (1 - alphas).sqrt() * noise, t, **tensors).sample
            expected = ((output[:, :3] - noise) ** 2).mean((1, 2, 3))
        torch.testing.assert_close(training.method(batch), expected, rtol=1e-6, atol=1e-6)


def test_textual_inversion_needs_a_text_encoder(family, tiny_epsilon, image_folder, tmp_path):
    from customize.methods import prepare

    settings = settings_for("textual_inversion", tiny_epsilon, image_folder, tmp_path / "run")
    with pytest.raises(InputError, match="has no text encoder that new tokens can be added to"):
        prepare(settings, context_of(family, settings))


def test_lora_is_trained_by_the_loop_and_changes_nothing_else(family, tiny_epsilon, image_folder, tmp_path):
    from customize.methods import prepare

    before = {name: p.clone() for name, p in family.denoiser.named_parameters()}
    settings, context = run_of(family, tiny_epsilon, image_folder, tmp_path / "run", max_train_steps=8)
    training = prepare(settings, context)
    probe = training.dataset.probe(16)
    with torch.no_grad():
        first = training.method(probe).mean()
    start = {name: p.detach().clone() for name, p in training.method.trainable_state_dict().items()}
    train_loop(settings, training, context.accelerator, 8)
    with torch.no_grad():
        assert training.method(probe).mean() < first
    assert any("lora" in name for name in start)
    assert any(not torch.equal(p, start[name]) for name, p in training.method.trainable_state_dict().items())
    after = {name.replace(".base_layer", ""): p for name, p in family.denoiser.named_parameters() if "lora" not in name}
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@torch.no_grad()
def test_a_family_around_another_network_predicts_by_it(family):
    name, network = next(iter(family.components.items()))
    other = deepcopy(network)
    for parameter in other.parameters():
        parameter.mul_(1.1)
    replaced, (t, text) = family.with_component(name, other), (torch.tensor([500]), family.encode_prompts(["a dog"]))
    latents = torch.randn(1, network.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    before = family.predict(latents, t, text).prediction
    assert replaced.components[name] is replaced.denoiser is other and family.denoiser is network
    network.load_state_dict(other.state_dict())
    assert torch.equal(replaced.predict(latents, t, text).prediction, family.predict(latents, t, text).prediction)
    assert not torch.equal(replaced.predict(latents, t, text).prediction, before)


@torch.no_grad()
def test_sampling_is_its_formula_and_leaves_a_trace(family):
    pipeline, trace = Pipeline(family), Trace()
    options = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "negative_prompt": "grey", "seeds": 5}
    found = pipeline.generate("a dog", **options, output_type="latent", record=trace)
    by_hand = flow_by_hand if family.name == "tiny-flow" else ddpm_by_hand
    torch.testing.assert_close(found, by_hand(family), rtol=1e-5, atol=1e-5)
    assert len(trace.norms()["guidance_norm"]) == STEPS
    (image,) = pipeline.generate("a dog", **options)
    assert image.size == (16, 16)


def guided(family: Family, x: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The guided prediction, and the variance under the prompt."""
    time = torch.as_tensor(t).reshape(1)
    negative, positive = (family.predict(x, time, family.encode_prompts([text])) for text in ("grey", "a dog"))
    return negative.prediction + SCALE * (positive.prediction - negative.prediction), positive.variance


def flow_by_hand(family: Family) -> torch.Tensor:
    """Euler's method along the velocity, from t = 1 to 0 at shifted levels (SD3, equation 23)."""
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    last = (
        3 * 0.001 / (1 + 2 * 0.001)
    )  # diffusers spaces shifted levels evenly from 1 to that of t = 1 / 1000, and shifts them again
    levels = [3 * t / (1 + 2 * t) for t in torch.linspace(1, last, STEPS).tolist()] + [0.0]
    for level, following in zip(levels, levels[1:], strict=False):
        x = x + (following - level) * guided(family, x, torch.tensor(1000 * level))[0]
    return x


def ddpm_by_hand(family: Family) -> torch.Tensor:
    """DDPM, algorithm 2, with the variance between both bounds that the network chooses (Nichol & Dhariwal 2021, equation 15)."""
    generator, alphas = torch.Generator().manual_seed(5), family.scheduler.alphas_cumprod
    x = torch.randn(1, 3, 16, 16, generator=generator)
    for t in (751, 501, 251, 1):
        now, before = alphas[t], alphas[t - 250] if t > 250 else torch.tensor(1.0)
        beta = 1 - now / before
        noise, part = guided(family, x, torch.tensor(t))
        clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
        mean = before.sqrt() * beta / (1 - now) * clean + (now / before).sqrt() * (1 - before) / (1 - now) * x
        low, high = ((1 - before) / (1 - now) * beta).clamp(min=1e-20).log(), beta.log()  # diffusers: noise also after t = 1
        deviation = (0.5 * ((part + 1) / 2 * high + (1 - part) / 2 * low)).exp()
        x = mean + deviation * torch.randn(1, 3, 16, 16, generator=generator)
    return x


def test_the_variance_is_not_guided():
    """Another negative prompt changes the prediction alone."""
    from customize.inference.estimates import mean_variance
    from customize.inference.sampler import evaluate

    family = PixelUNet()
    pipeline, latents = Pipeline(family), torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = []
    for negative in ("grey", "a cat"):
        inputs = pipeline.estimate(["a dog"], [negative], [7.0], STEPS).inputs(latents, None)
        with torch.no_grad():
            found.append(mean_variance(inputs, evaluate(family.predict, inputs, torch.tensor(500), None)))
    with torch.no_grad():
        expected = family.predict(latents, torch.tensor([500]), family.encode_prompts(["a dog"])).variance
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[0], found[1])


def test_a_family_is_recognised_and_loaded_by_its_specification(monkeypatch, tmp_path):
    from customize import families
    from customize.families import specs
    from customize.families.base import Placement

    class Spec(TinySpec):
        name, load = "tiny-flow", "test_other_families:loaded"

        def matches(self, path):
            return (path / "tiny.json").exists()

    spec = Spec()
    monkeypatch.setitem(specs.SPECS, spec.name, spec)
    (tmp_path / "tiny.json").write_text("{}")
    source = families.locate(str(tmp_path))
    assert (source.family, source.folder) == ("tiny-flow", tmp_path)
    found = families.load(source, Placement(dtype=torch.bfloat16))
    assert isinstance(found, FlowTransformer) and found.dtype == torch.bfloat16
    assert families.locate("demo").family == "stable_diffusion"


def loaded(source, placement) -> Family:
    """What the specification of the test names."""
    return FlowTransformer().to(placement.device, placement.dtype)


def test_a_base_model_is_loaded_in_its_dtype_as_if_cast_afterwards(tiny_epsilon):
    from customize import families
    from customize.families.base import Placement

    source = families.locate(str(tiny_epsilon))
    found, expected = families.load(source, Placement(dtype=torch.float16)), families.load(source).to(torch.float16)
    for part, network in expected.components.items():
        own = found.components[part].state_dict()
        assert all(
            torch.equal(tensor, own[name]) and tensor.dtype == own[name].dtype for name, tensor in network.state_dict().items()
        )
