"""Adapters in every layout: what each layer's alpha, rank and form make of the weights, against sums by hand in float64."""

import copy

import pytest
import torch
from adapters_of_others import MORE, TEXT, UNET, File, diffusers, kohya, ldm, processor
from kit import conditioning
from torch import Tensor

from customize import families
from customize.adapters.lora_keys import network_of, sorted_out, split
from customize.adapters.lora_layouts import KOHYA
from customize.adapters.peft_layers import merge
from customize.errors import InputError
from customize.families.specs import STABLE_DIFFUSION
from customize.families.specs.network_names import NetworkNames
from customize.families.specs.unet_names import original_names
from customize.inference import load_pipeline
from customize.inference.scale_schedules import LoadedWeights
from customize.settings.scale import Apart, Schedule
from customize.weights.learned_weights import find_learned
from customize.weights.load_adapters import add_adapters


@pytest.fixture(scope="module")
def family(tiny_epsilon):
    return families.load(families.locate(str(tiny_epsilon)))


def loaded(family, file, scale=1.0):
    """A copy of the family with the file in it, and its weights."""
    own = copy.deepcopy(family)
    learned = find_learned("demo", [(file, scale)])
    parts, notes = add_adapters(own, learned.files, partial=False)
    return own, LoadedWeights(learned.files, parts), notes


@torch.no_grad()
def changed_by_hand(family, changes: dict[str, Tensor], scale: float = 1.0, text_scale: float | None = None):
    own = copy.deepcopy(family)
    for module, delta in changes.items():
        is_text = module.startswith("encoder.")
        weight = (own.text_encoder if is_text else own.unet).get_submodule(module).weight
        weight.copy_(weight.double() + (scale if text_scale is None or not is_text else text_scale) * delta)
    return own


@torch.no_grad()
def answers(family) -> tuple[Tensor, Tensor]:
    """What text encoder and UNet say."""
    input_ids = torch.tensor([[5, 90, 17, 300, 4, 4, 4, 4]])
    hidden = family.text_encoders[0].encode(input_ids).hidden_states
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return hidden, family.predict(latents, torch.tensor([400]), conditioning(hidden)).prediction


def assert_equal(family, changed, tolerance: float = 1e-4) -> None:
    for ours, theirs in zip(answers(family), answers(changed), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


RANKS, ALPHAS = (2, 8, 4, 16, 1), (1.0, 0.5, 4.0, 3.0, 0.25)
ALL = UNET | MORE | TEXT


def own_rank(i: int) -> int:
    return RANKS[i % 5]


def own_alpha(i: int) -> float:
    return ALPHAS[(i * 3) % 5]


ALPHA_FORMS = {
    "one for all": {"alpha": lambda i: 2.0},
    "a rank for each layer, one alpha": {"rank": own_rank, "alpha": lambda i: 4.0},
    "rank and alpha for each layer": {"rank": own_rank, "alpha": own_alpha},
    "none, ranks differ": {"rank": own_rank},
    "on some layers only": {"rank": own_rank, "alpha": lambda i: own_alpha(i) if i % 2 else None},
    "of shape [1]": {"alpha": lambda i: own_alpha(i), "make_alpha": lambda value: torch.tensor([value])},
    "float16": {"alpha": own_alpha, "make_alpha": lambda value: torch.tensor(value, dtype=torch.float16)},
    "bfloat16 and everything else, too": {"alpha": own_alpha, "dtype": torch.bfloat16,
                                          "make_alpha": lambda value: torch.tensor(value, dtype=torch.bfloat16)},
    "whole numbers": {"alpha": lambda i: i + 1, "make_alpha": lambda value: torch.tensor(value, dtype=torch.int64)},
    "0 on some layers": {"alpha": lambda i: float(i % 3)},
    "negative": {"alpha": lambda i: -own_alpha(i)},
}  # fmt: skip


@pytest.mark.parametrize("form", ALPHA_FORMS)
def test_each_layer_counts_by_its_own_alpha_and_rank(family, tmp_path, form):
    file = File().lora(ALL, **ALPHA_FORMS[form])
    ours, _, _ = loaded(family, file.write(tmp_path / "lora.safetensors"), 0.7)
    by_hand = changed_by_hand(family, file.changes, 0.7)
    assert_equal(ours, by_hand)
    assert (answers(by_hand)[1] - answers(family)[1]).abs().max() > 1e-2
    for part in ("unet", "text_encoder"):
        merge(getattr(ours, part))
        theirs = getattr(by_hand, part).state_dict()
        for name, tensor in getattr(ours, part).state_dict().items():
            torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-6)


