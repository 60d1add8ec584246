"""Untrusted files: each is identified in one line and quickly, and neither obeyed nor changed."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from corpus import PLAIN, chunk, encoded

from customize.data.images.decoding_cost import too_costly
from customize.data.images.image_file import open_image
from customize.errors import InputError
from customize.families import locate
from customize.families.specs import STABLE_DIFFUSION
from customize.printable import code, code_block, html, markdown, printable
from customize.settings.files import toml_file
from customize.settings.files.sharing import last_part, shared_name
from customize.storage.json_files import read_object
from customize.storage.untrusted_files import kind_of, regular_file

SECONDS = 2.0
NAN, INFINITY = float("nan"), float("inf")


def refusal(name: object, variant: str | None = None) -> str:
    """The report on a base model: printable lines with remedies, in time."""
    begin = time.process_time()
    with pytest.raises(InputError) as caught:
        STABLE_DIFFUSION.vocabulary(locate(str(name), variant=variant))
    assert time.process_time() - begin < SECONDS
    problems = caught.value.problems
    assert all(each.remedy and f"{each.where}{each.what}{each.remedy}".isprintable() for each in problems)
    assert "is a bug in" not in str(caught.value)
    return str(caught.value)


def header_only(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A safetensors file of which all tensors are zero: a header, and a hole in the file behind it."""
    place, header = 0, {}
    for name, shape in shapes.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)
    return path


@pytest.fixture
def model(tiny_epsilon, tmp_path) -> Path:
    """A whole model whose configurations can be changed."""
    folder = tmp_path / "model"
    shutil.copytree(
        tiny_epsilon, folder, copy_function=lambda a, b: os.link(a, b) if a.endswith(".safetensors") else shutil.copy(a, b)
    )
    return folder


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# a folder says by its class that it is another model

NOT_OURS = "not a text-to-image model of Stable Diffusion 1.x, 2.x or XL"
PIPELINES = {
    "StableDiffusionXLInstructPix2PixPipeline": "instruct-pix2pix", "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "StableDiffusion3Img2ImgPipeline": "Stable Diffusion 3", "FluxPipeline": "FLUX", "FluxFillPipeline": "FLUX",
    "FluxKontextPipeline": "FLUX", "Flux2Pipeline": "FLUX.2", "ChromaPipeline": "Chroma", "StableUnCLIPPipeline": "unCLIP",
    "StableUnCLIPImg2ImgPipeline": "unCLIP", "UnCLIPPipeline": "unCLIP", "StableDiffusionImageVariationPipeline": "variations",
    "StableDiffusionLatentUpscalePipeline": "upscaler",
    "StableDiffusionInstructPix2PixPipeline": "instruct-pix2pix", "StableDiffusionDepth2ImgPipeline": "depth-to-image",
    "PixArtAlphaPipeline": "PixArt", "PixArtSigmaPipeline": "PixArt", "SanaPipeline": "Sana", "AuraFlowPipeline": "AuraFlow",
    "WanPipeline": "Wan", "HunyuanDiTPipeline": "Hunyuan", "HunyuanVideoPipeline": "Hunyuan", "LTXPipeline": "LTX-Video",
    "CogVideoXPipeline": "CogVideoX", "KandinskyV22Pipeline": "Kandinsky", "Kandinsky3Pipeline": "Kandinsky",
    "KolorsPipeline": "Kolors", "StableCascadeCombinedPipeline": "Stable Cascade",
    "WuerstchenCombinedPipeline": "Wuerstchen", "AudioLDM2Pipeline": "sound", "AnimateDiffPipeline": "AnimateDiff",
    "StableVideoDiffusionPipeline": "Stable Video Diffusion", "TextToVideoSDPipeline": "text-to-video",
    "OnnxStableDiffusionPipeline": "ONNX", "OVStableDiffusionPipeline": "OpenVINO", "FlaxStableDiffusionPipeline": "Flax",
    "StableDiffusionControlNetPipeline": "ControlNet", "StableDiffusionGLIGENPipeline": "GLIGEN",
    "QwenImagePipeline": "Qwen-Image",
    "AltDiffusionPipeline": "AltDiffusion", "DDPMPipeline": "without text",
}  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), [pytest.param(*each, id=each[0]) for each in PIPELINES.items()])
def test_a_folder_of_another_pipeline_is_named(tmp_path, name, kind):
    write(tmp_path / "model_index.json", {"_class_name": name})
    output = refusal(tmp_path)
    assert kind in output and name in output and NOT_OURS in output and "copy the model again" not in output


