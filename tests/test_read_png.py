import hashlib
import io
import itertools
import json
import math
import os
import random
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import MAX_TEXT_CHUNK, PngInfo

from customize.errors import InputError
from customize.inference.metadata.read_png import GenerationInfo, NamedWeights, read_generation_info
from customize.inference.metadata.write_png import VERSIONED, facts, png_info, saving, texts
from customize.inference.run.grid import ImageRequest
from customize.settings.field import of_scope
from customize.settings.files.sharing import shared_settings
from customize.settings.inference import InferenceSettings
from customize.settings.sampler_names import KNOWN, WITH_SIGMAS

EXIF, USER_COMMENT = 0x8769, 0x9286


def png(path: Path, size: tuple[int, int] = (2, 1), **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text)
    Image.new("RGB", size).save(path, "PNG", pnginfo=info)
    return path


def info_of(tmp_path: Path, **texts: str) -> GenerationInfo:
    return read_generation_info(png(tmp_path / "told.png", **texts))


def refusal(path: Path | str) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_generation_info(path)
    for problem in caught.value.problems:
        assert problem.where == "like" and problem.remedy and str(path) in problem.what
        assert problem.what.isprintable()
    return [problem.what for problem in caught.value.problems]


def unread(info: GenerationInfo) -> list[str]:
    """What the notes are about."""
    return [note.partition(":")[0].partition(" (")[0] for note in info.notes]


# --- A1111 ---

OF_THE_RUN = of_scope(InferenceSettings, "run")
BASIC = {"num_inference_steps": 20, "guidance_scale": 7.0, "seed": 1234, "width": 512, "height": 768}
TAIL = "CFG scale: 7, Seed: 1234, Size: 512x768"

