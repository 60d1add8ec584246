"""Every row of the table in docs/files.md: a small file of that layout is loaded, and changes what a formula in float64 says."""

import copy
import re
from pathlib import Path

import pytest
import torch
from layouts_of_others import LAYOUTS, built
from models import tiny_stable_diffusion_xl

from customize import families
from customize.adapters.peft_layers import merge
from customize.weights.learned_weights import find_learned
from customize.weights.load_adapters import add_adapters
from customize.weights.load_weights import add_embeddings, read_tensors

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
    changed = parameters(own)
    assert changed.keys() == before.keys() and layout.changes.keys() <= before.keys()
    for parameter, tensor in changed.items():
        expected = layout.changes.get(parameter, torch.zeros(()))
        torch.testing.assert_close(tensor - before[parameter], expected.expand_as(tensor).double(), rtol=0, atol=1e-5)
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
        for parameter, tensor in parameters(own).items():
            expected = 0.25 * layout.changes.get(parameter, torch.zeros(())).double().expand_as(tensor)
            torch.testing.assert_close(tensor - before[parameter], expected, rtol=0, atol=1e-5)


def test_the_table_has_a_row_for_each_case_and_no_other():
    assert [*rows()] == [*LAYOUTS] and len(LAYOUTS) >= 24


def test_the_keys_of_the_table_are_those_of_the_files(bases):
    """The second cell of each row is a key of the file of that row, with `...` for any part."""
    for name, cells in rows().items():
        layout = built(name, parameters(bases[LAYOUTS[name][1]][1]))
        pattern = re.escape(cells[0].strip("`")).replace(re.escape("..."), ".*")
        assert any(re.fullmatch(pattern, key) for key in layout.tensors), (name, cells[0], [*layout.tensors][:3])
