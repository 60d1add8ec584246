"""The course of a run is compared as it comes out: other words for it are the same run, another one is refused by name."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from kit import parts_for, prepared, settings_for, train_loop, write_images

from customize.errors import InputError
from customize.storage import checkpoint, manifest
from customize.storage.checkpoint import Checkpoint
from customize.training.loop import Callback
from customize.training.preflight import check
from customize.training.resume import differences, find_checkpoint, fitting, identity


def identity_of(settings, num_processes: int = 1) -> dict:
    _, source, examples = check(settings)
    return identity(settings, source, examples, num_processes)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Four images to learn from, and four of the class."""
    folder = tmp_path_factory.mktemp("images")
    return write_images(folder / "mine", 4), write_images(folder / "class", 4, seed=1)


OF_LORA = {"adapter": "lora", "rank": 4, "lora_alpha": 2.0}
PRIOR = {"prior_preservation": "images", "class_prompt": "a photo of dog", "num_class_images": 4}
EPOCHS = {"max_train_steps": None, "num_train_epochs": 2}
SAME = {
    "epochs for steps": ({"max_train_steps": 8}, EPOCHS),
    "epochs for steps, with a curve": ({"max_train_steps": 8, "lr_scheduler": "cosine"}, {**EPOCHS, "lr_scheduler": "cosine"}),
    "repeats for epochs": (
        {**EPOCHS, "lr_scheduler": "linear"}, {**EPOCHS, "num_train_epochs": 1, "repeats": 2, "lr_scheduler": "linear"}
    ),
    "a constant rate, longer": ({"max_train_steps": 8}, {"max_train_steps": 12}),
    "a warm-up to a constant rate, longer": (
        {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 2},
        {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 2, "max_train_steps": 9},
    ),
    "a warm-up of none": ({"lr_scheduler": "constant_with_warmup"}, {"lr_scheduler": "constant"}),
    "a warm-up where there is none": ({}, {"lr_warmup_steps": 3}),
    "waves of a curve without": ({"lr_scheduler": "cosine"}, {"lr_scheduler": "cosine", "lr_num_cycles": 3, "lr_power": 2.0}),
    "scaled and scaled by hand": (
        {"scale_lr": True, "train_batch_size": 2, "learning_rate": 1e-3}, {"train_batch_size": 2, "learning_rate": 2e-3}
    ),
    "the model's own resolution": ({}, {"resolution": 16}),
    "the model's own prediction": ({}, {"prediction_type": "epsilon"}),
    "crops where none are made at random": ({"center_crop": True}, {"center_crop": True, "crop_variants": 7}),
    "samples": ({}, {"validation_prompt": ("a dog",), "sample_guidance_scale": 3.0, "sample_inference_steps": 3}),
    "trackers and checkpoints": ({}, {"report_to": ("tensorboard",), "checkpointing_steps": 1, "checkpoints_total_limit": 1}),
    "intermediate weights": ({}, {"save_steps": 1}),
    "a cache": ({}, {"latents_cache_dir": "cache"}),
    "what becomes of NaN": ({}, {"on_nan": "retry"}),
    "captions by prompt, as there are no files": ({"captions": "auto"}, {"captions": "prompt"}),
    "alpha, which is the rank": ({**OF_LORA, "lora_alpha": None}, {**OF_LORA, "lora_alpha": 4.0}),
    "targets in another order": (
        {**OF_LORA, "lora_targets": ("attention", "feed-forward")},
        {**OF_LORA, "lora_targets": ("feed-forward", "attention", "attention")},
    ),
    "the text encoder's own rate, the same": (
        {"train_text_encoder": True}, {"train_text_encoder": True, "text_encoder_learning_rate": (1e-3,)}
    ),
    "how class images would be drawn": (PRIOR, {**PRIOR, "sample_batch_size": 1, "prior_generation_precision": "fp32"}),
}  # fmt: skip


@pytest.mark.parametrize(("first", "second"), SAME.values(), ids=SAME)
def test_equivalent_settings_are_the_same_run(first, second, tiny_epsilon, images, tmp_path):
    mine, of_class = images
    first, second = (
        {"max_train_steps": 8, **each, **({"class_data_dir": str(of_class)} if "class_prompt" in each else {})}
        for each in (first, second)
    )
    settings = [settings_for("full", tiny_epsilon, mine, tmp_path / "run", **each) for each in (first, second)]
    before, after = map(identity_of, settings)
    assert differences(before, after) == differences(after, before) == []


