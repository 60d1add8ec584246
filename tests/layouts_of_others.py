"""Small files in every layout that `docs/files.md` lists, each with the change of every parameter by a formula in float64.

The tests load them; `benchmarks/check_layouts.py` gives them to the programs that write or read them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from adapters_of_others import LDM, MORE, TEXT, UNET, diffusers, kohya, ldm, processor
from safetensors.torch import save_file
from torch import Tensor

SDXL = {
    "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q": (64, 64),
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (64, 64),
    "mid_block.attentions.0.transformer_blocks.1.attn1.to_out.0": (64, 64),
    "up_blocks.0.attentions.1.proj_in": (64, 64),
    "down_blocks.0.downsamplers.0.conv": (32, 32, 3, 3),
    "up_blocks.0.upsamplers.0.conv": (64, 64, 3, 3),
}
SDXL_LDM = {
    "down_blocks.1.attentions.0": "input_blocks.3.1", "mid_block.attentions.0": "middle_block.1",
    "up_blocks.0.attentions.1": "output_blocks.1.1", "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
}  # fmt: skip
"""Of the tiny SDXL with one layer a block, written by hand."""
Q, KEY, FF, CONV, ONE, TEXT_Q, NORM = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj", "down_blocks.1.resnets.0.conv1",
    "down_blocks.0.attentions.0.proj_in", "encoder.layers.0.self_attn.q_proj", "down_blocks.0.attentions.0.norm",
)  # fmt: skip
SHAPES = UNET | MORE | TEXT


def sdxl_ldm(module: str) -> str:
    start = max((start for start in SDXL_LDM if module.startswith(start)), key=len)
    return "lora_unet_" + (SDXL_LDM[start] + module.removeprefix(start)).replace(".", "_")


def network_of(module: str) -> str:
    return "text_encoder" if module.startswith("encoder.") else "unet"


@dataclass
class Layout:
    """One row of the table: the tensors of a file, and what they change.

    weights: the parameters of the base model in float64, such as `unet.conv_in.weight`; changes: the change of each, by the
    same names; words: the vectors of each word, one tensor for each text encoder; config: peft's, for a folder.
    """

    weights: dict[str, Tensor]
    base: str = "sd"
    tensors: dict[str, Tensor] = field(default_factory=dict)
    changes: dict[str, Tensor] = field(default_factory=dict)
    words: dict[str, list[Tensor]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict | None = None

    def __post_init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def random(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return (torch.randn(shape, generator=self.generator) * 0.3).to(dtype)

    def weight(self, module: str) -> Tensor:
        return self.weights[f"{network_of(module)}.{module}.weight"]

    def add(self, name: str, module: str, change: Tensor, bias: Tensor | None = None, **tensors: Tensor) -> None:
        """Tensors `name.kind`, with `__` for a dot in the kind, and the change of the module's weight and bias."""
        self.tensors |= {f"{name}.{kind.replace('__', '.')}": tensor for kind, tensor in tensors.items()}
        own = f"{network_of(module)}.{module}"
        self.changes[f"{own}.weight"] = change.double().view_as(self.weight(module))
        if bias is not None:
            self.changes[f"{own}.bias"] = bias.double()

    def lora(
        self, modules: dict[str, tuple[int, ...]], name: Callable[[str], str], ends: str = "lora_down.weight lora_up.weight",
        alpha: float | None = None, rank: int = 4, dtype: torch.dtype = torch.float32, joint: str = ".", ranks: bool = False,
    ) -> None:  # fmt: skip
        """alpha / rank * B A for each module; ranks: another rank and alpha in each layer."""
        for i, (module, (out, width, *kernel)) in enumerate(modules.items()):
            own_rank, own_alpha = (rank + i % 3, alpha and alpha + i) if ranks else (rank, alpha)
            down, up = (
                self.random(own_rank, width, *kernel, dtype=dtype),
                self.random(out, own_rank, *[1 for _ in kernel], dtype=dtype),
            )
            first, second = ends.split()
            own = {f"{name(module)}{joint}{first}": down, f"{name(module)}{joint}{second}": up}
            own |= {f"{name(module)}.alpha": torch.tensor(own_alpha, dtype=down.dtype)} if own_alpha else {}
            self.tensors |= own
            factor = float(own[f"{name(module)}.alpha"]) / own_rank if own_alpha else 1.0
            self.changes[f"{network_of(module)}.{module}.weight"] = factor * product(up, down).view(out, width, *kernel)

    def write(self, folder: Path) -> Path:
        """Writes the file, as a folder of peft where there is a configuration; returns its path."""
        path = folder / ("adapter_model.safetensors" if self.config else "mytoy.safetensors")
        save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, path, self.metadata)
        if self.config:
            (folder / "adapter_config.json").write_text(json.dumps(self.config))
            return folder
        return path


