"""The layouts of adapter files: the names of every adapter of the real base models, against formulas written here, and the
rules by which ComfyUI, A1111 and InvokeAI find them, restated."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from customize.adapters.lora_files import in_layout
from customize.adapters.lora_keys import sorted_out, split
from customize.adapters.lora_layouts import LAYOUTS
from customize.errors import InputError
from customize.families import specs
from customize.families.specs.architectures import CONFIGS, clip_shapes, of_folder, unet_shapes

SD1, SD2, XL = "Stable Diffusion 1.x", "Stable Diffusion 2.x", "SDXL"
KNOWN = {each.title: each for spec in specs.every() for each in spec.architectures()}
FOLDERS = {SD1: "sd15", SD2: "sd21", XL: "sdxl"}
DEPTHS = {
    SD1: {"input": dict.fromkeys((1, 2, 4, 5, 7, 8), 1), "middle": {0: 1}, "output": dict.fromkeys(range(3, 12), 1)},
    XL: {"input": {4: 2, 5: 2, 7: 10, 8: 10}, "middle": {0: 10}, "output": {0: 10, 1: 10, 2: 10, 3: 2, 4: 2, 5: 2}},
}
"""Blocks of the original UNet with attention -> the number of transformer blocks in a row."""
DEPTHS[SD2] = DEPTHS[SD1]


def test_the_modules_are_those_of_the_libraries():
    """Names and shapes, by formula from the configurations, on the real architectures."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def real(network, inner: str = ""):
        weights = {name: getattr(module, "weight", None) for name, module in network.named_modules()}
        return {name.removeprefix(inner): tuple(each.shape) for name, each in weights.items() if each is not None}

    for folder in ("sd15", "sd21", "sd21_base", "sdxl"):
        configs = {path.parent.name: json.loads(path.read_text()) for path in (CONFIGS / folder).glob("*/config.json")}
        with torch.device("meta"):
            assert real(UNet2DConditionModel.from_config(configs["unet"])) == unet_shapes(configs["unet"])
            for part in {"text_encoder", "text_encoder_2"} & configs.keys():
                kind = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
                assert real(kind(CLIPTextConfig(**configs[part])), "text_model.") == clip_shapes(configs[part])


def test_the_modules_of_a_small_model_come_from_its_folder(tiny_epsilon):
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel.from_pretrained(tiny_epsilon / "unet")
    own = of_folder("tiny", tiny_epsilon, KNOWN[SD1].networks).shapes["unet"]
    assert own == {name: tuple(each.weight.shape) for name, each in network.named_modules() if hasattr(each, "weight")}


def transformers(title: str, block: str) -> set[str]:
    """What follows a block's name in the names of attention, feed-forward and projections."""
    way, number = block.split("_blocks_") if "_blocks_" in block else ("middle", 0)
    ends = {f"attn{i}_to_{side}" for i in (1, 2) for side in ("q", "k", "v", "out_0")} | {"ff_net_0_proj", "ff_net_2"}
    blocks = {f"transformer_blocks_{k}_{end}" for k in range(DEPTHS[title][way][int(number)]) for end in ends}
    return blocks | {"proj_in", "proj_out"}


def original_unet(title: str) -> tuple[set[str], set[str]]:
    """The original names of the layers in transformers, and of all other layers but the first, the last, and embeddings."""
    levels = 3 if title == XL else 4
    attention = set()
    for way, blocks in DEPTHS[title].items():
        for number in blocks:
            block = "middle_block" if way == "middle" else f"{way}_blocks_{number}"
            attention |= {f"{block}_1_{end}" for end in transformers(title, block)}
    resnets = {f"input_blocks_{3 * i + j + 1}_0" for i in range(levels) for j in range(2)}
    resnets |= {"middle_block_0", "middle_block_2", *(f"output_blocks_{j}_0" for j in range(3 * levels))}
    others = {f"{block}_{end}" for block in resnets for end in ("in_layers_2", "out_layers_3", "emb_layers_1")}
    wider = ("4", "7")  # the first block of each level that has more channels than the one before
    others |= {f"{block}_skip_connection" for block in resnets if "output" in block or block.split("_")[2] in wider}
    others |= {f"input_blocks_{3 * i + 3}_0_op" for i in range(levels - 1)}
    beside = {2 + 3 * i: 1 + (2 + 3 * i in DEPTHS[title]["output"]) for i in range(levels - 1)}
    return attention, others | {f"output_blocks_{block}_{place}_conv" for block, place in beside.items()}


