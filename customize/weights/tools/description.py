"""What `inspection.describe` found in a file of weights, as rows of text."""

import json
from collections.abc import Iterator, Mapping
from math import isfinite, prod
from typing import Any

from customize.printable import first_few, printable
from customize.units import size

LONGEST, MOST_SETTINGS = 60, 24
FIRST = (
    "rank", "network_dim", "lora_alpha", "network_alpha", "learning_rate", "unet_lr", "text_encoder_lr", "max_train_steps",
    "steps", "num_epochs", "train_batch_size", "batch_size_per_device", "resolution", "optimizer", "lr_scheduler", "seed",
)  # fmt: skip
"""Settings that are shown before others."""


def in_words(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rows (label, text) of a description, printable."""
    yield "kind", printable(found["kind"]) + ("" if found.get("supported", True) else ", which is not supported here")
    if found.get("problem"):
        yield "problem", printable(found["problem"])
    if "layout" in found:
        layout = found["layout"]
        yield "layout", f"{layout}: read by {found['read_by']}" if layout else "mixed, or older names; read by infer.py"
    if "fits" in found:
        label = "version" if found["kind"] == "complete model" else "fits"
        yield (
            label,
            found["fits"]
            or f"no known base model: none has {'these widths' if found['kind'] == 'embeddings' else 'all of these modules'}",
        )
    for name, label in (("base_model", "base model"), ("title", "title"), ("prediction_type", "predicts")):
        if found.get(name):
            yield label, printable(found[name])
    yield from (("prompt", printable(prompt, 2 * LONGEST)) for prompt in found.get("prompts", [])[:MOST_SETTINGS])
    for part, groups in found.get("networks", {}).items():
        if isinstance(groups, int):
            yield printable(part, LONGEST), f"{groups:,} tensors"
        for group, own in groups.items() if isinstance(groups, dict) else ():
            yield part, f"{group}: {own['modules']:,} {' and '.join(own['types'])}{numbers(own)}"
    words = found.get("embeddings", {})
    for word, shapes in list(words.items())[:MOST_SETTINGS]:
        vectors = [f"{prod(shape[:-1])} of width {shape[-1]}" if shape else "a number" for shape in shapes.values()]
        yield "word", f"{printable(word)}: vectors: {', '.join(vectors)}"
    if len(words) > MOST_SETTINGS:
        yield "word", f"and {len(words) - MOST_SETTINGS:,} more, see --json"
    if found.get("trigger_words"):
        yield "trigger words", first_few([printable(word, 2 * LONGEST) for word in found["trigger_words"]], MOST_SETTINGS)
    if found.get("frequent_tags"):
        yield "frequent tags", ", ".join(found["frequent_tags"])
    yield from facts(found)


def facts(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The rows of `in_words` on size, hashes and settings."""
    if "size" in found:
        formats = ", ".join(f"{name} ({count})" for name, count in found["number_formats"].items())
        yield "size", f"{size(found['size'])}, {found['parameters']:,} numbers in {found['tensors']:,} tensors: {formats}"
    for name in ("resolution", "distilled", "steps"):
        if found.get(name):
            yield name, printable(found[name])
    for name, value in found.get("hashes", {}).items():
        yield printable(name), printable(value, LONGEST)
    if found.get("settings"):
        given = {name: value for name, value in found["settings"].items() if value not in (None, "", [], False)}
        order = [*(name for name in FIRST if name in given), *(name for name in given if name not in FIRST)]
        shown = [printable(f"{name} {plain(given[name])}", 2 * LONGEST) for name in order[:MOST_SETTINGS]]
        more = len(order) - len(shown)
        yield "settings", "; ".join(shown) + (f" and {more} more, see --json" if more else "")
    if found.get("damaged_metadata"):
        yield "metadata", "damaged"


def numbers(own: Mapping[str, Any]) -> str:
    """Ranks, alphas and scales of a group: one value, or the range of several."""
    shown = []
    for name in ("rank", "alpha", "scale"):
        if values := own[name]:
            few = f"{values[0]:.4g}" if len(values) == 1 else f"{values[0]:.4g} to {values[-1]:.4g}"
            shown.append(f"{name} {few}")
    return f", {', '.join(shown)}" if shown else ""


def plain(value: Any) -> str:
    """A value of a setting."""
    return value if isinstance(value, str) else json.dumps(value)


def without_nan(value: Any) -> Any:
    """A value with texts instead of the numbers that JSON does not have: NaN and infinity."""
    if isinstance(value, dict):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value
