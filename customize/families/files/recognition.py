"""Names models other than Stable Diffusion 1.x and 2.x, by class names, settings and names of tensors.

Each table maps a sign to the name of such a model; the first sign that matches counts.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from customize.errors import Problem
from customize.printable import printable

SUPPORTED = (
    "give a text-to-image model of Stable Diffusion 1.x, 2.x or XL, such as stable-diffusion-v1-5/stable-diffusion-v1-5; "
    "others are not supported"
)
ADDED = "give it as --weights to infer.py, and here the base model that it was trained on"
WHOLE = "give the whole folder, the one with model_index.json, or a single file with UNet, VAE and text encoder"
BESIDE = "it goes beside a base model, and is not supported here: give the base alone, Stable Diffusion 1.x, 2.x or XL"

PIPELINES = {
    r"Onnx|ORT": "an ONNX export",
    r"^OV": "an OpenVINO export",
    r"Flax": "a Flax export",
    r"StableDiffusionXL.*InstructPix2Pix": "SDXL for instructions (instruct-pix2pix)",
    r"StableDiffusionXL.*Inpaint": "SDXL for inpainting",
    r"StableDiffusionXL": "SDXL",
    r"StableDiffusion3": "Stable Diffusion 3",
    r"Flux2": "FLUX.2",
    r"Flux": "FLUX",
    r"Chroma": "Chroma",
    r"UnCLIP|DALLE": "an unCLIP model, which draws from image embeddings",
    r"ImageVariation": "Stable Diffusion for image variations",
    r"StableDiffusionUpscale": "the x4 upscaler of Stable Diffusion",
    r"LatentUpscale": "the latent upscaler of Stable Diffusion",
    r"InstructPix2Pix": "Stable Diffusion for instructions (instruct-pix2pix)",
    r"Depth2Img": "Stable Diffusion for depth-to-image",
    r"GLIGEN": "GLIGEN, Stable Diffusion with boxes",
    r"ControlNet": "a pipeline with a ControlNet",
    r"Adapter": "a pipeline with a T2I adapter",
    r"AnimateDiff": "AnimateDiff",
    r"StableVideoDiffusion": "Stable Video Diffusion",
    r"TextToVideo|VideoToVideoSD|I2VGen": "a text-to-video model",
    r"PixArt": "PixArt",
    r"Sana": "Sana",
    r"AuraFlow": "AuraFlow",
    r"Wan": "Wan",
    r"Hunyuan": "Hunyuan",
    r"LTX": "LTX-Video",
    r"CogVideo": "CogVideoX",
    r"CogView": "CogView",
    r"Kandinsky": "Kandinsky",
    r"Kolors": "Kolors",
    r"^IF": "DeepFloyd IF",
    r"StableCascade": "Stable Cascade",
    r"Wuerstchen": "Wuerstchen",
    r"AudioLDM|MusicLDM|StableAudio|AudioDiffusion": "a model for sound",
    r"AltDiffusion": "AltDiffusion, which has another text encoder",
    r"PaintByExample": "Paint by Example",
    r"LDMTextToImage|VQDiffusion|LatentDiffusion": "an older latent diffusion model",
    r"VersatileDiffusion": "Versatile Diffusion",
    r"QwenImage": "Qwen-Image",
    r"ZImage": "Z-Image",
    r"HiDream": "HiDream",
    r"Lumina": "Lumina",
    r"OmniGen": "OmniGen",
    r"Amused": "aMUSEd",
    r"^DDPM|^DDIM|^ScoreSde|^Karras|^DiT": "a model without text",
}
"""By `_class_name` in model_index.json, a pattern: what the model is."""
OURS = re.compile(r"(StableDiffusion(Img2Img|Inpaint|PAG|SAG)?|LatentConsistencyModel\w*)Pipeline(Legacy|Safe)?")
NETWORK_CLASSES = {
    r"SD3Transformer": "Stable Diffusion 3",
    r"Flux2Transformer": "FLUX.2",
    r"FluxTransformer": "FLUX",
    r"ChromaTransformer": "Chroma",
    r"PixArt": "PixArt",
    r"SanaTransformer": "Sana",
    r"AuraFlow": "AuraFlow",
    r"WanTransformer|WanVACE": "Wan",
    r"Hunyuan": "Hunyuan",
    r"LTX": "LTX-Video",
    r"CogVideoX": "CogVideoX",
    r"CogView": "CogView",
    r"QwenImage": "Qwen-Image",
    r"ZImage": "Z-Image",
    r"HiDream": "HiDream",
    r"Lumina": "Lumina",
    r"Kandinsky": "Kandinsky",
    r"StableCascade": "Stable Cascade",
    r"WuerstchenPrior|WuerstchenDiffNeXt": "Wuerstchen",
    r"UNetMotion|MotionAdapter": "an AnimateDiff motion module",
    r"UNet3D|UNetSpatioTemporal|I2VGenXL": "a video model",
    r"AudioLDM2UNet": "a model for sound",
    r"UNet2DModel": "a model without text",
    r"PriorTransformer": "the prior of an unCLIP model",
    r"ControlNet": "a ControlNet",
    r"T2IAdapter": "a T2I adapter",
    r"AutoencoderTiny": "a tiny VAE (TAESD)",
    r"Autoencoder|VQModel|ConsistencyDecoder": "a VAE alone",
    r"CLIPVision": "a CLIP image encoder",
    r"SafetyChecker": "a safety checker",
    r"CLIPText|T5|Llama|Gemma|Qwen|ChatGLM|Roberta": "a text encoder alone",
    r"UNet2DConditionModel": "a UNet alone",
    r"Transformer": "a diffusion transformer",
}
"""By `_class_name` or `architectures` in a network's config.json, a pattern: what the model is."""
CHANNELS = {5: "depth-to-image", 7: "upscaling", 8: "instruct-pix2pix", 9: "inpainting"}
"""By the input channels of a UNet: what the Stable Diffusion is for."""

