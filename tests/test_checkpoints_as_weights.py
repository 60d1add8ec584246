"""A checkpoint can be used like a result: loaded by infer.py, it predicts what the networks in training did."""

from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from kit import METHODS, prepared, settings_for, train_loop
from safetensors import safe_open

from customize.errors import InputError
from customize.evaluation.verify_result import prediction_of
from customize.inference.pipeline_loading import load_pipeline
from customize.settings.files import sharing
from customize.storage import checkpoint, run_folder
from customize.training import model_card
from customize.training.callbacks import Checkpoints
from customize.weights.learned_weights import find_learned

KINDS = {
    "textual_inversion": {},
    "lora": {"train_text_encoder": True, "lora_targets": ("attention", "conv1")},
    "full": {"train_text_encoder": True},
    "dora": {"use_dora": True, "train_text_encoder": True},
    "rslora": {"use_rslora": True},
    "pivotal": {"train_text_encoder": True},
}


@pytest.fixture(scope="module")
def run(tiny_epsilon, image_folder, tmp_path_factory):
    """By kind: (the run's folder with checkpoints of steps 1 and 2, a prediction under what it taught, its prompt)."""
    made = {}

    def make(kind: str) -> tuple[Path, torch.Tensor, str]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            method = kind if kind in (*METHODS, "pivotal") else "lora"
            settings = settings_for(
                method, tiny_epsilon, image_folder, folder, max_train_steps=2, learning_rate=1e-2, **KINDS[kind]
            )
            context, training = prepared(settings)
            about = partial(model_card.metadata, settings, training.method, context.family)
            saves = Checkpoints(folder / "checkpoints", 1, None, lambda step: {**training.method.description(), **about(step)})
            (folder / "config.toml").write_text(settings.to_toml())
            train_loop(settings, training, context.accelerator, 2, [saves])
            training.method.eval()
            prompt = training.method.example_prompt
            made[kind] = folder, prediction_of(context.family, prompt), prompt
        return made[kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["checkpoints/step-000002", "checkpoints/step-000002/learned.safetensors", "."])
def test_a_checkpoint_predicts_what_the_run_did(kind, path, run):
    """The folder, its file, and the folder of a run that has no result yet."""
    folder, expected, prompt = run(kind)
    learned = find_learned(None, [(str(folder / path), 1.0)])
    [output] = learned.summaries
    assert "checkpoint of step 2, " in output and ("<new>" if kind == "pivotal" else prompt.split()[-1]) in output
    pipeline = load_pipeline(None, [(str(folder / path), 1.0)])
    torch.testing.assert_close(prediction_of(pipeline.family, prompt), expected, rtol=0, atol=1e-5)
    earlier = load_pipeline(None, [(str(folder / "checkpoints/step-000001"), 1.0)])
    assert (prediction_of(earlier.family, prompt) - expected).abs().max() > 1e-4


def test_a_run_and_a_step(run, tmp_path):
    """RUN@2 is what step 2 is; a step that is not there is refused; a folder that has such a name is itself."""
    import shutil

    folder, expected, prompt = run("lora")
    pipeline = load_pipeline(None, [(f"{folder}@2", 1.0)])
    torch.testing.assert_close(prediction_of(pipeline.family, prompt), expected, rtol=0, atol=1e-5)
    for path in (f"{folder}@3", f"{folder}/@3"):
        with pytest.raises(InputError, match=r"has no weights of step 3\n.*give one of its steps: 1, 2"):
            find_learned(None, [(path, 1.0)])
    with pytest.raises(InputError, match="no file or folder .*elsewhere@1"):
        find_learned(None, [(tmp_path / "elsewhere@1", 1.0)])
    named = shutil.copytree(folder, tmp_path / "cat@1")
    assert "step 2" in find_learned(None, [(named, 1.0)]).summaries[0]
    assert "step 1" in find_learned(None, [(f"{named}@1", 1.0)]).summaries[0]
    saved = shutil.copytree(folder, tmp_path / "saved")
    (saved / "weights").mkdir()
    (saved / "checkpoints/step-000001").rename(saved / "weights/step-000003")
    (saved / "customize.json").write_text('{"steps": 4}')
    at_step = run_folder.at_step
    assert [at_step(Path(f"{saved}@{step}")).name for step in (2, 3, 4)] == ["step-000002", "step-000003", "saved"]
    (saved / "config.toml").write_text(f'weights = ["{saved}@3:0.5"]')
    assert sharing.local_places(saved) == {"step-000003": f"{saved}/weights/step-000003"}


