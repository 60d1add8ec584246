"""SDXL from one .safetensors file: equal to the folder it was made of, bit for bit; what a file says of itself; refusals.

The file is written by `benchmarks.ldm_layout`, the inverse of the conversion. The names and shapes of the published file are
written out here as a formula, and diffusers' own conversion of OpenCLIP is a second reference.
"""

import json
import shutil
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
from kit import prepared, settings_for, train_loop
from models import project_configurations_from, tiny_stable_diffusion_xl
from safetensors.torch import load_file, save_file
from test_trials_strangers import header_only

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.ldm_layout import to_ldm
from customize.cli import commands
from customize.errors import InputError
from customize.families import load, loading, locate
from customize.families.base import Placement
from customize.families.files import autoencoder, ldm_header, networks
from customize.families.files.ldm_header import CLIP_G, CLIP_L, CONFIGS, FIRST, SIZES, UNET, VAE, read_xl_layout
from customize.families.files.single_file import load_network, load_single_file, load_text_encoder
from customize.families.specs import STABLE_DIFFUSION, recognised
from customize.families.stable_diffusion_xl import CLASSES, StableDiffusionXL
from customize.inference.pipeline import Pipeline
from customize.inference.pipeline_loading import load_pipeline

PROMPT = "a photo of sks dog"
OPTIONS = {"seeds": 2, "num_inference_steps": 3, "output_type": "latent"}
RESOLUTION = {"modelspec.resolution": "16x16"}
V = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny SDXL as a folder, no two weights alike."""
    folder = tiny_stable_diffusion_xl(tmp_path_factory.mktemp("configs") / "sdxl")
    for name, kind in CLASSES.items():
        network = kind.from_pretrained(folder, subfolder=name)
        generator = torch.Generator().manual_seed(1)
        for parameter in network.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
        network.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module", autouse=True)
def small_configs(base):
    """The tiny model's configurations and vocabulary in place of the project's."""

    with project_configurations_from(base.parent, ldm_header, autoencoder):
        yield


@pytest.fixture(scope="module")
def tensors(base):
    """The tiny model's tensors in the original layout, and what else lies in published files and merges."""
    parts = {name: kind.from_pretrained(base, subfolder=name) for name, kind in CLASSES.items()}
    own = {name: tensor.detach() for name, tensor in to_ldm(**parts).items()}
    averages = {f"model_ema.{name.replace('.', '')}": tensor + 1 for name, tensor in own.items() if name.startswith(UNET)}
    return own | averages | {
        "model_ema.decay": torch.ones(()), "denoiser.sigmas": torch.ones(1000), "alphas_cumprod": torch.ones(1000),
        f"{CLIP_L}text_model.embeddings.position_ids": torch.arange(77)[None], f"{CLIP_G}logit_scale": torch.ones(()),
        f"{CLIP_G}attn_mask": torch.zeros(77, 77), f"{VAE}loss.logvar": torch.ones(()),
    }  # fmt: skip


