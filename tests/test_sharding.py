"""Two processes that shard a network (FSDP2) train as one does with twice the batch, and its files are those of any other run."""

import json
import socket
import weakref
from contextlib import nullcontext
from pathlib import Path
from signal import SIGINT
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.commands import launch
from kit import settings_for, write_shapes
from models import tiny_stable_diffusion_xl
from PIL import Image
from safetensors.torch import load_file
from test_processes import ROOT
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from whole_runs import LATEST, Run

from customize.errors import InputError, Interrupted, NumericsError
from customize.evaluation import record
from customize.methods.method import Method
from customize.optim import optimizers
from customize.settings import sharding_request
from customize.storage import checkpoint
from customize.training.distributed import sharding
from customize.training.distributed.sharding import Sharded
from customize.training.preflight import check
from customize.training.resumable import OptimizerState, TrainableWeights

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
RATE = 1e-3
"""The learning rate: no step moves a weight further, so a gradient that is zero up to rounding changes it by that much."""
SAMPLES = {
    "validation_prompt": ("a dog",),
    "num_validation_images": 1,
    "sample_inference_steps": 1,
    "validation_steps": 1,
    "checkpointing_steps": 100,
}
"""After each step, so that weights are gathered several times."""


def launched(run: Run, *arguments: str, environment: dict[str, str] | None = None, **options) -> tuple[int, str]:
    """The run as two processes; without `environment`, they shard."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return run(*arguments, port=port, environment=FSDP if environment is None else environment, **options)


def pair(server, folder: Path, method: str, base: Path, **changes) -> tuple[Run, Run]:
    """A run with four images a step, and the same with two processes that compute twice one each."""
    images, runs = write_shapes(folder / "pictures"), []
    for name, own in ("one", {"train_batch_size": 4}), ("two", {"train_batch_size": 1, "gradient_accumulation_steps": 2}):
        (folder / name).mkdir()
        runs.append(Run(server, folder / name, method, base, images, learning_rate=RATE, **own, **changes))
    return runs[0], runs[1]


def tensors_of(run: Run) -> dict[str, torch.Tensor]:
    """The tensors of the result."""
    files = [file for file in sorted(run.folder.glob("**/*.safetensors")) if "checkpoints" not in file.parts]
    return {f"{file.relative_to(run.folder)}: {name}": tensor for file in files for name, tensor in load_file(file).items()}


def assert_equal_up_to_rounding(one: Run, two: Run) -> None:
    """Losses within 1e-6, relative to those above 1; weights on average within 1e-7, and none further apart than a step."""
    assert two.losses() == pytest.approx(one.losses(), abs=1e-6, rel=1e-6)
    assert norms(two) == pytest.approx(norms(one), rel=1e-5)
    own, theirs = tensors_of(one), tensors_of(two)
    assert own.keys() == theirs.keys()
    differences = torch.cat([(own[name].double() - theirs[name].double()).abs().flatten() for name in own])
    assert differences.mean() < 1e-7 and differences.max() < RATE


def norms(run: Run) -> list[float]:
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return [line["gradient_norm"] for line in lines if "gradient_norm" in line]


class Tiny(Method):
    """A network of 126 weights, with a buffer that no file has."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 6))
        self.network.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.network(self.network.scale * batch).square().mean(1)