INFOTEXTS = {  # text -> settings, what the notes are about (those on seed and base model apart), weights
    "old and plain": (
        f"a fox in the snow\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, {TAIL}, Model hash: 45dee52b",
        {"prompt": ("a fox in the snow",), "negative_prompt": "blurry", "scheduler": "EulerAncestralDiscreteScheduler",
         "use_karras_sigmas": False, **BASIC},
        [], (),
    ),
    "no negative prompt": (
        f"a fox\nSteps: 20, Sampler: DDIM, {TAIL}",
        {"prompt": ("a fox",), "scheduler": "DDIMScheduler", "use_karras_sigmas": False, **BASIC},
        [], (),
    ),
    "Karras in the sampler's name": (
        f"a fox\nNegative prompt: \nSteps: 20, Sampler: DPM++ 2M Karras, {TAIL}, Version: v1.6.0",
        {"prompt": ("a fox",), "negative_prompt": "", "scheduler": "DPMSolverMultistepScheduler", "use_karras_sigmas": True,
         **BASIC},
        [], (),
    ),
    "schedule type": (
        f"a fox\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, {TAIL}, Version: v1.10.1",
        {"prompt": ("a fox",), "scheduler": "DPMSolverMultistepScheduler", "use_karras_sigmas": True, **BASIC},
        [], (),
    ),
    "a schedule that the sampler has not": (
        f"a fox\nSteps: 20, Sampler: Euler a, Schedule type: Karras, {TAIL}",
        {"prompt": ("a fox",), "scheduler": "EulerAncestralDiscreteScheduler", **BASIC},
        ["Schedule type"], (),
    ),
    "a schedule that is not here": (
        f"a fox\nSteps: 20, Sampler: Euler, Schedule type: KL Optimal, {TAIL}",
        {"prompt": ("a fox",), "scheduler": "EulerDiscreteScheduler", "use_karras_sigmas": False, **BASIC},
        ["Schedule type"], (),
    ),
    "a schedule that is a part of the sampler's name here": (
        f"a fox\nSteps: 20, Sampler: Euler, Schedule type: Align Your Steps, {TAIL}",
        {"prompt": ("a fox",), "scheduler": "Euler AYS", **BASIC},
        [], (),
    ),
    "what A1111 takes by itself": (
        f"a fox\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Automatic, {TAIL}",
        {"prompt": ("a fox",), "scheduler": "DPMSolverMultistepScheduler", "use_karras_sigmas": True, **BASIC},
        [], (),
    ),
    "a sampler that is not here": (
        f"a fox\nSteps: 20, Sampler: DPM adaptive, {TAIL}",
        {"prompt": ("a fox",), "scheduler": "DPMSolverMultistepScheduler", "use_karras_sigmas": False, **BASIC},
        ["Sampler"], (),
    ),
    "a sampler with options": (
        f"a fox\nSteps: 20, Sampler: DPM++ SDE Karras, {TAIL}",
        {"prompt": ("a fox",), "scheduler": "DPM++ SDE", "use_karras_sigmas": True, **BASIC},
        [], (),
    ),
    "a sampler with a relative": (
        f"a fox\nSteps: 20, Sampler: DPM++ 2S a Karras, {TAIL}",
        {"prompt": ("a fox",), "scheduler": "DPMSolverSinglestepScheduler", "use_karras_sigmas": True, **BASIC},
        ["Sampler"], (),
    ),
    "prompts of many lines, with colons and quotes": (
        "a fox: \"red\", (snow:1.2)\n\nBREAK\r\n style: oil, by <someone>\nNegative prompt: text: none,\n\"watermark\"\n"
        f"Steps: 20, Sampler: Euler, {TAIL}",
        {"prompt": ('a fox: "red", (snow:1.2) BREAK  style: oil, by <someone>',), "negative_prompt": 'text: none, "watermark"',
         "scheduler": "EulerDiscreteScheduler", "use_karras_sigmas": False, **BASIC},
        [], (),
    ),
    "a line of the prompt that looks like settings": (
        f"Steps: 3, as seen from below, Seed: of doubt\nNegative prompt: no\nSteps: 20, Sampler: LMS, {TAIL}",
        {"prompt": ("Steps: 3, as seen from below, Seed: of doubt",), "negative_prompt": "no",
         "scheduler": "LMSDiscreteScheduler", "use_karras_sigmas": False, **BASIC},
        [], (),
    ),
    "LoRA tags with hashes": (
        f"a fox <lora:fur detail:0.8>, <lora:ink:0.5:0.7><lora:plain> end\nSteps: 20, Sampler: UniPC, {TAIL}, "
        'Lora hashes: "fur detail: 1a2b3c4d5e6f, ink: 0f0f0f0f0f0f, elsewhere: 777777777777", TI hashes: "bad: 99aa"',
        {"prompt": ("a fox ,  end",), "scheduler": "UniPCMultistepScheduler", "use_karras_sigmas": False, **BASIC},
        ["<lora", "<lora", "<lora", "LoRA elsewhere", "embedding bad"],
        (NamedWeights("fur detail", 0.8, "1a2b3c4d5e6f"), NamedWeights("ink", 0.5, "0f0f0f0f0f0f"), NamedWeights("plain", 1.0),
         NamedWeights("elsewhere", None, "777777777777"), NamedWeights("bad", None, "99aa")),
    ),
    "a hypernetwork": (
        f"a fox <hypernet:anime:0.6>\nSteps: 20, Sampler: Heun, {TAIL}",
        {"prompt": ("a fox",), "scheduler": "HeunDiscreteScheduler", "use_karras_sigmas": False, **BASIC},
        ["<hypernet"], (),
    ),
    "hires fix": (
        f"a fox\nSteps: 20, Sampler: DPM2 a, {TAIL}, Denoising strength: 0.55, Hires upscale: 2, Hires steps: 10, "
        "Hires upscaler: R-ESRGAN 4x+, Clip skip: 2",
        {"prompt": ("a fox",), "scheduler": "KDPM2AncestralDiscreteScheduler", "use_karras_sigmas": False,
         "clip_skip": 1, "hires_scale": 2.0, "hires_strength": 0.55, **BASIC},
        ["Hires steps", "Hires upscaler"], (),
    ),
    "image to image": (
        f"a fox\nSteps: 20, Sampler: PLMS, {TAIL}, Denoising strength: 0.4, Mask blur: 4, Clip skip: 1",
        {"prompt": ("a fox",), "scheduler": "PNDMScheduler", "use_karras_sigmas": False, **BASIC},
        ["Denoising strength", "Mask blur"], (),
    ),
    "quoted values with commas": (
        f"a fox\nSteps: 20, Sampler: DPM2, {TAIL}, "
        'ADetailer prompt: "a face, Steps: 99, \\"Seed: 1\\"", ControlNet 0: "Module: canny, Weight: 1", Eta: 0.5',
        {"prompt": ("a fox",), "scheduler": "KDPM2DiscreteScheduler", "use_karras_sigmas": False, **BASIC},
        ["ADetailer prompt", "ControlNet 0", "Eta"], (),
    ),
    "a model's name with a comma": (
        f"a fox\nSteps: 20, Sampler: Euler, {TAIL}, Face restoration: GFPGAN, a b, Model: mine, the best",
        {"prompt": ("a fox",), "scheduler": "EulerDiscreteScheduler", "use_karras_sigmas": False, **BASIC},
        ["Face restoration"], (),
    ),
    "Civitai": (
        f"a fox\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M Karras, {TAIL}, Clip skip: 2, "
        'Created Date: 2024-09-25T15:30:00.00Z, Civitai resources: [{"type":"checkpoint","modelName":"X, Y","w":[1,2]},'
        '{"type":"lora","weight":0.5}], Civitai metadata: {"seed": 1}',
        {"prompt": ("a fox",), "negative_prompt": "blurry", "scheduler": "DPMSolverMultistepScheduler",
         "use_karras_sigmas": True, "clip_skip": 1, **BASIC},
        ["Created Date", "Civitai resources", "Civitai metadata"], (),
    ),
    "Forge": (
        f"a fox\nSteps: 20, Sampler: DEIS, Schedule type: Simple, {TAIL}, Distilled CFG Scale: 3.5, Module 1: ae, "
        "Version: f2.0.1v1.10.1",
        {"prompt": ("a fox",), "scheduler": "DEISMultistepScheduler", "use_karras_sigmas": False, "timestep_spacing": "trailing",
         **BASIC},
        ["Distilled CFG Scale", "Module 1"], (),
    ),
    "SD.Next": (
        "a fox\nNegative prompt: blurry\nSteps: 20, Size: 512x768, Seed: 1234, Sampler: Default, CFG scale: 7, App: SD.Next, "
        "Version: 900264a, Operations: upscale; hires; txt2img, Model: base",
        {"prompt": ("a fox",), "negative_prompt": "blurry", **BASIC},
        ["Sampler", "Operations"], (),
    ),
    "stable-diffusion.cpp": (
        "a fox\nSteps: 20, CFG scale: 7.000000, Guidance: 3.500000, Seed: 1234, Size: 512x768, Model: v1-5.safetensors, "
        "RNG: cpu, Sampler: euler_a, Version: stable-diffusion.cpp",
        {"prompt": ("a fox",), "scheduler": "EulerAncestralDiscreteScheduler", "use_karras_sigmas": False, **BASIC},
        ["Guidance"], (),
    ),
    "a template after the settings": (
        f"a red fox\nSteps: 20, Sampler: Euler, {TAIL}\nTemplate: a {{red|blue}} fox\n\nNegative Template: none",
        {"prompt": ("a red fox",), "scheduler": "EulerDiscreteScheduler", "use_karras_sigmas": False, **BASIC},
        ["after the settings"], (),
    ),
    "what infer.py refuses": (
        "a fox\nSteps: many, Sampler: Euler, CFG scale: 1e9, Seed: -1, Size: 510x768, Batch size: 4",
        {"prompt": ("a fox",), "scheduler": "EulerDiscreteScheduler", "use_karras_sigmas": False, "height": 768},
        ["Steps", "CFG scale", "Seed", "Size", "Batch size"], (),
    ),
    "an empty prompt": (
        f"<lora:fox:1>\nNegative prompt: x\nSteps: 20, Sampler: Euler, {TAIL}",
        {"negative_prompt": "x", "scheduler": "EulerDiscreteScheduler", "use_karras_sigmas": False, **BASIC},
        ["<lora", "prompt"], (NamedWeights("fox", 1.0),),
    ),
    "settings in another order": (
        "a fox\nSampler: Euler, Seed: 1234, Size: 512x768, CFG scale: 7, Steps: 20",
        {"prompt": ("a fox",), "scheduler": "EulerDiscreteScheduler", "use_karras_sigmas": False, **BASIC},
        [], (),
    ),
    "no settings": ("a fox: red,\nblue", {"prompt": ("a fox: red, blue",)}, ["the text has no line of settings"], ()),
}  # fmt: skip


