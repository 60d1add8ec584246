"""DeepFloyd IF as a base model: stage I draws what diffusers' IFPipeline draws, stage II evaluates what its UNet evaluates."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import IFPipeline, UNet2DConditionModel
from models import change, tiny_deepfloyd_if, tiny_t5_tokenizer
from transformers.convert_slow_tokenizer import import_protobuf

from customize.cli.flags.diffusers_flags import translate
from customize.errors import InputError
from customize.families import load, locate
from customize.families.base import Placement
from customize.families.conditioning import Conditioning
from customize.families.deepfloyd_if import DeepFloydIF
from customize.families.files.t5_tokenizer import load_t5_tokenizer
from customize.families.specs.architectures import CONFIGS
from customize.families.specs.deepfloyd_if_spec import ARCHITECTURES, DEEPFLOYD_IF
from customize.inference import load_pipeline
from customize.methods import DreamBoothSettings
from customize.prompts import parse

PROMPT = "a Photo of SKS dog, in the snow"


@pytest.fixture(scope="module")
def stage_i(tmp_path_factory) -> Path:
    return tiny_deepfloyd_if(tmp_path_factory.mktemp("if") / "IF-I-tiny")


@pytest.fixture(scope="module")
def stage_ii(tmp_path_factory) -> Path:
    return tiny_deepfloyd_if(tmp_path_factory.mktemp("if") / "IF-II-tiny", stage=2)


@pytest.fixture(scope="module")
def family(stage_i):
    return load(locate(str(stage_i)))


@pytest.fixture
def copied(stage_ii, tmp_path) -> Path:
    """A folder of stage II to change."""
    return shutil.copytree(stage_ii, tmp_path / "model")


def refused(folder: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        locate(str(folder), **options)
    return str(caught.value)


@pytest.mark.parametrize("variance_type", ["learned_range", "fixed_small"])
def test_stage_i_draws_what_stock_draws(stage_i, variance_type):
    """Guidance with a negative prompt, thresholding, and the variance of the conditional half, or a fixed one."""
    ours, stock = load_pipeline(str(stage_i)), IFPipeline.from_pretrained(stage_i)
    stock.scheduler = type(stock.scheduler).from_config(stock.scheduler.config, variance_type=variance_type)
    ours.family.scheduler = stock.scheduler
    stock.set_progress_bar_config(disable=True)
    options = {"negative_prompt": "blue house", "guidance_scale": 7.0, "num_inference_steps": 4}
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    expected = stock([PROMPT] * 2, **{**options, "negative_prompt": ["blue house"] * 2}, generator=generators, output_type="pt")
    found = ours.generate([PROMPT] * 2, **options, seeds=[3, 4], output_type="latent")
    torch.testing.assert_close(found, expected.images, rtol=0, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 0.1


@torch.no_grad()
def test_stage_ii_evaluates_its_unet(stage_ii):
    """A smaller picture and its noise level are inputs; while stage II is trained, the noisy picture and its timestep are."""
    family, unet = load(locate(str(stage_ii))), UNet2DConditionModel.from_pretrained(stage_ii / "unet")
    x, t, text = torch.randn(2, 6, 16, 16), torch.tensor([500, 20]), torch.randn(2, 77, 32)
    labels = torch.tensor([250, 100])
    found = family.predict(x, t, Conditioning({"encoder_hidden_states": text, "class_labels": labels}))
    expected = unet(x, t, text, class_labels=labels).sample
    torch.testing.assert_close(torch.cat([*found], 1), expected, rtol=0, atol=1e-6)
    found = family.predict(x[:, :3], t, Conditioning({"encoder_hidden_states": text}))
    expected = unet(torch.cat([x[:, :3]] * 2, 1), t, text, class_labels=t).sample
    torch.testing.assert_close(torch.cat([*found], 1), expected, rtol=0, atol=1e-6)
    assert family.takes_low_resolution and family.image_noising_scheduler.config.beta_schedule == "squaredcos_cap_v2"


@torch.no_grad()
def test_a_prompt_is_encoded_as_in_stock_in_lower_case_and_by_itself(stage_i, family):
    stock = IFPipeline.from_pretrained(stage_i, unet=None)
    expected = torch.cat([*stock.encode_prompt(PROMPT, negative_prompt="")])
    found = family.encode_prompts([PROMPT, ""]).tensors["encoder_hidden_states"]
    assert torch.equal(found, expected) and found.shape == (2, 77, 32)
    assert torch.equal(family.encode_prompts([parse(PROMPT).clauses[0].at(0, 1)]).tensors["encoder_hidden_states"], found[:1])


@torch.no_grad()
def test_weights_of_words_act_as_on_clip(family):
    """h' = w h mean(h) / mean(w h), in float64."""
    weighted = family.encode_prompts([parse("a (dog:1.5) in a house").clauses[0].at(0, 1)]).tensors["encoder_hidden_states"][0]
    plain = family.encode_prompts(["a dog in a house"]).tensors["encoder_hidden_states"][0].double()
    weights = torch.tensor([1.0, 1.5] + [1.0] * 75, dtype=torch.float64)[:, None]
    factor = (plain.mean() / (weights * plain).mean()).clamp(1 / 1.5, 1)
    torch.testing.assert_close(weighted.double(), weights * plain * factor, rtol=0, atol=1e-5)


