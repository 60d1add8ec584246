"""`customize resize`: an adapter as a LoRA of smaller ranks, by the singular values of its change.

Needs no base model: LoRA, LoHa, LoKr and differences change a weight by the same amount whatever it is.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from customize import events
from customize.adapters.lora_keys import Place
from customize.adapters.lora_layouts import LAYOUTS
from customize.errors import InputError, Problem
from customize.printable import first_few, printable
from customize.weights import model_spec
from customize.weights.tools import target as output
from customize.weights.tools.conversion import LAYOUT, STALE, Contents, contents, layer_of
from customize.weights.tools.ranks import Choice, Kept
from customize.weights.weight_file import LearnedFile, adapter_description, check_file, files_of

if TYPE_CHECKING:
    from torch import Tensor, dtype

    from customize.weights.tools.decomposition import Decomposed

ALONE = re.compile(r"A|B|mid|alpha|weight|bias|hada_w._.|hada_t.|lokr_w.(_.)?|lokr_t2")
"""Kinds of tensors that change a weight by the same amount whatever it is."""
BIASES = (".diff_b", ".b_norm")


def resize(
    source: Path, target: Path, choice: Choice, layout: str | None, base: str | None = None, precision: str | None = None,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """Writes the adapter with smaller ranks, and says what is lost. Raises InputError before anything is written.

    layout: one of `LAYOUTS`, default that of the file; base: a base model of the adapter's architecture, where its modules are
    not those of a known one; precision: None for that of the file.
    """
    problems, sources = list(choice.problems()), [source]
    if source.is_dir():
        sources += source.glob("*.safetensors")
    problems += output.in_the_way(target, sources, overwrite)
    if layout is not None and layout not in LAYOUTS:
        problems.append(Problem(LAYOUT, f"{printable(layout)} is unknown", f"choose one of: {', '.join(LAYOUTS)}"))
    try:
        file = adapter_in(source)
    except InputError as error:
        raise InputError([*problems, *error.problems]) from error
    if problems:
        raise InputError(problems)
    inside = contents(file, base)
    refuse_dependent(file, inside)
    layers, kept = resized(file, inside, choice)
    from customize.adapters.lora_files import in_layout

    own = LAYOUTS[layout or layout_of(inside)]
    tensors, metadata = in_layout(own, layers, inside.architecture.networks, inside.architecture.modules)
    metadata |= metadata_of(file, inside, str(max(kept.ranks)))
    output.write(target, tensors, metadata, precision)
    events.info(f"{target}: {kept.summary()}")


def metadata_of(file: LearnedFile, inside: Contents, rank: str) -> dict[str, str]:
    """The file's metadata, with what is true of the LoRA."""
    found = {name: value for name, value in file.header.metadata.items() if name not in STALE}
    found |= {name: form for name, form in model_spec.HASHES.items() if name in found}
    if "ss_network_dim" in found:
        found |= {"ss_network_dim": rank, "ss_network_alpha": rank}
    if {kind for own in inside.found.values() for kind in own} - {"A", "B", "alpha"}:
        found = {name: value for name, value in found.items() if name != "ss_network_args"}
        found |= {name: "networks.lora" for name in found if name == "ss_network_module"}
    return found


def adapter_in(source: Path) -> LearnedFile:
    """The adapter to resize. Raises InputError for other files."""
    path, *others = files_of(source)
    if others:
        raise InputError(Problem(printable(source), f"holds {len(others) + 1} files", "name one of them"))
    file = check_file(path, 1.0)
    if file.timestep_rank:
        what = "is a T-LoRA, whose change depends on the timestep, and on the order of its ranks"
        raise InputError(Problem(printable(path), what, "use it beside the base model, by infer.py --weights"))
    if not file.is_adapter or file.adapter or file.is_network:
        raise InputError(Problem(printable(path), "is not a LoRA, LoHa or LoKr", "give an adapter of one of these kinds"))
    return file


