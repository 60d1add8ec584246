"""The demo model's training: its optimizer, its two stages, and exact resuming."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from customize.data.samples.latent_dataset import EpochSampler, SampleConfig
from customize.demo.pretraining import stages, train
from customize.demo.pretraining.conv_muon import Muon, orthogonal, parameter_groups
from customize.demo.pretraining.denoiser import DECAY, EvenSamples, Pretraining
from customize.demo.pretraining.settings import DemoSettings
from customize.demo.pretraining.tiny_autoencoder import Autoencoder, PixelDataset, encode, measure, on_axes, standardise
from customize.demo.pretraining.tiny_networks import TINY, build_vae
from customize.demo.pretraining.tokenizer import build_tokenizer
from customize.demo.world import renderings
from customize.demo.world.world import Spec, World
from customize.diffusion.process import DiscreteSchedule
from customize.errors import NumericsError
from customize.families.source import DEMO

COLOURS = ("white", "yellow", "pink", "blue")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, list[Spec]]:
    """Stand-ins for renderings, so that no font is needed: plain colours with a square on them."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("demo") / "data"
    pixels = np.repeat(rng.integers(0, 256, (64, 1, 1, 3), np.uint8), 64, 1).repeat(64, 2)
    pixels[:, 20:44, 20:44] = rng.integers(0, 256, (64, 1, 1, 3), np.uint8)
    specs = [Spec("car", "plain", colour="red", backdrop=COLOURS[i % 4]) for i in range(64)]
    folder.mkdir()
    np.save(folder / "pixels.npy", pixels)
    (folder / "specs.jsonl").write_text("\n".join(json.dumps(spec.to_dict()) for spec in specs), encoding="utf-8")
    return folder, *renderings.load(folder)


def demo_settings(folder: Path, steps: int, **changes) -> DemoSettings:
    small = {"size": "tiny", "num_pictures": 64, "autoencoder_batch_size": 2, "train_batch_size": 2}
    gate = {"minimum_psnr": 0.0, "minimum_explained": -1000.0}
    everything = {
        **small,
        **gate,
        "autoencoder_steps": steps,
        "max_train_steps": steps,
        "checkpointing_steps": 1,
        **changes,
    }
    return DemoSettings(output_dir=str(folder), **everything)


def test_orthogonal_keeps_the_singular_vectors_and_levels_the_values() -> None:
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    for found in (orthogonal(matrix), orthogonal(matrix.T).T):
        values = (left.T @ found @ right.T).diagonal()
        assert 0.6 < values.min() and values.max() < 1.3
        assert torch.allclose(found, left @ torch.diag(values) @ right, atol=1e-4)


def test_muons_other_group_is_adamw() -> None:
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    group = {"params": [ours], "lr": 0.01, "orthogonal": False}
    optimizers = Muon([group]), torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.98), weight_decay=0)
    for step in range(5):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = torch.sin(parameter.detach() * (step + 1))
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_every_parameter_is_in_one_group() -> None:
    vae = build_vae(TINY)
    inner, outer = (group["params"] for group in parameter_groups([vae], 1.0, 0.1))
    assert len(inner) + len(outer) == len(list(vae.parameters()))
    assert all(parameter.ndim >= 2 for parameter in inner)
    assert any(parameter is vae.encoder.conv_in.weight for parameter in outer)


def test_autoencoder_learns(rendered) -> None:
    torch.manual_seed(0)
    method = Autoencoder(build_vae(TINY))
    optimizer = Muon(parameter_groups([method.vae], 0.01, 0.005))
    batches = PixelDataset(rendered[1], (4, 16, 16), seed=0, batch_size=4, steps=20)
    losses = []
    for _ in range(20):
        loss = method(batches.deal(0, range(4))[0])
        assert loss.shape == (4,)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.mean().item())
    assert losses[-1] < 0.6 * losses[0]


