"""NaN and infinity: the step at which they come is not done, the state before it is what is kept, and no file holds them."""

import copy
import json
import math
from functools import cache

import pytest
import torch
from kit import prepared, settings_for, train_loop
from safetensors.torch import load_file
from whole_runs import LATEST, Run

from customize.errors import NumericsError
from customize.storage import checkpoint
from customize.training import nan_guard, resumable
from customize.training.callbacks import Checkpoints, JsonlLogger
from customize.training.loop import Callback
from customize.training.nan_guard import IN_A_ROW, IN_ALL, SKIPPED_IN_A_ROW, NanGuard

STEPS, BAD = 5, 2  # steps of a run, and the one, counted from 0, with NaN


class InTheLoss(Callback):
    """Batches in which the last sample of some draws weighs `value`."""

    def __init__(self, value, draws=(BAD,)):
        self.value, self.draws = value, draws

    def start(self, state):
        self.method = state.method

    def attach(self, dataset):
        self.dataset = dataset
        return self

    def deal(self, draw, positions):
        batches = self.dataset.deal(draw, positions)
        if draw in self.draws:
            batches[-1].loss_weights[-1] = self.value
        return batches


class InAGradient(InTheLoss):
    """One number of one gradient is `value`."""

    def start(self, state):
        self.now = False
        list(state.method.trainable_state_dict().values())[-1].register_hook(self.spoil)

    def deal(self, draw, positions):
        self.now = draw in self.draws
        return self.dataset.deal(draw, positions)

    def spoil(self, gradient):
        gradient = gradient.clone()
        gradient.view(-1)[0] = self.value if self.now else gradient.view(-1)[0]
        return gradient


class InAWeight(InTheLoss):
    """One learned number is `value` after the step. Once."""

    def deal(self, draw, positions):
        return self.dataset.deal(draw, positions)

    def after_step(self, state, metrics):
        if state.draw - 1 in self.draws:
            self.tensor(state).detach().view(-1)[0] = self.value

    def tensor(self, state):
        return list(state.method.trainable_state_dict().values())[-1]


class InTheOptimizer(InAWeight):
    """One of its means of squared gradients is `value` after the step. Once."""

    def tensor(self, state):
        return state.optimizer.state[super().tensor(state)]["exp_avg_sq"]


class BeforeTheStep(InAWeight):
    """As if the memory were at fault: a learned number is `value` when the step begins."""

    def start(self, state):
        self.learned, self.done = list(state.method.trainable_state_dict().values())[-1], False

    def deal(self, draw, positions):
        if draw in self.draws and not self.done:
            self.learned.detach().view(-1)[0], self.done = self.value, True
        return self.dataset.deal(draw, positions)

    def after_step(self, state, metrics):
        pass


FAULTS = [InTheLoss, InAGradient, InAWeight, InTheOptimizer, BeforeTheStep]
both = pytest.mark.parametrize("method", ["textual_inversion", "lora"])
QUICK = [*(("textual_inversion", fault) for fault in FAULTS), ("lora", InTheLoss), ("lora", InTheOptimizer)]
SELDOM = [("lora", fault) for fault in FAULTS if ("lora", fault) not in QUICK]
each_fault = pytest.mark.parametrize(
    ("method", "fault"), [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SELDOM)]
)


class Trained:
    """A run of the loop alone, with a fault in it: its settings, its last state, and what it raised."""

    def __init__(self, method, base, image_folder, folder, fault=None, steps=STEPS, resume=None, scaler=None, **changes):
        self.folder = folder
        self.settings = settings_for(
            method, base, image_folder, folder / "unused", max_train_steps=max(steps, STEPS), train_batch_size=2,
            random_flip=False, **changes,
        )  # fmt: skip
        done = {"first_step": resume.step, "skipped_draws": len(resume.state["left_out"])} if resume else {}
        context, training = prepared(self.settings, **done)
        self.method, dataset, self.error = training.method, training.dataset, None
        self.numbers = NanGuard(self.settings.on_nan)
        callbacks = [self.numbers, JsonlLogger(folder / "log.jsonl"), Checkpoints(folder / "checkpoints", 100, None)]
        folder.mkdir(exist_ok=True)
        if fault:
            callbacks, dataset = [fault, *callbacks], fault.attach(dataset)
        if scaler:
            accelerator = context.accelerator
            accelerator.scaler = scaler
            accelerator.unscale_gradients = lambda: [scaler.unscale_(each.optimizer) for each in accelerator._optimizers]
        try:
            self.state = train_loop(
                self.settings, training, context.accelerator, steps, callbacks, dataset=dataset, resume=resume
            )
        except NumericsError as error:
            self.error = str(error)

    def learned(self):
        return {name: tensor.detach().clone() for name, tensor in self.method.trainable_state_dict().items()}

    def checkpoint(self, step):
        path = self.folder / f"checkpoints/step-{step:06d}"
        assert not checkpoint.faults(path)
        return checkpoint.load(path)

    def log(self):
        return [json.loads(line, parse_constant=pytest.fail) for line in (self.folder / "log.jsonl").read_text().splitlines()]


