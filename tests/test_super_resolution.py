"""Super-resolution: the x4 upscaler as a base model, and stages that enlarge the images of a run, one model after the other."""

import io
import json
import shutil
import tomllib
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionUpscalePipeline
from models import tiny_deepfloyd_if, tiny_upscaler
from PIL import Image

from customize.cli import commands
from customize.errors import InputError
from customize.families import locate
from customize.families.specs import spec_of
from customize.inference import load_pipeline
from customize.inference.run.grid import grid
from customize.inference.run.model_checks import completed
from customize.inference.run.upscaling import staged
from customize.settings.inference import InferenceSettings

PROMPT = "a photo of sks dog"
SMALL = Image.fromarray(np.random.default_rng(3).integers(0, 256, (12, 16, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_epsilon) -> dict[str, str]:
    """Folders of stage I, stage II and the x4 upscaler."""
    folder = tmp_path_factory.mktemp("stages")
    (folder / "own").mkdir()
    stages = {name: tiny_deepfloyd_if(folder / name, stage) for stage, name in ((1, "IF-I"), (2, "IF-II"))}
    return {name: str(path) for name, path in {**stages, "x4": tiny_upscaler(folder / "x4", Path(tiny_epsilon))}.items()}


def test_the_upscaler_is_stock(models):
    stock = StableDiffusionUpscalePipeline.from_pretrained(models["x4"])
    stock.set_progress_bar_config(disable=True)
    options = {"negative_prompt": "blue house", "guidance_scale": 9.0, "num_inference_steps": 4, "noise_level": 50}

    def theirs(output_type: str):
        generator = torch.Generator().manual_seed(3)
        return stock(PROMPT, image=SMALL, generator=generator, output_type=output_type, **options).images

    ours = load_pipeline(models["x4"])
    found = ours.generate(PROMPT, low_res_image=SMALL, seeds=3, output_type="latent", **options)
    torch.testing.assert_close(found, theirs("latent"), rtol=0, atol=1e-4)
    (image,) = ours.generate(PROMPT, low_res_image=SMALL, seeds=3, **options)
    assert image.size == (64, 48)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(theirs("pil")[0])).max() <= 1


def test_the_upscaler_knows_its_limits(models, image_folder, tmp_path, capsys):
    with pytest.raises(InputError, match="is above 350"):
        load_pipeline(models["x4"]).generate(PROMPT, low_res_image=SMALL, noise_level=400)
    words = ["--pretrained_model_name_or_path", models["x4"], "--instance_prompt", PROMPT]
    assert commands.check([str(image_folder), *words]) == 2
    assert "can enlarge images, but cannot be trained here" in capsys.readouterr().out


def test_guidance_is_usual_for_the_base_model(models):
    usual = {"IF-I": 7.0, "IF-II": 4.0, "x4": 9.0}
    for name, scale in usual.items():
        source = locate(models[name])
        assert spec_of(source).guidance_scale(source) == scale and spec_of(source).enlarges(source) == (name != "IF-I")
    hub = {"DeepFloyd/IF-I-XL-v1.0": 7.0, "DeepFloyd/IF-II-L-v1.0": 4.0, "stabilityai/stable-diffusion-x4-upscaler": 9.0}
    for name, scale in {**hub, "stabilityai/stable-diffusion-2-1": 7.5}.items():
        assert spec_of(locate(name)).guidance_scale(locate(name)) == scale
    base = {"prompt": "a", "pretrained_model_name_or_path": models["IF-I"]}
    assert completed(InferenceSettings(**base)).guidance_scale == 7.0
    assert completed(InferenceSettings(**base, image="a.png")).guidance_scale == 10.0
    assert completed(InferenceSettings(**base, image="a.png", mask_image="m.png")).guidance_scale == 7.0
    assert completed(InferenceSettings(**base, guidance_scale=7.5)).guidance_scale == 7.5
    assert completed(InferenceSettings(prompt="a")).guidance_scale == 7.5


@pytest.fixture(scope="module")
def run(models, tmp_path_factory) -> Path:
    """Two images of three stages. The file `said` beside them has what the command printed."""
    folder = tmp_path_factory.mktemp("run")
    words = ["--pretrained_model_name_or_path", models["IF-I"], "--prompt", PROMPT, "--num_images", "2", "--seed", "4"]
    stages = ["--upscalers", f"{models['IF-II']},timesteps=999,700,300,0", f"{models['x4']},noise_level=30,guidance_scale=3"]
    said = io.StringIO()
    with redirect_stdout(said):
        assert commands.infer([*words, "--num_inference_steps", "3", *stages, "--output_dir", str(folder)]) == 0
    (folder / "said").write_text(said.getvalue())
    return folder


def test_the_command_says_what_each_stage_does(models, run):
    said = (run / "said").read_text()
    assert "images    2, the base model's own size, 3 denoising steps each" in said
    assert "each enlarged by IF-II, then by x4: 6 images in all" in said
    stages = f"{models['IF-II']},timesteps=999,700,300,0 {models['x4']},noise_level=30,guidance_scale=3"
    assert f"--upscalers {stages} --seed 6" in said


def test_each_stage_enlarges_the_image_before(models, run):
    images = [Image.open(run / f"{number:03d}.png") for number in range(6)]
    assert [image.size for image in images] == [(16, 16), (16, 16), (64, 64)] * 2
    assert not (run / "006.png").exists() and (run / "sheet.png").exists()
    (first,) = load_pipeline(models["IF-I"]).generate(PROMPT, guidance_scale=7.0, num_inference_steps=3, seeds=5)
    options = {"low_res_image": first, "guidance_scale": 4.0, "timesteps": [999, 700, 300, 0], "seeds": 5}
    (second,) = load_pipeline(models["IF-II"]).generate(PROMPT, **options)
    options = {"low_res_image": second, "guidance_scale": 3.0, "noise_level": 30, "num_inference_steps": 3, "seeds": 5}
    (third,) = load_pipeline(models["x4"]).generate(PROMPT, **options)
    for found, expected in zip(images[3:], (first, second, third), strict=True):
        assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= 1  # the batch changes last bits


def test_metadata_say_how_each_was_made(run):
    stored = [json.loads(Image.open(run / f"{number:03d}.png").text["customize"])["settings"] for number in range(6)]
    assert [each["pretrained_model_name_or_path"] for each in stored] == ["IF-I", "IF-II", "x4"] * 2
    assert [each.get("low_res_image") for each in stored] == [None, "000.png", "001.png", None, "003.png", "004.png"]
    assert [each["guidance_scale"] for each in stored[:3]] == [7.0, 4.0, 3.0]
    assert [each["timesteps"] for each in stored[:3]] == [None, "999,700,300,0", None] and stored[2]["noise_level"] == 30


def test_the_configuration_reproduces_images_that_a_stopped_run_lacks(run, tmp_path):
    config = tomllib.loads((run / "config.toml").read_text())
    assert len(config["inference"]["upscalers"]) == 2 and config["inference"]["guidance_scale"] == 7.0
    again = shutil.copytree(run, tmp_path / "again")
    for number in (0, 2, 4, 5):
        (again / f"{number:03d}.png").unlink()
    assert commands.infer([str(again / "config.toml"), "--skip_existing", "--output_dir", str(again)]) == 0
    for number in range(6):
        assert Image.open(again / f"{number:03d}.png").tobytes() == Image.open(run / f"{number:03d}.png").tobytes()


def test_an_image_of_a_stage_is_made_again(run, tmp_path, capsys):
    """Its model and the image before it are found by their names in its metadata."""
    assert commands.infer(["--like", str(run / "002.png"), "--output_dir", str(tmp_path)]) == 0
    assert "the same: all" in capsys.readouterr().out


def test_a_stage_keeps_what_is_not_of_the_first_model(models):
    """Encoded prompts are those of a text encoder, which the x4 upscaler does not share."""
    first = InferenceSettings(
        prompt="a", pretrained_model_name_or_path=models["IF-I"], prompt_embeddings="e.safetensors", timesteps="smart27",
        scheduler="Euler", seed=3, upscalers=[models["IF-II"], f"{models['x4']},prompt=b,scheduler=none,seed=4"],
    )  # fmt: skip
    (first, second, third) = staged(grid(first)).requests
    assert second.settings.prompt_embeddings == "e.safetensors" and third.settings.prompt_embeddings is None
    assert (second.prompts, second.seed, second.settings.scheduler) == (("a",), 3, "Euler")
    assert (third.prompts, third.seed, third.settings.scheduler) == (("b",), 4, None)
    assert first.settings.timesteps == "smart27" and second.settings.timesteps is third.settings.timesteps is None


def test_only_one_model_is_in_memory(models, tmp_path, monkeypatch):
    """When a stage's model is loaded, the networks of the one before have no data any more."""
    from customize.inference.run import generate

    loaded, kept = [], []

    def load(*args, **options):
        kept.append([p.device.type for each in loaded for n in each.family.components.values() for p in n.parameters()])
        loaded.append(load_pipeline(*args, **options))
        return loaded[-1]

    monkeypatch.setattr(generate, "load_pipeline", load)
    words = ["--pretrained_model_name_or_path", models["IF-I"], "--prompt", PROMPT, "--num_inference_steps", "1"]
    assert commands.infer([*words, "--upscalers", models["IF-II"], models["x4"], "--output_dir", str(tmp_path)]) == 0
    assert len(loaded) == 3 and kept[0] == [] and {*kept[1]} == {*kept[2]} == {"meta"} and len(kept[2]) > len(kept[1])


def test_from_an_image_with_a_mask_every_stage_keeps_the_rest(models, tmp_path):
    photo = Image.fromarray(np.random.default_rng(8).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    photo.save(tmp_path / "photo.png")
    Image.fromarray(np.pad(np.full((8, 16), 255, np.uint8), ((0, 8), (0, 0)))).save(tmp_path / "mask.png")
    words = ["--pretrained_model_name_or_path", models["IF-I"], "--prompt", PROMPT, "--num_inference_steps", "2"]
    given = ["--image", str(tmp_path / "photo.png"), "--mask_image", str(tmp_path / "mask.png"), "--upscalers", models["IF-II"]]
    assert commands.infer([*words, *given, "--output_dir", str(tmp_path / "run")]) == 0
    for name in ("000.png", "001.png"):
        found = np.asarray(Image.open(tmp_path / "run" / name))
        assert (found[8:] == np.asarray(photo)[8:]).all() and (found[:8] != np.asarray(photo)[:8]).any()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--upscalers", "IF-II,nois_level=3"), "nois_level is not a setting"),
        (("--upscalers", "IF-II,noise_level=x"), "'x' is not a whole number"),
        (("--upscalers", "IF-II,noise_level=5000"), "5000 is not"),
        (("--upscalers", "IF-I"), "upscalers: IF-I: low_res_image is for super-resolution models, and IF-I is none"),
        (("--upscalers", "nowhere/at/all"), "upscalers: no folder nowhere/at/all"),
        (("--upscalers", "IF-II", "--image", "small.png", "--chain", "2"), "cannot be combined with chain"),
        (("--low_res_image", "small.png"), "low_res_image: is for super-resolution models, and"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_loads(models, words, what, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(Path(models["IF-I"]).parent)
    SMALL.save("small.png")
    base = ["--pretrained_model_name_or_path", "IF-I", "--prompt", PROMPT, "--output_dir", str(tmp_path / "out")]
    assert commands.infer([*base, *words]) == 2
    assert what in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_model_that_enlarges_needs_an_image(models, tmp_path, capsys):
    words = ["--pretrained_model_name_or_path", models["IF-II"], "--prompt", PROMPT, "--output_dir", str(tmp_path / "out")]
    assert commands.infer(words) == 2
    assert "low_res_image: is missing" in capsys.readouterr().err and not (tmp_path / "out").exists()
    SMALL.save(tmp_path / "small.png")
    assert commands.infer([*words, "--low_res_image", str(tmp_path / "small.png"), "--num_inference_steps", "1"]) == 0
    stored = json.loads(Image.open(tmp_path / "out" / "000.png").text["customize"])["settings"]
    assert stored["low_res_image"] == "small.png" and stored["guidance_scale"] == 4.0 and stored["noise_level"] is None