def test_standardised_latents_decode_as_before(rendered) -> None:
    torch.manual_seed(1)
    vae, pixels = build_vae(TINY).eval(), rendered[1]
    before = measure(vae, pixels[:8])
    standardise(vae, pixels)
    mean, log_variance = encode(vae, pixels).chunk(2, 1)
    assert torch.allclose(mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(mean.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    assert log_variance.max() == log_variance.min()
    assert measure(vae, pixels[:8]).psnr == pytest.approx(before.psnr, abs=0.01)


def test_the_quality_check_names_what_is_too_low(rendered) -> None:
    quality = measure(build_vae(TINY), rendered[1][:8])
    with pytest.raises(NumericsError, match="psnr="):
        quality.check(25.0, 0.9)


def test_axes_of_grey_and_of_pure_colours() -> None:
    colours = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 1, 0]]).T[None, :, :, None]
    luma, red_blue, green_magenta = on_axes(colours)[0, :, :, 0]
    assert torch.allclose(luma, torch.tensor([1.0, 0.299, 0.587]))
    assert torch.allclose(red_blue, torch.tensor([0.0, 0.5, 0.0]))
    assert torch.allclose(green_magenta, torch.tensor([0.0, -0.25, 0.5]))


def test_both_stages_stopped_and_resumed_give_the_same_bits(rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, pixels, specs = rendered
    tokenizer = build_tokenizer(tmp_path / "words", 50)
    monkeypatch.setattr(stages, "build_tokenizer", lambda folder: tokenizer)
    results = []
    for name, stops in (("whole", ()), ("stopped", (1, 2))):
        for stop in stops:
            monkeypatch.setattr(stages, "train", stopping(stop))
            with pytest.raises(KeyboardInterrupt):
                train_both(demo_settings(tmp_path / name, 3), pixels, specs)
        monkeypatch.undo()
        monkeypatch.setattr(stages, "build_tokenizer", lambda folder: tokenizer)
        train_both(demo_settings(tmp_path / name, 3), pixels, specs)
        results.append({part: load_file(file) for part, file in weights(tmp_path / name).items()})
    for part, tensors in results[0].items():
        assert all(torch.equal(tensor, results[1][part][key]) for key, tensor in tensors.items()), part
    assert not [file for file in (tmp_path / "whole/model").rglob("*.json") if str(tmp_path) in file.read_text()]


def test_a_trained_model_can_be_trained_further(rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the earlier weights, not from new ones: one step at almost no learning rate leaves them almost as they were."""
    tokenizer = build_tokenizer(tmp_path / "words", 50)
    monkeypatch.setattr(stages, "build_tokenizer", lambda folder: tokenizer)
    train_both(demo_settings(tmp_path / "first", 2), *rendered[1:])
    settings = demo_settings(tmp_path / "second", 1, initial_model=str(tmp_path / "first/model"), learning_rate=1e-6)
    run(settings, rendered[0])
    before, after = (weights(tmp_path / name) for name in ("first", "second"))
    for part, file in after.items():
        found, expected = load_file(file), load_file(before[part])
        assert all(torch.allclose(tensor, expected[key], atol=2e-3) for key, tensor in found.items()), part
    assert not (tmp_path / "second/autoencoder").exists()


@pytest.mark.slow
def test_a_decoder_is_trained_further_and_its_latents_stay(rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = build_tokenizer(tmp_path / "words", 50)
    monkeypatch.setattr(stages, "build_tokenizer", lambda folder: tokenizer)
    train_both(demo_settings(tmp_path / "first", 2), *rendered[1:])
    first = str(tmp_path / "first/model")
    run(demo_settings(tmp_path / "second", 2, initial_model=first, learning_rate=1e-3, decoder_steps=2), rendered[0])
    before, after = (load_file(weights(tmp_path / name)["vae"]) for name in ("first", "second"))
    changed = {name.partition(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"decoder", "post_quant_conv"}
    run(demo_settings(tmp_path / "without", 2, initial_model=first, learning_rate=1e-3), rendered[0])
    for part in ("unet", "text_encoder"):  # does not notice
        found, expected = (load_file(weights(tmp_path / name)[part]) for name in ("second", "without"))
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_noise_levels_of_a_step_are_spread_evenly_and_each_is_uniform(rendered, tmp_path: Path) -> None:
    """Variational Diffusion Models, appendix I.1: within a step one in each of its parts; over the steps all alike."""
    config, schedule = SampleConfig(seed=3, global_batch=8), DiscreteSchedule(torch.linspace(1, 0, 1000))
    samples = EvenSamples.__new__(EvenSamples)
    samples.config, samples.sampler = config, EpochSampler("world", config, 4, [1] * 4)
    samples.family = SimpleNamespace(schedule=schedule)
    found = torch.stack([samples.timesteps(step, range(8)) for step in range(400)])
    assert found.min() >= 0 and found.max() < 1000
    assert (found.sort().values // 125 == torch.arange(8)).float().mean() > 0.98  # but for a rounded edge
    assert found[:, 3].double().mean() == pytest.approx(499.5, abs=40)
    assert torch.equal(samples.timesteps(7, range(2, 5)), found[7, 2:5])


def test_the_average_of_the_weights_is_that_of_the_formula(tmp_path: Path) -> None:
    """Against a loop in float64; the first update counts the initial weights with 2/11."""
    torch.manual_seed(5)
    method = Pretraining(stages.untrained(demo_settings(tmp_path, 1), build_vae(TINY), tmp_path / "tokenizer"))
    watched = {"unet": "conv_in.weight", "text_encoder": "final_layer_norm.bias"}
    now = {part: method.networks[part].get_parameter(name) for part, name in watched.items()}
    expected = {part: tensor.detach().double() for part, tensor in now.items()}
    for step in range(1, 6):
        with torch.no_grad():
            for parameter in method.networks.parameters():
                parameter.add_(torch.randn_like(parameter))
        method.after_step()
        decay = min(DECAY, (1 + step) / (10 + step))
        expected = {part: decay * mean + (1 - decay) * now[part].detach().double() for part, mean in expected.items()}
    for part, name in watched.items():
        average = method.average.module[part].get_parameter(name)
        torch.testing.assert_close(average.double(), expected[part], rtol=0, atol=1e-6)
        assert not torch.equal(average, now[part]) and not average.requires_grad
    kept = {name: tensor.clone() for name, tensor in method.trainable_state_dict().items()}
    another = Pretraining(stages.untrained(demo_settings(tmp_path, 1, seed=9), build_vae(TINY), tmp_path / "tokenizer"))
    another.load_trainable_state_dict(kept)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in another.trainable_state_dict().items())
    assert kept["average.n_averaged"] == 6


def test_no_caption_is_longer_than_the_text_encoder_reads() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(DEMO / "tokenizer")
    world = World(effects=("outline", "pixelated", "contrast", "posterised"), styled=1.0)
    captions = [text for index in range(1000) for text in world.captions(world.spec(3, index), 3, index)]
    assert max(map(len, tokenizer(captions).input_ids)) <= tokenizer.model_max_length


def train_both(settings: DemoSettings, pixels: np.ndarray, specs: list[Spec]) -> None:
    folder = Path(settings.output_dir)
    vae = stages.train_autoencoder(settings, pixels, folder / "autoencoder")
    stages.train_denoiser(settings, World(), stages.untrained(settings, vae, folder / "tokenizer"), pixels, specs, folder)


def run(settings: DemoSettings, data: Path) -> None:
    """The whole command, on pictures that are drawn already."""
    shutil.copytree(data, Path(settings.output_dir) / "data")
    train.run(settings)


def stopping(calls: int) -> Callable:
    """The trainer, killed after the second step of its `calls`-th run: a checkpoint of the first step is there."""
    real, count = stages.train, iter(range(100))

    class Kill(stages.Callback):
        def after_step(self, state, record) -> None:
            if state.step == 2:
                raise KeyboardInterrupt

    def train(settings, method, batches, callbacks, *others, **named):
        last = next(count) == calls - 1
        return real(settings, method, batches, [*callbacks, Kill()] if last else callbacks, *others, **named)

    return train


def weights(folder: Path) -> dict[str, Path]:
    return {
        "vae": folder / "model/vae/diffusion_pytorch_model.safetensors",
        "unet": folder / "model/unet/diffusion_pytorch_model.safetensors",
        "text_encoder": folder / "model/text_encoder/model.safetensors",
    }
