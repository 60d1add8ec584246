"""SDXL against diffusers' pipelines: conditioning, images, and results in stock loaders."""

import json
import shutil
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from kit import prepared, settings_for, train_loop, write_images
from models import tiny_stable_diffusion_xl
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from customize.data.buckets import squares
from customize.data.crops import crop_of, variants
from customize.errors import InputError
from customize.families import load, locate
from customize.families.conditioning import Crop
from customize.families.specs import spec_of
from customize.inference.pipeline import Pipeline
from customize.inference.pipeline_loading import load_pipeline
from customize.inference.run import merge
from customize.inference.schedulers import make_scheduler
from customize.settings.inference import InferenceSettings
from customize.training import model_card
from customize.weights.learned_weights import find_learned

PROMPT = "a photo of sks dog"
SAMPLERS = (
    "DDIM", "DDPM", "PNDM", "Euler", "Euler a", "DPM++ 2M Karras", "DPM++ 2M SDE", "UniPC", "Heun", "LMS", "DPM2 a", "DEIS",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_stable_diffusion_xl(tmp_path_factory.mktemp("models") / "tiny_xl")


@pytest.fixture(scope="module")
def family(base):
    return load(locate(str(base)))


def stock(folder):
    """diffusers' own pipeline of a folder."""
    return quiet(StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False))


def quiet(pipeline):
    """The pipeline without progress bars."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def theirs(base):
    """diffusers' own pipeline, whose components stay as they are."""
    return stock(base)


@torch.no_grad()
@pytest.mark.parametrize("clip_skip", [None, 1])
@pytest.mark.parametrize("prompt", [PROMPT, "a small red house, and a blue car on the street"])
def test_prompts_are_encoded_as_stock_does(prompt, clip_skip, theirs, family):
    """In the same networks: the last bits of a product can depend on the place of a matrix in memory."""
    own = {name: module for name, module in family.components.items() if name.startswith("text_encoder")}
    expected = StableDiffusionXLPipeline(**{**theirs.components, **own}, add_watermarker=False).encode_prompt(
        prompt, do_classifier_free_guidance=False, clip_skip=clip_skip
    )
    found = family.encode_prompts([prompt], clip_skip=clip_skip).tensors
    assert torch.equal(found["encoder_hidden_states"], expected[0]) and torch.equal(found["text_embeds"], expected[2])


@pytest.mark.parametrize("force_zeros", [True, False])
def test_an_empty_prompt_is_zeros_where_the_model_says_so(force_zeros, tmp_path, base):
    folder = shutil.copytree(base, tmp_path / "base")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": force_zeros}))
    own = load(locate(str(folder)))
    _, hidden, _, pooled = stock(folder).encode_prompt(PROMPT, do_classifier_free_guidance=True)
    for found in (own.encode_prompts([""]), own.encode_prompts([PROMPT, " "])[1:]):
        assert torch.equal(found.tensors["encoder_hidden_states"], hidden)
        torch.testing.assert_close(found.tensors["text_embeds"], pooled)
    assert (hidden.abs().max() == 0) == force_zeros
    assert own.pipeline().config.force_zeros_for_empty_prompt == force_zeros


def test_the_size_conditioning_is_that_of_each_crop(base, theirs, family, tmp_path):
    from customize.data.examples import load_examples

    write_images(tmp_path / "images", 1, (48, 32))
    [example] = load_examples(settings_for("lora", base, tmp_path / "images", tmp_path / "run", resolution=16)).instances
    variant, mirrored = variants(example, squares(16).fit(example.size), True, crop_variants=1, random_flip=True, seed=0)
    crops = [crop_of(example, variant), crop_of(example, mirrored), Crop.whole(24, 16)]
    expected = [  # 48 x 32 becomes 24 x 16, of which the middle is cut out
        theirs._get_add_time_ids(size, corner, target, torch.float32, text_encoder_projection_dim=32)
        for size, corner, target in [((32, 48), (0, 4), (16, 16)), ((32, 48), (0, 4), (16, 16)), ((24, 16), (0, 0), (24, 16))]
    ]
    assert torch.equal(family.size_conditioning(crops)["time_ids"], torch.cat(expected))