def diffusers_name(name: str) -> str:
    """The name in diffusers' UNet of an original one, both with underscores, by the formula of three blocks a level."""
    ends = {"in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj", "skip_connection": "conv_shortcut"}
    way, place, number, rest = re.fullmatch(r"(input_blocks|middle_block|output_blocks)_(\d+)(?:_(\d))?_(.+)", name).groups()
    place = int(place)
    if way == "middle_block":
        if place == 1:
            return f"mid_block_attentions_0_{f'{number}_' if number else ''}{rest}"
        return f"mid_block_resnets_{place // 2}_{ends[rest]}"
    if rest == "op":
        return f"down_blocks_{place // 3 - 1}_downsamplers_0_conv"
    if rest == "conv":
        return f"up_blocks_{place // 3}_upsamplers_0_conv"
    level, layer = divmod(place - (way == "input_blocks"), 3)
    kind = "attentions" if number == "1" else "resnets"
    return f"{'down' if way == 'input_blocks' else 'up'}_blocks_{level}_{kind}_{layer}_{ends.get(rest, rest)}"


def texts(count: int) -> set[str]:
    """The names of a text encoder's layers, with underscores."""
    ends = {f"self_attn_{side}_proj" for side in ("q", "k", "v", "out")} | {"mlp_fc1", "mlp_fc2"}
    return {f"text_model_encoder_layers_{i}_{end}" for i in range(count) for end in ends}


def adapters(title: str, rank: int = 4) -> dict:
    """An adapter for every matrix and convolution of a base model, on the meta device."""
    layers = {}
    for part, shapes in KNOWN[title].shapes.items():
        for name, shape in shapes.items():
            if len(shape) > 1 and "embedding" not in name and name not in ("conv_in", "conv_out", "text_projection"):
                down = torch.empty(rank, *shape[1:], device="meta")
                up = torch.empty(shape[0], rank, *[1] * (len(shape) - 2), device="meta")
                layers[part, name] = {"A": down, "B": up, "alpha": torch.tensor(float(rank))}
    return layers


def file_of(title: str, layout: str):
    """Names, and tensors by name, of the file with every adapter of a base model."""
    tensors, _ = in_layout(LAYOUTS[layout], adapters(title), KNOWN[title].networks, KNOWN[title].modules)
    return {name.partition(".")[0] for name in tensors}, tensors


@pytest.mark.parametrize("title", [SD1, SD2, XL])
def test_kohyas_names_are_those_of_its_scripts(title):
    """LDM names of blocks for SDXL, diffusers' for the others; every adapter has A, B and alpha, with the shapes of its layer."""
    attention, others = original_unet(title)
    unet = attention | others
    assert {len(attention), len(others)} == ({722, 66} if title == XL else {192, 86})
    if title != XL:
        unet = {diffusers_name(name) for name in unet}
    names, tensors = file_of(title, "kohya")
    encoders = {SD1: {"lora_te": 12}, SD2: {"lora_te": 23}, XL: {"lora_te1": 12, "lora_te2": 32}}[title]
    text = {f"{prefix}_{name}" for prefix, count in encoders.items() for name in texts(count)}
    assert len(text) == {SD1: 72, SD2: 138, XL: 264}[title]
    assert names == {f"lora_unet_{name}" for name in unet} | text
    assert tensors.keys() == {f"{name}.{end}" for name in names for end in ("lora_down.weight", "lora_up.weight", "alpha")}
    first = "input_blocks_4_1" if title == XL else "down_blocks_0_attentions_0"
    channels, width = {SD1: (320, 768), SD2: (320, 1024), XL: (640, 2048)}[title]
    key = f"lora_unet_{first}_transformer_blocks_0_attn2_to_k"
    assert tensors[f"{key}.lora_down.weight"].shape == (4, width)
    assert tensors[f"{key}.lora_up.weight"].shape == (channels, 4)
    assert tensors[f"lora_unet_{first}_proj_in.lora_down.weight"].dim() == (4 if title == SD1 else 2)
    conv = [
        tensor.shape
        for name, tensor in tensors.items()
        if name.endswith(("op.lora_down.weight", "samplers_0_conv.lora_down.weight"))
    ]
    assert conv and all(shape[0] == 4 and shape[2:] == (3, 3) for shape in conv)