TENSORS: dict[str, tuple[str, str]] = {
    r"\.hada_w|\.lokr_w|\.oft_|\.on_input$|^lycoris_": ("is a LyCORIS adapter, not a base model", ADDED),
    r"lora_|\.lora": ("is a LoRA, not a base model", ADDED),
    r"^emb_params$|^clip_[lg]$|^string_to_param": ("is a textual inversion embedding, not a base model", ADDED),
    r"^control_model\.|controlnet_|^input_hint_block\.|^zero_convs\.|lllite": ("is a ControlNet, not a base model", BESIDE),
    r"^(adapter\.)?body\.\d+\.(in_conv|resnets|block1)": ("is a T2I adapter, not a base model", BESIDE),
    r"^(image_proj|ip_adapter)[.]": ("is an IP-Adapter, not a base model", BESIDE),
    r"motion_modules|temporal_transformer": ("is an AnimateDiff motion module, not a base model", BESIDE),
    r"time_stack|time_mix_blocks|temporal_conv": ("holds a video model", SUPPORTED),
    r"time_embed\.cond_proj\.": (
        "holds a latent consistency model (LCM) in one file", "give its folder, the one with model_index.json"),
    r"^conditioner\.embedders\.0\.model\.": ("holds the SDXL refiner", "give the base model of SDXL, whose images it refines"),
    r"^model\.diffusion_model\.label_emb\.weight": ("holds a class-conditional model, such as the x4 upscaler", SUPPORTED),
    r"^model\.diffusion_model\.label_emb\.": ("holds an unCLIP model, or a part of the SDXL refiner", SUPPORTED),
    r"audio_branch|^vocoder\.": ("holds a model for sound", SUPPORTED),
    r"(^|\.)joint_blocks\.": ("holds Stable Diffusion 3", SUPPORTED),
    r"distilled_guidance_layer": ("holds Chroma", SUPPORTED),
    r"individual_token_refiner|^txt_in\.t_embedder|mlp_t5\.": ("holds Hunyuan", SUPPORTED),
    r"double_stream_modulation": ("holds FLUX.2", SUPPORTED),
    r"(^|\.)double_blocks\.|(^|\.)single_transformer_blocks\.": ("holds FLUX", SUPPORTED),
    r"(^|\.)double_layers\.|register_tokens": ("holds AuraFlow", SUPPORTED),
    r"patchify_proj\.": ("holds LTX-Video", SUPPORTED),
    r"caption_norm|attention_y_norm": ("holds Sana", SUPPORTED),
    r"adaln_single|y_embedder\.y_embedding": ("holds PixArt", SUPPORTED),
    r"head\.modulation|text_embedding\.0\.": ("holds Wan", SUPPORTED),
    r"\.img_mod\.": ("holds Qwen-Image", SUPPORTED),
    r"cap_embedder": ("holds Lumina or Z-Image", SUPPORTED),
    r"clip_txt_pooled_mapper|clip_txt_mapper|effnet_mapper": ("holds Stable Cascade or Wuerstchen", SUPPORTED),
    r"(^|\.)context_embedder\.": ("holds Stable Diffusion 3", SUPPORTED),
    r"^add_embedding\.pool|^encoder_proj\.": ("holds DeepFloyd IF", SUPPORTED),
    r"^add_embedding\.(image|text)_": ("holds Kandinsky", SUPPORTED),
    r"^add_embedding\.linear": ("holds the UNet of SDXL alone, in diffusers' layout", WHOLE),
    r"^vision_model\.|^visual\.(transformer|conv1|proj)": ("is a CLIP image encoder, not a base model", BESIDE),
    r"^(encoder\.block|decoder\.block)\.\d|^shared\.weight": ("is a T5 text encoder alone", WHOLE),
    r"^text_model\.|^(transformer\.)?resblocks\.|^embeddings\.token_embedding": ("is a text encoder alone", WHOLE),
    r"^model\.\d+\.sub\.|RRDB_trunk|\.rdb\d\.|^conv_first\.|residual_group": ("is an image upscaler, such as ESRGAN", BESIDE),
    r"^(encoder|decoder)\.(conv_in|conv_out|down|up|mid|down_blocks|up_blocks|mid_block)\.|^(post_)?quant_conv\.": (
        "is a VAE alone", WHOLE),
    r"^(encoder|decoder)\.layers\.|^taesd": ("is a tiny VAE (TAESD)", WHOLE),
    r"^(down_blocks|mid_block|up_blocks)\.": ("holds one network in diffusers' layout", WHOLE),
    r"^(diffusion_model\.)?(input|output)_blocks\.\d|^(diffusion_model\.)?middle_block\.": (
        "holds a UNet alone, in the original layout", WHOLE),
    r"^(state_dict|module)\.": (
        "is a checkpoint of a training run, whose names begin with state_dict. or module.",
        "save what is under that name as a file of its own; ComfyUI's Save Checkpoint does"),
    r"^model\.layers\.\d|^lm_head\.": ("is a language model", SUPPORTED),
    r"scaled_fp8$|\.(scale_weight|weight_scale|comfy_quant)$|\.weight\.(absmax|quant_map)$": (
        "holds quantised weights", "give the model in float32, float16 or bfloat16"),
}  # fmt: skip
"""By a pattern in the names of a single file's tensors: what such a file is, and what to do."""
MOST_TENSORS = 20_000
"""Tensors of a base model at most; Stable Diffusion has 1,200, SDXL 2,500, and averages of the training are as many again."""


