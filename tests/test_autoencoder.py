"""Another autoencoder than the base model's, and inpainting models in one file, against diffusers' networks; seeds of 64 bits."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from kit import conditioning, prepared, settings_for
from PIL import Image
from safetensors.torch import save_file
from test_single_file import load, sd15, small_configs  # noqa: F401

from customize.cli.main import main
from customize.errors import InputError
from customize.families.files import autoencoder, ldm_header
from customize.families.files.autoencoder import load_autoencoder, locate_autoencoder
from customize.families.source import Source
from customize.families.specs import STABLE_DIFFUSION
from customize.inference import load_pipeline
from customize.inference.metadata.read_png import read_generation_info
from customize.inference.run import command
from customize.inference.run.grid import grid
from customize.methods import DreamBoothSettings
from customize.settings.inference import InferenceSettings
from customize.training import preflight


@pytest.fixture(scope="module")
def other(tiny_epsilon, tmp_path_factory):
    """A folder with another autoencoder for the tiny model, and that autoencoder."""
    vae = AutoencoderKL.from_pretrained(tiny_epsilon, subfolder="vae")
    for parameter in vae.parameters():
        parameter.data.mul_(0.8)
    vae.register_to_config(scaling_factor=0.3)
    vae.save_pretrained(folder := tmp_path_factory.mktemp("vae") / "other")
    return folder, vae


def test_another_autoencoder_is_used_for_decoding_and_encoding(tiny_epsilon, other):
    folder, vae = other
    options = {"num_inference_steps": 2, "scheduler": "DDIM", "output_type": "latent", "seeds": 3}
    ours, own = (load_pipeline(str(tiny_epsilon), vae=each) for each in (str(folder), None))
    latents = ours.generate("a dog", **options)
    assert torch.equal(latents, own.generate("a dog", **options)), "the latents are the UNet's"
    with torch.no_grad():
        expected = (vae.decode(latents / 0.3).sample / 2 + 0.5).clamp(0, 1)[0].permute(1, 2, 0).numpy()
    (found,) = ours.decode(latents)
    assert np.abs(np.asarray(found) / 255 - expected).max() <= 0.5 / 255 + 1e-4
    assert not np.array_equal(np.asarray(found), np.asarray(own.decode(latents)[0]))
    assert ours.family.vae.config.scaling_factor == 0.3 and not any(p.requires_grad for p in ours.family.vae.parameters())


@pytest.mark.parametrize("method", ["textual_inversion", "full"])
def test_images_are_encoded_by_another_autoencoder(method, tiny_epsilon, other, image_folder, tmp_path):
    """By its name in diffusers' scripts; a whole model is saved with it; a run is not resumed with another."""
    folder, vae = other
    whole = {"center_crop": True, "random_flip": False, "max_train_steps": 2}
    settings = settings_for(method, tiny_epsilon, image_folder, tmp_path / "run", vae=str(folder), **whole)
    context, training = prepared(settings)
    drawn = [image for image in training.dataset.images if image.stored]
    assert drawn
    for image in drawn:
        pixels = np.asarray(Image.open(image_folder / image.name))[:, 4:20]  # the centre of 24 x 16
        with torch.no_grad():
            posterior = vae.encode(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1).latent_dist
        torch.testing.assert_close(image.stored[image.first][None], posterior.parameters)
        torch.testing.assert_close(context.family.latents.sample(image.stored[image.first][None]), posterior.mean * 0.3)
    run = preflight.run(settings)
    if method == "full":
        saved = AutoencoderKL.from_pretrained(run, subfolder="vae")
        assert saved.config.scaling_factor == 0.3
        assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in vae.state_dict().items())
    again = settings.model_copy(update={"resume_from_checkpoint": "latest", "max_train_steps": 3})
    preflight.run(again)
    with pytest.raises(InputError, match="vae: was .* in the run to resume, is None now"):
        preflight.run(again.model_copy(update={"vae": None, "max_train_steps": 4}))


def test_an_autoencoder_on_the_hub_is_downloaded(other, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: asked.append((name, options)) or other[0])
    assert locate_autoencoder("somebody/sdxl-vae-fp16-fix") == other[0]
    assert asked == [("somebody/sdxl-vae-fp16-fix", {"allow_patterns": ["config.json", "diffusion_pytorch_model.safetensors"]})]
    monkeypatch.undo()
    with pytest.raises(InputError, match="vae: somebody/none is neither a local folder nor available on the hub"):
        locate_autoencoder("somebody/none")


@pytest.mark.parametrize("form", ["original", "original with its prefix", "diffusers"])
def test_autoencoders_in_one_file_arrive_bit_equal(sd15, small_configs, tmp_path, monkeypatch, form):  # noqa: F811
    pipeline, tensors = sd15
    monkeypatch.setattr(autoencoder, "CONFIGS", small_configs)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(ldm_header.VAE)}
    if form == "original":
        own = {name.removeprefix(ldm_header.VAE): tensor for name, tensor in own.items()}
    if form == "diffusers":
        own = dict(pipeline.vae.state_dict())
    save_file({name: tensor.contiguous() for name, tensor in own.items()}, tmp_path / "vae.safetensors")
    found = load_autoencoder(locate_autoencoder(str(tmp_path / "vae.safetensors")))
    for name, tensor in pipeline.vae.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