@pytest.mark.parametrize("name", INFOTEXTS)
def test_infotexts(tmp_path, name):
    text, expected, notes, weights = INFOTEXTS[name]
    found = info_of(tmp_path, parameters=text)
    assert found.program == "A1111" and found.size == (2, 1) and found.place_in_batch == (0, 1)
    assert found.settings == expected and found.weights == weights
    assert [note for note in unread(found) if note not in ("base model", "Seed")] == [note for note in notes if note != "Seed"]
    InferenceSettings(**{"prompt": "x"} | found.settings)


def test_notes_give_the_reason(tmp_path):
    notes = info_of(tmp_path, parameters=INFOTEXTS["hires fix"][0]).notes
    assert "Hires upscaler: R-ESRGAN 4x+ (not read: Lanczos is used instead)" in notes
    notes = info_of(tmp_path, parameters=INFOTEXTS["image to image"][0]).notes
    assert any("--image" in note and "--strength 0.4" in note for note in notes)
    notes = info_of(tmp_path, parameters=INFOTEXTS["what infer.py refuses"][0]).notes
    assert '"-1" is not a whole number' not in notes[0] and "Seed: -1 means a random seed (not read)" in notes
    notes = info_of(tmp_path, parameters=INFOTEXTS["LoRA tags with hashes"][0]).notes
    assert "<lora:fur detail:0.8> (not read: only a name; give the file as --weights PATH:0.8)" in notes


def test_a_model_name_is_not_a_path(tmp_path):
    text = f"a fox\nSteps: 20, Sampler: Euler, {TAIL}, Model hash: 6ce0161689, Model: v1-5-pruned"
    found = info_of(tmp_path, parameters=text)
    assert found.base_model == "v1-5-pruned"
    assert any("6ce0161689" in note and "--pretrained_model_name_or_path" in note for note in found.notes)
    only_hash = info_of(tmp_path, parameters=INFOTEXTS["old and plain"][0])
    assert only_hash.base_model is None and any("45dee52b" in note for note in only_hash.notes)
    assert info_of(tmp_path, parameters=INFOTEXTS["a model's name with a comma"][0]).base_model == "mine, the best"


def test_noise_from_a_gpu_is_noted(tmp_path):
    assert "Seed" in unread(info_of(tmp_path, parameters=INFOTEXTS["hires fix"][0]))
    assert "Seed" not in unread(info_of(tmp_path, parameters=INFOTEXTS["stable-diffusion.cpp"][0]))


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("coded", [
    lambda text: b"UNICODE\0" + text.encode("utf-16-be"), lambda text: b"UNICODE\0" + text.encode("utf-16-le"),
    lambda text: b"UNICODE\0" + text.encode("utf-16"), lambda text: b"ASCII\0\0\0" + text.encode(),
    lambda text: bytes(8) + text.encode(), lambda text: text.encode(),
])  # fmt: skip
def test_exif_user_comments(tmp_path, format, coded):
    text = "狐 a fox ✓\n" + INFOTEXTS["schedule type"][0].partition("\n")[2]
    exif = Image.Exif()
    exif.get_ifd(EXIF)[USER_COMMENT] = coded(text)
    path = tmp_path / f"picture.{format}"
    Image.new("RGB", (16, 8)).save(path, format, exif=exif.tobytes())
    found = read_generation_info(path)
    assert found.program == "A1111" and found.size == (16, 8)
    assert found.settings == INFOTEXTS["schedule type"][1] | {"prompt": ("狐 a fox ✓",)}


