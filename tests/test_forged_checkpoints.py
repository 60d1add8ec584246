"""Checkpoints whose manifest holds, though no run made them: each is refused in words, and nothing of it is run or used."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import corpus
import pytest
import torch
from kit import parts_for, prepared, settings_for
from safetensors.torch import load_file, save_file
from whole_runs import LATEST, Run

from customize.errors import InputError
from customize.optim.optimizer_state import is_state_of
from customize.storage import checkpoint, manifest
from customize.training.resume import find_checkpoint, fitting

FILES = ("learned.safetensors", "state.safetensors", "state.json")
NAME = "step-000002"

WRAPPED = "__bnb_optimizer_quant_state__"


@pytest.fixture(scope="module")
def run(server, tiny_epsilon, image_folder, tmp_path_factory) -> Run:
    """A LoRA's run of 2 steps that is to have 4."""
    run = Run(server, tmp_path_factory.mktemp("forged"), "lora", tiny_epsilon, image_folder, max_train_steps=2)
    assert run()[0] == 0
    return run


@pytest.fixture
def forged(run, tmp_path) -> Path:
    """A copy of the run's folder without its result."""
    folder = shutil.copytree(run.folder, tmp_path / "run")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    return folder


def vouch(folder: Path) -> Path:
    """Makes the manifest hold; returns the checkpoint."""
    path = folder / "checkpoints" / NAME
    manifest.write(path)
    assert checkpoint.faults(path) == ""
    return path


def refusal(run: Run, folder: Path) -> str:
    """The report on the checkpoint before a model is loaded."""
    path = vouch(folder)
    settings = settings_for("lora", Path("base"), Path("pictures"), folder, resume_from_checkpoint="latest")
    same = checkpoint.load(run.folder / "checkpoints" / NAME).state["identity"]
    with pytest.raises(InputError) as caught:
        find_checkpoint(settings, folder, same, print)
    (problem,) = caught.value.problems
    assert problem.where == str(path) and problem.what.isprintable() and problem.remedy
    assert "matches its manifest, but does not contain the state of a run (" in problem.what
    return problem.what


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind(run, forged, tmp_path, name):
    file = forged / "checkpoints" / NAME / name
    for kind, content in corpus.pickles(tmp_path / "CANARY").items():
        file.write_bytes(content)
        output = refusal(run, forged)
        assert "is a pickle" in output or name == "state.json" or kind in ("protocol 0", "protocol 1")
    for content in (b"", b"\xff\xfe", b"[" * 200_000, b"{}", b"<!DOCTYPE html>"):
        file.write_bytes(content)
        refusal(run, forged)
    file.unlink()
    assert "No such file" in refusal(run, forged)
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("fault", corpus.bad_safetensors())
def test_bad_safetensors(run, forged, fault):
    content, cause = corpus.bad_safetensors()[fault]
    for name in FILES[:2]:
        whole = (forged / "checkpoints" / NAME / name).read_bytes()
        (forged / "checkpoints" / NAME / name).write_bytes(content)
        assert cause in refusal(run, forged)
        (forged / "checkpoints" / NAME / name).write_bytes(whole)


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_invalid_numbers(run, forged, name, value):
    file = forged / "checkpoints" / NAME / name
    tensors = load_file(file)
    next(tensor for tensor in tensors.values() if tensor.numel() > 4).view(-1)[2] = value
    save_file(tensors, file)
    assert "NaN or infinity in 1 of " in refusal(run, forged)


TREES = (
    [], 7, None, "x", {}, {"items": 7}, {"items": [[1]]}, {"items": [[[], 1]]}, {"tensor": "unknown"}, {"tensor": []},
    {"items": []}, {"tensor": "state/optimizer/state/0/exp_avg"},
)  # fmt: skip


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_a_state_of_another_form(run, forged, tree):
    (forged / "checkpoints" / NAME / "state.json").write_text(json.dumps(tree))
    refusal(run, forged)


VALUES = (
    7, None, "x", [1.5], ["x"], [3], [-1], [True], {"items": [[1, 2]]}, {"items": [["pictures", 7]]},
    {"items": [["versions", []]]}, {"items": [["seed", {"tensor": "state/optimizer/state/0/exp_avg"}]]},
)  # fmt: skip


@pytest.mark.parametrize("entry", ["identity", "left_out"])
@pytest.mark.parametrize("value", VALUES, ids=str)
def test_an_entry_of_another_form(run, forged, entry, value):
    file = forged / "checkpoints" / NAME / "state.json"
    items = [[name, old] for name, old in json.loads(file.read_text())["items"] if name != entry]
    file.write_text(json.dumps({"items": [*items, [entry, value]]}))
    refusal(run, forged)


@pytest.fixture(scope="module")
def resumed(run, tiny_epsilon, image_folder, tmp_path_factory):
    """(the checkpoint as it was made, the method that it is for, its settings)."""
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path_factory.mktemp("resumed"))
    return checkpoint.load(run.folder / "checkpoints" / NAME), prepared(settings)[1].method, settings


def unfit(resumed, learned=None, **state) -> str:
    found, method, settings = resumed
    forged = replace(found, learned=found.learned if learned is None else learned, state={**found.state, **state})
    with pytest.raises(InputError) as caught:
        fitting(forged, parts_for(method, settings))
    (problem,) = caught.value.problems
    assert problem.where == NAME
    return problem.what