def by_pattern(table: Mapping[str, str], word: str) -> str | None:
    """The value of the first pattern that is found in the word."""
    return next((kind for pattern, kind in table.items() if re.search(pattern, word)), None)


def other_pipeline(index: Mapping[str, Any]) -> str | None:
    """The name of another model by its model_index.json; None for Stable Diffusion 1.x or 2.x, and where it is unknown."""
    name = index.get("_class_name")
    if not isinstance(name, str) or OURS.fullmatch(name):
        return None
    kind = by_pattern(PIPELINES, name)
    return f"{kind} ({printable(name, 60)})" if kind else None


def other_unet(config: Mapping[str, Any]) -> str | None:
    """The name of another model by the configuration of its UNet; None for Stable Diffusion 1.x or 2.x."""
    name = config.get("_class_name", "UNet2DConditionModel")
    if isinstance(name, str) and name != "UNet2DConditionModel" and (kind := by_pattern(NETWORK_CLASSES, name)):
        return f"{kind} ({printable(name, 60)})"
    match config.get("addition_embed_type"):
        case "text_time" if config.get("cross_attention_dim") == 1280:
            return "the SDXL refiner"
        case "text_time":
            return "SDXL (its UNet takes text_time)"
        case "text":
            return "DeepFloyd IF (its UNet takes pooled text)"
        case None:
            pass
        case other:
            return f"Kandinsky or the like (its UNet takes {printable(other, 40)})"
    channels = config.get("in_channels", 4)
    if channels in (5, 7, 8) and type(channels) is int:
        return f"Stable Diffusion for {CHANNELS[channels]} (its UNet takes {channels} channels)"
    if (kind := config.get("class_embed_type")) is not None:
        name = {"projection": "an unCLIP model", "simple_projection": "a model for sound"}.get(str(kind), "class-conditional")
        return f"{name} (its UNet has class_embed_type {printable(kind, 40)})"
    if (classes := config.get("num_class_embeds")) is not None:
        return f"a class-conditional model (its UNet has {printable(classes, 40)} classes)"
    if (kind := config.get("encoder_hid_dim_type")) is not None or config.get("encoder_hid_dim") is not None:
        return f"a model whose UNet projects text or images itself (encoder_hid_dim_type {printable(kind, 40)})"
    return "GLIGEN, Stable Diffusion with boxes" if config.get("attention_type", "default") != "default" else None


def other_network(config: Mapping[str, Any]) -> str | None:
    """The kind of a single network, by its config.json; None where it is unknown."""
    words = [config.get("_class_name"), *(config.get("architectures") or ())] if isinstance(
        config.get("architectures") or [], list
    ) else [config.get("_class_name")]  # fmt: skip
    return next((kind for word in words if isinstance(word, str) and (kind := by_pattern(NETWORK_CLASSES, word))), None)


def other_tensors(names: Iterable[str]) -> tuple[str, str] | None:
    """The kind of a single file by the names of its tensors, and what to do; None where it is unknown."""
    text = "\n".join(names)
    return next((kind for pattern, kind in TENSORS.items() if re.search(pattern, text, re.MULTILINE)), None)


def refusal(where: object, kind: str, remedy: str = SUPPORTED) -> Problem:
    """The problem of a model of another family."""
    return Problem(printable(where), f"is {kind}, not a text-to-image model of Stable Diffusion 1.x, 2.x or XL", remedy)
