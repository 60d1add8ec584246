"""Single .safetensors files in the original layout: recognised by their headers, loaded without loss of a bit.

The files are written by `benchmarks.ldm_layout`, the inverse of the conversion; diffusers' own single-file loader and
names of the published files, written out here, are the independent references for both directions.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file as save_arrays

sys.path.insert(0, str(Path(__file__).parents[1]))

from customize.errors import InputError
from customize.families.files import ldm_header
from customize.families.files.ldm_header import CLIP, CONFIGS, OPEN_CLIP, UNET, VAE, read_layout
from customize.families.source import Source

V1_NAMES = {f"{UNET}input_blocks.0.0.weight": (8, 4, 3, 3), f"{VAE}x": (1,), f"{CLIP}text_model.x": (1,)}
V2_NAMES = {f"{UNET}input_blocks.0.0.weight": (8, 4, 3, 3), f"{VAE}x": (1,), f"{OPEN_CLIP}x": (1,)}


def header_file(folder: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None) -> Path:
    """A file with tensors of these names and shapes."""
    arrays = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    save_arrays(arrays, folder / "x.safetensors", metadata)
    return folder / "x.safetensors"


@pytest.mark.parametrize(
    "shapes, metadata, given, expected",
    [
        (V1_NAMES, {}, None, ("sd15", "epsilon", 512)),
        (V1_NAMES, {"modelspec.prediction_type": "v"}, None, ("sd15", "v_prediction", 512)),
        (V1_NAMES, {"modelspec.resolution": "768x768"}, None, ("sd15", "epsilon", 768)),
        (V1_NAMES, {"modelspec.resolution": "768x512"}, None, ("sd15", "epsilon", 512)),
        (V2_NAMES, {}, None, ("sd21", "v_prediction", 768)),
        (V2_NAMES, {}, "epsilon", ("sd21_base", "epsilon", 512)),
        (V2_NAMES, {"modelspec.prediction_type": "epsilon"}, None, ("sd21_base", "epsilon", 512)),
        (V2_NAMES, {"modelspec.prediction_type": "epsilon"}, "v_prediction", ("sd21", "v_prediction", 768)),
        (V2_NAMES, {"modelspec.resolution": "512x512"}, None, ("sd21_base", "epsilon", 512)),
        (V2_NAMES, {"modelspec.resolution": "512", "ss_v_prediction": "True"}, None, ("sd21", "v_prediction", 512)),
        (V2_NAMES, {"ss_v_prediction": "True"}, None, ("sd21", "v_prediction", 768)),
        (V2_NAMES, {"ss_v_prediction": "False"}, None, ("sd21_base", "epsilon", 512)),
    ],
)
def test_version_and_prediction_type(tmp_path, shapes, metadata, given, expected):
    layout = read_layout(header_file(tmp_path, shapes, metadata), given)
    assert (layout.config.name, layout.prediction_type, layout.resolution) == expected


@pytest.mark.parametrize(
    "shapes, what, remedy",
    [
        ({"lora_unet_x.lora_up.weight": (2, 2)}, "is a LoRA", "--weights"),
        ({"unet.x.lora_A.weight": (2, 2)}, "is a LoRA", "--weights"),
        ({"emb_params": (1, 768)}, "textual inversion embedding", "--weights"),
        ({"<cat>": (1, 768)}, "textual inversion embedding", "--weights"),
        ({f"{UNET}x": (1,), f"{VAE}x": (1,), "conditioner.embedders.0.model.x": (1,)}, "the SDXL refiner", "base model of SDXL"),
        ({f"{UNET}label_emb.0.0.weight": (1,), f"{UNET}x": (1,)}, "an unCLIP model", "1.x, 2.x or XL"),
        ({f"{UNET}joint_blocks.0.x": (1,)}, "Stable Diffusion 3", "1.x, 2.x or XL"),
        ({"double_blocks.0.img_attn.x": (1,)}, "FLUX", "1.x, 2.x or XL"),
        ({"control_model.x": (1,)}, "ControlNet", "1.x, 2.x or XL"),
        ({"down_blocks.0.resnets.0.conv1.weight": (1,)}, "diffusers' layout", "whole folder"),
        ({f"layers.{i}.weight": (1, 1, 1, 1) for i in range(20)}, "no Stable Diffusion", "1.x, 2.x or XL"),
        ({f"state_dict.{UNET}x": (1,), f"state_dict.{VAE}x": (1,)}, "begin with state_dict.", "file of its own"),
        ({"input_blocks.0.0.weight": (1,), "middle_block.0.x": (1,)}, "a UNet alone", "with UNet, VAE and text encoder"),
        ({f"{VAE}x": (1,), f"{CLIP}x": (1,), "model_ema.diffusion_modelout2weight": (1,)}, "averages of its", "whole model"),
        ({f"{VAE}x": (1,)}, "holds no UNet and no text encoder", "whole model"),
        ({name: shape for name, shape in V1_NAMES.items() if not name.startswith(VAE)}, "holds no VAE", "VAE"),
        (V1_NAMES | {f"{UNET}input_blocks.0.0.weight": (8, 8, 3, 3)}, "8 input channels (instruct-pix2pix)", "text-to-image"),
        (V1_NAMES | {f"{UNET}input_blocks.0.0.weight": (8, 5, 3, 3)}, "(depth-to-image)", "text-to-image"),
        ({f"{UNET}x": (1,), f"{VAE}x": (1,), f"{CLIP}x": (1,)}, "without a first convolution", "whole"),
        ({f"{UNET}x": (1,), f"{VAE}x": (1,), "cond_stage_model.roberta.x": (1,)}, "neither CLIP", "1.x, 2.x or XL"),
    ],
)  # fmt: skip
def test_refuses_other_files_by_name(tmp_path, shapes, what, remedy):
    file = header_file(tmp_path, shapes)
    with pytest.raises(InputError) as caught:
        read_layout(file)
    (problem,) = caught.value.problems
    assert problem.where == str(file) and what in problem.what and remedy in problem.remedy


def test_refuses_an_unknown_prediction_type(tmp_path):
    file = header_file(tmp_path, V2_NAMES, {"modelspec.prediction_type": "flow"})
    with pytest.raises(InputError, match="'flow'"):
        read_layout(file)
    assert read_layout(file, "epsilon").prediction_type == "epsilon"


@pytest.fixture(scope="module")
def small_configs(tmp_path_factory) -> Path:
    """The project's configurations with every width cut down: the same names of tensors, small shapes."""
    folder = tmp_path_factory.mktemp("configs")
    widths = {
        "unet": {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 4, "cross_attention_dim": 12},
        "vae": {"block_out_channels": [4, 8, 8, 8], "norm_num_groups": 4},
        "text_encoder": {"hidden_size": 12, "intermediate_size": 24, "num_attention_heads": 2},
        "scheduler": {},
    }
    for version in ("sd15", "sd21"):
        for part, change in widths.items():
            name = "scheduler_config.json" if part == "scheduler" else "config.json"
            config = json.loads((CONFIGS / version / part / name).read_text())
            (folder / version / part).mkdir(parents=True)
            (folder / version / part / name).write_text(json.dumps(config | change))
    heads = {"attention_head_dim": [1, 2, 2, 2]}
    config = json.loads((folder / "sd21/unet/config.json").read_text())
    (folder / "sd21/unet/config.json").write_text(json.dumps(config | heads))
    return folder