LAYOUTS: dict[str, tuple[Callable[[Layout], None], str]] = {}
"""The builder of each row, and the base model, by the row's name in the table."""


def row(name: str, base: str = "sd"):
    def add(build: Callable[[Layout], None]) -> Callable[[Layout], None]:
        assert name not in LAYOUTS
        LAYOUTS[name] = build, base
        return build

    return add


def built(name: str, weights: dict[str, Tensor]) -> Layout:
    """The file of one row, for a base model with these parameters."""
    build, base = LAYOUTS[name]
    layout = Layout(weights, base)
    build(layout)
    return layout


def product(up: Tensor, down: Tensor) -> Tensor:
    return up.flatten(1).double() @ down.flatten(1).double()


def chosen(*modules: str) -> dict[str, tuple[int, ...]]:
    return {module: SHAPES[module] for module in modules}


PEFT = "lora_A.weight lora_B.weight"
OLD = "down.weight up.weight"
LINEAR = {module: shape for module, shape in UNET.items()} | chosen(FF, "time_embedding.linear_2")

# LoRA: the names of each program

row("kohya, names of diffusers")(lambda file: file.lora(LINEAR | chosen(ONE) | TEXT, kohya, alpha=2.0))
row("kohya, convolutions (LoCon, C3Lier)")(lambda file: file.lora(MORE, kohya, alpha=1.0))
row("kohya, names of the original UNet")(
    lambda file: file.lora(UNET | MORE, lambda m: f"lora_unet_{ldm(m)}".replace(".", "_"), alpha=2.0)
)
row("kohya, resized: rank and alpha of each layer")(lambda file: file.lora(SHAPES, kohya, alpha=1.0, ranks=True))
row("kohya, without alpha")(lambda file: file.lora(UNET, kohya))
row("LyCORIS LoCon, own prefix")(lambda file: file.lora(UNET, lambda m: f"lycoris_{m}".replace(".", "_"), alpha=2.0))
row("diffusers, peft names")(lambda file: file.lora(SHAPES, diffusers, PEFT))
row("diffusers 0.23 to 0.26")(lambda file: file.lora(SHAPES, diffusers, "lora.down.weight lora.up.weight"))
row("diffusers 0.22, text encoder")(
    lambda file: file.lora(TEXT, diffusers, "lora_linear_layer.down.weight lora_linear_layer.up.weight")
)
row("diffusers before 0.22, attention processors")(lambda file: file.lora(UNET, processor, f"{OLD}", joint="."))
row("peft, bare names")(lambda file: file.lora(UNET, lambda m: f"base_model.model.{m}", PEFT))
row("peft, name of the adapter in the keys")(
    lambda file: file.lora(UNET, lambda m: f"base_model.model.{m}", "lora_A.default.weight lora_B.default.weight")
)
row("ComfyUI, original names after diffusion_model")(
    lambda file: file.lora(UNET | MORE, lambda m: f"diffusion_model.{ldm(m)}", PEFT)
)
row("ComfyUI, text encoder")(lambda file: file.lora(TEXT, lambda m: f"text_encoders.clip_l.transformer.text_model.{m}", PEFT))
row("float16")(lambda file: file.lora(SHAPES, kohya, alpha=2.0, dtype=torch.float16))
row("bfloat16")(lambda file: file.lora(SHAPES, kohya, alpha=2.0, dtype=torch.bfloat16))
row("float8 E4M3")(lambda file: file.lora(SHAPES, kohya, alpha=2.0, dtype=torch.float8_e4m3fn))
row("float8 E5M2")(lambda file: file.lora(SHAPES, kohya, alpha=2.0, dtype=torch.float8_e5m2))