UNETS = [
    pytest.param({"addition_embed_type": "text_time", "cross_attention_dim": 1280}, "refiner", id="refiner by its UNet"),
    pytest.param({"addition_embed_type": "text"}, "DeepFloyd IF", id="IF by its UNet"),
    pytest.param({"addition_embed_type": "image"}, "Kandinsky", id="Kandinsky by its UNet"),
    pytest.param({"class_embed_type": "projection"}, "unCLIP", id="unCLIP by its UNet"),
    pytest.param({"class_embed_type": "simple_projection"}, "sound", id="AudioLDM by its UNet"),
    pytest.param({"class_embed_type": "timestep"}, "class-conditional", id="class_embed_type timestep"),
    pytest.param({"num_class_embeds": 10}, "10 classes", id="class labels"),
    pytest.param({"num_class_embeds": 1000, "in_channels": 7}, "upscaling", id="x4 upscaler by its UNet"),
    pytest.param({"in_channels": 8}, "instruct-pix2pix", id="8 channels"),
    pytest.param({"in_channels": 5}, "depth-to-image", id="5 channels"),
    pytest.param({"encoder_hid_dim": 192, "encoder_hid_dim_type": "text_proj"}, "text_proj", id="text projected by the UNet"),
    pytest.param({"attention_type": "gated"}, "GLIGEN", id="GLIGEN by its UNet"),
    pytest.param({"_class_name": "UNetMotionModel"}, "AnimateDiff", id="motion UNet"),
    pytest.param({"_class_name": "UNet3DConditionModel"}, "video", id="video UNet"),
    pytest.param({"_class_name": "UNetSpatioTemporalConditionModel"}, "video", id="SVD UNet"),
    pytest.param({"_class_name": "UNet2DModel"}, "without text", id="UNet without text"),
    pytest.param({"addition_embed_type": "\x1b]0;x\x07"}, "\\x1b", id="escape sequence for a type"),
]


@pytest.mark.parametrize(("config", "kind"), UNETS)
def test_a_unet_of_another_model_is_named_whatever_the_pipeline_is_called(tmp_path, config, kind):
    for index in ({"_class_name": "StableDiffusionPipeline"}, {}, {"_class_name": ["pipeline", "Evil"]}, {"_class_name": 7}):
        write(tmp_path / "model_index.json", index)
        write(tmp_path / "unet/config.json", config)
        output = refusal(tmp_path)
        assert kind in output and NOT_OURS in output


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("FluxTransformer2DModel", "FLUX"), ("SD3Transformer2DModel", "Stable Diffusion 3"), ("SanaTransformer2DModel", "Sana"),
        ("PixArtTransformer2DModel", "PixArt"), ("WanTransformer3DModel", "Wan"), ("LTXVideoTransformer3DModel", "LTX"),
        ("AuraFlowTransformer2DModel", "AuraFlow"), ("SomethingNewTransformer2DModel", "diffusion transformer"),
        (7, "transformer/"),
    ],
)  # fmt: skip
def test_a_transformer_in_place_of_a_unet_is_named(tmp_path, name, kind):
    write(tmp_path / "model_index.json", {})
    write(tmp_path / "transformer/config.json", {"_class_name": name})
    assert kind in refusal(tmp_path)


