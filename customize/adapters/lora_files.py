"""LoRA files: the settings that a file of any program was trained with, and the files that other programs read.

A [rank, in, ...] and B [out, rank, ...] of a LoRA.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from customize.adapters import peft_layers
from customize.adapters.lora_keys import ADAPTER_METADATA, Place, split
from customize.adapters.lora_layouts import KOHYA, LoraLayout, named
from customize.errors import InputError, Problem
from customize.families.specs.network_names import NetworkNames
from customize.families.specs.unet_names import AT_THE_ENDS, IN_RESNETS
from customize.printable import first_few
from customize.storage.safetensors_header import Header, scalars

if TYPE_CHECKING:
    from torch import Tensor

    from customize.adapters import Family

Number = TypeVar("Number", int, float)
TRAINABLE = (
    "to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj", "ff.net.0.proj", "ff.net.2", "mlp.fc1",
    "mlp.fc2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv",
    "upsamplers.0.conv", "conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2",
)  # fmt: skip
"""Ends of the names of modules that an adapter can be added to."""
ORIGINAL = {
    original: own for own, original in {**IN_RESNETS, **AT_THE_ENDS, "downsamplers.0.conv": "op"}.items() if own in TRAINABLE
}
"""Ends of their names in the original UNet, where these differ -> in diffusers."""


def settings_in(path: Path, header: Header, description: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that continue the training of a LoRA: rank, alpha, targets and kind. See `Adapter.settings_in`."""
    pieces = {name: found for name in header.tensors if (found := split(name))}
    ranks = {module: header.tensors[name].shape[0] for name, (module, kind) in pieces.items() if kind == "A"}
    others = {kind for _, kind in pieces.values()} - {"A", "B", "alpha", "magnitude", "dora_scale"}
    ends = {module: end_of(module) for module in ranks}
    strange = sorted(module for module, end in ends.items() if end is None)
    if not ranks or others or strange:
        what = f"an adapter of unknown modules: {first_few(strange, 3)}" if strange else "an adapter other than a LoRA"
        remedy = "name a LoRA, or merge it into the base model by infer.py --merge"
        raise InputError(Problem("weights", f"is {what}", remedy))
    rank, alpha = max(ranks.values()), description.get("lora_alpha")
    is_stabilised = bool(description.get("use_rslora", False))
    if not isinstance(alpha, int | float):
        alpha = first_alpha(path, header, pieces)
        is_stabilised = bool(recorded.get("use_rslora", False))
        alpha = alpha / rank**0.5 if alpha and is_stabilised else alpha
    targets = recorded.get("lora_targets") or sorted({str(end) for end in ends.values()})
    kept = {name: recorded[name] for name in ("tlora_min_rank", "tlora_alpha") if recorded.get("tlora_min_rank")}
    return kept | {
        "rank": rank, "lora_alpha": alpha or rank, "lora_targets": targets,
        "use_rslora": is_stabilised,
        "use_dora": any(kind in ("magnitude", "dora_scale") for _, kind in pieces.values()),
    }  # fmt: skip


def end_of(module: str) -> str | None:
    """The longest of `TRAINABLE` that a module's name ends with, dotted or with underscores, also by its LDM name."""
    if re.search(r"output_blocks[._]\d+[._][12][._]conv$", module):
        return "upsamplers.0.conv"
    for original, own in ORIGINAL.items():
        if module.endswith((f".{original}", f"_{original.replace('.', '_')}")):
            return own
    fits = [end for end in TRAINABLE if module.endswith((f".{end}", f"_{end.replace('.', '_')}")) or module == end]
    return max(fits, key=len, default=None)


def first_alpha(path: Path, header: Header, pieces: Mapping[str, tuple[str, str]]) -> float | None:
    """The alpha of the first layer that has one, in files of other programs."""
    names = [name for name, (_, kind) in pieces.items() if kind == "alpha"]
    return next(iter(scalars(path, header, names[:1]).values()), None)


def alpha_of(module: str, tensors: "Mapping[str, Tensor]", description: Mapping[str, Any]) -> float:
    """A layer's alpha: from its own tensor, else from the file's configuration, else the rank.

    Raises InputError if the rank in the configuration is not that of the tensors.
    """
    if "alpha" in tensors:
        return float(tensors["alpha"])
    rank = len(tensors["A"])
    if (stated := by_pattern(description.get("rank_pattern"), module, description.get("r", rank))) != rank:
        what = f"its configuration does not fit its tensors: {module} has rank {rank}, not {stated}"
        raise InputError(Problem("weights", what, "get the file again"))
    alpha = by_pattern(description.get("alpha_pattern"), module, description.get("lora_alpha"))
    return rank if alpha is None else alpha


