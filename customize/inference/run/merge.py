"""`--merge`: a base model and what was taught to it as one model, or several LoRAs as one.

W a weight [out, in, ...] of a network, A [rank, in, ...] and B [out, rank, ...] of a LoRA, s its scale times alpha / rank.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize import events
from customize.adapters.lora_keys import ADAPTER_METADATA, split
from customize.errors import InputError, Problem
from customize.settings.field import table
from customize.settings.inference import InferenceSettings
from customize.storage import ownership
from customize.storage.atomic import new_folder
from customize.storage.disk import make_folder
from customize.storage.resources import resources
from customize.storage.untrusted_files import PICKLES
from customize.weights.learned_weights import Learned, find_learned
from customize.weights.model_spec import described

if TYPE_CHECKING:
    from torch import Tensor, nn

    from customize.families.base import Family
    from customize.inference.pipeline import Pipeline
    from customize.weights.loaded import LoadedAdapter

SETTING = "merge"
FREE = "name another path"


def run(settings: InferenceSettings) -> None:
    """Writes the model that `settings` name, with its weights at their scales in it: a complete pipeline folder, or, where
    `merge` ends with .safetensors, one LoRA of all LoRAs given.

    Raises InputError before anything is loaded, where that can be known; ResourceError when memory or disk give out.
    """
    target, learned = check(settings)
    lines = table(InferenceSettings).items()
    ignored = [name for name, line in lines if line.section == "inference" and getattr(settings, name) != line.default]
    if ignored:
        events.warn(f"no effect with merge, which draws nothing: {', '.join(ignored)}")
    with resources("take a machine with more memory", "make room, or merge onto another disk"):
        from customize.inference.pipeline_loading import load_pipeline, options_of

        options = {name: getattr(settings, name) for name in ("revision", "variant", "prediction_type")}
        options = options_of(settings.pretrained_model_name_or_path, learned, **options)
        pipeline = load_pipeline(
            settings.pretrained_model_name_or_path, settings.weights_and_scales, partial=settings.partial_weights, **options
        )
        for line in learned.described:
            events.info(line)
        for note in pipeline.notes:
            events.note(note)
        said = about(pipeline, options)
        if target.suffix == ".safetensors":
            write_adapter(target, pipeline, said, settings.lora_format == "kohya")
        else:
            write_model(target, pipeline, said, settings.mixed_precision)
    events.info(f"{target}: {len(learned.files)} file{'s' * (len(learned.files) > 1)} merged, no picture drawn")


def check(settings: InferenceSettings) -> tuple[Path, Learned]:
    """Where to write, and what is merged. Raises InputError with all that is wrong; torch is not needed for it."""
    target = Path(os.path.realpath(settings.merge or ""))
    learned = find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales)
    if problems := [*unfit(learned, target), *in_the_way(learned, target, settings.overwrite_output_dir)]:
        raise InputError(problems)
    return target, learned


def unfit(learned: Learned, target: Path) -> Iterator[Problem]:
    """What cannot be merged into such a target."""
    if not learned.files and not learned.network:
        yield Problem(SETTING, "there is nothing to merge", "give learned weights by --weights")
    for file in learned.files if target.suffix == ".safetensors" else ():
        remedy = f"merge into a folder, as in --merge {target.with_suffix('').name}, or leave it out"
        if not file.is_adapter:
            yield Problem(SETTING, f"{file.path} holds embeddings, which no LoRA can", remedy)
        elif file.adapter:
            yield Problem(SETTING, f"{file.path} is an adapter that is no LoRA ({file.adapter})", remedy)
        elif {"magnitude", "dora_scale"} & (kinds := {parts[1] for name in file.header.tensors if (parts := split(name))}):
            what = f"{file.path} is a DoRA, which sets the length of whole weights: no sum of low ranks is the same"
            yield Problem(SETTING, what, remedy)
        elif kinds - {"A", "B", "alpha"}:
            yield Problem(SETTING, f"{file.path} is more than a LoRA's two factors ({', '.join(sorted(kinds))})", remedy)
        elif file.placeholders:
            yield Problem(SETTING, f"{file.path} holds embeddings beside its LoRA", remedy)


def in_the_way(learned: Learned, target: Path, overwrite: bool) -> Iterator[Problem]:
    """What stands where the result shall be."""
    blocking = next((path for path in target.parents if os.path.lexists(path) and not path.is_dir()), None)
    sources = [Path(os.path.realpath(os.path.expanduser(learned.base or ""))), *(file.path.resolve() for file in learned.files)]
    is_file = target.suffix == ".safetensors"
    present = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    foreign = [path.relative_to(target.parent) for path in of_others(target)]
    if target.suffix in PICKLES:
        yield Problem(SETTING, f"{target} would be a pickle", "name a folder, or a .safetensors file for a LoRA")
    elif blocking:
        yield Problem(SETTING, f"{blocking} is a file", FREE)
    elif any(source.is_relative_to(target) for source in sources) or Path.cwd().is_relative_to(target):
        yield Problem(SETTING, f"{target} is what is merged, or a folder around it or you", FREE)
    elif os.path.lexists(target) and not target.exists():
        yield Problem(SETTING, f"{target} is a link that leads nowhere", FREE)
    elif target.exists() and is_file != target.is_file():
        yield Problem(SETTING, f"{target} is a {'folder' if is_file else 'file'}", FREE)
    elif foreign:
        yield Problem(SETTING, f"{target} is or holds what was not merged here, or edited since ({foreign[0]})", FREE)
    elif not overwrite and (present or target.is_file()):
        yield Problem(SETTING, f"{target} is there already", f"add --overwrite_output_dir, or {FREE}")


def of_others(target: Path) -> list[Path]:
    """What at the target's place was not written by an earlier merge. The record of a file is in its folder."""
    if not target.exists():
        return []
    return ownership.foreign(target, ownership.Record(target if target.is_dir() else target.parent))