@pytest.mark.parametrize(("make", "words"), [
    (lambda folder: folder / "none", "does not exist"),
    (lambda folder: (folder / "vae.ckpt").write_bytes(b"x") and folder / "vae.ckpt", "is a pickle"),
    (lambda folder: (folder / "vae.txt").write_bytes(b"x") and folder / "vae.txt", "is not a .safetensors file"),
    (lambda folder: folder, "contains no config.json"),
    (lambda folder: save_file({"lora_x": torch.zeros(1)}, folder / "x.safetensors") or folder / "x.safetensors", "no auto"),
    (lambda folder: save_file({"encoder.down.0.x": torch.zeros(1), "decoder.conv_in.weight": torch.zeros(8, 16, 3, 3)},
                              folder / "flux.safetensors") or folder / "flux.safetensors", "16 latent channels"),
])  # fmt: skip
def test_invalid_autoencoders_are_refused_before_the_model_loads(make, words, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    path = make(tmp_path / "in")
    words_given = ["--prompt", "a", "--vae", str(path), "--output_dir", str(tmp_path / "out")]
    assert main(InferenceSettings, command.run, words_given) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_autoencoder_of_another_scale_is_refused(tiny_epsilon, tmp_path):
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(InputError, match="of 1/1 the size, the base model.s own autoencoder of 4 channels of 1/2"):
        load_pipeline(str(tiny_epsilon), vae=str(tmp_path / "vae"))
    (tmp_path / "vae/config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    with pytest.raises(InputError, match="'VQModel', not an AutoencoderKL"):
        locate_autoencoder(str(tmp_path / "vae"))


def test_an_inpainting_model_in_one_file_arrives_bit_equal_and_can_be_trained(sd15, load, small_configs, tmp_path):  # noqa: F811
    pipeline, tensors = sd15
    first = ldm_header.FIRST
    wide = torch.randn(tensors[first].shape[0], 9, 3, 3)
    family = load({**tensors, first: wide})
    assert family.unet.config.in_channels == 9 and torch.equal(family.unet.conv_in.weight, wide)
    expected = UNet2DConditionModel.from_config({**pipeline.unet.config, "in_channels": 9})
    weights = pipeline.unet.state_dict() | {"conv_in.weight": wide}
    expected.load_state_dict(weights)
    inputs = torch.randn(1, 9, 8, 8), torch.tensor([5]), torch.randn(1, 77, 12)
    with torch.no_grad():
        torch.testing.assert_close(
            family.predict(*inputs[:2], conditioning(inputs[2])).prediction, expected.eval()(*inputs).sample, rtol=0, atol=1e-4
        )
    assert STABLE_DIFFUSION.not_trainable(Source("x", file=tmp_path / "x.safetensors")) is None


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 2**63, 2**64 - 2])
def test_seeds_of_64_bits_increment_and_are_read_back(tiny_epsilon, tmp_path, capsys, seed):
    words = ["--pretrained_model_name_or_path", str(tiny_epsilon), "--prompt", "a dog", "--num_inference_steps", "1"]
    words += ["--seed", str(seed), "--num_images", "2", "--output_dir", str(tmp_path / "a")]
    assert main(InferenceSettings, command.run, words) == 0
    second = next(path for path in sorted((tmp_path / "a").glob("*.png")) if path.name.startswith("001"))
    assert read_generation_info(second).settings["seed"] == seed + 1
    assert main(InferenceSettings, command.run, ["--like", str(second), "--output_dir", str(tmp_path / "b")]) == 0
    assert "the same: all" in capsys.readouterr().out
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed + 1))
    assert torch.equal(load_pipeline(str(tiny_epsilon)).noise((16, 16), [torch.Generator().manual_seed(seed + 1)]), noise)


def test_a_random_seed_is_reported_and_stored(tiny_epsilon, tmp_path, capsys):
    words = ["--pretrained_model_name_or_path", str(tiny_epsilon), "--prompt", "a dog", "--num_inference_steps", "1"]
    seeds = set()
    for number in range(2):
        assert main(InferenceSettings, command.run, [*words, "--seed", "-1", "--output_dir", str(tmp_path / f"{number}")]) == 0
        output = capsys.readouterr().out
        (image,) = (tmp_path / f"{number}").glob("0*.png")
        seed = read_generation_info(image).settings["seed"]
        assert f"seed: {seed} (random)" in output and f"seed = {seed}" in (tmp_path / f"{number}/config.toml").read_text()
        seeds.add(seed)
    assert len(seeds) == 2 and min(seeds) >= 0


@pytest.mark.parametrize(("model", "given", "where"), [
    (InferenceSettings, {"seed": -2}, "seed"), (InferenceSettings, {"seed": 2**64}, "seed"),
    (InferenceSettings, {"seed": 2**64 - 1, "num_images": 2}, "num_images"),
    (DreamBoothSettings, {"seed": -1}, "seed"), (DreamBoothSettings, {"seed": 2**32}, "seed"),
])  # fmt: skip
def test_other_seeds_are_refused(model, given, where):
    common = {"prompt": "a"} if model is InferenceSettings else {"instance_prompt": "a", "instance_data_dir": "b"}
    with pytest.raises(InputError) as caught:
        model(**common, **given)
    assert [problem.where for problem in caught.value.problems] == [where]


def test_a_sweep_of_large_seeds_is_exact():
    found = grid(InferenceSettings(prompt="a", sweep=f"seed={2**53}..{2**53 + 3}"))
    assert [wanted.seed for wanted in found.requests] == [2**53 + i for i in range(4)]
    with pytest.raises(InputError, match="cannot be swept"):
        grid(InferenceSettings(prompt="a", sweep="seed=-1,-1"))
