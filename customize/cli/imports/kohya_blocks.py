"""Learning rates of blocks in configurations of sd-scripts, as `lr_pattern`.

There, blocks are those of Stable Diffusion's original layout, by place: input blocks (`down`), the middle, output blocks (`up`).
"""

from collections.abc import Collection, Iterator

from customize.cli.imports.translation import Reading

NAMES = ("down_lr_weight", "mid_lr_weight", "up_lr_weight")
"""Factors of a LoRA's learning rate, one for each block."""
RATES = "block_lr"
"""Rates of all blocks of SDXL, where all weights are trained."""
REMEDY = "give --lr_pattern, as in --lr_pattern down_blocks.0=0.5 mid_block=2"
Blocks = list[tuple[str, ...]]
"""The parts of each block, by diffusers' names."""


def input_blocks(levels: int, with_attention: Collection[int]) -> Blocks:
    """Those of a UNet of so many levels, the finest first, of which these have attention."""
    found: Blocks = [("conv_in",)]
    for level in range(levels):
        own = f"down_blocks.{level}"
        for place in range(2):
            found.append((f"{own}.resnets.{place}", *[f"{own}.attentions.{place}"] * (level in with_attention)))
        found += [(f"{own}.downsamplers",)] * (level < levels - 1)
    return found


def output_blocks(levels: int, with_attention: Collection[int]) -> Blocks:
    """As `input_blocks`, the coarsest level first."""
    found: Blocks = []
    for number in range(levels):
        own, level = f"up_blocks.{number}", levels - 1 - number
        for place in range(3):
            parts = f"{own}.resnets.{place}", *[f"{own}.attentions.{place}"] * (level in with_attention)
            found.append((*parts, *[f"{own}.upsamplers"] * (place == 2 and level > 0)))
    return found


SD = (input_blocks(4, (0, 1, 2)), [("mid_block.resnets", "mid_block.attentions")], output_blocks(4, (0, 1, 2)))
SDXL = (
    input_blocks(3, (1, 2)), [("mid_block.resnets.0",), ("mid_block.attentions.0",), ("mid_block.resnets.1",)],
    output_blocks(3, (1, 2)),
)  # fmt: skip
EMBEDDINGS, LAST = ("time_embedding", "add_embedding"), ("conv_norm_out", "conv_out")
"""The first and the last of the blocks of `block_lr`."""


def of_weights(found: Reading, script: str) -> None:
    """Takes the factors of a LoRA's blocks; without an entry a block has the factor 1."""
    given = found.values
    written = {name: str(given.pop(name)) for name in NAMES if name in given}
    threshold = float(given.pop("block_lr_zero_threshold", 0))
    try:
        weights = {name: [float(each or 0) for each in text.split(",")] for name, text in written.items()}
    except ValueError:
        return found.lose(", ".join(f"{name} = {text}" for name, text in written.items()), "is a curve", REMEDY)
    kinds = (".attentions", *[".resnets", "samplers"] * ("convolutions" in given.get("lora_targets", ())))
    base = str(given.get("pretrained_model_name_or_path", "")).lower()
    of_blocks = SDXL if "sdxl" in script or "xl" in base or len(weights.get("mid_lr_weight", ())) > 1 else SD
    pattern: list[str] = []
    for name, blocks in zip(NAMES, of_blocks, strict=True):
        own = [weight if weight > threshold else 0.0 for weight in weights.get(name, ())]
        adapted = [[part for part in block if any(kind in part for kind in kinds)] for block in blocks]
        pattern += lines(adapted, own)
    take(found, pattern, [f"{name} = {text}" for name, text in written.items()])
    return None


def of_rates(found: Reading) -> None:
    """Takes the rates of all blocks, as factors of the learning rate."""
    if (written := found.values.pop(RATES, None)) is None:
        return None
    blocks = [EMBEDDINGS, *(block for part in SDXL for block in part), LAST]
    try:
        rate = float(found.values.get("learning_rate", found.defaults.get("learning_rate", 0)))
        factors = [float(each) / rate for each in str(written).split(",")]
    except (ValueError, ZeroDivisionError):
        factors = []
    if len(factors) != len(blocks):
        return found.lose(f"{RATES} = {written}", f"is not {len(blocks)} rates", REMEDY)
    return take(found, [*lines(blocks, factors)], [f"{RATES} = {written}"])


def lines(blocks: Collection[Collection[str]], factors: Collection[float]) -> Iterator[str]:
    """PART=FACTOR of the parts of each block that has another factor than 1."""
    for block, factor in zip(blocks, factors, strict=False):
        if factor != 1:
            number = f"{factor:.9f}".rstrip("0").rstrip(".")
            yield from (f"{part}={number}" for part in block)


def take(found: Reading, pattern: list[str], written: list[str]) -> None:
    """Sets `lr_pattern`, if there is something to set."""
    if pattern:
        found.values["lr_pattern"], found.written["lr_pattern"] = pattern, ", ".join(written)
