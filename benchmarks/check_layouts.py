"""Gives the files of `tests/layouts_of_others.py` to the programs whose layouts they have, and compares the changed weights.

    python benchmarks/check_layouts.py [--comfyui FOLDER] [--sd-scripts FOLDER] [--onetrainer FOLDER] [ROW ...]

The folders are checkouts of Comfy-Org/ComfyUI, kohya-ss/sd-scripts and Nerogar/OneTrainer; lycoris-lora is used if it is
installed, diffusers and peft always are. Prints, for each row of the table in docs/files.md and each program that reads the
file, the largest difference of a parameter from the row's formula. Modules that these programs import and that are missing
here are replaced by mocks, because the functions that are called need none of them.
"""

import argparse
import contextlib
import importlib
import json
import logging
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from customize import families
from customize.families.specs.unet_names import original_names

sys.path[:0] = [str(Path(__file__).parent.parent / "tests")]
files, models = (importlib.import_module(name) for name in ("layouts_of_others", "models"))
Changes = dict[str, Tensor]
UNREAD = "not read"


class Base:
    """A tiny base model, and the names of its modules."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.family = families.load(families.locate(str(folder)))
        self.family.unet.requires_grad_(False)

    def parameters(self) -> dict[str, Tensor]:
        return {
            f"{part}.{name}": tensor.detach().double().clone()
            for part, network in self.family.trainable.items()
            for name, tensor in network.named_parameters()
        }

    def module(self, parameter: str) -> nn.Module:
        part, _, name = parameter.partition(".")
        return self.family.trainable[part].get_submodule(name.rpartition(".")[0])


def with_mocks(name: str):
    """Imports a module; each module that it misses becomes a mock."""
    for _ in range(60):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            sys.modules[str(error.name)] = MagicMock(__spec__=None)
    raise ImportError(name)


class ComfyUI:
    """`comfy.lora`: its map of names for a UNet of this shape, and its patches of weights."""

    def __init__(self, folder: str):
        sys.path.insert(0, folder)
        options = with_mocks("comfy.options")
        options.enable_args_parsing()
        arguments, sys.argv = sys.argv, ["check_layouts", "--cpu"]
        self.lora = with_mocks("comfy.lora")
        sys.argv = arguments

    def __call__(self, layout, path: Path, base: Base) -> Changes:
        own = self.names(base, layout.base)
        model = SimpleNamespace(
            state_dict=lambda: dict.fromkeys(own), model_config=SimpleNamespace(unet_config=CONFIGS[layout.base])
        )
        unet = self.lora.model_lora_keys_unet(model, {})
        clip = self.lora.model_lora_keys_clip(SimpleNamespace(state_dict=lambda: dict.fromkeys(own)), {})
        patches = self.lora.load_lora(load_file(path), unet | clip, log_missing=False)
        before, found = base.parameters(), {}
        for key, patch in patches.items():
            if key not in own:
                continue
            weight = before[own[key]].float().clone()
            changed = self.lora.calculate_weight([(1.0, patch, 1.0, None, None)], weight, key)
            found[own[key]] = changed.double() - before[own[key]]
        return found

    def names(self, base: Base, kind: str) -> dict[str, str]:
        """Our parameter by ComfyUI's name of it."""
        found = {}
        modules = [name for name, _ in base.family.unet.named_modules() if name]
        for module, original in zip(modules, original_names(modules), strict=True):
            for end in ("weight", "bias"):
                if original and f"unet.{module}.{end}" in base.parameters():
                    found[f"diffusion_model.{original}.{end}"] = f"unet.{module}.{end}"
        for part, own in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
            for name, _ in base.family.trainable[part].named_parameters() if part in base.family.trainable else ():
                found[f"{own}.transformer.text_model.{name.removeprefix('text_model.')}"] = f"{part}.{name}"
        return found


CONFIGS = {
    "sd": {
        "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 0], "transformer_depth_output": [1, 1, 0, 0],
        "transformer_depth_middle": 1,
    },
    "sdxl": {
        "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [0, 2], "transformer_depth_output": [0, 0, 2, 2],
        "transformer_depth_middle": 2,
    },
}  # fmt: skip
"""The tiny UNets in ComfyUI's configuration."""


