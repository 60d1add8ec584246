"""In any order of steps, saves, kills, damage, resumes and pruning, a run resumes from the latest verified state."""

import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from customize.errors import InputError
from customize.storage import atomic, checkpoint
from customize.storage.checkpoint import Checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def state_of(step: int) -> Checkpoint:
    """The state after a step: a function of the step, as of a run that repeats itself bit for bit."""
    tensor = torch.full((3,), step / 7)
    return Checkpoint(step, {"weight": tensor}, {"optimizer": {"mean": tensor * 2}, "identity": {"seed": 0}})


def killed_at(number: int, action) -> bool:
    """Runs `action` in a child that is gone at its `number`-th operation on files; whether it came to its end."""
    if not (child := os.fork()):
        left = [number]

        def count(event: str, arguments: tuple) -> None:
            if event in ("open", "os.rename", "os.mkdir", "os.chmod", "os.remove", "os.rmdir", "shutil.rmtree"):
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)

        sys.addaudithook(count)
        action()
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


class Checkpoints(RuleBasedStateMachine):
    """model: what became of each checkpoint that was ever written, by step: True for whole, False for damaged."""

    @initialize()
    def begin(self) -> None:
        self.place = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        self.folder, self.step, self.model = self.place / "checkpoints", 0, {}
        self.foreign: set[int] = set()
        self.folder.mkdir()

    @rule(count=st.integers(1, 3))
    def train(self, count: int) -> None:
        self.step += count

    @rule()
    def save(self) -> None:
        checkpoint.save(self.folder, state_of(self.step))
        self.model[self.step] = True
        self.foreign.discard(self.step)  # without a record, a folder of that name is replaced

    @rule(number=st.integers(1, 45))
    def die_while_saving(self, number: int) -> None:
        done = killed_at(number, lambda: checkpoint.save(self.folder, state_of(self.step)))
        whole = not checkpoint.faults(self.folder / checkpoint.name(self.step))
        assert whole or (not done and self.model.get(self.step) is not True)
        if whole:
            self.model[self.step] = True
        if not (self.folder / checkpoint.name(self.step) / "more.bin").exists():
            self.foreign.discard(self.step)
        self.resume()

    @precondition(lambda self: self.model)
    @rule(keep=st.integers(1, 3), number=st.integers(1, 30))
    def die_while_pruning(self, keep: int, number: int) -> None:
        killed_at(number, lambda: checkpoint.prune(self.folder, keep))
        self.pruned(keep, wholly=False)
        self.resume()

    @precondition(lambda self: self.model)
    @rule(keep=st.integers(1, 3))
    def prune(self, keep: int) -> None:
        checkpoint.prune(self.folder, keep)
        self.pruned(keep, wholly=True)

    def pruned(self, keep: int, wholly: bool) -> None:
        """None but old whole ones is gone; the sizes of damaged ones tell, so that they do not count."""
        there = {checkpoint.step_of(path) for path in checkpoint.every(self.folder)}
        may_go = sorted((step for step, whole in self.model.items() if whole), reverse=True)[keep:]
        may_go = [step for step in may_go if step not in self.foreign]
        gone = self.model.keys() - there
        assert gone <= set(may_go) and (not wholly or gone == set(may_go))
        self.model = {step: whole for step, whole in self.model.items() if step in there}

    @precondition(lambda self: any(self.model.values()))
    @rule(dice=st.randoms(use_true_random=False), how=st.sampled_from(["cut", "remove", "grow", "extra"]))
    def corrupt(self, dice: random.Random, how: str) -> None:
        step = dice.choice([step for step, whole in self.model.items() if whole])
        own = (file for file in (self.folder / checkpoint.name(step)).iterdir() if file.name != "more.bin")
        file = dice.choice(sorted(own))
        data = file.read_bytes()
        if how == "extra":  # of the user: no fault, and no reason to remove it
            (file.parent / "more.bin").touch()
            self.foreign.add(step)
            return
        if how == "remove":
            file.unlink()
        else:
            file.write_bytes(data[:-1] if how == "cut" else data + b"x")
        self.model[step] = False

    @rule()
    def litter(self) -> None:
        for name in ("step-best", "step-99.zip", ".step-000001.1.unfinished"):
            (self.folder / name).mkdir(exist_ok=True)

    @rule()
    def claim(self) -> None:
        atomic.recover(self.place)
        assert atomic.leftovers(self.place) == []

    @rule()
    def resume(self) -> None:
        whole = [step for step, is_whole in self.model.items() if is_whole]
        output: list[str] = []
        if self.model and not whole:
            with pytest.raises(InputError) as caught:
                checkpoint.find(self.folder, "latest", output.append)
            assert len(caught.value.problems) == 1 + len(self.model)
            self.step = 0
            return
        path = checkpoint.find(self.folder, "latest", output.append)
        self.step = max(whole, default=0)
        assert len(output) == sum(step > self.step for step in self.model)
        if path is None:
            assert not whole
            return
        found, expected = checkpoint.load(path), state_of(self.step)
        assert found.step == self.step and torch.equal(found.learned["weight"], expected.learned["weight"])
        assert torch.equal(found.state["optimizer"]["mean"], expected.state["optimizer"]["mean"])

    @invariant()
    def the_latest_verified_is_there(self) -> None:
        for step, whole in getattr(self, "model", {}).items():
            assert (not checkpoint.faults(self.folder / checkpoint.name(step))) == whole

    def teardown(self) -> None:
        if hasattr(self, "place"):
            shutil.rmtree(self.place)


@pytest.mark.parametrize(("examples", "steps"), [(10, 15), pytest.param(300, 50, marks=pytest.mark.slow)], ids=["short", "long"])
def test_a_run_resumes_from_the_latest_verified_state(examples, steps):
    run_state_machine_as_test(
        Checkpoints, settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None, database=None)
    )