def test_a_comment_of_a_camera_is_not_a_prompt(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(EXIF)[USER_COMMENT] = b"ASCII\0\0\0Our holidays, day 3: the sea"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    assert "has no generation metadata" in refusal(tmp_path / "a.jpg")[0]


def raw_png(path: Path, *chunks: tuple[bytes, bytes], after: bool = False) -> Path:
    """A PNG written by hand; after: the chunks stand after the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    texts, pixels = b"".join(chunk(*each) for each in chunks), chunk(b"IDAT", zlib.compress(bytes(4)))
    path.write_bytes(head + (pixels + texts if after else texts + pixels) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("after", [False, True])
def test_kinds_of_chunks(tmp_path, after):
    text = "häuschen\n" + INFOTEXTS["schedule type"][0].partition("\n")[2]
    for number, chunk in enumerate((
        (b"tEXt", b"parameters\0" + text.encode("latin-1")),
        (b"tEXt", b"parameters\0" + text.encode("utf-8")),
        (b"zTXt", b"parameters\0\0" + zlib.compress(text.encode("latin-1"))),
        (b"iTXt", b"parameters\0\0\0\0\0" + text.encode()),
        (b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(text.encode())),
    )):  # fmt: skip
        assert read_generation_info(raw_png(tmp_path / f"{number}.png", chunk, after=after)).settings["prompt"] == ("häuschen",)


# --- ComfyUI ---


def graph(**changes) -> dict:
    """The graph that ComfyUI opens with; changes: nodes by name, None takes one out."""
    nodes = {
        "3": ("KSampler", {"seed": 99, "steps": 20, "cfg": 8.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
                           "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}),
        "4": ("CheckpointLoaderSimple", {"ckpt_name": "v1-5.safetensors"}),
        "5": ("EmptyLatentImage", {"width": 512, "height": 768, "batch_size": 1}),
        "6": ("CLIPTextEncode", {"text": "a fox,\nred", "clip": ["4", 1]}),
        "7": ("CLIPTextEncode", {"text": "blurry", "clip": ["4", 1]}),
        "8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
        "9": ("SaveImage", {"filename_prefix": "ComfyUI", "images": ["8", 0]}),
    }  # fmt: skip
    nodes |= {name.removeprefix("n"): node for name, node in changes.items()}
    return {name: {"class_type": node[0], "inputs": node[1]} for name, node in nodes.items() if node}


def changed(number: str, **inputs) -> dict:
    """The first graph with other inputs in one node."""
    nodes = graph()
    nodes[number]["inputs"] |= inputs
    return nodes


def comfy(tmp_path: Path, nodes: dict) -> GenerationInfo:
    return info_of(tmp_path, prompt=json.dumps(nodes), workflow="{}")


PLAIN = {
    "prompt": ("a fox, red",), "negative_prompt": "blurry", "seed": 99, "num_inference_steps": 20, "guidance_scale": 8.0,
    "scheduler": "EulerDiscreteScheduler", "use_karras_sigmas": False, "timestep_spacing": "linspace",
    "width": 512, "height": 768,
}  # fmt: skip


def test_the_first_graph(tmp_path):
    found = comfy(tmp_path, graph())
    assert found.program == "ComfyUI" and found.settings == PLAIN
    assert found.base_model == "v1-5.safetensors" and unread(found) == ["base model"] and found.weights == ()


@pytest.mark.parametrize(("name", "spacing", "scheduler", "options"), [
    ("dpmpp_2m", "karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("dpmpp_2m_sde_gpu", "karras", "DPM++ 2M SDE", {"use_karras_sigmas": True}),
    ("dpmpp_2m_sde", "exponential", "DPM++ 2M SDE Exponential", {}),
    ("dpmpp_2s_ancestral", "normal", "DPMSolverSinglestepScheduler", {"use_karras_sigmas": False}),
    ("dpm_2_ancestral", "karras", "KDPM2AncestralDiscreteScheduler", {"use_karras_sigmas": True}),
    ("euler_ancestral", "normal", "EulerAncestralDiscreteScheduler",
     {"use_karras_sigmas": False, "timestep_spacing": "linspace"}),
    ("uni_pc_bh2", "simple", "UniPCMultistepScheduler", {"use_karras_sigmas": False, "timestep_spacing": "trailing"}),
    ("ddim", "ddim_uniform", "DDIMScheduler", {"use_karras_sigmas": False, "timestep_spacing": "leading"}),
    ("lcm", "sgm_uniform", "LCMScheduler", {"use_karras_sigmas": False}),
    ("heun", "beta", "Heun Beta", {}),
    ("banana", "normal", None, {}),
])  # fmt: skip
def test_comfyui_samplers(tmp_path, name, spacing, scheduler, options):
    found = comfy(tmp_path, changed("3", sampler_name=name, scheduler=spacing))
    assert found.settings.get("scheduler") == scheduler
    assert {key: found.settings[key] for key in ("use_karras_sigmas", "timestep_spacing") if key in found.settings} == options
    info_of = {"dpmpp_2s_ancestral": 2, "lcm": 1, "banana": 1}
    assert len(found.notes) == 1 + info_of.get(name, 0)


def test_loras_between_sampler_and_model_are_read(tmp_path):
    found = comfy(tmp_path, changed("3", model=["10", 0]) | {
        "10": {"class_type": "LoraLoader", "inputs": {
            "lora_name": "ink.safetensors", "strength_model": 0.7, "strength_clip": 1.0, "model": ["11", 0], "clip": ["11", 1]}},
        "11": {"class_type": "LoraLoaderModelOnly", "inputs": {
            "lora_name": ["12", 0], "strength_model": 1, "model": ["13", 0]}},
        "12": {"class_type": "PrimitiveString", "inputs": {"value": "fur.safetensors"}},
        "13": {"class_type": "FreeU", "inputs": {"model": ["4", 0], "b1": 1.1}},
    })  # fmt: skip
    assert found.settings == PLAIN and found.base_model == "v1-5.safetensors"
    assert found.weights == (NamedWeights("ink.safetensors", 0.7), NamedWeights("fur.safetensors", 1))
    assert unread(found) == ["LoRA ink.safetensors", "LoRA fur.safetensors", "base model", "node FreeU"]


def test_values_of_simple_nodes_are_followed(tmp_path):
    nodes = changed("3", seed=["20", 0], steps=["21", 0]) | {
        "20": {"class_type": "Seed (rgthree)", "inputs": {"seed": 7}},
        "21": {"class_type": "PrimitiveInt", "inputs": {"value": ["22", 0]}},
        "22": {"class_type": "INTConstant", "inputs": {"value": 33}},
        "23": {"class_type": "String Literal", "inputs": {"string": "a wolf"}},
        "24": {"class_type": "Width", "inputs": {"value": 5, "number": 6}},
        "25": {"class_type": "LoadCaption", "inputs": {"file": "caption.txt"}},
    }
    nodes["6"]["inputs"]["text"], nodes["5"]["inputs"]["width"], nodes["7"]["inputs"]["text"] = ["23", 0], ["24", 0], ["25", 0]
    found = comfy(tmp_path, nodes)
    expected = PLAIN | {"seed": 7, "num_inference_steps": 33, "prompt": ("a wolf",)}
    assert found.settings == {name: expected[name] for name in expected.keys() - {"width", "negative_prompt"}}
    assert {"width", "negative prompt", "node Width", "node LoadCaption"} < {*unread(found)}


def test_an_input_image_is_noted_and_steps_count_for_the_whole_schedule(tmp_path):
    found = comfy(tmp_path, changed("3", denoise=0.5) | {
        "5": {"class_type": "VAEEncode", "inputs": {"pixels": ["30", 0], "vae": ["4", 2]}},
        "30": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}},
    })  # fmt: skip
    assert found.settings == {k: v for k, v in PLAIN.items() if k not in ("width", "height")} | {"num_inference_steps": 40}
    (note,) = (note for note in found.notes if note.startswith("image"))
    assert "photo.png" in note and "--image" in note and "--strength 0.5" in note


def test_the_first_of_two_passes_is_read(tmp_path):
    second = ("KSampler", {**graph()["3"]["inputs"], "steps": 9, "denoise": 0.4, "latent_image": ["41", 0], "seed": 1})
    nodes = graph(n40=second, n41=("LatentUpscale", {"samples": ["3", 0], "width": 1024, "height": 1536, "crop": "disabled"}),
                  n8=("VAEDecode", {"samples": ["40", 0], "vae": ["4", 2]}))  # fmt: skip
    found = comfy(tmp_path, nodes)
    assert found.settings == PLAIN
    assert {"node KSampler", "node LatentUpscale"} < {*unread(found)}


def test_ksampler_advanced(tmp_path):
    inputs = {"add_noise": "enable", "noise_seed": 5, "steps": 25, "cfg": 6.0, "sampler_name": "heun", "scheduler": "karras",
              "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0], "model": ["4", 0], "start_at_step": 0,
              "end_at_step": 10000, "return_with_leftover_noise": "disable"}  # fmt: skip
    found = comfy(tmp_path, graph(n3=("KSamplerAdvanced", inputs)))
    assert found.settings.items() == (PLAIN | {
        "seed": 5, "num_inference_steps": 25, "guidance_scale": 6.0, "scheduler": "HeunDiscreteScheduler",
        "use_karras_sigmas": True,
    }).items() - {("timestep_spacing", "linspace")}  # fmt: skip
    assert unread(found) == ["base model"]
    found = comfy(tmp_path, graph(n3=("KSamplerAdvanced", inputs | {"start_at_step": 3, "end_at_step": 20})))
    assert {"start_at_step", "end_at_step"} < {*unread(found)}


def test_nodes_between_sampler_and_prompt(tmp_path):
    control = ("ControlNetApplyAdvanced", {"positive": ["6", 0], "negative": ["7", 0], "image": ["51", 0], "strength": 1.0})
    load = ("LoadImage", {"image": "pose.png"})
    nodes = graph(n50=control, n51=load)
    nodes["3"]["inputs"] |= {"positive": ["50", 0], "negative": ["50", 1]}
    found = comfy(tmp_path, nodes)
    assert found.settings == PLAIN and {"node ControlNetApplyAdvanced", "node LoadImage"} < {*unread(found)}
    for kind, inputs in (("ConditioningCombine", {"conditioning_1": ["6", 0], "conditioning_2": ["7", 0]}),
                         ("ConditioningZeroOut", {"conditioning": ["6", 0]})):  # fmt: skip
        nodes = graph(n60=(kind, inputs))
        nodes["3"]["inputs"]["positive"] = ["60", 0]
        found = comfy(tmp_path, nodes)
        assert found.settings == {name: value for name, value in PLAIN.items() if name != "prompt"}
        assert {f"node {kind}", "positive prompt"} < {*unread(found)}


def test_embeddings_in_a_prompt_are_files(tmp_path):
    found = comfy(tmp_path, changed("7", text="blurry, (embedding:bad-hands:1.2)"))
    assert found.settings == PLAIN | {"negative_prompt": "blurry, (embedding:bad-hands:1.2)"}
    assert found.weights == (NamedWeights("bad-hands"),) and "embedding" in unread(found)


def test_seeds_of_64_bits_are_read_and_batches_are_notes(tmp_path):
    for seed in (1071208483241017, 2**64 - 1):
        assert comfy(tmp_path, changed("3", seed=seed)).settings["seed"] == seed
    found = comfy(tmp_path, changed("3", seed=2**64))
    assert "seed" not in found.settings and "seed" in unread(found)
    assert "batch_size" in unread(comfy(tmp_path, changed("5", batch_size=4)))


def test_the_saved_image_wins_over_previews(tmp_path):
    other = ("KSampler", {**graph()["3"]["inputs"], "seed": 1})
    preview = {"n70": other, "n71": ("VAEDecode", {"samples": ["70", 0]}), "n72": ("PreviewImage", {"images": ["71", 0]})}
    assert comfy(tmp_path, graph(**preview)).settings["seed"] == 99
    assert comfy(tmp_path, graph(**preview, n9=None)).settings["seed"] == 1
    assert comfy(tmp_path, graph(n8=None, n9=None)).settings == PLAIN


def test_cyclic_graphs_end(tmp_path):
    nodes = graph(n4=("LoraLoader", {"lora_name": ["4", 0], "model": ["80", 0]}), n80=("ModelMerge", {"model": ["4", 0]}))
    nodes["5"] = {"class_type": "LatentUpscale", "inputs": {"samples": ["3", 0]}}
    nodes["6"] = {"class_type": "Reroute", "inputs": {"": ["6", 0]}}
    nodes["7"]["inputs"]["text"] = ["7", 0]
    found = comfy(tmp_path, nodes)
    assert found.settings["seed"] == 99 and "prompt" not in found.settings and found.base_model is None


def test_graphs_without_a_sampler(tmp_path):
    for nodes in (graph(n3=None), graph(n3=("SamplerCustom", {"cfg": 1})), {}):
        assert "KSampler" in refusal(png(tmp_path / "a.png", prompt=json.dumps(nodes)))[0]


# --- ours ---


FACTS = facts("demo", ())


def written(path: Path, settings: InferenceSettings, place: tuple[int, int] = (0, 1), **changes) -> Path:
    """A picture as infer.py writes it; changes: other facts."""
    wanted = ImageRequest(settings, settings.prompt or ("",), settings.seed)
    output = texts(FACTS | changes, wanted, "DDIMScheduler", (8, 8), place)
    if path.suffix == ".png":
        Image.new("RGB", (3, 2)).save(path, pnginfo=png_info(output))
    else:
        Image.new("RGB", (16, 8)).save(path, **saving(path.suffix[1:], output))
    return path


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_jpeg_and_webp_have_the_same_texts(tmp_path, kind):
    asked = InferenceSettings(
        prompt="häuschen 🦊", negative_prompt="狐", image_format=kind, seed=2**64 - 1, scheduler="dpmpp_2m_k"
    )
    path = written(tmp_path / f"a.{kind}", asked, (2, 3))
    found = read_generation_info(path)
    assert InferenceSettings(**found.settings) == of_a_picture(asked) and found.place_in_batch == (2, 3)
    with Image.open(path) as image:
        comment = image.getexif().get_ifd(EXIF)[USER_COMMENT]
    text = comment.removeprefix(b"UNICODE\0").decode("utf-16-be")
    assert text.startswith("häuschen 🦊\nNegative prompt: 狐\nSteps: 30, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 184467")
    long = InferenceSettings(prompt="a" * 40_000)
    if kind == "jpg":
        with pytest.raises(InputError, match="a JPEG holds at most 65,000"):
            written(tmp_path / "long.jpg", long)
    else:
        assert read_generation_info(written(tmp_path / "long.webp", long)).settings["prompt"] == ("a" * 40_000,)


LINES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=60).filter(str.strip)
TRICKY = st.sampled_from(
    ["Negative prompt: no", 'a "quoted", b: c', "Steps: 20, Seed: 1, Size: 8x8", "<lora:x:1>", "漢字 é 🦊", "none"]
)
STEP = st.integers(2, 512).map(lambda n: n * 8)
SETTINGS = st.fixed_dictionaries(
    {"prompt": st.one_of(LINES, TRICKY).map(lambda text: [text])},  # "none" that is no list would unset it
    optional={
        "negative_prompt": st.one_of(LINES, TRICKY, st.just("")),
        "guidance_scale": st.floats(0, 100),
        "num_inference_steps": st.integers(1, 10_000),
        "scheduler": st.one_of(st.none(), st.sampled_from(sorted(WITH_SIGMAS))),
        "use_karras_sigmas": st.sampled_from([None, True, False]),
        "seed": st.integers(0, 2**64 - 10),
        "height": st.one_of(st.none(), STEP),
        "width": st.one_of(st.none(), STEP),
        "weights": st.lists(LINES.map(lambda name: f"{name.replace(':', '')}/x.safetensors:0.5"), max_size=3),
        "pretrained_model_name_or_path": st.sampled_from([None, "demo", "some/model", "C:\\models\\a b.safetensors"]),
        "mixed_precision": st.sampled_from(["no", "bf16"]),
        "num_images": st.integers(1, 9),
        "batch_size": st.integers(1, 9),
        "trace": st.booleans(),
        "output_dir": LINES,
    },
)


def of_a_picture(settings: InferenceSettings) -> InferenceSettings:
    shared = shared_settings(settings, names=True)  # of a path its last part
    return InferenceSettings(**{name: value for name, value in shared.items() if name not in OF_THE_RUN})


@pytest.mark.parametrize("number", [60, pytest.param(300, marks=pytest.mark.slow)], ids=["few", "many"])
def test_our_metadata_are_read_back(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a text is not by chance the name of a folder

    @settings(max_examples=number, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(values=SETTINGS, start=st.booleans(), strength=st.sampled_from([None, 0.3, 1.0]), count=st.integers(1, 64))
    def check(values, start, strength, count):
        asked = InferenceSettings(**values, **({"image": "start.png", "strength": strength} if start else {}))
        found = read_generation_info(written(tmp_path / "round.png", asked, (count - 1, count)))
        assert InferenceSettings(**found.settings) == of_a_picture(asked)
        assert found == GenerationInfo("customize", found.settings, (), "demo", (3, 2), (count - 1, count), ())

    check()


def test_metadata_of_compositions_and_lessons_are_read_back(tmp_path):
    for asked in (
        InferenceSettings(prompt=["a", "b"], illusion="anagram", view=["identity", "flip"]),
        InferenceSettings(prompt=["a", "b"], between=0.25, interpolation="spherical"),
        InferenceSettings(lesson="forward", image="a.png"),
        InferenceSettings(prompt="a", image="a.png", mask_image="m.png", num_resamples=3, jump_length=4),
    ):
        assert InferenceSettings(**read_generation_info(written(tmp_path / "a.png", asked)).settings) == of_a_picture(asked)


def learned(path: Path, content: bytes = b"weights") -> dict:
    path.write_bytes(content)
    return {"path": str(path), "scale": 0.5, "sha256": hashlib.sha256(content).hexdigest()}


def test_hashes_of_weights_are_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # long paths are shortened in notes
    same, changed, gone = (learned(Path(f"{name}.safetensors")) for name in ("same", "changed", "gone"))
    (tmp_path / "changed.safetensors").write_bytes(b"others")
    (tmp_path / "gone.safetensors").unlink()
    found = read_generation_info(written(tmp_path / "a.png", InferenceSettings(prompt="x"), weights=[same, changed, gone, same]))
    assert [file.scale for file in found.weights] == [0.5] * 4 and found.weights[0].hash == same["sha256"]
    assert len(found.notes) == 2
    assert "changed" in found.notes[0] and hashlib.sha256(b"others").hexdigest() in found.notes[0]
    assert "not found" in found.notes[1]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices in the file system")
def test_metadata_make_us_open_no_other_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    paths = [
        "/dev/zero",
        "/etc/passwd",
        str(tmp_path / "pipe.safetensors"),
        "\0",
        "\ud800.safetensors",
        "a" * 5000 + ".safetensors",
    ]
    files = [{"path": path, "scale": 1, "sha256": hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest()} for path in paths]
    found = read_generation_info(written(tmp_path / "a.png", InferenceSettings(prompt="x"), weights=files))
    assert len(found.notes) == len(paths) and all("not found" in note for note in found.notes)


def test_other_versions_are_noted(tmp_path):
    versions = FACTS["versions"] | {"torch": "1.0.0", "customize": "0.0.1"}
    notes = read_generation_info(written(tmp_path / "a.png", InferenceSettings(prompt="x"), versions=versions)).notes
    assert len(notes) == 2 and notes[0].startswith("generated with customize 0.0.1") and "torch 1.0.0" in notes[1]
    assert set(VERSIONED) == versions.keys()


def own(**changes) -> str:
    """Our chunk with other settings or facts."""
    chunk = {"settings": {"prompt": ["x"]}, "base_model": "demo", "weights": [], "versions": {}, **changes}
    return json.dumps(chunk)


def test_metadata_cannot_set_the_output_folder(tmp_path):
    output = {
        "prompt": ["x"],
        "output_dir": "/home",
        "overwrite_output_dir": True,
        "num_images": 9999,
        "sweep": ["seed=1..999"],
        "trace": True,
    }
    assert info_of(tmp_path, customize=own(settings=output)).settings == {"prompt": ("x",)}


def test_settings_of_other_versions_are_noted(tmp_path):
    found = info_of(tmp_path, customize=own(settings={"prompt": ["x"], "freeu": 2}))
    assert found.settings == {"prompt": ("x",)} and found.notes == ("freeu: 2 (not read: not a setting of this version)",)


@pytest.mark.parametrize(("text", "words"), [
    ("", "damaged JSON"), ("{", "damaged JSON"), ("[]", "not an object"), ("1", "not an object"), ("null", "not an object"),
    ("[" * 200_000, "damaged JSON"), ('{"a":' * 200_000, "damaged JSON"), ("9" * 5000, "damaged JSON"),
    ("{}", "damaged settings"), (own(settings=[]), "damaged settings"), (own(weights={}), "damaged settings"),
    (own(base_model=None), "damaged settings"), (own(versions=1), "damaged settings"),
    (own(weights=[1]), "weights are not files"), (own(weights=[{"path": "x", "scale": "1", "sha256": ""}]), "weights are not"),
    (own(weights=[{"path": "x", "scale": 1, "sha256": ""}] * 101), "101 files"), (own(batch=[1, 1]), "batch"),
    (own(batch=[0, 10**9]), "batch"), (own(batch="x"), "batch"), (own(settings={}), "prompt"),
    (own(settings={"prompt": ["a\x1bb"]}), "control character"), (own(settings={"prompt": [[]]}), "nested lists"),
    (own(settings={"prompt": {"a": 1}}), "nested lists"), (own(settings={"prompt": ["x"], "seed": -1}), "seed"),
    (own(settings={"prompt": ["x"], "seed": True}), "seed"), (own(settings={"prompt": ["x"], "seed": 10**4000}), "seed"),
    (own(settings={"prompt": ["x"], "guidance_scale": math.nan}), "guidance_scale"),
    (own(settings={"prompt": ["x"], "guidance_scale": 10**4000}), "guidance_scale"),
    (own(settings={"prompt": ["x"], "strength": 0.5}), "strength"), (own(settings={"prompt": ["\ud800"]}), "UTF-8"),
    (own(settings={"prompt": ["x"], "weights": ["a.ckpt"]}), "pickle"),
])  # fmt: skip
def test_damaged_chunks_of_ours(tmp_path, text, words):
    assert words in refusal(png(tmp_path / "a.png", customize=text))[0]


def test_the_word_none_and_line_breaks_are_read_as_written(tmp_path):
    for text in ("none", "NONE", "a\nb"):
        assert info_of(tmp_path, customize=own(settings={"prompt": [text]})).settings == {"prompt": (text,)}
    assert info_of(tmp_path, parameters=f"None\nSteps: 20, Sampler: Euler, {TAIL}").settings["prompt"] == ("None",)


def test_every_refused_setting_is_reported(tmp_path):
    output = {"prompt": ["x"], "seed": -1, "height": 7, "scheduler": 5}
    assert len(refusal(png(tmp_path / "a.png", customize=own(settings=output)))) == 3


# --- whatever else comes ---


def test_images_without_metadata_are_refused(tmp_path):
    assert "has no generation metadata" in refusal(png(tmp_path / "a.png"))[0]
    assert "found: Software, invokeai_metadata" in refusal(png(tmp_path / "b.png", Software="x", invokeai_metadata="{}"))[0]
    assert "found: parameters" in refusal(png(tmp_path / "c.png", parameters='{"sui_image_params": {}}'))[0]
    Image.new("RGB", (8, 8)).save(tmp_path / "d.jpg")
    assert "has no generation metadata" in refusal(tmp_path / "d.jpg")[0]


def test_our_own_chunk_comes_first_then_a_line_of_settings(tmp_path):
    infotext = INFOTEXTS["old and plain"][0]
    assert info_of(tmp_path, parameters=infotext, prompt=json.dumps(graph()), customize=own()).program == "customize"
    assert info_of(tmp_path, parameters=infotext, prompt=json.dumps(graph())).program == "A1111"
    assert info_of(tmp_path, parameters="a fox", prompt=json.dumps(graph())).program == "ComfyUI"
    assert info_of(tmp_path, parameters='{"prompt": "a fox"}', prompt=json.dumps(graph())).program == "ComfyUI"


@pytest.mark.parametrize("text", ['"', "{", "[1]", '{"1": 2}', '{"1": {"class_type": "KSampler"}}', "not JSON", "[" * 200_000])
def test_damaged_graphs(tmp_path, text):
    assert refusal(png(tmp_path / "a.png", prompt=text))


def test_files_that_are_not_images_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("hello")
    Path("empty.png").touch()
    Path("folder.png").mkdir()
    Path("cut.png").write_bytes(png(Path("whole.png"), (50, 50), parameters="a").read_bytes()[:60])
    for name in ("text.png", "empty.png", "folder.png", "cut.png", "missing.png", "\0", "", "x" * 5000):
        with pytest.raises(InputError) as caught:
            read_generation_info(name)
        assert caught.value.problems[0].where == "like"
    if sys.platform != "win32":
        os.mkfifo("pipe.png")
        assert "named pipe" in refusal("pipe.png")[0]


def test_texts_that_are_too_long(tmp_path):
    long = "x" * (MAX_TEXT_CHUNK + 1)
    for name in ("parameters", "customize", "prompt"):
        assert "more than 1,048,576" in refusal(png(tmp_path / "a.png", **{name: long}))[0]
    bomb = b"parameters\0\0" + zlib.compress(b"x" * 50_000_000)
    assert "MAX_TEXT_CHUNK" in refusal(raw_png(tmp_path / "b.png", (b"zTXt", bomb)))[0]
    many = [(b"zTXt", f"t{i}".encode() + b"\0\0" + zlib.compress(b"x" * 1_000_000)) for i in range(70)]
    assert "too much memory" in refusal(raw_png(tmp_path / "c.png", *many))[0].lower()
    assert info_of(tmp_path, workflow=long, prompt=json.dumps(graph())).settings == PLAIN, "what is not read may be long"


HOSTILE = [
    '"a,',
    "[1,",
    '{"a":',
    ":",
    "a:",
    ",",
    "a,",
    "<lora:",
    "<lora:a:1>",
    "a: [,",
    'a: "\\x,',
    "\n",
    "Negative prompt:\n",
    "a: b, ",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_long_texts_take_linear_time(tmp_path, piece):
    text = "a fox\nSteps: 20, " + piece * (900_000 // len(piece))
    started = time.process_time()
    found = info_of(tmp_path, parameters=text)
    assert time.process_time() - started < 20, "a second where it is linear, hours where it is not"
    assert len(found.notes) <= 51 and all(len(note) < 400 and note.isprintable() for note in found.notes)


def test_large_graphs_take_linear_time(tmp_path):
    count = 3500
    chain = {f"c{i}": ("PrimitiveInt", {"value": [f"c{i + 1}", 0]}) for i in range(count)}
    loaders = {f"l{i}": ("LoraLoader", {"lora_name": ["c0", 0], "model": [f"l{i + 1}", 0]}) for i in range(count)}
    saves = {f"s{i}": ("SaveImage", {"images": ["c0", 0]}) for i in range(count)}
    nodes = graph(**chain, **loaders, **saves)
    nodes["3"]["inputs"] |= {"steps": ["c0", 0], "model": ["l0", 0]}
    started = time.process_time()
    assert comfy(tmp_path, nodes).settings["seed"] == 99
    assert time.process_time() - started < 20


def only_input_errors(path: Path) -> GenerationInfo | None:
    try:
        found = read_generation_info(path)
    except InputError as error:
        assert error.problems and all(each.where == "like" and each.remedy and each.what.isprintable() for each in error.problems)
        return None
    InferenceSettings(**({} if found.program == "customize" else {"prompt": "x"}) | found.settings)
    assert not set(OF_THE_RUN) & found.settings.keys()
    assert len(found.notes) <= 51 and all(len(note) < 400 and note.isprintable() for note in found.notes)
    return found


EXAMPLES = pytest.mark.parametrize("number", [150, pytest.param(2000, marks=pytest.mark.slow)], ids=["few", "many"])


def fuzz(number: int) -> settings:
    return settings(max_examples=number, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


NAMES = st.sampled_from([
    "Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model", "Model hash", "Clip skip", "Denoising strength",
    "Lora hashes", "TI hashes", "RNG", "Hires upscale", "Version", "Negative prompt", "", "a b",
])  # fmt: skip
PIECES = st.one_of(
    st.text(max_size=20), NAMES, st.integers().map(str), st.floats().map(str), st.sampled_from(sorted(KNOWN)),
    st.sampled_from([*':,"[]{}\\\n\r\0\x85\u2028', ": ", ", ", "512x768", "<lora:a:0.5>", "<lora:", "<hypernet:x>", "Karras"]),
    st.sampled_from(["\nSteps: 20, ", "\nNegative prompt: ", "\r\n"]),
)  # fmt: skip
PAIRS = st.lists(st.tuples(NAMES, PIECES).map(": ".join)).map(", ".join)
INFOTEXT = st.one_of(
    st.lists(PIECES, max_size=30).map("".join),
    st.tuples(st.text(), PIECES, PAIRS).map(lambda t: f"{t[0]}\n{t[1]}\nSteps: 20, {t[2]}"),
)


@EXAMPLES
def test_no_infotext_breaks_it(number, tmp_path):
    @fuzz(number)
    @given(text=INFOTEXT)
    @example(text="Steps: 1, Seed")
    @example(text="\n\nSteps: 1")
    def check(text):
        info = PngInfo()
        info.add_itxt("parameters", text.encode(errors="replace").decode())
        Image.new("RGB", (1, 1)).save(tmp_path / "infotext.png", pnginfo=info)
        only_input_errors(tmp_path / "infotext.png")

    check()


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just(10**300), st.just(-(10**4000)),
    st.sampled_from(["\ud800", "a\nb", "none", "KSampler", "euler", "karras"]),
)  # fmt: skip
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=8,
)
SETTING_NAMES = st.sampled_from(sorted(InferenceSettings.model_fields))
FILE = st.fixed_dictionaries({"path": st.text(), "scale": SCALARS, "sha256": st.text()})
FACT = st.one_of(
    st.tuples(st.just("settings"), st.one_of(
        st.dictionaries(SETTING_NAMES, st.one_of(SCALARS, st.lists(SCALARS, max_size=3), JSON), max_size=6),
        st.dictionaries(SETTING_NAMES, SCALARS, max_size=3).map(lambda output: output | {"prompt": ["x"]}),
    )),
    st.tuples(st.just("weights"), st.lists(FILE, max_size=3)),
    st.tuples(st.just("versions"), st.dictionaries(st.sampled_from(VERSIONED), JSON)),
    st.tuples(st.just("batch"), st.lists(st.integers(-1, 5), max_size=3)),
    st.tuples(st.sampled_from(["settings", "weights", "versions", "batch", "base_model", "more"]), JSON),
)  # fmt: skip
OWN = st.lists(FACT, min_size=1, max_size=2).map(lambda facts: json.loads(own()) | dict(facts))


@EXAMPLES
def test_no_json_of_ours_breaks_it(number, tmp_path):
    @fuzz(number)
    @given(value=st.one_of(OWN, OWN, OWN, JSON))
    def check(value):
        found = only_input_errors(png(tmp_path / "own.png", customize=json.dumps(value)))
        assert found is None or found.program == "customize"

    check()


LINKS = st.tuples(st.sampled_from([*graph()]), st.integers(0, 3)).map(list)
INPUT_NAMES = st.sampled_from(
    sorted({name for node in graph().values() for name in node["inputs"]} | {"value", "lora_name", "conditioning", "image"})
)
KINDS = st.sampled_from("Reroute LoraLoader LoadImage VAEEncode CLIPTextEncode PrimitiveInt KSampler SaveImage".split())
NUMBERS = st.sampled_from([*graph()])
WIRE = st.tuples(NUMBERS, INPUT_NAMES, st.one_of(LINKS, LINKS, SCALARS))
KIND = st.tuples(NUMBERS, st.just("class_type"), KINDS)
BROKEN = st.one_of(st.tuples(NUMBERS, st.sampled_from(["class_type", None]), JSON), st.tuples(NUMBERS, INPUT_NAMES, JSON))
CHANGES = st.tuples(
    st.lists(st.one_of(WIRE, WIRE, WIRE, KIND), max_size=10), st.one_of(*[st.just([])] * 4, st.lists(BROKEN, max_size=2))
)


def changed_graph(changes) -> dict:
    nodes: dict = graph()
    for number, name, value in itertools.chain(*changes):
        if name is None:
            nodes[number] = value
        elif isinstance(nodes[number], dict) and name == "class_type":
            nodes[number]["class_type"] = value
        elif isinstance(nodes[number], dict) and isinstance(nodes[number].get("inputs"), dict):
            nodes[number]["inputs"][name] = value
    return nodes


@EXAMPLES
def test_no_graph_breaks_it(number, tmp_path):
    @fuzz(number)
    @given(changes=CHANGES)
    def check(changes):
        only_input_errors(png(tmp_path / "graph.png", prompt=json.dumps(changed_graph(changes))))

    check()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_damaged_files_never_break_it(tmp_path, format):
    info, exif = PngInfo(), Image.Exif()
    info.add_text("parameters", INFOTEXTS["Civitai"][0])
    info.add_itxt("customize", own(), zip=True)
    exif.get_ifd(EXIF)[USER_COMMENT] = b"UNICODE\0" + INFOTEXTS["Civitai"][0].encode("utf-16-be")
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, format, **({"pnginfo": info} if format == "PNG" else {"exif": exif.tobytes()}))
    whole, draw, path = buffer.getvalue(), random.Random(0), tmp_path / "damaged"
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.choice([len(data), draw.randrange(len(data))])])
        only_input_errors(path)


def test_torch_is_not_imported():
    code = "import sys, customize.inference.metadata.read_png; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
