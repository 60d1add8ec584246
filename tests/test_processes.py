"""Two processes train as one does with twice the batch, and share the images of infer.py."""

import os
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from kit import write_images, write_shapes
from models import tiny_stable_diffusion_xl
from whole_runs import Run

from customize.errors import InputError
from customize.evaluation import record
from customize.inference.run import command, generate
from customize.inference.run.processes import Processes
from customize.settings.inference import InferenceSettings

ROOT = Path(__file__).parents[1]


def launched(run: Run) -> None:
    """The run as two processes of `torchrun`."""
    script = "train_textual_inversion.py" if run.method == "textual_inversion" else "train_dreambooth.py"
    processes = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *processes, str(ROOT / script), str(run.config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def forked(run: Run) -> None:
    """The run as two processes that have the variables of `torchrun`, and imported everything before."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    status, output = run(port=port)
    assert status == 0, output


@pytest.mark.parametrize(
    ("method", "start"),
    [
        ("textual_inversion", forked),
        *(pytest.param(method, launched, marks=pytest.mark.slow) for method in ("textual_inversion", "lora")),
    ],
)
def test_two_processes_equal_one_with_twice_the_batch(method, start, server, tiny_epsilon, tmp_path):
    image_folder = write_shapes(tmp_path / "pictures")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = Run(server, tmp_path / "one", method, tiny_epsilon, image_folder, max_train_steps=3, train_batch_size=4)
    assert one()[0] == 0
    changes = {"max_train_steps": 3, "train_batch_size": 1, "gradient_accumulation_steps": 2, "keep": "last"}
    changes |= {"vae_cache_ondemand": True, "latents_cache_dir": str(tmp_path / "cache")}  # which both processes write to
    changes |= {"evaluation": "pictures", "num_candidates": 1, "evaluation_seeds": 1, "sample_inference_steps": 1}
    two = Run(server, tmp_path / "two", method, tiny_epsilon, image_folder, **changes)
    start(two)
    assert two.losses() == pytest.approx(one.losses(), abs=1e-6)
    assert two.result().keys() == one.result().keys()
    assert [each.step for each in record.read(two.folder).candidates] == [0, 3], "the first process measures, the other waits"


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        pytest.param("pivotal", {"prior_preservation": "teacher", "class_prompt": "a dog"}, marks=pytest.mark.slow),
        pytest.param("lora", {}, marks=pytest.mark.slow),
        pytest.param("full", {}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_the_text_encoders_of_sdxl(method, changes, server, tmp_path):
    """Its first text encoder has a last layer without gradients."""
    base, image_folder = tiny_stable_diffusion_xl(tmp_path / "base"), write_images(tmp_path / "images")
    changes = {**changes, "train_text_encoder": True, "max_train_steps": 3}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = Run(server, tmp_path / "one", method, base, image_folder, train_batch_size=4, **changes)
    two = Run(server, tmp_path / "two", method, base, image_folder, train_batch_size=2, **changes)
    assert one()[0] == 0
    forked(two)
    assert two.losses() == pytest.approx(one.losses(), abs=1e-6) and two.result().keys() == one.result().keys()


def test_two_processes_share_the_images_of_a_run(server, tiny_epsilon, tmp_path):
    """Bit for bit those of one process: a random seed is that of the first, and each batch is drawn by one of them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model = ["--pretrained_model_name_or_path", str(tiny_epsilon)]
    options = ["--prompt", "a dog", "a cat", "--num_images", "3", "--batch_size", "2", "--num_inference_steps", "2"]
    two, one = tmp_path / "two", tmp_path / "one"
    status, output = server.run("infer", [*model, *options, "--seed", "-1", "--output_dir", str(two)], port=port)
    assert status == 0 and output.count("done ") == 1, output
    again = ["--seed", tomllib.loads((two / "config.toml").read_text())["model"]["seed"], "--output_dir", one]
    assert server.run("infer", [*model, *options, *map(str, again)])[0] == 0
    names = [*(f"{place:03d}.png" for place in range(6)), "sheet.png"]
    assert sorted(path.name for path in two.glob("*.png")) == names
    assert [name for name in names if (one / name).read_bytes() != (two / name).read_bytes()] == []


def test_each_batch_is_drawn_by_one_process(tiny_epsilon, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = InferenceSettings(
        pretrained_model_name_or_path=str(tiny_epsilon),
        prompt=["a dog", "a cat"],
        num_images=3,
        batch_size=2,
        num_inference_steps=1,
    )
    job, models = command.check(settings), generate.PipelineCache()
    models.load(settings)
    own = [
        [[*drawn.places] for drawn in generate.generate_batches(settings, job, models, Path, shared=Processes(index, 3))]
        for index in range(3)
    ]
    assert own == [[[0, 1]], [[2, 3]], [[4, 5]]]


@pytest.mark.parametrize("changes", [{"chain": 2}, {"trace": True}, {"attention": True}, {"show_start": True}])
def test_what_one_process_must_draw_is_refused_before_a_model_loads(changes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings = InferenceSettings(prompt=["a dog"], image="a.png", **changes)
    with pytest.raises(InputError, match="is drawn by one process, and accelerate launch starts several"):
        command.run(settings)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_included_configurations(path):
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(path))
    assert (
        found.num_processes == 2
        and found.mixed_precision == "no"
        and found.distributed_type in ("MULTI_CPU", "MULTI_GPU", "FSDP")
    )
