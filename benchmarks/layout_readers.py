"""Gives LoRA files of the real base models to other programs' own code, and counts the tensors that they find.

    python benchmarks/layout_readers.py REFERENCES [LAYOUT ...]

REFERENCES holds checkouts named ComfyUI, sd-scripts, LyCORIS (needs sd-scripts), InvokeAI, sdnext and stable-diffusion-webui, of
which those that are missing are left out; diffusers is the installed one. For each base model, kind of file and layout (default:
diffusers, kohya) it prints how many of the file's tensors each program finds a module for, and for those whose code computes
weights without a model the largest difference from alpha / rank B A. Modules that they import and do not need here are mocks.
"""

import json
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from customize.adapters.lora_files import in_layout
from customize.adapters.lora_layouts import LAYOUTS
from customize.errors import InputError
from customize.families import specs
from customize.families.specs.architectures import CONFIGS, Architecture
from customize.families.specs.unet_names import original_names

KNOWN = {each.title: each for spec in specs.every() for each in spec.architectures()}
FOLDERS = {"Stable Diffusion 1.x": "sd15", "Stable Diffusion 2.x": "sd21", "SDXL": "sdxl"}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
FEED_FORWARD = (".proj", ".net.2", ".fc1", ".fc2", "proj_in", "proj_out")
KINDS = ("attention", "attention, feed-forward, text", "all layers", "attention, text, DoRA")
Read = Callable[[Architecture, Mapping[str, Tensor]], tuple[int, str]]
"""(architecture, tensors of a file) -> (number of tensors used, remark)."""


def layers_of(architecture: Architecture, kind: str, rank: int = 2) -> dict[tuple[str, str], dict[str, Tensor]]:
    """Random adapters, with alpha 1."""
    random, made = torch.Generator().manual_seed(0), {}
    ends = ATTENTION + FEED_FORWARD * ("feed" in kind)
    for part, shapes in architecture.shapes.items():
        for name, shape in shapes.items() if part == "unet" or "text" in kind else ():
            if (
                len(shape) > 1
                and "embeddings" not in name
                and name != "text_projection"
                and ("all" in kind or name.endswith(ends))
            ):
                down = torch.randn(rank, *shape[1:], generator=random) * 0.1
                up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=random) * 0.1
                made[part, name] = {"A": down, "B": up, "alpha": torch.tensor(1.0)}
                if "DoRA" in kind:
                    made[part, name]["magnitude"] = torch.rand(shape[0], generator=random) + 0.5
    return made


def flat(architecture: Architecture, prefixes: Mapping[str, str], inner: Iterable[str]) -> set[str]:
    """The names of all modules with underscores. inner: the networks with `text_model.` in their names."""
    names = {part: "text_model." * (part in inner) for part in prefixes}
    return {
        prefixes[part] + (names[part] * (module != "text_projection") + module).replace(".", "_")
        for part, shapes in architecture.shapes.items()
        for module in shapes
    }