def refuse_dependent(file: LearnedFile, inside: Contents) -> None:
    """Raises InputError for kinds of adapters whose change depends on the weights of the base model, and for embeddings."""
    others = {kind for own in inside.found.values() for kind in own if not ALONE.fullmatch(kind)}
    if others == {"B_bias"}:
        what = "has biases after B, for which a LoRA without them has no place"
        raise InputError(Problem(printable(file.path), what, "merge it into its base model by infer.py --merge"))
    if others:
        what = f"changes weights by an amount that depends on them ({first_few(sorted(others), 3)})"
        remedy = "merge it into its base model by infer.py --merge, and give both models to customize extract"
        raise InputError(Problem(printable(file.path), what, remedy))
    if inside.rest:
        raise InputError(Problem(printable(file.path), "holds embeddings, too", "resize an adapter without them"))


def layout_of(inside: Contents) -> str:
    """The layout whose names of modules the file has; kohya's if it has none of them."""
    (part, module), own = next(iter(inside.found.items()))
    stems = {inside.names[(part, module), kind] for kind in own}
    networks, modules = inside.architecture.networks[part], inside.architecture.modules[part]
    for name, layout in LAYOUTS.items():
        stem, ends = layout.names(networks, modules).get(module), layout.ends
        if stem is not None and any(f"{stem}{ends[kind]}" in stems for kind in ("A", "alpha") if kind in ends):
            return name
    return "kohya"


def resized(file: LearnedFile, inside: Contents, choice: Choice) -> "tuple[dict[Place, dict[str, Tensor]], Kept]":
    """The tensors of each layer of the LoRA, and what is kept. Differences of biases and norms stay as they are."""
    from safetensors.torch import load_file

    from customize.weights.tools.decomposition import shaped

    tensors, layers, kept = load_file(file.path), {}, Kept()
    for (part, module), kinds in inside.found.items():
        shape = inside.architecture.shapes[part][module]
        own = layer_of(file, inside, (part, module), tensors)
        layer = {kind: tensor for kind, tensor in own.items() if kind in BIASES or len(shape) < 2}
        if len(shape) > 1 and kinds.keys() - {"bias"}:
            terms = {kind: tensors[inside.names[(part, module), kind]] for kind in kinds}
            change = decomposed(file, (part, module), own, shape, terms, choice)
            made = lora(*shaped(*change.product(choice), shape), next(iter(own.values())).dtype)
            kept.add(change.whole, change.lost(made["B"], made["A"]), len(made["A"]))
            layer |= made if len(made["A"]) else {}
        if layer:
            layers[part, module] = layer
    if not kept.whole:
        raise InputError(Problem(printable(file.path), "changes no matrix", "nothing is left to resize"))
    return layers, kept


def lora(up: "Tensor", down: "Tensor", dtype: "dtype") -> "dict[str, Tensor]":
    """A layer with alpha = rank, in a number format; in float16 instead of one of 8 bits, in float32 beyond the range of half."""
    import torch

    from customize.adapters.lora_files import alpha_like

    own = torch.float16 if dtype.itemsize == 1 else dtype
    if not all(factor.to(own).isfinite().all() for factor in (up, down)):
        own = torch.float32
    return {"A": down.to(own), "B": up.to(own), "alpha": alpha_like(len(down), down.to(own))}


def decomposed(
    file: LearnedFile,
    place: Place,
    own: "Mapping[str, Tensor]",
    shape: tuple[int, ...],
    terms: "Mapping[str, Tensor]",
    choice: Choice,
) -> "Decomposed":
    """The decomposition of the change of one weight. own: its tensors, with an alpha; terms: as they are in the file."""
    import torch

    from customize.adapters.forms import lycoris
    from customize.weights.peft_terms import with_configuration
    from customize.weights.tools.decomposition import of_matrix, of_product

    if {"A", "B"} <= own.keys() and "mid" not in own:
        scale = float(own["alpha"]) / len(own["A"])
        return of_product(scale * own["B"].double().flatten(1), own["A"].double().flatten(1))
    module = SimpleNamespace(weight=torch.zeros(shape), bias=None)
    terms = with_configuration(module, place[1], terms, adapter_description(file, place[0]))
    if "alpha" in own:
        terms = {**terms, "alpha": own["alpha"]}
    terms = {kind: tensor.float() for kind, tensor in terms.items() if kind != "bias"}
    return of_matrix(lycoris.change(terms, "weight", module.weight).reshape(shape[0], math.prod(shape[1:])), choice)