@pytest.fixture(scope="module")
def sd15(small_configs):
    """A small random model: (pipeline, its tensors in the original layout)."""
    return random_model(small_configs / "sd15")


@pytest.fixture(scope="module")
def sd21(small_configs):
    """The same for the layout of 2.x."""
    return random_model(small_configs / "sd21")


def random_model(config: Path):
    """No two weights alike, norms and biases too (by themselves these begin as ones and zeros)."""
    import torch

    from benchmarks.ldm_layout import to_ldm
    from benchmarks.random_models import random_pipeline

    pipeline = random_pipeline(config)
    networks = pipeline.unet, pipeline.vae, pipeline.text_encoder
    for network in networks:
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter)
    return pipeline, to_ldm(*networks)


@pytest.fixture
def load(small_configs, tmp_path, monkeypatch):
    """Writes the tensors to a file and loads it with the small configurations."""

    def write_and_load(tensors, prediction_type=None):
        from safetensors.torch import save_file

        from customize.families import load

        monkeypatch.setattr(ldm_header, "CONFIGS", small_configs)
        save_file(tensors, tmp_path / "x.safetensors")
        return load(Source("x.safetensors", file=tmp_path / "x.safetensors", prediction_type=prediction_type))

    return write_and_load


def assert_equal_weights(model, pipeline) -> None:
    import torch

    for part in ("unet", "vae", "text_encoder"):
        weights, expected = getattr(model, part).state_dict(), getattr(pipeline, part).state_dict()
        assert set(weights) == set(expected)
        for name, tensor in expected.items():
            assert weights[name].dtype == torch.float32 and torch.equal(weights[name], tensor.float()), name


