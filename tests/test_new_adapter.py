"""An adapter is one file. LoHa of peft, a change of weights that is not of low rank, and (IA)^3, a scale of outputs, which the
package does not have, train, resume, load, merge and train on from their files alone."""

import copy
import functools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapters_of_others import TEXT, UNET, File, diffusers
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow  # half a minute of whole runs
PROMPT = "a photo of sks dog"
FILE = "pytorch_lora_weights.safetensors"
ADAPTERS = ("hadamard", "ia3")


@pytest.fixture(scope="module")
def folder(tiny_epsilon, image_folder, tmp_path_factory) -> Path:
    """What `new_adapter_runs.py` wrote."""
    folder = tmp_path_factory.mktemp("new_adapter")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    command = [sys.executable, HERE / "new_adapter_runs.py", tiny_epsilon, image_folder, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def status(folder) -> dict[str, dict]:
    """By adapter: exit statuses and numbers of its runs."""
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ADAPTERS}


@pytest.fixture(scope="module")
def latents(folder) -> dict[str, dict[str, Tensor]]:
    """By adapter: the latents of one image, by how they were generated."""
    return {name: load_file(folder / f"{name}.safetensors") for name in ADAPTERS}


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_file_is_short(name):
    assert len((HERE / "new_adapter" / f"{name}.py").read_text().splitlines()) <= 40


def test_every_command_succeeds(status):
    assert status["hadamard"] == {"trained": 0, "trained on": 0, "generated": 0}
    assert {name: status["ia3"][name] for name in ("trained", "resumed", "merged")} == {"trained": 0, "resumed": 0, "merged": 0}


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_loaded_file_generates_what_the_network_in_memory_does_to_the_bit(name, latents):
    """That of (IA)^3 was trained in two runs, the second of which resumed the first."""
    own = latents[name]
    assert all(torch.equal(own[other], own["in memory"]) for other in ("loaded", "checkpoint", "again") if other in own)
    assert (own["loaded"] - latents["hadamard"]["base"]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ADAPTERS)
def test_disabled_or_at_scale_0_it_is_the_base_model_to_the_bit(name, latents):
    own = latents[name]
    assert all(torch.equal(own[other], latents["hadamard"]["base"]) for other in ("disabled", "none") if other in own)


def test_the_command_generates_the_same_pixels(folder):
    from PIL import Image

    [image] = (folder / "images").glob("*.png")
    assert Image.open(image).tobytes() == Image.open(folder / "loaded.png").tobytes()


def stock(base: Path) -> StableDiffusionPipeline:
    """diffusers' own pipeline, to be changed at will."""
    pipe = StableDiffusionPipeline(**copy.deepcopy(components(base)), requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@functools.cache
def components(base: Path) -> dict[str, object]:
    return StableDiffusionPipeline.from_pretrained(base, safety_checker=None).components


def latents_of(pipe: StableDiffusionPipeline) -> Tensor:
    return pipe(PROMPT, num_inference_steps=3, generator=torch.Generator().manual_seed(2), output_type="latent").images


def module_of(pipe: StableDiffusionPipeline, name: str) -> nn.Module:
    """The module of a name in files: `unet...`, `text_encoder.text_model...`."""
    network, _, inner = name.partition(".")
    known = dict(getattr(pipe, network).named_modules())
    return known.get(inner) or known[inner.removeprefix("text_model.")]


def tensors_of(run: Path) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in load_file(run / FILE).items()}


def add_loha(pipe: StableDiffusionPipeline, run: Path, scale: float) -> None:
    """W + scale * alpha / rank * (w1_a w1_b) o (w2_a w2_b), in float64."""
    tensors = tensors_of(run)
    for name in {name.rpartition(".")[0] for name in tensors}:
        one, two = (tensors[f"{name}.hada_w{i}_a"] @ tensors[f"{name}.hada_w{i}_b"] for i in (1, 2))
        module_of(pipe, name).weight.add_((scale * 3.0 / 4 * one * two).float())


