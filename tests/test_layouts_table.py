"""Every row of the table in docs/files.md: a small file of that layout is loaded, and changes what a formula in float64 says."""

import copy
import re
from pathlib import Path

import pytest
import torch
from layouts_of_others import LAYOUTS, built
from models import tiny_stable_diffusion_xl
from safetensors.torch import save_file

from customize import families
from customize.adapters.peft_layers import merge
from customize.errors import InputError
from customize.weights.learned_weights import find_learned
from customize.weights.load_adapters import add_adapters
from customize.weights.load_weights import add_embeddings, read_tensors
from customize.weights.tools.conversion import convert

PAGE = Path(__file__).parent.parent / "docs/files.md"


def rows() -> dict[str, list[str]]:
    """The cells of each row of the table of layouts, by the first one."""
    table = PAGE.read_text().partition("<!-- layouts -->")[2].partition("<!-- end -->")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in lines[2:]}


@pytest.fixture(scope="module")
def bases(tiny_epsilon, tmp_path_factory):
    paths = {"sd": tiny_epsilon, "sdxl": tiny_stable_diffusion_xl(tmp_path_factory.mktemp("models") / "tiny_xl")}
    return {name: (str(path), families.load(families.locate(str(path)))) for name, path in paths.items()}


def parameters(family) -> dict[str, torch.Tensor]:
    """Every parameter in float64, such as `unet.conv_in.weight`."""
    return {
        f"{part}.{name}": tensor.detach().double()
        for part, network in family.trainable.items()
        for name, tensor in network.named_parameters()
    }


def assert_changes(family, before: dict[str, torch.Tensor], changes: dict[str, torch.Tensor]) -> None:
    """Every parameter changed as expected, within 1e-5, and no other changed."""
    after = parameters(family)
    assert after.keys() == before.keys() and changes.keys() <= before.keys()
    for name, tensor in after.items():
        if name in changes:
            torch.testing.assert_close(tensor - before[name], changes[name].double(), rtol=0, atol=1e-5)
        else:
            assert torch.equal(tensor, before[name]), name


@torch.no_grad()
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_changes_every_parameter_as_its_formula_says(bases, tmp_path, name):
    base, family = bases[LAYOUTS[name][1]]
    own = copy.deepcopy(family)
    before = parameters(own)
    layout = built(name, before)
    [file] = find_learned(base, [(layout.write(tmp_path), 1.0)]).files
    if layout.changes:
        [adapter], notes = add_adapters(own, [file], partial=False)
        adapter.set_scale(1.0)
        assert notes == []
        for network in own.trainable.values():
            merge(network)
    assert_changes(own, before, layout.changes)
    assert set(file.placeholders) == set(layout.words)
    if layout.words:
        add_embeddings(own, file, read_tensors(file))
    for word, expected in layout.words.items():
        for encoder, vectors in zip(own.text_encoders, expected, strict=True):
            assert torch.equal(encoder.vectors[word], vectors)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in LAYOUTS if re.search("OFT|GLoRA|IA|biases|peft", name)])
def test_scale_0_is_the_base_and_the_scale_counts(bases, tmp_path, name):
    """At 0 to the bit. All but rotations by stages and DoRA are proportional to the scale."""
    base, family = bases[LAYOUTS[name][1]]
    own = copy.deepcopy(family)
    before = parameters(own)
    layout = built(name, before)
    [file] = find_learned(base, [(layout.write(tmp_path), 1.0)]).files
    [adapter], _ = add_adapters(own, [file], partial=False)
    adapter.set_scale(0.7)
    adapter.set_scale(0.0)
    plain = {key.replace(".base_layer", ""): tensor for key, tensor in parameters(own).items() if ".lora_" not in key}
    assert all(torch.equal(plain[key], tensor) for key, tensor in before.items())
    if not re.search("BOFT|diag-oft|DoRA", name):
        adapter.set_scale(0.25)
        for network in own.trainable.values():
            merge(network)
        assert_changes(own, before, {name: 0.25 * change for name, change in layout.changes.items()})


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in LAYOUTS if re.search("OFT|GLoRA|IA|peft|LoHa$|LoKr, both", name)])
def test_a_converted_file_changes_the_same_or_is_refused(bases, tmp_path, name):
    """Also where peft's configuration has the scale, which another layout stores in tensors."""
    base, family = bases["sd"]
    own = copy.deepcopy(family)
    before = parameters(own)
    layout, out = built(name, before), tmp_path / "out.safetensors"
    try:
        convert(layout.write(tmp_path), out, "kohya-diffusers", base)
    except InputError as error:
        assert layout.config and layout.config["peft_type"] in ("OFT", "IA3") and "of peft" in str(error)
        assert not out.exists()
        return
    [adapter], _ = add_adapters(own, find_learned(base, [(out, 1.0)]).files, partial=False)
    adapter.set_scale(1.0)
    for network in own.trainable.values():
        merge(network)
    assert_changes(own, before, layout.changes)


@torch.no_grad()
def test_a_bias_beside_a_module_without_one_works_but_cannot_be_merged(bases, tmp_path, recwarn):
    base, family = bases["sd"]
    own, module = copy.deepcopy(family), "mid_block.attentions.0.transformer_blocks.0.attn1.to_v"
    layer = own.unet.get_submodule(module)
    down, up, bias, x = (torch.randn(size) for size in ((4, 64), (64, 4), (64,), (2, 64)))
    expected = layer(x) + 0.5 * (x @ down.T @ up.T + bias)
    tensors = {"lora_A.weight": down, "lora_B.weight": up, "lora_B.bias": bias}
    save_file({f"unet.{module}.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "x.safetensors")
    [adapter], _ = add_adapters(own, find_learned(base, [(tmp_path / "x.safetensors", 1.0)]).files, partial=False)
    adapter.set_scale(0.5)
    torch.testing.assert_close(own.unet.get_submodule(module)(x), expected)
    assert not [each for each in recwarn if "lora_bias" in str(each.message)]
    with pytest.raises(InputError, match="biases for layers of the base model that have none"):
        merge(own.unet)


def test_the_table_has_a_row_for_each_case_and_no_other():
    assert [*rows()] == [*LAYOUTS] and len(LAYOUTS) >= 24


def test_the_keys_of_the_table_are_those_of_the_files(bases):
    """The second cell of each row is a key of the file of that row, with `...` for any part."""
    for name, cells in rows().items():
        layout = built(name, parameters(bases[LAYOUTS[name][1]][1]))
        pattern = re.escape(cells[0].strip("`")).replace(re.escape("..."), ".*")
        assert any(re.fullmatch(pattern, key) for key in layout.tensors), (name, cells[0], [*layout.tensors][:3])
