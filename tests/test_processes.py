"""Two processes compute what one computes with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit import settings_for, write_pictures
from whole_runs import Run

from customize.storage.atomic import write_text

ROOT = Path(__file__).parents[1]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def launch(folder: Path, method: str, base: Path, pictures: Path, num_processes: int, **changes) -> list[float]:
    config = folder / f"{num_processes}.toml"
    settings = settings_for(method, base, pictures, folder / f"run_{num_processes}", max_train_steps=3, **changes)
    write_text(config, settings.to_toml())
    script = "train_textual_inversion.py" if method == "textual_inversion" else "train_dreambooth.py"
    processes = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    command = [sys.executable, *processes, str(ROOT / script), str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(Path(settings.output_dir))


@pytest.mark.parametrize("method", ["textual_inversion", pytest.param("lora", marks=pytest.mark.slow)])
def test_two_processes_equal_one_with_twice_the_batch(method, server, tiny_epsilon, tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    one = Run(server, tmp_path / "one", method, tiny_epsilon, pictures, max_train_steps=3, train_batch_size=4)
    assert one()[0] == 0
    two = launch(tmp_path, method, tiny_epsilon, pictures, 2, train_batch_size=1, gradient_accumulation_steps=2)
    assert two == pytest.approx(one.losses(), abs=1e-6)
    assert (tmp_path / "run_2/learned_embeds.safetensors").exists() or (
        tmp_path / "run_2/pytorch_lora_weights.safetensors"
    ).exists()
