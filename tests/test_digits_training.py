"""Training a model of digits from scratch: its data, its three processes, its command, and resuming."""

import gzip
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from customize.cli import commands
from customize.cli.main import read
from customize.data.digit_images import digit_examples
from customize.data.findings import Findings
from customize.data.samples.latent_dataset import CachedImage, EpochSampler, LatentDataset, SampleConfig
from customize.families import load
from customize.families.conditioning import Crop
from customize.families.digits.digit_unet import DigitUNet
from customize.inference import load_pipeline
from customize.methods import FromScratchSettings
from customize.methods.from_scratch import FromScratch
from customize.training.callbacks import JsonlLogger

UNET = "unet/diffusion_pytorch_model.safetensors"


def pixels(count=20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """A folder of IDX files, one of them compressed, beside a test set that is not used."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte").write_bytes(idx(pixels()))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(20, dtype=np.uint8) % 10))
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(pixels(3)))
    return folder


def found_in(folder=None, dataset=None):
    findings = Findings()
    examples = digit_examples(folder and str(folder), dataset, findings)
    return examples, [f"{problem.where}: {problem.what}" for problem in findings.problems]


def test_idx_files_are_read(mnist):
    def check():
        examples, problems = found_in(mnist)
        assert not problems and [example.captions for example in examples] == [(str(i % 10),) for i in range(20)]
        assert all(np.array_equal(np.asarray(each.open())[..., 1], own) for each, own in zip(examples, pixels(), strict=True))

    check()
    path = mnist / "train-images-idx3-ubyte"
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    labels = mnist / "train-labels-idx1-ubyte"
    labels.rename(f"{labels}.gz")
    (mnist / f"{labels.name}.gz").write_bytes(gzip.compress(idx(np.arange(20, dtype=np.uint8) % 10)))
    check()


@pytest.mark.parametrize(
    "images, labels, report",
    [
        (idx(pixels())[:-1], None, "15,679 bytes of data, but 15,680 by its header"),
        (b"\x89PNG", None, "is not an IDX file of bytes with 3 axes"),
        (struct.pack(">I3I", 0x803, 1 << 31, 28, 28), None, "too many, or too large"),
        (gzip.compress(idx(pixels()))[:-20], None, "is incomplete"),
        (None, idx(np.zeros(19, np.uint8)), "20 images, train-labels-idx1-ubyte 19 labels"),
        (None, idx(np.full(20, 10, np.uint8)), "has the label 10, which is not a digit"),
    ],
)
def test_a_bad_idx_file_is_one_problem(mnist, images, labels, report):
    for name, content in ("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels):
        if content is not None:
            (mnist / name).write_bytes(content)
    examples, [problem] = found_in(mnist)
    assert not examples and report in problem


def test_the_npm_package_is_read(tmp_path):
    folder, images = tmp_path / "src/digits", pixels(10)
    folder.mkdir(parents=True)
    for digit, image in enumerate(images):
        (folder / f"{digit}.json").write_text(json.dumps({"data": [round(v / 255, 3) for v in image.ravel().tolist()]}))
    examples, problems = found_in(tmp_path)
    assert not problems and [example.name for example in examples] == [f"{digit}/00000" for digit in range(10)]
    assert all(np.array_equal(np.asarray(each.open())[..., 0], own) for each, own in zip(examples, images, strict=True))
    (folder / "3.json").write_text('{"data": [0.5, 2]}')
    assert "3.json is not a list of images" in found_in(tmp_path)[1][0]
    assert "there is no such folder" in found_in(tmp_path / "nowhere")[1][0]
    (tmp_path / "empty").mkdir()
    assert "it has neither IDX files" in found_in(tmp_path / "empty")[1][0]


def test_a_dataset_is_read(tmp_path):
    import datasets

    images = [Image.fromarray(image) for image in pixels(4)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    datasets.Dataset.from_dict({"image": images, "label": [3, 1, 4, 1]}, features).save_to_disk(tmp_path / "data")
    examples, problems = found_in(None, (str(tmp_path / "data"), None, "image", "label"))
    assert not problems and [example.captions[0] for example in examples] == ["3", "1", "4", "1"]
    assert "has no column 'digit' with labels" in found_in(None, (str(tmp_path / "data"), None, "image", "digit"))[1][0]


def test_scikit_learn_has_digits():
    examples, problems = found_in()
    assert not problems and len(examples) == 1797 and examples[0].captions == ("0",)
    array = np.asarray(examples[0].open())
    assert array.shape == (28, 28, 3) and not array[:4].any() and not array[:, 24:].any() and array[4:24, 4:24].max() > 200


def settings_of(line: str) -> FromScratchSettings:
    return read(FromScratchSettings, line.split())[0]


def family_of(line: str):
    return load(settings_of(line).untrained)


def loss_of(line: str):
    """(the losses of three samples, their digits, noise and timesteps, the network as a function), all in float64."""
    settings = settings_of(f"{line} --channels 8")
    family, config = load(settings.untrained).to(torch.float64), SampleConfig(0, 3)
    stored = 2 * torch.rand(1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    images = [CachedImage("x", ("7",), {0: stored}, [Crop.whole(28, 28)])]
    [batch] = LatentDataset(family, config, EpochSampler("digit", config, 1, [1]), images).deal(0, range(3))
    batch = replace(batch, noise=batch.noise.double())
    labels = torch.eye(10, dtype=torch.float64)[[7] * 3][:, : family.unet.config.num_classes]
    losses = FromScratch(family, family.encode_prompts, settings)(batch)
    return losses, batch.latents, batch.noise, batch.timesteps, lambda noisy, time: family.unet(noisy, time, labels)


@torch.no_grad()
def test_each_process_trains_what_its_paper_says():
    """The loss on one batch, written out: Ho et al. 2020, equation 14; Lipman et al. 2023, equation 23; a denoiser."""

    def same(losses, output, target):
        torch.testing.assert_close(losses, (output - target).square().mean((1, 2, 3)), rtol=1e-4, atol=0)

    losses, x, noise, t, network = loss_of("--process ddpm")
    assert x.min() >= 0 and x.max() <= 1
    bars = (1 - torch.linspace(1e-4, 0.02, 300).double()).cumprod(0)[t].view(-1, 1, 1, 1)
    same(losses, network(bars.sqrt() * x + (1 - bars).sqrt() * noise, t / 300), noise)
    losses, x, noise, t, network = loss_of("--process flow")
    part = (t / 1000).view(-1, 1, 1, 1)
    same(losses, network((1 - part) * x + part * noise, t / 1000), noise - x)
    losses, x, noise, t, network = loss_of("--process denoiser --noise_level 0.5")
    same(losses, network((x + 0.5 * noise) / 1.25**0.5, t), x)


def test_settings_imply_the_network():
    assert settings_of("").untrained.untrained["unet"] == {"channels": 32, "num_classes": 10, "takes_time": True}
    denoiser = settings_of("--process denoiser --channels 8")
    assert denoiser.untrained.untrained["unet"] == {"channels": 8, "num_classes": 0, "takes_time": False}
    assert denoiser.sample_inference_steps == 1 and denoiser.default_validation_prompts == ("",)
    one, same, other = (family_of(f"--channels 8 --seed {seed}").unet.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["first.0.weight"], other["first.0.weight"])


def test_what_has_no_meaning_is_refused(mnist, tmp_path, capsys):
    words = ["--train_data_dir", str(mnist), "--output_dir", str(tmp_path / "run")]
    for given in (["--clip_skip", "1"], ["--noise_level", "1"], ["--validation_prompt", "a cat"], ["--resolution", "32"]):
        assert commands.train_digits([*words, *given]) == 2
        assert given[0].strip("-") in (report := capsys.readouterr().err) or "names no digit" in report
    assert commands.train_digits(["--train_data_dir", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "run").exists()


def test_a_killed_run_resumes_to_the_same_bits_and_its_result_draws(mnist, tmp_path, capsys):
    words = ["--train_data_dir", str(mnist), "--channels", "8", "--train_batch_size", "4", "--num_train_epochs", "2",
             "--lr_warmup_steps", "2", "--sample_inference_steps", "2", "--report_to", "none",
             "--validation_prompt", "3"]  # fmt: skip
    assert commands.train_digits([*words, "--dry_run", "--output_dir", str(tmp_path / "dry")]) == 0
    parameters = sum(each.numel() for each in DigitUNet(8).parameters())
    assert f"{parameters:,} parameters" in capsys.readouterr().out and not (tmp_path / "dry").exists()
    assert commands.train_digits([*words, "--output_dir", str(tmp_path / "whole")]) == 0
    out = capsys.readouterr().out
    assert "verified: predictions differ by 0.0e+00" in out and "customize score" not in out
    assert commands.verify([str(tmp_path / "whole")]) == 0

    with pytest.MonkeyPatch.context() as patch:

        def fail(self, state, metrics):
            if state.step == 6:
                raise RuntimeError

        patch.setattr(JsonlLogger, "after_step", fail)
        assert commands.train_digits([*words, "--output_dir", str(tmp_path / "killed")]) == 1
    assert commands.train_digits([*words, "--output_dir", str(tmp_path / "killed"), "--resume_from_checkpoint", "latest"]) == 0
    whole, resumed = (load_file(tmp_path / name / UNET) for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tmp_path / "whole/samples/step-000005/000.png").exists() and (tmp_path / "whole/samples/step-000010/000.png").exists()
    [image] = load_pipeline(str(tmp_path / "whole")).generate("3", num_inference_steps=2, seeds=0)
    assert image.size == (28, 28)


def test_a_run_reports_what_came_of_it_without_a_base_model(mnist, tmp_path, capsys):
    words = ["--train_data_dir", str(mnist), "--channels", "8", "--train_batch_size", "90", "--max_train_steps", "3",
             "--lr_warmup_steps", "0", "--validation_prompt", "none", "--report_to", "none",
             "--output_dir", str(tmp_path / "run")]  # fmt: skip
    assert commands.train_digits(words) == 0
    out = capsys.readouterr().out
    assert "relative to random weights, the loss is" in out and "note:" not in out and "customize score" not in out
    report = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert "<b>digits</b>: from scratch: flow matching" in report and "relative to the loss of random weights" in report
    assert "infer --weights run" in report.replace("infer.py", "infer")
    assert "base model" not in report and "customize score" not in report and "find-lr" not in report
    assert commands.score([str(tmp_path / "run")]) == 2
    [what, remedy] = capsys.readouterr().err.splitlines()[1:]
    assert "run began with random weights: there is no base model" in what and remedy.endswith("/run --prompt 9")