def comfyui(root: Path) -> Read:
    """Its map of names and its calculation of weights."""
    sys.path.insert(0, str(root))
    sys.modules |= {name: MagicMock() for name in ("einops", "yaml", "comfy.cli_args", "comfy.checkpoint_pickle")}
    management, base = (types.ModuleType(f"comfy.{name}") for name in ("model_management", "model_base"))
    vars(management)["cast_to_device"] = lambda tensor, device, dtype, copy=False: tensor.to(dtype)
    vars(base)["__getattr__"] = lambda name: type(name, (), {})
    sys.modules |= {"comfy.model_management": management, "comfy.model_base": base}
    import comfy  # pyrefly: ignore

    comfy.model_management, comfy.model_base = management, base
    import comfy.lora  # pyrefly: ignore
    import comfy.utils  # pyrefly: ignore

    def read(architecture: Architecture, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
        depths = [[1, 1, 1, 1, 1, 1, 0, 0], 1, [1] * 9 + [0] * 3]
        if architecture.title == "SDXL":
            depths = [[0, 0, 2, 2, 10, 10], 10, [0, 0, 0, 2, 2, 2, 10, 10, 10]]
        levels = len(depths[0]) // 2
        config = {"num_res_blocks": [2] * levels, "channel_mult": [1, 2, 4, 4][:levels]}
        config |= dict(zip(("transformer_depth", "transformer_depth_middle", "transformer_depth_output"), depths, strict=True))
        places = {f"diffusion_model.{ldm}": ("unet", own) for own, ldm in comfy.utils.unet_to_diffusers(config).items()}
        encoders = {"SDXL": ("clip_l", "clip_g"), "Stable Diffusion 2.x": ("clip_h",)}.get(architecture.title, ("clip_l",))
        for name, part in zip(encoders, list(architecture.shapes)[1:], strict=True):
            for module in architecture.shapes[part]:
                places[f"{name}.transformer.text_model.{module}.weight"] = (part, f"{module}.weight")
        model = SimpleNamespace(state_dict=lambda: places, model_config=SimpleNamespace(unet_config=config))
        keys = comfy.lora.model_lora_keys_clip(model, comfy.lora.model_lora_keys_unet(model, {}))
        patches = comfy.lora.load_lora(dict(tensors), keys, log_missing=False)
        used = {name for patch in patches.values() for name in patch.loaded_keys}
        return len(used), worst(architecture, {places[key]: (key, patch) for key, patch in patches.items()}, comfy.lora)

    return read


def worst(architecture: Architecture, patches: Mapping[tuple[str, str], tuple[str, Any]], lora: Any) -> str:
    """The largest difference of a changed weight from the formula, over every seventh layer."""
    random, largest = torch.Generator().manual_seed(1), 0.0
    for (part, name), (key, patch) in list(patches.items())[::7]:
        up, down, _, _, magnitude, _ = patch.weights
        base = torch.randn(architecture.shapes[part][name.removesuffix(".weight")], generator=random) * 0.05
        expected = base.double() + (up.double().flatten(1) @ down.double().flatten(1) / len(down)).view_as(base)
        if magnitude is not None:
            expected *= magnitude.double() / expected.flatten(1).norm(dim=1).view_as(magnitude)
        found = lora.calculate_weight([(1.0, patch, 1.0, None, None)], base.clone(), key)
        largest = max(largest, float((found - expected).abs().max()))
    return f"{largest:.0e}" if patches else ""


def invokeai(root: Path) -> Read:
    """Its conversion of SDXL's names; everything is then looked up among the modules of diffusers' networks."""
    space: dict[str, Any] = {}
    exec((root / "invokeai/backend/patches/lora_conversions/sdxl_lora_conversion_utils.py").read_text(), space)

    def read(architecture: Architecture, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
        is_xl = architecture.title == "SDXL"
        names = {name: name for name in tensors}
        try:
            names = space["convert_sdxl_keys_to_diffusers_format"](names) if is_xl else names
        except ValueError:
            return 0, ""
        prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_" if is_xl else "lora_te_", "text_encoder_2": "lora_te2_"}
        known = flat(architecture, prefixes, ("text_encoder", "text_encoder_2"))
        return sum(name.split(".", 1)[0] in known for name in names), ""

    return read


def a1111(root: Path) -> Read:
    """Its rules for names, on the modules of its own networks."""
    text = (root / "extensions-builtin/Lora/networks.py").read_text()
    space: dict[str, Any] = {"re": re}
    exec(text[text.index("re_digits =") : text.index("def assign_network_names")], space)

    def open_clip(modules: Iterable[str]) -> set[str]:
        renamed = {"encoder.layers": "transformer.resblocks", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn": "attn"}
        found = set()
        for module in modules:
            for ours, theirs in renamed.items():
                module = module.replace(ours, theirs)
            module = re.sub(r"\.attn\.[qkv]_proj", ".attn", module)  # one matrix for all three
            found.add(f"model_{module}".replace(".", "_"))
        return found

    def read(architecture: Architecture, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
        is_sd2, encoders = architecture.title == "Stable Diffusion 2.x", list(architecture.shapes.values())[1:]
        known = {
            f"diffusion_model_{name}".replace(".", "_") for name in original_names(list(architecture.shapes["unet"])) if name
        }
        clip = {f"transformer_text_model_{name}".replace(".", "_") for name in encoders[0]}
        known |= open_clip(encoders[0]) if is_sd2 else clip
        known |= {f"0_{name}" for name in clip} | {f"1_{name}" for name in open_clip(encoders[-1])}
        used = 0
        for name in tensors:
            stem = name.partition(".")[0]
            key = space["convert_diffusers_name_to_compvis"](stem, is_sd2)
            keys = {key, stem.replace("lora_unet", "diffusion_model")}
            keys |= {stem.replace("lora_te1_text_model", f"{start}transformer_text_model") for start in ("0_", "")}
            keys |= {match[1]} if (match := space["re_x_proj"].match(key)) else set()
            used += bool(keys & known)
        return used, ""

    return read


def sdnext(root: Path) -> Read:
    """Its conversion of names."""
    package, shared = types.ModuleType("modules"), SimpleNamespace(sd_model=SimpleNamespace(), sd_model_type="")
    vars(package)["shared"] = shared
    sys.modules["modules"] = package
    space: dict[str, Any] = {}
    exec((root / "modules/lora/lora_convert.py").read_text().partition("\n# Taken from")[0], space)

    def read(architecture: Architecture, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
        is_xl = architecture.title == "SDXL"
        shared.sd_model_type = "sdxl" if is_xl else "sd"
        prefixes = {"unet": "lora_unet_", "text_encoder": "lora_te1_" if is_xl else "lora_te_", "text_encoder_2": "lora_te2_"}
        shared.sd_model.network_layer_mapping = dict.fromkeys(flat(architecture, prefixes, ("text_encoder_2",)), True)
        convert = space["KeyConvert"]()
        return sum(convert(name.split(".", 1)[0])[1] is not None for name in tensors), ""

    return read


class WithTextModel(nn.Module):
    """A text encoder as it was before transformers 5.6."""

    def __init__(self, text_model: nn.Module):
        super().__init__()
        self.text_model = text_model


def networks_of_kohya(root: Path) -> Callable[[Architecture], tuple[Any, nn.Module]]:
    """Text encoders and UNet of an architecture, in the classes of kohya's scripts, on the meta device."""
    sys.path.insert(0, str(root))
    sys.modules |= {name: MagicMock() for name in ("library.utils", "einops")}
    from library.original_unet import UNet2DConditionModel  # pyrefly: ignore
    from library.sdxl_original_unet import SdxlUNet2DConditionModel  # pyrefly: ignore
    from transformers import CLIPTextConfig, CLIPTextModel

    def made(architecture: Architecture) -> tuple[Any, nn.Module]:
        folder = CONFIGS / FOLDERS[architecture.title]
        configs = {part: json.loads((folder / part / "config.json").read_text()) for part in architecture.shapes}
        unet = configs.pop("unet")
        with torch.device("meta"):
            text = [WithTextModel(CLIPTextModel(CLIPTextConfig(**config))) for config in configs.values()]
            if len(text) > 1:
                return text, SdxlUNet2DConditionModel()
            sizes = unet["attention_head_dim"], unet["cross_attention_dim"], bool(unet.get("use_linear_projection"))
            return text[0], UNet2DConditionModel(64, *sizes)

    return made


def by_formula(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """alpha / rank B A of a module in kohya's layout, as a matrix in float64."""
    up, down = (tensors[f"{name}.lora_{side}.weight"].double().flatten(1) for side in ("up", "down"))
    return float(tensors[f"{name}.alpha"]) / len(down) * up @ down


def kohya(root: Path) -> Read:
    """Its network, made of the file for its own UNets; the changes of all weights."""
    made = networks_of_kohya(root)
    import networks.lora as lora  # pyrefly: ignore

    def read(architecture: Architecture, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
        text, unet = made(architecture)
        with torch.device("meta"):
            network, weights = lora.create_network_from_weights(1.0, None, None, text, unet, dict(tensors), for_inference=True)
        network.apply_to(text, unet, any("lora_te" in name for name in tensors), True)
        result = network.load_state_dict(weights, strict=False, assign=True)
        own = {
            module.lora_name: module.get_weight().detach().flatten(1)
            for module in network.unet_loras + network.text_encoder_loras
        }
        gap = max((float((each - by_formula(tensors, name)).abs().max()) for name, each in own.items()), default=0.0)
        remark = f"{len(result.missing_keys)} missing" if result.missing_keys else f"{gap:.0e}" if own else ""
        return len(tensors) - len(result.unexpected_keys), remark

    return read


def lycoris(root: Path) -> Read:
    """Its network, made of the file for kohya's UNets; the changes of all weights."""
    made = networks_of_kohya(root.parent / "sd-scripts")
    sys.path.insert(0, str(root))
    sys.modules["toml"] = MagicMock()
    import lycoris.kohya  # pyrefly: ignore

    lycoris.kohya.logger.disabled = True

    def read(architecture: Architecture, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
        if any("dora_scale" in name for name in tensors):
            return 0, "(not read: its DoRA needs the weights of the base model)"
        text, unet = made(architecture)
        network, _ = lycoris.kohya.create_network_from_weights(1.0, None, None, text, unet, dict(tensors), for_inference=True)
        own = {module.lora_name: module for module in network.unet_loras + network.text_encoder_loras}
        used = sum(name.partition(".")[0] in own for name in tensors)
        changes = {name: module.get_diff_weight()[0].detach().flatten(1) for name, module in own.items()}
        gap = max((float((each - by_formula(tensors, name)).abs().max()) for name, each in changes.items()), default=0.0)
        return used, f"{gap:.0e}" if own else ""

    return read


def diffusers() -> Read:
    """Its conversion to names of its networks; tensors of modules that these do not have are not used."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft

    def read(architecture: Architecture, tensors: Mapping[str, Tensor]) -> tuple[int, str]:
        kind = StableDiffusionXLPipeline if architecture.title == "SDXL" else StableDiffusionPipeline
        found, alphas = kind.lora_state_dict(dict(tensors), unet_config=SimpleNamespace(layers_per_block=2))
        used = len(alphas or {})
        for part, shapes in architecture.shapes.items():
            own = {name.removeprefix(f"{part}."): tensor for name, tensor in found.items() if name.startswith(f"{part}.")}
            if own and not any(".lora_A" in name for name in own):
                own = (convert_unet_state_dict_to_peft if part == "unet" else convert_state_dict_to_peft)(own)
            used += sum(name.partition(".lora_")[0].removeprefix("text_model.") in shapes for name in own)
        return used, ""

    return read


PROGRAMS = {
    "ComfyUI": comfyui, "InvokeAI": invokeai, "stable-diffusion-webui": a1111, "sdnext": sdnext, "sd-scripts": kohya,
    "LyCORIS": lycoris,
}  # fmt: skip


def main(root: Path, layouts: Iterable[str]) -> None:
    readers = {"diffusers": diffusers()} | {name: make(root / name) for name, make in PROGRAMS.items() if (root / name).is_dir()}
    for title, architecture in KNOWN.items():
        for kind in KINDS:
            layers = layers_of(architecture, kind)
            for layout in layouts:
                try:
                    tensors, _ = in_layout(LAYOUTS[layout], layers, architecture.networks, architecture.modules)
                except InputError as error:
                    print(f"{title}; {kind}; {layout}: {error.problems[0].what}")
                    continue
                read = {name: reader(architecture, tensors) for name, reader in readers.items()}
                cells = [f"{name} {used} {remark}".strip() for name, (used, remark) in read.items()]
                print(f"{title}; {kind}; {layout}: {len(tensors)} tensors: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or ("diffusers", "kohya"))
