"""`customize show`: what is in a file of weights, from its header, its alphas and its metadata. torch is not imported."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from math import isfinite, prod
from pathlib import Path
from typing import Any

from customize.adapters.lora_files import by_pattern
from customize.adapters.lora_keys import network_of, split
from customize.adapters.lora_layouts import LAYOUTS, named
from customize.errors import InputError
from customize.families import specs
from customize.families.files import prompt_embeddings
from customize.families.source import locate
from customize.families.specs.family_spec import Source
from customize.storage.safetensors_header import Header, TensorInfo, read_header, scalars
from customize.weights import model_spec
from customize.weights.signatures import is_adapter, unsupported
from customize.weights.tools.conversion import RENAMED, Contents, architectures_of, known, sorted_into
from customize.weights.weight_file import BASE_MARKS, LearnedFile, adapter_description, metadata_of, refuse_pickle

GROUPS = (
    ("attention", r"attn\d?[._]"), ("feed-forward", r"[._]ff[._]net|mlp[._]fc"), ("proj_in, proj_out", r"proj_(in|out)$"),
    ("convolutions", r"conv|in_layers|out_layers|skip_connection|[._]op$|[._]out[._]2$|blocks[._]0[._]0$"), ("other layers", ""),
)  # fmt: skip
"""Groups of layers, by the end of the name of a module in any layout; the first match counts."""
ADAPTERS = (
    ("hada_w1_a", "LoHa"), ("lokr_w1", "LoKr"), ("lokr_w1_a", "LoKr"), ("oft_blocks", "OFT"), ("oft_R", "OFT"), ("ia3", "(IA)^3"),
    ("ia3_l", "(IA)^3"), ("on_input", "(IA)^3"), ("a1", "GLoRA"), ("A", "LoRA"), ("weight", "difference"), ("bias", "difference"),
)  # fmt: skip
"""Types of adapters by a kind of tensor that only they have."""
RANKS = ("A", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
"""Kinds of tensors whose first axis is the rank."""
LONGEST, MOST_NETWORKS = 60, 24
UNSHARED = re.compile(
    r"tag_frequency|dataset|bucket_info|datasets|_hash|training_comment|sd_model_name|session_id|started_at|finished_at"
)
"""Settings of kohya's scripts that are long, or shown elsewhere."""
NETWORKS = {
    "model.diffusion_model.": "unet", "first_stage_model.": "vae", "cond_stage_model.": "text_encoder",
    "conditioner.embedders.0.": "text_encoder", "conditioner.embedders.1.": "text_encoder_2", "model_ema.": "EMA of the unet",
}  # fmt: skip
"""The networks of a single file by the beginning of their tensors' names."""


def describe(path: Path) -> dict[str, Any]:
    """What is in a .safetensors file or a model's folder, ready for JSON. Raises InputError if it cannot be read."""
    if path.is_dir():
        files = sorted(path.glob("*/*.safetensors"))
        parts = {file: read_header(file).tensors for file in files}
        tensors = {f"{file.parent.name}.{name}": info for file, own in parts.items() for name, info in own.items()}
        return {"file": str(path), **totals(tensors, files), **model(path, tensors)}
    refuse_pickle(path)
    header = read_header(path)
    own, metadata = described(path, header)
    usable = {} if metadata.get("damaged_metadata") else header.metadata
    file = LearnedFile(path, 1.0, Header(header.tensors, usable), own)
    found = totals(header.tensors, [path])
    if prompt_embeddings.MODEL in header.metadata:
        model_name, prompts = header.metadata[prompt_embeddings.MODEL], list(header.tensors)
        return {"file": str(path), **found, "kind": "encoded prompts", "base_model": model_name, "prompts": prompts}
    if problem := unsupported("", header.tensors):
        found |= {"kind": problem.what.strip().removeprefix("is ").removesuffix(", which is not supported"), "supported": False}
    elif is_adapter(header.tensors):
        found |= adapter(file)
    elif any(name.startswith(BASE_MARKS) for name in header.tensors):
        found |= model(path, header.tensors)
    elif file.is_network:
        found |= {"kind": "fully trained network", "networks": per_network(header.tensors)}
    else:
        found |= embeddings(file)
    return {"file": str(path), **found, **metadata}