COSINE = {"lr_scheduler": "cosine"}
OTHER = {
    "a longer curve": (COSINE, {**COSINE, "max_train_steps": 24}, {"max_train_steps": (8, 24)}),
    "a longer curve by epochs": ({**COSINE, **EPOCHS}, {**COSINE, **EPOCHS, "num_train_epochs": 6}, {"max_train_steps": (8, 24)}),
    "a curve by epochs of more repeats": ({**COSINE, **EPOCHS}, {**COSINE, **EPOCHS, "repeats": 3}, {"max_train_steps": (8, 24)}),
    "a larger batch, by epochs": (
        {**COSINE, **EPOCHS}, {**COSINE, **EPOCHS, "train_batch_size": 4}, {"max_train_steps": (8, 2), "train_batch_size": (1, 4)}
    ),
    "another curve": (COSINE, {"lr_scheduler": "linear"}, {"lr_scheduler": ("cosine", "linear")}),
    "a curve for a constant": ({}, COSINE, {"lr_scheduler": ("constant", "cosine"), "max_train_steps": (None, 8)}),
    "a longer warm-up": (
        {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 2},
        {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 3},
        {"lr_warmup_steps": (2, 3)},
    ),
    "more waves": (
        {"lr_scheduler": "cosine_with_restarts"}, {"lr_scheduler": "cosine_with_restarts", "lr_num_cycles": 2},
        {"lr_num_cycles": (1, 2)},
    ),
    "another power": ({"lr_scheduler": "polynomial"}, {"lr_scheduler": "polynomial", "lr_power": 2.0}, {"lr_power": (1.0, 2.0)}),
    "a scaled rate": ({"train_batch_size": 2}, {"train_batch_size": 2, "scale_lr": True}, {"learning_rate": (1e-3, 2e-3)}),
    "accumulation for a batch": (
        {"train_batch_size": 2}, {"gradient_accumulation_steps": 2},
        {"train_batch_size": (2, 1), "gradient_accumulation_steps": (1, 2)},
    ),
    "another seed": ({}, {"seed": 4}, {"seed": (3, 4)}),
    "another resolution": ({}, {"resolution": 32}, {"resolution": (16, 32)}),
    "another prediction": ({}, {"prediction_type": "v_prediction"}, {"prediction_type": ("epsilon", "v_prediction")}),
    "another rate of the text encoder": (
        {"train_text_encoder": True}, {"train_text_encoder": True, "text_encoder_learning_rate": (1e-4,)},
        {"text_encoder_learning_rate": (1e-3, 1e-4)},
    ),
    "another rank": (OF_LORA, {**OF_LORA, "rank": 8}, {"rank": (4, 8)}),
    "another dropout": (OF_LORA, {**OF_LORA, "lora_dropout": 0.1}, {"lora_dropout": (0.0, 0.1)}),
    "another class prompt": (PRIOR, {**PRIOR, "class_prompt": "a cat"}, {"class_prompt": ("a photo of dog", "a cat")}),
    "no prior any more": (PRIOR, {}, {"prior_preservation": ("images", "none")}),
    "fewer class images": (PRIOR, {**PRIOR, "num_class_images": 3}, {"num_class_images": (4, 3)}),
    "a weight decay": ({}, {"adam_weight_decay": 0.0}, {"adam_weight_decay": (0.01, 0.0)}),
    "dropped captions": ({}, {"caption_dropout": 0.1}, {"caption_dropout": (0.0, 0.1)}),
}  # fmt: skip


@pytest.mark.parametrize(("first", "second", "named"), OTHER.values(), ids=OTHER)
def test_other_settings_are_refused_by_name(first, second, named, tiny_epsilon, images, tmp_path):
    mine, of_class = images
    first, second = (
        {"max_train_steps": 8, **each, **({"class_data_dir": str(of_class)} if "class_prompt" in each else {})}
        for each in (first, second)
    )
    before, after = (identity_of(settings_for("full", tiny_epsilon, mine, tmp_path / "run", **each)) for each in (first, second))
    found = {problem.where: problem for problem in differences(before, after)}
    assert found.keys() >= named.keys()
    for name, values in named.items():
        assert found[name].what == f"was {values[0]!r} in the run to resume, is {values[1]!r} now"
    if set(named) <= {"max_train_steps", "lr_scheduler", "learning_rate", "lr_warmup_steps", "lr_num_cycles", "lr_power"}:
        assert found.keys() == named.keys() and all("--change_learning_rate" in each.remedy for each in found.values())


def test_more_processes_are_another_run(tiny_epsilon, images, tmp_path):
    settings = settings_for("full", tiny_epsilon, images[0], tmp_path / "run", **EPOCHS, **COSINE)
    found = differences(identity_of(settings), identity_of(settings, 2))
    assert [problem.where for problem in found] == ["max_train_steps", "num_processes"]