@pytest.mark.parametrize("title", [SD1, SD2, XL])
def test_the_other_layouts_name_the_same_modules(title):
    attention, others = original_unet(title)
    ours = {f"lora_unet_{name}" for name in attention | others}
    assert {name for name in file_of(title, "kohya-ldm")[0] if "unet" in name} == ours
    in_diffusers = {diffusers_name(name) for name in attention | others}
    assert {name for name in file_of(title, "kohya-diffusers")[0] if "unet" in name} == {
        f"lora_unet_{name}" for name in in_diffusers
    }
    dotted = {name.rpartition(".lora_")[0] for name in file_of(title, "diffusers")[1]}
    assert {name.replace(".", "_") for name in dotted if name.startswith("unet.")} == {f"unet_{name}" for name in in_diffusers}
    assert all("text_model.encoder.layers." in name for name in dotted if not name.startswith("unet."))
    by_comfyui = {name.rpartition(".lora_")[0] for name in file_of(title, "comfyui")[1]} - {""}
    unet = {name for name in by_comfyui if name.startswith("diffusion_model.")}
    assert {name.replace(".", "_") for name in unet} == {f"diffusion_model_{name}" for name in attention | others}
    encoders = {SD1: {"clip_l"}, SD2: {"clip_h"}, XL: {"clip_l", "clip_g"}}[title]
    assert {name.split(".")[1] for name in by_comfyui - unet} == encoders


def comfyui(title: str) -> set[str]:
    """The names that ComfyUI maps (comfy/lora.py: model_lora_keys_unet, model_lora_keys_clip): all weights of its UNet by their
    original names, diffusers' names of blocks too, diffusers' attention processors, the text encoders' layers."""
    original = set().union(*original_unet(title))
    names = {f"lora_unet_{name}" for name in original}
    own = {diffusers_name(name) for name in original}
    names |= {f"{prefix}{name}" for name in own for prefix in ("lora_unet_", "lycoris_")}
    for number, part in enumerate(("text_encoder", "text_encoder_2")):
        count = sum(name.endswith("mlp.fc1") for name in KNOWN[title].shapes.get(part, ()))
        for name in texts(count):
            names |= {f"lora_te2_{name}"} if number else {f"lora_te_{name}", f"lora_te1_{name}"}
    return names


def a1111(title: str, name: str) -> str:
    """The name in A1111's model that a name in a file becomes (extensions-builtin/Lora/networks.py)."""
    ends = {"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1", "conv_shortcut": "skip_connection"}
    if match := re.fullmatch(r"lora_unet_(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", name):
        way, block, kind, layer, end = match.groups()
        way, place = ("input", 1) if way == "down" else ("output", 0)
        return f"{way}_blocks_{place + 3 * int(block) + int(layer)}_{int(kind == 'attentions')}_{ends.get(end, end)}"
    if match := re.fullmatch(r"lora_unet_mid_block_(attentions|resnets)_(\d)_(.+)", name):
        kind, layer, end = match.groups()
        return f"middle_block_{1 if kind == 'attentions' else 2 * int(layer)}_{ends.get(end, end)}"
    if match := re.fullmatch(r"lora_unet_down_blocks_(\d)_downsamplers_0_conv", name):
        return f"input_blocks_{3 + 3 * int(match[1])}_0_op"
    if match := re.fullmatch(r"lora_unet_up_blocks_(\d)_upsamplers_0_conv", name):
        return f"output_blocks_{2 + 3 * int(match[1])}_{2 if int(match[1]) else 1}_conv"
    if name.startswith("lora_te2_text_model_encoder_layers_") or (title == SD2 and name.startswith("lora_te_")):
        name = re.sub(r"^lora_te2?_text_model_encoder_layers", "resblocks", name)
        return name.replace("mlp_fc1", "mlp_c_fc").replace("mlp_fc2", "mlp_c_proj").replace("self_attn", "attn")
    return re.sub("^lora_(unet|te1?)_", "", name)


@pytest.mark.parametrize("title", [SD1, SD2, XL])
def test_comfyui_and_a1111_find_every_module_of_our_kohya_file(title):
    names, _ = file_of(title, "kohya")
    assert names <= comfyui(title)
    known = set().union(*original_unet(title)) | texts(12)
    for i in range({SD1: 0, SD2: 23, XL: 32}[title]):
        ends = ("attn_q_proj", "attn_k_proj", "attn_v_proj", "attn_out_proj", "mlp_c_fc", "mlp_c_proj")
        known |= {f"resblocks_{i}_{end}" for end in ends}
    assert {a1111(title, name) for name in names} <= known
    assert len({a1111(title, name) for name in names}) == len(names)


