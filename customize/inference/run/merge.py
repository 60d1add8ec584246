"""`--merge`: a base model and learned weights as one model, or several LoRAs as one.

Only `customize.adapters` knows how adapters change weights.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from customize import adapters, events
from customize.errors import InputError, Problem
from customize.families import locate
from customize.families.specs import spec_of
from customize.settings.field import table
from customize.settings.inference import InferenceSettings
from customize.storage import ownership, run_folder
from customize.storage.atomic import new_folder
from customize.storage.disk import make_folder
from customize.storage.resources import resources
from customize.storage.untrusted_files import PICKLES
from customize.weights import model_spec
from customize.weights.learned_weights import Learned, find_learned

if TYPE_CHECKING:
    from customize.families.base import Family
    from customize.inference.pipeline import Pipeline

SETTING = "merge"
FREE = "name another path"


def run(settings: InferenceSettings) -> None:
    """Writes the base model with the learned weights at their scales: a complete model as a folder or, as `save_model_as` says, a
    single file. If `merge` ends with .safetensors otherwise, writes one LoRA that is the sum of the given ones.

    Raises InputError, before anything is loaded if possible, and ResourceError if memory or disk space run out.
    """
    target, learned = check(settings)
    lines = table(InferenceSettings).items()
    ignored = [name for name, line in lines if line.section == "inference" and getattr(settings, name) != line.default]
    if ignored:
        events.warn(f"no effect with merge, which generates no images: {', '.join(ignored)}")
    with resources("use a machine with more memory", "make room, or merge onto another disk"):
        from customize.inference.pipeline_loading import load_pipeline, options_of

        options = {name: getattr(settings, name) for name in ("revision", "variant", "prediction_type")}
        options = options_of(settings.pretrained_model_name_or_path, learned, **options)
        pipeline = load_pipeline(
            settings.pretrained_model_name_or_path, settings.weights_and_scales, partial=settings.partial_weights, **options
        )
        for line in learned.summaries:
            events.info(line)
        for note in pipeline.notes:
            events.note(note)
        metadata = {} if settings.no_metadata else metadata_of(pipeline, options)
        if is_lora(settings):
            write_adapter(target, pipeline, metadata, settings.lora_format)
        else:
            write_model(target, pipeline, metadata, settings.mixed_precision, settings.save_model_as == "safetensors")
    events.info(f"{target}: {len(learned.files)} file{'s' * (len(learned.files) > 1)} merged; no image was generated")


def check(settings: InferenceSettings) -> tuple[Path, Learned]:
    """The target and the learned weights to merge. Raises InputError with every problem; does not import torch."""
    target = Path(os.path.realpath(settings.merge or ""))
    learned = find_learned(settings.pretrained_model_name_or_path, settings.weights_and_scales)
    problems = list(unfit_for_model(settings, learned, target) if not is_lora(settings) else unfit(learned, target))
    for file in learned.files:
        if file.timestep_rank:
            what = f"{file.path} is a T-LoRA, whose change depends on the timestep"
            problems.append(Problem(SETTING, what, "use it beside the base model, by --weights"))
    if not learned.files and not learned.network:
        problems.append(Problem(SETTING, "nothing to merge", "give learned weights by --weights"))
    if problems := [*problems, *in_the_way(learned, target, settings.overwrite_output_dir)]:
        raise InputError(problems)
    return target, learned


def is_lora(settings: InferenceSettings) -> bool:
    """Whether the result is a LoRA rather than a complete model."""
    return str(settings.merge).endswith(".safetensors") and settings.save_model_as == "diffusers"


def unfit_for_model(settings: InferenceSettings, learned: Learned, target: Path) -> Iterator[Problem]:
    """The problems of what cannot be merged into a single model file."""
    if settings.save_model_as == "diffusers":
        return
    if target.suffix != ".safetensors":
        remedy = f"name a file, as in --merge {target.name}.safetensors, or leave save_model_as out"
        yield Problem(SETTING, f"{target} is no .safetensors file", remedy)
    for file in learned.files:
        if file.placeholders:
            what = f"{file.path} contains embeddings; a model in a single file has no vocabulary of its own"
            yield Problem(SETTING, what, "leave it out, and load it beside the merged model; or merge into a folder")
    source = locate(learned.base or "demo", revision=settings.revision, variant=settings.variant)
    try:
        spec_of(source).refuse_single_file(source)
    except InputError as error:
        yield from error.problems


def unfit(learned: Learned, target: Path) -> Iterator[Problem]:
    """The problems of learned weights that cannot be merged into one LoRA."""
    for file in learned.files:
        remedy = f"merge into a folder, as in --merge {target.with_suffix('').name}, or leave it out"
        if not file.is_adapter:
            yield Problem(SETTING, f"{file.path} contains embeddings, which a LoRA file cannot", remedy)
        elif reason := adapters.build(file.adapter or "lora").not_low_rank(file.header.tensors):
            yield Problem(SETTING, f"{file.path} {reason}", remedy)
        elif file.placeholders:
            yield Problem(SETTING, f"{file.path} contains embeddings besides its LoRA", remedy)


def in_the_way(learned: Learned, target: Path, overwrite: bool) -> Iterator[Problem]:
    """The problems that prevent writing the result to the target."""
    blocking = next((path for path in target.parents if os.path.lexists(path) and not path.is_dir()), None)
    base = Path(os.path.realpath(os.path.expanduser(learned.base or "")))
    sources = [base, *filter(None, [run_folder.model_in(base)]), *(file.path.resolve() for file in learned.files)]
    is_file = target.suffix == ".safetensors"
    present = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    if target.suffix in PICKLES:
        yield Problem(SETTING, f"{target} would be a pickle", "name a folder, or a .safetensors file for a LoRA")
    elif blocking:
        yield Problem(SETTING, f"{blocking} is a file", FREE)
    elif any(source.is_relative_to(target) for source in sources) or Path.cwd().is_relative_to(target):
        yield Problem(SETTING, f"{target} is or contains a file to merge, or the current folder", FREE)
    elif os.path.lexists(target) and not target.exists():
        yield Problem(SETTING, f"{target} is a broken link", FREE)
    elif target.exists() and is_file != target.is_file():
        yield Problem(SETTING, f"{target} is a {'folder' if is_file else 'file'}", FREE)
    elif foreign := of_others(target):
        what = f"{target} was not written by --merge, or was changed since ({foreign[0].relative_to(target.parent)})"
        yield Problem(SETTING, what, FREE)
    elif not overwrite and (present or target.is_file()):
        yield Problem(SETTING, f"{target} already exists", f"add --overwrite_output_dir, or {FREE}")


def of_others(target: Path) -> list[Path]:
    """Paths at the target that no earlier merge wrote. The record of a single file is in its folder."""
    if not target.exists():
        return []
    return ownership.foreign(target, ownership.Record(target if target.is_dir() else target.parent))


def metadata_of(pipeline: "Pipeline", options: dict[str, Any]) -> dict[str, str]:
    """The metadata of the result, with the keys that runs use. options: how the base model was loaded."""
    from customize.inference.metadata.write_png import facts

    own = {"method": "merged", "trigger_words": list(pipeline.trigger_words), "settings": options}
    return {"customize": json.dumps({**facts(pipeline.family.name, pipeline.weights.files), **own})}


def refuse_not_finite(family: "Family") -> None:
    """Raises InputError if a parameter of the merged model is NaN or infinite."""
    for part, network in family.components.items():
        for name, parameter in network.named_parameters():
            if not parameter.isfinite().all():
                what = f"the merged model would have NaN or infinity in {part}.{name}"
                raise InputError(Problem(SETTING, what, "give smaller scales, other weights, or leave mixed_precision out"))


def write_model(target: Path, pipeline: "Pipeline", metadata: dict[str, str], precision: str, single_file: bool = False) -> None:
    """Writes the merged model as a folder in diffusers' layout or a single file, in float32 or the given precision."""
    import torch

    from customize.adapters import peft_layers
    from customize.families.whole_models.model_file import save_model_file
    from customize.families.whole_models.pipeline_folder import save_pipeline

    for network in pipeline.family.trainable.values():
        peft_layers.merge(network)
    refuse_not_finite(pipeline.family)
    if single_file:
        make_folder(target.parent)
        own = metadata and {**metadata, **model_spec.entries(metadata, pipeline.family, "")}
        with ownership.recording(target.parent):
            save_model_file(target, pipeline.family, own, "fp32" if precision == "no" else precision)
        return
    merge_words(pipeline.family)
    pipeline.family.to({"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision])
    refuse_not_finite(pipeline.family)
    with new_folder(target) as unfinished:
        save_pipeline(unfinished, pipeline.family, metadata)
        ownership.sign(unfinished)


def merge_words(family: "Family") -> None:
    """Appends the vectors of learned words to those of the vocabulary, where the tokenizer expects them."""
    import torch
    from torch import nn

    from customize.families.token_table import TokenTable

    for encoder in family.text_encoders:
        table = encoder.module.get_input_embeddings()
        if isinstance(table, TokenTable):
            rows = torch.cat([table.weight, *table.vectors])
            encoder.module.set_input_embeddings(nn.Embedding.from_pretrained(rows))
            encoder.module.config.vocab_size = len(rows)


def write_adapter(target: Path, pipeline: "Pipeline", metadata: dict[str, str], layout: str) -> None:
    """One LoRA file with the sum of all adapters, at their scales. layout: a name in `LAYOUTS`."""
    from customize.adapters import lora_files
    from customize.adapters.lora_layouts import LAYOUTS
    from customize.adapters.peft_layers import has_adapter, is_tuner_layer
    from customize.storage.tensor_files import save_tensors
    from customize.weights.loaded import adapters_of

    loaded = adapters_of(pipeline.weights.parts)
    changes = {
        part: {
            module: [each.adapter.factors(layer, each.name) for each in loaded if has_adapter(layer, each.name)]
            for module, layer in network.named_modules()
            if is_tuner_layer(layer)
        }
        for part, network in pipeline.family.trainable.items()
    }
    tensors, own = lora_files.joined(changes, pipeline.family, LAYOUTS[layout])
    make_folder(target.parent)
    with ownership.recording(target.parent):
        known = metadata and {**metadata, **model_spec.entries(metadata, pipeline.family, "lora")}
        save_tensors(target, tensors, {**known, **own})