class LyCORIS:
    """`lycoris.modules`: the module that each file is recognised as, and its merged weight."""

    def __init__(self):
        self.modules = importlib.import_module("lycoris.modules")

    def __call__(self, layout, path: Path, base: Base) -> Changes:
        tensors, found = load_file(path), {}
        for parameter, prefix in named(layout).items():
            kind, terms = self.modules.get_module(tensors, prefix)
            if kind is None:
                continue
            module = base.module(parameter)
            made, name = self.made(kind, terms, prefix, module), parameter.rpartition(".")[0]
            if kind.name in ("full", "norm"):
                weight, bias = made.make_weight()
                changes = {"weight": weight - module.weight, "bias": bias - module.bias}
            else:  # the change that the forward pass adds; in LoHa and LoKr, get_merged_weight applies alpha / rank twice
                changes = {}
                made.op = lambda x, weight, *rest, changes=changes, **more: changes.update(weight=weight) or 0
                made.forward(torch.zeros(1, module.weight.shape[1], *[8 for _ in module.weight.shape[2:]]))
            found |= {f"{name}.{end}": change.detach().double().view_as(getattr(module, end)) for end, change in changes.items()}
        return found

    def made(self, kind, terms, prefix: str, module: nn.Module):
        """As `lycoris.modules.make_module`, with what that leaves out: the axis of a DoRA, (IA)^3, LoKr with a Tucker core."""
        dora = terms[kind.weight_list.index("dora_scale")] if "dora_scale" in kind.weight_list else None
        by_input = dora is not None and len(dora) == 1
        own = dict(zip(kind.weight_list, terms, strict=True))
        if own.get("lokr_t2") is not None:
            made = kind(
                prefix, module, 1.0, len(own["lokr_w2_a"]), float(own["alpha"]), use_tucker=True, factor=len(own["lokr_w1"])
            )
            for name in ("lokr_w1", "lokr_w2_a", "lokr_w2_b", "lokr_t2"):
                getattr(made, name).data.copy_(own[name])
            return made
        if kind.name == "ia3":
            made = kind(prefix, module, train_on_input=bool(terms[1]))
            made.weight.data.copy_(terms[0])
            return made
        if by_input:
            terms = [None if term is dora else term for term in terms]
        with torch.no_grad():
            made = kind.make_module_from_state_dict(prefix, module, *terms)
        if by_input:
            made.wd, made.wd_on_out, made.dora_scale = True, False, nn.Parameter(dora)
        if kind.name == "full":
            made.make_weight = lambda: (made.weight + module.weight, made.bias + module.bias)
        return made


def named(layout) -> dict[str, str]:
    """The name in the file of each changed weight, where the file has kohya's names."""
    heads = {key.partition(".")[0] for key in layout.tensors}
    found = {}
    for parameter in layout.changes:
        part, _, module = parameter.removesuffix(".weight").removesuffix(".bias").partition(".")
        module = module.removeprefix("text_model.").replace(".", "_")
        for start in ("lora_unet_", "lycoris_", "oft_unet_") if part == "unet" else ("lora_te_text_model_",):
            if f"{start}{module}" in heads:
                found[f"{parameter.rpartition('.')[0]}.weight"] = f"{start}{module}"
    return found


class Kohya:
    """`networks/lora.py`, `dylora.py` and `oft.py` of sd-scripts, merged into a copy of the networks."""

    def __init__(self, folder: str):
        sys.path.insert(0, folder)
        self.lora, self.oft = with_mocks("networks.lora"), with_mocks("networks.oft")

    def __call__(self, layout, path: Path, base: Base) -> Changes:
        other = Base(base.folder)
        unet, texts = other.family.unet, [network for part, network in other.family.trainable.items() if part != "unet"]
        before, tensors = other.parameters(), load_file(path)
        if any("dora_scale" in key or "lora_mid" in key for key in tensors):
            return {}
        is_oft = any(key.startswith("oft_unet_") for key in tensors)
        if is_oft:
            for name, prefix in named(layout).items():  # kohya's names of classes in a UNet are older than diffusers'
                module = self.oft.OFTInfModule(
                    prefix, other.module(name), 1.0, len(tensors[f"{prefix}.oft_blocks"]), tensors[f"{prefix}.alpha"]
                )
                module.oft_blocks.data.copy_(tensors[f"{prefix}.oft_blocks"])
                module.merge_to()
        elif any(key.startswith(("lora_unet_", "lora_te")) and "lora_down" in key for key in tensors):
            text = texts if layout.base == "sdxl" else texts[0]
            network, weights = self.lora.create_network_from_weights(1.0, None, None, text, unet, tensors, for_inference=True)
            network.merge_to(text, unet, weights, torch.float32, "cpu")
        after = other.parameters()
        return {name: after[name] - before[name] for name in before if not torch.equal(after[name], before[name])}


class Diffusers:
    """Stock `load_lora_weights` and `fuse_lora`."""

    def __init__(self):
        from diffusers.utils.logging import disable_progress_bar
        from transformers.utils.logging import disable_progress_bar as disable_other

        disable_progress_bar()
        disable_other()

    def __call__(self, layout, path: Path, base: Base) -> Changes:
        from diffusers import DiffusionPipeline

        if layout.config or not any("lora" in key for key in layout.tensors):
            return {}
        pipeline = DiffusionPipeline.from_pretrained(base.folder)
        before = base.parameters()
        pipeline.load_lora_weights(path.parent, weight_name=path.name)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
        networks = {part: getattr(pipeline, part) for part in base.family.trainable}
        after = {
            f"{part}.{name}": tensor.double() for part, network in networks.items() for name, tensor in network.named_parameters()
        }
        return {
            name: after[name] - before[name] for name in before if name in after and not torch.equal(after[name], before[name])
        }


