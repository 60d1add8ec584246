"""A callback may end a run early: the run has a result, a checkpoint and sample images like any other."""

import json
from pathlib import Path

import pytest
import torch
from kit import prepared, settings_for, train_loop, write_images
from safetensors.torch import load_file

from customize import events
from customize.errors import InputError
from customize.storage import checkpoint
from customize.training import dry_run, resumable, run
from customize.training.callbacks import Checkpoints, EveryNSteps
from customize.training.loop import Callback, Stop
from customize.training.nan_guard import NanGuard
from customize.training.preflight import check


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("pictures"))


class StopAt(Callback):
    """Ends the run after a step; with the weights of an earlier one, if asked to."""

    def __init__(self, step, best=None):
        self.step, self.best, self.weights, self.finished = step, best, None, 0

    def after_step(self, state, metrics):
        if state.step == self.best:
            self.weights = {name: tensor.detach().clone() for name, tensor in state.method.trainable_state_dict().items()}
        return Stop("good enough", self.weights, self.best) if state.step == self.step else None

    def finish(self, state):
        self.finished += 1


def test_the_loop_ends_after_the_step_with_every_callback_called(tiny_epsilon, image_folder, tmp_path):
    settings = settings_for("textual_inversion", tiny_epsilon, image_folder, tmp_path / "run")
    context, setup = prepared(settings)
    acted = []
    stop, every = StopAt(3), EveryNSteps(2, lambda state: acted.append(state.step))
    (tmp_path / "run").mkdir()
    saves = Checkpoints(tmp_path / "run/checkpoints", 100, None)
    state = train_loop(settings, setup, context.accelerator, 6, [every, stop, saves])
    assert state.step == 3 and state.stop == Stop("good enough") and stop.finished == 1
    assert acted == [2, 3], "what happens after the last step happens after this one"
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-000003"]


@pytest.mark.parametrize(
    "method, best", [("lora", None), ("textual_inversion", 2), pytest.param("lora", 2, marks=pytest.mark.slow)]
)
def test_a_run_that_is_stopped_has_a_result(method, best, tiny_epsilon, image_folder, tmp_path):
    folder = tmp_path / "run"
    settings = settings_for(method, tiny_epsilon, image_folder, folder, checkpointing_steps=2)
    stop = StopAt(3, best)
    reported: list[events.Event] = []
    with events.sent_to(reported.append):
        run.run(settings, *check(settings), callbacks=[stop])
    assert events.Message("stopped after step 3 of 6: good enough") in reported
    [learned] = [text for each in reported for head, text in getattr(each, "rows", ()) if head == "trained"]
    assert "from 3 images in 3 steps" in learned
    about = json.loads((folder / "customize.json").read_text())
    assert about["steps"] == (best or 3)
    name = "pytorch_lora_weights.safetensors" if method == "lora" else "learned_embeds.safetensors"
    found = load_file(folder / name)
    last = checkpoint.load(folder / "checkpoints/step-000003").learned
    kept = checkpoint.load(folder / "checkpoints/step-000002").learned
    expected = kept if best else last
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    assert any(not torch.equal(last[key], kept[key]) for key in last)


def test_samples_and_card_are_those_of_the_chosen_weights(tiny_epsilon, image_folder, tmp_path):
    """A run that chose the weights of step 2 at step 3 shows what a run of two steps does."""
    prompt = {"validation_prompt": ("a photo of sks dog",), "sample_inference_steps": 2, "num_validation_images": 1}
    for name, steps, callbacks in (("chosen", 6, [StopAt(3, best=2)]), ("short", 2, [])):
        settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / name, max_train_steps=steps, **prompt)
        run.run(settings, *check(settings), callbacks=callbacks)
    chosen, short = tmp_path / "chosen", tmp_path / "short"
    assert (chosen / "before_after.png").read_bytes() == (short / "before_after.png").read_bytes()
    assert (chosen / "README.md").read_text() == (short / "README.md").read_text().replace("short", "chosen")
    drawn = {path.name: (path / "000.png").read_bytes() for path in (chosen / "samples").glob("step-*")}
    assert drawn.keys() == {"step-000000", "step-000002", "step-000003"} and drawn["step-000002"] != drawn["step-000003"]


class Count(Callback):
    """Notes each step."""

    def __init__(self):
        self.steps = []

    def after_step(self, state, metrics):
        self.steps.append(state.step)


def test_further_callbacks_see_a_run_and_change_no_bit(tiny_epsilon, image_folder, tmp_path):
    results = []
    for name, callbacks in (("with", [count := Count()]), ("without", [])):
        settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / name, max_train_steps=2)
        run.run(settings, *check(settings), callbacks=callbacks)
        results.append(load_file(tmp_path / name / "pytorch_lora_weights.safetensors"))
    assert count.steps == [1, 2]
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_other_weights_are_held_for_a_while(tiny_epsilon, image_folder, tmp_path):
    _, setup = prepared(settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run"))
    method = setup.method
    own = {name: tensor.detach().clone() for name, tensor in method.trainable_state_dict().items()}
    other = {name: tensor + 1 for name, tensor in own.items()}
    with pytest.raises(KeyboardInterrupt), method.holding(other):
        assert all(torch.equal(tensor, other[name]) for name, tensor in method.trainable_state_dict().items())
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, own[name]) for name, tensor in method.trainable_state_dict().items())


