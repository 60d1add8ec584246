"""The time left is right from the second step on, whatever the first step, sample images and checkpoints take."""

import io
import re
import sys
from types import SimpleNamespace

import pytest

from customize.cli import progress_bar
from customize.cli.progress_bar import Bar
from customize.cli.terminal import time_left
from customize.training.callbacks import Checkpoints, EveryNSteps, Pace, Progress, times_left
from customize.training.loop import Callback, StepMetrics

SECONDS = {"s": 1, "min": 60, "h": 3600, "days": 86400}


class Time:
    """A clock that advances on request."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def passes(self, seconds: float) -> None:
        self.now += seconds


class Output(io.StringIO):
    def isatty(self) -> bool:
        return False


def simulate(clock, monkeypatch, steps, step, first, sample=0.0, every=100, checkpoint=0.0, checkpointing=500, begin=0):
    """Runs the callbacks of a run whose parts take so many seconds; returns (step, estimated seconds, actual seconds)."""
    state = SimpleNamespace(
        step=begin, max_train_steps=steps, sound=True, stop=None, model=None, accelerator=SimpleNamespace(is_main_process=True)
    )
    samples = EveryNSteps(every, lambda state: clock.passes(sample), at_start=True)
    saves = Checkpoints(None, checkpointing, None)
    monkeypatch.setattr(saves, "start", lambda state: setattr(saves, "saved", state.step))
    state.checkpoint = lambda: None
    monkeypatch.setattr("customize.storage.checkpoint.save", lambda *given: clock.passes(checkpoint))
    monkeypatch.setattr("customize.storage.checkpoint.prune", lambda *given: None)
    callbacks: list[Callback] = []
    bar = Progress(callbacks)
    callbacks += [bar, samples, saves]
    told_at, real = {}, {}
    for callback in callbacks:
        callback.start(state)
    for number in range(begin + 1, steps + 1):
        seconds = first if number == begin + 1 else step(number)
        clock.passes(seconds)
        state.step = number
        for callback in callbacks:
            callback.after_step(state, StepMetrics(number - 1, 0.5, 1.0, 1e-4, (), seconds))
            if callback is bar:
                real[number] = clock.now
                others = sum(each.time_left(state) for each in callbacks)
                told_at[number] = bar.pace.left(steps - number, others)
    for callback in callbacks:
        callback.finish(state)
    return [(number, told_at[number], clock.now - real[number]) for number in real]


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(dict(steps=120, step=lambda n: 0.3, first=0.3), id="even steps"),
        pytest.param(dict(steps=120, step=lambda n: 0.3, first=40.0), id="a first step that compiles for 40 s"),
        pytest.param(dict(steps=120, step=lambda n: 0.3, first=1.0, sample=60.0, every=60), id="samples of a minute"),
        pytest.param(dict(steps=800, step=lambda n: 0.25 + 0.01 * (n % 3), first=9.0, sample=20.0), id="uneven steps"),
        pytest.param(dict(steps=125, step=lambda n: 2.0, first=3.0, sample=5.0, every=50, checkpoint=1.0, checkpointing=50),
                     id="the last step is no multiple"),
        pytest.param(dict(steps=1000, step=lambda n: 0.5, first=0.5, checkpoint=8.0, checkpointing=500), id="checkpoints"),
        pytest.param(dict(steps=3, step=lambda n: 70.0, first=300.0, sample=10.0, every=1), id="three steps"),
        pytest.param(dict(steps=120, step=lambda n: 1.0, first=30.0, begin=60, every=100), id="a resumed run"),
        pytest.param(dict(steps=2000, step=lambda n: 86.0, first=90.0, sample=1800.0, every=1000), id="days on a CPU"),
    ],
)  # fmt: skip
def test_time_left_is_within_a_tenth_from_the_second_step_on(run, monkeypatch):
    found = simulate(Time(monkeypatch), monkeypatch, **run)
    assert found[0][1] is None, "one step says nothing yet"
    for number, estimate, real in found[1:]:
        assert estimate == pytest.approx(real, rel=0.1, abs=1e-9), number


def test_the_remaining_number_of_events():
    def left(step, last, every):
        return times_left(SimpleNamespace(step=step, max_train_steps=last), every)

    for last in (1, 5, 6, 12):
        for every in (1, 2, 5, 6, 7, 100):
            due = [step for step in range(1, last + 1) if step % every == 0 or step == last]
            for step in range(1, last + 1):
                assert left(step, last, every) == len([each for each in due if each >= step]), (step, last, every)


def test_a_log_gets_a_line_now_and_then_and_no_bar(monkeypatch, capsys, terminal):
    clock = Time(monkeypatch)
    simulate(clock, monkeypatch, steps=200, step=lambda n: 1.0, first=5.0)
    written = capsys.readouterr().err
    lines = written.splitlines()
    assert "\r" not in written and 6 <= len(lines) <= 9
    assert lines[0] == "step 2 of 200: loss 0.5000, lr 1.00e-04, 1 s per step, 3 min 18 s left"
    assert lines[-1].startswith("step 200 of 200: loss 0.5000") and lines[-1].endswith("under 1 s left")
    steps = [int(re.match(r"step (\d+) of 200", line)[1]) for line in lines]
    assert all(30 <= after - before <= 31 for before, after in zip(steps[1:-2], steps[2:-1], strict=True))


def test_a_short_job_prints_one_line(monkeypatch, capsys):
    Time(monkeypatch)
    with Bar(3, "image", "class images") as bar:
        for _ in range(3):
            bar.update()
    assert capsys.readouterr().err == "class images: image 3 of 3\n"


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch):
    monkeypatch.setattr(sys, "stderr", output := Output())
    output.isatty = lambda: True
    monkeypatch.setattr(progress_bar, "tqdm", lambda **given: made.append(FakeBar(given)) or made[-1])
    made = []
    with Bar(10, "step", initial=4) as bar:
        bar.update(text="loss 0.5, 12 s left")
    assert made[0].given["total"] == 10 and made[0].given["initial"] == 4 and "remaining" not in made[0].given["bar_format"]
    assert made[0].texts == ["loss 0.5, 12 s left"] and made[0].count == 1 and made[0].closed


class FakeBar:
    def __init__(self, given):
        self.given, self.texts, self.count, self.closed = given, [], 0, False

    def set_postfix_str(self, text, refresh):
        self.texts.append(text)

    def update(self, number):
        self.count += number

    def close(self):
        self.closed = True


@pytest.mark.parametrize("gone", [None, "closed"])
def test_the_bar_is_not_drawn_without_a_terminal(gone, monkeypatch):
    class Closed(Output):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", None if gone is None else Closed())
    with Bar(2, "step") as bar:
        bar.update(line=True)
        bar.update(line=True)
    assert bar.done == 2


def test_a_pace_forgets_the_first_step_and_what_is_long_ago():
    pace = Pace()
    assert pace.seconds is None and pace.left(5) is None
    pace.step(100.0)
    assert pace.seconds is None and pace.left(5) is None
    for _ in range(100):
        pace.step(1.0)
    for _ in range(100):
        pace.step(3.0)
    assert pace.seconds == 3.0 and pace.left(10, 5.0) == 35.0
    assert time_left(pace.seconds, pace.left(10, 5.0)) == "3 s per step, 35 s left" and time_left(None, None) == ""