def test_prompts_that_t5_cannot_read_are_refused(stage_i, family):
    with pytest.raises(InputError, match="too long: 81 tokens, more than 77"):
        family.encode_prompts(["dog " * 80])
    with pytest.raises(InputError, match="BREAK"):
        family.encode_prompts([parse("a dog BREAK a cat").clauses[0].at(0, 1)])
    with pytest.raises(InputError, match="T5 has no layers to skip"):
        family.encode_prompts(["a dog"], clip_skip=1)
    (limit,) = DEEPFLOYD_IF.text_limits(locate(str(stage_i)))
    assert limit.most == 77 and limit.load_counter()("A dog") == 3


def test_without_its_text_encoder_it_is_loaded_and_reads_no_prompts(copied):
    shutil.rmtree(copied / "text_encoder")
    assert "has no text encoder (T5)" in refused(copied)
    family = load(locate(str(copied), with_text_encoder=False))
    assert [*family.components] == ["unet"]
    with pytest.raises(InputError, match="cannot read prompts"):
        family.encode_prompts(["a dog"])


def test_the_tokenizer_of_the_original_files(tmp_path):
    """spiece.model, which the hub has: a SentencePiece model of the same pieces."""
    tokenizer, model = tiny_t5_tokenizer(), import_protobuf().ModelProto()
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    scores = dict(tokenizer._vocab_scores)
    for word, _ in vocabulary[: len(scores)]:
        model.pieces.add(piece=word, score=scores[word])
    (tmp_path / "spiece.model").write_bytes(model.SerializeToString())
    found = load_t5_tokenizer(tmp_path)
    assert found(PROMPT.lower()).input_ids == tokenizer(PROMPT.lower()).input_ids
    assert len(found) == len(tokenizer)
    (tmp_path / "spiece.model").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_t5_tokenizer(tmp_path)


def test_damaged_models_are_refused_by_name(copied):
    change(copied / "unet/config.json", in_channels=4)
    assert "whose UNet takes 4 channels" in refused(copied)
    change(copied / "unet/config.json", in_channels=6, addition_embed_type=None)
    assert "does not pool the prompt" in refused(copied)
    change(copied / "unet/config.json", addition_embed_type="text")
    change(copied / "text_encoder/config.json", num_layers=3)
    assert "num_layers is 3, but its tensors show 2" in refused(copied)
    change(copied / "text_encoder/config.json", num_layers=2)
    shutil.rmtree(copied / "image_noising_scheduler")
    assert "image_noising_scheduler" in refused(copied)


def test_in_float16_the_layers_of_t5_that_overflow_stay_in_float32(stage_i):
    encoder = load(locate(str(stage_i)), Placement(dtype=torch.float16)).components["text_encoder"]
    in_float32 = {name for name, tensor in encoder.named_parameters() if tensor.dtype == torch.float32}
    assert in_float32 == {f"encoder.block.{block}.layer.1.DenseReluDense.wo.weight" for block in (0, 1)}


@pytest.mark.parametrize(
    ("title", "parameters", "layers"),
    [("stage I XL", 4_304_695_110, 132), ("stage I M", 371_605_830, 132), ("stage II L", 1_187_608_070, 138)],
)
def test_the_real_architectures(title, parameters, layers):
    """The number of parameters of diffusers' UNet, on the meta device, and of the layers that a LoRA changes, six in each
    attention block; and the modules that are known without the model's files."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIGS / ARCHITECTURES[title] / "unet"))
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters
    shapes = {name: tuple(module.weight.shape) for name, module in unet.named_modules() if hasattr(module, "weight")}
    (found,) = [each for each in DEEPFLOYD_IF.architectures() if each.title == f"DeepFloyd IF {title}"]
    assert found.shapes["unet"] == shapes
    learned = [name for name in shapes if name.endswith(tuple(DeepFloydIF.lora_targets["attention"]))]
    assert len(learned) == layers == 6 * len({name.partition(".to_")[0].partition(".add_")[0] for name in learned})


def test_flags_of_diffusers_scripts_are_accepted_for_its_models_only(stage_ii):
    """By the folder, or by the name on the hub; Stable Diffusion has neither class labels nor an attention mask."""
    flags = {"text_encoder_use_attention_mask": True, "class_labels_conditioning": "timesteps"}
    for model in (str(stage_ii), "DeepFloyd/IF-I-XL-v1.0"):
        _, notes, problems = translate(DreamBoothSettings, {**flags, "pretrained_model_name_or_path": model})
        assert len(notes) == 2 and not problems
    _, notes, problems = translate(DreamBoothSettings, {**flags, "pretrained_model_name_or_path": "demo"})
    assert len(problems) == 2 and not notes
    assert locate("DeepFloyd/IF-II-L-v1.0").family == "deepfloyd_if"
    assert locate("CompVis/stable-diffusion-v1-4").family == "stable_diffusion"
