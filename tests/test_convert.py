"""`customize convert`: adapters and embeddings in every layout, and back with every bit."""

import hashlib
import itertools
import json
import subprocess
import sys

import pytest
import torch
from adapters_of_others import TEXT as TEXT_LAYERS
from adapters_of_others import UNET, File
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_layouts import KNOWN, SD1, SD2, XL

from customize.adapters.lora_files import in_layout
from customize.adapters.lora_layouts import LAYOUTS
from customize.cli import commands
from customize.errors import InputError
from customize.weights.tools.conversion import EMBEDDINGS, ENCODERS, convert
from customize.weights.weight_file import check_file

CHOSEN = {
    SD1: ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0", "mid_block.attentions.0.proj_in", "conv_in",
          "up_blocks.0.upsamplers.0.conv", "down_blocks.1.resnets.0.conv_shortcut", "time_embedding.linear_2",
          "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_k", "down_blocks.2.downsamplers.0.conv",
          "up_blocks.1.attentions.1.transformer_blocks.0.ff.net.2", "mid_block.resnets.1.time_emb_proj"),
    XL: ("down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_v", "up_blocks.0.upsamplers.0.conv",
         "up_blocks.1.attentions.2.transformer_blocks.1.ff.net.0.proj", "add_embedding.linear_1",
         "mid_block.attentions.0.proj_out",
         "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.0.resnets.1.conv2", "conv_out"),
}  # fmt: skip
CHOSEN[SD2] = CHOSEN[SD1]
TEXT = ("encoder.layers.0.self_attn.out_proj", "encoder.layers.11.mlp.fc1")
ALPHAS = (1.0, 0.5, 12.0, 0.1)


def layers(title: str, texts: bool, dora: bool = False, dtype: torch.dtype = torch.float32) -> dict:
    """Adapters of some modules, each with another rank and alpha."""
    random = torch.Generator().manual_seed(0)
    places = [("unet", name) for name in CHOSEN[title]]
    places += [(part, name) for part in KNOWN[title].shapes if part != "unet" and texts for name in TEXT]
    made = {}
    for i, (part, name) in enumerate(places):
        shape, rank = KNOWN[title].shapes[part][name], 1 + i % 3
        down = torch.randn(rank, *shape[1:], generator=random).to(dtype)
        up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=random).to(dtype)
        made[part, name] = {"A": down, "B": up, "alpha": torch.tensor(ALPHAS[i % 4], dtype=dtype)}
        if dora:
            made[part, name]["dora_scale"] = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=random).to(dtype)
    return made


def written(path, title: str, layout: str, **options):
    texts = layout not in ("peft", "lycoris")
    tensors, metadata = in_layout(LAYOUTS[layout], layers(title, texts, **options), KNOWN[title].networks, KNOWN[title].modules)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"ss_output_name": "mine", **metadata})
    return path


def metadata_of(path) -> dict[str, str]:
    with safe_open(path, "pt") as opened:
        return opened.metadata() or {}


def assert_same(first, second) -> None:
    """Every tensor, with its number format, and all metadata but the configuration's order."""
    ours, theirs = load_file(first), load_file(second)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name
    one, other = ({key: value for key, value in metadata_of(path).items() if key != "format"} for path in (first, second))
    assert one == other


PAIRS = list(itertools.permutations(LAYOUTS, 2))


@pytest.mark.parametrize(
    ("title", "dtype"),
    [
        (SD1, torch.float32),
        pytest.param(SD2, torch.float16, marks=pytest.mark.slow),
        pytest.param(XL, torch.bfloat16, marks=pytest.mark.slow),
    ],
    ids=str,
)  # fmt: skip
def test_there_and_back_every_bit_is_the_same(title, dtype, tmp_path):
    """For every pair of layouts: tensors, alphas, ranks, number formats and metadata. UNet alone where a layout holds no more."""
    for first, second in PAIRS:
        holds_one = {"peft", "lycoris"} & {first, second}
        start = written(tmp_path / f"{first}.safetensors", title, "peft" if holds_one else first, dtype=dtype)
        if holds_one and first != "peft":
            convert(start, tmp_path / "start.safetensors", first, overwrite=True)
            start = tmp_path / "start.safetensors"
        convert(start, tmp_path / "there.safetensors", second, overwrite=True)
        convert(tmp_path / "there.safetensors", tmp_path / "back.safetensors", first, overwrite=True)
        assert_same(start, tmp_path / "back.safetensors")
        assert (
            load_file(tmp_path / "there.safetensors").keys() != load_file(start).keys()
            or first.split("-")[0] == second.split("-")[0]
        )