def about(pipeline: "Pipeline", options: dict[str, Any]) -> dict[str, str]:
    """What the result says of itself, under the names that runs use; options: how the base model was loaded."""
    from customize.inference.metadata.write_png import facts

    own = {"method": "merged", "trigger_words": list(pipeline.trigger_words), "settings": options}
    return {"customize": json.dumps({**facts(pipeline.family.name, pipeline.weights.files), **own})}


def write_model(target: Path, pipeline: "Pipeline", said: dict[str, str], precision: str) -> None:
    """The base model with everything in it, as a folder in diffusers' layout, in float32 or the precision asked for."""
    import torch

    from customize.families.pipeline_folder import save_pipeline

    merge_adapters(pipeline.family)
    merge_words(pipeline.family)
    pipeline.family.to({"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision])
    with new_folder(target) as unfinished:
        save_pipeline(unfinished, pipeline.family, said)
        ownership.sign(unfinished)


def merge_adapters(family: "Family") -> None:
    """Adds what each adapter makes of W by itself, as networks with several add it, and takes the adapters away."""
    from diffusers.utils import recurse_remove_peft_layers

    from customize.adapters.peft_layers import tuner_layers

    for layer in tuner_layers(*family.trainable.values()):
        weight = layer.get_base_layer().weight.data
        start, total = weight.clone(), weight.double()
        for name in layer.active_adapters:
            if name in layer.scaling:
                layer.merge(adapter_names=[name])  # peft's: a DoRA is not only added
                total += weight.double() - start.double()
                layer.merged_adapters.clear()
                weight.copy_(start)
        weight.copy_(total)
    for network in family.trainable.values():
        recurse_remove_peft_layers(network)


def merge_words(family: "Family") -> None:
    """Puts the vectors of learned words behind those of the vocabulary, where the tokenizer expects them."""
    import torch
    from torch import nn

    from customize.families.token_table import TokenTable

    for encoder in family.text_encoders:
        table = encoder.module.get_input_embeddings()
        if isinstance(table, TokenTable):
            rows = torch.cat([table.weight, *table.vectors])
            encoder.module.set_input_embeddings(nn.Embedding.from_pretrained(rows))
            encoder.module.config.vocab_size = len(rows)


def write_adapter(target: Path, pipeline: "Pipeline", said: dict[str, str], kohya: bool = False) -> None:
    """One LoRA that does what all do together: [s1 B1 | s2 B2 | ...] and [A1; A2; ...] with alpha = rank, beside each module.

    kohya: under the names that ComfyUI, A1111, Forge and kohya's scripts read, not diffusers'.
    """
    import torch

    from customize.storage.tensor_files import save_tensors

    adapters: list[Any] = list(pipeline.weights.parts)
    tensors, configs = {}, {}
    for part, network in pipeline.family.trainable.items():
        joined = dict(joined_factors(network, adapters))
        for module, (down, up) in joined.items():
            if kohya:
                name = pipeline.family.spec.networks[part].written_by_kohya(module)
                alpha = torch.tensor(float(len(down)))
                tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha}
            else:
                name = pipeline.family.spec.networks[part].written(module)
                tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
        if joined and not kohya:
            configs |= {
                f"{part}.{name}": value for name, value in config({m: len(down) for m, (down, _) in joined.items()}).items()
            }
    own = {} if kohya else {ADAPTER_METADATA: json.dumps(configs, sort_keys=True, default=str)}
    make_folder(target.parent)
    with ownership.recording(target.parent):
        save_tensors(target, tensors, {**said, **described(said, pipeline.family, "lora"), **own})


def joined_factors(network: "nn.Module", adapters: "list[LoadedAdapter]") -> "Iterator[tuple[str, tuple[Tensor, Tensor]]]":
    """The name of each module with adapters, and their factors put together: [A1; A2; ...] and [s1 B1 | s2 B2 | ...]."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module, layer in network.named_modules():
        if isinstance(layer, BaseTunerLayer):
            names = [adapter.name for adapter in adapters if adapter.name in layer.scaling]
            ups = [layer.lora_B[name].weight.double() * layer.scaling[name] for name in names]
            yield module, (torch.cat([layer.lora_A[name].weight for name in names]), torch.cat(ups, 1))


def config(ranks: dict[str, int]) -> dict[str, Any]:
    """peft's description of a LoRA with these ranks by module, each of which is its alpha too."""
    from peft import LoraConfig

    most = max(ranks.values())
    own = {module: rank for module, rank in ranks.items() if rank != most}
    made = LoraConfig(r=most, lora_alpha=most, target_modules=sorted(ranks), rank_pattern=own, alpha_pattern=dict(own))
    return {name: sorted(value) if isinstance(value, set) else value for name, value in made.to_dict().items()}
