"""Cross-attention maps equal the attention weights, and recording them changes no image."""

import io

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image

from customize.families import load, locate
from customize.inference.estimates import mixed
from customize.inference.explain.attention import (  # fmt: skip
    LEVELS,
    AttentionMaps,
    WordMaps,
    averaged,
    cross_attention,
    heat_gif,
    heat_levels,
    heat_sheet,
    overlay,
    words,
)
from customize.inference.illusions.components import hybrid
from customize.inference.illusions.illusion_estimates import Factorised
from customize.inference.pipeline import Pipeline
from customize.inference.request import Composition
from customize.prompts import plain

PROMPTS = ["a red car, a tree", "the zworgl house"]
SHORT = {"num_inference_steps": 2, "scheduler": "DDIMScheduler"}


@pytest.fixture
def pipeline(tiny_epsilon) -> Pipeline:
    return Pipeline(load(locate(str(tiny_epsilon))))


def recorded(pipeline: Pipeline, prompts, options=(), **how) -> tuple[AttentionMaps, list[Image.Image]]:
    with AttentionMaps(pipeline.family, prompts, **dict(options)) as maps:
        images = pipeline.generate(prompts, record=maps, **{**SHORT, "seeds": range(len(prompts)), **how})
    return maps, images


def inputs_of_layers(pipeline: Pipeline, prompts, **how) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """What each cross-attention layer outside of the middle was given: [layers][calls](hidden states, text)."""
    unet = pipeline.family.unet
    blocks = [block for part in (unet.down_blocks, unet.up_blocks) for block in part if hasattr(block, "attentions")]
    layers = [layer.transformer_blocks[0].attn2 for block in blocks for layer in block.attentions]
    given: list[list] = [[] for _ in layers]
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, options, calls=calls: calls.append((args[0], options["encoder_hidden_states"])), with_kwargs=True
        )
        for layer, calls in zip(layers, given, strict=True)
    ]
    pipeline.generate(prompts, **{**SHORT, "seeds": range(len(prompts)), **how})
    for hook in hooks:
        hook.remove()
    assert [id(layer) for layer in layers] == [id(layer) for layer in cross_attention(pipeline.family)]
    return given


def weight_of(linear) -> torch.Tensor:
    """The weight in float64, with LoRA's change added."""
    weight = (linear.base_layer if hasattr(linear, "base_layer") else linear).weight.double()
    for name in getattr(linear, "lora_A", {}):
        weight = weight + linear.scaling[name] * linear.lora_B[name].weight.double() @ linear.lora_A[name].weight.double()
    return weight