@pytest.mark.parametrize("title", [SD1, XL])
def test_a_dora_comes_back_too(title, tmp_path):
    names = [name for name in LAYOUTS if name not in ("peft", "lycoris", "diffusers-old")]
    for first, second in itertools.permutations(names, 2):
        start = written(tmp_path / "start.safetensors", title, first, dora=True)
        convert(start, tmp_path / "there.safetensors", second, overwrite=True)
        convert(tmp_path / "there.safetensors", tmp_path / "back.safetensors", first, overwrite=True)
        assert_same(start, tmp_path / "back.safetensors")


def test_the_alpha_of_each_layer_stays_its_scale(tmp_path):
    """Missing ones become the rank; those of a rank-stabilised LoRA the alpha with the same scale; in diffusers' layout they are
    in the configuration."""
    tensors, _ = in_layout(LAYOUTS["kohya"], layers(SD1, True), KNOWN[SD1].networks, KNOWN[SD1].modules)
    some = {name: tensor for i, (name, tensor) in enumerate(tensors.items()) if not name.endswith(".alpha") or i % 2}
    save_file(some, tmp_path / "some.safetensors")
    convert(tmp_path / "some.safetensors", tmp_path / "peft.safetensors", "diffusers")
    configuration = json.loads(metadata_of(tmp_path / "peft.safetensors")["lora_adapter_metadata"])
    convert(tmp_path / "peft.safetensors", tmp_path / "back.safetensors", "kohya")
    back = load_file(tmp_path / "back.safetensors")
    for name in (name for name in tensors if name.endswith(".alpha")):
        rank = float(len(tensors[name.replace(".alpha", ".lora_down.weight")]))
        assert float(back[name]) == (float(tensors[name]) if name in some else rank)
    assert configuration["unet.rank_pattern"] and configuration["text_encoder.alpha_pattern"]
    configuration |= {"unet.use_rslora": True}
    save_file(
        load_file(tmp_path / "peft.safetensors"),
        tmp_path / "rs.safetensors",
        {"lora_adapter_metadata": json.dumps(configuration)},
    )
    convert(tmp_path / "rs.safetensors", tmp_path / "stable.safetensors", "kohya")
    stable = load_file(tmp_path / "stable.safetensors")
    for name in (name for name in back if name.endswith(".alpha")):
        rank = len(back[name.replace(".alpha", ".lora_down.weight")])
        assert float(stable[name]) == pytest.approx(float(back[name]) * (rank**0.5 if "unet" in name else 1), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.float16, torch.float8_e4m3fn], ids=str)
def test_alphas_in_another_format_than_the_weights_come_back(dtype, tmp_path):
    tensors, _ = in_layout(LAYOUTS["kohya"], layers(SD1, True, dtype=torch.float16), KNOWN[SD1].networks, KNOWN[SD1].modules)
    alphas = {name: torch.tensor(4, dtype=dtype) for name in tensors if name.endswith(".alpha")}
    save_file(tensors | alphas, tmp_path / "a.safetensors")
    for layout in ("diffusers", "diffusers-old"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", layout, overwrite=True)
        convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "kohya", overwrite=True)
        assert_same(tmp_path / "a.safetensors", tmp_path / "c.safetensors")