def test_what_was_saved_fits_and_hyperparameters_are_those_of_the_settings(resumed):
    found, method, settings = resumed
    optimizer = found.state["optimizer"]
    groups = [{**group, "lr": "x", "betas": None, "params": [9]} for group in optimizer["param_groups"]]
    for given in (found, replace(found, state={**found.state, "optimizer": {**optimizer, "param_groups": groups}})):
        fit = fitting(given, parts_for(method, settings))
        assert fit.learned is given.learned and fit.state["optimizer"]["state"] is optimizer["state"]
        assert fit.state["optimizer"]["param_groups"] == method.build_optimizer(settings).state_dict()["param_groups"]


def test_other_learned_tensors(resumed):
    learned = resumed[0].learned
    name = sorted(learned)[0]
    less = {each: tensor for each, tensor in learned.items() if each != name}
    for tensors in (less, {}, learned | {name: torch.zeros(3)}, learned | {name: learned[name].T.contiguous()}):
        assert name in unfit(resumed, tensors)
    assert "the learned x" in unfit(resumed, learned | {"x": torch.zeros(3)})


def test_other_optimizer_state(resumed):
    whole = resumed[0].state["optimizer"]["state"]
    for optimizer in (None, 7, [], {}, {"state": []}, {"state": {"a": whole[0]}}, {"state": {len(whole): whole[0]}}):
        assert "the state of the optimizer" in unfit(resumed, optimizer=optimizer)
    strange = [
        7, {}, {"step": whole[0]["step"]}, whole[0] | {"more": torch.zeros(1)}, whole[0] | {"exp_avg": 7},
        whole[0] | {"exp_avg": torch.zeros(3)}, whole[0] | {"exp_avg_sq": whole[0]["exp_avg_sq"][:1]},
        whole[0] | {"step": torch.zeros(2)}, whole[0] | {"step": 1},
    ]  # fmt: skip
    for kept in strange:
        assert "the state of the optimizer" in unfit(resumed, optimizer={"state": whole | {0: kept}})


def test_other_state_of_a_loss_scaler(resumed):
    found, method, settings = resumed
    scaler = torch.amp.GradScaler("cpu")
    sound = scaler.state_dict()
    assert fitting(replace(found, state=found.state | {"scaler": sound}), parts_for(method, settings, scaler))
    for scale in (None, 7, {}, sound | {"scale": "x"}, sound | {"more": 1}):
        with pytest.raises(InputError, match="the scale of fp16"):
            fitting(replace(found, state=found.state | {"scaler": scale}), parts_for(method, settings, scaler))


def test_eight_bits_need_their_table_and_scales():
    from bitsandbytes.optim import AdamW8bit

    parameters = [torch.nn.Parameter(torch.randn(100, 50)), torch.nn.Parameter(torch.randn(4))]  # 8 bits and 32
    optimizer = AdamW8bit(parameters)
    assert is_state_of(optimizer, optimizer.state_dict()["state"])
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    state = optimizer.state_dict()["state"]
    assert is_state_of(optimizer, state) and state[0][WRAPPED]["state1"].dtype == torch.uint8
    for change in (
        {"state1": torch.zeros(9, dtype=torch.uint8)}, {"qmap2": torch.zeros(9)}, {"absmax1": torch.zeros(19)},
        {"absmax2": None}, {"state2": 7},
    ):  # fmt: skip
        assert not is_state_of(optimizer, {**state, 0: {**state[0], WRAPPED: state[0][WRAPPED] | change}})
    for change in ({"step": "x"}, {WRAPPED: 7}, {WRAPPED: {}}):
        assert not is_state_of(optimizer, {**state, 1: {**state[1], **change}})


@pytest.mark.parametrize("name", FILES)
def test_a_run_refuses_forged_checkpoints_and_changes_nothing(run, forged, tmp_path, name):
    (forged / "checkpoints" / NAME / name).write_bytes(corpus.pickles(tmp_path / "CANARY")["protocol 4"])
    assert_refused(run, forged)
    assert not (tmp_path / "CANARY").exists()


def test_a_run_refuses_tensors_of_other_shapes(run, forged):
    for name in FILES[:2]:
        file = forged / "checkpoints" / NAME / name
        whole = file.read_bytes()
        tensors = load_file(file)
        save_file(tensors | {max(tensors, key=lambda each: tensors[each].numel()): torch.zeros(3)}, file)
        assert_refused(run, forged)
        file.write_bytes(whole)


def assert_refused(run: Run, folder: Path) -> None:
    vouch(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    status, output = run("--output_dir", str(folder), *LATEST, "--max_train_steps", "4")
    assert status == 2 and "Traceback" not in output and NAME in output and "not contain the state of a run" in output, output
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_whose_description_is_forged_is_not_taken_for_finished(run, tmp_path):
    from customize.storage import run_folder

    folder = shutil.copytree(run.folder, tmp_path / "finished")
    about = json.dumps({"steps": 2}).encode()
    for content, expected in ((about, True), (b"[]", False), (b"\x80\x04.", False), (b"[" * 100_000, False), (b"", False)):
        (folder / run_folder.METADATA).write_bytes(content)
        entries = manifest.read(folder) | {
            run_folder.METADATA: {"size": len(content), "sha256": manifest.sha256(folder / run_folder.METADATA)}
        }
        (folder / manifest.NAME).write_text(manifest.text(entries))
        assert run_folder.is_finished(folder, 2) == expected
