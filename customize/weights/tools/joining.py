"""`customize merge` of adapters of a known architecture: one LoRA that adds them up at their scales, without a base model."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from customize import events
from customize.adapters.lora_keys import Place
from customize.adapters.lora_layouts import LAYOUTS
from customize.errors import InputError, Problem
from customize.families.specs.architectures import Architecture
from customize.printable import printable
from customize.settings.scale import Scale, apart, at, changes
from customize.weights.tools import target as output
from customize.weights.tools.conversion import LAYOUT, Contents, contents, known, layer_of, sorted_into
from customize.weights.tools.ranks import Choice, Kept
from customize.weights.tools.resize import BIASES, adapter_in, decomposed, lora, refuse_dependent
from customize.weights.weight_file import LearnedFile

if TYPE_CHECKING:
    from torch import Tensor

ALL = Choice(rank=1_000_000)


def join(
    weights: Sequence[tuple[str, Scale]],
    target: Path,
    choice: Choice | None,
    layout: str,
    precision: str,
    overwrite: bool = False,
) -> None:
    """Writes the sum of adapters at their scales as one LoRA, and says what is lost. Raises InputError, with nothing written.

    weights: as in infer.py; choice: of the ranks, None for all, which keeps everything; layout: one of `LAYOUTS`.
    """
    problems = list(choice.problems()) if choice else []
    if layout not in LAYOUTS:
        problems.append(Problem(LAYOUT, f"{printable(layout)} is unknown", f"choose one of: {', '.join(LAYOUTS)}"))
    files = []
    for name, scale in weights:
        try:
            files.append(adapter_in(Path(os.path.expanduser(name))))
        except InputError as error:
            problems += error.problems
        if changes(scale):
            problems.append(Problem(printable(name), "has a scale that changes during denoising", "give one number"))
    problems += output.in_the_way(target, [file.path for file in files], overwrite)
    if problems:
        raise InputError(problems)
    inside = together(files)
    for file, each in zip(files, inside, strict=True):
        refuse_dependent(file, each)
    architecture = inside[0].architecture
    found = list(zip(files, inside, [scale for _, scale in weights], strict=True))
    from customize.adapters.lora_files import in_layout

    layers, kept = summed(found, architecture, choice, precision)
    tensors, metadata = in_layout(LAYOUTS[layout], layers, architecture.networks, architecture.modules)
    output.write(target, tensors, metadata | metadata_of(files, str(max(kept.ranks, default=0))), precision)
    events.info(f"{target}: {len(files)} files merged; {kept.summary()}")


def together(files: Sequence[LearnedFile]) -> list[Contents]:
    """The adapters of the files, sorted by the modules of one base model that all of them fit. Raises InputError if there is
    none."""
    for architecture in known():
        tried = [sorted_into(file, architecture) for file in files]
        if not any(wrong for _, wrong in tried):
            return [inside for inside, _ in tried]
    titles = [f"{printable(file.path)} was learned on {contents(file).architecture.title}" for file in files]
    raise InputError(Problem("FILE", "; ".join(titles), "merge adapters of one base model"))


def metadata_of(files: Sequence[LearnedFile], rank: str) -> dict[str, str]:
    """The metadata of the LoRA: the trigger words of all, and the base model if all name the same."""
    words = dict.fromkeys(word for file in files for word in file.trigger_words)
    bases = {file.metadata.get("base_model") for file in files}
    facts = {"method": "merged", "trigger_words": [*words]} | (
        {"base_model": base} if (base := bases.pop()) and not bases else {}
    )
    of_kohya = {"ss_network_module": "networks.lora", "ss_network_dim": rank, "ss_network_alpha": rank}
    return {"customize": json.dumps(facts), **of_kohya}


def summed(
    found: Sequence[tuple[LearnedFile, Contents, Scale]], architecture: Architecture, choice: Choice | None, precision: str
) -> "tuple[dict[Place, dict[str, Tensor]], Kept]":
    """The tensors of each layer, and what is kept. The factors of several files stand side by side; changes of biases and norms
    are added."""
    import torch
    from safetensors.torch import load_file

    from customize.storage.tensor_files import PRECISIONS
    from customize.weights.tools.decomposition import of_product, shaped

    factors: dict[Place, list[tuple[Tensor, Tensor]]] = {}
    layers: dict[Place, dict[str, Tensor]] = {}
    for file, inside, scale in found:
        tensors, (denoiser, text_encoder) = load_file(file.path), apart(at(scale, 0, 1))
        for place in inside.found:
            own = text_encoder if place[0] in list(architecture.networks)[1:] else denoiser
            up_and_down, beside = parts_of(file, inside, place, tensors, own)
            layer = layers.setdefault(place, {})
            layers[place] = layer | {kind: layer.get(kind, 0) + tensor for kind, tensor in beside.items()}
            factors.setdefault(place, []).extend(up_and_down)
    kept = Kept()
    for place, pairs in factors.items():
        if pairs:
            up, down = torch.cat([up for up, _ in pairs], 1), torch.cat([down for _, down in pairs])
            whole = of_product(up, down)
            if choice is not None:
                up, down = whole.product(choice)
            made = lora(*shaped(up, down, architecture.shapes[place[0]][place[1]]), PRECISIONS[precision])
            kept.add(whole.whole, whole.lost(made["B"], made["A"]), len(made["A"]))
            layers[place] |= made
    return layers, kept


def parts_of(
    file: LearnedFile, inside: Contents, place: Place, tensors: "Mapping[str, Tensor]", scale: float
) -> "tuple[list[tuple[Tensor, Tensor]], dict[str, Tensor]]":
    """What one file adds to a layer at a scale: B and A in float64, or nothing; changes of biases and norms in float32."""
    shape, kinds = inside.architecture.shapes[place[0]][place[1]], inside.found[place].keys()
    own = layer_of(file, inside, place, tensors)
    beside = {kind: scale * tensor.float() for kind, tensor in own.items() if kind in BIASES or len(shape) < 2}
    if len(shape) < 2 or not kinds - {"bias"}:
        return [], beside
    if {"A", "B"} <= own.keys() and "mid" not in own:
        factor = scale * float(own["alpha"]) / len(own["A"])
        return [(factor * own["B"].double().flatten(1), own["A"].double().flatten(1))], beside
    terms = {kind: tensors[inside.names[place, kind]] for kind in kinds}
    up, down = decomposed(file, place, own, shape, terms, ALL).product(ALL)
    return [(scale * up, down)], beside