def test_stock_diffusers_reads_alphas_from_the_configuration(tiny_epsilon, tmp_path):
    """A LoRA for another model than the known ones, with ranks and alphas per layer, in both layouts."""
    from diffusers import StableDiffusionPipeline

    file = File().lora({**UNET, **TEXT_LAYERS}, rank=lambda i: 1 + i % 3, alpha=lambda i: ALPHAS[i % 4])
    start = file.write(tmp_path / "kohya.safetensors")
    with pytest.raises(InputError, match="(?s)tensors fit no module of a known base model.*--pretrained_model_name_or_path"):
        convert(start, tmp_path / "out.safetensors", "diffusers")
    convert(start, tmp_path / "out.safetensors", "diffusers", base=str(tiny_epsilon))
    stock = StableDiffusionPipeline.from_pretrained(tiny_epsilon, safety_checker=None)
    stock.load_lora_weights(tmp_path / "out.safetensors")
    for module, change in file.changes.items():
        network = stock.text_encoder if module.startswith("encoder") else stock.unet
        layer = network.get_submodule(module)
        [name] = layer.lora_A
        torch.testing.assert_close(layer.get_delta_weight(name).double(), change, rtol=0, atol=1e-6)


def test_other_adapters_change_between_layouts_with_lycoris_names(tmp_path):
    """LoHa, LoKr, differences and embeddings beside them keep their tensors; layouts of LoRA alone refuse them by name."""
    conv, sizes = "lora_unet_down_blocks_0_resnets_0_conv1", {"a": (320, 4), "b": (4, 320 * 9)}
    tensors = {f"{conv}.hada_w{i}_{side}": torch.randn(*sizes[side]) for i in (1, 2) for side in "ab"}
    tensors |= {f"{conv}.alpha": torch.tensor(2), "lora_unet_conv_in.diff": torch.randn(320, 4, 3, 3)}
    tensors |= {"lora_unet_down_blocks_0_attentions_0_norm.w_norm": torch.randn(320)}
    tensors |= {"bundle_emb.cat.emb_params": torch.randn(2, 768)}
    save_file(tensors, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "comfyui")
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", "kohya")
    assert_same(tmp_path / "a.safetensors", tmp_path / "c.safetensors")
    there = load_file(tmp_path / "b.safetensors")
    assert "diffusion_model.input_blocks.1.0.in_layers.2.hada_w1_a" in there and "diffusion_model.input_blocks.0.0.diff" in there
    with pytest.raises(InputError, match="the layout of diffusers has no place for the embeddings"):
        convert(tmp_path / "a.safetensors", tmp_path / "d.safetensors", "diffusers")
    save_file({name: each for name, each in tensors.items() if "bundle" not in name}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="the layout of peft has no place for .*hada_w1_a of unet.down_blocks.0.resnets.0.conv1"):
        convert(tmp_path / "a.safetensors", tmp_path / "d.safetensors", "peft")
    assert not (tmp_path / "d.safetensors").exists()


@pytest.mark.parametrize("title", [SD1, XL])
def test_a_layout_without_a_name_is_refused(title, tmp_path):
    start = written(tmp_path / "a.safetensors", title, "kohya")
    with pytest.raises(InputError, match="a file of peft holds one network"):
        convert(start, tmp_path / "b.safetensors", "peft")
    if title == XL:
        with pytest.raises(InputError, match="the layout of LyCORIS has no name for text_encoder"):
            convert(start, tmp_path / "b.safetensors", "lycoris")


WORDS = {
    "one vector, SD1": ({"<cat>": (1, 768)}, EMBEDDINGS),
    "three vectors, SD2": ({"<cat>": (3, 1024)}, EMBEDDINGS),
    "two words": ({"<cat>": (1, 768), "<dog>": (768,)}, ["diffusers"]),
    "SDXL": ({"clip_l": (2, 768), "clip_g": (2, 1280)}, ["comfyui", "a1111"]),
}


@pytest.mark.parametrize("case", WORDS)
def test_embeddings_there_and_back(case, tmp_path):
    shapes, expressible = WORDS[case]
    start = tmp_path / "cat.safetensors"
    named = {"placeholder_token": "<cat>"} if case == "SDXL" else {}
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, start, {"modelspec.title": "cat", **named})
    own = "comfyui" if case == "SDXL" else "diffusers"
    for layout in EMBEDDINGS:
        there, back = tmp_path / f"{layout}.safetensors", tmp_path / f"back {layout}.safetensors"
        if layout not in expressible:
            with pytest.raises(InputError, match="holds one embedding|from a file of its own"):
                convert(start, there, layout)
            continue
        convert(start, there, layout)
        convert(there, back, own)
        ours, theirs = load_file(start), load_file(back)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert list(check_file(there, 1.0).placeholders) == [name for name in shapes if "clip" not in name] or case == "SDXL"
        assert metadata_of(there)["modelspec.title"] == "cat"
        keys = {"a1111": {"emb_params"}, "comfyui": {ENCODERS[shapes.get("<cat>", (768,))[-1]]}, "diffusers": set(shapes)}
        assert load_file(there).keys() == (keys[layout] if case != "SDXL" else set(shapes))


