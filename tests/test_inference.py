"""Learned weights into a pipeline, as stock loaders would, and what is refused; infer.py from settings to files."""

import errno
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from kit import conditioning
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from customize import families
from customize.adapters.lora import Adapter
from customize.cli.main import read
from customize.errors import InputError, Interrupted, NumericsError, ResourceError
from customize.inference import load_pipeline
from customize.inference.metadata.read_png import read_generation_info
from customize.inference.run import command
from customize.inference.run import generate as drawing
from customize.settings.inference import InferenceSettings
from customize.storage import ownership
from customize.storage.resources import resources
from customize.weights.learned_weights import find_learned

PROMPT = "a photo of <toy> dog"


def metadata(base: Path, *words: str) -> dict[str, str]:
    return {"customize": json.dumps({"base_model": str(base), "method": "test", "trigger_words": words})}


def embeddings(file: Path, base: Path, vectors: dict[str, Tensor]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(vectors, file, metadata(base, *vectors))
    return file


def vectors(rows: int, width: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.05


def lora(folder: Path, base: Path, seed: int = 0, text_encoder: bool = True, **changes) -> Path:
    """A run folder with an adapter whose every weight is random."""
    options = {"lora_targets": ("attention",), "rank": 4, "lora_alpha": 3.0, "lora_dropout": 0.0}
    options |= {"use_rslora": False, "use_dora": False, "save_precision": "fp32", "lora_format": "both", "rank_pattern": ()}
    options |= {"init_lora_weights": "gaussian", "tlora_min_rank": None}
    family, adapter = families.load(families.locate(str(base))), Adapter()
    networks = [family.unet, family.text_encoder] if text_encoder else [family.unet]
    generator = torch.Generator().manual_seed(seed)
    settings = SimpleNamespace(**{**options, "seed": seed, **changes})
    for network in networks:
        adapter.attach([network], settings, family.lora_targets)
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    adapter.save(folder, family, metadata(base, "sks"), settings)
    return folder


@pytest.fixture(scope="module")
def run(tiny_epsilon, tmp_path_factory) -> Path:
    """The folder of a LoRA run."""
    return lora(tmp_path_factory.mktemp("runs") / "lora", tiny_epsilon)


def stock(base: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def assert_same_picture(ours, theirs, prompt: str = PROMPT) -> None:
    """The same latents within 1e-4, and the same picture within 1/255."""
    generator = torch.Generator().manual_seed(2)
    expected = theirs(prompt, num_inference_steps=3, generator=generator, output_type="latent").images
    latents = ours.generate(prompt, num_inference_steps=3, seeds=2, output_type="latent")
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-4)
    decoded = theirs.vae.decode(expected / theirs.vae.config.scaling_factor).sample
    (picture,) = theirs.image_processor.postprocess(decoded, output_type="pil")
    assert np.abs(np.asarray(ours.decode(latents)[0], dtype=int) - np.asarray(picture, dtype=int)).max() <= 1


def differs(ours, others, prompt: str = PROMPT) -> bool:
    latents = [p.generate(prompt, num_inference_steps=2, seeds=2, output_type="latent") for p in (ours, others)]
    return bool((latents[0] - latents[1]).abs().max() > 1e-3)


def test_embeddings_as_stock_loaders_read_them(tiny_epsilon, tmp_path):
    embeddings(tmp_path / "learned_embeds_toy.safetensors", tiny_epsilon, {"<toy>": vectors(3)})
    embeddings(tmp_path / "learned_embeds_other.safetensors", tiny_epsilon, {"<other>": vectors(1, seed=1)})
    ours = load_pipeline(None, [(tmp_path, 1.0)])
    assert ours.trigger_words == ("<other>", "<toy>")
    theirs = stock(tiny_epsilon)
    for file in sorted(tmp_path.iterdir()):
        theirs.load_textual_inversion(str(file))
    assert_same_picture(ours, theirs, "a photo of <toy> and <other>")
    assert differs(ours, load_pipeline(str(tiny_epsilon)), "a photo of <toy>")


def test_the_scale_of_an_embedding_multiplies_its_vectors(tiny_epsilon, tmp_path):
    file = embeddings(tmp_path / "learned_embeds.safetensors", tiny_epsilon, {"<toy>": vectors(2)})
    theirs = stock(tiny_epsilon)
    theirs.load_textual_inversion({"<toy>": 0.5 * vectors(2)})
    assert_same_picture(load_pipeline(None, [(file, 0.5)]), theirs)


def test_an_embedding_of_a1111_is_called_by_its_file_name(tiny_epsilon, tmp_path):
    file = tmp_path / "my-toy.safetensors"
    save_file({"emb_params": vectors(2)}, file)
    ours = load_pipeline(str(tiny_epsilon), [(file, 1.0)])
    assert ours.family.text_encoders[0].placeholders == {"my-toy": ("my-toy", "my-toy_1")}


@pytest.mark.parametrize(
    "changes", [{"use_rslora": True, "text_encoder": False}, {"use_dora": True}, pytest.param({}, marks=pytest.mark.slow)]
)
def test_an_adapter_as_stock_loaders_read_it(tiny_epsilon, tmp_path, changes):
    lora(tmp_path, tiny_epsilon, **changes)
    ours, theirs = load_pipeline(None, [(tmp_path, 0.6)]), stock(tiny_epsilon)
    theirs.load_lora_weights(tmp_path, adapter_name="it")
    theirs.set_adapters(["it"], [0.6])
    if "use_dora" in changes:  # transformers starts the text encoder's magnitudes anew: compare the UNet alone
        hidden_states = theirs.encode_prompt("a dog", "cpu", 1, False)[0]
        latents, time = torch.zeros(1, 4, 8, 8), torch.tensor([500])
        expected = theirs.unet(latents, time, hidden_states)[0]
        torch.testing.assert_close(
            ours.family.predict(latents, time, conditioning(hidden_states)).prediction, expected, rtol=0, atol=1e-5
        )
    else:
        assert_same_picture(ours, theirs)
    assert differs(ours, load_pipeline(str(tiny_epsilon)))


def test_every_tensor_of_an_adapter_is_in_its_module(tiny_epsilon, tmp_path):
    folder = lora(tmp_path, tiny_epsilon, use_dora=True)
    networks = load_pipeline(None, [(folder, 1.0)]).family
    tensors = load_file(folder / "pytorch_lora_weights.safetensors")
    assert sum("magnitude" in name for name in tensors) == 40
    for name, tensor in tensors.items():
        part, _, place = name.partition(".")
        module, _, kind = place.partition(".lora_")
        layer = getattr(networks, part).get_submodule(module.removeprefix("text_model."))
        assert torch.equal(getattr(layer, f"lora_{kind.split('.')[0]}")["adapter_0"].weight, tensor)
        assert layer.scaling["adapter_0"] == 3 / 4


def test_several_weights_at_once(tiny_epsilon, run, tmp_path):
    embeddings(tmp_path / "ti" / "learned_embeds.safetensors", tiny_epsilon, {"<toy>": vectors(2)})
    second = lora(tmp_path / "second", tiny_epsilon, seed=5, text_encoder=False, rank=2)
    ours = load_pipeline(None, [(run, 0.8), (tmp_path / "ti", 1.0), (second, -0.4)])
    assert ours.trigger_words == ("sks", "<toy>")
    theirs = stock(tiny_epsilon)
    theirs.load_textual_inversion(str(tmp_path / "ti"))
    theirs.load_lora_weights(run, adapter_name="first")
    theirs.load_lora_weights(second, adapter_name="second")
    theirs.set_adapters(["first", "second"], [0.8, -0.4])
    assert_same_picture(ours, theirs)


def test_dropout_of_an_adapter_is_off(tiny_epsilon, tmp_path):
    ours = load_pipeline(None, [(lora(tmp_path, tiny_epsilon, lora_dropout=0.5), 1.0)])
    assert not differs(ours, ours)
    assert not any(parameter.requires_grad for network in ours.family.components.values() for parameter in network.parameters())


def test_a_complete_folder_is_a_base_of_its_own(tiny_v, tmp_path):
    shutil.copytree(tiny_v, tmp_path, dirs_exist_ok=True)
    (tmp_path / "customize.json").write_text(json.dumps({"trigger_words": ["sks"]}))
    ours = load_pipeline(None, [(tmp_path, 1.0)])
    assert (ours.family.prediction_type, ours.trigger_words) == ("v_prediction", ("sks",))
    with pytest.raises(InputError, match="is a base model itself"):
        load_pipeline("demo", [(tiny_v, 1.0)])


def broken(tensors: dict[str, Tensor], number: float) -> dict[str, Tensor]:
    first = next(iter(tensors))
    return {**tensors, first: torch.full_like(tensors[first], number)}


@pytest.mark.parametrize(
    ("name", "tensors", "words"),
    [
        ("learned_embeds.safetensors", {"<toy>": vectors(2, width=48)}, ["48 wide", "32 wide"]),
        ("learned_embeds.safetensors", broken({"<toy>": vectors(1)}, float("nan")), ["NaN", "<toy>"]),
        ("learned_embeds.safetensors", broken({"<toy>": vectors(1)}, float("inf")), ["infinity"]),
        ("learned_embeds.safetensors", {"<toy>": torch.ones(2, 32, dtype=torch.int32)}, ["I32", "<toy>"]),
        ("learned_embeds.safetensors", {"<toy>": torch.ones(2, 32, 1)}, ["neither"]),
        ("learned_embeds.safetensors", {"dog": vectors(1)}, ["'dog'", "already"]),
        ("other.safetensors", {f"unet.conv.lora_{side}.weight": vectors(2) for side in "AB"}, ["all tensors"]),
        ("other.safetensors", {"model.diffusion_model.conv": vectors(2)}, ["--pretrained_model_name_or_path"]),
        (
            "other.safetensors",
            {"lora_unet_nothing.lora_down.weight": vectors(2)},
            ["all tensors do not fit", "lora_unet_nothing"],
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(tiny_epsilon, tmp_path, name, tensors, words):
    file = embeddings(tmp_path / name, tiny_epsilon, tensors)
    with pytest.raises(InputError) as caught:
        load_pipeline(str(tiny_epsilon), [(file, 1.0)])
    assert caught.value.problems[0].where in ("weights", str(file))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("change", ["shape", "strange", "missing"])
def test_a_partly_fitting_adapter_lists_what_is_left_out(tiny_epsilon, run, tmp_path, change):
    tensors = load_file(run / "pytorch_lora_weights.safetensors")
    key = sorted(tensors)[-1]
    if change == "missing":
        del tensors[key.replace("lora_B", "lora_A")]
    elif change == "strange":
        tensors[key := "unet.somewhere.else.lora_A.weight"] = vectors(4)
    else:
        tensors[key] = torch.zeros(7, tensors[key].shape[1])
    file = embeddings(tmp_path / "lora.safetensors", tiny_epsilon, tensors)
    with pytest.raises(InputError) as caught:
        load_pipeline(None, [(file, 1.0)])
    assert key in str(caught.value) and str(tiny_epsilon) in str(caught.value)
    ours = load_pipeline(None, [(file, 1.0)], partial=True)
    assert len(ours.notes) == 1 and key in ours.notes[0]
    assert differs(ours, load_pipeline(str(tiny_epsilon)))


def test_invalid_safetensors_files_are_refused_all_at_once(tmp_path):
    torch.save({"<toy>": torch.zeros(1)}, tmp_path / "a.bin")
    torch.save({"<toy>": torch.zeros(1)}, tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "empty").mkdir()
    missing = tmp_path / "d.safetensors"
    names = ["a.bin", "b.safetensors", "c.safetensors", "empty", "d.safetensors"]
    with pytest.raises(InputError) as caught:
        find_learned(None, [(tmp_path / name, 1.0) for name in names])
    assert len(caught.value.problems) == 5
    assert all(str(tmp_path / name) in str(problem) for name, problem in zip(names, caught.value.problems, strict=True))
    assert "pickle" in str(caught.value.problems[0]) and "pickle" in str(caught.value.problems[1])
    assert not missing.exists()


def test_the_base_model_is_the_one_that_the_weights_name(tiny_epsilon, tiny_v, tmp_path):
    first = embeddings(tmp_path / "first.safetensors", tiny_v, {"<toy>": vectors(1)})
    assert load_pipeline(None, [(first, 1.0)]).family.prediction_type == "v_prediction"
    second = embeddings(tmp_path / "second.safetensors", tiny_epsilon, {"<other>": vectors(1)})
    with pytest.raises(InputError, match="different base models"):
        find_learned(None, [(first, 1.0), (second, 1.0)])
    assert find_learned("demo", [(first, 1.0), (second, 1.0)]).base == "demo"
    lost = embeddings(tmp_path / "lost.safetensors", tmp_path / "gone", {"<toy>": vectors(1)})
    with pytest.raises(InputError, match="which was not found"):
        load_pipeline(None, [(lost, 1.0)])
    with pytest.raises(InputError, match="define <toy>"):
        find_learned("demo", [(first, 1.0), (lost, 1.0)])


def settings(**values) -> InferenceSettings:
    return InferenceSettings(**{"num_inference_steps": 3, "seed": 4, **values})


def pixels(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(file)) for file in sorted(folder.glob("[0-9][0-9][0-9].png"))]


def test_the_command_writes_images_that_can_be_reproduced(tiny_epsilon, run, tmp_path):
    from customize.settings.files import toml_file

    source = tmp_path / "start.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)).save(source)
    asked = settings(
        weights=[f"{run}:0.5"], prompt=["a sks dog", "a häuschen"], num_images=2, batch_size=3, image=str(source),
        negative_prompt="red", scheduler="EulerAncestralDiscreteScheduler", output_dir=str(tmp_path / "out"),
        strength=0.9, trace=True,
    )  # fmt: skip
    command.run(asked)
    out = tmp_path / "out"
    names = [f"{i:03d}{end}" for i in range(4) for end in ("-trace.gif", "-trace.png", ".png")]
    assert sorted(contents(out)) == [*names, "config.toml", "sheet.png", "trace.jsonl"]
    first, *_, last = pixels(out)
    assert first.shape == (12, 24, 3) and not np.array_equal(first, last)

    text = Image.open(out / "003.png").text
    content = (run / "pytorch_lora_weights.safetensors").read_bytes()
    by_a1111 = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()[:12]
    assert text["parameters"].splitlines() == [
        f"a häuschen <lora:{run.name}:0.5>", "Negative prompt: red",
        f"Steps: 3, Sampler: Euler a, CFG scale: 7.5, Seed: 5, Size: 24x12, Model: {tiny_epsilon.name}, "
        f'Denoising strength: 0.9, Lora hashes: "{run.name}: {by_a1111}", Version: customize 0.1.0',
    ]  # fmt: skip
    facts = json.loads(text["customize"])
    assert facts["settings"]["prompt"] == ["a häuschen"] and facts["settings"]["seed"] == 5
    assert facts["base_model"] == tiny_epsilon.name and len(facts["weights"][0]["sha256"]) == 64

    values, _ = toml_file.read(out / "config.toml")
    assert values.pop("trace") and values.pop("trace_decode") == "linear" and not values.pop("trace_page")
    command.run(InferenceSettings(**{**values, "output_dir": str(tmp_path / "again")}))
    assert all(map(np.array_equal, pixels(out), pixels(tmp_path / "again")))
    alone = InferenceSettings(**read_generation_info(out / "003.png").settings, output_dir=str(tmp_path / "alone"))
    command.run(alone)
    assert np.abs(pixels(tmp_path / "alone")[0].astype(int) - last.astype(int)).max() <= 1

    lines = [json.loads(line) for line in (out / "trace.jsonl").read_text().splitlines()]
    assert [(line["image"], line["step"]) for line in lines] == [(i, step) for i in range(4) for step in range(2)]
    assert all(line["guidance_norm"] > 0 and line["latents_norm"] > 0 for line in lines)


def test_numbering_continues_and_files_of_the_user_are_kept(tiny_epsilon, tmp_path, monkeypatch, capsys, terminal):
    def ask(folder, **values):
        values |= {"pretrained_model_name_or_path": str(tiny_epsilon), "prompt": ["a dog"], "output_dir": str(folder)}
        command.run(settings(**values))

    out = tmp_path / "out"
    ask(out)
    first = contents(out)
    with pytest.raises(InputError, match="not closed"):
        ask(out, overwrite_output_dir=True, negative_prompt="(dog")
    with pytest.raises(InputError, match="scheduler"):
        ask(out, scheduler="Nothing")
    assert contents(out) == first
    ask(out, num_images=2)
    assert {name: data for name, data in contents(out).items() if name in first} == first
    assert contents(out).keys() - first.keys() == {"001.png", "002.png", "config-001.toml", "sheet-001.png"}
    (out / "001.png").write_bytes(b"mine")
    capsys.readouterr()
    ask(out, overwrite_output_dir=True, num_inference_steps=2)
    output = (
        f"overwrite_output_dir removes 5 files of earlier runs in {out}: 000.png, 002.png, config-001.toml, config.toml, sheet"
    )
    assert output in capsys.readouterr().out
    assert sorted(contents(out)) == ["001.png", "002.png", "config.toml"] and (out / "001.png").read_bytes() == b"mine"

    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("001.png", "002.png", "003.png", "holiday.jpg", "config.toml"):
        (photos / name).write_bytes(b"mine")
    monkeypatch.chdir(photos)
    ask(Path("."), overwrite_output_dir=True)
    assert {name for name, data in contents(photos).items() if data == b"mine"} == {
        "001.png", "002.png", "003.png", "holiday.jpg", "config.toml",
    }  # fmt: skip
    assert (photos / "004.png").is_file() and (photos / "config-004.toml").is_file() and len(contents(photos)) == 7
    with pytest.raises(InputError, match="looks like a file name"):
        ask(photos / "holiday.jpg", overwrite_output_dir=True)


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder but for the record of what was written there."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ownership.NAME}


def test_without_output_dir_each_run_has_a_new_folder(tiny_epsilon, tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images/0006-of-mine").mkdir(parents=True)
    for prompt in ("A dog, in the (snow:1.3)!", "犬"):
        command.run(settings(pretrained_model_name_or_path=str(tiny_epsilon), prompt=[prompt], num_inference_steps=1))
    with pytest.raises(InputError, match="scheduler"):
        command.run(settings(pretrained_model_name_or_path=str(tiny_epsilon), prompt=["a"], scheduler="Nothing"))
    assert sorted(os.listdir("images")) == ["0006-of-mine", "0007-a-dog-in-the-snow-1-3", "0008"]
    assert "images/0007-a-dog-in-the-snow-1-3" in capsys.readouterr().out
    assert 'output_dir = "images/0008"' in Path("images/0008/config.toml").read_text()


def test_the_command_reports_all_problems_before_torch_is_imported(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"PK\x03\x04")
    code = (
        "import sys; from customize.inference.run import command; from customize.settings.inference import InferenceSettings\n"
        "from customize.errors import InputError\n"
        "try: command.run(InferenceSettings(prompt=['a'], weights=['bad.safetensors', 'none'], image='no.png'))\n"
        "except InputError as error: print(len(error.problems), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "False"]
    assert [path.name for path in tmp_path.iterdir()] == ["bad.safetensors"]


def test_a_full_memory_or_disk_is_a_resource_error():
    for error in (torch.OutOfMemoryError("CUDA out of memory"), OSError(28, "No space left on device")):
        with pytest.raises(ResourceError), resources("for memory", "for disk"):
            raise error
    with pytest.raises(RuntimeError, match="shape"), resources("for memory", "for disk"):
        raise RuntimeError("shape mismatch")


def test_a_missing_trigger_word_is_noted(tiny_epsilon, run, tmp_path, capsys, terminal):
    for prompt, noted in (("a sks dog", False), ("a dog", True)):
        drawing.PipelineCache().load(settings(weights=[str(run)], prompt=[prompt], output_dir=str(tmp_path / "out")))
        assert ("sks" in capsys.readouterr().err) == noted


def test_files_added_meanwhile_are_kept(tiny_epsilon, tmp_path, monkeypatch, capsys, terminal):
    """The image has another name, then; none is lost."""
    generate = drawing.generate_batch

    def meanwhile(*arguments):
        (tmp_path / "out/001.png").write_text("mine")
        (tmp_path / "out/sheet.png").write_text("mine")
        return generate(*arguments)

    monkeypatch.setattr(drawing, "generate_batch", meanwhile)
    values = {"pretrained_model_name_or_path": str(tiny_epsilon), "output_dir": str(tmp_path / "out"), "num_inference_steps": 1}
    command.run(settings(prompt=["a dog"], num_images=2, **values))
    assert (tmp_path / "out/001.png").read_text() == (tmp_path / "out/sheet.png").read_text() == "mine"
    assert sorted(contents(tmp_path / "out")) == ["000.png", "001-2.png", "001.png", "config.toml", "sheet-2.png", "sheet.png"]
    assert "001-2.png is written instead" in capsys.readouterr().err


def test_a_signal_that_a_library_takes_for_its_own_failure_stops_the_job():
    with pytest.raises(Interrupted) as caught, command.raised_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Interrupted as error:
            raise OSError("the file cannot be loaded") from error
    assert caught.value.signal == signal.SIGTERM
    with pytest.raises(OSError, match="cannot be loaded"), command.raised_signals():
        raise OSError("the file cannot be loaded")


@pytest.mark.parametrize(
    "stop", ["SIGTERM", "disk", *(pytest.param(stop, marks=pytest.mark.slow) for stop in ("SIGINT", "numbers"))]
)
def test_a_stopped_job_keeps_its_images_and_can_be_completed(stop, tiny_epsilon, tmp_path, monkeypatch):
    values = {"pretrained_model_name_or_path": str(tiny_epsilon), "prompt": ["a dog", "a cat"], "num_images": 3, "batch_size": 2}
    command.run(settings(**values, output_dir=str(tmp_path / "whole")))
    generate, calls = drawing.generate_batch, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            if stop == "disk":
                raise OSError(errno.ENOSPC, "No space left on device")
            if stop == "numbers":
                raise NumericsError("NaN")
            os.kill(os.getpid(), getattr(signal, stop))
        return generate(*arguments)

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises((Interrupted, ResourceError, NumericsError)) as caught:
        patch.setattr(drawing, "generate_batch", stopping)
        command.run(settings(**values, output_dir=str(out)))
    command_line = f"python infer.py {out / 'config.toml'} --skip_existing"
    assert f"2 of 6 images are finished, in {out}; for the rest, run:\n    {command_line}" in str(caught.value)
    assert sorted(contents(out)) == ["000.png", "001.png", "config.toml"]
    kept = contents(out)
    again, _ = read(InferenceSettings, shlex.split(command_line)[2:])
    command.run(again)
    assert {name: data for name, data in contents(out).items() if name in kept} == kept
    assert all(map(np.array_equal, pixels(out), pixels(tmp_path / "whole"))) and len(pixels(out)) == 6
    assert sorted(contents(out)) == sorted(contents(tmp_path / "whole"))
    with pytest.raises(InputError, match="has no job with these settings"):
        command.run(again.model_copy(update={"seed": 99}))


def test_a_job_of_the_page_that_is_stopped_as_soon_as_it_runs_is_stopped_and_its_worker_lives(tmp_path, monkeypatch):
    from customize.jobs import drawing as page_drawing
    from customize.jobs import job_folder

    job = job_folder.Job(tmp_path / "0001-a", "infer", (str(tmp_path / "config.toml"),))
    job.path.mkdir()
    (tmp_path / "config.toml").write_text('prompt = "a"')
    monkeypatch.setattr(page_drawing.device, "describe", lambda which: os.kill(os.getpid(), signal.SIGTERM))
    killed: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: killed.append(number))
    try:
        page_drawing.draw(tmp_path, job)
    finally:
        signal.signal(signal.SIGTERM, before)
    found = job_folder.read(job.path)
    assert found and (found.state, found.exit_status, found.message, killed) == ("stopped", 143, "stopped", [])