# single files

SDXL = [
    "conditioner.embedders.0.transformer.text_model.x",
    "conditioner.embedders.1.model.x",
    "model.diffusion_model.label_emb.0.0.weight",
]
FILES = {
    "SDXL without a VAE": (SDXL, "is SDXL, but holds no VAE"),
    "SDXL refiner": (["conditioner.embedders.0.model.x", "model.diffusion_model.x"], "refiner"),
    "SD3": (["model.diffusion_model.joint_blocks.0.x"], "Stable Diffusion 3"),
    "SD3 in diffusers' layout": (["transformer_blocks.0.attn.to_q.weight", "context_embedder.weight"], "Stable Diffusion 3"),
    "FLUX dev": (["double_blocks.0.img_attn.x", "guidance_in.in_layer.weight"], "FLUX"),
    "FLUX in ComfyUI's layout": (["model.diffusion_model.double_blocks.0.x"], "FLUX"),
    "FLUX in diffusers' layout": (["single_transformer_blocks.0.x", "context_embedder.weight"], "FLUX"),
    "Chroma": (["distilled_guidance_layer.x", "double_blocks.0.x"], "Chroma"),
    "Hunyuan Video": (["double_blocks.0.x", "txt_in.individual_token_refiner.x"], "Hunyuan"),
    "AuraFlow": (["double_layers.0.x", "register_tokens"], "AuraFlow"), "PixArt": (["adaln_single.linear.weight"], "PixArt"),
    "Sana": (["caption_norm.weight", "adaln_single.x"], "Sana"), "Wan": (["head.modulation", "blocks.0.x"], "Wan"),
    "LTX": (["model.diffusion_model.patchify_proj.weight", "adaln_single.x"], "LTX-Video"),
    "Stable Cascade": (["clip_txt_pooled_mapper.weight"], "Stable Cascade"), "sound": (["vocoder.x"], "sound"),
    "LCM": (["model.diffusion_model.time_embed.cond_proj.weight", "cond_stage_model.transformer.x"], "LCM"),
    "unCLIP": (["model.diffusion_model.label_emb.0.0.weight", "cond_stage_model.model.x"], "unCLIP"),
    "LoRA of kohya": (["lora_unet_x.lora_down.weight"], "is a LoRA"), "LoRA of peft": (["unet.x.lora_A.weight"], "is a LoRA"),
    "LoHa": (["lora_unet_x.hada_w1_a"], "LyCORIS"), "LoKr": (["lora_unet_x.lokr_w1"], "LyCORIS"),
    "embedding": (["emb_params"], "embedding"), "embedding of SDXL": (["clip_g", "clip_l"], "embedding"),
    "ControlNet": (["control_model.input_blocks.0.0.weight"], "ControlNet"),
    "ControlNet in diffusers' layout": (["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.x"], "ControlNet"),
    "T2I adapter": (["adapter.body.0.resnets.0.block1.weight"], "T2I adapter"),
    "IP-Adapter": (["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], "IP-Adapter"),
    "motion module": (["down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"], "AnimateDiff"),
    "VAE": (["encoder.conv_in.weight", "decoder.conv_in.weight", "quant_conv.weight"], "VAE alone"),
    "VAE in diffusers' layout": (["decoder.up_blocks.0.resnets.0.conv1.weight"], "VAE alone"),
    "TAESD": (["encoder.layers.0.weight"], "TAESD"),
    "CLIP": (["text_model.embeddings.position_embedding.weight"], "text encoder"),
    "T5": (["encoder.block.0.layer.0.x", "shared.weight"], "T5"),
    "CLIP vision": (["vision_model.embeddings.x"], "image encoder"),
    "ESRGAN": (["model.1.sub.0.RDB1.conv1.0.weight"], "upscaler"),
    "UNet alone": (["down_blocks.0.x", "conv_in.weight"], "one network"),
    "language model": (["model.layers.0.self_attn.q_proj.weight"], "language model"), "nothing known": (["x"] , "embedding"),
}  # fmt: skip


@pytest.mark.parametrize(("names", "kind"), [pytest.param(*value, id=name) for name, value in FILES.items()])
def test_a_single_file_of_another_kind_is_named(tmp_path, names, kind):
    assert kind in refusal(header_only(tmp_path / "file.safetensors", dict.fromkeys(names, (1, 1))))


# what lies in the folder


def hub_cache(folder: Path, *snapshots: str) -> Path:
    for name in snapshots:
        write(folder / "models--a--b/snapshots" / name / "model_index.json", {"_class_name": "FluxPipeline"})
    return folder / "models--a--b"


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def part_of_a_model(folder: Path) -> Path:
    write(folder / "sd/model_index.json", {})
    write(folder / "sd/unet/config.json", {"_class_name": "UNet2DConditionModel"})
    return folder / "sd/unet"


def one_level_up(folder: Path) -> Path:
    write(folder / "my model/model_index.json", {})
    return folder


def network(name: str, key: str = "_class_name") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write(folder / "config.json", {key: [name] if key == "architectures" else name})
        return folder

    return make


FOLDERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (lambda folder: folder, "is empty"),
    "missing": (lambda folder: folder / "gone", "no folder"),
    "pickle": (lambda folder: touched(folder, "v1-5.ckpt"), "contains only pickles (v1-5.ckpt)"),
    "GGUF": (lambda folder: touched(folder, "flux-Q4.gguf"), "contains only GGUF"),
    "ONNX": (lambda folder: touched(folder, "model.onnx"), "contains only ONNX"),
    "OpenVINO": (lambda folder: touched(folder, "openvino_model.xml", "openvino_model.bin"), "contains only OpenVINO"),
    "Flax": (lambda folder: touched(folder, "flax_model.msgpack"), "contains only Flax"),
    "TensorFlow": (lambda folder: touched(folder, "tf_model.h5"), "contains only TensorFlow"),
    "images": (lambda folder: touched(folder, "a.png", "b.JPG"), "contains images"),
    "LoRA": (lambda folder: touched(folder, "pytorch_lora_weights.safetensors"), "contains learned weights"),
    "embedding": (lambda folder: touched(folder, "learned_embeds.safetensors"), "contains learned weights"),
    "peft": (lambda folder: touched(folder, "adapter_config.json"), "contains learned weights"),
    "IP-Adapter": (lambda folder: touched(folder, "ip-adapter_sd15.bin"), "contains an IP-Adapter"),
    "checkpoints": (lambda folder: touched(folder, "a.safetensors", "b.safetensors"),
    "2 single files: a.safetensors, b.safetensors"),
    "ComfyUI": (lambda f: touched(f, "vae/x.safetensors", "checkpoints/sd.safetensors"), "checkpoints/sd.safetensors, vae/x"),
    "one level up": (one_level_up, "but my model in it"),
    "one level down": (part_of_a_model, "is one part of a model"),
    "hub cache of a model": (lambda folder: hub_cache(folder, "abc"), "FLUX"),
    "its snapshots": (lambda folder: hub_cache(folder, "abc") / "snapshots", "FLUX"),
    "several snapshots": (lambda folder: hub_cache(folder, "abc", "def"), "several snapshots: abc, def"),
    "hub cache": (lambda folder: hub_cache(folder, "abc").parent, "the hub's cache of 1 repositories"),
    "ControlNet": (network("ControlNetModel"), "is a ControlNet"), "VAE": (network("AutoencoderKL"), "is a VAE alone"),
    "T2I": (network("T2IAdapter"), "is a T2I adapter"), "motion": (network("MotionAdapter"), "motion module"),
    "text encoder": (network("CLIPTextModel", "architectures"), "is a text encoder alone"),
    "CLIP vision": (network("CLIPVisionModelWithProjection", "architectures"), "image encoder"),
    "UNet": (network("UNet2DConditionModel"), "is a UNet alone"), "nonsense": (network("x"), "no model_index.json"),
    "a name with control characters": (lambda folder: touched(folder / "a\x1b[31m\nb", "x.gguf"), "\\x1b[31m\\nb"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "kind"), [pytest.param(*value, id=name) for name, value in FOLDERS.items()])
def test_folders_that_are_not_models_are_identified(tmp_path, make, kind):
    output = refusal(make(tmp_path))
    assert kind in output and "copy the model again" not in output


def test_pickles_are_mentioned_only_if_there_are_any(tmp_path):
    write(tmp_path / "model_index.json", {})
    for part in ("unet", "vae", "text_encoder"):
        write(tmp_path / part / "config.json", {})
    output = refusal(tmp_path)
    assert "only pickles" not in output and output.count("has no safetensors") == 3
    (tmp_path / "vae/diffusion_pytorch_model.bin").write_bytes(b"")
    (tmp_path / "unet/model.onnx").write_bytes(b"")
    output = refusal(tmp_path)
    assert output.count("only pickles") == 1 and "has no safetensors, only ONNX" in output


# numbers that the tensors contradict

VALUES = [
    *(("unet", name, value) for name, value in (
        ("layers_per_block", 100_000), ("layers_per_block", 2), ("layers_per_block", [1, 2]), ("layers_per_block", 0),
        ("transformer_layers_per_block", 100_000), ("transformer_layers_per_block", [[1]]), ("attention_head_dim", -4),
        ("attention_head_dim", NAN), ("attention_head_dim", "8"), ("attention_head_dim", True),
        ("block_out_channels", [32, 128]),
        ("block_out_channels", [1 << 30] * 2), ("block_out_channels", [32] * 200), ("cross_attention_dim", 768),
        ("norm_eps", INFINITY),
        ("in_channels", 9), ("out_channels", 8), ("down_block_types", ["os.system", "DownBlock2D"]), ("act_fn", "eval"),
        ("mid_block_type", "Evil"), ("time_embedding_type", "x"), ("conv_in_kernel", 10**9), ("dropout", -1),
        ("sample_size", [16, 16]),
    )),
    *(("vae", name, value) for name, value in (
        ("layers_per_block", 100_000), ("latent_channels", 16), ("block_out_channels", [16, 64]), ("scaling_factor", 1e30),
        ("shift_factor", 0.1), ("latents_mean", [0.0] * 4), ("norm_num_groups", 0),
    )),
    *(("text_encoder", name, value) for name, value in (
        ("num_hidden_layers", 100_000), ("num_hidden_layers", 3), ("hidden_size", 1 << 40), ("vocab_size", 10),
        ("vocab_size", 999_999),
        ("max_position_embeddings", 10**9), ("num_attention_heads", 5), ("intermediate_size", 65), ("hidden_act", "__import__"),
        ("eos_token_id", 10**6), ("layer_norm_eps", NAN),
    )),
    *(("scheduler", name, value) for name, value in (
        ("num_train_timesteps", 10**9), ("trained_betas", [0.1, 0.2]), ("trained_betas", [NAN] * 1000), ("beta_start", 0.5),
        ("beta_end", NAN), ("dynamic_thresholding_ratio", -3), ("clip_sample_range", 0), ("timestep_spacing", "x"),
        ("solver_order", 9),
        ("steps_offset", -1), ("prediction_type", "flow"), ("beta_schedule", ["linear"]), ("original_inference_steps", 9999),
    )),
]  # fmt: skip


@pytest.mark.parametrize(
    ("part", "name", "value"), [pytest.param(*each, id=f"{each[0]} {each[1]} {str(each[2])[:30]}") for each in VALUES]
)
def test_impossible_values_are_refused_before_anything_is_built(model, part, name, value):
    file = model / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    change(file, **{name: value})
    output = refusal(model)
    assert str(file) in output and name in output


# files that are none

CONFIGURATIONS = (
    "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json", "tokenizer/tokenizer.json", "unet/diffusion_pytorch_model.safetensors",
)  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["a pipe", "a link to a device", "a link to nothing", "a folder", "a loop", "0 bytes", "a web page"]
)
@pytest.mark.parametrize("file", CONFIGURATIONS)
def test_special_files_in_a_model_are_refused_without_waiting(model, file, kind):
    path = model / file
    path.unlink()
    match kind:
        case "a pipe":
            os.mkfifo(path)
        case "a link to a device":
            path.symlink_to("/dev/zero")
        case "a link to nothing":
            path.symlink_to("gone")
        case "a folder":
            path.mkdir()
        case "a loop":
            path.symlink_to(path.name)
        case _:
            path.write_bytes(b"" if kind == "0 bytes" else b"<!DOCTYPE html><html>log in</html>")
    assert str(path.parent) in refusal(model)


