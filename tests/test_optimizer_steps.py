"""Every optimizer of `--optimizer`: its steps equal the formula of its paper in float64, a saved state goes on to the same bits,
and one that is not its own is refused. On a few tensors, without a model."""

import copy
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from customize.methods import DreamBoothSettings
from customize.optim import optimizers
from customize.optim.averaging import taking_steps
from customize.optim.optimizer_state import has_counters_of, is_state_of
from customize.optim.together import members_of
from customize.settings.training_parts import optimizer_settings
from customize.settings.training_parts.optimizer_settings import settings_of as settings_of_optimizer
from customize.storage import checkpoint
from customize.storage.checkpoint import Checkpoint
from customize.training.resumable import OptimizerState

NAMES = tuple(optimizers.names())
SHAPES = ((6, 4), (5,), (2, 3, 3, 3), (80, 64))
"""A matrix, a vector, a convolution, and a matrix whose moments have 8 bits where they can."""
STEPS, RATE = 4, 0.01


def settings_of(name, **changes):
    least = {"instance_prompt": "a photo of sks dog", "instance_data_dir": "dogs"}
    return DreamBoothSettings(**least, optimizer=name, learning_rate=RATE, **changes)


def parameters(shapes=SHAPES, first=0.5):
    """Fixed ones; the vector starts at zero, as the B of a LoRA does."""
    random = torch.Generator().manual_seed(1)
    found = [torch.nn.Parameter(first * torch.randn(shape, generator=random)) for shape in shapes]
    found[1].data.zero_()
    return found


def gradient(step, parameter, number):
    """Fixed ones, for the steps 1, 2, ..."""
    return torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * step + number))


def steady(step, parameter, number):
    """Fixed ones of nearly the same direction, along which Prodigy takes longer and longer steps."""
    return gradient(0, parameter, number) + 0.1 * gradient(step, parameter, number)


def build(name, given, rate=RATE, **changes):
    return optimizers.build(settings_of(name, **changes), [{"params": given, "lr": rate}])


def stepped(optimizer, given, steps, of=gradient):
    """Takes these steps as the loop does, by gradients `of` the step, parameter and its number."""
    for step in steps:
        if hasattr(optimizer, "train"):
            with taking_steps(optimizer):
                take(optimizer, given, step, of)
        else:
            take(optimizer, given, step, of)


def take(optimizer, given, step, of):
    for number, parameter in enumerate(given):
        parameter.grad = of(step, parameter, number)
    optimizer.step()
    optimizer.zero_grad()


def adamw(p, gradients, lr=RATE, b1=0.9, b2=0.999, eps=1e-8, decay=0.1):
    """Loshchilov & Hutter 2019, algorithm 2, with the decay times the rate."""
    m = v = np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        p = p - lr * decay * p - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return p


def lion(p, gradients, lr=RATE, b1=0.9, b2=0.99, decay=0.1):
    """Chen et al. 2023, algorithm 2."""
    m = np.zeros_like(p)
    for g in gradients:
        p = p - lr * (np.sign(b1 * m + (1 - b1) * g) + decay * p)
        m = b2 * m + (1 - b2) * g
    return p


def rms(x):
    return np.sqrt(np.mean(x**2))


def adafactor(p, gradients, lr=RATE, decay=0.1, eps=1e-30):
    """Shazeer & Stern 2018, algorithms 4 (matrices) and 5 (vectors), with a given rate."""
    r = c = v = 0.0
    for t, g in enumerate(gradients, 1):
        b2, squared = 1 - t**-0.8, g**2 + eps
        if p.ndim > 1:
            r = b2 * r + (1 - b2) * squared.sum(-1, keepdims=True)
            c = b2 * c + (1 - b2) * squared.sum(-2, keepdims=True)
            v = r * c / r.sum(-2, keepdims=True)
        else:
            v = b2 * v + (1 - b2) * squared
        update = g / np.sqrt(v)
        p = p - lr * decay * p - lr * update / max(1, rms(update))
    return p


