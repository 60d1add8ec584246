"""`customize extract`: the difference of two models of one architecture as a LoRA, by the singular values of each layer's.

The models are read one parameter at a time; layers that did not change are left out.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from customize import events
from customize.adapters.lora_layouts import LAYOUTS
from customize.errors import InputError, Problem
from customize.families import specs
from customize.families.source import Source, locate
from customize.families.specs.architectures import Architecture, of_folder
from customize.printable import first_few, printable
from customize.settings.files.sharing import shared_name
from customize.weights.learned_weights import metadata_of_base
from customize.weights.tools import target as output
from customize.weights.tools.conversion import LAYOUT
from customize.weights.tools.ranks import Choice, Kept

if TYPE_CHECKING:
    from torch import Tensor

    from customize.adapters.lora_keys import Place
    from customize.families.files.parameters import Parameters

SAME = "give two models of the same architecture, in folders or single files"


def extract(
    tuned: str, base: str, target: Path, choice: Choice, layout: str = "kohya", precision: str = "fp32", overwrite: bool = False
) -> None:
    """Writes the difference of two models as a LoRA, and says what is lost. Raises InputError before anything is written.

    tuned, base: models as in `pretrained_model_name_or_path`, in folders or single files; layout: one of `LAYOUTS`; precision: of
    the file.
    """
    problems = list(choice.problems())
    if layout not in LAYOUTS:
        problems.append(Problem(LAYOUT, f"{printable(layout)} is unknown", f"choose one of: {', '.join(LAYOUTS)}"))
    sources = []
    for name in (tuned, base):
        try:
            sources.append(located(name))
        except InputError as error:
            problems += error.problems
    files = [file for source in sources for file in specs.spec_of(source).files(source)]
    problems += output.in_the_way(target, files, overwrite)
    if problems:
        raise InputError(problems)
    first, second = (architecture_of(source) for source in sources)
    if first.shapes != second.shapes:
        what = f"is {first.title}, built otherwise than {printable(base)}, {second.title}"
        raise InputError(Problem(printable(tuned), what, SAME))
    from customize.adapters.lora_files import in_layout
    from customize.families.files.parameters import Parameters

    read = [Parameters(source, first) for source in sources]
    if other := read[0].places.keys() ^ read[1].places.keys():
        what = f"has other parameters than {printable(base)}: {first_few(sorted('.'.join(place) for place in other), 3)}"
        raise InputError(Problem(printable(tuned), what, SAME))
    layers, kept, beside = differences(*read, first, choice, precision)
    if not layers:
        what = (
            "differs from the base model in norms, biases or embeddings only"
            if beside
            else f"has the weights of {printable(base)}"
        )
        raise InputError(Problem(printable(tuned), what, "give a model whose layers were tuned"))
    tensors, metadata = in_layout(LAYOUTS[layout], layers, first.networks, first.modules)
    predictions = [specs.spec_of(source).prediction_type(source) for source in sources]
    if predictions[0] != predictions[1]:
        what = f"{printable(tuned)} predicts {predictions[0]}, {printable(base)} {predictions[1]}: a LoRA does not hold that"
        events.note(f"{what}; use it with --prediction_type {predictions[0]}")
    output.write(target, tensors, metadata | metadata_of(tuned, base, str(max(kept.ranks))), precision)
    if beside:
        events.note(f"a LoRA cannot hold the changes of {beside} norms, biases and embeddings; they count as lost")
    events.info(f"{target}: {kept.summary()}")


def metadata_of(tuned: str, base: str, rank: str) -> dict[str, str]:
    """The metadata of the LoRA: its base model, and the trigger words of the tuned one if it was made here."""
    facts = {"base_model": shared_name(base), "method": "extracted"}
    facts |= {"trigger_words": metadata_of_base(tuned).get("trigger_words", [])}
    of_kohya = {"ss_network_module": "networks.lora", "ss_network_dim": rank, "ss_network_alpha": rank}
    return {"customize": json.dumps(facts), **of_kohya}


def located(name: str) -> Source:
    """A model on this machine, checked. Raises InputError for one that is not here, and for damaged or unknown ones."""
    source = locate(name)
    if not source.folder and not source.file:
        raise InputError(Problem(printable(name), "is not on this machine", SAME))
    return source


def architecture_of(source: Source) -> Architecture:
    """The modules of a model, by its configuration or that of its version."""
    spec = specs.spec_of(source)
    folder = source.folder or spec.layout(source).config
    width = spec.prompt_width(source.folder or source.file or folder)
    return of_folder(spec.prompt_widths.get(width or 0, spec.title), folder, spec.networks)


def differences(
    tuned: "Parameters", base: "Parameters", architecture: Architecture, choice: Choice, precision: str
) -> "tuple[dict[Place, dict[str, Tensor]], Kept, int]":
    """The layers of the LoRA, what is kept of all changes, and how many changed parameters no LoRA can hold."""
    from customize.storage.tensor_files import PRECISIONS
    from customize.weights.tools.decomposition import of_matrix, shaped
    from customize.weights.tools.resize import lora

    layers, kept, beside = {}, Kept(), 0
    for part, name in base.places:
        module, _, leaf = name.rpartition(".")
        shape = architecture.shapes[part].get(module)
        change = difference(tuned(part, name), base(part, name), f"{part}.{name}") if shape else None
        if change is None or shape is None:
            continue
        if leaf == "bias" or len(shape) < 2 or module.startswith("embeddings."):
            squared = float(change.square().sum())
            kept.add(squared, squared)
            beside += 1
            continue
        whole = of_matrix(change.flatten(1), choice)
        made = lora(*shaped(*whole.product(choice), shape), PRECISIONS[precision])
        kept.add(whole.whole, whole.lost(made["B"], made["A"]), len(made["A"]))
        layers[part, module] = made
    return layers, kept, beside


def difference(tuned: "Tensor", base: "Tensor", name: str) -> "Tensor | None":
    """tuned - base in float64; None if they are equal once both have the number format of one of them.

    Raises InputError for other shapes, and for NaN and infinity.
    """
    if tuned.shape != base.shape:
        what = f"is {list(tuned.shape)} in the tuned model, {list(base.shape)} in the base model"
        raise InputError(Problem(name, what, SAME))
    for which, parameter in (("tuned", tuned), ("base", base)):
        if not parameter.isfinite().all():
            raise InputError(Problem(name, f"has NaN or infinity in the {which} model", "get the model again"))
    if bool((tuned.to(base.dtype) == base).all()) or bool((base.to(tuned.dtype) == tuned).all()):
        return None
    if tuned.dtype.itemsize < base.dtype.itemsize:
        base = base.to(tuned.dtype)
    return tuned.double() - base.double()
