"""What `import customize` offers: these names and no others, at no cost, each of which works without the command line."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kit import settings_for
from PIL import Image

import customize
from customize import events

README = Path(__file__).parent.parent / "README.md"
NAMES = {
    "DreamBoothSettings", "FromScratchSettings", "InferenceSettings", "InputError", "Interrupted", "NumericsError", "Problem",
    "ResourceError", "ScoreSettings", "TextualInversionSettings", "__version__", "check", "generate", "load_pipeline",
    "read_settings", "score", "train", "verify",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_epsilon, image_folder, tmp_path_factory):
    """(what `train` returned, the events)."""
    heard, folder = [], tmp_path_factory.mktemp("surface") / "run"
    return customize.train(settings_for("lora", tiny_epsilon, image_folder, folder, max_train_steps=2), heard.append), heard


def test_the_names_are_these():
    assert set(customize.__all__) == set(dir(customize)) == NAMES
    for name in NAMES - {"__version__"}:
        assert inspect.getdoc(getattr(customize, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        customize.nothing  # noqa: B018


def test_importing_costs_nothing():
    code = (
        "import customize, sys; print(sorted(name for name in sys.modules if name.startswith('customize')));"
        "customize.InferenceSettings, customize.check, customize.verify, customize.train, customize.generate;"
        "print('torch' in sys.modules, 'diffusers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(README.parent)})
    assert done.stdout == "['customize']\nFalse False\n", done.stderr


def test_training_returns_the_result(trained):
    result, heard = trained
    names = ["pytorch_lora_weights.safetensors", "pytorch_lora_weights_kohya.safetensors"]
    assert [*result.files] == [result.folder / name for name in names] and all(file.is_file() for file in result.files)
    assert result.steps == 2 and result.trigger_words == (result.example_prompt,) == ("a photo of sks dog",)
    steps = [each.step for each in heard if isinstance(each, events.StepDone)]
    assert steps == [1, 2] and customize.verify(result.folder)
    assert all(finding.intact for finding in customize.verify(str(result.folder)))
    damaged = result.folder / "checkpoints/step-000002/learned.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1])
    assert [each.what for each in customize.verify(result.folder) if each.intact is False] == ["checkpoints/step-000002"]
    damaged.write_bytes(content)


def test_runs_of_one_process_may_differ_in_precision(trained, tiny_epsilon, image_folder, tmp_path):
    for precision in ("bf16", "no"):
        changes = {"max_train_steps": 1, "mixed_precision": precision}
        settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / precision, **changes)
        assert customize.train(settings).steps == 1


def test_a_callback_of_the_caller_may_stop_the_run(tiny_epsilon, image_folder, tmp_path):
    from customize.training.loop import Callback, Stop

    class Enough(Callback):
        def after_step(self, state, metrics):
            return Stop("enough") if state.step == 3 else None

    result = customize.train(settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run"), callbacks=[Enough()])
    assert result.steps == 3 and result.files[0].is_file()


def test_a_run_may_be_started_from_another_thread(tiny_epsilon, image_folder, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", max_train_steps=1)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(customize.train, settings).result().steps == 1


def test_a_chain_starts_from_the_image_that_is_given_whatever_its_name(tiny_epsilon, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for name in ("000.png", "other.png"):
        Image.fromarray(pixels).save(name)
    common = {"pretrained_model_name_or_path": str(tiny_epsilon), "prompt": "a dog", "num_images": 2, "chain": 2,
              "batch_size": 1, "num_inference_steps": 2}  # fmt: skip
    found = [
        [np.asarray(each.image) for each in customize.generate(customize.InferenceSettings(image=name, **common))]
        for name in ("000.png", "other.png")
    ]
    assert len(found[0]) == 4 and all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


def test_images_equal_those_of_the_command_and_have_its_metadata(trained, tiny_epsilon, tmp_path, monkeypatch, capfd):
    from customize.cli.commands import infer

    monkeypatch.chdir(tmp_path)
    given = {"weights": [trained[0].folder], "prompt": "a sks dog", "num_images": 2, "num_inference_steps": 2, "batch_size": 1}
    heard = []
    images = customize.generate(customize.InferenceSettings(**given), heard.append)
    first = next(images)
    assert heard[-1] == events.DenoisingStep(3, 6) and list(tmp_path.iterdir()) == []  # PNDM asks three times in two steps
    second = next(images)
    assert next(images, None) is None
    assert [(each.prompts, each.seed, each.settings.num_inference_steps) for each in (first, second)] == [
        (("a sks dog",), 0, 2), (("a sks dog",), 1, 2)
    ]  # fmt: skip
    assert capfd.readouterr().out == ""
    first.save(tmp_path / "own.png")
    words = ["--weights", str(trained[0].folder), "--prompt", "a sks dog", "--num_images", "2", "--num_inference_steps", "2"]
    assert infer([*words, "--batch_size", "1", "--output_dir", "out"]) == 0
    for image, name in ((first, "000.png"), (second, "001.png")):
        assert np.array_equal(np.asarray(image.image), np.asarray(Image.open(tmp_path / "out" / name)))
        seed = json.loads(image.metadata["customize"])["settings"]["seed"]
        assert f"{seed:03d}.png" == name
    capfd.readouterr()
    assert infer(["--like", "own.png", *words[:2], "--output_dir", "again"]) == 0, capfd.readouterr().err
    assert np.array_equal(np.asarray(Image.open("again/000.png")), np.asarray(first.image))
    again = customize.read_settings(customize.InferenceSettings, like="own.png", weights=given["weights"])
    assert np.array_equal(np.asarray(next(customize.generate(again)).image), np.asarray(first.image))


def test_all_problems_are_returned_or_raised_at_once(tiny_epsilon, image_folder, tmp_path):
    good = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run")
    assert customize.check(good) == ()
    bad = settings_for("lora", tmp_path / "none", tmp_path / "nowhere", tmp_path / "run")
    found = customize.check(bad)
    assert sorted(each.where.split(" ")[0] for each in found) == ["instance_data_dir", "pretrained_model_name_or_path"]
    with pytest.raises(customize.InputError) as caught:
        customize.train(bad)
    assert set(caught.value.problems) == set(found) and not (tmp_path / "run").exists()
    request = customize.InferenceSettings(prompt="a", image=str(tmp_path / "no.png"), weights=[tmp_path / "none"])
    with pytest.raises(customize.InputError) as caught:
        customize.generate(request)
    assert caught.value.problems == customize.check(request) and len(caught.value.problems) == 2
    with pytest.raises(customize.InputError, match="at least|not in|above|below|1"):
        customize.InferenceSettings(prompt="a", num_images=0)


def test_the_readme_s_lines_run(tiny_epsilon, tmp_path, monkeypatch):
    """As they stand, but for fewer steps."""
    (snippet,) = re.findall(r"## In Python\n.*?```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    short, count = re.subn(r"max_train_steps=\d+", "max_train_steps=1, validation_prompt=(), report_to='none'", snippet)
    short, times = re.subn(r"num_images=(\d+)", r"num_images=\1, num_inference_steps=1", short)
    assert count == times == 1
    (tmp_path / "customize").symlink_to(README.parent / "customize")
    monkeypatch.chdir(tmp_path)
    exec(compile(short, "README.md", "exec"), {})
    assert len(list(tmp_path.glob("*.png"))) == 4 and (tmp_path / "runs").is_dir()


def test_the_lines_of_the_documentation_run(tmp_path, monkeypatch):
    """As they stand, one after another, but for fewer steps."""
    text = (README.parent / "docs/inference.md").read_text(encoding="utf-8").partition("## In Python\n")[2]
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(snippets) == 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for snippet in snippets:
        short, count = re.subn(
            r"(num_images=4|guidance_scale=4|record=trace|strength=0.6\))", r"\1, num_inference_steps=2", snippet
        )
        assert count == 1
        exec(compile(short, "inference.md", "exec"), names)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"cat-{seed}.png" for seed in range(4)]