def equal(one, other):
    if isinstance(one, dict):
        return same(one, other)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def same(one, other):
    return one.keys() == other.keys() and all(equal(one[name], other[name]) for name in one)


def same_state(one, other):
    """Whether two checkpoints hold the same weights and the same optimizer."""
    (a, b), states = (each.learned for each in (one, other)), [each.state["optimizer"]["state"] for each in (one, other)]
    return same(a, b) and all(same(*pair) for pair in zip(states[0].values(), states[1].values(), strict=True))


@pytest.fixture(scope="module")
def finished_run(tiny_epsilon, image_folder, tmp_path_factory):
    """A function that gives, once made, a run without a fault up to the bad step, and one to the end."""
    folder = tmp_path_factory.mktemp("straight")

    @cache
    def finished_run(method):
        runs = (Trained(method, tiny_epsilon, image_folder, folder / f"{method}{steps}", steps=steps) for steps in (BAD, STEPS))
        return tuple(runs)

    return finished_run


@each_fault
@pytest.mark.parametrize("value", [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)])
def test_the_run_stops_at_that_step_with_the_state_before_it(
    method, value, fault, finished_run, tiny_epsilon, image_folder, tmp_path
):
    before, whole = finished_run(method)
    run = Trained(method, tiny_epsilon, image_folder, tmp_path / "run", fault(value))
    batch = prepared(run.settings)[1].dataset.deal(BAD, range(2))[0]
    assert f"at step {BAD + 1} (images: {', '.join(dict.fromkeys(batch.names))})" in run.error
    assert f"the state of step {BAD} is kept" in run.error
    if fault is InTheOptimizer:
        assert f"the optimizer's exp_avg_sq of {list(run.learned())[-1]} " in run.error
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == [f"step-{BAD:06d}"]
    assert same_state(run.checkpoint(BAD), before.checkpoint(BAD)) and same(run.learned(), before.learned())
    files = list(run.folder.rglob("*.safetensors"))
    assert files and all(tensor.isfinite().all() for file in files for tensor in load_file(file).values())
    assert [line["step"] for line in run.log()] == list(range(1, BAD + 1))
    resumed = Trained(method, tiny_epsilon, image_folder, tmp_path / "run", resume=run.checkpoint(BAD))
    assert whole.error is resumed.error is None and same(whole.learned(), resumed.learned())


@pytest.mark.parametrize("fault", [InTheLoss, InAGradient, InAWeight, InTheOptimizer, BeforeTheStep])
def test_weights_that_are_too_large_to_copy(fault, tiny_epsilon, image_folder, tmp_path, monkeypatch):
    """Then a state that was not touched yet is saved as always; one that was is not, and the last checkpoint stays."""
    monkeypatch.setattr(nan_guard, "SNAPSHOT_LIMIT", 0)
    run = Trained("lora", tiny_epsilon, image_folder, tmp_path / "run", fault(math.nan))
    untouched = fault in (InTheLoss, InAGradient)
    assert ("the state of step 2 is kept" if untouched else "the last checkpoint is kept") in run.error
    assert (run.folder / "checkpoints").exists() == untouched