@row("kohya for SDXL", "sdxl")
def _(file: Layout) -> None:
    file.lora(SDXL, sdxl_ldm, alpha=2.0)
    encoders = {part: {f"encoder.layers.{i}.mlp.fc1": (64, 32) for i in range(2)} for part in ("text_encoder", "text_encoder_2")}
    for number, (part, modules) in enumerate(encoders.items(), 1):
        other = Layout(file.weights)
        other.generator = file.generator
        other.lora(modules, lambda m, number=number: kohya(m).replace("lora_te_", f"lora_te{number}_"), alpha=1.0)
        file.tensors |= other.tensors
        inner = "text_model." if part == "text_encoder_2" else ""
        file.changes |= {name.replace("text_encoder.", f"{part}.{inner}"): change for name, change in other.changes.items()}


@row("kohya DyLoRA")
def _(file: Layout) -> None:
    """Rows of A and columns of B that were trained apart are stored as one LoRA."""
    downs, ups = [file.random(1, 32) for _ in range(4)], [file.random(32, 1) for _ in range(4)]
    change = 0.5 * sum(product(up, down) for up, down in zip(ups, downs, strict=True))
    file.add(kohya(Q), Q, change, lora_down__weight=torch.cat(downs), lora_up__weight=torch.cat(ups, 1), alpha=torch.tensor(2.0))


@row("LyCORIS LoCon, Tucker core")
def _(file: Layout) -> None:
    down, mid, up = file.random(4, 32, 1, 1), file.random(4, 4, 3, 3), file.random(64, 4, 1, 1)
    change = 0.5 * torch.einsum("or,rskl,si->oikl", up[..., 0, 0].double(), mid.double(), down[..., 0, 0].double())
    file.add(kohya(CONV), CONV, change, lora_down__weight=down, lora_mid__weight=mid, lora_up__weight=up, alpha=torch.tensor(2.0))


@row("peft, folder with its configuration")
def _(file: Layout) -> None:
    """rsLoRA: alpha / sqrt(rank); one layer has its own rank and alpha."""
    for module, rank, alpha in ((Q, 4, 3.0), (FF, 2, 5.0)):
        out, width = SHAPES[module]
        down, up = file.random(rank, width), file.random(out, rank)
        own = {"lora_A__weight": down, "lora_B__weight": up}
        file.add(f"base_model.model.{module}", module, alpha / rank**0.5 * product(up, down), **own)
    file.config = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 3.0, "use_rslora": True, "rank_pattern": {"ff.net.0.proj": 2},
        "alpha_pattern": {"ff.net.0.proj": 5.0}, "target_modules": ["to_q", "ff.net.0.proj"], "base_model_name_or_path": "x",
    }  # fmt: skip


@row("peft, biases after B")
def _(file: Layout) -> None:
    down, up, bias = file.random(4, 32), file.random(256, 4), file.random(256)
    own = {"lora_A__weight": down, "lora_B__weight": up, "lora_B__bias": bias}
    file.add(f"base_model.model.{FF}", FF, 0.5 * product(up, down), 0.5 * bias, **own)
    file.config = {"peft_type": "LORA", "r": 4, "lora_alpha": 2, "lora_bias": True, "target_modules": [FF]}


@row("OneTrainer, LoRA with bundled words")
def _(file: Layout) -> None:
    file.lora(UNET, kohya, alpha=1.0)
    file.words = {"mytoy": [file.random(2, 32)]}
    file.tensors["bundle_emb.mytoy.clip_l"] = file.words["mytoy"][0]


@row("ComfyUI, extracted")
def _(file: Layout) -> None:
    """float16 without alpha; differences of norms and biases."""
    file.lora(chosen(Q, CONV), lambda m: f"diffusion_model.{ldm(m)}", "lora_down.weight lora_up.weight", dtype=torch.float16)
    diff, bias = (file.random(32, dtype=torch.float16) for _ in range(2))
    file.add(f"diffusion_model.{ldm(NORM)}", NORM, diff, bias, diff=diff, diff_b=bias)


# DoRA