@pytest.mark.parametrize("name", ["chat_template.jinja", "added_tokens.json", "special_tokens_map.json", "merges.txt"])
def test_other_files_of_a_tokenizer_must_be_regular_too(model, name):
    os.mkfifo(model / "tokenizer" / name)
    assert "a named pipe" in refusal(model)


def test_a_safety_checker_that_would_be_copied_is_looked_at(model):
    (model / "safety_checker").mkdir()
    (model / "safety_checker/model.safetensors").symlink_to("/dev/zero")
    assert "not a regular file but a device" in refusal(model)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull"), (b"<html><body>", "web page"),
        (b"PK\x03\x04" + bytes(20), "pickle"), (b"\x80\x04\x95" + bytes(20), "pickle"), (b"GGUF\3\0\0\0" + bytes(20), "GGUF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "PNG"), (b"\x89HDF\r\n\x1a\n", "HDF5"), (b"\x1f\x8b\x08" + bytes(20), "gzip"),
        (b"%PDF-1.7 " + bytes(20), "PDF"), (b"Rar!\x1a\x07" + bytes(20), "RAR"), (b'{"a": 1}' * 4, "safetensors"),
        ((1 << 40).to_bytes(8, "little") + bytes(40), "safetensors"), ((200_000_000).to_bytes(8, "little"), "safetensors"),
    ],
)  # fmt: skip
def test_files_named_safetensors_are_identified_by_their_first_bytes(model, tmp_path, start, kind):
    (tmp_path / "x.safetensors").write_bytes(start)
    assert kind in refusal(tmp_path / "x.safetensors")
    file = model / "unet/diffusion_pytorch_model.safetensors"
    file.unlink()
    file.write_bytes(start)
    assert kind in refusal(model)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("model.gguf", b"GGUF\3\0\0\0", "GGUF"), ("model.onnx", b"\x08\x07", "ONNX"),
        ("model.zip", b"PK\x03\x04", "zip archive"),
        ("model_index.json", b"{}", "give "), ("photo.png", encoded(PLAIN, "PNG"), "PNG image"),
        ("model.CKPT", b"", "is a pickle"),
        ("sd.SafeTensors", b"", "safetensors"), ("notes", b"x", "not a supported model"),
    ],
)  # fmt: skip
def test_files_given_as_base_model_are_identified(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    assert kind in refusal(tmp_path / name)


# tokenizers


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Removed",
        "invert": True}}, id="regex"),
        pytest.param({"normalizer": {"type": "Replace",
        "pattern": {"Regex": "(a|a)*b"}, "content": ""}}, id="regex of a normalizer"),
        pytest.param({"model": {"type": "Unigram", "vocab": [], "unk_id": 9}}, id="another model"),
        pytest.param({"model": []}, id="no model"), pytest.param({"added_tokens": [{"id": 5}]}, id="half a token"),
    ],
)  # fmt: skip
def test_impossible_tokenizers_are_refused(model, changes):
    change(model / "tokenizer/tokenizer.json", **changes)
    assert "contains no vocabulary" in refusal(model)