def test_class_images_are_known_by_what_is_in_them(tiny_epsilon, images, tmp_path):
    """Images may be moved; another image, a changed one and a missing one of a complete set are reported by name."""
    mine, of_class = images
    folder = shutil.copytree(of_class, tmp_path / "class")

    def now(place):
        return identity_of(settings_for("full", tiny_epsilon, mine, tmp_path / "run", **PRIOR, class_data_dir=str(place)))

    before = now(folder)
    moved = folder.rename(tmp_path / "moved")
    assert differences(before, now(moved)) == []
    shutil.copy(mine / "0.png", moved / "2.png")
    (problem,) = differences(before, now(moved))
    assert (problem.where, problem.what) == (
        "class_data_dir", "contains images that differ from those of the run to resume: 2.png",
    )  # fmt: skip
    (moved / "2.png").unlink()
    assert differences(before, now(moved)) == []  # it can be drawn again, and is compared then
    shutil.copy(mine / "0.png", moved / "1.png")
    assert "1.png" in differences(before, now(moved))[0].what


def trained(settings, resume: Checkpoint | None = None):
    context, training = prepared(settings, resume.step if resume else 0)
    resume = resume and fitting(resume, parts_for(training.method, settings))
    steps, scale = context.max_train_steps, context.learning_rate_scale
    state = train_loop(settings, training, context.accelerator, steps, scale=scale, resume=resume)
    made = state.checkpoint()
    tensors = {name: tensor.detach().clone() for name, tensor in made.learned.items()}
    return replace(made, learned=tensors)


SELDOM = ["a warm-up of none", "alpha, which is the rank", "the text encoder's own rate, the same"]
ALIKE = ["epochs for steps, with a curve", "scaled and scaled by hand", "targets in another order"]


@pytest.mark.parametrize("name", [*ALIKE, *(pytest.param(name, marks=pytest.mark.slow) for name in SELDOM)])
def test_equivalent_settings_resume_to_the_same_bits(name, tiny_epsilon, images, tmp_path):
    """Half of the run in the first words, the rest in the others, beside the whole in the first."""
    first, second = ({"max_train_steps": 8, "adapter": "lora", "rank": 4, **each} for each in SAME[name])
    words = [settings_for("full", tiny_epsilon, images[0], tmp_path / "run", **each) for each in (first, second)]
    whole, stop = trained(words[0]), None

    class Halfway(Callback):
        def after_step(self, state, metrics):
            nonlocal stop
            if state.step == 4:
                made = state.checkpoint()
                stop = checkpoint.load(checkpoint.save(tmp_path / "checkpoints", made))
                raise KeyboardInterrupt

    context, training = prepared(words[0])
    with pytest.raises(KeyboardInterrupt):
        train_loop(words[0], training, context.accelerator, 8, [Halfway()], scale=context.learning_rate_scale)
    rest = trained(words[1], stop)
    assert rest.step == whole.step == 8
    assert all(torch.equal(rest.learned[key], whole.learned[key]) for key in whole.learned)


@pytest.fixture
def stopped(tiny_epsilon, images, tmp_path):
    """(a run's folder with checkpoints of steps 2 and 4, its settings)."""
    settings = settings_for("lora", tiny_epsilon, images[0], tmp_path / "run", max_train_steps=6, resume_from_checkpoint="latest")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.toml").write_text("")
    for step in (2, 4):
        state = {"identity": identity_of(settings), "optimizer": {"state": {}}, "left_out": []}
        checkpoint.save(tmp_path / "run/checkpoints", Checkpoint(step, {"x": torch.full((2,), float(step))}, state))
    return tmp_path / "run", settings


def found(stopped, wanted="latest", steps=6, **changes):
    folder, settings = stopped
    settings = settings.model_copy(update={"resume_from_checkpoint": wanted, **changes})
    messages: list[str] = []
    return find_checkpoint(settings, folder, same := identity_of(settings), messages.append, steps), messages, same


def refusal(*args, **changes) -> str:
    with pytest.raises(InputError) as caught:
        found(*args, **changes)
    return str(caught.value)


def test_a_renamed_checkpoint_has_the_step_of_its_content(stopped):
    folder = stopped[0] / "checkpoints"
    (folder / "step-000004").rename(folder / "step-000009")
    resume, messages, _ = found(stopped)
    assert resume.step == 2 and messages[0] == "skipped checkpoint step-000009: contains step 4: the folder was renamed"
    resume, messages, _ = found(stopped, "step-000009")
    assert resume.step == 4 and resume.learned["x"].tolist() == [4, 4] and messages[-1].startswith("resuming after step 4 (")
    (folder / "step-000009").rename(stopped[0].parent / "my best one")
    assert found(stopped, str(stopped[0].parent / "my best one"))[0].step == 4
    (folder / "step-000002").rename(folder / "step-000003")
    assert "contains step 2: the folder was renamed" in refusal(stopped)


