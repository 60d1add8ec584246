"""Whether the tensors beside a module define a change of its weight, by their shapes alone. torch is not imported.

The rule is that of `weights.load_adapters`, which applies the formulas themselves. W [out, in, ...] of a module.
"""

from collections.abc import Callable, Mapping
from math import isqrt, prod

from customize.adapters.lora import trimmed
from customize.storage.safetensors_header import TensorInfo

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def fits(shape: Shape, tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether tensors, by kind (`lora_keys.KINDS`), define a change of a weight of this shape, or of its bias."""
    own = {kind: info.shape for kind, info in tensors.items()}
    if any(0 in each for each in own.values()) or prod(own.get("alpha", ())) != 1:
        return False
    if "bias" in own and prod(own["bias"]) != shape[0]:
        return False
    kinds = own.keys() - {"alpha", "bias"}
    form = next((form for known, form in FORMS.items() if kinds <= {*known}), None)
    return "bias" in own if not kinds else form is not None and form(shape, own)


def difference(shape: Shape, own: Shapes) -> bool:
    """The change itself."""
    return prod(own["weight"]) == prod(shape)


def product(shape: Shape, own: Shapes) -> bool:
    """A and B of a LoRA, with a core or a DoRA's magnitudes."""
    down, up, core = own.get("A", ()), own.get("B", ()), own.get("mid")
    if min(len(down), len(up)) < 2 or len(shape) < 2 or not has_magnitudes(shape, own):
        return False
    if core is None:
        return trimmed(down[1:]) == trimmed(shape[1:]) and trimmed(up) == trimmed((shape[0], down[0]))
    if len(core) != 4 or "magnitude" in own or "B_bias" in own:
        return False
    return core[:2] == (prod(up[1:]), down[0]) and up[0] * prod(down[1:]) * prod(core[2:]) == prod(shape)


def has_magnitudes(shape: Shape, own: Shapes) -> bool:
    """Whether magnitudes, if there are any, are those of output rows, or in dora_scale [1, in, ...] of input columns."""
    scale = own.get("dora_scale", (shape[0],))
    axis = int(len(scale) > 1 and scale[0] == 1 != shape[0])
    rows = [prod(own[kind]) for kind in ("magnitude", "B_bias") if kind in own]
    return len(shape) > axis and prod(scale) == shape[axis] and all(count == shape[0] for count in rows)


def hada(shape: Shape, own: Shapes) -> bool:
    """LoHa: two factors of the shape of W."""
    first, second = (rebuilt(own, f"hada_w{i}", f"hada_t{i}") for i in (1, 2))
    return first == second and prod(first) == prod(shape) and has_magnitudes(shape, own)


def lokr(shape: Shape, own: Shapes) -> bool:
    """LoKr: two factors whose Kronecker product has as many numbers as W."""
    first, second = (rebuilt(own, f"lokr_w{i}", f"lokr_t{i}") for i in (1, 2))
    return prod(first) * prod(second) == prod(shape) and has_magnitudes(shape, own)


def rebuilt(own: Shapes, name: str, core: str) -> Shape:
    """The shape of a factor that is stored in full, or as a product, with or without a core; (0,) if it is none."""
    if name in own:
        return own[name]
    a, b, middle = own.get(f"{name}_a", ()), own.get(f"{name}_b", ()), own.get(core)
    if len(a) != 2 or len(b) != 2:
        return (0,)
    if middle is None:
        return (a[0], b[1]) if a[1] == b[0] else (0,)
    return (a[1], b[1], *middle[2:]) if len(middle) == 4 and middle[:2] == (a[0], b[0]) else (0,)


def glora(shape: Shape, own: Shapes) -> bool:
    """GLoRA: a product on W's inputs, and one of the shape of W, under either order of the letters."""
    if len(shape) < 2 or not {"a1", "a2", "b1", "b2"} <= own.keys() or min(len(own[kind]) for kind in own.keys() - SINGLE) < 2:
        return False
    a1, a2, b1, b2 = ((own[kind][0], prod(own[kind][1:])) for kind in ("a1", "a2", "b1", "b2"))
    if (b1[0], a1[0]) != shape[:2]:
        a1, a2, b1, b2 = a2, a1, b2, b1
    joined = a1[1] == a2[0] and b1[1] == b2[0]
    return joined and (a1[0], a2[1]) == (shape[1], shape[1]) and b1[0] * b2[1] == prod(shape)


def factors(shape: Shape, own: Shapes) -> bool:
    """(IA)^3 of LyCORIS, whose axis is a value, or of peft."""
    known = "ia3_l" in own or {"ia3", "on_input"} <= own.keys()
    return known and prod(own.get("ia3", own.get("ia3_l", ()))) in shape[:2] and prod(own.get("on_input", ())) == 1


def rotated(shape: Shape, own: Shapes) -> bool:
    """OFT of kohya and LyCORIS, or BOFT: square blocks over W's outputs."""
    blocks = own.get("oft_blocks", ())
    if len(blocks) not in (3, 4) or blocks[-1] != blocks[-2] or prod(own.get("rescale", (shape[0],))) != shape[0]:
        return False
    return blocks[-3] * blocks[-1] == shape[0]


def rotated_inputs(shape: Shape, own: Shapes) -> bool:
    """OFT of peft and OneTrainer: packed upper triangles of blocks over W's inputs."""
    packed, columns = own.get("oft_R", ()), prod(shape[1:])
    if len(packed) != 2 or len(shape) < 2:
        return False
    size = isqrt(8 * packed[1] + 1) // 2 + 1
    return size * (size - 1) == 2 * packed[1] and columns % size == 0 and packed[0] in (1, columns // size)


SINGLE = {"alpha", "bias"}
FORMS: Mapping[tuple[str, ...], Callable[[Shape, Shapes], bool]] = {
    ("weight",): difference,
    ("A", "B", "mid", "dora_scale"): product,
    ("A", "B", "magnitude", "B_bias"): product,
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "dora_scale"): hada,
    ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "dora_scale"): lokr,
    ("a1", "a2", "b1", "b2"): glora,
    ("ia3", "on_input"): factors,
    ("ia3_l",): factors,
    ("oft_blocks", "rescale"): rotated,
    ("oft_R", "scaled_oft"): rotated_inputs,
}
"""The kinds that can occur together, and whether their shapes fit."""
