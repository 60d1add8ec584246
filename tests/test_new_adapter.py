"""An adapter is one file: LoHa, which the package does not have, trains, is verified, loads and learns on from its file alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
PROMPT = "a photo of sks dog"


@pytest.fixture(scope="module")
def folder(tiny_epsilon, pictures, tmp_path_factory) -> Path:
    """What `new_adapter_runs.py` wrote."""
    folder = tmp_path_factory.mktemp("loha")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    command = [sys.executable, HERE / "new_adapter_runs.py", tiny_epsilon, pictures, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def status(folder) -> dict:
    return json.loads((folder / "status.json").read_text())


@pytest.fixture(scope="module")
def latents(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "latents.safetensors")


def test_the_file_is_short():
    assert len((HERE / "new_adapter" / "loha.py").read_text().splitlines()) <= 40


def test_it_trains_with_a_teacher_and_from_earlier_weights(status):
    assert {name: status[name] for name in ("plain", "teacher", "onward", "infer")} == {
        "plain": 0, "teacher": 0, "onward": 0, "infer": 0
    }  # fmt: skip


def test_the_loaded_file_generates_what_the_network_in_memory_does_to_the_bit(latents, status):
    assert torch.equal(latents["loaded"], latents["in memory"])
    assert torch.equal(latents["checkpoint"], latents["in memory"])
    assert status["pixels equal"]
    assert (latents["loaded"] - latents["base"]).abs().max() > 1e-3


def test_disabled_it_is_the_base_model(latents):
    assert torch.equal(latents["disabled"], latents["base"])


def delta(folder: Path, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """scale * alpha / rank * (w1_a w1_b) o (w2_a w2_b) of each module, in float64."""
    tensors = {name: tensor.double() for name, tensor in load_file(folder / "pytorch_lora_weights.safetensors").items()}
    modules = {name.rpartition(".")[0] for name in tensors}
    return {
        module: scale * 3.0 / 4
        * (tensors[f"{module}.hada_w1_a"] @ tensors[f"{module}.hada_w1_b"])
        * (tensors[f"{module}.hada_w2_a"] @ tensors[f"{module}.hada_w2_b"])
        for module in modules
    }  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "parts"),
    [("loaded", {"plain": 1.0}), ("half", {"plain": 0.5}), ("beside", {"plain": 0.5, "teacher": 0.5})],
)
def test_against_the_formula_in_stock_diffusers(name, parts, folder, latents, tiny_epsilon):
    stock = StableDiffusionPipeline.from_pretrained(tiny_epsilon, safety_checker=None)
    stock.set_progress_bar_config(disable=True)
    for part, scale in parts.items():
        for module, change in delta(folder / part, scale).items():
            network, _, inner = module.partition(".")
            known = dict(getattr(stock, network).named_modules())
            layer = known.get(inner) or known[inner.removeprefix("text_model.")]
            layer.weight.add_(change.float())
    expected = stock(PROMPT, num_inference_steps=3, generator=torch.Generator().manual_seed(2), output_type="latent").images
    torch.testing.assert_close(latents[name], expected, rtol=0, atol=1e-4)


def test_a_run_begins_with_what_was_learned(folder):
    """After one step of a vanishing learning rate."""
    first, then = (load_file(folder / run / "pytorch_lora_weights.safetensors") for run in ("plain", "onward"))
    assert first.keys() == then.keys()
    assert all((first[name] - then[name]).abs().max() < 1e-9 for name in first)
    settings = json.loads((folder / "onward" / "customize.json").read_text())["settings"]
    assert (settings["adapter"], settings["rank"], settings["lora_alpha"]) == ("loha", 4, 3.0)


def test_its_settings_are_its_own(folder):
    settings = json.loads((folder / "plain" / "customize.json").read_text())["settings"]
    assert "rank" in settings and not {"lora_dropout", "use_dora", "lora_format"} & settings.keys()


@pytest.mark.parametrize("change", [{"unet.r": 1 << 40}, {"unet.r": 3}, {"unet.strange": 1}])
def test_a_description_that_does_not_fit_the_tensors_is_refused(change, folder, tmp_path, monkeypatch):
    """A rank from a stranger's file allocates nothing."""
    import customize.adapters
    from customize.errors import InputError
    from customize.inference.pipeline_loading import load_pipeline

    monkeypatch.setattr(customize.adapters, "__path__", [*customize.adapters.__path__, str(HERE / "new_adapter")])
    customize.adapters.by_peft_type.cache_clear()
    path = folder / "plain" / "pytorch_lora_weights.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    description = json.loads(metadata["lora_adapter_metadata"])
    changed = {**metadata, "lora_adapter_metadata": json.dumps({**description, **change})}
    save_file(load_file(path), tmp_path / "x.safetensors", changed)
    try:
        with pytest.raises(InputError) as caught:
            load_pipeline(None, [(tmp_path / "x.safetensors", 1.0)])
        assert str(tmp_path / "x.safetensors") in str(caught.value)
    finally:
        monkeypatch.undo()
        customize.adapters.by_peft_type.cache_clear()