def by_hand(layer, hidden_states: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) in float64, one head after the other: the mean [rows, h * w, L] of the heads."""
    query, key = hidden_states.double() @ weight_of(layer.to_q).T, text.double() @ weight_of(layer.to_k).T
    width = query.shape[-1] // layer.heads
    total = torch.zeros(())
    for head in range(layer.heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[..., part] @ key[..., part].mT / width**0.5
        shares = (scores - scores.amax(-1, keepdim=True)).exp()
        total = total + shares / shares.sum(-1, keepdim=True)
    return total / layer.heads


def tokens_by_hand(pipeline: Pipeline, call: int, prompts, **how) -> torch.Tensor:
    """[rows, L, 8, 8]: all layers of the tiny model see 8 x 8, as the latents are."""
    layers = cross_attention(pipeline.family)
    given = inputs_of_layers(pipeline, prompts, **how)
    each = [by_hand(layer, *calls[call]) for layer, calls in zip(layers, given, strict=True)]
    return torch.stack(each).mean(0).mT.unflatten(2, (8, 8))


@pytest.mark.parametrize("lora", [False, True])
def test_maps_equal_the_attention_weights(pipeline, lora):
    if lora:
        torch.manual_seed(0)
        config = LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
        inject_adapter_in_model(config, pipeline.family.unet)
    maps, _ = recorded(pipeline, PROMPTS, guidance_scale=3.0)
    for step in range(2):
        tokens = tokens_by_hand(pipeline, step, PROMPTS, guidance_scale=3.0)
        torch.testing.assert_close(tokens.sum(1), torch.ones(4, 8, 8, dtype=torch.float64))
        for image, prompt in enumerate(PROMPTS):
            words_in = words(pipeline.family, plain(prompt).clauses[0].at(0, 1))
            expected = torch.stack([tokens[2 + image, list(word.places)].sum(0) for word in words_in])
            assert maps.of(image).words == tuple(word.text for word in words_in)
            torch.testing.assert_close(maps.of(image).maps[step].double(), expected, rtol=0, atol=2e-6)


def test_the_maps_of_all_tokens_sum_to_one(pipeline):
    maps = AttentionMaps(pipeline.family, PROMPTS)
    with maps:
        pipeline.generate(PROMPTS, **SHORT, record=lambda moment: None)
    tokens = averaged([torch.cat(recorded) for recorded in maps.recorded], (8, 8))
    assert tokens.shape == (8, 77, 8, 8) and tokens.min() >= 0
    torch.testing.assert_close(tokens.sum(1), torch.ones(8, 8, 8))


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
def test_recording_does_not_change_the_images(pipeline, processor):
    pipeline.family.unet.set_attn_processor(processor())
    before = dict(pipeline.family.unet.attn_processors)
    plain_pictures = pipeline.generate(PROMPTS, **SHORT, output_type="latent")
    _, latents = recorded(pipeline, PROMPTS, seeds=0, output_type="latent")
    assert torch.equal(plain_pictures, latents)
    assert {name: id(each) for name, each in before.items()} == {
        name: id(each) for name, each in pipeline.family.unet.attn_processors.items()
    }


def test_hooks_are_removed_after_an_error(pipeline):
    with pytest.raises(RuntimeError, match="stop"), AttentionMaps(pipeline.family, PROMPTS):
        assert all(layer._forward_pre_hooks for layer in cross_attention(pipeline.family))
        raise RuntimeError("stop")
    assert not any(layer._forward_pre_hooks for layer in cross_attention(pipeline.family))


def test_with_guidance_only_evaluations_of_the_prompt_count(pipeline):
    alone, _ = recorded(pipeline, PROMPTS, guidance_scale=1.0)
    guided, _ = recorded(pipeline, PROMPTS, guidance_scale=5.0, negative_prompt="a blue bear")
    for image in range(2):
        torch.testing.assert_close(guided.of(image).maps[0], alone.of(image).maps[0], rtol=0, atol=1e-6)
        assert not torch.allclose(guided.of(image).maps[1], alone.of(image).maps[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("max_batch", [None, 1, 3])
def test_each_image_of_a_batch_has_its_own_maps(pipeline, max_batch):
    together, _ = recorded(pipeline, PROMPTS, max_batch=max_batch)
    for image, prompt in enumerate(PROMPTS):
        alone, _ = recorded(pipeline, [prompt], seeds=[image])
        assert together.of(image).words == alone.of(0).words
        torch.testing.assert_close(together.of(image).maps, alone.of(0).maps, rtol=0, atol=1e-5)
    assert together.of(0).maps.shape == (2, 5, 8, 8)


def test_the_map_of_a_learned_word_is_the_sum_of_its_vectors(pipeline):
    torch.manual_seed(1)
    pipeline.family.text_encoders[0].add_tokens("<toy>", torch.randn(3, 32))
    prompts = ["a <toy>, small"]
    maps, _ = recorded(pipeline, prompts, guidance_scale=1.0)
    assert maps.of(0).words == ("a", "<toy>", "small")
    tokens = tokens_by_hand(pipeline, 0, prompts, guidance_scale=1.0)[0]
    expected = tokens[2] + tokens[3] + tokens[4]
    torch.testing.assert_close(maps.of(0).maps[0, 1].double(), expected, rtol=0, atol=2e-6)


def words_in(pipeline: Pipeline, prompt: str) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(word.text, word.number, word.places) for word in words(pipeline.family, plain(prompt).clauses[0].at(0, 1))]


def test_words_have_the_indices_of_their_tokens(pipeline):
    assert words_in(pipeline, "a Red car, a tree!") == [
        ("a", 0, (1,)), ("red", 0, (2,)), ("car", 0, (3,)), ("a", 1, (5,)), ("tree", 0, (6,)),
    ]  # fmt: skip
    assert words_in(pipeline, "the éx") == [("the", 0, (1,)), ("éx", 0, (2, 3, 4))], "a token for each byte"
    assert words_in(pipeline, "") == words_in(pipeline, ", .") == []


def test_placeholder_tokens_are_not_split(pipeline):
    pipeline.family.text_encoders[0].add_tokens("<my-cat>", torch.zeros(2, 32))
    pipeline.family.text_encoders[0].add_tokens("***", torch.zeros(1, 32))
    found = words_in(pipeline, "a <my-cat>'s house of *** <my-cat>")
    assert [(text, places) for text, _, places in found] == [
        ("a", (1,)), ("<my-cat>", (2, 3)), ("'s", (4, 5)), ("house", (6,)), ("of", (7,)), ("***", (8,)), ("<my-cat>", (9, 10)),
    ]  # fmt: skip


def test_words_of_long_prompts_continue_in_the_next_chunk(pipeline):
    found = words_in(pipeline, "red " * 75 + "dog")
    assert found[-2:] == [("red", 74, (75,)), ("dog", 0, (78,))]
    maps, _ = recorded(pipeline, ["red " * 75 + "dog", "a cat"])
    assert maps.of(0).maps.shape == (2, 76, 8, 8) and maps.of(1).words == ("a", "cat")


def test_parts_of_a_prompt_are_recorded_one_at_a_time(pipeline):
    prompts = ["a red dog AND a cat :0.5", "a tree"]
    for part, alone in enumerate([["a red dog", "a tree"], ["a cat", "a tree"]]):
        maps, _ = recorded(pipeline, prompts, {"part": part})
        expected, _ = recorded(pipeline, alone)
        for image in range(2):
            assert maps.of(image).words == expected.of(image).words
            torch.testing.assert_close(maps.of(image).maps[0], expected.of(image).maps[0], rtol=0, atol=1e-6)


def test_maps_of_later_words_are_zero_before_they_appear(pipeline):
    maps, _ = recorded(pipeline, ["a [red car:tree:0.5] house"], {"num_inference_steps": 4}, num_inference_steps=4)
    found = maps.of(0)
    assert found.words == ("a", "red", "car", "house", "tree")
    word_maps = found.maps.sum((2, 3)) > 0
    assert word_maps.tolist() == [[True, True, True, True, False]] * 2 + [[True, False, False, True, True]] * 2


def test_brackets_may_be_text(pipeline):
    maps, _ = recorded(pipeline, ["a (red:1.5) car"], {"plain_prompt": True}, plain_prompt=True)
    assert maps.of(0).words == ("a", "red", "1", "5", "car")
    maps, _ = recorded(pipeline, ["a (red:1.5) car"])
    assert maps.of(0).words == ("a", "red", "car")


def test_a_prompt_without_words_has_no_maps(pipeline):
    maps, _ = recorded(pipeline, ["", "a dog"])
    assert maps.of(0).words == () and maps.of(0).maps.shape == (2, 0, 8, 8)
    assert maps.of(1).maps.shape == (2, 2, 8, 8)


def test_mixtures_have_parts_and_illusions_are_refused(pipeline):
    mixture = Composition(lambda estimates: mixed([(estimate, 1.0) for estimate in estimates]))
    with AttentionMaps(pipeline.family, ["a cat"], part=1) as maps:
        pipeline.generate([("a dog", "a cat")], composition=mixture, record=maps, guidance_scale=1.0, **SHORT)
    expected, _ = recorded(pipeline, ["a cat"], guidance_scale=1.0)
    torch.testing.assert_close(maps.of(0).maps[0], expected.of(0).maps[0], rtol=0, atol=1e-6)
    parts = Composition(lambda estimates: Factorised(estimates, hybrid()))
    with pytest.raises(ValueError, match="Factorised"), AttentionMaps(pipeline.family, ["a cat"]) as maps:
        pipeline.generate([("a dog", "a cat")], composition=parts, record=maps, **SHORT)
    assert not any(layer._forward_pre_hooks for layer in cross_attention(pipeline.family))


def test_layers_are_resized_to_the_latents():
    torch.manual_seed(0)
    large, small = torch.rand(2, 9 * 6, 5), torch.rand(2, 5 * 3, 5)
    both = averaged([large / large.sum(2, keepdim=True), small / small.sum(2, keepdim=True)], (9, 6))
    assert both.shape == (2, 5, 9, 6)
    torch.testing.assert_close(both.sum(1), torch.ones(2, 9, 6))
    torch.testing.assert_close(averaged([large], (9, 6)), large.mT.unflatten(2, (9, 6)))
    left = torch.zeros(1, 5, 3, 1)
    left[:, :, 0] = 1
    scaled = averaged([left.flatten(1, 2)], (9, 6))[0, 0]
    assert (scaled[:, :2] > 0.7).all() and (scaled[:, 4:] == 0).all()


def test_heat_maps_are_drawn_at_the_right_place():
    maps = torch.full((3, 2, 8, 8), 0.1)
    maps[2, 0, :4, :4] = 0.5
    levels = heat_levels(maps)
    assert levels[2, 0, 0, 0] == LEVELS - 1 and levels[:2, 0].max() == levels[:, 1].max() == 0
    picture = Image.new("RGB", (64, 64), (90, 90, 90))
    over = np.asarray(overlay(picture, levels[2, 0])).astype(int).sum(2)
    assert over.shape == (64, 64)
    assert (over[:20, :20] > over[44:, 44:].max() + 200).all()


def test_sheets_and_animations_show_every_word():
    word_maps = WordMaps(tuple("abcdefghi"), torch.rand(4, 9, 8, 8))
    picture = Image.new("RGB", (200, 100), (90, 90, 90))
    sheet = heat_sheet(picture, word_maps.words, heat_levels(word_maps.maps.mean(0)))
    assert sheet.width > 8 * 200 and 2 * 100 < sheet.height < 3 * 100
    with Image.open(io.BytesIO(heat_gif(picture, word_maps))) as animated:
        assert animated.n_frames == 4 and animated.width < sheet.width