def by_hand(method, base, image_folder, folder, steps):
    """Learned tensors after steps of (draw, share of the learning rate): plain torch."""
    settings = settings_for(
        method, base, image_folder, folder, max_train_steps=STEPS, train_batch_size=2, random_flip=False, on_nan="retry"
    )
    _, training = prepared(settings)
    training.method.train()
    optimizer = torch.optim.AdamW(training.method.parameter_groups(), weight_decay=1e-2, fused=True)
    for draw, share in steps:
        (training.method(training.dataset.deal(draw, range(2))[0]).sum() / 2).backward()
        torch.nn.utils.clip_grad_norm_(list(training.method.trainable_state_dict().values()), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * share
        optimizer.step()
        optimizer.zero_grad()
    return {name: tensor.detach().clone() for name, tensor in training.method.trainable_state_dict().items()}


@each_fault
def test_retry_skips_the_draw_and_halves_the_rate(method, fault, tiny_epsilon, image_folder, tmp_path, capsys, terminal):
    expected = by_hand(method, tiny_epsilon, image_folder, tmp_path, [(0, 1), (1, 1), (3, 0.5), (4, 0.5), (5, 0.5)])
    run = Trained(method, tiny_epsilon, image_folder, tmp_path / "run", fault(math.nan), on_nan="retry")
    assert run.error is None and same(run.learned(), expected)
    assert "repeating step 3 with other draws, at half the learning rate" in capsys.readouterr().out
    steps = [(line["step"], line.get("learning_rate")) for line in run.log()]
    assert steps == [(1, 1e-3), (2, 1e-3), (2, None), (3, 5e-4), (4, 5e-4), (5, 5e-4)]
    assert "images: " in run.log()[2]["left_out"]
    killed = run.checkpoint(BAD)  # it is written before the step is done again
    assert killed.state["left_out"] == [BAD]
    resumed = Trained(method, tiny_epsilon, image_folder, tmp_path / "run", resume=killed)
    assert resumed.error is None and same(resumed.learned(), run.learned())
    assert [(line["step"], line.get("learning_rate")) for line in resumed.log()] == steps


def test_retries_are_limited(tiny_epsilon, image_folder, tmp_path):
    run = Trained(
        "textual_inversion", tiny_epsilon, image_folder, tmp_path / "a", InTheLoss(math.nan, range(1, 99)), on_nan="retry"
    )
    assert "at step 2" in run.error and run.checkpoint(1).state["left_out"] == [1] * IN_A_ROW
    often = InTheLoss(math.nan, [draw for draw in range(99) if draw % 3])  # two at each step
    run = Trained("textual_inversion", tiny_epsilon, image_folder, tmp_path / "b", often, steps=99, on_nan="retry")
    [path] = sorted((tmp_path / "b/checkpoints").iterdir())[-1:]
    assert checkpoint.load(path).state["left_out"] == [step for step in range(1, 6) for _ in range(2)]
    assert "at step 6" not in run.error or len(checkpoint.load(path).state["left_out"]) == IN_ALL


def test_the_loss_scaler_may_skip_steps_but_not_for_ever(tiny_epsilon, image_folder, tmp_path, capsys, terminal):
    before = Trained("lora", tiny_epsilon, image_folder, tmp_path / "before", steps=0).learned()
    first = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    skips = Trained("lora", tiny_epsilon, image_folder, tmp_path / "few", InAGradient(math.inf, [0, 1]), scaler=first, steps=2)
    assert skips.error is None and same(skips.learned(), before) and first.get_scale() == 2**14
    assert [(line["step"], line["skipped"], line["gradient_norm"]) for line in skips.log()] == [(1, True, None), (2, True, None)]
    output = capsys.readouterr().out
    assert "step 2 was skipped" in output and "2 so far" in output
    for bad, stopped in ((range(99), SKIPPED_IN_A_ROW), (set(range(99)) - {7}, 8 + SKIPPED_IN_A_ROW)):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        folder = tmp_path / f"many{stopped}"
        run = Trained("lora", tiny_epsilon, image_folder, folder, InAGradient(math.inf, bad), scaler=scaler, steps=40)
        assert f"{SKIPPED_IN_A_ROW} steps in a row" in run.error and f"last one: step {stopped}" in run.error
        assert run.checkpoint(stopped).step == stopped


@both
def test_with_a_loss_scaler_a_draw_can_be_skipped_too(method, tiny_epsilon, image_folder, tmp_path):
    for fault in (InTheLoss, InAWeight):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
        run = Trained(
            method, tiny_epsilon, image_folder, tmp_path / fault.__name__, fault(math.nan), scaler=scaler, on_nan="retry"
        )
        assert run.error is None and scaler.get_scale() == 2**4
        assert len(run.log()) == STEPS + 1


@pytest.mark.parametrize("method", ["lora", pytest.param("textual_inversion", marks=pytest.mark.slow)])
def test_killed_after_a_retry_and_resumed(method, server, tiny_epsilon, image_folder, tmp_path):
    whole = Run(server, tmp_path / "whole", method, tiny_epsilon, image_folder, on_nan="retry")
    status, output = whole(moment="in the loss", number=4, action="nan")
    assert status == 0 and "repeating step 4 with other draws, at half the learning rate" in output
    killed = Run(server, tmp_path / "killed", method, tiny_epsilon, image_folder, on_nan="retry")
    assert killed(moment="in the loss", number=4, action="nan, then SIGKILL")[0] == -9
    assert killed(*LATEST, "--on_nan", "stop")[0] == 0
    assert killed.result() == whole.result()
    plain = Run(server, tmp_path / "plain", method, tiny_epsilon, image_folder)
    assert plain()[0] == 0 and plain.result() != whole.result()


@pytest.mark.parametrize("scaled", [False, True])
def test_two_optimizers_together_are_restored(scaled, tiny_epsilon, image_folder, tmp_path):
    """Words that step on the sphere beside an adapter: a fault in AdamW's state, then resumed from the checkpoint before it."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4) if scaled else None
    options = {"normalize_embedding": True, "embedding_learning_rate": 0.02}
    run = Trained(
        "pivotal", tiny_epsilon, image_folder, tmp_path / "run", InAWeight(math.nan), scaler=scaler, on_nan="retry", **options
    )
    assert run.error is None and len(run.log()) == STEPS + 1
    resumed = Trained(
        "pivotal", tiny_epsilon, image_folder, tmp_path / "run", resume=run.checkpoint(BAD), scaler=scaler, **options
    )
    assert resumed.error is None and same(resumed.learned(), run.learned())


@pytest.mark.parametrize("eight_bit", [False, True])
def test_the_snapshot_is_restored_bit_for_bit(eight_bit, tiny_epsilon, image_folder, tmp_path):
    """Weights, both moments, counts that are tensors or numbers, group settings: as `Checkpoint` would have them."""
    run = Trained(
        "lora", tiny_epsilon, image_folder, tmp_path / "run", steps=2, optimizer="adamw_8bit" if eight_bit else "adamw", rank=256
    )
    state = run.state
    before = copied(state.checkpoint())
    tensors: list[torch.Tensor] = []
    trees = resumable.copied({name: part.state_dict() for name, part in state.parts.items()}, tensors)
    kept = nan_guard.Snapshot(tensors)
    kept.copy(state.step, trees)
    for tensor in nan_guard.tensors_of(state).values():
        tensor.detach().fill_(7)
    for values in state.optimizer.state.values():
        values["step"] = 9
    state.optimizer.param_groups[0]["lr"], state.step = 5.0, 8
    kept.restore(state)
    after = state.checkpoint()
    assert state.step == 2 and same_state(before, after)
    assert before.state["optimizer"]["param_groups"] == after.state["optimizer"]["param_groups"]


def copied(kept):
    return copy.deepcopy(checkpoint.Checkpoint(kept.step, {k: v.detach() for k, v in kept.learned.items()}, kept.state))


def test_a_checkpoint_holds_finite_numbers_only(tiny_epsilon, image_folder, tmp_path):
    run = Trained("textual_inversion", tiny_epsilon, image_folder, tmp_path / "run", steps=2)
    for value in (math.nan, math.inf):
        kept = copied(run.state.checkpoint())
        next(iter(kept.state["optimizer"]["state"].values()))["exp_avg_sq"].view(-1)[0] = value
        with pytest.raises(NumericsError, match=r"step-000002 is not saved: NaN or infinity in .*exp_avg_sq"):
            checkpoint.save(tmp_path / "run/again", kept)
        assert not (tmp_path / "run/again").exists()


def test_at_the_first_step_the_optimizer_goes_back_to_having_nothing(tiny_epsilon, image_folder, tmp_path):
    expected = by_hand("textual_inversion", tiny_epsilon, image_folder, tmp_path, [(draw, 0.5) for draw in range(1, STEPS + 1)])
    fault = InTheOptimizer(math.nan, draws=[0])
    run = Trained("textual_inversion", tiny_epsilon, image_folder, tmp_path / "run", fault, on_nan="retry")
    assert run.error is None and same(run.learned(), expected)


class AfterEachStep(InAWeight):
    """A learned number is `value` after the step that follows each of so many draws."""

    def after_step(self, state, metrics):
        if metrics.step == BAD and len(state.skipped_draws) < self.draws:
            self.tensor(state).detach().view(-1)[0] = self.value


@pytest.mark.parametrize("times", [*(pytest.param(times, marks=pytest.mark.slow) for times in (1, 2)), 3, 4])
@pytest.mark.parametrize("eight_bit", [False, True])
def test_a_fault_after_the_step_again_and_again(times, eight_bit, tiny_epsilon, image_folder, tmp_path):
    """Each time with the next draw at half the rate, until there were enough."""
    options = {"on_nan": "retry", "optimizer": "adamw_8bit" if eight_bit else "adamw"}
    run = Trained("textual_inversion", tiny_epsilon, image_folder, tmp_path / "run", AfterEachStep(math.nan, times), **options)
    left_out = [BAD] * min(times, IN_A_ROW)
    assert run.checkpoint(STEPS if times <= IN_A_ROW else BAD).state["left_out"] == left_out
    if times > IN_A_ROW:
        assert f"at step {BAD + 1}" in run.error
    else:
        assert run.error is None and run.log()[-1]["learning_rate"] == 1e-3 * 0.5**times
        if not eight_bit:
            draws = [(0, 1), (1, 1), *((draw + times, 0.5**times) for draw in range(BAD, STEPS))]
            assert same(run.learned(), by_hand("textual_inversion", tiny_epsilon, image_folder, tmp_path, draws))


def test_numbers_with_infinite_squares_are_named(tiny_epsilon, image_folder, tmp_path):
    run = Trained("lora", tiny_epsilon, image_folder, tmp_path / "run", InAWeight(1e30))
    [name] = [list(run.method.trainable_state_dict())[-1]]
    assert f"not finite after the step: {name} at step {BAD + 1}" in run.error