@torch.no_grad()
@pytest.mark.parametrize("name", SAMPLERS)
def test_text_to_image_equals_stock(name, theirs, family):
    pipeline = Pipeline(family)
    options = {"num_inference_steps": 4, "negative_prompt": "a car"}
    found = pipeline.generate(PROMPT, seeds=3, scheduler=name, output_type="latent", **options)
    own = make_scheduler(family.scheduler, name, spec=family.spec)
    again = quiet(StableDiffusionXLPipeline(**{**theirs.components, "scheduler": own}, add_watermarker=False))
    expected = again(
        PROMPT, generator=torch.Generator().manual_seed(3), guidance_scale=7.5, output_type="latent", **options
    ).images
    assert (found - expected).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("kind", [StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline])
def test_image_to_image_and_inpainting_equal_stock(kind, name, theirs, family):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    mask = Image.fromarray(np.repeat([[0] * 8 + [255] * 8], 16, 0).astype(np.uint8))
    given = {"image": image, "num_inference_steps": 6, "strength": 0.5, "output_type": "latent"}
    sizes = {}
    if kind is StableDiffusionXLInpaintPipeline:
        given["mask_image"], sizes = mask, {"height": 16, "width": 16}
    found = Pipeline(family).generate(PROMPT, seeds=3, scheduler=name, **given)
    scheduler = make_scheduler(family.scheduler, name, spec=family.spec)
    again = quiet(kind(**{**theirs.components, "scheduler": scheduler}, add_watermarker=False))
    expected = again(PROMPT, generator=torch.Generator().manual_seed(3), guidance_scale=7.5, **given, **sizes).images
    assert (found - expected).abs().max() < 1e-4


TEXT, TEACHER, IMAGES = {"train_text_encoder": True}, {"prior_preservation": "teacher"}, {"prior_preservation": "images"}
RUNS = {
    "textual_inversion": ("textual_inversion", {}),
    "lora": ("lora", TEXT),
    "lora, teacher": ("lora", TEACHER),
    "lora, class images": ("lora", TEXT | IMAGES),
    "full": ("full", TEXT),
    "full, class images": ("full", IMAGES),
    "pivotal": ("pivotal", TEXT),
    "pivotal, teacher": ("pivotal", {"normalize_embedding": True} | TEACHER),
    "pivotal, class images": ("pivotal", IMAGES),
}


@pytest.fixture(scope="module")
def trained(base, image_folder, tmp_path_factory):
    """A function that returns (family, folder of the result) of two steps; each is made once."""
    of_class = write_images(tmp_path_factory.mktemp("class"), 2, (40, 20), seed=5)

    @cache
    def trained(kind):
        folder = tmp_path_factory.mktemp("trained")
        method, changes = RUNS[kind]
        if "prior_preservation" in changes:
            changes = {**changes, "class_prompt": "a dog"}
        if changes.get("prior_preservation") == "images":
            changes |= {"class_data_dir": str(of_class), "num_class_images": 2}
        words = {"embedding_learning_rate": 0.05} if method == "pivotal" else {}
        settings = settings_for(method, base, image_folder, folder / "run", learning_rate=0.05, **words, **changes)
        context, training = prepared(settings)
        with torch.enable_grad():
            train_loop(settings, training, context.accelerator, 2)
        training.method.eval()
        (folder / "result").mkdir()
        training.method.save(folder / "result", model_card.metadata(settings, training.method, context.family, 2))
        return context.family, folder / "result"

    return trained