def scale_by_ia3(pipe: StableDiffusionPipeline, run: Path, scale: float) -> None:
    """l o (W x + b) with l = 1 + scale * (learned l - 1), in float64."""
    for name, learned in tensors_of(run).items():
        module = module_of(pipe, name.removesuffix(".ia3_l"))
        factor = 1 + scale * (learned.flatten() - 1)
        for parameter in module.parameters():  # W [out, in, ...], b [out]
            parameter.copy_((parameter.double() * factor.view(-1, *[1] * (parameter.dim() - 1))).float())


def add_lora(pipe: StableDiffusionPipeline, scale: float) -> None:
    """W + scale * B A, in float64; the file that `new_adapter_runs.py` writes."""
    for name, change in File().lora(UNET | TEXT, diffusers, ("lora_A.weight", "lora_B.weight")).changes.items():
        weight = module_of(pipe, diffusers(name)).weight
        weight.copy_((weight.double() + scale * change).float())


def lora_then_ia3(pipe: StableDiffusionPipeline, folder: Path) -> None:
    add_lora(pipe, 0.7)
    scale_by_ia3(pipe, folder / "ia3", 0.5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("adapter", "name", "apply"),
    [
        ("hadamard", "loaded", lambda pipe, folder: add_loha(pipe, folder / "hadamard", 1.0)),
        ("hadamard", "half", lambda pipe, folder: add_loha(pipe, folder / "hadamard", 0.5)),
        ("hadamard", "beside", lambda pipe, folder: [add_loha(pipe, folder / run, 0.5) for run in ("hadamard", "onward")]),
        ("ia3", "loaded", lambda pipe, folder: scale_by_ia3(pipe, folder / "ia3", 1.0)),
        ("ia3", "half", lambda pipe, folder: scale_by_ia3(pipe, folder / "ia3", 0.5)),
        ("ia3", "beside", lora_then_ia3),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_against_the_formula_in_stock_diffusers(
    adapter: str, name: str, apply: Callable[[StableDiffusionPipeline, Path], object], folder, latents, tiny_epsilon
):
    pipe = stock(tiny_epsilon)
    apply(pipe, folder)
    torch.testing.assert_close(latents[adapter][name], latents_of(pipe), rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_merged_model_is_the_formula(folder, tiny_epsilon):
    by_hand, merged = stock(tiny_epsilon), stock(folder / "merged")
    lora_then_ia3(by_hand, folder)
    for part in ("unet", "text_encoder"):
        expected = getattr(by_hand, part).state_dict()
        for name, tensor in getattr(merged, part).state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(latents_of(merged), latents_of(by_hand), rtol=0, atol=1e-4)


def test_it_cannot_become_one_lora(status, folder):
    code, report = status["ia3"]["refused"]
    assert (
        code == 2 and f"merge: {folder}/ia3/{FILE} is an adapter other than a LoRA (IA3)\n      -> merge into a folder" in report
    )
    assert not (folder / "merged.safetensors").exists()


@torch.no_grad()
def test_its_change_is_that_of_the_weights(status, folder, tiny_epsilon):
    """|(l - 1) o W| / |W| over all modules, of whose weights only every other number is measured in convolutions."""
    pipe, changed, total = stock(tiny_epsilon), 0.0, 0.0
    for name, learned in tensors_of(folder / "ia3").items():
        weight = module_of(pipe, name.removesuffix(".ia3_l")).weight.double()
        change = (learned.flatten() - 1).view(-1, *[1] * (weight.dim() - 1)) * weight
        weight, change = (each.flatten()[:: max(1, each.numel() // 4096)] for each in (weight, change))
        changed, total = changed + change.square().sum().item(), total + weight.square().sum().item()
    assert status["ia3"]["change"] == pytest.approx(math.sqrt(changed / total), rel=1e-5)


def test_a_run_begins_with_what_was_learned(folder, status, latents):
    """LoHa: after one step of a vanishing learning rate; (IA)^3: before the first step."""
    first, then = (load_file(folder / run / FILE) for run in ("hadamard", "onward"))
    assert first.keys() == then.keys()
    assert all((first[name] - then[name]).abs().max() < 1e-9 for name in first)
    settings = json.loads((folder / "onward" / "customize.json").read_text())["settings"]
    assert (settings["adapter"], settings["rank"], settings["lora_alpha"]) == ("hadamard", 4, 3.0)
    assert torch.equal(latents["ia3"]["onward"], latents["ia3"]["loaded"])


def test_its_settings_and_its_learning_rate_are_its_own(folder, status):
    own = {name: json.loads((folder / name / "customize.json").read_text())["settings"] for name in ADAPTERS}
    assert "rank" in own["hadamard"] and not {"lora_dropout", "use_dora", "lora_format"} & own["hadamard"].keys()
    assert "lora_targets" in own["ia3"] and not {"rank", "lora_alpha"} & own["ia3"].keys()
    assert status["ia3"]["onward"] == ["ia3", 3e-3, ["attention", "conv1"], True]  # that of the run was 0.05
    rates = status["ia3"]["learning rates"].split("; ")
    assert {"2e-06 (adapter none)", "0.003 (adapter ia3)", "0.0001 (adapter hadamard)", "0.0001 (adapter lora)"} <= {*rates}


def test_a_type_that_peft_does_not_attach_is_refused_before_anything_is_written(
    tiny_epsilon, image_folder, tmp_path, monkeypatch
):
    """VeRA's layers share tensors, which `inject_adapter_in_model` refuses; a configuration may refuse its values."""
    from kit import settings_for
    from peft import VeraConfig

    from customize import api
    from customize.adapters import lora
    from customize.errors import InputError

    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run")
    for config, cause in (
        (lambda self, settings, targets: VeraConfig(target_modules=targets), "ValueError: .*VERA"),
        (lambda self, settings, targets: VeraConfig(ranks=4), "TypeError: .*ranks"),
    ):
        monkeypatch.setattr(lora.Adapter, "config", config)
        with pytest.raises(InputError, match=f"lora cannot be attached by peft to UNet2DConditionModel \\({cause}") as caught:
            api.train(settings)
        assert [problem.where for problem in caught.value.problems] == ["adapter"] and not (tmp_path / "run").exists()


def test_a_setting_has_the_default_and_the_range_of_its_adapter(status):
    """The rank of `hadamard` is 4, at most 64; LoRA's stays 16, at most 4,096. Without an adapter it has no effect."""
    ranks = status["ia3"]["ranks"]
    refused = "rank: 65 is not a whole number from 1 to 64, with adapter = hadamard\n"
    assert ranks["hadamard 65"].startswith(refused) and "has no effect" in ranks["none 64"]
    assert [ranks[f"lora {rank}"] for rank in (None, 64, 65)] == [16, 64, 65]
    assert [ranks[f"hadamard {rank}"] for rank in (None, 64)] == [4, 64] and ranks["none None"] is None
    schema, defaults = status["ia3"]["schema"], "4 (adapter hadamard); 8 (adapter loha); 16 (adapter lokr, lora)"
    own = "from 1 to 64 with adapter hadamard; from 1 to 4096 with adapter loha"
    assert (schema["minimum"], schema["maximum"], schema["default_in_words"]) == (1, 4096, defaults)
    assert own in schema["description"] and schema["only_with"]["values"] == ["hadamard", "loha", "lokr", "lora"]
    assert own in status["ia3"]["help"] and f"(from 1 to 4096; default {defaults}; with" in status["ia3"]["help"]
    assert own in status["ia3"]["page"] and f"| {defaults} |" in status["ia3"]["page"]


@pytest.mark.parametrize("change", [{"unet.r": 1 << 40}, {"unet.r": 3}, {"unet.strange": 1}])
def test_a_description_that_does_not_fit_the_tensors_is_refused(change, folder, tmp_path, monkeypatch):
    """A rank from a stranger's file allocates nothing."""
    import customize.adapters
    from customize.errors import InputError
    from customize.inference.pipeline_loading import load_pipeline

    monkeypatch.setattr(customize.adapters, "__path__", [*customize.adapters.__path__, str(HERE / "new_adapter")])
    customize.adapters.by_peft_type.cache_clear()
    path = folder / "hadamard" / FILE
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