@pytest.fixture
def first_of_two():
    """What `Sharded` needs of the first of two processes, whose communication does nothing."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    facts = {"is_main_process": True, "num_processes": 2, "mixed_precision": "no", "autocast": nullcontext}
    yield SimpleNamespace(device=torch.device("cpu"), **facts)
    torch.distributed.destroy_process_group()


def test_a_process_holds_half_of_weights_gradients_and_moments(first_of_two):
    method = Tiny()
    optimizer = torch.optim.AdamW(method.parameters(), fused=True)
    whole = [weakref.ref(each) for each in method.parameters()]
    model = Sharded(method, optimizer, first_of_two)
    assert [each() for each in whole] == [None] * 4, "whole weights are freed"
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    states = [*optimizer.state.values()]
    held = [method.parameters(), (each.grad for each in method.parameters())]
    held += [(state[name] for state in states) for name in ("exp_avg", "exp_avg_sq")]
    assert [sum(tensor.to_local().numel() for tensor in tensors) for tensors in held] == [126 // 2] * 4


def test_a_process_loads_its_half_of_a_checkpoint(first_of_two):
    """Weights and moments are those of the whole state, row by row; counts of steps are not divided."""
    saved = Tiny()
    stepped = torch.optim.AdamW(saved.parameters(), fused=True)
    saved(torch.randn(4, 8)).sum().backward()
    stepped.step()
    method = Tiny()
    optimizer = torch.optim.AdamW(method.parameters(), fused=True)
    Sharded(method, optimizer, first_of_two)
    weights, state = TrainableWeights(method), OptimizerState(optimizer, is_scaled=False)
    weights.load_state_dict({name: each.detach().clone() for name, each in saved.named_parameters()})
    state.load_state_dict(stepped.state_dict())
    for own, whole in zip(method.parameters(), saved.parameters(), strict=True):
        assert torch.equal(own.to_local(), whole[: len(whole) // 2])
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(optimizer.state[own][name].to_local(), stepped.state[whole][name][: len(whole) // 2])
        assert optimizer.state[own]["step"] == 1


def test_whole_networks_are_plain_ones_as_long_as_they_are_looked_at(first_of_two):
    method = Tiny()
    network, before = method.network, {name: (type(each), each.shape) for name, each in method.named_parameters()}
    model = Sharded(method, torch.optim.AdamW(method.parameters()), first_of_two)
    sharded = [type(module) for module in network.modules()]
    model(torch.randn(4, 8)).sum().backward()
    for _ in range(2):
        with model.whole_weights(), model.whole_weights():
            assert {name: (type(each), each.shape) for name, each in method.named_parameters()} == before
            assert not any(hasattr(each, "to_local") for each in network.state_dict().values())
            assert method.network is network and type(network) is nn.Sequential
            assert method(torch.ones(1, 8)).shape == (1,)
        assert [type(module) for module in network.modules()] == sharded
        assert all(hasattr(each, "to_local") for each in method.parameters())
    assert all(each.is_meta for _, twin in model.twins for each in twin.parameters())


@pytest.mark.parametrize(
    ("error", "expected"), [(Interrupted(SIGINT, ""), True), (NumericsError(), True), (MemoryError(), False)]
)
def test_a_process_that_fails_alone_gathers_nothing(error, expected, first_of_two):
    model = Sharded(method := Tiny(), torch.optim.AdamW(method.parameters()), first_of_two)
    assert sharding.can_gather(model)
    try:
        raise error
    except type(error):
        assert sharding.can_gather(model) is expected and sharding.can_gather(method)


def test_two_processes_that_shard_equal_one(server, tiny_epsilon, tmp_path):
    """Losses, result, sample images, and the weights and moments in a checkpoint, which are whole."""
    one, two = pair(server, tmp_path, "full", tiny_epsilon, max_train_steps=2, **{**SAMPLES, "validation_steps": 2})
    assert one()[0] == 0
    status, output = launched(two)
    assert status == 0 and "sharded   over 2 processes" in output, output
    assert_equal_up_to_rounding(one, two)
    drawn = [np.asarray(Image.open(run.folder / "samples/step-000002/000.png")).astype(int) for run in (one, two)]
    assert np.abs(drawn[0] - drawn[1]).max() <= 1 and drawn[0].std() > 1
    own, theirs = (checkpoint.load(run.folder / "checkpoints/step-000002") for run in (one, two))
    assert {name: each.shape for name, each in own.learned.items()} == {name: each.shape for name, each in theirs.learned.items()}
    for number, kept in own.state["optimizer"]["state"].items():
        for name, value in kept.items():
            torch.testing.assert_close(theirs.state["optimizer"]["state"][number][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_sharded_run_is_measured_and_resumed_bit_for_bit(server, tiny_epsilon, tmp_path):
    changes = {"evaluation": "pictures", "num_candidates": 1, "evaluation_seeds": 1, "sample_inference_steps": 1, "keep": "last"}
    one, two = pair(server, tmp_path, "full", tiny_epsilon, max_train_steps=3, **changes)
    assert one()[0] == 0
    status, output = launched(two)
    assert status == 0, output
    assert_equal_up_to_rounding(one, two)
    measured = [record.read(run.folder).candidates for run in (one, two)]
    assert [each.step for each in measured[1]] == [0, 3]
    for own, theirs in zip(measured[0][1].values.values(), measured[1][1].values.values(), strict=True):
        assert theirs == pytest.approx(own, abs=1e-3)

    result, losses = tensors_of(two), two.losses()
    (two.folder / "checkpoints/step-000003").rename(tmp_path / "last")
    status, output = two(*LATEST)
    assert status == 2 and "num_processes" in output and "was 2 in the run to resume, is 1 now" in output
    status, output = launched(two, *LATEST)
    assert status == 0 and "resuming after step 2" in output, output
    assert two.losses() == losses
    resumed = tensors_of(two)
    assert [name for name in result if not torch.equal(result[name], resumed[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("full", {"train_text_encoder": True, "gradient_checkpointing": True, "text_encoder_train_fraction": 0.5}),
        ("full", {"train_text_encoder": True, "clip_skip": 1, **SAMPLES}),
        ("full", {"prior_preservation": "images", "class_prompt": "a dog", "num_class_images": 4, "on_nan": "retry"}),
        ("lora", {"prior_preservation": "teacher", "class_prompt": "a dog", "lora_dropout": 0.2, "use_dora": True}),
        ("lora", {"init_lora_weights": "pissa", "loraplus_lr_ratio": 4.0, "train_text_encoder": True}),
        ("lora", {"tlora_min_rank": 1, "dco_beta": 10.0}),
    ],
)
def test_what_can_be_had_with_sharding_equals_one_process(method, changes, server, tiny_epsilon, tmp_path):
    changes = {**changes, "class_data_dir": str(tmp_path / "class")} if "num_class_images" in changes else changes
    one, two = pair(server, tmp_path, method, tiny_epsilon, max_train_steps=3, evaluation="none", **changes)
    assert one()[0] == 0
    status, output = launched(two)
    assert status == 0, output
    assert_equal_up_to_rounding(one, two)


@pytest.mark.slow
def test_text_encoders_of_sdxl_are_sharded(server, tmp_path):
    base = tiny_stable_diffusion_xl(tmp_path / "base")
    one, two = pair(server, tmp_path, "full", base, max_train_steps=3, evaluation="none", train_text_encoder=True)
    assert one()[0] == 0
    status, output = launched(two, environment={**FSDP, "FSDP_RESHARD_AFTER_FORWARD": "false"})
    assert status == 0, output
    assert_equal_up_to_rounding(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_sharding_computes_in_the_precision_of_the_run(method, server, tiny_epsilon, tmp_path):
    changes = {"max_train_steps": 3, "evaluation": "none", "mixed_precision": "bf16"}
    one, two = pair(server, tmp_path, method, tiny_epsilon, **changes)
    assert one()[0] == 0
    status, output = launched(two)
    assert status == 0, output
    assert two.losses() == pytest.approx(one.losses(), rel=1e-2)


@pytest.mark.slow
def test_a_run_changes_between_sharding_and_replicas(server, tiny_epsilon, tmp_path):
    """Killed twice: the checkpoint of either is resumed by the other."""
    one, two = pair(server, tmp_path, "full", tiny_epsilon, max_train_steps=4, evaluation="none", checkpointing_steps=1)
    assert one()[0] == 0
    assert launched(two, moment="in a step", number=2)[0] != 0
    assert launched(two, *LATEST, environment={}, moment="in a step", number=2)[0] != 0
    status, output = launched(two, *LATEST)
    assert status == 0, output
    assert_equal_up_to_rounding(one, two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "action", "status", "left"),
    [
        ("in a step", "SIGTERM", 143, "step-000003"),  # the step is finished
        ("in the loss", "nan", 4, "step-000002"),
        ("in a step", "memory", 3, "step-000001"),  # a process that fails alone cannot gather: that of the steps before is left
    ],
)
def test_a_run_that_ends_early_leaves_a_checkpoint(moment, action, status, left, server, tiny_epsilon, tmp_path):
    changes = {"max_train_steps": 4, "evaluation": "none", "checkpointing_steps": 1 if action == "memory" else 9}
    one, two = pair(server, tmp_path, "full", tiny_epsilon, **changes)
    assert one()[0] == 0
    number = {"in the loss": 5, "in a step": 3}[moment] - (action == "memory")
    found, output = launched(two, moment=moment, number=number, action=action)
    assert found == status, output
    assert [path.name for path in sorted((two.folder / "checkpoints").iterdir())] == [left]
    found, output = launched(two, *LATEST)
    assert found == 0, output
    assert_equal_up_to_rounding(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_dry_run_plans_for_whole_files(method, server, tiny_epsilon, tmp_path):
    one, two = pair(server, tmp_path, method, tiny_epsilon, evaluation="none", dry_run=True)
    plans = [one(), launched(two)]
    assert [status for status, _ in plans] == [0, 0], plans[1][1]
    lines = [[line for line in output.splitlines() if line.startswith(("trained", "optimizer", "files"))] for _, output in plans]
    assert lines[0] == lines[1] != []


REFUSED = {
    "placeholder_token": ("pivotal", {}),
    "adapter": ("lora", {"adapter": "loha"}),
    "optimizer": ("full", {"optimizer": "paged_adamw_8bit"}),
    "use_ema": ("full", {"use_ema": True}),
    "mixed_precision": ("full", {"mixed_precision": "fp16"}),
    "masked_prior_preservation_weight": ("lora", {"masked_loss": True, "masked_prior_preservation_weight": 1.0}),
}


@pytest.mark.parametrize("where", REFUSED)
def test_settings_that_cannot_be_had_with_sharding_are_refused(where, monkeypatch, tmp_path):
    method, changes = REFUSED[where]
    settings = settings_for(method, "demo", tmp_path, tmp_path / "run", **changes)
    assert sharding_request.problems(settings) == []
    for name, value in {**FSDP, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    (problem,) = sharding_request.problems(settings)
    assert problem.where == where and "(FSDP)" in problem.what and "configs/accelerate/gpus.yaml" in problem.remedy


@pytest.mark.parametrize("optimizer", [name for name in optimizers.names() if name != "adamw"])
def test_optimizers_that_need_whole_matrices_or_memory_of_their_own_are_refused(optimizer, monkeypatch, tmp_path):
    for name, value in {**FSDP, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    settings = settings_for("full", "demo", tmp_path, tmp_path / "run", optimizer=optimizer)
    assert [problem.where for problem in sharding_request.problems(settings)] == ["optimizer"]


@pytest.mark.parametrize(
    ("variable", "value", "where"),
    [
        ("FSDP_VERSION", "1", "fsdp_version"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "fsdp_cpu_ram_efficient_loading"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "True", "fsdp_activation_checkpointing"),
        ("FSDP_IGNORED_MODULES", ".*norm.*", "fsdp_ignored_modules"),
    ],
)
def test_configurations_that_ask_for_more_are_refused_before_a_model_loads(
    variable, value, where, tiny_epsilon, tmp_path, monkeypatch
):
    for name, each in {**FSDP, "WORLD_SIZE": "2", variable: value}.items():
        monkeypatch.setenv(name, each)
    with pytest.raises(InputError) as caught:
        check(settings_for("full", tiny_epsilon, write_shapes(tmp_path / "pictures"), tmp_path / "run"))
    assert [problem.where for problem in caught.value.problems] == [where]
    monkeypatch.setenv("WORLD_SIZE", "1")  # where nothing is sharded
    check(settings_for("full", tiny_epsilon, tmp_path / "pictures", tmp_path / "run"))


def test_the_included_configuration_shards(tmp_path, monkeypatch):
    """accelerate hands it to the processes as variables, with its defaults for all else."""
    file = str(ROOT / "configs/accelerate/fsdp.yaml")
    arguments = launch.launch_command_parser().parse_args(["--config_file", file, "train_dreambooth.py"])
    arguments, _, _ = launch._validate_launch_command(arguments)
    for name, value in launch.prepare_multi_gpu_env(arguments).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", str(arguments.num_processes))
    assert sharding_request.is_requested() and sharding_request.reshards()
    assert sharding_request.problems(settings_for("full", "demo", tmp_path, tmp_path / "run")) == []