def test_a_renamed_checkpoint_is_neither_counted_nor_removed(stopped):
    folder = stopped[0] / "checkpoints"
    (folder / "step-000002").rename(folder / "step-000009")
    state = checkpoint.load(folder / "step-000004").state
    checkpoint.save(folder, Checkpoint(6, {"x": torch.ones(2)}, state))
    checkpoint.prune(folder, 1)
    assert sorted(path.name for path in folder.iterdir()) == ["step-000006", "step-000009"]


def test_a_checkpoint_of_an_earlier_version_is_refused(stopped):
    path = stopped[0] / "checkpoints/step-000004"
    tree = json.loads((path / "state.json").read_text())
    assert tree["items"][0] == ["step", 4]
    (path / "state.json").write_text(json.dumps({"items": tree["items"][1:]}))
    manifest.write(path)
    assert "does not contain its step: it was written by an earlier version of this program" in refusal(stopped)


def test_a_missing_checkpoint_lists_the_existing_ones(stopped):
    assert "step-000004, step-000002" in refusal(stopped, "step-000003")


def test_a_run_cannot_end_before_the_step_it_resumes_from(stopped):
    messages = refusal(stopped, steps=3)
    assert "max_train_steps: is 3, but " in messages and "step-000004 is of step 4" in messages
    assert found(stopped, steps=4)[0].step == 4


def test_an_optimizer_of_other_steps_is_refused(tiny_epsilon, images, tmp_path):
    settings = settings_for("lora", tiny_epsilon, images[0], tmp_path / "run", max_train_steps=2)
    made = trained(settings)
    method = prepared(settings)[1].method
    assert fitting(made, parts_for(method, settings)).step == 2
    with pytest.raises(InputError, match="an optimizer that has not done 9 steps"):
        fitting(replace(made, step=9), parts_for(method, settings))


def test_another_learning_rate_on_request(stopped):
    assert "learning_rate: was 0.001 in the run to resume, is 0.0005 now" in refusal(stopped, learning_rate=5e-4)
    changes = {"learning_rate": 5e-4, "lr_scheduler": "linear", "change_learning_rate": True}
    resume, messages, same = found(stopped, **changes)
    assert resume.step == 4 and "note: learning_rate was 0.001 up to step 4, is 0.0005 from then on" in messages
    assert same["changes"] == [
        [4, "learning_rate", 0.001, 0.0005], [4, "lr_scheduler", "constant", "linear"], [4, "max_train_steps", None, 6],
    ]  # fmt: skip
    assert "seed: was 3" in refusal(stopped, seed=4, change_learning_rate=True)
    messages = refusal(stopped, "step-000002", **changes)
    assert "changes the learning rate after step 2, but step-000004 in " in messages and "move them away first" in messages
    assert found(stopped, "step-000002", change_learning_rate=True)[2]["changes"] == []


@pytest.mark.parametrize(
    ("length", "warmup", "steps"),
    [
        ({"max_train_steps": 8}, 8, 8), (EPOCHS, 8, 8), (EPOCHS, 500, 8), ({**EPOCHS, "repeats": 2}, 16, 16),
        ({**EPOCHS, "train_batch_size": 3}, 4, 4), ({**EPOCHS, "gradient_accumulation_steps": 4}, 2, 2),
    ],
)  # fmt: skip
def test_a_warm_up_longer_than_the_run_is_refused_by_any_length(length, warmup, steps, tiny_epsilon, images, tmp_path):
    def run(warmup_steps):
        changes = {**length, "lr_scheduler": "cosine", "lr_warmup_steps": warmup_steps}
        return check(settings_for("lora", tiny_epsilon, images[0], tmp_path / "run", **changes))

    run(steps - 1)
    with pytest.raises(InputError) as caught:
        run(warmup)
    (problem,) = caught.value.problems
    assert problem.where == "lr_warmup_steps"
    assert problem.what == f"{warmup} of {steps} steps: the learning rate would never reach its full value"


def test_two_processes_halve_an_epoch(tiny_epsilon, images, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    changes = {**EPOCHS, "lr_scheduler": "cosine", "lr_warmup_steps": 4}
    with pytest.raises(InputError, match="4 of 4 steps"):
        check(settings_for("lora", tiny_epsilon, images[0], tmp_path / "run", **changes))
