"""Who reports, who receives: events reach the consumers of whoever started the job, and only the command line prints."""

import ast
from pathlib import Path

import pytest
from kit import settings_for

from customize import events
from customize.cli.terminal import Terminal
from customize.errors import InputError
from customize.events import (
    CheckpointSaved,
    DenoisingStep,
    Message,
    Phase,
    Progress,
    RunBegun,
    RunEnded,
    StepDone,
    Summary,
    TimeEstimate,
    TrainingEnded,
    TrainingStarted,
    ValidationImagesDrawn,
)
from customize.settings.inference import InferenceSettings

CUSTOMIZE = Path(__file__).parent.parent / "customize"
PRINTING = ("cli/", "__main__.py")
"""The command line, which has the consumer of events that prints."""


def prints_in(path: Path) -> list[int]:
    """The lines that print, or write to a standard stream."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and node.id == "print" or isinstance(node, ast.Attribute) and node.attr == "print":
            found.append(node.lineno)
        if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr") and getattr(node.value, "id", "") == "sys":
            found.append(node.lineno)
    return found


def test_only_the_command_line_prints():
    modules = [path for path in CUSTOMIZE.rglob("*.py") if "demo" not in path.parts and path.name != "streams.py"]
    assert len(modules) > 100
    printing = {str(path.relative_to(CUSTOMIZE)): prints_in(path) for path in modules}
    assert {path: lines for path, lines in printing.items() if lines and not path.startswith(PRINTING)} == {}
    assert prints_in(CUSTOMIZE / "cli/terminal.py")  # the search finds what it looks for


def test_events_go_to_the_innermost_consumers_in_their_order():
    outer, first, second = [], [], []
    events.note("nobody listens")
    with events.sent_to(outer.append):
        events.info("a")
        with events.sent_to(first.append, lambda event: second.append((len(first), event))):
            events.warn("b")
        with events.sent_to():
            events.note("nobody listens")
        events.note("c")
    events.note("nobody listens")
    assert outer == [Message("a"), Message("c", "note")] and first == [Message("b", "warning")]
    assert second == [(1, Message("b", "warning"))]


def test_consumers_are_left_after_an_exception():
    heard = []
    with pytest.raises(InputError), events.sent_to(heard.append):
        raise InputError([])
    events.note("nobody listens")
    assert heard == []


@pytest.mark.parametrize(
    ("event", "out", "err"),
    [
        (Message("seed: 3"), "seed: 3\n", ""),
        (Message("a is damaged", "note"), "note: a is damaged\n", ""),
        (Message("a stays", "warning"), "", "note: a stays\n"),
        (Message("disk full\n    -> make room\x1b[2J", "note"), "note: disk full\n    -> make room\\x1b[2J\n", ""),
        (Summary("started", (("base", "demo"), ("", "a toy"))), "base      demo\n          a toy\n", ""),
        (TimeEstimate(1200, 4, 90.0), "", "1,200 images, about 1 min 30 s (measured on the first 4)\n"),
        (DenoisingStep(3, 10), "", ""),
    ],
)
def test_what_the_terminal_prints(event, out, err, capsys):
    with Terminal() as terminal:
        terminal(event)
    assert capsys.readouterr() == (out, err)


def test_a_run_is_shown_as_it_goes(capsys):
    """The first line comes as soon as the time left is known, the last one at the end; others every half a minute."""
    with Terminal() as terminal:
        terminal(TrainingStarted(4, 7))
        terminal(StepDone(5, 7, 0.3, 0.2, 1.0, 1e-4, None, None))
        assert capsys.readouterr() == ("", "")
        terminal(StepDone(6, 7, 0.3, 0.25, 1.0, 1e-4, 3.0, 35.0))
        assert capsys.readouterr() == ("", "step 6 of 7: loss 0.2500, lr 1.00e-04, 3 s per step, 35 s left\n")
        terminal(StepDone(7, 7, 0.3, 0.5, 1.0, 1e-5, 3.0, 0.0))
        terminal(TrainingEnded(7))
    assert capsys.readouterr() == ("", "step 7 of 7: loss 0.5000, lr 1.00e-05, 3 s per step, under 1 s left\n")


def test_a_run_reports_its_stages_steps_checkpoints_and_images(tiny_epsilon, image_folder, tmp_path):
    import json

    from customize.training import preflight

    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", max_train_steps=4, validation_prompt=("a dog",))
    heard = []
    with events.sent_to(heard.append):
        preflight.run(settings.model_copy(update={"validation_steps": 2, "sample_inference_steps": 1}))
    assert [each.stage for each in heard if isinstance(each, Summary)] == ["started", "prepared", "saved", "finished"]
    steps = [each for each in heard if isinstance(each, StepDone)]
    logged = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    for name in ("step", "loss", "gradient_norm", "learning_rate"):
        assert [getattr(each, name) for each in steps] == [line[name] for line in logged]
    smoothed = steps[0].loss
    for each in steps:
        smoothed = 0.95 * smoothed + 0.05 * each.loss
        assert each.smoothed_loss == smoothed
    saved = [each for each in heard if isinstance(each, CheckpointSaved)]
    assert [(each.step, each.folder.name) for each in saved] == [(2, "step-000002"), (4, "step-000004")]
    drawn = [each for each in heard if isinstance(each, ValidationImagesDrawn)]
    assert [each.step for each in drawn] == [0, 2, 4] and all([*each.images] == ["a dog"] for each in drawn)
    order = [type(each) for each in heard if not isinstance(each, Message | Summary)]
    assert order[0] is RunBegun and order[-1] is RunEnded
    phases = [each.text for each in heard if isinstance(each, Phase)]
    assert phases[:2] == ["drawing samples", "drawing samples"] and phases[-2:] == ["saving a checkpoint", "saving the result"]
    order = [each for each in order if each not in (RunBegun, RunEnded, Phase)]
    assert order[0] is TrainingStarted and order[-1] is TrainingEnded


def test_class_images_are_counted_in_a_log(capsys):
    with Terminal() as terminal:
        for done in range(3):
            terminal(Progress("class images", "image", done, 2))
    assert capsys.readouterr() == ("", "class images: image 2 of 2\n")


def test_images_come_one_batch_after_another_and_nothing_is_written(tiny_epsilon, tmp_path, monkeypatch):
    """Each batch is generated when it is asked for, with the metadata of its images; the steps are reported meanwhile."""
    import json

    from customize.inference.run import command, generate

    monkeypatch.chdir(tmp_path)
    settings = InferenceSettings(
        pretrained_model_name_or_path=str(tiny_epsilon),
        prompt=["a dog"],
        num_images=3,
        batch_size=2,
        num_inference_steps=4,
        scheduler="DDIM",  # one evaluation a step
    )
    job, models, heard = command.check(settings), generate.PipelineCache(), []
    models.load(settings)
    with events.sent_to(heard.append):
        batches = generate.generate_batches(settings, job, models, lambda place: tmp_path / f"{place:03d}.png")
        assert heard == []
        first = next(batches)
        assert [*first.places] == [0, 1] and heard == [DenoisingStep(done, 8) for done in range(1, 5)]
        (second,) = batches
    assert [*second.places] == [2] and heard[-1] == DenoisingStep(8, 8)
    assert [json.loads(each["customize"])["settings"]["seed"] for each in (*first.texts, *second.texts)] == [0, 1, 2]
    assert list(tmp_path.iterdir()) == []
