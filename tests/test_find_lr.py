"""`customize find-lr`: the rule on curves whose answer is known, and the command on a tiny model."""

import json
from dataclasses import replace
from math import log10

import pytest
import torch
from kit import prepared, settings_for

from customize.__main__ import main
from customize.evaluation.studies.range_plot import svg
from customize.evaluation.studies.range_test import Curve, Point, end_of, suggestion


def curve(loss, decades=(-1.5, 2.0), every=0.125) -> Curve:
    """A curve of `loss(log10 of the factor)`, as far as the test would measure it."""
    found = Curve(1.0)
    for number in range(int((decades[1] - decades[0]) / every) + 1):
        place = decades[0] + number * every
        found = replace(found, points=(*found.points, Point(10**place, loss(place))))
        if ended := end_of(found):
            return replace(found, ended=ended)
    return found


def fall(middle: float, depth: float = 0.3):
    """A smooth fall by `depth` whose steepest place is `middle`: a logistic function."""
    return lambda place: 1 - depth / (1 + 10 ** (-3 * (place - middle)))


@pytest.mark.parametrize("middle", [-0.75, 0.0, 0.5])
def test_the_suggestion_is_a_tenth_of_the_rise_or_where_the_loss_falls_most_steeply(middle):
    flat = curve(fall(middle))
    assert flat.ended == "flat" and log10(suggestion(flat).factor) == pytest.approx(middle, abs=0.01)
    risen = curve(lambda place: fall(middle)(place) + (place > middle + 0.75))
    assert risen.ended == "risen" and log10(suggestion(risen).factor) == pytest.approx(middle + 0.875 - 1)
    assert suggestion(replace(risen, points=risen.points[:-1], ended="diverged")).factor == risen.points[-2].factor / 10


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (lambda place: 1.0, "does not fall at any"),
        (fall(-3.0), "at the lowest rate"),
        (lambda place: fall(-1.2)(place) + (place > -0.8), "rises near the lowest rate"),
        (fall(2.0), "still falls at the highest rate"),
        (lambda place: 1 + 10 ** (2 * place), "does not fall at any"),
    ],
)
def test_no_rate_is_suggested_where_none_follows(loss, why):
    found = curve(loss)
    assert suggestion(found).factor is None and why in suggestion(found).reason


def test_the_plot_marks_the_suggestion():
    drawn = svg(curve(fall(0.0)), 1e-4, 1e-4)
    (mark,) = [line for line in drawn.splitlines() if line.startswith("<line") and "dasharray" in line]
    tick = next(line for line in drawn.splitlines() if ">1e-4<" in line)
    assert mark.split('x1="')[1].split('"')[0] == tick.split('x="')[1].split('"')[0]


def test_the_command_measures_and_changes_nothing_else(tiny_epsilon, image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    from customize.training.studies import rate_finder

    monkeypatch.setattr(rate_finder, "STEPS", 14)
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", max_train_steps=14)
    (tmp_path / "config.toml").write_text(settings.to_toml())
    assert main(["find-lr", "config.toml", "--learning_rate", "0.02"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"config.toml", "runs"}
    values = json.loads((tmp_path / "runs/find-lr-0001/find_lr.json").read_text())
    assert (tmp_path / "runs/find-lr-0001/find_lr.svg").exists() and values["rates"] == {"learning_rate": [0.02]}
    factors = [factor for factor, _ in values["points"]]
    assert factors[0] == pytest.approx(10 ** (1 / 16) / 30) and factors[-1] == pytest.approx(10 ** (13 / 16) / 30)
    context, training = prepared(settings)
    batch = training.dataset.probe(8)
    with torch.no_grad():
        base = (training.method.eval().prediction(batch) - batch.noise).square().mean().item()
    assert values["before"] == pytest.approx(base, rel=1e-5)
    assert len({loss for _, loss in values["points"]}) == 7
    assert "suggested" in capsys.readouterr().out


def test_ctrl_c_keeps_what_was_measured(tiny_epsilon, image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    from customize.training.studies import rate_finder

    class Interrupted(rate_finder.Measuring):
        def after_step(self, state, metrics):
            super().after_step(state, metrics)
            if state.step == 4:
                raise KeyboardInterrupt

    monkeypatch.setattr(rate_finder, "Measuring", Interrupted)
    settings = settings_for("textual_inversion", tiny_epsilon, image_folder, tmp_path / "run")
    (tmp_path / "config.toml").write_text(settings.to_toml())
    assert main(["find_lr", "config.toml"]) == 130
    values = json.loads((tmp_path / "runs/find-lr-0001/find_lr.json").read_text())
    assert len(values["points"]) == 2 and values["ended"] == "interrupted" and values["suggested"] is None
    assert main(["find-lr", "config.toml", "--learning_rate", "twice", "--train_data_dir", "nowhere"]) == 2
    report = capsys.readouterr().err
    assert "learning_rate" in report and "nowhere" in report and not (tmp_path / "runs/find-lr-0002").exists()