def load_in_stock(pipeline, folder):
    """Loads the files of a result as the documentation of diffusers does."""
    if (folder / "pytorch_lora_weights.safetensors").exists():
        pipeline.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
    if (folder / "learned_embeds.safetensors").exists():
        vectors = load_file(folder / "learned_embeds.safetensors")
        assert vectors.keys() == {"clip_l", "clip_g"}
        for key, number in (("clip_l", ""), ("clip_g", "_2")):
            encoder, tokenizer = (getattr(pipeline, f"{name}{number}") for name in ("text_encoder", "tokenizer"))
            pipeline.load_textual_inversion({"<new>": vectors[key]}, token="<new>", text_encoder=encoder, tokenizer=tokenizer)
        pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id  # else it pools at the learned word


@torch.no_grad()
@pytest.mark.parametrize("kind", RUNS)
def test_results_give_the_same_image_in_memory_loaded_and_in_stock(kind, base, trained):
    family, folder = trained(kind)
    is_full = kind.startswith("full")
    prompt = PROMPT if kind.startswith("lora") or is_full else "a photo of <new>"
    options = {"num_inference_steps": 3, "output_type": "latent"}
    expected = Pipeline(family).generate(prompt, seeds=2, **options)
    own = load_pipeline(None if is_full else str(base), [(folder, 1.0)]).generate(prompt, seeds=2, **options)
    assert torch.equal(own, expected)
    assert (expected - load_pipeline(str(base)).generate(PROMPT, seeds=2, **options)).abs().max() > 1e-3
    theirs = stock(folder if is_full else base)
    load_in_stock(theirs, folder)
    images = theirs(prompt, generator=torch.Generator().manual_seed(2), guidance_scale=7.5, **options).images
    assert (images - expected).abs().max() < 1e-4


@torch.no_grad()
def test_the_adapter_and_the_word_of_a_run_also_work_alone(base, trained):
    """In all four combinations; each changes the image."""
    _, folder = trained("pivotal, teacher")
    files = [[], [folder / "pytorch_lora_weights.safetensors"], [folder / "learned_embeds.safetensors"], [folder]]
    pipelines = [load_pipeline(str(base), [(file, 1.0) for file in each]) for each in files]
    images = [each.generate("a photo of <new>", seeds=2, num_inference_steps=3, output_type="latent") for each in pipelines]
    assert [each.trigger_words for each in pipelines] == [(), ("<new>",), ("<new>",), ("<new>",)]
    assert all((one - other).abs().max() > 1e-3 for one, other in combinations(images, 2))


@torch.no_grad()
def test_a_model_with_words_merged_into_it_gives_the_same_image_in_stock(base, trained, tmp_path):
    """Also once it is trained on: stock reads the pooled text at the end token, although the word has a larger id."""
    prompt, options = "a photo of <new>", {"num_inference_steps": 3, "output_type": "latent"}
    expected = load_pipeline(str(base), [(trained("pivotal")[1], 1.0)]).generate(prompt, seeds=2, **options)
    files = {"pretrained_model_name_or_path": str(base), "weights": (str(trained("pivotal")[1]),)}
    merge.run(InferenceSettings(**files, merge=str(tmp_path / "merged")))
    load(locate(str(tmp_path / "merged"))).pipeline().save_pretrained(tmp_path / "again")
    for folder in (tmp_path / "merged", tmp_path / "again"):
        theirs = stock(folder)
        assert theirs.text_encoder_2.text_model.eos_token_id == theirs.tokenizer_2.eos_token_id
        found = theirs(prompt, generator=torch.Generator().manual_seed(2), guidance_scale=7.5, **options).images
        assert (found - expected).abs().max() < 1e-4
        assert (load_pipeline(str(folder)).generate(prompt, seeds=2, **options) - expected).abs().max() < 1e-4


