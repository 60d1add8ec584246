"""Anagrams, hybrids and LookingGlass against their papers' formulas, written straight, in float64."""

from dataclasses import dataclass

import diffusers
import pytest
import scipy.ndimage
import torch
from kit import conditioning, denoiser, hidden_states
from torch import Tensor
from torch.nn import functional as F

from customize.errors import InputError
from customize.families.conditioning import Conditioning
from customize.inference.estimates import Conditional, WithChannels, guided, mixed
from customize.inference.illusions.components import Components, colour, gaussian, hybrid, motion, regions, triple
from customize.inference.illusions.illusion_estimates import Anagram, Factorised, LookingGlass, anagram, blended, keep_component
from customize.inference.illusions.views import VIEWS, parse_view
from customize.inference.sampler import sample
from customize.inference.schedulers import make_scheduler, scheduler_names
from customize.inference.solvers import Solver
from customize.inference.step import Step

CLOSE = {"rtol": 0, "atol": 1e-12}
PREDICTION_TYPES = ["epsilon", "v_prediction", "sample"]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scheduler(prediction_type: str = "epsilon", steps: int = 6, name: str = "DDIMScheduler"):
    base = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False, steps_offset=1,
        clip_sample=False, prediction_type=prediction_type,
    )  # fmt: skip
    made = make_scheduler(base, name)
    made.set_timesteps(steps)
    return made


def solver(*arguments, first: int = 0, **options) -> Solver:
    return Solver(scheduler(*arguments, **options), first=first)


def step(prediction_type: str = "epsilon", index: int = 0, count: int = 10) -> Step:
    return Step(index, count, torch.tensor(500), None, 0.6, 0.8, prediction_type)


def network(latents: Tensor, timesteps: Tensor, prompt: Conditioning) -> Tensor:
    """Linear in the latents, another one for each prompt, and no friend of any view."""
    mixed_up = F.conv2d(latents, rand(latents.shape[1], latents.shape[1], 3, 3, seed=9) / 6, padding=1)
    return hidden_states(prompt).mean((1, 2)).view(-1, 1, 1, 1) * mixed_up + 0.3 * latents + timesteps.view(-1, 1, 1, 1) / 1000


def prompts(count: int, batch: int = 2) -> list[Conditional]:
    return [Conditional(conditioning(rand(batch, 3, 5, seed=100 + i))) for i in range(count)]


def asked(prompt: Conditional, latents: Tensor) -> Tensor:
    """What the network says to a prompt about latents, at the timestep of `step`."""
    return network(latents, torch.full((len(latents),), 500), prompt.conditioning)


def combined(estimate, latents: Tensor, at: Step) -> Tensor:
    """The combined estimate; its inputs go through the network in one batch."""
    answers = [network(q.latents, at.timestep.expand(len(q.latents)), q.conditioning) for q in estimate.inputs(latents, at)]
    remaining = iter(answers)
    answer = estimate.combine(remaining, latents, at)
    assert next(remaining, None) is None, "every answer is used"
    return answer


@dataclass(frozen=True)
class Oracle:
    """An estimate that knows the clean picture which it is shown."""

    clean: Tensor

    def inputs(self, latents, step):
        return []

    def combine(self, answers, latents, step):
        return step.output_of(self.clean, latents)


# anagrams