def came(p, gradients, lr=RATE, b1=0.9, b2=0.999, b3=0.9999, decay=0.1, eps1=1e-30, eps2=1e-16):
    """Luo et al. 2023, algorithm 2; vectors take the momentum as it is."""
    r = c = v = s_r = s_c = m = 0.0
    for g in gradients:
        squared = g**2 + eps1
        if p.ndim > 1:
            r, c = (b2 * old + (1 - b2) * squared.sum(axis, keepdims=True) for old, axis in ((r, -1), (c, -2)))
            v = r * c / r.sum(-2, keepdims=True)
        else:
            v = b2 * v + (1 - b2) * squared
        update = g / np.sqrt(v)
        update = update / max(1, rms(update))
        m = b1 * m + (1 - b1) * update
        direction = m
        if p.ndim > 1:
            unsure = (update - m) ** 2 + eps2
            s_r, s_c = (b3 * old + (1 - b3) * unsure.sum(axis, keepdims=True) for old, axis in ((s_r, -1), (s_c, -2)))
            direction = m / np.sqrt(s_r * s_c / s_r.sum(-2, keepdims=True))
        p = p - lr * decay * p - lr * direction
    return p


def schedule_free(p, gradients, lr=RATE, b1=0.9, b2=0.999, eps=1e-8, decay=0.1):
    """Defazio et al. 2024, algorithm 1: the gradients are those at y; returns x."""
    x = z = p
    v = np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        y = (1 - b1) * z + b1 * x
        v = b2 * v + (1 - b2) * g**2
        z = z - lr * g / (np.sqrt(v / (1 - b2**t)) + eps) - lr * decay * y
        x = (1 - 1 / t) * x + z / t
    return x


def prodigy(ps, gradients, lr=1.0, b1=0.9, b2=0.999, b3=None, eps=1e-8, decay=0.1, d=1e-6, coef=1.0, corrects=True, safe=True):
    """Mishchenko & Defazio 2024, algorithm 4, over all tensors of a group. corrects: Adam's bias correction in the steps; safe:
    the learning rate is left out of the denominator."""
    start, numerator, b3 = ps, 0.0, math.sqrt(b2) if b3 is None else b3
    s, m, v = ([np.zeros_like(p) for p in ps] for _ in range(3))
    for t, gs in enumerate(gradients, 1):
        step = d * lr * (math.sqrt(1 - b2**t) / (1 - b1**t) if corrects else 1)
        numerator = b3 * numerator + d * step * sum(np.sum(g * (p0 - p)) for g, p0, p in zip(gs, start, ps, strict=True))
        s = [b3 * each + d * (d if safe else step) * g for each, g in zip(s, gs, strict=True)]
        m = [b1 * each + (1 - b1) * d * g for each, g in zip(m, gs, strict=True)]
        v = [b2 * each + (1 - b2) * d * d * g**2 for each, g in zip(v, gs, strict=True)]
        d = max(d, coef * numerator / sum(np.abs(each).sum() for each in s))
        moments = zip(ps, m, v, strict=True)
        ps = [p - step * decay * p - step * each / (np.sqrt(squares) + d * eps) for p, each, squares in moments]
    return ps, d