def test_the_pooled_text_is_read_at_the_first_end_token(trained):
    """A learned word has a larger id than the end token, at which transformers would read."""
    family = trained("textual_inversion")[0]
    encoder = family.text_encoders[1]
    input_ids = encoder.tokenize(["a photo of <new> in a house"])
    end = input_ids[0].tolist().index(encoder.tokenizer.eos_token_id)
    assert input_ids[0].argmax() != end
    with torch.no_grad():
        state = encoder.module.text_model(input_ids=input_ids).last_hidden_state[:, end]
        expected = encoder.module.text_projection(state)
        assert torch.equal(encoder.encode(input_ids).pooled, expected)


def test_a_lora_s_kohya_names_are_those_of_sdxl(trained):
    names = load_file(trained("lora")[1] / "pytorch_lora_weights_kohya.safetensors").keys()
    assert {name.split("_", 2)[1] for name in names} == {"unet", "te1", "te2"}
    assert "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.alpha" in names


def test_class_images_have_size_conditioning_of_their_own(base, tmp_path):
    instances, of_class = write_images(tmp_path / "a", 1, (24, 16)), write_images(tmp_path / "b", 2, (40, 20), seed=5)
    prior = {"prior_preservation": "images", "class_prompt": "a dog", "class_data_dir": str(of_class), "num_class_images": 2}
    _, training = prepared(settings_for("lora", base, instances, tmp_path / "run", center_crop=True, random_flip=False, **prior))
    sizes = {
        prior: (crop.original_size, crop.target_size)
        for batch in training.dataset.deal(0, [0])
        for prior, crop in zip(batch.is_prior.tolist(), batch.crops, strict=True)
    }
    assert sizes == {False: ((16, 24), (16, 16)), True: ((20, 40), (8, 24))}


@pytest.mark.parametrize(("file", "change", "words"), [
    ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "EDM preconditioning"),
    ("unet/config.json", {"in_channels": 8}, "SDXL for instruct-pix2pix"),
    ("unet/config.json", {"cross_attention_dim": 1280}, "is the SDXL refiner"),
    ("unet/config.json", {"transformer_layers_per_block": [1, 3]}, "transformer_layers_per_block is"),
    ("text_encoder_2/config.json", {"num_hidden_layers": 5}, "num_hidden_layers is 5"),
    ("tokenizer_2/tokenizer.json", None, "tokenizer_2"),
    ("text_encoder_2/model.safetensors", None, "text_encoder_2"),
])  # fmt: skip
def test_other_and_damaged_models_are_refused_by_name(file, change, words, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    if change is None:
        (folder / file).write_bytes(b"{")
    else:
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **change}))
    with pytest.raises(InputError) as caught:
        load(locate(str(folder)))
    assert any(words in str(problem) for problem in caught.value.problems), caught.value


@pytest.mark.parametrize(("width", "other", "words"), [
    (2048, "demo", "was learned on SDXL; demo is Stable Diffusion 1.x or 2.x"),
    (768, None, "was learned on Stable Diffusion 1.x or 2.x; {} is SDXL"),
])  # fmt: skip
def test_weights_of_the_other_family_are_refused_by_name(width, other, words, base, tmp_path):
    module = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{module}.lora_A.weight": torch.zeros(4, width), f"{module}.lora_B.weight": torch.zeros(640, 4)}
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(InputError, match=words.format(base)):
        find_learned(other or str(base), [(tmp_path / "lora.safetensors", 1.0)])


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2"])
def test_a_word_of_either_tokenizer_is_known(part, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    tokenizer = CLIPTokenizer.from_pretrained(folder / part)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder / part)
    assert "<new>" in spec_of(locate(str(folder))).vocabulary(locate(str(folder)))


def test_v_prediction_is_read_from_the_scheduler(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    changes = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps({**config, **changes}))
    own = load(locate(str(folder)))
    assert own.prediction_type == "v_prediction"
    found = Pipeline(own).generate(PROMPT, seeds=1, num_inference_steps=3, output_type="latent")
    with torch.no_grad():
        options = {"generator": torch.Generator().manual_seed(1), "guidance_scale": 7.5, "output_type": "latent"}
        expected = stock(folder)(PROMPT, num_inference_steps=3, **options).images
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