def test_absurd_lengths_are_ignored(model):
    before = STABLE_DIFFUSION.vocabulary(locate(str(model)))
    huge = {
        "strategy": {"Fixed": 10**18},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "x",
    }
    change(model / "tokenizer/tokenizer.json", padding=huge, truncation={"max_length": 10**18, "strategy": "x", "stride": -1})
    assert STABLE_DIFFUSION.vocabulary(locate(str(model))) == before


# texts

HOSTILE = {
    "ESC": "\x1b[31mred\x1b[0m", "OSC title": "\x1b]0;owned\x07", "CSI of one byte": "\x9b31m", "carriage return": "safe\rEVIL",
    "newline": "a\nb", "next line": "a\x85b", "line separator": "a\u2028b", "backspace": "a\b\bb", "bell": "\a", "NUL": "a\0b",
    "right to left": "abc\u202etxt.exe", "isolate": "a\u2066b\u2069", "zero width": "pass\u200bword",
    "byte order mark": "\ufeffa",
    "Hangul filler": "a\u3164b", "soft hyphen": "a\xadb", "tag letters": "a\U000e0041b", "surrogate": "a\udcffb",
    "private use": "\ue000",
    "pile of marks": "a" + "\u0301" * 50, "variation": "a\ufe0f", "DEL": "a\x7f", "tab": "a\tb",
}  # fmt: skip


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in HOSTILE.items()])
def test_texts_are_escaped_for_the_terminal(text):
    for shown in (printable(text), html(text), markdown(text), code(text)):
        assert shown.isprintable() and text not in shown and "\\" in shown
    assert len([line for line in code_block(text).split("\n") if not line.isprintable()]) == 0