def totals(tensors: Mapping[str, TensorInfo], files: Iterable[Path]) -> dict[str, Any]:
    """Sizes and number formats."""
    formats = Counter(info.dtype for info in tensors.values())
    parameters = sum(prod(info.shape) for info in tensors.values())
    size = sum(file.stat().st_size for file in files)
    return {"size": size, "tensors": len(tensors), "parameters": parameters, "number_formats": dict(formats.most_common())}


def adapter(file: LearnedFile) -> dict[str, Any]:
    """The adapters of a file: their types, layout, base model, ranks, alphas and scales."""
    bases = [*known(), *(architectures_of("demo") if file.metadata.get("base_model") == "demo" else ())]
    inside = [found for found, wrong in (sorted_into(file, each) for each in bases) if not wrong]
    modules = by_module(file)
    places = {(split(name) or (name, ""))[0]: place[1] for (place, _), name in inside[0].names.items()} if inside else {}
    alphas = scalars(file.path, file.header, [own["alpha"] for own in modules.values() if "alpha" in own])
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for stem, own in modules.items():
        part = network_of(stem, specs.networks()) or "unet"
        group = next(name for name, pattern in GROUPS if re.search(pattern, stem))
        rank = next((shape[0] for kind in RANKS if kind in own and (shape := file.header.tensors[own[kind]].shape)), None)
        alpha = alphas.get(own["alpha"]) if "alpha" in own else stated_alpha(file, part, places.get(stem, stem), rank)
        row = {"type": type_of(own), "rank": rank, "alpha": alpha, "scale": alpha / rank if rank and alpha is not None else None}
        groups.setdefault((part, group), []).append(row)
    types = Counter(row["type"] for rows in groups.values() for row in rows)
    found: dict[str, Any] = {"kind": " and ".join(types), "layout": None, "read_by": None}
    if inside and (layout := layout_of(inside[0])):
        found |= {"layout": layout, "read_by": LAYOUTS[layout].readers(file.header.tensors)}
    if not all(map(isfinite, alphas.values())):
        found |= {"supported": False, "problem": "an alpha is NaN or infinite"}
    found["fits"] = " or ".join(each.architecture.title for each in inside) or None
    order = [name for name, _ in GROUPS]
    found["networks"] = {
        part: {group: summed(groups[part, group]) for group in order if (part, group) in groups}
        for part in sorted({part for part, _ in groups}, key=lambda part: (part.startswith("text"), part))
    }
    return found | ({"embeddings": words_of(file)} if file.placeholders else {})


def by_module(file: LearnedFile) -> dict[str, dict[str, str]]:
    """The names of the tensors of each module by kind, with the module as the file spells it."""
    modules: dict[str, dict[str, str]] = {}
    for name in file.header.tensors:
        if parts := split(name):
            stem, kind = parts
            modules.setdefault(stem, {})[kind] = name
    return modules


def type_of(kinds: Iterable[str]) -> str:
    """The type of one module's adapter by the kinds of its tensors."""
    kinds = set(kinds)
    own = next((name for kind, name in ADAPTERS if kind in kinds), "adapter")
    is_dora = bool({"magnitude", "dora_scale"} & kinds)
    return "DoRA" if is_dora and own == "LoRA" else f"{own} with magnitudes (DoRA)" if is_dora else own