def test_an_alpha_per_layer_changes_the_image(tiny_epsilon, family, tmp_path):
    """With a scale that changes on the way, and UNet and text encoder apart."""
    file = File(3).lora(ALL, rank=own_rank, alpha=own_alpha)
    path = file.write(tmp_path / "lora.safetensors")
    options = {"num_inference_steps": 4, "seeds": 2, "output_type": "latent"}
    by_hand = load_pipeline(str(tiny_epsilon))
    by_hand.family = changed_by_hand(by_hand.family, file.changes, 0.8, 0.3)
    ours = load_pipeline(str(tiny_epsilon), [(path, Apart(0.8, 0.3))])
    expected = by_hand.generate("a red dog", **options)
    torch.testing.assert_close(ours.generate("a red dog", **options), expected, rtol=0, atol=1e-4)
    ours.weights.scales = (Schedule(((0.0, 0.0), (0.5, 1.0))),)
    changing = ours.generate("a red dog", **options)
    ours.weights.scales = (0.0,)
    plain = load_pipeline(str(tiny_epsilon)).generate("a red dog", **options)
    torch.testing.assert_close(ours.generate("a red dog", **options), plain, rtol=0, atol=1e-6)
    assert (changing - plain).abs().max() > 1e-3 and (changing - expected).abs().max() > 1e-3