@pytest.fixture(scope="module")
def file(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "tiny_xl.safetensors"
    save_file(tensors, path, RESOLUTION)
    return path


def written(folder: Path, tensors, metadata=None) -> Path:
    """A file of these tensors."""
    save_file(tensors, folder / "x.safetensors", metadata or RESOLUTION)
    return folder / "x.safetensors"


def families(base, file, **options):
    """The families of a folder and of a file."""
    return tuple(load(locate(str(each), **options)) for each in (base, file))


def assert_equal_weights(found, expected, dtype=torch.float32):
    """All networks have the same tensors, each with memory of its own."""
    assert found.components.keys() == expected.components.keys()
    for part, network in expected.components.items():
        own, theirs = found.components[part].state_dict(), network.state_dict()
        assert own.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert own[name].dtype == tensor.dtype and torch.equal(own[name], tensor), (part, name)
        assert len({tensor.untyped_storage().data_ptr() for tensor in own.values()}) == len(own)


def test_the_family_of_a_file_equals_that_of_its_folder(base, file):
    expected, found = families(base, file)
    assert type(found) is type(expected) and found.spec is recognised(file) is expected.spec
    assert_equal_weights(found, expected)
    for part in ("unet", "vae", "scheduler"):
        configs = [{k: v for k, v in getattr(each, part).config.items() if k[0] != "_"} for each in (found, expected)]
        assert configs[0] == configs[1]
    assert type(found.scheduler) is type(expected.scheduler) and torch.equal(
        found.schedule.alphas_cumprod, expected.schedule.alphas_cumprod
    )
    for own, theirs in zip(found.text_encoders, expected.text_encoders, strict=True):
        ids = [each.tokenizer("a red cat, ü", padding="max_length").input_ids for each in (own, theirs)]
        assert ids[0] == ids[1] and own.tokenizer.pad_token == theirs.tokenizer.pad_token
    assert [encoder.tokenizer.pad_token for encoder in found.text_encoders] == ["<|endoftext|>", "!"]
    assert (found.resolution, found.force_zeros, found.source) == (16, True, file)
    with torch.no_grad():
        images = [Pipeline(each).generate(PROMPT, negative_prompt="a car", **OPTIONS) for each in (found, expected)]
    assert torch.equal(*images)


@pytest.mark.parametrize(("dtype", "of_vae"), [(torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_half_precision_is_read_as_such_and_an_overflowing_autoencoder_stays_in_float32(dtype, of_vae, base, file):
    found, expected = (load(locate(str(each)), Placement(dtype=dtype)) for each in (file, base))
    assert_equal_weights(found, expected)
    assert {part: network.dtype for part, network in found.components.items()} == dict.fromkeys(CLASSES, dtype) | {"vae": of_vae}
    assert expected.vae.config.force_upcast
    found.vae.register_to_config(force_upcast=False)
    assert found.to(dtype=dtype).vae.dtype == dtype


def test_a_network_is_read_in_its_dtype_a_few_tensors_at_a_time(file, monkeypatch):
    """Nothing of the file is in memory in another precision, nor twice."""
    at_once, taken = [], []

    class Opened:
        def __init__(self, opened):
            self.opened, self.names = opened, []
            at_once.append(self.names)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.opened = None

        def keys(self):
            return self.opened.keys()

        def get_tensor(self, name):
            self.names.append(name)
            taken.append(name)
            return self.opened.get_tensor(name)

    opens = networks.safe_open
    monkeypatch.setattr(networks, "safe_open", lambda *given, **options: Opened(opens(*given, **options)))
    family = load_single_file(StableDiffusionXL, CLASSES, locate(str(file)), Placement(dtype=torch.bfloat16))
    assert max(map(len, at_once)) == networks.AT_A_TIME
    assert len(taken) == len(set(taken)) and not any(name.startswith("model_ema") for name in taken)
    assert {tensor.dtype for network in family.components.values() for tensor in network.parameters()} == {torch.bfloat16}


def test_diffusers_converts_open_clip_alike(base, tensors):
    encoder = load(locate(str(base))).text_encoder_2
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(CLIP_G)}
    expected = convert_open_clip_checkpoint(encoder, own, prefix=CLIP_G)
    found = load_text_encoder(CLASSES["text_encoder_2"], "text_encoder_2", own, CLIP_G, base).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope="module")
def learned(base, file, image_folder, tmp_path_factory):
    """(the first loss, the file) of a LoRA after one step, of the folder and of the file."""
    results = []
    for source in (base, file):
        out = tmp_path_factory.mktemp("learned")
        settings = settings_for("lora", source, image_folder, out / "run", train_text_encoder=True, resolution=16)
        context, training = prepared(settings)
        loss = training.method(training.dataset.deal(0, [0])[0]).detach()
        train_loop(settings, training, context.accelerator, 1)
        training.method.save(out, {})
        results.append((loss, out / "pytorch_lora_weights.safetensors"))
    return results


def test_a_lora_learns_the_same_from_file_and_folder(learned):
    (expected_loss, expected), (loss, found) = learned
    assert torch.equal(loss, expected_loss)
    expected, found = load_file(expected), load_file(found)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_commands_take_a_file(file, learned, image_folder, tmp_path, capsys):
    model = ["--pretrained_model_name_or_path", str(file)]
    train = ["--instance_prompt", PROMPT, "--adapter", "lora", "--max_train_steps", "1", "--validation_prompt", "none", *model]
    run = ["--instance_data_dir", str(image_folder), "--output_dir", str(tmp_path / "run"), "--dry_run"]
    assert commands.train_dreambooth([*train, *run]) == commands.check([str(image_folder), *train]) == 0
    assert "16 x 16" in (output := capsys.readouterr().out) and "nothing was written" in output
    images = ["--prompt", PROMPT, "--output_dir", str(tmp_path / "images"), "--num_inference_steps", "1"]
    assert commands.infer([*model, *images]) == 0 and (tmp_path / "images/000.png").is_file()
    merged, weights = tmp_path / "merged", learned[1][1]
    assert commands.infer([*model, "--merge", str(merged), "--weights", f"{weights}:20"]) == 0
    with torch.no_grad():
        stock = StableDiffusionXLPipeline.from_pretrained(merged, add_watermarker=False)
        generator = torch.Generator().manual_seed(2)
        theirs = stock(PROMPT, generator=generator, guidance_scale=7.5, num_inference_steps=3, output_type="latent").images
    own, plain = (load_pipeline(str(file), each).generate(PROMPT, **OPTIONS) for each in ([(weights, 20.0)], []))
    assert (theirs - own).abs().max() < 1e-4 < 1e-3 < (plain - own).abs().max()


def test_a_model_of_the_hub_is_recognised_once_it_is_downloaded(base, monkeypatch):
    monkeypatch.setattr(loading, "download", lambda source: base)
    family = load(locate("someone/sdxl"))
    assert family.spec is recognised(base) and family.name == "someone/sdxl" and len(family.text_encoders) == 2


@pytest.mark.parametrize(("marks", "metadata", "given", "expected"), [
    ([], {}, None, ("epsilon", False)),
    (["v_pred"], {}, None, ("v_prediction", False)),
    (["v_pred", "ztsnr"], {}, None, ("v_prediction", True)),
    (["ztsnr"], {}, None, ("epsilon", False)),
    (["v_pred", "ztsnr"], {}, "epsilon", ("epsilon", False)),
    (["v_pred"], {"modelspec.prediction_type": "epsilon"}, None, ("v_prediction", False)),
    (["ztsnr"], {"modelspec.prediction_type": "v"}, None, ("v_prediction", True)),
    ([], {"modelspec.predict_key": "v"}, None, ("v_prediction", False)),
    ([], {"ss_v_prediction": "True"}, None, ("v_prediction", False)),
    ([], {"modelspec.prediction_type": "epsilon"}, "v_prediction", ("v_prediction", False)),
])  # fmt: skip
def test_what_the_model_predicts(marks, metadata, given, expected, tmp_path):
    shapes = dict.fromkeys([f"{VAE}x", f"{CLIP_L}x", f"{CLIP_G}x", SIZES], 1) | {FIRST: (8, 4, 3, 3)}
    file = written(tmp_path, {name: torch.zeros(shape) for name, shape in shapes.items()} | {m: V[m] for m in marks}, metadata)
    layout = read_xl_layout(file, given)
    assert (layout.prediction_type, layout.zero_snr) == expected
    source = locate(str(file), prediction_type=given)
    assert recognised(file).prediction_type(source) == expected[0] and layout.resolution == recognised(file).resolution(source)


def test_the_schedule_of_a_marked_model_ends_in_noise(base, tensors, tmp_path):
    folder = shutil.copytree(base, tmp_path / "base")
    config = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    changes = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps({**config, **changes}))
    file = written(tmp_path, tensors | V)
    expected, found = families(folder, file)
    assert found.schedule.alphas_cumprod[-1] == 0 and torch.equal(found.schedule.alphas_cumprod, expected.schedule.alphas_cumprod)
    assert found.prediction_type == "v_prediction"
    images = [Pipeline(each).generate(PROMPT, **OPTIONS) for each in (found, expected)]
    assert torch.equal(*images)
    (overridden,) = families(file, file, prediction_type="epsilon")[:1]
    assert overridden.prediction_type == "epsilon" and overridden.schedule.alphas_cumprod[-1] > 0


def test_an_inpainting_model_makes_images_and_can_be_trained(tensors, tmp_path):
    wide = torch.randn(tensors[FIRST].shape[0], 9, 3, 3)
    file = written(tmp_path, tensors | {FIRST: wide})
    family = load(source := locate(str(file)))
    assert family.takes_mask and torch.equal(family.unet.conv_in.weight, wide)
    assert recognised(file).not_trainable(source) is None


WHOLE = {f"{VAE}x": (1,), f"{CLIP_L}x": (1,), f"{CLIP_G}x": (1,), SIZES: (8, 8), FIRST: (8, 4, 3, 3)}
KEYS = f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(("change", "what", "remedy"), [
    ({"conditioner.embedders.0.model.x": (1,), f"{CLIP_L}x": None, f"{CLIP_G}x": None}, "the SDXL refiner", "base model of SDXL"),
    ({f"{VAE}x": None}, "is SDXL, but holds no VAE", "with VAE and both text encoders"),
    ({f"{CLIP_L}x": None}, "holds no first text encoder (CLIP)", "Save Checkpoint"),
    ({f"{CLIP_G}x": None}, "holds no second text encoder (OpenCLIP)", "Save Checkpoint"),
    ({f"{CLIP_L}x": None, f"{CLIP_G}x": None, f"{VAE}x": None, KEYS: (640, 2048)},
     "holds no VAE and no first text encoder (CLIP) and no second", "with VAE and both text encoders"),
    ({FIRST: None, SIZES: None}, "holds no UNet", "get the whole model"),
    ({SIZES: None}, "a UNet that does not take the size of an image", "whole"),
    ({FIRST: None}, "without a first convolution", "whole"),
    ({FIRST: (8, 8, 3, 3)}, "8 input channels (instruct-pix2pix)", "1.x, 2.x or XL"),
    ({"edm_mean": (4,), "edm_std": (4,)}, "EDM preconditioning", "predicts epsilon or v"),
    ({"edm_vpred.sigma_max": (), "edm_vpred.sigma_min": ()}, "EDM preconditioning", "predicts epsilon or v"),
    ({f"{UNET}time_embed.cond_proj.weight": (1,)}, "latent consistency model", "folder"),
    ({f"{UNET}input_blocks.1.0.time_stack.x": (1,)}, "a video model", "1.x, 2.x or XL"),
    ({"lora_unet_x.lora_up.weight": (1,)}, "is a LoRA", "--weights"),
    ({f"{UNET}out.2.scale_weight": (), f"{UNET}scaled_fp8": (0,)}, "quantised weights", "float16"),
    ({f"{UNET}middle_block.1.proj_in.weight.absmax": (1,)}, "quantised weights", "float16"),
])  # fmt: skip
def test_other_and_incomplete_files_are_refused_before_loading(change, what, remedy, tmp_path, capsys):
    shapes = {name: shape for name, shape in (WHOLE | change).items() if shape is not None}
    file = header_only(tmp_path / "x.safetensors", shapes)
    words = ["--prompt", "a", "--pretrained_model_name_or_path", str(file), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(InputError) as caught:
        locate(str(file))
    (problem,) = caught.value.problems
    assert problem.where == str(file) and what in problem.what and remedy in problem.remedy
    assert commands.infer(words) == 2 and not (tmp_path / "out").exists()
    assert what[:20] in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("change", "what"), [
    ({f"{UNET}middle_block.0.in_layers.0.weight": None}, "1 tensors of the unet are missing, such as mid_block.resnets.0.norm1"),
    ({f"{UNET}input_blocks.3.1.transformer_blocks.2.x": torch.ones(1)}, "1 tensors for which this UNet has no place"),
    ({f"{VAE}decoder.conv_in.bias": None}, "1 tensors of the vae are missing, such as decoder.conv_in.bias"),
    ({f"{CLIP_L}text_model.final_layer_norm.bias": None}, "1 tensors of the text_encoder are missing, such as final_layer_norm"),
    ({f"{CLIP_G}text_projection": None}, "1 tensors of the text_encoder_2 are missing, such as text_projection.weight"),
    ({f"{CLIP_G}ln_final.bias": torch.ones(3)}, "shape"),
])  # fmt: skip
def test_damaged_files_are_refused_by_the_tensor(change, what, tensors, tmp_path):
    file = written(tmp_path, {name: tensor for name, tensor in (tensors | change).items() if tensor is not None})
    with pytest.raises(InputError, match=what) as caught:
        load(locate(str(file)))
    assert "is it SDXL?" in caught.value.problems[0].remedy


def test_an_autoencoder_in_one_file_has_the_scale_of_sdxl(base, file, tensors, tmp_path):
    own = {name.removeprefix(VAE): 0.9 * tensor for name, tensor in tensors.items() if name.startswith(VAE)}
    vae_file = written(tmp_path, own)
    expected = AutoencoderKL.from_pretrained(base, subfolder="vae")
    for parameter in expected.parameters():
        parameter.data.mul_(0.9)
    pipeline, original = (load_pipeline(str(file), vae=each) for each in (str(vae_file), None))
    assert pipeline.family.vae.config.scaling_factor == 0.13025 and pipeline.family.vae.config.force_upcast
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in pipeline.family.vae.state_dict().items())
    latents = pipeline.generate(PROMPT, **OPTIONS)
    assert torch.equal(latents, original.generate(PROMPT, **OPTIONS)), "the latents are the UNet's"
    half = load_pipeline(str(file), vae=str(vae_file), torch_dtype=torch.float16).family
    assert (half.unet.dtype, half.vae.dtype) == (torch.float16, torch.float32)


