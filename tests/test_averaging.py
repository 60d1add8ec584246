"""Optimizers whose result is an average of their steps: EMA, as diffusers' `EMAModel` computes it, and schedule-free AdamW."""

import pytest
import torch
from diffusers.training_utils import EMAModel
from kit import prepared, settings_for, train_loop
from schedulefree import AdamWScheduleFree
from test_optimizer_steps import averaged_as_asked, build, gradient, parameters, stepped

from customize.optim.averaging import taking_steps
from customize.storage import checkpoint
from customize.training.callbacks import Checkpoints
from customize.training.loop import Callback
from customize.training.nan_guard import NanGuard


def copies(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def are_equal(some, others):
    return all(torch.equal(one.detach(), other.detach()) for one, other in zip(some, others, strict=True))


def test_schedule_free_is_that_of_the_package():
    """Within a step the parameters are the package's in its mode of training, between steps those of its evaluation."""
    ours, theirs = parameters(), parameters()
    optimizer = build("schedule_free", ours, adam_weight_decay=0.1)
    stock = AdamWScheduleFree(theirs, lr=0.01, weight_decay=0.1)
    stock.train()
    for step in range(1, 6):
        with taking_steps(optimizer):
            assert are_equal(ours, theirs)
            for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                one.grad, other.grad = gradient(step, one, number), gradient(step, one, number)
            optimizer.step()
        stock.step()
        y = copies(theirs)
        stock.eval()
        assert are_equal(ours, theirs) and are_equal(ours, y) == (step == 1)
        stock.train()
        for parameter, kept in zip(theirs, y, strict=True):  # the package's way there and back rounds
            parameter.data.copy_(kept)


@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.2, 0.9999])
def test_ema_equals_that_of_diffusers(decay, on_cpu):
    from customize.optim.averaging import Ema

    ours, plain = parameters(), parameters()
    optimizer, without = Ema(build("adamw", ours), decay, on_cpu), build("adamw", plain)
    average = EMAModel(plain, decay=decay)
    for step in range(1, 8):
        stepped(optimizer, ours, [step])
        stepped(without, plain, [step])
        average.step(plain)
        assert are_equal(ours, average.shadow_params)
        with taking_steps(optimizer):  # no step: nothing is averaged
            assert are_equal(ours, plain)
        assert are_equal(ours, average.shadow_params)
    difference = max((one - other).abs().max().item() for one, other in zip(ours, plain, strict=True))
    assert difference > 1e-3 or (decay == 0.0 and difference < 1e-7)


@pytest.mark.parametrize(("name", "ema"), [("schedule_free", False), ("adamw", True)])
def test_an_error_within_a_step_changes_no_bit(name, ema):
    given = parameters()
    optimizer = averaged_as_asked(name, given, ema)
    stepped(optimizer, given, [1, 2])
    before = copies(given)
    with pytest.raises(KeyboardInterrupt), taking_steps(optimizer):
        assert not are_equal(given, before)
        raise KeyboardInterrupt
    assert are_equal(given, before)


class SpoilsAWeight(Callback):
    """Makes a trained weight NaN at one draw, once the step is done."""

    def after_step(self, state, metrics):
        if state.draw == 3:
            next(iter(state.method.trainable_state_dict().values())).data.fill_(torch.nan)


def test_a_skipped_draw_leaves_the_average_as_it_was(tiny_epsilon, image_folder, tmp_path):
    """Both sets of weights are those of the step before."""
    found = []
    for changes in ({}, {"use_ema": True, "ema_decay": 0.3}):
        settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", on_nan="retry", **changes)
        context, training = prepared(settings)
        callbacks = [SpoilsAWeight(), NanGuard("retry"), watched := Watched()]
        start = copies(training.method.trainable_state_dict().values())
        state = train_loop(settings, training, context.accelerator, 4, callbacks)
        assert state.skipped_draws == [2] and len(watched.losses) == 4
        found.append((watched, state, start))
    (plain, _, start), (averaged, state, _) = found
    average = EMAModel(start, decay=0.3)
    average.shadow_params = copies(start)
    for weights in plain.weights:
        average.step([torch.nn.Parameter(each) for each in weights])
    assert are_equal(averaged.weights[-1], average.shadow_params)
    assert are_equal(plain.weights[-1], [kept["stepped"] for kept in state.optimizer.state_dict()["state"].values()])


class Watched(Callback):
    """Notes the losses, and the weights after each step."""

    def __init__(self):
        self.losses, self.weights = [], []

    def after_step(self, state, metrics):
        self.losses.append(metrics.loss)
        self.weights.append(copies(state.method.trainable_state_dict().values()))


def test_a_run_shows_and_saves_the_average(tiny_epsilon, image_folder, tmp_path):
    """The steps are those of the run without it; callbacks, checkpoints and the end see the average."""
    plain, averaged = Watched(), Watched()
    for watched, changes in ((plain, {}), (averaged, {"use_ema": True, "ema_decay": 0.3})):
        settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **changes)
        context, training = prepared(settings)
        saves = Checkpoints(tmp_path / f"{len(changes)}/checkpoints", 2, None)
        saves.folder.parent.mkdir()
        start = copies(training.method.trainable_state_dict().values())
        train_loop(settings, training, context.accelerator, 4, [watched, saves])
    assert plain.losses == averaged.losses
    average = EMAModel(start, decay=0.3)
    average.shadow_params = copies(start)
    for weights, shown in zip(plain.weights, averaged.weights, strict=True):
        average.step([torch.nn.Parameter(each) for each in weights])
        assert are_equal(shown, average.shadow_params)
    assert are_equal(averaged.weights[-1], training.method.trainable_state_dict().values())
    found = checkpoint.load(saves.folder / "step-000004")
    assert are_equal(averaged.weights[-1], [found.learned[name] for name in training.method.trainable_state_dict()])
    stepping = [kept["stepped"] for kept in found.state["optimizer"]["state"].values()]
    assert are_equal(plain.weights[-1], stepping)