def decomposed(weight: Tensor, change: Tensor, magnitude: Tensor, axis: int) -> Tensor:
    """m (W + dW) / ||W + dW|| - W; the norm of each row (axis 0) or column (axis 1)."""
    whole = weight + change
    norm = whole.square().sum([i for i in range(whole.dim()) if i != axis], keepdim=True).sqrt()
    return magnitude.double() * whole / norm - weight


def dora(file: Layout, module: str, name: str, axis: int) -> None:
    out, width, *kernel = SHAPES[module]
    down, up = file.random(4, width, *kernel), file.random(out, 4, *[1 for _ in kernel])
    size = (out, 1) if axis == 0 else (1, width)
    magnitude = file.random(*size, *[1 for _ in kernel]).abs() + 0.5
    change = decomposed(file.weight(module), 0.5 * product(up, down).view(SHAPES[module]), magnitude, axis)
    own = {"lora_down__weight": down, "lora_up__weight": up, "alpha": torch.tensor(2.0), "dora_scale": magnitude}
    file.add(name, module, change, **own)


row("DoRA over output rows (LyCORIS, OneTrainer)")(
    lambda file: [dora(file, module, kohya(module), 0) for module in (Q, FF, CONV)]
)
row("DoRA over input columns (LyCORIS, OneTrainer)")(
    lambda file: [dora(file, module, kohya(module), 1) for module in (Q, FF, CONV)]
)


@row("DoRA of diffusers and peft")
def _(file: Layout) -> None:
    down, up, magnitude = file.random(4, 32), file.random(256, 4), file.random(256).abs() + 0.5
    change = decomposed(file.weight(FF), product(up, down), magnitude[:, None], 0)
    own = {"lora_A__weight": down, "lora_B__weight": up, "lora_magnitude_vector": magnitude}
    file.add(diffusers(FF), FF, change, **own)


# products other than B A


@row("LoHa")
def _(file: Layout) -> None:
    a, b, c, d = file.random(32, 4), file.random(4, 32), file.random(32, 4), file.random(4, 32)
    own = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(2.0)}
    file.add(kohya(Q), Q, 0.5 * product(a, b) * product(c, d), **own)


def cored(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("pqkl,po,qi->oikl", core.double(), a.double(), b.double()).contiguous()


@row("LoHa, Tucker core")
def _(file: Layout) -> None:
    a, b, c, d = (file.random(3, size) for size in (64, 32, 64, 32))
    s, t = file.random(3, 3, 3, 3), file.random(3, 3, 3, 3)
    own = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "hada_t1": s, "hada_t2": t}
    file.add(kohya(CONV), CONV, cored(s, a, b) * cored(t, c, d) / 3, **own, alpha=torch.tensor(1.0))


@row("LoHa, decomposed (DoRA)")
def _(file: Layout) -> None:
    a, b, c, d, m = *(file.random(*size) for size in ((256, 4), (4, 32)) * 2), file.random(256, 1).abs() + 0.5
    own = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(2.0), "dora_scale": m}
    file.add(kohya(FF), FF, decomposed(file.weight(FF), 0.5 * product(a, b) * product(c, d), m, 0), **own)


@row("LoHa of peft")
def _(file: Layout) -> None:
    a, b, c, d = file.random(32, 4), file.random(4, 32), file.random(32, 4), file.random(4, 32)
    own = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
    file.add(f"base_model.model.{Q}", Q, 0.75 * product(a, b) * product(c, d), **own)
    file.config = {"peft_type": "LOHA", "r": 4, "alpha": 3, "target_modules": ["to_q"]}


@row("LoKr, full times factors")
def _(file: Layout) -> None:
    w, a, b = file.random(4, 4), file.random(64, 2), file.random(2, 8)
    own = {"lokr_w1": w, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(1.0)}
    file.add(f"lycoris_{FF}".replace(".", "_"), FF, torch.kron(w.double(), product(a, b)) / 2, **own)


@row("LoKr, both full")
def _(file: Layout) -> None:
    """alpha counts for nothing; of a convolution the second factor has its kernel."""
    w, v = file.random(8, 4), file.random(8, 8, 3, 3)
    change = (w.double()[:, None, :, None, None, None] * v.double()[None, :, None]).reshape(64, 32, 3, 3)
    file.add(kohya(CONV), CONV, change, lokr_w1=w, lokr_w2=v, alpha=torch.tensor(9.0))