def stated_alpha(file: LearnedFile, part: str, module: str, rank: int | None) -> float | None:
    """The alpha of a module by the file's configuration; None where it does not say."""
    try:
        description = adapter_description(file, part)
    except (InputError, ValueError):
        return None
    alpha = by_pattern(description.get("alpha_pattern"), module, description.get("lora_alpha"))
    return alpha * (rank**0.5 if description.get("use_rslora") and rank else 1) if isinstance(alpha, int | float) else None


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A group of layers: how many, and the different values of each property, sorted."""
    values = {name: sorted({row[name] for row in rows if row[name] is not None}) for name in ("rank", "alpha", "scale")}
    return {"modules": len(rows), "types": sorted({row["type"] for row in rows}), **values}


def layout_of(inside: Contents) -> str | None:
    """The layout whose names all tensors have; None for other spellings, or a mixture."""
    layers: dict[tuple[str, str], dict[str, str]] = {}
    for (place, kind), name in inside.names.items():
        stem, _ = split(name) or (name, "")
        layers.setdefault(place, {})[kind if kind in RENAMED else name[len(stem) :]] = name
    for title, layout in LAYOUTS.items():
        names, left_out = named(layout, layers, inside.architecture.networks, inside.architecture.modules)
        if not left_out and all(ours == theirs for ours, theirs in names.items()):
            return title
    return None


def embeddings(file: LearnedFile) -> dict[str, Any]:
    """The words of a file, or that it holds nothing known."""
    shapes = [info.shape for info in file.header.tensors.values()]
    if not shapes or not all(len(shape) in (1, 2) and min(shape) > 0 for shape in shapes):
        return {"kind": "unknown", "supported": False, "names": list(file.header.tensors)[:3]}
    widths = {shape[-1] for shape in shapes}
    bases = {(768,): "Stable Diffusion 1.x", (1024,): "Stable Diffusion 2.x", (768, 1280): "SDXL"}
    return {"kind": "embeddings", "fits": bases.get(tuple(sorted(widths))), "embeddings": words_of(file)}


def words_of(file: LearnedFile) -> dict[str, dict[str, list[int]]]:
    """The shapes of the tensors of each word."""
    return {word: {name: list(file.header.tensors[name].shape) for name in own} for word, own in file.placeholders.items()}


def per_network(tensors: Mapping[str, TensorInfo]) -> dict[str, int]:
    """The number of tensors of each network of a single file, or of a checkpoint."""
    counts: Counter[str] = Counter()
    for name in tensors:
        counts[next((part for prefix, part in NETWORKS.items() if name.startswith(prefix)), name.split(".")[0])] += 1
    return dict(counts.most_common(MOST_NETWORKS))


def model(path: Path, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """A complete model: its family, networks, prediction type and resolution."""
    found: dict[str, Any] = {"kind": "complete model", "networks": per_network(tensors)}
    try:
        source = locate(str(path))
        spec = specs.spec_of(source)
        facts = {"prediction_type": spec.prediction_type(source), "resolution": spec.resolution(source)}
        return found | {"fits": title_of(source), **facts, "distilled": spec.distilled(source)}
    except InputError as error:
        return found | {"supported": False, "problem": "; ".join(f"{each.what}" for each in error.problems)}


def title_of(source: Source) -> str:
    """The name of a model's version, where its configuration tells, else of its family."""
    from customize.families.files.folder_check import read_configuration

    spec = specs.spec_of(source)
    folder = source.folder or getattr(getattr(spec, "layout", lambda _: None)(source), "config", None)
    width = read_configuration(folder / "unet/config.json", []).get("cross_attention_dim") if folder else None
    return spec.prompt_widths.get(width, spec.title)


def described(path: Path, header: Header) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our own metadata, and what the metadata say: trigger words, base model, hashes, settings; also those of other programs."""
    entries = header.metadata
    others = model_spec.read(entries)
    try:
        own = metadata_of(header, path)
    except InputError:
        return {}, {"damaged_metadata": True}
    found: dict[str, Any] = {"title": others.get("title"), "base_model": own.get("base_model") or others.get("base")}
    words = own.get("trigger_words") or ([others["trigger"]] if "trigger" in others else [])
    found |= {"trigger_words": words, "frequent_tags": list(others.get("tags", ()))}
    hashes = {name: value for name, value in entries.items() if name.endswith("_hash") or "hash_sha256" in name}
    settings = dict(own.get("settings") or {}) | {
        name.removeprefix("ss_"): value
        for name, value in sorted(entries.items())
        if name.startswith("ss_") and not UNSHARED.search(name) and value not in ("None", "") and len(value) <= LONGEST
    }
    found |= {"hashes": hashes, "settings": settings, "steps": own.get("steps")}
    found["modelspec"] = {name.removeprefix("modelspec."): value for name, value in entries.items() if "modelspec." in name}
    return own, {name: value for name, value in found.items() if value}
