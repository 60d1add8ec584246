"""LoRA files: the settings that a file of any program was trained with, and the files that other programs read.

A [rank, in, ...] and B [out, rank, ...] of a LoRA.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize.adapters import peft_layers
from customize.adapters.lora_keys import ADAPTER_METADATA, split
from customize.errors import InputError, Problem
from customize.families.specs.network_names import NetworkNames
from customize.printable import first_few
from customize.storage.run_folder import KOHYA_LORA
from customize.storage.safetensors_header import Header

if TYPE_CHECKING:
    from torch import Tensor

    from customize.adapters import Family

TRAINABLE = (
    "to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj", "ff.net.0.proj", "ff.net.2", "mlp.fc1",
    "mlp.fc2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv",
    "upsamplers.0.conv", "conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2",
)  # fmt: skip
"""Ends of the names of modules that an adapter can be added to."""


def settings_in(path: Path, header: Header, description: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that continue the training of a LoRA: rank, alpha, targets and kind. See `Adapter.settings_in`."""
    pieces = {name: found for name in header.tensors if (found := split(name))}
    ranks = {module: header.tensors[name].shape[0] for name, (module, kind) in pieces.items() if kind == "A"}
    others = {kind for _, kind in pieces.values()} - {"A", "B", "alpha", "magnitude"}
    ends = {module: end_of(module) for module in ranks}
    strange = sorted(module for module, end in ends.items() if end is None)
    if not ranks or others or strange:
        what = f"an adapter of unknown modules: {first_few(strange, 3)}" if strange else "an adapter other than a LoRA"
        remedy = "name a LoRA, or merge it into the base model by infer.py --merge"
        raise InputError(Problem("weights", f"is {what}", remedy))
    rank, alpha = max(ranks.values()), description.get("lora_alpha")
    if not isinstance(alpha, int | float):
        alpha = first_alpha(path, header, pieces)
    targets = recorded.get("lora_targets") or sorted({str(end) for end in ends.values()})
    return {
        "rank": rank, "lora_alpha": alpha or rank, "lora_targets": targets,
        "use_rslora": bool(description.get("use_rslora", False)),
        "use_dora": any(kind == "magnitude" for _, kind in pieces.values()),
    }  # fmt: skip


def end_of(module: str) -> str | None:
    """The longest of `TRAINABLE` that a module's name ends with, in dotted or in kohya's underscored spelling."""
    fits = [end for end in TRAINABLE if module.endswith((f".{end}", f"_{end.replace('.', '_')}")) or module == end]
    return max(fits, key=len, default=None)


def first_alpha(path: Path, header: Header, pieces: Mapping[str, tuple[str, str]]) -> float | None:
    """The alpha of the first layer that has one, in files of other programs."""
    from safetensors import safe_open

    name = next((name for name, (_, kind) in pieces.items() if kind == "alpha"), None)
    if name is None or header.tensors[name].dtype not in ("F16", "F32", "F64"):
        return None
    with safe_open(path, "np") as opened:
        return float(opened.get_tensor(name).reshape(-1)[0])


def kohya_layer(name: str, down: "Tensor", up: "Tensor", alpha: float) -> "dict[str, Tensor]":
    """The tensors of one layer in kohya's layout. name: of the module, in that layout; down, up: A and B."""
    import torch

    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(alpha)}


def save_kohya(folder: Path, family: "Family", metadata: dict[str, str], precision: str = "fp32") -> Path:
    """Writes the attached LoRA under the names that ComfyUI, A1111, Forge and kohya's scripts read, with an alpha per layer.

    alpha / rank is the layer's scale, also where that is alpha / sqrt(rank) (rsLoRA).
    """
    from customize.storage.tensor_files import save_tensors

    tensors: dict[str, Tensor] = {}
    ranks: set[int] = set()
    for part, network in family.trainable.items():
        for module, layer in network.named_modules():
            if peft_layers.is_tuner_layer(layer):
                [adapter] = layer.lora_A
                down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                name = family.spec.networks[part].written_by_kohya(module)
                tensors |= kohya_layer(name, down, up, layer.scaling[adapter] * len(down))
                ranks.add(len(down))
                if adapter in layer.lora_magnitude_vector:
                    magnitude = layer.lora_magnitude_vector[adapter].weight
                    tensors[f"{name}.dora_scale"] = magnitude.reshape(-1, *[1] * (down.dim() - 1))
    own = {"ss_network_module": "networks.lora", "ss_network_dim": str(max(ranks))}
    return save_tensors(folder / KOHYA_LORA, tensors, {**metadata, **own}, precision)


def joined(
    changes: "Mapping[str, Mapping[str, list[tuple[Tensor, Tensor]]]]", networks: Mapping[str, NetworkNames], kohya: bool
) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Tensors and metadata of one LoRA file that adds up the products `up down` of each module.

    changes: the factors (up, down) of `Adapter.factors` by network and module; they become B = [up1 | up2 | ...] and
    A = [down1; down2; ...] with alpha = rank. networks: `FamilySpec.networks`; kohya: in kohya's layout instead of diffusers'.
    """
    import torch

    tensors, configs = {}, {}
    for part, modules in changes.items():
        ranks = {}
        for module, factors in modules.items():
            ups, downs = zip(*factors, strict=True)
            up, down = torch.cat(ups, 1), torch.cat(downs)
            ranks[module] = len(down)
            if kohya:
                tensors |= kohya_layer(networks[part].written_by_kohya(module), down, up, float(len(down)))
            else:
                name = networks[part].written(module)
                tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        configs |= {f"{part}.{name}": value for name, value in config_with(ranks).items()} if ranks else {}
    return tensors, {} if kohya else {ADAPTER_METADATA: json.dumps(configs, sort_keys=True, default=str)}


def config_with(ranks: dict[str, int]) -> dict[str, Any]:
    """peft's configuration of a LoRA with these ranks by module; each alpha equals the rank."""
    from peft import LoraConfig

    most = max(ranks.values())
    own = {module: rank for module, rank in ranks.items() if rank != most}
    config = LoraConfig(r=most, lora_alpha=most, target_modules=sorted(ranks), rank_pattern=own, alpha_pattern=dict(own))
    return {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