def test_an_anagram_is_the_formula_of_the_paper():
    """Geng, Park & Owens 2024: mean_i v_i^-1(guided_i(v_i(x_t)))."""
    a, b, c, negative = prompts(4)
    latents = rand(2, 3, 16, 16)
    views = [VIEWS["identity"](), VIEWS["rotate_90_cw"](), VIEWS["negate"]()]
    estimate = Anagram([guided(p, negative, 5.0) for p in (a, b, c)], views)
    turned = latents.rot90(-1, (2, 3))
    expected = [
        asked(negative, latents) + 5 * (asked(a, latents) - asked(negative, latents)),
        (asked(negative, turned) + 5 * (asked(b, turned) - asked(negative, turned))).rot90(1, (2, 3)),
        -(asked(negative, -latents) + 5 * (asked(c, -latents) - asked(negative, -latents))),
    ]
    torch.testing.assert_close(combined(estimate, latents, step()), sum(expected) / 3, **CLOSE)
    assert len(estimate.inputs(latents, step())) == 6


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_combining_outputs_is_combining_noises(prediction_type):
    """Whatever the network predicts: it is linear in noise and clean, and so is a view."""
    at = step(prediction_type)
    parts, latents = prompts(2), rand(2, 3, 16, 16)
    views = [VIEWS["jigsaw"](), VIEWS["negate"]()]
    noise, clean = at.split(combined(Anagram(parts, views), latents, at), latents)
    each = [at.split(asked(part, view(latents)), view(latents)) for part, view in zip(parts, views, strict=True)]
    for whole, own in [(noise, [n for n, _ in each]), (clean, [c for _, c in each])]:
        expected = sum(view.inverse(tensor) for view, tensor in zip(views, own, strict=True)) / 2
        torch.testing.assert_close(whole, expected, **CLOSE)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_views_of_one_clean_image_agree(prediction_type):
    at, clean, latents = step(prediction_type), rand(1, 3, 64, 64), rand(1, 3, 64, 64, seed=1)
    views = [make() for name, make in VIEWS.items() if name not in ("white_balance", "blur")]
    answer = Anagram([Oracle(view(clean)) for view in views], views).combine(iter(()), latents, at)
    torch.testing.assert_close(at.split(answer, latents)[1], clean, **CLOSE)


def test_two_identity_views_are_the_mean_and_one_is_the_estimate_itself():
    a, b, negative = prompts(3)
    start, identity = rand(2, 3, 16, 16), VIEWS["identity"]()
    a, b = guided(a, negative, 3.0), guided(b, negative, 3.0)
    results = [
        sample(denoiser(network), solver(), start, estimate)
        for estimate in (Anagram([a, b], [identity, identity]), mixed([(a, 1.0), (b, 1.0)]), Anagram([a], [identity]), a)
    ]
    torch.testing.assert_close(results[0], results[1], **CLOSE)
    assert torch.equal(results[2], results[3])
    assert (results[0] - results[2]).abs().max() > 0.01


def test_alternate_evaluates_one_view_in_turn():
    a, b = prompts(2)
    latents, views = rand(2, 3, 16, 16), [VIEWS["identity"](), VIEWS["flip"]()]
    estimate = Anagram([a, b], views, "alternate")
    expected = [asked(a, latents), asked(b, latents.flip(2)).flip(2)]
    for index in range(5):
        at = step(index=index)
        assert len(estimate.inputs(latents, at)) == 1
        assert torch.equal(combined(estimate, latents, at), expected[index % 2])


def test_further_channels_of_a_network_are_seen_by_the_same_view():
    """As the authors do in IF's second stage, whose channels are the image of the first; also of an anagram in an anagram."""
    a, b = prompts(2)
    latents, channels, flip, turn = rand(2, 3, 16, 16), rand(2, 2, 16, 16, seed=1), VIEWS["flip"](), VIEWS["rotate_90_cw"]()
    nested = Anagram([a, Anagram([a, b], [flip, turn])], [flip, turn])
    found = [each.latents for each in WithChannels(nested, channels).inputs(latents, step())]
    both = torch.cat([latents, channels], 1)
    assert all(map(torch.equal, found, [flip(both), flip(turn(both)), turn(turn(both))])) and len(found) == 3