@pytest.mark.parametrize(
    "text", ["plain", "köttbullar", "猫の写真", "❤️ photo", "naïve", "e\u0301té", "<my-cat>", "a  b", "😀", "Ελλάδα"]
)
def test_ordinary_names_are_unchanged(text):
    assert printable(text) == text


def test_a_long_text_says_how_much_is_omitted():
    assert printable("x" * 5000, 10) == "x" * 10 + "... (4,990 more characters)"
    assert len(printable("\x1b" * 10**6)) < 20_000


def test_texts_never_become_markup():
    evil = "```\n<script>alert('1')</script> [a](javascript:x) ![b](http://c) **d** `e` &lt; | # h"
    assert html(evil) == (
        "```\\n&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt; [a](javascript:x) ![b](http://c) **d** `e` &amp;lt; | # h"
    )
    shown = markdown(evil)
    assert "<" not in shown and "`" not in shown and "[a]" not in shown and "\\[a\\]" in shown and "\\*\\*d" in shown
    assert code("<my-cat>") == "`<my-cat>`" and code("a`b<i>") == "<code>a&#96;b&lt;i&gt;</code>"
    assert code_block("x\n````\ny").split("\n") == ["`````", "x", "````", "y", "`````"]


# images


def jpeg_of_scans(count: int) -> bytes:
    data = encoded(PLAIN, "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


JPEG, PNG = encoded(PLAIN, "JPEG"), encoded(PLAIN, "PNG")
IMAGES = {
    "2,000 scans": (jpeg_of_scans(2000), "scans"), "fill bytes": (JPEG[:2] + b"\xff" * 10_000_000 + JPEG[2:], "fill bytes"),
    "fill between segments": (JPEG[:2] + (b"\xff" * 9_000 + b"\xfe\0\2") * 9 + JPEG[2:], "fill bytes"),
    "segments": (JPEG[:2] + b"\xff\xfe\0\2" * 60_000 + JPEG[2:], "segments"),
    "text chunks": (PNG[:33] + chunk(b"tEXt", b"a\0b") * 60_000 + PNG[33:], "chunks"),
    "empty chunks": (PNG[:33] + chunk(b"abCd", b"") * 60_000 + PNG[33:], "chunks"),
    "many empty IDAT": (PNG[:33] + chunk(b"IDAT", b"") * 60_000 + PNG[33:], "chunks"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "kind"), [pytest.param(*value, id=name) for name, value in IMAGES.items()])
def test_an_image_that_takes_minutes_is_refused_at_once(data, kind):
    begin = time.process_time()
    with pytest.raises(InputError, match=f"{kind}.*it would take minutes"):
        open_image(data, "x")
    assert time.process_time() - begin < SECONDS


def test_ordinary_images_are_not_too_expensive():
    import io

    for format, options in (("JPEG", {"progressive": True}), ("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("BMP", {}), ("TIFF", {})):
        stream = io.BytesIO(encoded(PLAIN, format, **options))
        assert too_costly(stream) is None and stream.tell() == 0


def test_pages_of_a_tiff_are_not_counted():
    from PIL import Image

    pages = [Image.new("1", (8, 8)) for _ in range(300)]
    with pytest.raises(InputError, match="has 100 or more frames or pages"):
        open_image(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]), "x")
    assert open_image(encoded(PLAIN, "TIFF"), "x").size == (48, 40)


# settings and JSON

TOMLS = {
    "50,000 tables": "[" + ".".join("a" * 50_000) + "]", "dotted name": ".".join("a" * 50_000) + " = 1",
    "quoted names": ".".join(['"a b"'] * 9000) + " = 1", "inline": "a = " + "{a=" * 20_000, "arrays": "a = " + "[" * 50_000,
    "digits": "a = " + "1" * 100_000, "many values": "\n".join(f"a{i} = 1" for i in range(5000)), "a web page": "<html></html>",
}  # fmt: skip


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in TOMLS.items()])
def test_settings_that_no_program_writes_are_refused_at_once(tmp_path, text):
    (tmp_path / "x.toml").write_text(text)
    begin = time.process_time()
    with pytest.raises(InputError):
        toml_file.read(str(tmp_path / "x.toml"))
    assert time.process_time() - begin < SECONDS


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a": ' + "9" * 10_000 + "}",
        "NaN",
        "",
        "version https://git-lfs",
        "{" + " " * (2 << 20),
    ],
)
def test_invalid_json_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises((ValueError, OSError)):
        read_object(tmp_path / "x.json")