def test_the_command(tmp_path, capsys):
    start = written(tmp_path / "a.safetensors", XL, "diffusers")
    assert commands.convert([str(start), str(tmp_path / "out.safetensors")]) == 0
    output = capsys.readouterr().out
    assert "tensors in the layout of kohya; read by ComfyUI, A1111," in output and "note: the alphas of layers differ" in output
    assert any("lora_te2_text_model" in name for name in load_file(tmp_path / "out.safetensors"))
    before = start.read_bytes()
    assert commands.convert([str(start), str(tmp_path / "old.safetensors"), "--layout", "diffusers-old"]) == 0
    assert "note: alpha is not the rank" in capsys.readouterr().out
    for words, status, expected in (
        ([], 2, "the following arguments are required: FILE, OUT -> customize convert FILE OUT"),
        ([start, tmp_path / "out.safetensors"], 2, "already exists -> add --overwrite"),
        ([start, tmp_path / "out.safetensors", "--overwrite", "--save-precision", "fp16"], 0, "in the layout of kohya"),
        ([start, start, "--overwrite"], 2, "is the file to read"),
        ([start, tmp_path / "b.bin"], 2, "is not the name of a .safetensors file -> name it b.safetensors"),
        ([start, tmp_path / "b.safetensors", "--layout", "a1111"], 2, "a1111 is not a layout of an adapter"),
        ([tmp_path / "no.safetensors", tmp_path / "b.safetensors"], 2, "no.safetensors"),
    ):  # fmt: skip
        assert commands.convert([str(word) for word in words]) == status, words
        assert expected in " ".join("".join(capsys.readouterr()).split())
    (tmp_path / "theirs.safetensors").write_bytes(before)
    assert commands.convert([str(start), str(tmp_path / "theirs.safetensors"), "--overwrite"]) == 2
    assert "was not written by this program" in capsys.readouterr().err
    assert start.read_bytes() == before == (tmp_path / "theirs.safetensors").read_bytes()
    assert {tensor.dtype for name, tensor in load_file(tmp_path / "out.safetensors").items() if "lora" in name} >= {torch.float16}


def test_help_and_refusals_need_no_torch(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"PK")
    for words in (["--help"], ["a.safetensors", "b.safetensors"]):
        code = f"import sys; from customize.cli import commands; commands.convert({words}); sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True).returncode == 0


def test_peft_loads_the_folder(tiny_epsilon, tmp_path):
    """peft's own loader, on the UNet alone, with ranks and alphas per layer; and back from the folder."""
    from diffusers import UNet2DConditionModel
    from peft import PeftModel

    file = File().lora(UNET, rank=lambda i: 1 + i % 3, alpha=lambda i: ALPHAS[i % 4])
    start = file.write(tmp_path / "kohya.safetensors", {"sshs_model_hash": "00" * 32})
    convert(start, tmp_path / "folder", "peft", base=str(tiny_epsilon))
    assert sorted(path.name for path in (tmp_path / "folder").iterdir() if not path.name.startswith(".")) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    network = PeftModel.from_pretrained(UNet2DConditionModel.from_pretrained(tiny_epsilon / "unet"), tmp_path / "folder")
    for module, change in file.changes.items():
        found = network.base_model.model.get_submodule(module).get_delta_weight("default")
        torch.testing.assert_close(found.double(), change, rtol=0, atol=1e-6)
    convert(tmp_path / "folder/adapter_model.safetensors", tmp_path / "back.safetensors", "kohya", base=str(tiny_epsilon))
    ours, theirs = load_file(start), load_file(tmp_path / "back.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    content = (tmp_path / "back.safetensors").read_bytes()
    digest = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
    assert metadata_of(tmp_path / "back.safetensors")["sshs_model_hash"] == digest
