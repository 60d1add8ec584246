"""peft's configuration of an adapter, as it stands in the metadata of a file or beside it. It comes from strangers."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from customize.adapters.lora_keys import ADAPTER_METADATA
from customize.storage.json_files import json_object, read_object
from customize.storage.safetensors_header import Header

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The names of an adapter and of its configuration in a folder of peft's `save_pretrained`."""
PATTERNS = re.compile(r"(^|\.)(rank_pattern|alpha_pattern)$")
NUMBERS = re.compile(r"(^|\.)(r|lora_alpha|alpha|num_cayley_neumann_terms)$")
MOST_REPEATS, MOST_TERMS = 3, 100


def configuration_of(header: Header, path: Path) -> dict[str, Any]:
    """peft's configuration of an adapter: in its metadata for diffusers' loaders, or in the file that peft's `save_pretrained`
    writes beside it; empty if there is none. Raises ValueError or OSError for one that is damaged."""
    beside = path.with_name(PEFT_CONFIG)
    if ADAPTER_METADATA not in header.metadata and path.name == PEFT_FILE and beside.is_file():
        return read_object(beside)
    return json_object(header.metadata.get(ADAPTER_METADATA, "{}"))


def of_network(name: str) -> bool:
    """Whether an entry of `ADAPTER_METADATA` is of one of several networks, of whatever family: `unet.r`, not `r`."""
    return "." in name


def is_sound(adapter: Mapping[str, Any]) -> bool:
    """Whether the numbers and patterns of a configuration are of their types, and in ranges that are safe to use."""
    is_lora = adapter.get("peft_type", "LORA") == "LORA"
    for name, value in adapter.items():
        if not of_network(name) and is_lora and "r" not in adapter:
            return False
        numbers = [value] if NUMBERS.search(name) and value is not None else []
        if PATTERNS.search(name) and value is not None:
            if not isinstance(value, dict) or not all(map(is_plain_pattern, value)):
                return False
            numbers = [*value.values()]
        least = int(adapter.get("peft_type") != "OFT") if re.search(r"(^|\.)r(ank_pattern)?$", name) else -math.inf
        most = MOST_TERMS if name.endswith("terms") else math.inf
        if not all(type(number) in (int, float) and least <= number < most for number in numbers):
            return False
    return True


def is_plain_pattern(pattern: str) -> bool:
    """Whether a text is a regular expression that peft may safely match with names of modules: one that cannot run for ever."""
    repeats = sum(map(pattern.count, "*+{"))
    if len(pattern) > 300 or repeats > MOST_REPEATS or re.search(r"\)[*+?{]", pattern):
        return False
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True