@pytest.mark.parametrize("title", [SD1, SD2, XL])
def test_invokeai_finds_every_module_of_our_kohya_file(title):
    """It looks names up among diffusers' modules, with underscores, once it has replaced LDM's names of SDXL's blocks."""
    names, _ = file_of(title, "kohya")
    if title == XL:
        start = "lora_unet_"
        names = {start + diffusers_name(name.removeprefix(start)) if name.startswith(start) else name for name in names}
    prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_text_model_" if title == XL else "lora_te_text_model_"}
    prefixes |= {"text_encoder_2": "lora_te2_text_model_"}
    shapes = KNOWN[title].shapes
    assert names <= {f"{prefixes[part]}{module}".replace(".", "_") for part, modules in shapes.items() for module in modules}


def test_diffusers_names_of_the_upsampler_of_sdxl_are_not_found_by_a1111():
    """Why kohya's file for SDXL has LDM names."""
    [name] = [name for name in file_of(XL, "kohya-diffusers")[0] if "up_blocks_0_upsamplers" in name]
    assert a1111(XL, name) not in original_unet(XL)[1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("title", [SD1, SD2, XL])
def test_our_reader_finds_what_each_layout_writes(title, layout):
    networks, modules = KNOWN[title].networks, KNOWN[title].modules
    layers = {place: own for place, own in adapters(title).items() if place[0] == "unet" or layout not in ("peft", "lycoris")}
    if layout == "lycoris" and title == XL:
        layers = {place: own for place, own in layers.items() if place[0] == "unet"}
    tensors, _ = in_layout(LAYOUTS[layout], layers, networks, modules)
    found, _ = sorted_out(tensors, modules, networks)
    without = {
        place: {kind: own[kind] for kind in own if kind != "alpha" or LAYOUTS[layout].alphas} for place, own in layers.items()
    }
    assert found == without
    assert all(split(name) for name in tensors)


def test_what_a_layout_cannot_express_is_refused_by_name():
    layers = {("unet", "conv_in"): {"hada_w1_a": torch.ones(2, 2), "alpha": torch.tensor(1.0)}}
    with pytest.raises(InputError, match="the layout of diffusers has no place for hada_w1_a of unet.conv_in"):
        in_layout(LAYOUTS["diffusers"], layers, KNOWN[SD1].networks, KNOWN[SD1].modules)


@pytest.mark.parametrize("layout", ["diffusers", "kohya", "kohya-diffusers"])
def test_stock_sdxl_computes_what_each_layout_says(layout, tiny_xl, tmp_path):
    """UNet with convolutions, both text encoders; each layer has its own rank and, in diffusers' layout, alpha (its converter of
    kohya's names uses one alpha for all)."""
    from diffusers import StableDiffusionXLPipeline

    own = of_folder("tiny", tiny_xl, KNOWN[XL].networks)
    random, layers = torch.Generator().manual_seed(0), {}
    for part, shapes in own.shapes.items():
        chosen = [
            name for name, shape in shapes.items() if len(shape) > 1 and "embedding" not in name and name != "text_projection"
        ]
        for i, name in enumerate(chosen):
            shape, rank = shapes[name], 1 + i % 3
            down = torch.randn(rank, *shape[1:], generator=random)
            up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=random)
            layers[part, name] = {"A": down, "B": up, "alpha": torch.tensor(0.5 + i % 4 * (layout == "diffusers"))}
    tensors, metadata = in_layout(LAYOUTS[layout], layers, own.networks, own.modules)
    file = tmp_path / f"{layout}.safetensors"
    save_file(tensors, file, metadata)
    stock = StableDiffusionXLPipeline.from_pretrained(tiny_xl, add_watermarker=False)
    stock.load_lora_weights(file)
    for (part, name), each in layers.items():
        network = getattr(stock, part)
        layer = network.get_submodule(name if part != "text_encoder_2" else f"text_model.{name}")
        [adapter] = layer.lora_A
        change = each["alpha"] / len(each["A"]) * each["B"].flatten(1) @ each["A"].flatten(1)
        found = layer.get_delta_weight(adapter)
        torch.testing.assert_close(found, change.view_as(found), rtol=0, atol=1e-5)