class Peft:
    """peft's `load_adapter` of a folder of `save_pretrained`, merged."""

    def __call__(self, layout, path: Path, base: Base) -> Changes:
        from peft import PeftModel

        if not all(key.startswith("base_model.model.") for key in layout.tensors):
            return {}
        if not layout.config:
            config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": [*files.UNET]}
            (path.parent / "adapter_config.json").write_text(json.dumps(config))
            shutil.copy(path, path.with_name("adapter_model.safetensors"))
        other = Base(base.folder)
        before = other.parameters()
        merged = PeftModel.from_pretrained(other.family.unet, path.parent).merge_and_unload()
        after = {f"unet.{name}": tensor.detach().double() for name, tensor in merged.named_parameters()}
        return {name: after[name] - before[name] for name in after if not torch.equal(after[name], before[name])}


class OneTrainer:
    """`modules.module.LoRAModule`: outputs for each unit input give the weight of its OFT."""

    def __init__(self, folder: str):
        sys.path.insert(0, folder)
        self.oft = with_mocks("modules.module.LoRAModule").OFTModule

    def __call__(self, layout, path: Path, base: Base) -> Changes:
        tensors, found = load_file(path), {}
        for name, prefix in named(layout).items():
            if f"{prefix}.oft_R.weight" not in tensors:
                continue
            module, packed = base.module(name), tensors[f"{prefix}.oft_R.weight"]
            size = int((8 * packed.shape[1] + 1) ** 0.5) // 2 + 1
            own = self.oft(prefix, module, size, False, f"{prefix}.oft_R.scaled_oft" in tensors)
            own.oft_R.weight.data.copy_(packed)
            own.orig_forward = module.forward
            width = module.weight.shape[1]
            if module.weight.dim() == 2:
                whole = own.forward(torch.eye(width)).T - (0 if module.bias is None else module.bias[:, None])
            else:
                seen = {}
                own.op = lambda x, weight, *rest, seen=seen, **more: seen.update(weight=weight)
                own.forward(torch.zeros(1, width, 8, 8))
                whole = seen["weight"]
            found[name] = whole.detach().double() - module.weight.double()
        return found


def compared(changes: Changes, layout) -> str:
    """The largest difference from the formulas, or what is missing."""
    if not changes:
        return UNREAD
    missing = sorted(layout.changes.keys() - changes.keys())
    off = max(
        float((changes[name].view_as(layout.changes[name]) - layout.changes[name]).abs().max())
        for name in changes
        if name in layout.changes
    )
    beside = max((float(changes[name].abs().max()) for name in changes if name not in layout.changes), default=0.0)
    return f"{max(off, beside):.1e}" + (f", {len(missing)} of {len(layout.changes)} parameters unchanged" if missing else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for program in ("comfyui", "sd-scripts", "onetrainer"):
        parser.add_argument(f"--{program}", metavar="FOLDER")
    parser.add_argument("rows", nargs="*", metavar="ROW")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    programs = {"diffusers": Diffusers(), "peft": Peft()}
    with contextlib.suppress(ImportError):
        programs["LyCORIS"] = LyCORIS()
    for name, folder, kind in (
        ("kohya", given.sd_scripts, Kohya),
        ("ComfyUI", given.comfyui, ComfyUI),
        ("OneTrainer", given.onetrainer, OneTrainer),
    ):
        if folder:
            programs[name] = kind(folder)
    with tempfile.TemporaryDirectory() as folder:
        bases = {
            "sd": Base(models.tiny_stable_diffusion(f"{folder}/sd")),
            "sdxl": Base(models.tiny_stable_diffusion_xl(f"{folder}/sdxl")),
        }
        for row in given.rows or files.LAYOUTS:
            layout = files.built(row, bases[files.LAYOUTS[row][1]].parameters())
            if not layout.changes:
                continue
            print(row)
            place = Path(folder) / str(len(list(Path(folder).iterdir())))
            place.mkdir()
            path = layout.write(place)
            path = path / "adapter_model.safetensors" if path.is_dir() else path
            for program, read in programs.items():
                try:
                    result = compared(read(layout, path, bases[layout.base]), layout)
                except Exception as error:
                    result = f"fails: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:110]
                if result != UNREAD:
                    print(f"    {program:12} {result}")


if __name__ == "__main__":
    main()