def test_diffusers_loads_it_as_well(run, tiny_epsilon):
    folder, expected, prompt = run("lora")
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_epsilon, safety_checker=None)
    pipeline.load_lora_weights(folder / "checkpoints/step-000002", weight_name="learned.safetensors")
    pipeline.unet.eval()
    from customize.families.stable_diffusion import StableDiffusion

    parts = (getattr(pipeline, name) for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"))
    found = prediction_of(StableDiffusion("tiny", tiny_epsilon, *parts), prompt)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_step_of_a_checkpoint_is_reported(run):
    folder, *_ = run("lora")
    for step in (1, 2):
        with safe_open(folder / f"checkpoints/step-{step:06d}/learned.safetensors", "pt") as file:
            assert f'"steps": {step}' in file.metadata()["customize"]


def test_a_damaged_one_is_refused_and_an_earlier_one_taken_for_the_run(run, tmp_path):
    import shutil

    folder = shutil.copytree(run("textual_inversion")[0], tmp_path / "run")
    file = folder / "checkpoints/step-000002/state.json"
    file.write_bytes(file.read_bytes()[:-1] + b" ")
    with pytest.raises(InputError, match="state.json has changed since it was written"):
        find_learned(None, [(str(file.parent), 1.0)])
    assert "step 1" in find_learned(None, [(str(folder), 1.0)]).summaries[0]
    (folder / "checkpoints/step-000001/manifest.json").unlink()
    with pytest.raises(InputError, match="no result yet, and none of its checkpoints is intact: step-000002, step-000001"):
        find_learned(None, [(str(folder), 1.0)])


def test_whole_networks_have_no_scale_and_one_base(run, tiny_v):
    path = str(run("full")[0] / "checkpoints/step-000002")
    with pytest.raises(InputError, match="is a fully trained network, which has no scale"):
        find_learned(None, [(path, 0.5)])
    with pytest.raises(InputError, match="several fully trained networks"):
        find_learned(None, [(path, 1.0), (path, 1.0)])


def test_networks_of_another_shape_are_refused(run, tmp_path, tiny_epsilon):
    from safetensors.torch import load_file, save_file

    path = run("full")[0] / "checkpoints/step-000002/learned.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["unet.conv_in.weight"] = torch.zeros(3)
    save_file(tensors, tmp_path / "other.safetensors", metadata)
    with pytest.raises(InputError, match="tensors do not fit this base model: unet.conv_in.weight"):
        load_pipeline(str(tiny_epsilon), [(str(tmp_path / "other.safetensors"), 1.0)])


def test_names_in_files_are_those_of_the_result(run, tmp_path, tiny_epsilon, image_folder):
    """The tensors of a checkpoint are those of `pytorch_lora_weights.safetensors`, by name and to the bit."""
    from safetensors.torch import load_file

    from customize.adapters import build

    for kind in ("lora", "dora"):
        settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path, lora_format="diffusers", **KINDS[kind])
        context, training = prepared(settings)
        (tmp_path / kind).mkdir()
        [result] = build("lora").save(tmp_path / kind, context.family, {}, settings)
        path = checkpoint.save(
            tmp_path / kind / "checkpoints", checkpoint.Checkpoint(1, training.method.trainable_state_dict(), {})
        )
        saved, kept = load_file(result), load_file(path / "learned.safetensors")
        assert saved.keys() == kept.keys()
        assert all(torch.equal(saved[name], kept[name]) for name in saved)