def test_only_regular_files_are_opened_here(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/null", "/dev/zero", tmp_path / "gone", "a\0b"):
        with pytest.raises(OSError):
            regular_file(path)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(OSError, match="has 11 bytes, more than 10"):
        regular_file(tmp_path / "large", 10)
    assert kind_of(PNG[:64]) == "a PNG image" and kind_of(b"plain words") == ""


# names of places

PLACES = {
    "/home/anna/models/sd15": "sd15", "C:\\Users\\Anna\\sd15": "sd15", "\\\\server\\share\\sd 15\\": "sd 15", "~/sd15": "sd15",
    "models/sd15/": "sd15", "/home/anna/v1-5.safetensors": "v1-5.safetensors", "./sd15": "sd15", "../up/sd15": "sd15",
    "C:\\": "", "/": "",
}  # fmt: skip


@pytest.mark.parametrize(("path", "name"), PLACES.items())
def test_only_the_last_part_of_a_path_is_shared(path, name):
    assert last_part(path) == name and "anna" not in shared_name(path).lower()


def test_names_on_the_hub_are_shared_as_they_are(tmp_path, monkeypatch):
    assert shared_name("demo") == "demo" and shared_name("sd-legacy/stable-diffusion-v1-5") == "sd-legacy/stable-diffusion-v1-5"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anna/models").mkdir(parents=True)
    assert shared_name("anna/models") == "models"