def test_the_published_autoencoders_differ_in_scale_only(monkeypatch):
    """That of SDXL and that of Stable Diffusion 1.5."""
    monkeypatch.setattr(autoencoder, "CONFIGS", CONFIGS)
    ours = {"scaling_factor": 0.13025, "sample_size": 1024, "force_upcast": True}
    first, second = (json.loads((CONFIGS / name / "vae/config.json").read_text()) for name in ("sd15", "sdxl"))
    assert {**first, **ours} == second
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(second)
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863


# the published model: names and shapes by a formula


def layers(prefix: str, **shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Weight and bias of layers; a dot in a name is written as two underscores."""
    found = {}
    for name, shape in shapes.items():
        where = f"{prefix}.{name.replace('__', '.')}".strip(".")
        found |= {f"{where}.weight": shape, f"{where}.bias": shape[:1]}
    return found


def resnet(prefix: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """A block of two convolutions."""
    return layers(
        prefix, in_layers__0=(inputs,), in_layers__2=(outputs, inputs, 3, 3), emb_layers__1=(outputs, 1280),
        out_layers__0=(outputs,), out_layers__3=(outputs, outputs, 3, 3),
        **({"skip_connection": (outputs, inputs, 1, 1)} if inputs != outputs else {}),
    )  # fmt: skip


def transformer(prefix: str, width: int, depth: int) -> dict[str, tuple[int, ...]]:
    """`depth` blocks with attention to the image, to the prompt, and a feed-forward layer."""
    found = layers(prefix, norm=(width,), proj_in=(width, width), proj_out=(width, width))
    for block in (f"{prefix}.transformer_blocks.{number}" for number in range(depth)):
        found |= layers(block, norm1=(width,), norm2=(width,), norm3=(width,))
        found |= layers(block, ff__net__0__proj=(8 * width, width), ff__net__2=(width, 4 * width))
        for name, inputs in (("attn1", width), ("attn2", 2048)):
            sides = {"to_q": width, "to_k": inputs, "to_v": inputs}
            found |= {f"{block}.{name}.{each}.weight": (width, side) for each, side in sides.items()}
            found |= layers(f"{block}.{name}", to_out__0=(width, width))
    return found


def unet_shapes() -> dict[str, tuple[int, ...]]:
    """Three levels of 320, 640 and 1280 channels with 0, 2 and 10 blocks of attention; two resnets a level down, three up."""
    found = layers("", time_embed__0=(1280, 320), time_embed__2=(1280, 1280), out__0=(320,), out__2=(4, 320, 3, 3))
    found |= layers("label_emb.0", **{"0": (1280, 1280 + 6 * 256), "2": (1280, 1280)})
    found |= layers("input_blocks", **{"0__0": (320, 4, 3, 3), "3__0__op": (320, 320, 3, 3), "6__0__op": (640, 640, 3, 3)})
    for block, inputs, width, depth in [
        (1, 320, 320, 0), (2, 320, 320, 0), (4, 320, 640, 2), (5, 640, 640, 2), (7, 640, 1280, 10), (8, 1280, 1280, 10)
    ]:  # fmt: skip
        found |= resnet(f"input_blocks.{block}.0", inputs, width)
        found |= transformer(f"input_blocks.{block}.1", width, depth) if depth else {}
    found |= resnet("middle_block.0", 1280, 1280) | transformer("middle_block.1", 1280, 10) | resnet("middle_block.2", 1280, 1280)
    skipped = [1280, 1280, 640, 640, 640, 320, 320, 320, 320]  # the outputs of the way down, the last first
    below = 1280
    for block, skip in enumerate(skipped):
        width, depth = ((1280, 10), (640, 2), (320, 0))[block // 3]
        found |= resnet(f"output_blocks.{block}.0", below + skip, width)
        found |= transformer(f"output_blocks.{block}.1", width, depth) if depth else {}
        found |= layers(f"output_blocks.{block}.2", conv=(width, width, 3, 3)) if block in (2, 5) else {}
        below = width
    return {UNET + name: shape for name, shape in found.items()}


def clip_shapes() -> dict[str, tuple[int, ...]]:
    """CLIP ViT-L, 12 layers of 768."""
    found = {"embeddings.position_embedding.weight": (77, 768), "embeddings.token_embedding.weight": (49_408, 768)}
    found |= layers("", final_layer_norm=(768,))
    for layer in (f"encoder.layers.{number}" for number in range(12)):
        found |= layers(layer, layer_norm1=(768,), layer_norm2=(768,), mlp__fc1=(3072, 768), mlp__fc2=(768, 3072))
        found |= layers(f"{layer}.self_attn", **dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), (768, 768)))
    return {f"{CLIP_L}text_model.{name}": shape for name, shape in found.items()}


def open_clip_shapes() -> dict[str, tuple[int, ...]]:
    """OpenCLIP bigG, 32 layers of 1280."""
    found = {"positional_embedding": (77, 1280), "token_embedding.weight": (49_408, 1280), "text_projection": (1280, 1280)}
    found |= {"logit_scale": ()} | layers("", ln_final=(1280,))
    for layer in (f"transformer.resblocks.{number}" for number in range(32)):
        found |= layers(layer, ln_1=(1280,), ln_2=(1280,), mlp__c_fc=(5120, 1280), mlp__c_proj=(1280, 5120))
        found |= layers(f"{layer}.attn", out_proj=(1280, 1280))
        found |= {f"{layer}.attn.in_proj_weight": (3840, 1280), f"{layer}.attn.in_proj_bias": (3840,)}
    return {CLIP_G + name: shape for name, shape in found.items()}


def meta(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_every_name_of_the_published_file_is_one_of_the_networks():
    """Tensors are missing, too many, or of another shape: each raises an error where a network is filled."""
    shapes = unet_shapes()
    unet = load_network(UNet2DConditionModel, "unet", meta(shapes), CONFIGS / "sdxl")
    assert len(shapes) == len(unet.state_dict()) == 1680 and sum(map(prod, shapes.values())) == 2_567_463_684
    assert sum(parameter.numel() for parameter in unet.parameters()) == 2_567_463_684
    of_encoders = {
        "text_encoder": (CLIP_L, clip_shapes(), 123_060_480),
        "text_encoder_2": (CLIP_G, open_clip_shapes(), 694_659_840),
    }
    for part, (prefix, shapes, count) in of_encoders.items():
        encoder = load_text_encoder(CLASSES[part], part, meta(shapes), prefix, CONFIGS / "sdxl")
        assert sum(parameter.numel() for parameter in encoder.parameters()) == count
        assert sum(prod(shape) for name, shape in shapes.items() if "logit_scale" not in name) == count


def test_a_file_with_the_names_of_the_published_one_is_sdxl(tmp_path):
    """Its data is a hole in the file. To Stable Diffusion 1.x and 2.x it is none of theirs."""
    shapes = unet_shapes() | clip_shapes() | open_clip_shapes() | {f"{VAE}decoder.conv_in.weight": (512, 4, 3, 3)}
    file = header_only(tmp_path / "x.safetensors", shapes)
    source = locate(str(file))
    spec = recognised(file)
    assert (source.family, spec.resolution(source), spec.prediction_type(source)) == ("stable_diffusion_xl", 1024, "epsilon")
    assert spec.not_trainable(source) is None and list(spec.files(source)) == [file]
    assert [limit.at_once for limit in spec.text_limits(source)] == [77]
    with pytest.raises(InputError, match="holds no text encoder|unCLIP"):
        STABLE_DIFFUSION.check(replace(source, family="stable_diffusion"))
