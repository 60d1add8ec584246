"""Results to share, in the formats that other programs read: safetensors, with where they came from in the metadata.

After saving, a file is read afresh and its tensors compared bit for bit with those in memory.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from customize import events
from customize.files import write_bytes
from customize.findings import first_few
from customize.lora_formats import kohya_name
from customize.model_spec import described
from customize.quiet import without_bars
from customize.resources import safetensors_size
from customize.run_folder import ABOUT, ADAPTER_METADATA, KOHYA_LORA, LORA, embedding_file

if TYPE_CHECKING:
    from customize.families.stable_diffusion import StableDiffusion

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Number formats of results, by the values of the setting `save_precision`."""
LEFT_ALONE = ("safety_checker", "feature_extractor")
"""Parts of a base model that no method loads."""


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], precision: str = "fp32") -> Path:
    """Writes tensors to one safetensors file, reads it afresh and compares. Raises OSError when they differ.

    precision: fp32, fp16 or bf16; what fp16 cannot hold stays in fp32, and is told.
    """
    tensors = rounded(
        {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, precision, path.name
    )
    write_bytes(path, save(tensors, {"format": "pt", **metadata}))
    read = load_file(path)
    if read.keys() != tensors.keys() or not all(torch.equal(read[name], tensors[name]) for name in tensors):
        raise OSError(f"{path} does not hold what was written to it")
    return path


def rounded(tensors: dict[str, Tensor], precision: str, where: str) -> dict[str, Tensor]:
    """The tensors (not single numbers) in another format, but those that would overflow in it: they stay fp32, and are told."""
    if precision == "fp32":
        return tensors
    dtype = PRECISIONS[precision]
    found = {
        name: tensor.to(dtype) if tensor.dim() and tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }
    too_large = [name for name, tensor in found.items() if not tensor.isfinite().all()]
    if too_large:
        events.note(f"{where} keeps in fp32 what is too large for {precision}: {first_few(too_large, 3)}")
    return found | {name: tensors[name] for name in too_large}


def round_files(folder: Path, precision: str) -> None:
    """Writes the networks of a pipeline's folder again in another number format."""
    for file in sorted(file for part in ("unet", "vae", "text_encoder") for file in (folder / part).glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        save_file(rounded(load_file(file), precision, f"{file.parent.name}/{file.name}"), file, metadata)


def save_embeddings(
    folder: Path,
    vectors: dict[str, Tensor],
    metadata: dict[str, str],
    precision: str = "fp32",
    family: "StableDiffusion | None" = None,
) -> list[Path]:
    """One file a placeholder, its vectors [N, D] under the placeholder's name (stock loaders take one key a file)."""
    metadata = {**metadata, **described(metadata, family, "textual-inversion")}
    return [
        save_tensors(folder / embedding_file(placeholder, alone=len(vectors) == 1), {placeholder: rows}, metadata, precision)
        for placeholder, rows in vectors.items()
    ]


def save_lora(
    folder: Path, family: "StableDiffusion", metadata: dict[str, str], precision: str = "fp32", lora_format: str = "diffusers"
) -> list[Path]:
    """A file for the adapters of the UNet and, if it has one, the text encoder: under diffusers' names, kohya's, or one each."""
    metadata = {**metadata, **described(metadata, family, "lora")}
    files = [save_diffusers_lora(folder, family, metadata, precision)] if lora_format in ("diffusers", "both") else []
    return files + ([save_kohya_lora(folder, family, metadata, precision)] if lora_format in ("kohya", "both") else [])


def save_kohya_lora(folder: Path, family: "StableDiffusion", metadata: dict[str, str], precision: str = "fp32") -> Path:
    """The adapters under the names that ComfyUI, A1111, Forge and kohya's scripts read, each layer with its alpha.

    alpha / rank is what the layer counts by, also where that is alpha / sqrt(rank) (rsLoRA).
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    tensors: dict[str, Tensor] = {}
    ranks: set[int] = set()
    for part in ("unet", "text_encoder"):
        for module, layer in getattr(family, part).named_modules():
            if isinstance(layer, BaseTunerLayer):
                [adapter] = layer.lora_A
                name, down = kohya_name(part, module), layer.lora_A[adapter].weight
                tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": layer.lora_B[adapter].weight}
                tensors[f"{name}.alpha"] = torch.tensor(layer.scaling[adapter] * len(down))
                ranks.add(len(down))
                if adapter in layer.lora_magnitude_vector:
                    magnitude = layer.lora_magnitude_vector[adapter].weight
                    tensors[f"{name}.dora_scale"] = magnitude.reshape(-1, *[1] * (down.dim() - 1))
    own = {"ss_network_module": "networks.lora", "ss_network_dim": str(max(ranks))}
    return save_tensors(folder / KOHYA_LORA, tensors, {**metadata, **own}, precision)


def save_diffusers_lora(folder: Path, family: "StableDiffusion", metadata: dict[str, str], precision: str = "fp32") -> Path:
    """The adapters under diffusers' names; those of the text encoder with `text_model.`, which all its versions read."""
    from peft import get_peft_model_state_dict

    tensors = {}
    for part in ("unet", "text_encoder"):
        network = getattr(family, part)
        for adapter in getattr(network, "peft_config", {}):
            state = get_peft_model_state_dict(network, adapter_name=adapter)
            if part == "text_encoder":  # transformers asks for DoRA's magnitudes under another name than diffusers
                state = {name.replace("magnitude_vector", "magnitude_vector.weight"): t for name, t in state.items()}
            within = "" if part == "unet" or any(name.startswith("text_model.") for name in state) else "text_model."
            tensors |= {f"{part}.{within}{name}": tensor for name, tensor in state.items()}
    return save_tensors(folder / LORA, tensors, {**metadata, **adapter_description(family)}, precision)


def adapter_description(family: "StableDiffusion") -> dict[str, str]:
    """What diffusers' loaders are told of the adapters in a family's networks."""
    configs = {}
    for part in ("unet", "text_encoder"):
        for config in getattr(getattr(family, part), "peft_config", {}).values():
            # stock loaders leave the adapter in training mode, so a dropout written here would go on in inference
            configs |= {f"{part}.{name}": value for name, value in {**config.to_dict(), "lora_dropout": 0.0}.items()}
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in configs.items()}
    return {ADAPTER_METADATA: json.dumps(plain, sort_keys=True, default=str)}


def save_pipeline(folder: Path, family: "StableDiffusion", metadata: dict[str, str], precision: str = "fp32") -> list[Path]:
    """A complete pipeline in diffusers' layout, in a folder that `files` puts in place once it is whole.

    The base's safety checker and feature extractor, which were never loaded, are copied as they are.
    """
    with without_bars():
        family.pipeline().save_pretrained(folder, safe_serialization=True)
    if precision != "fp32":
        round_files(folder, precision)
    left_alone(family.source, folder)
    (folder / ABOUT).write_text(metadata["customize"], encoding="utf-8", newline="\n")
    return [folder / "model_index.json"]


def left_alone(source: Path, folder: Path) -> None:
    """Copies the parts of the base that no method loads, and their entries in model_index.json."""
    kept = [part for part in LEFT_ALONE if (source / part).is_dir()]
    if not kept:
        return
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    theirs = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
    for part in kept:
        shutil.copytree(source / part, folder / part)
        index[part] = theirs[part]
    index["requires_safety_checker"] = theirs.get("requires_safety_checker", True)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def pipeline_sizes(folder: Path, family: "StableDiffusion", metadata: dict[str, str], precision: str = "fp32") -> dict[str, int]:
    """Bytes of each part that `save_pipeline` would write. All but the networks' weights are written to `folder` for it."""
    pipeline = family.pipeline()
    pipeline.save_config(folder)
    for part in ("tokenizer", "scheduler"):
        getattr(pipeline, part).save_pretrained(folder / part)
    family.text_encoder.config.save_pretrained(folder / "text_encoder")
    for part in ("unet", "vae"):
        getattr(family, part).save_config(folder / part)
    sizes = {path.name: size_of(path) for path in sorted(folder.iterdir())}
    for part in ("unet", "vae", "text_encoder"):
        tensors = {name: tensor.to("meta") for name, tensor in getattr(family, part).state_dict().items()}
        if precision != "fp32":
            tensors = {
                name: each.to(PRECISIONS[precision]) if each.is_floating_point() else each for name, each in tensors.items()
            }
        sizes[part] += safetensors_size(tensors, {"format": "pt"})
    sizes |= {part: size_of(family.source / part) for part in LEFT_ALONE if (family.source / part).is_dir()}
    return sizes | {ABOUT: len(metadata["customize"].encode())}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
