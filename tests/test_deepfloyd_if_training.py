"""DreamBooth on DeepFloyd IF: loss and gradients are those of the formula, and stock draws the same picture with the result."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
from kit import prepared, settings_for, write_images
from models import tiny_deepfloyd_if
from PIL import Image
from safetensors.torch import load_file
from torch.func import functional_call

from customize.cli import commands
from customize.families.files.scheduler import with_fixed_variance
from customize.inference import load_pipeline

PROMPT = "a photo of sks dog"
SCALE = 2.0 / 4
"""lora_alpha / rank of `settings_for`."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[int, Path]:
    """The folders of stages I and II."""
    folder = tmp_path_factory.mktemp("if")
    return {stage: tiny_deepfloyd_if(folder / f"stage_{stage}", stage) for stage in (1, 2)}


@pytest.mark.parametrize(
    ("stage", "kind", "prior"),
    [
        (1, "lora", "images"), (2, "lora", "teacher"), pytest.param(1, "full", "none", marks=pytest.mark.slow),
        pytest.param(2, "full", "none", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_gradients_are_those_of_the_formula(stage, kind, prior, bases, image_folder, tmp_path):
    """In float64: the mean square of the first three output channels less the noise; stage II reads the noisy picture twice, and
    its timestep as class label. The channels of the variance get no gradient."""
    changes = {"train_batch_size": 2, "resolution": 16}
    if prior != "none":
        changes |= {"prior_preservation": prior, "class_prompt": "a photo of dog", "prior_loss_weight": 0.5}
    if prior == "images":
        changes |= {"class_data_dir": str(write_images(tmp_path / "class", 2)), "num_class_images": 2}
    context, training = prepared(settings_for(kind, bases[stage], image_folder, tmp_path / "run", **changes))
    method, family = training.method.double(), context.family.to(torch.float64)
    method.condition = family.encode_prompts
    learned = method.trainable_state_dict()
    for name, parameter in learned.items():  # B is zero before the first step, which would hide the gradient of A
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    [batch] = training.dataset.deal(0, range(2))
    batch = replace(batch, latents=batch.latents.double(), noise=batch.noise.double(), loss_weights=batch.loss_weights.double())
    losses = method(batch)
    losses.sum().backward()

    unet = UNet2DConditionModel.from_pretrained(bases[stage] / "unet").double()
    alphas = DDPMScheduler.from_pretrained(bases[stage] / "scheduler").alphas_cumprod[batch.timesteps].double().view(-1, 1, 1, 1)
    noisy = alphas.sqrt() * batch.latents + (1 - alphas).sqrt() * batch.noise
    text = family.encode_prompts(batch.prompts).tensors["encoder_hidden_states"]
    own = {"class_labels": batch.timesteps} if stage == 2 else {}
    inputs = torch.cat([noisy] * stage, 1)
    copies = {name: parameter.detach().clone().requires_grad_() for name, parameter in learned.items()}
    changed = {name.removeprefix("unet."): copy for name, copy in copies.items() if kind == "full"}
    for name in copies if kind == "lora" else ():
        if name.endswith("lora_A.weight"):
            module = name.removeprefix("unet.").removesuffix(".lora_A.weight")
            delta = SCALE * copies[name.replace("lora_A", "lora_B")] @ copies[name]
            changed[f"{module}.weight"] = unet.get_submodule(module).weight.detach() + delta
    target = batch.noise.clone()
    if prior == "teacher":
        with torch.no_grad():
            target[batch.is_prior] = unet(inputs, batch.timesteps, text, **own).sample[:, :3][batch.is_prior]
    output = functional_call(unet, changed, (inputs, batch.timesteps, text), own).sample
    expected = ((output[:, :3] - target) ** 2).mean((1, 2, 3)) * batch.loss_weights
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=0)
    expected.sum().backward()
    assert kind == "full" or len(learned) == {1: 48, 2: 72}[stage]
    largest = max(copy.grad.abs().max() for copy in copies.values())
    wrong = [name for name, copy in copies.items() if not (learned[name].grad - copy.grad).abs().max() <= 1e-6 * largest]
    assert largest > 0 and not wrong, sorted(wrong)
    if kind == "full":
        assert not learned["unet.conv_out.weight"].grad[3:].any() and learned["unet.conv_out.weight"].grad[:3].any()


def arguments(base: Path, images: Path, run: Path, *more: str) -> list[str]:
    """Those of diffusers' documentation for DeepFloyd IF, few steps."""
    return [
        f"--pretrained_model_name_or_path={base}", f"--instance_data_dir={images}", f"--output_dir={run}",
        f"--instance_prompt={PROMPT}", "--resolution=16", "--train_batch_size=2", "--max_train_steps=4", "--learning_rate=1e-2",
        "--checkpointing_steps=2", "--report_to=none", "--evaluation=none", "--pre_compute_text_embeddings",
        "--tokenizer_max_length=77", "--text_encoder_use_attention_mask", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def lora_run(bases, image_folder, tmp_path_factory) -> Path:
    """Stage I, with prior preservation by class images that the base model draws."""
    folder = tmp_path_factory.mktemp("lora")
    more = f"--adapter lora --rank 2 --validation_prompt none --with_prior_preservation --class_data_dir {folder / 'class'}"
    more = f"{more} --num_class_images 2 --sample_inference_steps 2".split()
    assert commands.train_dreambooth(arguments(bases[1], image_folder, folder / "run", *more, "--class_prompt=a dog")) == 0
    return folder / "run"


def picture(stock: IFPipeline) -> np.ndarray:
    """Stock's picture of the prompt, four steps."""
    stock.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(4)
    (image,) = stock(PROMPT, num_inference_steps=4, guidance_scale=3.0, generator=generator).images
    return np.asarray(image, dtype=int)


def ours(words: list[str], folder: Path) -> np.ndarray:
    """Our picture of the same."""
    words = [*words, "--prompt", PROMPT, "--num_inference_steps", "4", "--guidance_scale", "3", "--seed", "4"]
    assert commands.infer([*words, "--output_dir", str(folder)]) == 0
    return np.asarray(Image.open(folder / "000.png"), dtype=int)


def test_stock_draws_the_same_picture_with_our_lora(bases, lora_run, tmp_path):
    """With the scheduler that is saved beside it: its variance is fixed, since that of the UNet has not been trained."""
    stock = IFPipeline.from_pretrained(bases[1])
    before = picture(stock)
    stock.load_lora_weights(lora_run)
    assert len(load_file(lora_run / "pytorch_lora_weights.safetensors")) == 48
    learned = picture(stock)
    stock.scheduler = DDPMScheduler.from_pretrained(lora_run / "scheduler")
    assert stock.scheduler.config.variance_type == "fixed_small"
    card = (lora_run / "README.md").read_text()
    assert "ComfyUI" not in card
    expected, found = picture(stock), ours(["--weights", str(lora_run)], tmp_path)
    assert abs(found - expected).max() <= 1
    assert all(abs(found - other).max() > 8 for other in (before, learned))


def test_a_run_is_intact_and_resumes_to_the_same_bits(lora_run, tmp_path):
    assert commands.verify([str(lora_run)]) == 0
    shutil.copytree(lora_run / "checkpoints" / "step-000002", tmp_path / "run" / "checkpoints" / "step-000002")
    shutil.copy(lora_run / "config.toml", tmp_path / "run")
    words = [str(tmp_path / "run" / "config.toml"), "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint", "latest"]
    assert commands.train_dreambooth(words) == 0
    steps = [json.loads(line).get("step") for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {*steps} - {None} == {3, 4}
    whole, again = (load_file(run / "pytorch_lora_weights.safetensors") for run in (lora_run, tmp_path / "run"))
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.slow
def test_stock_loads_a_fully_trained_stage_i(bases, image_folder, tmp_path):
    run = tmp_path / "run"
    assert commands.train_dreambooth(arguments(bases[1], image_folder, run, "--validation_prompt", "none")) == 0
    stock = IFPipeline.from_pretrained(run)
    assert stock.scheduler.config.variance_type == "fixed_small" and stock.text_encoder is not None
    expected, found = picture(stock), ours(["--pretrained_model_name_or_path", str(run)], tmp_path / "images")
    assert abs(found - expected).max() <= 1
    assert abs(found - picture(IFPipeline.from_pretrained(bases[1]))).max() > 8


def test_stage_ii_learns_a_lora_and_its_sample_images_enlarge_images(bases, image_folder, tmp_path, capsys):
    """By default the training images, made smaller; a run that generates class images, or measures pictures, is refused."""
    run, small = tmp_path / "run", write_images(tmp_path / "small", 2, (4, 4))
    more = ["--adapter=lora", "--class_labels_conditioning=timesteps", f"--validation_prompt={PROMPT}", "--validation_images"]
    more += [*map(str, sorted(small.iterdir())), "--sample_inference_steps=2"]
    assert commands.train_dreambooth(arguments(bases[2], image_folder, run, *more)) == 0
    assert commands.verify([str(run)]) == 0
    tensors = load_file(run / "pytorch_lora_weights.safetensors")
    assert len(tensors) == 72 and any(tensor.any() for name, tensor in tensors.items() if "add_k_proj.lora_B" in name)
    options = {"num_inference_steps": 2, "guidance_scale": 7.5, "seeds": 0, "height": 16, "width": 16, "plain_prompt": True}
    pipeline = load_pipeline(str(bases[2]))
    pipeline.family.scheduler = with_fixed_variance(pipeline.family.scheduler)
    with Image.open(small / "0.png") as image:
        (expected,) = pipeline.generate(PROMPT, low_res_image=image, **options)
    found = Image.open(run / "samples" / "step-000000" / "000.png")
    assert abs(np.asarray(found, dtype=int) - np.asarray(expected, dtype=int)).max() <= 1
    assert len([*(run / "samples" / "step-000000").glob("*.png")]) == 2
    assert "--low_res_image IMAGE.png" in (output := capsys.readouterr().out)
    assert "load_lora_weights" in output and "ComfyUI" not in output
    wrong = ["--adapter=lora", "--class_prompt=a dog", "--with_prior_preservation", f"--class_data_dir={tmp_path / 'class'}"]
    assert commands.train_dreambooth(arguments(bases[2], image_folder, tmp_path / "no", *wrong)) == 2
    assert "which enlarges images, generates none" in capsys.readouterr().err
    assert (
        commands.train_dreambooth(arguments(bases[1], image_folder, tmp_path / "no", f"--validation_images={small / '0.png'}"))
        == 2
    )
    assert "are for super-resolution models" in capsys.readouterr().err


def test_the_text_encoder_is_left_out_of_a_fully_trained_model(bases, image_folder, tmp_path, capsys):
    """Stock loads it with none, and infer.py with prompts that were encoded before."""
    run, file = tmp_path / "run", tmp_path / "prompts.safetensors"
    more = ["--skip_save_text_encoder", "--validation_prompt", "none"]
    assert commands.train_dreambooth(arguments(bases[1], image_folder, run, *more)) == 0
    assert not (run / "text_encoder").exists() and commands.verify([str(run)]) == 0
    words = ["--pretrained_model_name_or_path", str(run)]
    with pytest.raises(AssertionError):
        ours(words, tmp_path / "none")
    assert "has no text encoder (T5)" in capsys.readouterr().err
    assert commands.embed_prompts([str(bases[1]), "--prompt", PROMPT, "--output", str(file)]) == 0
    stock, text = IFPipeline.from_pretrained(run), load_file(file)
    stock.set_progress_bar_config(disable=True)
    embeds = {"prompt_embeds": text[PROMPT][None], "negative_prompt_embeds": text[""][None]}
    generator = torch.Generator().manual_seed(4)
    (expected,) = stock(**embeds, num_inference_steps=4, guidance_scale=3.0, generator=generator).images
    found = ours([*words, "--prompt_embeddings", str(file)], tmp_path / "images")
    assert abs(found - np.asarray(expected, dtype=int)).max() <= 1
    assert commands.train_dreambooth(arguments("demo", image_folder, tmp_path / "no", "--skip_save_text_encoder")) == 2