class Average(Callback):
    """A moving average of the trained weights, which becomes the result; a part of the state."""

    def parts(self, method):
        self.method, self.tensors = method, {name: t.detach().clone() for name, t in method.trainable_state_dict().items()}
        return {"average": self}

    def start(self, state):
        return Stop("averaged", self.tensors) if state.step == state.max_train_steps else None

    def after_step(self, state, metrics):
        for name, tensor in self.method.trainable_state_dict().items():
            self.tensors[name].lerp_(tensor.detach(), 0.5)
        return self.start(state)

    def state_dict(self):
        return dict(self.tensors)

    def load_state_dict(self, state):
        for name, tensor in state.items():
            self.tensors[name].copy_(tensor)

    def faults(self, saved, step):
        return [] if isinstance(saved, dict) and saved.keys() == self.tensors.keys() else ["the average"]


class Dies(Callback):
    """Ends the run by an error, in the step after so many or after a step."""

    def __init__(self, before=None, after=None):
        self.before, self.after = before, after

    def before_step(self, state, metrics):
        if state.step == self.before:
            raise KeyboardInterrupt

    def after_step(self, state, metrics):
        if state.step == self.after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def averaged(tiny_epsilon, image_folder, tmp_path_factory):
    """(settings of a run of four steps whose result is the average, its tensors), with a checkpoint of each step."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    settings = settings_for("lora", tiny_epsilon, image_folder, folder, max_train_steps=4, checkpointing_steps=1)
    run.run(settings, *check(settings), callbacks=[Average()])
    return settings, load_file(folder / "pytorch_lora_weights.safetensors")


def same_run(averaged, folder, **changes):
    """The settings of the same run in another folder."""
    return averaged[0].model_copy(update={"output_dir": str(folder), **changes})


def test_a_callback_brings_a_part_of_the_state(averaged, tmp_path):
    """The average of the weights that the checkpoints have is the result; a checkpoint and the plan of a run have it too."""
    settings, found = averaged
    planned = same_run(averaged, tmp_path / "planned")
    expected = {name: t.detach().clone() for name, t in prepared(planned)[1].method.trainable_state_dict().items()}
    for step in range(1, 5):
        saved = checkpoint.load(Path(settings.output_dir) / f"checkpoints/step-{step:06d}")
        for name, tensor in saved.learned.items():
            expected[name].lerp_(tensor, 0.5)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.state["average"].items())
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    sizes = dry_run.make(planned, *check(planned), callbacks=[Average()]).files.checkpoint
    written = Path(settings.output_dir) / "checkpoints/step-000004/state.safetensors"
    assert sizes[written.name] == written.stat().st_size


@pytest.mark.parametrize("moment", [{"before": 3}, {"after": 4}], ids=["in a step", "before the result is saved"])
def test_a_part_of_a_callback_is_resumed_to_the_same_bits(moment, averaged, tmp_path):
    settings = same_run(averaged, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run.run(settings, *check(settings), callbacks=[Average(), Dies(**moment)])
    assert not (tmp_path / "run/pytorch_lora_weights.safetensors").exists()
    settings = same_run(averaged, tmp_path / "run", resume_from_checkpoint="latest")
    run.run(settings, *check(settings), callbacks=[Average()])
    found = load_file(tmp_path / "run/pytorch_lora_weights.safetensors")
    assert all(torch.equal(tensor, found[name]) for name, tensor in averaged[1].items())


@pytest.mark.parametrize(
    ("first", "then", "what"),
    [(False, True, "has no state of average, a part"), (True, False, "has the state of average, a part")],
)
def test_a_checkpoint_with_other_parts_is_refused(first, then, what, averaged, tmp_path):
    settings = same_run(averaged, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run.run(settings, *check(settings), callbacks=[*[Average()] * first, Dies(after=1)])
    settings = same_run(averaged, tmp_path / "run", resume_from_checkpoint="latest")
    with pytest.raises(InputError, match=f"step-000001: {what}.*\n.*-> resume with the callbacks that the run was started with"):
        run.run(settings, *check(settings), callbacks=[Average()] * then)


def test_a_part_has_a_name_of_its_own(averaged, tmp_path):
    method = prepared(same_run(averaged, tmp_path / "run"))[1].method
    for name in ("weights", "step", "average"):
        with pytest.raises(InputError, match=f"has the name of another part: {name}"):
            resumable.parts_of(method, method.build_optimizer(averaged[0]), None, {"average": Average()}, {name: Average()})


class SpoilsAWeight(Callback):
    """Makes a trained weight NaN at one draw, once the step is done."""

    def after_step(self, state, metrics):
        if state.draw == 3:
            next(iter(state.method.trainable_state_dict().values())).data.fill_(torch.nan)


class CountsSteps(Callback):
    """Counts the steps, before each of them; the number is a part of the state."""

    def parts(self, method):
        self.steps = 0
        return {"steps": self}

    def before_step(self, state, metrics):
        self.steps += 1

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]

    def faults(self, saved, step):
        return []


def test_a_skipped_draw_leaves_the_parts_as_they_were(averaged, tmp_path):
    """The average is that of the steps that were kept, and so is the number."""
    settings = same_run(averaged, tmp_path / "run", on_nan="retry")
    context, setup = prepared(settings)
    callbacks = [SpoilsAWeight(), NanGuard("retry"), average := Average(), count := CountsSteps(), Checkpoints(tmp_path, 1, None)]
    expected = {name: t.detach().clone() for name, t in setup.method.trainable_state_dict().items()}
    state = train_loop(settings, setup, context.accelerator, 4, callbacks)
    assert state.skipped_draws == [2] and count.steps == 4
    for step in range(1, 5):
        for name, tensor in checkpoint.load(tmp_path / f"step-{step:06d}").learned.items():
            expected[name].lerp_(tensor, 0.5)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in average.tensors.items())