@row("LoKr, both in factors")
def _(file: Layout) -> None:
    a, b, c, d = file.random(16, 2), file.random(2, 4), file.random(16, 2), file.random(2, 8)
    own = {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2_a": c, "lokr_w2_b": d, "alpha": torch.tensor(3.0)}
    file.add(kohya(FF), FF, 1.5 * torch.kron(product(a, b), product(c, d)), **own)


@row("LoKr, Tucker core")
def _(file: Layout) -> None:
    w, core, a, b = file.random(8, 4), file.random(2, 2, 3, 3), file.random(2, 8), file.random(2, 8)
    change = torch.kron(w.double()[:, :, None, None], cored(core, a, b))
    own = {"lokr_w1": w, "lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(2.0)}
    file.add(kohya(CONV), CONV, change, **own)


@row("LoKr, decomposed (DoRA)")
def _(file: Layout) -> None:
    w, v, m = file.random(4, 4), file.random(64, 8), file.random(1, 32).abs() + 0.5
    change = decomposed(file.weight(FF), torch.kron(w.double(), v.double()), m, 1)
    file.add(kohya(FF), FF, change, lokr_w1=w, lokr_w2=v, alpha=torch.tensor(4.0), dora_scale=m)


@row("LoKr of peft")
def _(file: Layout) -> None:
    """Here alpha / rank counts with full factors, too."""
    w, v = file.random(16, 4), file.random(16, 8)
    file.add(f"base_model.model.{FF}", FF, 0.5 * torch.kron(w.double(), v.double()), lokr_w1=w, lokr_w2=v)
    file.config = {"peft_type": "LOKR", "r": 8, "alpha": 4, "target_modules": [FF]}


@row("GLoRA of LyCORIS")
def _(file: Layout) -> None:
    for module, (out, width, *kernel) in chosen(FF, CONV).items():
        ones = [1 for _ in kernel]
        a1, a2 = file.random(width, 4, *ones), file.random(4, width, *ones)
        b1, b2 = file.random(out, 4, *ones), file.random(4, width, *kernel)
        mixed = torch.einsum("oi...,ij->oj...", file.weight(module), product(a1, a2))
        own = {f"{name}__weight": tensor for name, tensor in (("a1", a1), ("a2", a2), ("b1", b1), ("b2", b2))}
        file.add(kohya(module), module, 0.5 * (mixed + product(b1, b2).view_as(mixed)), **own, alpha=torch.tensor(2.0))


@row("GLoRA of LyCORIS before 2.0, A1111")
def _(file: Layout) -> None:
    a1, a2, b1, b2 = file.random(4, 32), file.random(32, 4), file.random(4, 32), file.random(256, 4)
    own = {f"{name}__weight": tensor for name, tensor in (("a1", a1), ("a2", a2), ("b1", b1), ("b2", b2))}
    change = 0.5 * (file.weight(FF) @ product(a2, a1) + product(b2, b1))
    file.add(kohya(FF), FF, change, **own, alpha=torch.tensor(2.0))


# differences and factors


@row("LyCORIS full, differences of weights and biases")
def _(file: Layout) -> None:
    for module in (FF, CONV):
        diff, bias = file.random(*SHAPES[module]), file.random(SHAPES[module][0])
        file.add(kohya(module), module, diff, bias, diff=diff, diff_b=bias)


@row("LyCORIS norms")
def _(file: Layout) -> None:
    weight, bias = file.random(32), file.random(32)
    file.add(kohya(NORM), NORM, weight, bias, w_norm=weight, b_norm=bias)


@row("(IA)^3 of LyCORIS")
def _(file: Layout) -> None:
    """w of a convolution is [1, out, 1, 1], whether on inputs or outputs."""
    for module, on_input in ((KEY, 0), (FF, 1), (CONV, 0)):
        out, width, *kernel = SHAPES[module]
        factors = file.random(width if on_input else out)
        shape = [1, -1, *[1 for _ in kernel]] if on_input else [-1, 1, *[1 for _ in kernel]]
        stored = factors.view(1, -1, *[1 for _ in kernel]) if kernel else factors
        own = {"weight": stored, "on_input": torch.tensor(on_input)}
        file.add(kohya(module), module, file.weight(module) * factors.double().view(shape), **own)


@row("(IA)^3 of peft")
def _(file: Layout) -> None:
    """Factors of outputs multiply the bias, too; those of feed-forward modules multiply inputs."""
    outputs, inputs = 1 + file.random(32, 1), 1 + file.random(1, 128)
    last = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2"
    out = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    bias = file.weights[f"unet.{out}.bias"] * (outputs.double().flatten() - 1)
    file.add(f"base_model.model.{out}", out, file.weight(out) * (outputs.double() - 1), bias, ia3_l=outputs)
    file.add(f"base_model.model.{last}", last, file.weight(last) * (inputs.double() - 1), ia3_l=inputs)
    file.config = {"peft_type": "IA3", "target_modules": ["to_out.0", "ff.net.2"], "feedforward_modules": ["ff.net.2"]}


# rotations


def turned(blocks: Tensor, bound: float = 0.0) -> Tensor:
    """R of each block, by eigenvalues: exp of the angles of Q = iH is (1 + iw) / (1 - iw)."""
    skew = blocks.double() - blocks.double().mT
    if bound and skew.norm() > bound:
        skew = skew * bound / skew.norm()
    values, vectors = torch.linalg.eigh(-1j * skew)
    return (vectors @ torch.diag_embed((1 + 1j * values) / (1 - 1j * values)) @ vectors.mH).real


def rotated(weight: Tensor, rotations: Tensor) -> Tensor:
    """R^T W, with R of all blocks on the diagonal."""
    whole = torch.block_diag(*rotations)
    return (whole.mT @ weight.flatten(1)).view_as(weight)


@row("OFT of kohya")
def _(file: Layout) -> None:
    """alpha * out bounds the norm of all Q; here it does in one layer."""
    for module, alpha in ((KEY, 0.01), (FF, 1e-3), (CONV, 0.5)):
        out = SHAPES[module][0]
        blocks = file.random(4, out // 4, out // 4) / 8
        change = rotated(file.weight(module), turned(blocks, alpha * out)) - file.weight(module)
        file.add(kohya(module).replace("lora_", "oft_"), module, change, oft_blocks=blocks, alpha=torch.tensor(alpha))


@row("OFT of LyCORIS (diag-oft)")
def _(file: Layout) -> None:
    """alpha 0 is no bound; rescale multiplies the rows."""
    for module in (FF, CONV):
        out, _, *kernel = SHAPES[module]
        blocks, rescale = file.random(out // 8, 8, 8) / 4, 1 + file.random(out, 1, *[1 for _ in kernel])
        change = rescale.double() * rotated(file.weight(module), turned(blocks)) - file.weight(module)
        file.add(kohya(module), module, change, oft_blocks=blocks, rescale=rescale, alpha=torch.tensor(0.0))


@row("BOFT of LyCORIS")
def _(file: Layout) -> None:
    """Each stage is a permutation of the rows, rotations of blocks of 8, and the permutation back."""
    for module in (KEY, CONV):
        out = SHAPES[module][0]
        blocks = file.random({32: 3, 64: 4}[out], out // 8, 8, 8) / 4
        whole = file.weight(module).flatten(1)
        for i, stage in enumerate(turned(blocks)):
            rows = torch.arange(out).view(-1, 2, 4 * 2**i).mT.flatten()
            whole = (torch.block_diag(*stage) @ whole[rows])[torch.argsort(rows)]
        change = whole.view_as(file.weight(module)) - file.weight(module)
        file.add(kohya(module), module, change, oft_blocks=blocks, alpha=torch.tensor(0.0))


def packed_rotations(packed: Tensor, size: int, divisor: float = 1.0) -> Tensor:
    """I + 2 Q + 2 Q^2 + 2 Q^3 + Q^4, the part of Q above the diagonal being packed."""
    skew = torch.zeros(len(packed), size, size, dtype=torch.float64)
    place = 0
    for i in range(size):
        for j in range(i + 1, size):
            skew[:, i, j], skew[:, j, i] = packed[:, place].double() / divisor, -packed[:, place].double() / divisor
            place += 1
    powers = [torch.linalg.matrix_power(skew, i) for i in range(5)]
    return powers[0] + 2 * (powers[1] + powers[2] + powers[3]) + powers[4]


@row("OFT of peft")
def _(file: Layout) -> None:
    """W R^T, R over the input columns."""
    for module in (FF, ONE):
        packed = file.random(4, 28) / 4
        weight, rotations = file.weight(module).flatten(1), packed_rotations(packed, 8)
        file.add(f"base_model.model.{module}", module, weight @ torch.block_diag(*rotations).mT - weight, oft_R__weight=packed)
    file.config = {"peft_type": "OFT", "r": 0, "oft_block_size": 8, "target_modules": [FF, ONE]}


@row("OFT of peft, exact, one rotation in all blocks")
def _(file: Layout) -> None:
    packed = file.random(1, 28)
    skew = torch.zeros(1, 8, 8, dtype=torch.float64)
    rows, columns = torch.triu_indices(8, 8, 1)
    skew[:, rows, columns] = packed.double()
    rotations = turned(skew).mT.expand(4, -1, -1)  # peft's exact R is the inverse
    weight = file.weight(KEY)
    file.add(f"base_model.model.{KEY}", KEY, weight @ torch.block_diag(*rotations).mT - weight, oft_R__weight=packed)
    form = {"use_cayley_neumann": False, "block_share": True}
    file.config = {"peft_type": "OFT", "r": 0, "oft_block_size": 8, "target_modules": [KEY], **form}


@row("OFT of OneTrainer")
def _(file: Layout) -> None:
    """Scaled by 2 sqrt(b - 1); linear layers are turned as in peft, convolutions the other way."""
    for module in (FF, CONV):
        weight = file.weight(module).flatten(1)
        packed = file.random(weight.shape[1] // 8, 28)
        whole = torch.block_diag(*packed_rotations(packed, 8, 2 * 7**0.5))
        change = weight @ (whole if module == CONV else whole.mT) - weight
        file.add(kohya(module), module, change, oft_R__weight=packed, oft_R__scaled_oft=torch.tensor(True))


# embeddings


def words(name: str, keys: dict[str, str], base: str = "sd", flat: bool = False) -> None:
    """A row with an embedding. keys: the word and the text encoder's number of each tensor."""

    @row(name, base)
    def _(file: Layout) -> None:
        for key, word in keys.items():
            vectors = file.random(32) if flat else file.random(2, 32)
            file.tensors[key] = vectors
            file.words.setdefault(word, []).append(vectors.reshape(-1, 32))


words("embedding of diffusers: its word", {"<cat-toy>": "<cat-toy>"})
words("embedding of diffusers, one vector in one axis", {"<cat-toy>": "<cat-toy>"}, flat=True)
words("embedding of A1111", {"emb_params": "mytoy"})
words("embedding converted from a pickle", {"string_to_param.*": "mytoy"})
words("embedding of kohya, OneTrainer and ComfyUI for SD 1", {"clip_l": "mytoy"})
words("embedding of kohya, OneTrainer and ComfyUI for SDXL", {"clip_l": "mytoy", "clip_g": "mytoy"}, "sdxl")


@row("words bundled with a LoRA by A1111 and LyCORIS")
def _(file: Layout) -> None:
    file.lora(UNET, kohya, alpha=1.0)
    file.words = {"mytoy": [file.random(2, 32)], "other": [file.random(1, 32)]}
    file.tensors |= {f"bundle_emb.{word}.string_to_param.*": vectors for word, [vectors] in file.words.items()}


@row("words bundled with a LoRA for SDXL", "sdxl")
def _(file: Layout) -> None:
    file.lora(SDXL, sdxl_ldm, alpha=1.0)
    file.words = {"mytoy": [file.random(2, 32), file.random(2, 32)]}
    file.tensors |= {f"bundle_emb.mytoy.clip_{letter}": each for letter, each in zip("lg", file.words["mytoy"], strict=True)}


assert set(LDM) and len(LAYOUTS) >= 24