def test_views_that_cannot_be_used_are_refused_all_at_once():
    (a,) = prompts(1)
    parts = [(a, VIEWS[name]()) for name in ("identity", "blur", "negate", "white_balance")]
    with pytest.raises(InputError) as caught:
        anagram(parts, negates=False)
    assert [problem.what.split()[0] for problem in caught.value.problems] == ["blur", "white_balance", "negate"]
    assert "standard normal" in caught.value.problems[0].what and "LookingGlass" in caught.value.problems[2].remedy
    with pytest.raises(InputError, match="blur"):
        anagram(parts, negates=True)
    assert anagram(parts, "alternate", negates=True, lessons=True).mode == "alternate"
    assert anagram([parts[0], parts[2]], negates=True).views == (VIEWS["identity"](), VIEWS["negate"]())
    with pytest.raises(ValueError, match="zip"):
        Anagram([a], [VIEWS["flip"](), VIEWS["flip"]()]).inputs(rand(2, 3, 8, 8), step())


# hybrids

ALL_COMPONENTS = {
    "hybrid": hybrid(), "triple": triple(), "colour": colour(), "motion": motion(), "strong": hybrid(sigma=5.0),
}  # fmt: skip


def quarters(side: int) -> Components:
    masks = torch.zeros(2, side, side, dtype=torch.float64)
    masks[0, : side // 2] = 1
    masks[1, side // 2 :, : side // 2] = 0.3
    return regions(masks)


@pytest.mark.parametrize("side", [16, 32, 64, 96])
def test_components_sum_to_the_image_and_are_linear(side):
    for components in [*ALL_COMPONENTS.values(), quarters(side)]:
        for dtype, tolerance in [(torch.float64, 1e-12), (torch.float32, 1e-6)]:
            x, y = rand(2, 4, side, side).to(dtype), rand(2, 4, side, side, seed=1).to(dtype)
            parts = components.split(x)
            assert len(parts) == len(components.names) and all(part.dtype == dtype for part in parts)
            assert (sum(parts) - x).abs().max() <= tolerance
            for part, other, both in zip(parts, components.split(y), components.split(2 * x - y), strict=True):
                torch.testing.assert_close(both, 2 * part - other, rtol=0, atol=20 * tolerance)


def test_gaussian_equals_scipy_and_scales_with_the_image():
    x = rand(1, 2, 64, 64)
    expected = scipy.ndimage.gaussian_filter(x.numpy(), 2.0, mode="mirror", radius=16, axes=(2, 3))
    torch.testing.assert_close(gaussian(x, 2.0, 33), torch.from_numpy(expected), **CLOSE)
    for side, kernel in [(64, 33), (128, 67), (256, 133), (16, 9)]:
        dot = torch.zeros(1, 1, side, side, dtype=torch.float64)
        dot[..., side // 2, side // 2] = 1
        blurred = gaussian(dot, 2.0, 33)
        assert int((blurred[0, 0, side // 2] > 0).sum()) == kernel, "as the authors count it from 64 pixels on"
        row = blurred[0, 0].sum(0)
        deviation = ((torch.arange(side) - side // 2) ** 2 * row).sum().sqrt()
        assert float(deviation) == pytest.approx(2 * side / 64, rel=0.1 if side == 16 else 1e-3)


def test_components_match_their_names():
    x = rand(1, 3, 64, 64)
    assert torch.equal(colour().split(x)[0], x.mean(1, keepdim=True).expand(1, 3, 64, 64))
    low, middle, high = triple().split(x)
    torch.testing.assert_close(high, x - gaussian(x, 1.0, 25), **CLOSE)
    torch.testing.assert_close(low, gaussian(gaussian(x, 1.0, 25), 2.0, 25), **CLOSE)
    dot = torch.zeros(1, 1, 128, 128, dtype=torch.float64)
    dot[..., 64, 64] = 1
    moved = motion().split(dot)[0][0, 0]
    assert torch.equal(moved.nonzero(), torch.arange(57, 72)[:, None].expand(-1, 2)), "15 pixels along the diagonal"
    torch.testing.assert_close(moved.diagonal()[57:72], torch.full((15,), 1 / 15, dtype=torch.float64))
    top, left, rest = quarters(64).split(x)
    assert torch.equal(top[..., :32, :], x[..., :32, :]) and not top[..., 32:, :].any()
    torch.testing.assert_close(rest[..., 32:, :32], 0.7 * x[..., 32:, :32], **CLOSE)
    assert quarters(64).names == ("region 1", "region 2", "rest")


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_hybrid_is_the_formula_of_the_paper(prediction_type):
    """Geng, Park & Owens 2024, "Factorized Diffusion": sum_i f_i(eps_i), x_t unchanged."""
    a, b, negative = prompts(3)
    at, latents = step(prediction_type), rand(2, 3, 64, 64)
    estimate = Factorised([guided(a, negative, 7.0), guided(b, negative, 7.0)], hybrid())
    noises = [at.split(asked(negative, latents) + 7 * (asked(p, latents) - asked(negative, latents)), latents)[0] for p in (a, b)]
    expected = gaussian(noises[0], 2.0, 33) + noises[1] - gaussian(noises[1], 2.0, 33)
    torch.testing.assert_close(at.split(combined(estimate, latents, at), latents)[0], expected, rtol=0, atol=1e-11)


def test_components_of_one_prompt_are_that_prompt():
    a, b = prompts(2)
    latents = rand(2, 4, 16, 16)
    for components in [*ALL_COMPONENTS.values(), quarters(16)]:
        estimate = Factorised([a] * len(components.names), components)
        torch.testing.assert_close(combined(estimate, latents, step()), asked(a, latents), **CLOSE)
    with pytest.raises(ValueError, match="2 estimates for the components low, middle, high"):
        Factorised([a, b], triple())


# inverse hybrids


@pytest.mark.parametrize("name", scheduler_names(scheduler()))
def test_a_kept_component_is_at_the_level_of_every_evaluation(name):
    real, start = torch.zeros(2, 3, 16, 16, dtype=torch.float64), rand(2, 3, 16, 16)
    plan = scheduler(name=name, steps=5)
    generators, again = ([torch.Generator().manual_seed(seed) for seed in (1, 2)] for _ in range(2))
    others = [torch.Generator().manual_seed(3)] * 2
    seen = []
    sampled_by = Solver(plan, others)
    correct = keep_component(colour(), real, sampled_by, generators)
    (prompt,) = prompts(1)
    result = sample(denoiser(network), sampled_by, start * plan.init_noise_sigma, prompt, correct=correct, record=seen.append)
    for moment in seen[1:]:
        noise = torch.cat([torch.randn(1, 3, 16, 16, generator=g, dtype=torch.float64) for g in again])
        expected = moment.step.sigma * noise.mean(1)
        torch.testing.assert_close(moment.model_input.mean(1), expected, rtol=1e-4, atol=1e-5)
    assert result.mean(1).abs().max() < 1e-6


@pytest.mark.parametrize("first", [0, 3])
def test_an_inverse_hybrid_keeps_the_component_of_the_real_image(first):
    real, start, (prompt,) = rand(2, 3, 32, 32), rand(2, 3, 32, 32, seed=1), prompts(1)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    for components in [colour(), regions((rand(1, 32, 32, seed=2) > 0).double())]:
        plan = solver(first=first)
        result = sample(denoiser(network), plan, start, prompt, correct=keep_component(components, real, plan, generators))
        torch.testing.assert_close(components.split(result)[0], components.split(real)[0], **CLOSE)
        assert (result - real).abs().max() > 0.1
    plan, made = solver(first=first), []
    keep = keep_component(hybrid(), real, plan, generators)
    result = sample(
        denoiser(network), plan, start, prompt, correct=lambda latents, moment: made.append(latents) or keep(latents, moment)
    )
    torch.testing.assert_close(result, hybrid().split(real)[0] + hybrid().split(made[-1])[1], **CLOSE)
    plan = solver(first=first)
    high = keep_component(hybrid(), real, plan, generators, index=1)
    result = sample(denoiser(network), plan, start, prompt, correct=high)
    assert (hybrid().split(result - real)[1]).norm() < 0.3 * hybrid().split(real)[1].norm()


# LookingGlass


def lossy_encode(pixels: Tensor) -> Tensor:
    """[B, 3, 2H, 2W] -> [B, 4, H, W], linear; with `lossy_decode`, a bad autoencoder."""
    return F.conv2d(pixels, rand(4, 3, 2, 2, seed=5) / 3, stride=2)


def lossy_decode(latents: Tensor) -> Tensor:
    return F.conv_transpose2d(latents, rand(4, 3, 2, 2, seed=6) / 3, stride=2)


def looking_glass(estimates, views, encode=lossy_encode, decode=lossy_decode, detail=0.25, first=0.0, alone=0.0) -> LookingGlass:
    return LookingGlass(estimates, views, encode, decode, detail, first, alone)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_looking_glass_is_algorithm_1(prediction_type):
    """Chang et al. 2025, lines 3 to 14, with two views; E and D the autoencoder, pi a half turn."""
    (a, b), at = prompts(2), step(prediction_type)
    latents = rand(4, 4, 16, 16)  # both pictures of the first view, then both of the second
    estimate = looking_glass([a, b], [VIEWS["identity"](), VIEWS["rotate_180"]()])

    def turned(x: Tensor) -> Tensor:
        return x.flip(2, 3)

    first, second = latents[:2], latents[2:]
    z = [at.split(asked(a, first), first)[1], at.split(asked(b, second), second)[1]]
    x = [lossy_decode(latents) for latents in z]
    delta = [z[i] - lossy_encode(x[i]) for i in range(2)]
    x_hat = blended([x[0], turned(x[1])], 0.25)
    delta_hat = blended([delta[0], turned(delta[1])], 0.25)
    expected = torch.cat([lossy_encode(x_hat) + delta_hat, lossy_encode(turned(x_hat)) + turned(delta_hat)])
    answer = combined(estimate, latents, at)
    torch.testing.assert_close(at.split(answer, latents)[1], expected, rtol=0, atol=1e-11)


def test_one_identity_view_is_the_estimate_itself_whatever_the_autoencoder_loses():
    (a,), latents = prompts(1), rand(2, 4, 16, 16)
    for view in (VIEWS["identity"](), VIEWS["rotate_180"]()):
        for first in (0.0, 1.0):
            estimate = looking_glass([a], [view], first=first)
            torch.testing.assert_close(combined(estimate, latents, step()), asked(a, latents), rtol=0, atol=1e-11)


def test_with_a_perfect_autoencoder_it_equals_the_anagram():
    """One noise seen by each view, averages without extra detail: every view's latents are the anagram's, seen by it."""
    estimates, views, start = prompts(2), [VIEWS["identity"](), VIEWS["jigsaw"]()], rand(2, 4, 16, 16)
    expected = sample(denoiser(network), solver(), start, Anagram(estimates, views))
    for first in (0.0, 0.5):
        glass = looking_glass(estimates, views, encode=lambda x: x, decode=lambda z: z, detail=0.0, first=first)
        result = sample(denoiser(network), solver(), torch.cat([view(start) for view in views]), glass)
        for view, own in zip(views, result.chunk(2), strict=True):
            torch.testing.assert_close(own, view(expected), rtol=0, atol=1e-9)


def test_first_skips_the_autoencoder_and_alone_evaluates_one_view():
    estimates, views, latents = prompts(2), [VIEWS["identity"](), VIEWS["flip"]()], rand(4, 4, 16, 16)
    decoded = []
    spy = looking_glass(
        estimates, views, decode=lambda latents: decoded.append(latents) or lossy_decode(latents), first=0.3, alone=0.2
    )
    counts = []
    for index in range(10):
        decoded.clear()
        counts.append((len(spy.inputs(latents, step(index=index))), combined(spy, latents, step(index=index)), len(decoded)))
    assert [(inputs, decodes) for inputs, _, decodes in counts] == 3 * [(2, 0)] + 5 * [(2, 2)] + 2 * [(1, 1)]
    clean = step().split(counts[-1][1], latents)[1]
    own = step().split(asked(estimates[0], latents[:2]), latents[:2])[1]
    torch.testing.assert_close(clean[:2], own, rtol=0, atol=1e-11)
    lost = own - lossy_encode(lossy_decode(own))
    torch.testing.assert_close(clean[2:], lossy_encode(lossy_decode(own).flip(2)) + lost.flip(2), rtol=0, atol=1e-11)


def test_colours_are_inverted_in_pixels_never_in_latents():
    estimates, latents = prompts(2), rand(4, 4, 16, 16)
    estimate = looking_glass(estimates, [VIEWS["identity"](), VIEWS["negate"]()], detail=0.0, first=1.0)
    clean = step().split(combined(estimate, latents, step()), latents)[1]
    z = [step().split(asked(estimates[i], latents[2 * i :][:2]), latents[2 * i :][:2])[1] for i in range(2)]
    shared = (lossy_decode(z[0]) - lossy_decode(z[1])) / 2
    lost = sum(latents - lossy_encode(lossy_decode(latents)) for latents in z) / 2
    expected = torch.cat([lossy_encode(shared) + lost, lossy_encode(-shared) + lost])
    torch.testing.assert_close(clean, expected, rtol=0, atol=1e-11)


def test_an_image_of_looking_glass_does_not_depend_on_its_batch():
    parts, views = prompts(2), [VIEWS["identity"](), VIEWS["square_hinge"]()]
    start = rand(4, 4, 16, 16)
    both = sample(denoiser(network), solver("v_prediction"), start, looking_glass(parts, views))
    alone = [Conditional(part.conditioning[:1]) for part in parts]
    one = sample(denoiser(network), solver("v_prediction"), start[::2], looking_glass(alone, views))
    torch.testing.assert_close(one, both[::2], rtol=0, atol=1e-9)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_output_of_is_the_inverse_of_split(prediction_type):
    seen, answer = rand(2, 4, 8, 8), rand(2, 4, 8, 8, seed=1)
    plan = solver(prediction_type)
    for place in range(len(plan.timesteps)):
        at = Step(place, 6, plan.timesteps[place], None, *plan.level(place), prediction_type)
        clean = at.split(answer, seen)[1]
        torch.testing.assert_close(at.output_of(clean, seen), answer, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="flow"):
        step("flow").output_of(seen, seen)


def test_blended_is_the_weighted_average_of_every_band():
    """Equations 14 and 15; a tensor below 8 pixels is one band."""
    x, y = rand(1, 3, 6, 6), rand(1, 3, 6, 6, seed=1)
    plain, weighted = (x + y) / 2, (x.abs() * x + y.abs() * y) / (x.abs() + y.abs())
    torch.testing.assert_close(blended([x, y], 0.25), plain + 0.25 * (weighted - plain), **CLOSE)
    for side in ((16, 16), (37, 22), (64, 64)):
        images = [rand(2, 3, *side, seed=seed) for seed in range(3)]
        torch.testing.assert_close(blended(images, 0.0), sum(images) / 3, **CLOSE)
        torch.testing.assert_close(blended(images[:1], 0.5), images[0], **CLOSE)
        assert blended(images, 0.5).std() > 1.1 * blended(images, 0.0).std(), "detail is kept"
    assert not blended([torch.zeros(1, 1, 8, 8)] * 2, 0.5).any(), "nothing stays nothing"


def test_views_that_the_latents_do_not_support_are_refused():
    estimate = looking_glass(prompts(2), [VIEWS["identity"](), parse_view("pixel_permute:patches=32")])
    with pytest.raises(InputError, match="32 x 32 patches does not support the size 16 x 16"):
        combined(estimate, rand(4, 4, 16, 16), step())