def orthogonal(matrix, steps=5):
    """The Newton-Schulz iteration of Jordan et al. 2024."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / np.linalg.norm(x)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def muon(p, gradients, lr=RATE, momentum=0.95, decay=0.1):
    """Liu et al. 2025, equations 4 and 6: Nesterov's momentum, orthogonalised, at AdamW's root mean square."""
    m = np.zeros_like(p)
    for g in gradients:
        m = momentum * m + (1 - momentum) * g
        update = orthogonal((1 - momentum) * g + momentum * m)
        p = p - lr * decay * p - lr * 0.2 * math.sqrt(max(p.shape)) * update
    return p


FORMULAS = {"adamw": adamw, "lion": lion, "adafactor": adafactor, "came": came, "schedule_free": schedule_free}


OPTIONS = {
    "adam_beta1": ("b1", 0.7),
    "adam_beta2": ("b2", 0.95),
    "adam_epsilon": ("eps", 0.05),
    "adam_weight_decay": ("decay", 0.3),
}
"""Other values than the defaults of settings and packages, and the names of the formulas."""


def options_of(name):
    """(settings, arguments of the formula) of the options that an optimizer has."""
    own = {each: OPTIONS[each] for each in settings_of_optimizer(name) if each in OPTIONS}
    return {each: value for each, (_, value) in own.items()}, dict(own.values())


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("name", FORMULAS)
def test_steps_equal_the_paper_s_formula(name, others):
    """With the default options, and with others."""
    given = parameters()
    before = [parameter.detach().double().numpy().copy() for parameter in given]
    settings, options = options_of(name) if others else ({"adam_weight_decay": 0.1}, {})
    stepped(build(name, given, **settings), given, range(1, STEPS + 1))
    for number, (start, parameter) in enumerate(zip(before, given, strict=True)):
        gradients = [gradient(step, parameter, number).double().numpy() for step in range(1, STEPS + 1)]
        expected = FORMULAS[name](start, gradients, **options)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=2e-5, atol=2e-6)
        assert np.abs(expected - start).max() > RATE / 2


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"adam_weight_decay": 0.1}, {}),
        (
            {"adam_beta1": 0.7, "adam_beta2": 0.95, "prodigy_beta3": 0.9, "prodigy_d_coef": 0.5, "adam_weight_decay": 0.3},
            {"b1": 0.7, "b2": 0.95, "b3": 0.9, "coef": 0.5, "decay": 0.3},
        ),
        (
            {"prodigy_use_bias_correction": False, "prodigy_safeguard_warmup": False, "adam_epsilon": 0.05},
            {"corrects": False, "safe": False, "eps": 0.05, "decay": 0.01, "lr": 0.5},
        ),
    ],
)
def test_prodigy_s_steps_and_estimate_equal_the_formula(settings, options):
    """On small numbers: the estimate is made of differences that single precision would round in larger ones."""
    given = parameters(first=1e-3)
    before = [parameter.detach().double().numpy().copy() for parameter in given]
    optimizer = build("prodigy", given, options.get("lr", 1.0), **settings)
    stepped(optimizer, given, range(1, 61), steady)
    gradients = [[steady(step, p, n).double().numpy() for n, p in enumerate(given)] for step in range(1, 61)]
    expected, d = prodigy(before, gradients, **options)
    assert optimizer.param_groups[0]["d"] == pytest.approx(d, rel=1e-5) and d > 1e-3
    for start, found, wanted in zip(before, given, expected, strict=True):
        error = np.abs((found.detach().double().numpy() - start) - (wanted - start)).max()
        assert error < 1e-5 * np.abs(wanted - start).max()


def test_each_part_has_an_estimate_of_its_own():
    given = parameters()
    groups = [{"params": [each], "lr": rate} for each, rate in zip(given, (1.0, 0.5, 1.0, 1.0), strict=True)]
    optimizer = optimizers.build(settings_of("prodigy"), groups)
    stepped(optimizer, given, range(1, 21), steady)
    found = [group["d"] for group in optimizer.param_groups]
    assert len(set(found)) == len(given) and [group["lr"] for group in optimizer.param_groups] == [1.0, 0.5, 1.0, 1.0]
    alone = parameters()
    stepped(build("prodigy", alone[:1], 1.0), alone[:1], range(1, 21), steady)
    assert torch.equal(alone[0], given[0])


@pytest.mark.parametrize("momentum", [0.95, 0.6])
def test_muon_steps_matrices_and_adamw_the_rest(momentum):
    given = parameters()
    words = torch.nn.Parameter(torch.randn(2, 8, generator=torch.Generator().manual_seed(5)))
    before = [parameter.detach().double().numpy().copy() for parameter in (*given, words)]
    groups = [{"params": given, "lr": RATE}, {"params": [words], "lr": RATE, "vectors": True}]
    optimizer = optimizers.build(settings_of("muon", adam_weight_decay=0.1, muon_momentum=momentum), groups)
    assert [type(each).__name__ for each in members_of(optimizer)] == ["Muon", "AdamW"]
    stepped(optimizer, [*given, words], range(1, STEPS + 1))
    for number, (start, found) in enumerate(zip(before, (*given, words), strict=True)):
        gradients = [gradient(step, found, number).double().numpy() for step in range(1, STEPS + 1)]
        is_matrix = start.ndim == 2 and found is not words
        wanted = muon(start, gradients, momentum=momentum) if is_matrix else adamw(start, gradients)
        error = np.linalg.norm(found.detach().numpy() - wanted) / np.linalg.norm(wanted - start)
        assert error < (0.02 if is_matrix else 1e-5), "torch orthogonalises in bfloat16"


def decoded(kept, moment):
    """A moment of 8 bits as numbers: the value of the table, times the scale of its block of 256."""
    numbers, table, scales = (kept[name + moment] for name in ("state", "qmap", "absmax"))
    values = table.double()[numbers.long()].flatten()
    return (values * scales.double().repeat_interleave(256)[: values.numel()]).view(numbers.shape).numpy()


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit", "lion_8bit"])
def test_steps_of_8_bits_equal_the_formula_from_what_is_kept(name):
    """Each step starts from the moments that are kept, decoded here; what it keeps is within half a gap of the table."""
    given = parameters()
    optimizer = build(name, given, adam_weight_decay=0.1)
    large, number, b1, b2 = given[3], 3, 0.9, 0.99 if name == "lion_8bit" else 0.999
    m = v = np.zeros(large.shape)
    for step in range(1, STEPS + 1):
        p, g = large.detach().double().numpy().copy(), gradient(step, large, number).double().numpy()
        stepped(optimizer, given, [step])
        if name == "lion_8bit":
            expected, m, v = p - RATE * (np.sign(b1 * m + (1 - b1) * g) + 0.1 * p), b2 * m + (1 - b2) * g, None
        else:
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            update = m / (1 - b1**step) / (np.sqrt(v / (1 - b2**step)) + 1e-8)
            expected = p * (1 - RATE * 0.1) - RATE * update
        np.testing.assert_allclose(large.detach().numpy(), expected, rtol=2e-4, atol=2e-6)
        kept = optimizer.state[large]
        assert kept["state1"].dtype == torch.uint8
        for moment, wanted in (("1", m), ("2", v)):
            if wanted is not None:
                scale = np.abs(wanted).max()
                assert np.abs(decoded(kept, moment) - wanted).max() < 0.02 * scale
        m, v = decoded(kept, "1"), v if v is None else decoded(kept, "2")
    start = parameters()
    for number in (0, 1):  # of less than 4,096 numbers: 32 bits
        gradients = [gradient(step, given[number], number).double().numpy() for step in range(1, STEPS + 1)]
        expected = (lion if name == "lion_8bit" else adamw)(start[number].detach().double().numpy(), gradients)
        np.testing.assert_allclose(given[number].detach().numpy(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_goes_on_to_the_same_bits(name, ema, tmp_path):
    """Through the files of a checkpoint, also from a rate of 0 on, as a warm-up has it."""
    if ema and name == "schedule_free":
        pytest.skip("its result is an average already")
    straight, started = parameters(), parameters()
    one, two = averaged_as_asked(name, straight, ema), averaged_as_asked(name, started, ema)
    rates = [0.0, *[group["lr"] for group in one.param_groups[:1]] * 5]
    for optimizer, given, last in ((one, straight, 6), (two, started, 3)):
        for step in range(last):
            for group in optimizer.param_groups:
                group["lr"] = rates[step]
            stepped(optimizer, given, [step + 1])
    learned = {str(number): each for number, each in enumerate(started)}
    (tmp_path / "run").mkdir()
    path = checkpoint.save(tmp_path / "run/checkpoints", Checkpoint(3, learned, {"optimizer": two.state_dict()}))
    found = checkpoint.load(path)
    resumed = parameters()
    for parameter, kept in zip(resumed, found.learned.values(), strict=True):
        parameter.data.copy_(kept)
    three = averaged_as_asked(name, resumed, ema)
    part = OptimizerState(three, is_scaled=False)
    assert part.faults(found.state["optimizer"], 3) == []
    part.load_state_dict(part.of_this_run(found.state["optimizer"]))
    for step in range(3, 6):
        for group in three.param_groups:
            group["lr"] = rates[step]
        stepped(three, resumed, [step + 1])
    assert all(torch.equal(*pair) for pair in zip(straight, resumed, strict=True))
    assert equal(one.state_dict(), three.state_dict())


def averaged_as_asked(name, given, ema):
    from customize.optim.averaging import averaged

    rate = optimizers.of(name).learning_rate or RATE
    changes = {"use_ema": True, "ema_decay": 0.5} if ema else {}
    return averaged(settings_of(name, **changes), build(name, given, rate, **changes))


def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def places(tree, path=()):
    """The paths of all values in nested dictionaries."""
    for key, value in tree.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("name", NAMES)
def test_a_state_with_any_other_entry_is_refused(name):
    """Whatever is missing, of another shape, dtype or type, or one too many."""
    given = parameters()
    optimizer = averaged_as_asked(name, given, ema=name in ("adamw", "adamw_8bit"))
    assert is_state_of(optimizer, optimizer.state_dict()["state"])
    stepped(optimizer, given, [1, 2])
    state = optimizer.state_dict()["state"]
    assert is_state_of(optimizer, state) and sorted(state) == [0, 1, 2, 3]
    for number in state:
        for path in places(state[number]):
            *way, last = path
            value = state[number]
            for key in path:
                value = value[key]
            others = [None, "x", {}]
            if isinstance(value, torch.Tensor):
                dtype = torch.float64 if value.dtype != torch.float64 else torch.float32
                others += [value.to(dtype), value.flatten()[:-1], value[None, None]]
            for other in others:
                forged = {**state, number: copy.deepcopy(state[number])}
                inner = forged[number]
                for key in way:
                    inner = inner[key]
                inner[last] = other
                assert not is_state_of(optimizer, forged), (path, other)
            del inner[last]
            assert not is_state_of(optimizer, forged), path
        assert not is_state_of(optimizer, {**state, number: {**state[number], "more": torch.zeros(1)}})
    assert not is_state_of(optimizer, {**state, 4: state[0]}) and not is_state_of(optimizer, [state])


@pytest.mark.parametrize("name", ["prodigy", "schedule_free", "came"])
def test_counters_are_taken_and_hyperparameters_are_not(name):
    given = parameters()
    optimizer = build(name, given)
    stepped(optimizer, given, [1, 2])
    saved, part = copy.deepcopy(optimizer.state_dict()), OptimizerState(build(name, parameters()), is_scaled=False)
    counters = optimizers.of(name).counters
    for group in saved["param_groups"]:
        group |= {"lr": "x", "weight_decay": 7, "betas": None}
    own, taken = part.optimizer.state_dict()["param_groups"], part.of_this_run(saved)["param_groups"]
    for mine, theirs, now in zip(own, saved["param_groups"], taken, strict=True):
        assert now == {**mine, **{each: theirs[each] for each in counters}}
    for value in (None, "x", math.nan, math.inf, True, [1]):
        forged = [{**group, counters[0]: value} for group in saved["param_groups"]]
        assert part.faults({**saved, "param_groups": forged}, 2) == ["the state of the optimizer"]
    for groups in (None, [], [7] * len(own), [{}] * len(own)):
        assert not has_counters_of(part.optimizer, groups)


@pytest.mark.parametrize("name", [name for name in NAMES if optimizers.of(name).package])
def test_a_missing_package_is_reported_with_its_extra(name, monkeypatch):
    monkeypatch.setattr(optimizer_settings, "find_spec", lambda package: None)
    least = {"instance_prompt": "a photo of sks dog", "instance_data_dir": "dogs"}
    [problem] = DreamBoothSettings.examine({**least, "optimizer": name})[1]
    assert problem.where == "optimizer" and problem.remedy == f'pip install "customize[{name}]"'
    assert optimizers.of(name).package in problem.what
    extras = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert re.search(rf"^{name} = \[", extras, re.M)


@pytest.mark.parametrize(
    ("given", "where", "words"),
    [
        ({"optimizer": "adafactor", "adam_beta1": 0.9}, "adam_beta1", "has no effect with optimizer = adafactor"),
        ({"optimizer": "lion", "adam_epsilon": 1e-6}, "adam_epsilon", "has no effect with optimizer = lion"),
        ({"prodigy_d_coef": 2.0}, "prodigy_d_coef", "has no effect without optimizer = prodigy"),
        ({"optimizer": "lion", "muon_momentum": 0.9}, "muon_momentum", "has no effect without optimizer = muon"),
        ({"optimizer": "schedule_free", "adam_beta1": 0.0}, "adam_beta1", "above 0, below 1, with optimizer = schedule_free"),
        ({"optimizer": "schedule_free", "use_ema": True}, "use_ema", "an average already"),
        ({"optimizer": "sgd"}, "optimizer", "is not one of adamw, adafactor, adamw_8bit"),
        ({"ema_decay": 0.9}, "ema_decay", "has no effect without use_ema = true"),
        ({"optimizer": "prodigy", "adapter": "lora", "loraplus_lr_ratio": 4.0}, "loraplus_lr_ratio", "no effect with prodigy"),
    ],
)
def test_settings_that_do_not_fit_are_reported(given, where, words):
    least = {"instance_prompt": "a photo of sks dog", "instance_data_dir": "dogs"}
    [problem] = DreamBoothSettings.examine({**least, **given})[1]
    assert problem.where == where and words in problem.what


def test_default_rates_follow_the_optimizer():
    least = {"instance_prompt": "a photo of <new>", "instance_data_dir": "dogs", "adapter": "lora"}
    least |= {"placeholder_token": ("<new>",), "initializer_token": ("dog",)}
    rates = {}
    for name in ("adamw", "lion", "prodigy", "muon"):
        found = DreamBoothSettings(**least, optimizer=name)
        rates[name] = found.learning_rate, found.embedding_learning_rate
        assert DreamBoothSettings(**found.values()) == found
    assert rates == {"adamw": (1e-4, 5e-3), "lion": (2e-5, 1e-3), "prodigy": (1.0, 1.0), "muon": (1e-4, 5e-3)}
    assert DreamBoothSettings(**least, optimizer="prodigy", learning_rate=0.5).learning_rate == 0.5
    turned = DreamBoothSettings(**least, optimizer="prodigy", normalize_embedding=True)
    assert (turned.learning_rate, turned.embedding_learning_rate) == (1.0, 5e-3)


def test_the_table_of_optimizers_is_as_counted():
    """Bytes for each number of a matrix of 640 x 640, and the default rates, in docs/optimizers.md."""
    page = (Path(__file__).parents[1] / "docs/optimizers.md").read_text()
    rows = {row[0].strip("` "): row for row in (line.strip("|").split("|") for line in page.splitlines()) if len(row) == 5}
    assert rows.keys() - {"optimizer", "---"} == {*NAMES}
    for name in NAMES:
        given = [torch.nn.Parameter(torch.ones(640, 640))]
        optimizer = build(name, given, optimizers.of(name).learning_rate or RATE)
        stepped(optimizer, given, [1])
        tensors = []
        checkpoint_tensors(optimizer.state_dict(), tensors)
        number = sum(tensor.nbytes for tensor in tensors) / 640**2
        assert rows[name][2].strip() == f"{number:.2f}", name
        facts = optimizers.of(name)
        rate = (
            f"{facts.learning_rate:g}" if facts.learning_rate else "AdamW's" if facts.share == 1 else f"{facts.share:g} x AdamW's"
        )
        assert rows[name][3].strip() == rate and bool(rows[name][4].strip()) == bool(facts.package)


def checkpoint_tensors(tree, found):
    if isinstance(tree, torch.Tensor):
        found.append(tree)
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ():
        checkpoint_tensors(value, found)