ATTENTION = {name: shape for name, shape in UNET.items() if ".attn" in name}
PEFT = ("lora_A.weight", "lora_B.weight")
NAMED = ("lora_A.default.weight", "lora_B.default.weight")
LINEAR_LAYER = ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight")
LAYOUTS = {
    "kohya": File().lora(ALL, kohya, alpha=own_alpha),
    "kohya, te1": File().lora(TEXT, lambda m: kohya(m).replace("lora_te_", "lora_te1_"), alpha=own_alpha),
    "kohya, text encoder without text_model": File().lora(TEXT, lambda m: kohya(m).replace("_text_model", ""), alpha=own_alpha),
    "kohya, original names": File().lora(UNET | MORE, lambda m: f"lora_unet_{ldm(m)}".replace(".", "_"), alpha=own_alpha),
    "LyCORIS' own prefix": File().lora(UNET, lambda m: f"lycoris_{m}".replace(".", "_"), alpha=own_alpha),
    "ComfyUI": File().lora(UNET | MORE, lambda m: f"diffusion_model.{ldm(m)}", PEFT),
    "ComfyUI, lora_up and alpha": File().lora(UNET | MORE, lambda m: f"diffusion_model.{ldm(m)}", alpha=own_alpha),
    "ComfyUI, clip_l": File().lora(TEXT, lambda m: f"clip_l.transformer.text_model.{m}", PEFT, alpha=own_alpha),
    "diffusers": File().lora(ALL, diffusers, PEFT),
    "diffusers with alpha": File().lora(ALL, diffusers, PEFT, rank=own_rank, alpha=own_alpha),
    "diffusers 0.23": File().lora(ALL, diffusers, ("lora.down.weight", "lora.up.weight")),
    "diffusers, text encoder of transformers 5.6": File().lora(TEXT, lambda m: f"text_encoder.{m}", PEFT),
    "diffusers 0.22, text encoder": File().lora(TEXT, diffusers, LINEAR_LAYER),
    "diffusers 0.21": File().lora(ATTENTION, processor, ("down.weight", "up.weight"), rank=own_rank),
    "diffusers 0.17": File().lora(ATTENTION, lambda m: processor(m).removeprefix("unet."), ("down.weight", "up.weight")),
    "peft": File().lora(UNET, lambda m: f"base_model.model.{m}", PEFT),
    "peft, text encoder": File().lora(TEXT, lambda m: f"base_model.model.text_model.{m}", PEFT),
    "peft, adapter's name": File().lora(UNET, lambda m: f"base_model.model.{m}", NAMED),
    "peft, bare": File().lora(UNET, lambda m: m, PEFT),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_weights(family, tmp_path, layout):
    file = LAYOUTS[layout]
    ours, _, _ = loaded(family, file.write(tmp_path / "lora.safetensors"), 0.5)
    assert_equal(ours, changed_by_hand(family, file.changes, 0.5))
    assert len(file.changes) >= 4


def forms(weight: dict[str, Tensor]) -> dict[str, File]:
    """Adapters that are no product of two factors; weight: the base's, in float64, on which a DoRA hangs."""
    made = {}
    q, ff, conv, one = (list(UNET)[0], "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
                        "down_blocks.1.resnets.0.conv1", "down_blocks.0.attentions.0.proj_in")  # fmt: skip

    def start(name: str, module: str, **tensors: Tensor) -> File:
        file = made.setdefault(name, File(len(made)))
        file.tensors |= {f"{kohya(module)}.{kind}": tensor for kind, tensor in tensors.items()}
        return file

    g = File(77).random
    a, b, c, d = g(32, 4), g(4, 32), g(32, 4), g(4, 32)
    file = start("LoHa", q, hada_w1_a=a, hada_w1_b=b, hada_w2_a=c, hada_w2_b=d, alpha=torch.tensor(2.0))
    file.changes[q] = 0.5 * (a.double() @ b.double()) * (c.double() @ d.double())
    a, b, c, d, s, t = g(3, 64), g(3, 32), g(3, 64), g(3, 32), g(3, 3, 3, 3), g(3, 3, 3, 3)
    file = start("LoHa", conv, hada_w1_a=a, hada_w1_b=b, hada_w2_a=c, hada_w2_b=d, hada_t1=s, hada_t2=t, alpha=torch.tensor(1.0))
    first, second = (
        torch.einsum("pqkl,po,qi->oikl", core.double(), x.double(), y.double()) for core, x, y in ((s, a, b), (t, c, d))
    )
    file.changes[conv] = first * second / 3
    w, a, b = g(4, 4), g(64, 2), g(2, 8)
    file = start("LoKr", ff, lokr_w1=w, lokr_w2_a=a, lokr_w2_b=b, alpha=torch.tensor(1.0))
    file.changes[ff] = torch.kron(w.double(), a.double() @ b.double()) / 2
    w, v = g(8, 4), g(8, 8, 3, 3)
    file = start("LoKr", conv, lokr_w1=w, lokr_w2=v, alpha=torch.tensor(9.0))
    blocks = w.double()[:, None, :, None, None, None] * v.double()[None, :, None]
    file.changes[conv] = blocks.reshape(64, 32, 3, 3)
    down, mid, up = g(4, 32, 1, 1), g(4, 4, 3, 3), g(64, 4, 1, 1)
    file = start(
        "Tucker LoRA", conv, **{"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up}, alpha=torch.tensor(2.0)
    )
    file.changes[conv] = 0.5 * torch.einsum("or,rskl,si->oikl", up[..., 0, 0].double(), mid.double(), down[..., 0, 0].double())
    for module, shape in ((q, (32, 32)), (conv, (64, 32, 3, 3)), ("down_blocks.0.attentions.0.norm", (32,))):
        delta = g(*shape)
        start("differences", module, **{"w_norm" if len(shape) == 1 else "diff": delta}).changes[module] = delta.double()
    down, up = g(4, 32), g(32, 4)
    made["1x1 convolution given as a matrix"] = file = File(9)
    file.tensors |= {f"{kohya(one)}.lora_down.weight": down, f"{kohya(one)}.lora_up.weight": up}
    file.changes[one] = (up.double() @ down.double())[..., None, None]
    down, up = g(4, 32, 1, 1), g(32, 4, 1, 1)
    made["matrix given as a 1x1 convolution"] = file = File(9)
    file.tensors |= {f"{kohya(q)}.lora_down.weight": down, f"{kohya(q)}.lora_up.weight": up}
    file.changes[q] = up[..., 0, 0].double() @ down[..., 0, 0].double()
    for axis, module in (("inputs", ff), ("outputs", ff), ("inputs", conv), ("outputs", conv)):
        out, width, *kernel = weight[module].shape
        down, up = g(4, width, *kernel), g(out, 4, *[1 for _ in kernel])
        size = (1, width) if axis == "inputs" else (out, 1)
        magnitude = g(*size, *[1 for _ in kernel]).abs() + 0.5
        whole = weight[module] + 0.5 * (up.flatten(1).double() @ down.flatten(1).double()).view_as(weight[module])
        along = [i for i in range(whole.dim()) if i != int(axis == "inputs")]
        file = start(
            f"DoRA over {axis}",
            module,
            **{"lora_down.weight": down, "lora_up.weight": up},
            alpha=torch.tensor(2.0),
            dora_scale=magnitude,
        )
        file.changes[module] = magnitude.double() * whole / whole.square().sum(along, keepdim=True).sqrt() - weight[module]
    return made


@pytest.mark.parametrize("name", ["LoHa", "LoKr", "Tucker LoRA", "differences", "1x1 convolution given as a matrix",
                                  "matrix given as a 1x1 convolution", "DoRA over inputs", "DoRA over outputs"])  # fmt: skip
def test_other_forms_are_computed(family, tmp_path, name):
    file = forms({name: module.weight.double() for name, module in family.unet.named_modules() if hasattr(module, "weight")})[
        name
    ]
    path = file.write(tmp_path / "adapter.safetensors")
    for scale in (1.0, 0.4, -0.5) if name != "DoRA over outputs" else (1.0,):  # there the scale counts within the norm
        ours, weights, _ = loaded(family, path, scale)
        assert_equal(ours, changed_by_hand(family, file.changes, scale))
    weights.set((0.0,))
    own = {key.replace(".base_layer", ""): tensor for key, tensor in ours.unet.state_dict().items()}
    assert all(torch.equal(tensor, own[key]) for key, tensor in family.unet.state_dict().items()), "scale 0 leaves what was"


def test_several_changes_of_one_weight_add_up(family, tmp_path):
    weights = {name: module.weight.double() for name, module in family.unet.named_modules() if hasattr(module, "weight")}
    made = forms(weights)
    files = [made[name].write(tmp_path / f"{i}.safetensors") for i, name in enumerate(("LoHa", "LoKr", "differences"))]
    files.append(File(8).lora(UNET, alpha=own_alpha).write(tmp_path / "lora.safetensors"))
    changes = [made[name].changes for name in ("LoHa", "LoKr", "differences")] + [File(8).lora(UNET, alpha=own_alpha).changes]
    own = copy.deepcopy(family)
    learned = find_learned("demo", [(file, scale) for file, scale in zip(files, (0.3, -0.2, 0.5, 0.8), strict=True)])
    parts, _ = add_adapters(own, learned.files, partial=False)
    LoadedWeights(learned.files, parts)
    by_hand = family
    for change, scale in zip(changes, (0.3, -0.2, 0.5, 0.8), strict=True):
        by_hand = changed_by_hand(by_hand, change, scale)
    assert_equal(own, by_hand)


def test_the_names_of_the_original_unet_are_those_of_stable_diffusion():
    """Of Stable Diffusion 1.5 (two layers a block, attention in the first three), as its checkpoints have them."""
    modules = [
        "conv_in", "down_blocks.0.attentions.0.proj_in", "down_blocks.0.attentions.1", "down_blocks.0.downsamplers.0.conv",
        "down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.1.conv2",
        "down_blocks.2.attentions.1", "down_blocks.3.resnets.1.time_emb_proj", "mid_block.resnets.0.conv1",
        "mid_block.attentions.0",
        "up_blocks.0.resnets.2.conv_shortcut", "up_blocks.0.upsamplers.0.conv", "up_blocks.1.attentions.0",
        "up_blocks.1.upsamplers.0.conv", "up_blocks.3.attentions.2", "conv_out", "time_embedding.linear_1", "somewhere.else",
    ]  # fmt: skip
    assert original_names(modules) == [
        "input_blocks.0.0", "input_blocks.1.1.proj_in", "input_blocks.2.1", "input_blocks.3.0.op",
        "input_blocks.1.0.in_layers.2", "input_blocks.2.0.out_layers.3",
        "input_blocks.8.1", "input_blocks.11.0.emb_layers.1", "middle_block.0.in_layers.2", "middle_block.1",
        "output_blocks.2.0.skip_connection", "output_blocks.2.1.conv", "output_blocks.3.1",
        "output_blocks.5.2.conv", "output_blocks.11.1", "out.2", "time_embed.0", None,
    ]  # fmt: skip


def test_each_of_three_networks_has_its_own_tensors():
    """A name that two networks share belongs to the first; the longest prefix tells the network of a name."""
    second = NetworkNames(("text_encoder_2.text_model.", "text_model."), ("lora_te2_text_model_",), inner="text_model.")
    names = {**STABLE_DIFFUSION.networks, "text_encoder_2": second}
    modules = {"unet": ["mid_block.attentions.0.proj_in"], **dict.fromkeys(("text_encoder", "text_encoder_2"), ["layers.0.fc1"])}
    place = {
        "lora_unet_middle_block_1_proj_in": ("unet", "mid_block.attentions.0.proj_in"),
        "lora_te1_text_model_layers_0_fc1": ("text_encoder", "layers.0.fc1"),
        "lora_te2_text_model_layers_0_fc1": ("text_encoder_2", "layers.0.fc1"),
        "text_encoder_2.text_model.layers.0.fc1": ("text_encoder_2", "layers.0.fc1"),
        "text_model.layers.0.fc1": ("text_encoder", "layers.0.fc1"),
    }
    for name, expected in place.items():
        found, _ = sorted_out({f"{name}.lora_up.weight": 0}, modules, names)
        assert found == {expected: {"B": 0}} and network_of(name, names) == expected[0]
    assert second.written("layers.0.fc1") == second.written("text_model.layers.0.fc1") == "text_encoder_2.text_model.layers.0.fc1"
    assert list(KOHYA.names(second, ["text_model.layers.0.fc1"]).values()) == ["lora_te2_text_model_layers_0_fc1"]


def test_a_tensor_for_an_occupied_module_is_skipped(family, tmp_path):
    file = File().lora(UNET)
    name = list(file.tensors)[0]
    twice = name.replace("lora_unet_", "lycoris_")
    file.tensors[twice] = file.tensors[name].clone()
    _, names = sorted_out(file.tensors, {"unet": UNET, "text_encoder": TEXT}, STABLE_DIFFUSION.networks)
    assert set(file.tensors) - set(names.values()) == {twice}
    with pytest.raises(InputError, match=f"1 tensors do not fit this base model: {twice}"):
        loaded(family, file.write(tmp_path / "lora.safetensors"))
    assert split("emb_params") is None and split(".alpha") is None
