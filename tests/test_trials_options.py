"""Trials of samplers, options, masks and what other programs write into images, as people have them; outcome by outcome."""
# ruff: noqa: E501 (tables of other programs' texts)

import html
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from customize.cli.main import main
from customize.errors import InputError
from customize.inference.metadata.read_png import GenerationInfo, read_generation_info
from customize.inference.run import command
from customize.settings.inference import InferenceSettings

BASIC = {"prompt": ("a red car",), "negative_prompt": "blurry", "seed": 42, "num_inference_steps": 20, "guidance_scale": 7.5,
         "width": 512, "height": 768}  # fmt: skip
EULER = {"scheduler": "EulerDiscreteScheduler", "use_karras_sigmas": False}
EULER_A = {"scheduler": "EulerAncestralDiscreteScheduler", "use_karras_sigmas": False}
KARRAS_2M = {"scheduler": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
INVOKE = {"generation_mode": "txt2img", "positive_prompt": "a red car", "negative_prompt": "blurry", "width": 512, "height": 768,
          "seed": 42, "rand_device": "cpu", "cfg_scale": 7.5, "cfg_rescale_multiplier": 0, "steps": 20, "scheduler": "euler",
          "model": {"key": "f1", "hash": "blake3:ab", "name": "dreamshaper-8", "base": "sd-1", "type": "main"}, "clip_skip": 0,
          "app_version": "5.4.2", "loras": []}  # fmt: skip
FOOOCUS = {"adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "realisticStock_v10", "base_model_hash": "aa", "clip_skip": 2,
           "full_negative_prompt": ["blurry"], "full_prompt": ["a red car"], "guidance_scale": 7.5, "loras": [["ink", 0.4, "f00"]],
           "metadata_scheme": "fooocus", "negative_prompt": "blurry", "performance": "Speed", "prompt": "a red car",
           "prompt_expansion": "", "refiner_model": "None", "refiner_switch": 0.5, "resolution": "(512, 768)",
           "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "seed": "42", "sharpness": 2.0, "steps": 20,
           "styles": "['Fooocus V2', 'Fooocus Sharp']", "vae": "Default (model)", "version": "Fooocus v2.5.5"}  # fmt: skip
FOOOCUS_LOG = {"Prompt": "a red car", "Negative Prompt": "blurry", "Fooocus V2 Expansion": "", "Styles": "[]", "Performance": "Speed",
               "Steps": 20, "Resolution": "(512, 768)", "Guidance Scale": 7.5, "Sharpness": 2.0, "Sampler": "euler", "Scheduler": "normal",
               "Seed": 42, "Base Model": "juggernaut.safetensors", "LoRA 1": "ink.safetensors : 0.4", "Version": "v2.3.1"}  # fmt: skip
SWARM = {"prompt": "a red car", "negativeprompt": "blurry", "model": "v1-5-pruned", "images": 1, "seed": 42, "steps": 20,
         "cfgscale": 7.5, "aspectratio": "Custom", "width": 512, "height": 768, "sampler": "dpmpp_2m", "scheduler": "karras",
         "loras": ["ink"], "loraweights": ["0.5"], "clipstopatlayer": -2, "automaticvae": True, "swarm_version": "0.9.3"}  # fmt: skip
EASY = {"prompt": "a red car", "negative_prompt": "blurry", "seed": "42", "num_inference_steps": "20", "guidance_scale": "7.5",
        "width": "512", "height": "768", "sampler_name": "euler_a", "use_stable_diffusion_model": "sd-v1-5", "clip_skip": "True",
        "use_lora_model": "['ink', 'fur']", "lora_alpha": "[0.5, 0.7]", "use_vae_model": "None"}  # fmt: skip
DRAW = {"c": "a red car", "uc": "blurry", "steps": 20, "scale": 7.5, "seed": 42, "sampler": "DPM++ 2M Karras", "size": "512x768",
        "model": "sd_v1.5_f16.ckpt", "strength": 1, "seed_mode": "Scale Alike", "lora": [{"model": "ink_f16.ckpt", "weight": 0.6}],
        "mask_blur": 1.5, "v2": {"steps": 20}}  # fmt: skip
NOVEL = {"steps": 20, "sampler": "k_euler_ancestral", "seed": 42, "strength": 0.7, "noise": 0.2, "scale": 7.5, "uc": "blurry",
         "height": 768, "width": 512, "n_samples": 1, "cfg_rescale": 0, "noise_schedule": "native", "sm": False, "sm_dyn": False,
         "request_type": "PromptGenerateRequest", "signed_hash": "ab"}  # fmt: skip
TAIL = "Negative prompt: blurry\nSteps: 20, Sampler: Euler, CFG scale: 7.5, Seed: 42, Size: 512x768, RNG: CPU"
COMFY = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 42, "steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "karras",
          "denoise": 1, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red car", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
}  # fmt: skip
CUSTOM = COMFY | {
    "3": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["20", 0], "guider": ["21", 0], "sampler": ["22", 0],
                                                            "sigmas": ["23", 0], "latent_image": ["5", 0]}},
    "20": {"class_type": "RandomNoise", "inputs": {"noise_seed": 42}},
    "21": {"class_type": "CFGGuider", "inputs": {"cfg": 7.5, "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0]}},
    "22": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
    "23": {"class_type": "BasicScheduler", "inputs": {"scheduler": "karras", "steps": 20, "denoise": 1, "model": ["4", 0]}},
}  # fmt: skip
EULER_KARRAS = {"scheduler": "EulerDiscreteScheduler", "use_karras_sigmas": True}


def without(output: dict, *names: str, **changes) -> dict:
    return {name: value for name, value in output.items() if name not in names} | changes


def png(folder: Path, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name.replace("__", "-").replace("XMP", "XML:com.adobe.xmp"), text)
    Image.new("RGB", (8, 8)).save(folder / "image.png", pnginfo=info)
    return folder / "image.png"


def exif(folder: Path, kind: str, comment: str | None = None, code: str = "utf-16-be", **tags) -> Path:
    data = Image.Exif()
    for tag, text in tags.items():
        data[int(tag[1:], 16)] = text
    if comment is not None:
        data.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + comment.encode(code)
    Image.new("RGB", (16, 16)).save(folder / f"image.{kind}", exif=data)
    return folder / f"image.{kind}"


def xmp(output: dict) -> str:
    body = html.escape(json.dumps(output), quote=False)
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description><exif:UserComment><rdf:Alt>'
        f'<rdf:li xml:lang="x-default">{body}</rdf:li></rdf:Alt></exif:UserComment></rdf:Description></rdf:RDF></x:xmpmeta>'
    )


