"""Every way to cut a write off: killed or refused at each system call, or by a power cut. Afterwards the old or the new state
is there, whole, and the next write goes well."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from crash import CHANGING, UNSTEADY, Replay, calls, kill_at, refuse_at, strace_works
from test_checkpoint import example

from customize.storage import atomic, checkpoint, manifest
from customize.storage.checkpoint import Checkpoint

pytestmark = pytest.mark.skipif(not strace_works(), reason="needs strace, and the right to look at a child process")
ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS")
REMOVALS = ("unlink", "unlinkat", "rmdir")


@dataclass(frozen=True)
class Case:
    """A write into a folder. judge: "old" or "new", with an assertion that it is wholly one of the two."""

    prepare: Callable[[Path], object]
    write: Callable[[Path], object]
    judge: Callable[[Path], str]


def checkpoints(*steps: int) -> Callable[[Path], None]:
    return lambda folder: [checkpoint.save(folder / "checkpoints", example(step)) for step in steps] and None


def first(folder: Path) -> str:
    found = checkpoint.find(folder / "checkpoints", "latest", lambda line: None)
    return "new" if found else "old"


def another(folder: Path) -> None:
    state = Checkpoint(2, {"weight": torch.full((2, 3), -1.0)}, {"identity": {"seed": 1}})
    checkpoint.save(folder / "checkpoints", state)


def newest(old: float, new: float) -> Callable[[Path], str]:
    def judge(folder: Path) -> str:
        path = checkpoint.find(folder / "checkpoints", "latest", lambda line: None)
        assert path
        learned = checkpoint.load(path).learned["weight"]
        assert torch.equal(learned, torch.full((2, 3), learned[0, 0].item()))
        return {old: "old", new: "new"}[learned[0, 0].item()]

    return judge


def put_result(content: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        with atomic.new_entries(folder, unlisted=("README.md",)) as unfinished:
            for name in ("unet/weights", "embeds", "model_index.json", "README.md"):
                if name.startswith("unet"):
                    (unfinished / "unet").mkdir()
                (unfinished / name).write_text(f"{name} {content}")

    return put


def result(folder: Path) -> str:
    """As another program finds it: no mixture. As our next run finds it: whole."""
    names = ("unet/weights", "embeds", "model_index.json")
    seen = {(folder / name).read_text().rpartition(" ")[2] for name in names if (folder / name).exists()}
    assert len(seen) <= 1, seen
    atomic.recover(folder)
    assert not manifest.faults(folder, others=True)
    [content] = {(folder / name).read_text().rpartition(" ")[2] for name in (*names, "README.md")}
    return content


def one_file(folder: Path) -> str:
    return (folder / "file").read_text()


def pruned(folder: Path) -> str:
    steps = [path.name for path in checkpoint.every(folder / "checkpoints") if not checkpoint.faults(path)]
    assert steps[0] == "step-000003"
    return "new" if len(steps) == 1 else "old"


CASES = {
    "the first checkpoint": Case(lambda folder: None, checkpoints(1), first),
    "a checkpoint": Case(checkpoints(1, 2), checkpoints(3), newest(2, 3)),
    "a checkpoint again": Case(checkpoints(1, 2), another, newest(2, -1)),
    "pruning": Case(checkpoints(1, 2, 3), lambda folder: checkpoint.prune(folder / "checkpoints", 1), pruned),
    "a result": Case(put_result("old"), put_result("new"), result),
    "a file": Case(
        lambda folder: atomic.write_text(folder / "file", "old"),
        lambda folder: atomic.write_text(folder / "file", "new"),
        one_file,
    ),
}
WITHOUT_EXCHANGE = "a checkpoint again, by two renames"
ALL = [*CASES, WITHOUT_EXCHANGE]
LIKE_OTHERS = ("the first checkpoint", "a checkpoint again", WITHOUT_EXCHANGE)


def without(names: tuple[str, ...]) -> list:
    """The cases; those with these names are marked slow."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in names else name for name in ALL]


@pytest.fixture(params=without(LIKE_OTHERS[:1]))
def case(request, monkeypatch) -> Case:
    if request.param == WITHOUT_EXCHANGE:
        monkeypatch.setattr(atomic, "exchange", lambda one, other: False)
    return CASES["a checkpoint again" if request.param == WITHOUT_EXCHANGE else request.param]


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory, where flushes cost nothing."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def stage(case, place) -> Callable[[], Path]:
    """A function that gives a folder as it is before the write, each time the same and of the same name."""
    (place / "before").mkdir()
    case.prepare(place / "before")
    folder = place / "run"
    shutil.copytree(place / "before", folder)
    case.write(folder)  # once, so that no traced child imports anything

    def again() -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(place / "before", folder)
        return folder

    return again


def whole_afterwards(case: Case, folder: Path, expected: tuple[str, ...] = ("old", "new")) -> None:
    assert case.judge(folder) in expected
    atomic.recover(folder)
    assert atomic.leftovers(folder) == []
    case.write(folder)
    assert case.judge(folder) == "new" and atomic.leftovers(folder) == []


@pytest.mark.parametrize("which", [CHANGING, pytest.param((), marks=pytest.mark.slow)], ids=["changing", "every"])
def test_killed_at_each_system_call(case, stage, which):
    folder = stage()  # of the same name each time
    found = calls(lambda: case.write(folder), which)
    assert len(found) >= 5
    seen = set()
    for call in found:
        stage()
        assert kill_at(lambda: case.write(folder), call) == -9 or call[0] in UNSTEADY, call
        seen.add(case.judge(folder))
        whole_afterwards(case, folder)
    assert seen == {"old", "new"}


@pytest.mark.parametrize("case", without(LIKE_OTHERS), indirect=True)
@pytest.mark.parametrize("error", ["ENOSPC", *(pytest.param(error, marks=pytest.mark.slow) for error in ERRORS[1:])])
def test_refused_at_each_system_call(case, stage, error):
    folder = stage()  # of the same name each time
    for call in calls(lambda: case.write(folder), CHANGING):
        stage()
        status = refuse_at(lambda: case.write(folder), call, error)
        assert status == 3 or (status == 0 and call[0] == "renameat2"), (call, status)  # that one has a substitute
        case.judge(folder)
        after_all = case.judge(folder) == "new" or case is CASES["pruning"]  # then what is left is what was to go
        assert atomic.leftovers(folder) == [] or call[0] in REMOVALS or after_all, call
        whole_afterwards(case, folder)


@pytest.mark.parametrize(("subsets", "most"), [(5, 50), pytest.param(13, 3000, marks=pytest.mark.slow)])
def test_power_cut_at_each_moment(case, stage, place, subsets, most):
    """Of up to 5 changes that are not flushed, every subset; in the long test of all that there ever are at once."""
    folder = stage()
    replay = Replay(folder, lambda: case.write(folder))
    (place / "cuts").mkdir()
    assert subsets < 13 or max(len(replay.pending(moment)) for moment in range(replay.number + 1)) <= subsets
    seen = set()
    for state, ended in replay.states(place / "cuts", subsets, most, seed=0):
        seen.add(case.judge(state))
        whole_afterwards(case, state, ("new",) if ended else ("old", "new"))
    assert seen == {"old", "new"}
