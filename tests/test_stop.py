"""A callback may end a run early: the run has a result, a checkpoint and sample images like any other."""

import json

import pytest
import torch
from kit import parts_for, prepared, settings_for, train_loop, write_images
from safetensors.torch import load_file

from customize import events
from customize.storage import checkpoint
from customize.training import run
from customize.training.callbacks import Checkpoints, EveryNSteps
from customize.training.loop import Callback, Stop
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


@pytest.mark.parametrize("method, best", [("lora", None), ("lora", 2), ("textual_inversion", 2)])
def test_a_run_that_is_stopped_has_a_result(method, best, tiny_epsilon, image_folder, tmp_path):
    folder = tmp_path / "run"
    settings = settings_for(method, tiny_epsilon, image_folder, folder, checkpointing_steps=2)
    stop = StopAt(3, best)
    reported: list[events.Event] = []
    with events.sent_to(reported.append):
        run.run(settings, *check(settings), callbacks=[stop])
    assert events.Message("stopped after step 3 of 6: good enough") in reported
    [learned] = [text for each in reported for head, text in getattr(each, "rows", ()) if head == "learned"]
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


class Average:
    """A further part of the state: a moving average of the weights."""

    def __init__(self, method):
        self.method, self.tensors = method, {name: t.detach().clone() for name, t in method.trainable_state_dict().items()}

    def update(self):
        for name, tensor in self.method.trainable_state_dict().items():
            self.tensors[name].lerp_(tensor.detach(), 0.5)

    def state_dict(self):
        return dict(self.tensors)

    def load_state_dict(self, state):
        for name, tensor in state.items():
            self.tensors[name].copy_(tensor)

    def faults(self, saved, step):
        return [] if isinstance(saved, dict) and saved.keys() == self.tensors.keys() else ["the average"]


def test_a_further_part_is_saved_restored_and_compared_by_being_in_the_dictionary(
    tiny_epsilon, image_folder, tmp_path, monkeypatch
):
    """Nothing but `parts_of` knows of it."""
    from customize.training import loop, resumable, resume

    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run")

    def parts_with_average(method, optimizer, scaler):
        return {**resumable.parts_of(method, optimizer, scaler), "average": Average(method)}

    monkeypatch.setattr(loop, "parts_of", parts_with_average)

    class Updates(Callback):
        def after_step(self, state, metrics):
            state.parts["average"].update()

    def trained(steps, given=None):
        context, setup = prepared(settings, given.step if given else 0)
        state = train_loop(settings, setup, context.accelerator, steps, [Updates()], resume=given)
        return state, setup.method

    whole, _ = trained(4)
    half, _ = trained(2)
    saved = checkpoint.load(checkpoint.save(tmp_path, half.checkpoint()))
    resumed, method = trained(4, saved)
    for name, tensor in whole.parts["average"].tensors.items():
        assert torch.equal(tensor, resumed.parts["average"].tensors[name])
    with pytest.raises(Exception, match="the average"):
        without = checkpoint.Checkpoint(2, saved.learned, {k: v for k, v in saved.state.items() if k != "average"})
        resume.fitting(without, {**parts_for(method, settings), "average": Average(method)})