def beside(folder: Path, name: str, text: str) -> Path:
    Image.new("RGB", (8, 8)).save(folder / "image.png")
    (folder / name).write_text(text, encoding="utf-8")
    return folder / "image.png"


def dumped(**texts) -> dict[str, str]:
    return {name: text if isinstance(text, str) else json.dumps(text) for name, text in texts.items()}


INFOS = {  # what an image carries -> (program, settings, weights, what notes are about)
    "InvokeAI 5": (lambda f: png(f, **dumped(invokeai_metadata=INVOKE)), "InvokeAI", BASIC | EULER | {"guidance_rescale": 0.0,
                   "clip_skip": 0}, (), ["base model"]),
    "InvokeAI on a GPU, with Karras": (
        lambda f: png(f, **dumped(invokeai_metadata=without(INVOKE, "clip_skip", "cfg_rescale_multiplier", rand_device="cuda",
                                                             scheduler="dpmpp_2m_k"))),
        "InvokeAI", BASIC | KARRAS_2M, (), ["base model", "Seed"]),
    "InvokeAI with a LoRA": (
        lambda f: png(f, **dumped(invokeai_metadata=without(INVOKE, "clip_skip", "cfg_rescale_multiplier",
                                                             loras=[{"model": {"name": "ink"}, "weight": 0.75}]))),
        "InvokeAI", BASIC | EULER, (("ink", 0.75),), ["LoRA ink", "base model"]),
    "InvokeAI 3, older LoRA names": (
        lambda f: png(f, **dumped(invokeai_metadata=without(INVOKE, "clip_skip", "cfg_rescale_multiplier", model={"model_name": "x"},
                                                             loras=[{"lora": {"model_name": "ink"}, "weight": 0.75}]))),
        "InvokeAI", BASIC | EULER, (("ink", 0.75),), ["LoRA ink", "base model"]),
    "InvokeAI from an image": (
        lambda f: png(f, **dumped(invokeai_metadata=without(INVOKE, "clip_skip", "cfg_rescale_multiplier", strength=0.6,
                                                             init_image="a.png"))),
        "InvokeAI", BASIC | EULER, (), ["base model", "init_image", "strength"]),
    "InvokeAI 2": (lambda f: png(f, Dream='"a red car [blurry]" -s 20 -S 42 -W 512 -H 768 -C 7.5 -A k_euler_a'), "InvokeAI",
                   BASIC | EULER_A, (), ["Seed", "base model"]),
    "InvokeAI 2, JSON": (
        lambda f: png(f, **dumped(sd__metadata={"model_weights": "sd-1.5", "app_id": "invoke-ai/InvokeAI", "image": {
            "prompt": [{"prompt": "a red car [blurry]", "weight": 1.0}], "steps": 20, "cfg_scale": 7.5, "sampler": "k_euler",
            "height": 768, "width": 512, "seed": 42, "type": "txt2img"}})),
        "InvokeAI", BASIC | EULER, (), ["Seed", "base model"]),
    "NovelAI": (lambda f: png(f, Software="NovelAI", Description="a red car", Source="Stable Diffusion F1022D28",
                              Comment=json.dumps(NOVEL)), "NovelAI", BASIC | EULER_A | {"guidance_rescale": 0.0}, (),
                ["Seed", "base model"]),
    "NovelAI from an image": (
        lambda f: png(f, Software="NovelAI", Description="a red car", Source="x",
                      Comment=json.dumps(without(NOVEL, "cfg_rescale", request_type="Img2ImgRequest"))),
        "NovelAI", BASIC | EULER_A, (), ["Seed", "base model", "noise", "strength"]),
    "NovelAI 4, prompt in its JSON": (
        lambda f: png(f, Software="NovelAI", Source="NovelAI Diffusion V4", Comment=json.dumps(
            without(NOVEL, "cfg_rescale", prompt="a red car", sampler="k_dpmpp_2m", noise_schedule="karras", dynamic_thresholding=True))),
        "NovelAI", BASIC | KARRAS_2M, (), ["Seed", "base model", "dynamic_thresholding"]),
    "NovelAI, WebP": (
        lambda f: exif(f, "webp", json.dumps({"Software": "NovelAI", "Description": "a red car", "Source": "x",
                                              "Comment": json.dumps(without(NOVEL, "cfg_rescale"))})),
        "NovelAI", BASIC | EULER_A, (), ["Seed", "base model"]),
    "Fooocus": (lambda f: png(f, **dumped(parameters=FOOOCUS, fooocus_scheme="fooocus")), "Fooocus",
                BASIC | {"scheduler": "DPM++ 2M SDE", "use_karras_sigmas": True, "clip_skip": 1}, (("ink", 0.4),),
                ["LoRA ink", "base model", "refiner_switch", "styles", "vae"]),
    "Fooocus, JPEG": (lambda f: exif(f, "jpg", json.dumps(without(FOOOCUS, "refiner_switch", "styles", "vae", "loras"))), "Fooocus",
                      BASIC | {"scheduler": "DPM++ 2M SDE", "use_karras_sigmas": True, "clip_skip": 1}, (), ["base model"]),
    "Fooocus' log": (lambda f: png(f, **dumped(parameters=FOOOCUS_LOG)), "Fooocus",
                     BASIC | EULER | {"timestep_spacing": "linspace"}, (("ink.safetensors", 0.4),),
                     ["LoRA ink.safetensors", "Seed", "base model", "styles"]),
    "SwarmUI": (lambda f: png(f, **dumped(parameters={"sui_image_params": SWARM, "sui_extra_data": {"date": "x"}})), "SwarmUI",
                BASIC | KARRAS_2M | {"clip_skip": 1}, (("ink", 0.5),), ["LoRA ink", "base model"]),
    "SwarmUI, JPEG": (lambda f: exif(f, "jpg", json.dumps({"sui_image_params": SWARM}), "utf-16-le"), "SwarmUI",
                      BASIC | KARRAS_2M | {"clip_skip": 1}, (("ink", 0.5),), ["LoRA ink", "base model"]),
    "SwarmUI from an image": (
        lambda f: png(f, **dumped(parameters={"sui_image_params": without(SWARM, "loras", "loraweights", "clipstopatlayer",
                                                                           initimagecreativity=0.6)})),
        "SwarmUI", BASIC | KARRAS_2M, (), ["base model", "initimagecreativity"]),
    "Easy Diffusion": (lambda f: png(f, **EASY), "Easy Diffusion", BASIC | EULER_A | {"clip_skip": 1}, (("ink", 0.5), ("fur", 0.7)),
                       ["LoRA fur", "LoRA ink", "Seed", "base model"]),
    "Easy Diffusion, JPEG": (lambda f: exif(f, "jpg", json.dumps(without(EASY, "use_lora_model", "lora_alpha", "clip_skip"))),
                             "Easy Diffusion", BASIC | EULER_A, (), ["Seed", "base model"]),
    "Draw Things": (lambda f: png(f, XMP=xmp(DRAW)), "Draw Things", BASIC | KARRAS_2M, (("ink_f16.ckpt", 0.6),),
                    ["LoRA ink_f16.ckpt", "Seed", "base model", "mask_blur"]),
    "Draw Things from an image": (
        lambda f: png(f, XMP=xmp(without(DRAW, "lora", "mask_blur", strength=0.4, sampler="Euler A"))), "Draw Things",
        BASIC | EULER_A, (), ["Seed", "base model", "strength"]),
    "A1111, .txt beside": (lambda f: beside(f, "image.txt", f"a red car\n{TAIL}"), "A1111", BASIC | EULER, (),
                           ["the settings were read from image.txt beside the image"]),
    "A1111, .png.txt beside": (lambda f: beside(f, "image.png.txt", f"a red car\r\n{TAIL}"), "A1111", BASIC | EULER, (),
                               ["the settings were read from image.png.txt beside the image"]),
    "A1111, JPEG": (lambda f: exif(f, "jpg", f"a red car\n{TAIL}"), "A1111", BASIC | EULER, (), []),
    "A1111, WebP": (lambda f: exif(f, "webp", f"a red car\n{TAIL}", "utf-16-le"), "A1111", BASIC | EULER, (), []),
    "A1111, LoRA in the negative prompt": (
        lambda f: png(f, parameters=f"a red car\n{TAIL}".replace("blurry", "<lora:bad:1> blurry")), "A1111", BASIC | EULER, (),
        ["<lora"]),
    "A1111, Clip skip and VAE": (
        lambda f: png(f, parameters=f"a red car\n{TAIL}, Clip skip: 2, VAE: vae-ft-mse.safetensors"), "A1111",
        BASIC | EULER | {"clip_skip": 1}, (), ["VAE"]),
    "Civitai, edited": (
        lambda f: exif(f, "jpg", f'a red car\n{TAIL}, Civitai resources: [{{"type":"lora","weight":0.5,"modelName":"Ink, 2"}}]'),
        "A1111", BASIC | EULER, (), ["Civitai resources"]),
    "ComfyUI, WebP": (
        lambda f: exif(f, "webp", x10F="workflow:{}", x110=f"prompt:{json.dumps(COMFY)}"), "ComfyUI", BASIC | EULER_KARRAS, (),
        ["base model"]),
    "ComfyUI, WebP of another node": (
        lambda f: exif(f, "webp", x10E="Workflow:{}", x10F=f"Prompt: {json.dumps(COMFY)}"), "ComfyUI", BASIC | EULER_KARRAS, (),
        ["base model"]),
    "ComfyUI, custom sampler": (lambda f: png(f, **dumped(prompt=CUSTOM)), "ComfyUI", BASIC | EULER_KARRAS, (), ["base model"]),
    "ComfyUI from Civitai's generator": (
        lambda f: png(f, **dumped(prompt=COMFY | {"extra": {"airs": []}, "extraMetadata": "{}"})), "ComfyUI", BASIC | EULER_KARRAS, (),
        ["base model"]),
}  # fmt: skip