def by_pattern(patterns: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """The value of the first pattern that matches a module's name or its end, as in peft."""
    return next((value for key, value in (patterns or {}).items() if re.fullmatch(rf"(.*\.)?({key})", module)), otherwise)


def scale_of(module: str, tensors: "Mapping[str, Tensor]", description: Mapping[str, Any]) -> float:
    """What a layer's B A is multiplied by. An alpha that is a tensor is divided by the rank, as all programs do; one in the
    configuration by its square root if that says so."""
    is_stabilised = "alpha" not in tensors and description.get("use_rslora")
    return alpha_of(module, tensors, description) / len(tensors["A"]) ** (0.5 if is_stabilised else 1)


def save(file: Path, family: "Family", metadata: dict[str, str], precision: str = "fp32") -> Path:
    """Writes the attached LoRA in kohya's layout, with an alpha per layer.

    alpha / rank is the layer's scale, also where that is alpha / sqrt(rank) (rsLoRA).
    """
    from customize.storage.tensor_files import save_tensors

    layers: dict[Place, dict[str, Tensor]] = {}
    for part, network in family.trainable.items():
        for module, layer in network.named_modules():
            if peft_layers.is_tuner_layer(layer):
                [adapter] = layer.lora_A
                down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                own = {"A": down, "B": up, "alpha": alpha_like(layer.scaling[adapter] * len(down), down)}
                if adapter in layer.lora_magnitude_vector:
                    own["magnitude"] = layer.lora_magnitude_vector[adapter].weight
                layers[part, module] = own
    tensors, _ = in_layout(KOHYA, layers, family.spec.networks, modules_of(family))
    largest = max(layers.values(), key=lambda layer: len(layer["A"]))
    own = {"ss_network_module": "networks.lora", "ss_network_dim": str(len(largest["A"]))}
    own |= {"ss_network_alpha": f"{float(largest['alpha']):g}"}
    return save_tensors(file, tensors, metadata and {**metadata, **own}, precision)


def save_change(
    file: Path, family: "Family", layout: LoraLayout, factors: "Callable[[Any, str], tuple[Tensor, Tensor]]",
    metadata: dict[str, str], precision: str,
) -> Path:  # fmt: skip
    """Writes the change of the attached LoRA as `factors` states it of each layer; the trained tensors are not all of it."""
    from customize.storage.tensor_files import save_tensors

    changes = {
        part: {
            name: [factors(layer, peft_layers.NAME)]
            for name, layer in network.named_modules()
            if peft_layers.is_tuner_layer(layer)
        }
        for part, network in family.trainable.items()
    }
    tensors, own = joined(changes, family, layout)
    if layout.alphas:
        rank = str(max(len(down) for each in changes.values() for [(_, down)] in each.values()))
        own = metadata and {"ss_network_module": "networks.lora", "ss_network_dim": rank, "ss_network_alpha": rank}
    return save_tensors(file, tensors, {**metadata, **own}, precision)


def modules_of(family: "Family") -> dict[str, list[str]]:
    """The names of all modules of each network, without an adapter's layers in them."""
    wrapped = re.compile(r"\.(base_layer|(lora|hada|lokr|oft)_\w+)(\.|$)")
    names = {part: [name for name, _ in network.named_modules() if name] for part, network in family.trainable.items()}
    return {part: [name for name in own if not wrapped.search(name)] for part, own in names.items()}


def joined(
    changes: "Mapping[str, Mapping[str, list[tuple[Tensor, Tensor]]]]", family: "Family", layout: LoraLayout
) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Tensors and metadata of one LoRA file that adds up the products `up down` of each module.

    changes: the factors (up, down) of `Adapter.factors` by network and module; they become B = [up1 | up2 | ...] and
    A = [down1; down2; ...]. All alphas are the largest rank, and B is scaled accordingly: diffusers uses one alpha for all layers
    of a file in kohya's layout.
    """
    import torch

    places = {(part, module): zip(*own, strict=True) for part, modules in changes.items() for module, own in modules.items()}
    factors = {place: (torch.cat(ups, 1), torch.cat(downs)) for place, (ups, downs) in places.items()}
    most = max((len(down) for _, down in factors.values()), default=1)
    layers = {
        place: {"A": down, "B": up * (len(down) / most), "alpha": alpha_like(most, down)} for place, (up, down) in factors.items()
    }
    return in_layout(layout, layers, family.spec.networks, modules_of(family))


def in_layout(
    layout: LoraLayout,
    layers: "Mapping[Place, Mapping[str, Tensor]]",
    networks: Mapping[str, NetworkNames],
    modules: Mapping[str, Sequence[str]],
) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Tensors and metadata of an adapter file in a layout. Raises InputError for what the layout cannot express.

    layers: the tensors of each module by `lora_keys.KINDS`, each with an alpha; networks: `FamilySpec.networks`; modules: all
    modules of each network.
    """
    expressed = {place: expressible(layout, own) for place, own in layers.items()}
    tensors, left_out = named(layout, expressed, networks, modules)
    if left_out:
        what = first_few([f"{kind} of {part}.{module}" for (part, module), kind in left_out], 3)
        raise InputError(Problem("layout", f"the layout of {layout.title} has no place for {what}", "choose another layout"))
    return tensors, {} if layout.alphas else configuration(layers)


def expressible(layout: LoraLayout, own: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors of a module as a layout names them: magnitudes of a DoRA by peft, or by the other programs; alphas."""
    found = dict(own)
    down, up = found.get("A"), found.get("B")
    if "magnitude" in found and "magnitude" not in layout.ends and down is not None:
        found["dora_scale"] = found.pop("magnitude").reshape(-1, *[1] * (down.dim() - 1))
    scale = found.get("dora_scale")
    if scale is not None and "magnitude" in layout.ends and down is not None and scale.shape[:1] == up.shape[:1]:
        found["magnitude"] = found.pop("dora_scale").reshape(-1 if down.dim() == 2 else (1, -1, *[1] * (down.dim() - 2)))
    if not layout.alphas:
        found.pop("alpha", None)
    return found


def alpha_like(alpha: float, tensor: "Tensor") -> "Tensor":
    """An alpha in the number format of another tensor, or in float32 if that would change it."""
    import torch

    exact = torch.tensor(alpha, dtype=torch.float32)
    own = exact.to(tensor.dtype if tensor.dtype in (torch.float16, torch.bfloat16) else torch.float32)
    return own if own.float() == exact else exact


def configuration(layers: "Mapping[Place, Mapping[str, Tensor]]") -> dict[str, str]:
    """The metadata entry from which diffusers' loaders configure the adapters of each network. Raises InputError for a network
    in which only some adapters are DoRAs."""
    configs: dict[str, Any] = {}
    for part in dict.fromkeys(part for part, _ in layers):
        own = {module: layer for (its, module), layer in layers.items() if its == part}
        is_dora = {bool({"magnitude", "dora_scale"} & layer.keys()) for layer in own.values()}
        if len(is_dora) > 1:
            what = f"the layout has no place for LoRAs and DoRAs together in {part}"
            raise InputError(Problem("layout", what, "choose another layout, such as kohya"))
        ranks = {module: len(layer["A"]) for module, layer in own.items()}
        config = config_with(ranks, {module: float(layer["alpha"]) for module, layer in own.items()}, is_dora.pop())
        configs |= {f"{part}.{name}": value for name, value in config.items()}
    return {ADAPTER_METADATA: json.dumps(configs, sort_keys=True, default=str)}


def config_with(ranks: Mapping[str, int], alphas: Mapping[str, float], use_dora: bool) -> dict[str, Any]:
    """peft's configuration of a LoRA with these ranks and alphas by module."""
    from peft import LoraConfig

    rank, alpha = most_frequent(ranks.values()), most_frequent(alphas.values())
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=sorted(ranks),
        rank_pattern={module: own for module, own in ranks.items() if own != rank},
        alpha_pattern={module: own for module, own in alphas.items() if own != alpha},
        use_dora=use_dora,
    )
    return {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}


def most_frequent(values: Iterable[Number]) -> Number:
    """The value that occurs most often; of several, the largest."""
    counts = Counter(values)
    return max(counts, key=lambda value: (counts[value], value))