def assert_equal_settings(model, pipeline) -> None:
    for part in ("unet", "vae", "scheduler"):
        config, expected = getattr(model, part).config, getattr(pipeline, part).config
        assert {name: config[name] for name in config if name[0] != "_"} == {
            name: expected[name] for name in expected if name[0] != "_"
        }
    assert model.tokenizer("a cat", padding="max_length") == pipeline.tokenizer("a cat", padding="max_length")


def test_a_1x_file_arrives_bit_equal(sd15, load):
    import torch

    pipeline, tensors = sd15
    clutter = {
        "model_ema.decay": torch.ones(1),
        "alphas_cumprod": torch.ones(1000),
        f"{VAE}loss.logvar": torch.ones(1),
        f"{CLIP}text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    model = load(tensors | clutter)
    assert_equal_weights(model, pipeline)
    assert_equal_settings(model, pipeline)
    assert (model.prediction_type, model.resolution) == ("epsilon", 512)


def test_a_2x_file_arrives_bit_equal(sd21, load):
    import torch

    pipeline, tensors = sd21
    layer = f"{OPEN_CLIP}transformer.resblocks"
    clutter = {name.replace(".22.", ".23."): tensors[name] + 1 for name in tensors if name.startswith(f"{layer}.22.")}
    clutter |= {f"{OPEN_CLIP}text_projection": torch.ones(12, 12), f"{OPEN_CLIP}logit_scale": torch.ones(())}
    model = load(tensors | clutter)
    assert_equal_weights(model, pipeline)
    assert_equal_settings(model, pipeline)
    assert (model.prediction_type, model.resolution) == ("v_prediction", 768)
    parameters = list(model.text_encoder.parameters())
    assert len({parameter.untyped_storage().data_ptr() for parameter in parameters}) == len(parameters)


@pytest.mark.parametrize("version", ["sd15", "sd21"])
def test_diffusers_reads_the_same_from_the_file(version, request, small_configs, tmp_path):
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import save_file

    pipeline, tensors = request.getfixturevalue(version)
    pipeline.save_config(small_configs / version)
    save_file(tensors, tmp_path / "x.safetensors")
    stock = StableDiffusionPipeline.from_single_file(
        str(tmp_path / "x.safetensors"), config=str(small_configs / version), local_files_only=True,
        tokenizer=pipeline.tokenizer, safety_checker=None, feature_extractor=None,
    )  # fmt: skip
    assert_equal_weights(stock, pipeline)


def test_names_of_old_merges_half_precision_and_a_given_prediction_type(sd15, load):
    pipeline, tensors = sd15
    old = {name.replace(f"{CLIP}text_model.", CLIP): tensor.half() for name, tensor in tensors.items()}
    model = load(old, "v_prediction")
    assert model.prediction_type == model.scheduler.config.prediction_type == "v_prediction"
    for part in ("unet", "text_encoder"):
        expected = getattr(pipeline, part).state_dict()
        for name, weight in getattr(model, part).state_dict().items():
            assert (weight == expected[name].half().float()).all(), name


@pytest.mark.parametrize(
    "name, what",
    [
        (
            f"{UNET}middle_block.0.in_layers.0.weight",
            "1 tensors of the unet are missing, such as mid_block.resnets.0.norm1.weight",
        ),
        (f"{VAE}decoder.conv_in.bias", "1 tensors of the vae are missing, such as decoder.conv_in.bias"),
        (f"{OPEN_CLIP}ln_final.bias", "1 tensors of the text_encoder are missing, such as final_layer_norm.bias"),
    ],
)
def test_a_missing_tensor_is_named(sd21, load, name, what):
    with pytest.raises(InputError, match=what) as caught:
        load({other: tensor for other, tensor in sd21[1].items() if other != name})
    assert caught.value.problems[0].where.endswith("x.safetensors")


def test_a_foreign_tensor_or_shape_in_the_unet_is_refused(sd15, load):
    import torch

    _, tensors = sd15
    with pytest.raises(InputError, match="1 tensors for which this UNet has no place"):
        load(tensors | {f"{UNET}input_blocks.1.1.transformer_blocks.0.fuser.alpha": torch.ones(1)})
    with pytest.raises(InputError, match="shape"):
        load(tensors | {f"{UNET}out.2.bias": torch.ones(5)})


@pytest.mark.parametrize(
    "version, counts, published",
    [
        (
            "sd15", (859_520_964, 83_653_863, 123_060_480),
            {f"{CLIP}text_model.encoder.layers.11.mlp.fc2.weight": (768, 3072),
             f"{UNET}input_blocks.1.1.proj_in.weight": (320, 320, 1, 1)},
        ),
        (
            "sd21", (865_910_724, 83_653_863, 340_387_840),
            {f"{OPEN_CLIP}transformer.resblocks.22.attn.in_proj_weight": (3072, 1024),
             f"{OPEN_CLIP}transformer.resblocks.0.attn.in_proj_bias": (3072,),
             f"{OPEN_CLIP}transformer.resblocks.0.attn.out_proj.weight": (1024, 1024),
             f"{OPEN_CLIP}transformer.resblocks.0.mlp.c_fc.weight": (4096, 1024),
             f"{OPEN_CLIP}transformer.resblocks.0.ln_1.bias": (1024,),
             f"{OPEN_CLIP}positional_embedding": (77, 1024),
             f"{OPEN_CLIP}token_embedding.weight": (49408, 1024),
             f"{OPEN_CLIP}ln_final.weight": (1024,),
             f"{UNET}input_blocks.1.1.proj_in.weight": (320, 320)},
        ),
    ],
)  # fmt: skip
def test_the_configurations_are_the_published_architectures(version, counts, published):
    from accelerate import init_empty_weights

    from benchmarks.ldm_layout import to_ldm
    from benchmarks.random_models import random_pipeline

    with init_empty_weights():
        pipeline = random_pipeline(CONFIGS / version)
    networks = pipeline.unet, pipeline.vae, pipeline.text_encoder
    assert tuple(sum(parameter.numel() for parameter in network.parameters()) for network in networks) == counts
    tensors = to_ldm(*networks)
    published = published | {
        f"{UNET}time_embed.2.weight": (1280, 1280),
        f"{UNET}input_blocks.3.0.op.weight": (320, 320, 3, 3),
        f"{UNET}input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        f"{UNET}input_blocks.11.0.emb_layers.1.weight": (1280, 1280),
        f"{UNET}input_blocks.8.1.transformer_blocks.0.norm1.weight": (1280,),
        f"{UNET}middle_block.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
        f"{UNET}middle_block.2.out_layers.3.bias": (1280,),
        f"{UNET}output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        f"{UNET}output_blocks.8.2.conv.weight": (640, 640, 3, 3),
        f"{UNET}output_blocks.11.0.in_layers.2.weight": (320, 640, 3, 3),
        f"{UNET}output_blocks.11.1.transformer_blocks.0.attn1.to_out.0.bias": (320,),
        f"{UNET}out.2.weight": (4, 320, 3, 3),
        f"{VAE}encoder.down.0.downsample.conv.weight": (128, 128, 3, 3),
        f"{VAE}encoder.down.1.block.0.nin_shortcut.weight": (256, 128, 1, 1),
        f"{VAE}encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        f"{VAE}decoder.mid.attn_1.proj_out.bias": (512,),
        f"{VAE}decoder.mid.block_2.norm2.weight": (512,),
        f"{VAE}decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        f"{VAE}decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        f"{VAE}decoder.norm_out.weight": (128,),
        f"{VAE}post_quant_conv.weight": (4, 4, 1, 1),
    }
    assert {name: tuple(tensors[name].shape) for name in published if name in tensors} == published
    assert [sum(name.startswith(prefix) for name in tensors) for prefix in (UNET, VAE)] == [686, 248]


def test_the_tokenizer_is_clips():
    from customize.families.files.clip_tokenizer import clip_tokenizer

    v1, v2 = clip_tokenizer(), clip_tokenizer("!")
    assert len(v1) == len(v2) == 49_408 and v1.model_max_length == v2.model_max_length == 77
    assert v1("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert v1("hello! it's 42 <my-cat>").input_ids[:3] == [49406, 3306, 256]
    assert v1("hello", padding="max_length").input_ids == [49406, 3306] + 75 * [49407]
    assert v2("hello", padding="max_length").input_ids == [49406, 3306, 49407] + 74 * [0]
    assert v1.decode(v1("naïve 猫 🐱", add_special_tokens=False).input_ids) == "naïve 猫 🐱"


@pytest.mark.slow
@pytest.mark.parametrize("version", ["sd15", "sd21"])
def test_every_weight_of_the_real_architecture(version, tmp_path):
    import torch
    from safetensors.torch import save_file

    from customize.families import load

    torch.set_default_dtype(torch.float16)
    try:
        pipeline, tensors = random_model(CONFIGS / version)
    finally:
        torch.set_default_dtype(torch.float32)
    save_file(tensors, tmp_path / "x.safetensors")
    model = load(Source("x", file=tmp_path / "x.safetensors"))
    (tmp_path / "x.safetensors").unlink()  # pytest keeps the folders of three runs
    assert_equal_weights(model, pipeline)