def about(reported: GenerationInfo) -> list[str]:
    """What the notes are about."""
    return sorted(note.partition(":")[0].partition(" (")[0] for note in reported.notes)


@pytest.mark.parametrize("name", INFOS)
def test_metadata_of_other_programs_are_read(name, tmp_path):
    make, program, settings, weights, notes = INFOS[name]
    reported = read_generation_info(make(tmp_path))
    assert reported.program == program and reported.settings == settings
    assert tuple((file.name, file.scale) for file in reported.weights) == weights
    assert about(reported) == sorted(notes) and all(note.isprintable() for note in reported.notes)
    InferenceSettings(**{"prompt": "x"} | reported.settings)


HOSTILE = [
    {"invokeai_metadata": "{" * 5000}, {"invokeai_metadata": '{"loras": [1, {"model": [[]]}, {"lora": {"model_name": {"name": {}}}}]}'},
    {"sd__metadata": '{"image": {"prompt": [{}], "steps": [1], "seed": {"a": 1}, "width": true}}'}, {"Dream": '"' * 999},
    {"Dream": '"a" -s -S -W'}, {"Software": "NovelAI", "Comment": '{"seed": 1e999, "steps": "\\u001b[31m", "uc": ["a"]}'},
    {"parameters": '{"prompt": ["a"], "base_model": 3, "loras": [[], [1], ["a", "b"]], "resolution": "(9, )", "clip_skip": "x"}'},
    {"parameters": '{"sui_image_params": {"prompt": "a", "loras": "x", "loraweights": {}, "clipstopatlayer": -1e300}}'},
    {"parameters": '{"sui_image_params": []}'}, {"prompt": "a", "num_inference_steps": "x" * 9999, "use_lora_model": "[" * 9999},
    {"XMP": "<rdf:li>{" * 20000}, {"XMP": "<rdf:li" * 30000}, {"XMP": '<rdf:li>{"c": 1, "lora": [1, {}], "size": "axb"}</rdf:li>'},
    {"prompt": json.dumps({"3": {"class_type": "SamplerCustom", "inputs": {"noise": ["3", 0], "sampler_name": 1, "positive": 1}}})},
    {"Dream": '"a' + " " * 60000 + '[x]" -s 1'},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_texts_end_in_settings_or_one_report(number, tmp_path):
    path = png(tmp_path, **HOSTILE[number])
    try:
        reported = read_generation_info(path)
    except InputError as error:
        assert all(problem.what.isprintable() and len(problem.what) < 500 for problem in error.problems)
        return
    InferenceSettings(**{"prompt": "x"} | reported.settings)
    assert all(note.isprintable() and len(note) < 400 for note in reported.notes) and len(reported.notes) <= 51


@pytest.mark.parametrize("text", ["a caption of a red car", "", "a dog, a cat\nand a house", "\0\1\2", "Steps: to the house"])
def test_a_caption_beside_an_image_is_not_metadata(text, tmp_path):
    with pytest.raises(InputError, match="has no generation metadata"):
        read_generation_info(beside(tmp_path, "image.txt", text))


def lines(*words: str, folder: Path, base: Path) -> list[str]:
    return [
        "--pretrained_model_name_or_path",
        str(base),
        "--num_inference_steps",
        "3",
        "--output_dir",
        str(folder / "out"),
        *words,
    ]


DOG = ("--prompt", "a dog")
START = ("--image", "START", "--mask_image", "MASK")
COMMANDS = {  # a command line as typed -> (exit status, what is printed on either stream)
    "DPM++ 2M Karras": ((*DOG, "--scheduler", "DPM++ 2M Karras"), 0, ""),
    "dpmpp_2m_sde with eta": ((*DOG, "--scheduler", "dpmpp_2m_sde", "--eta", "0.5"), 2, "is not supported by"),
    "euler a, many": ((*DOG, "--scheduler", "euler a", "--num_images", "3", "--batch_size", "2"), 0, ""),
    "a sampler that is missing": ((*DOG, "--scheduler", "DPM adaptive"), 2, "the most similar is DPM++ 2M"),
    "a sampler misspelt": ((*DOG, "--scheduler", "DPM++2M Karas"), 2, "did you mean"),
    "a sweep of samplers": ((*DOG, "--sweep", "scheduler=Euler|DPM++ 2M Karras|lcm"), 0, ""),
    "a sweep with a wrong one": ((*DOG, "--sweep", "scheduler=Euler|Restart"), 2, "the most similar is Heun"),
    "too many LCM steps": ((*DOG, "--scheduler", "lcm", "--num_inference_steps=60"), 2, "60 is not possible with LCMScheduler"),
    "clip skip": ((*DOG, "--clip_skip", "1"), 0, ""), "too much clip skip": ((*DOG, "--clip_skip", "9"), 2, "has 2 layers"),
    "guidance rescale": ((*DOG, "--guidance_rescale", "0.7", "--timestep_spacing", "trailing"), 0, ""),
    "zero SNR": ((*DOG, "--scheduler", "ddim", "--rescale_betas_zero_snr", "--timestep_spacing", "trailing"), 2, "epsilon"),
    "zero SNR by Euler": ((*DOG, "--scheduler", "euler", "--rescale_betas_zero_snr"), 0, ""),
    "a random seed": ((*DOG, "--seed", "-1", "--num_images", "2"), 0, "(random)"),
    "a seed of ComfyUI": ((*DOG, "--seed", "1071208483241017"), 0, ""),
    "the largest seed": ((*DOG, "--seed", str(2**64 - 1)), 0, ""),
    "more images than seeds": ((*DOG, "--seed", str(2**64 - 1), "--num_images", "2"), 2, "is not a valid seed"),
    "a mask": ((*DOG, *START), 0, ""), "a blurred mask": ((*DOG, *START, "--mask_blur", "2"), 0, ""),
    "an inverted mask": ((*DOG, *START, "--mask_invert"), 0, "--mask_invert"),
    "a mask blurred away": ((*DOG, *START, "--mask_blur", "90"), 2, "blur"),
    "a blur without a mask": ((*DOG, "--mask_blur", "2"), 2, "has no effect without"),
    "a mask without an image": ((*DOG, "--mask_image", "MASK"), 2, "has no effect without"),
    "a hole in the image": ((*DOG, "--image", "START", "--mask_image", "HOLE"), 0, "is an image with transparent parts"),
    "a wholly white mask": ((*DOG, "--image", "START", "--mask_image", "WHITE"), 0, "completely white"),
    "a black mask": ((*DOG, "--image", "START", "--mask_image", "BLACK"), 2, "--mask_invert"),
    "a mask of another shape": ((*DOG, "--image", "START", "--mask_image", "WIDE"), 2, "the image 16 x 16"),
    "a larger mask": ((*DOG, "--image", "START", "--mask_image", "LARGE"), 0, "it is scaled to the image's 16 x 16"),
    "a mask for all seeds of a sweep": ((*DOG, *START, "--sweep", "mask_blur=0,1", "--sweep", "seed=1,2"), 0, ""),
    "a mask with steps of RePaint": ((*DOG, *START, "--scheduler", "DDIM", "--num_resamples", "2", "--jump_length", "2"), 0, ""),
    "image to image with an SDE": ((*DOG, "--image", "START", "--scheduler", "DPM++ 2M SDE", "--strength", "0.7"), 0, ""),
    "JPEG": ((*DOG, "--image_format", "jpg", "--num_images", "2"), 0, ""),
    "WebP": ((*DOG, "--image_format", "webp", "--scheduler", "DPM++ 2M SDE Karras"), 0, ""),
    "a format that is not written": ((*DOG, "--image_format", "gif"), 2, "image_format"),
    "a sweep of formats": ((*DOG, "--sweep", "image_format=png,jpg"), 2, "cannot be swept"),
    "an autoencoder that is missing": ((*DOG, "--vae", "none.safetensors"), 2, "does not exist"),
    "AND with guidance rescale": (("--prompt", "a dog AND a cat", "--guidance_rescale", "0.5"), 0, ""),
    "Karras of what has none": ((*DOG, "--scheduler", "DDIM", "--use_karras_sigmas"), 2, "is not supported by"),
    "Karras twice": ((*DOG, "--scheduler", "Euler Karras", "--use_karras_sigmas"), 0, ""),
}  # fmt: skip


@pytest.fixture(scope="session")
def drawings(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("drawings")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    spot = Image.new("L", (16, 16))
    spot.paste(255, (4, 4, 11, 12))
    hole = Image.fromarray(pixels).convert("RGBA")
    hole.putalpha(spot.point(lambda value: 255 - value))
    made = {"START": Image.fromarray(pixels), "MASK": spot, "HOLE": hole, "WHITE": Image.new("L", (16, 16), 255),
            "BLACK": Image.new("L", (16, 16)), "WIDE": Image.new("L", (32, 16), 255), "LARGE": spot.resize((64, 64))}  # fmt: skip
    for name, image in made.items():
        image.save(folder / f"{name}.png")
    return {name: str(folder / f"{name}.png") for name in made}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_lines(name, tiny_epsilon, tmp_path, drawings, capsys):
    words, status, output = COMMANDS[name]
    words = [drawings.get(word, word) for word in words]
    if any(word.startswith("--num_inference_steps") for word in words):
        given = ["--pretrained_model_name_or_path", str(tiny_epsilon), "--output_dir", str(tmp_path / "out"), *words]
    else:
        given = lines(*words, folder=tmp_path, base=tiny_epsilon)
    before = {path: Path(path).read_bytes() for path in drawings.values()}
    assert main(InferenceSettings, command.run, given) == status
    printed = capsys.readouterr()
    assert output in printed.out + printed.err and "Traceback" not in printed.err
    assert {path: Path(path).read_bytes() for path in drawings.values()} == before
    if status == 0:
        image = next(path for path in sorted((tmp_path / "out").iterdir()) if path.stem == "000")
        assert main(InferenceSettings, command.run, ["--like", str(image), "--output_dir", str(tmp_path / "again")]) == 0
        assert "the same: all" in capsys.readouterr().out
    else:
        assert not (tmp_path / "out").exists()
