"""Tensors of any shapes beside a module: they fit it and change it, or they do not fit; nothing else happens."""

import random

import pytest
import torch
from torch import nn

from customize.adapters.forms import lycoris
from customize.weights.load_adapters import fits
from customize.weights.peft_terms import with_configuration

LINEAR, CONV = nn.Linear(8, 32), nn.Conv2d(8, 16, 3)
OTHERS = (nn.Linear(16, 16, bias=False), nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8), nn.SiLU())
VALID = [
    (LINEAR, {"weight": (32, 8), "bias": (32,)}),
    (LINEAR, {"A": (4, 8), "B": (32, 4), "dora_scale": (1, 8), "alpha": ()}),
    (CONV, {"A": (4, 8, 1, 1), "B": (16, 4, 1, 1), "mid": (4, 4, 3, 3), "alpha": (1,)}),
    (LINEAR, {"hada_w1_a": (32, 4), "hada_w1_b": (4, 8), "hada_w2_a": (32, 4), "hada_w2_b": (4, 8), "dora_scale": (32, 1)}),
    (CONV, {"hada_w1_a": (2, 16), "hada_w1_b": (2, 8), "hada_w2_a": (2, 16), "hada_w2_b": (2, 8), "hada_t1": (2, 2, 3, 3),
            "hada_t2": (2, 2, 3, 3)}),
    (LINEAR, {"lokr_w1": (4, 2), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 4), "alpha": ()}),
    (CONV, {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 2), "lokr_w2_a": (2, 4), "lokr_w2_b": (2, 4), "lokr_t2": (2, 2, 3, 3)}),
    (LINEAR, {"a1": (8, 4), "a2": (4, 8), "b1": (32, 4), "b2": (4, 8), "alpha": ()}),
    (CONV, {"ia3": (1, 16, 1, 1), "on_input": ()}), (LINEAR, {"ia3_l": (32, 1)}),
    (LINEAR, {"oft_blocks": (4, 8, 8), "rescale": (32, 1), "alpha": ()}), (CONV, {"oft_blocks": (2, 2, 8, 8)}),
    (LINEAR, {"oft_R": (2, 6), "scaled_oft": ()}), (CONV, {"oft_R": (9, 28)}),
]  # fmt: skip
"""Modules, and the shapes of tensors that change them."""
KINDS = [*dict.fromkeys(kind for form in lycoris.FORMS for kind in form), "ia3_l", "bias", "alpha", "B_bias", "magnitude"]
SIZES = (0, 1, 1, 2, 3, 4, 6, 8, 8, 16, 28, 32)


def drawn(draw: random.Random) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A valid example with some of its tensors of another shape, left out or added, or beside another module."""
    module, shapes = draw.choice(VALID)
    changed = {kind: shape for kind, shape in shapes.items() if draw.random() < 0.95}
    for kind in [*changed, draw.choice(KINDS)]:
        if draw.random() < 0.15:
            changed[kind] = tuple(draw.choice(SIZES) for _ in range(draw.choice((0, 1, 2, 2, 3, 4))))
    whole = ("on_input", "series")
    terms = {kind: torch.zeros(shape).long() if kind in whole else torch.rand(shape) for kind, shape in changed.items()}
    return draw.choice((module, module, module, draw.choice(OTHERS))), terms


@pytest.mark.parametrize("seed", range(4))
def test_terms_fit_and_change_the_module_or_do_not_fit(seed):
    draw, fitting = random.Random(seed), set()
    torch.manual_seed(seed)
    for _ in range(600):
        module, terms = drawn(draw)
        config = draw.choice(
            [{}, {}, {"peft_type": "OFT", "use_cayley_neumann": False}, {"peft_type": "LOKR", "r": 2, "alpha": 1}]
        )
        terms = with_configuration(module, "a.b", terms, config)
        if not fits(module, terms) or {"magnitude", "B_bias"} & terms.keys():
            continue
        names = (["bias"] if "bias" in terms else []) + (["weight"] if terms.keys() - {"bias", "alpha"} else [])
        for name in names:
            base = getattr(module, name).detach()
            for scale in (1.0, 0.3):
                change = lycoris.change(terms, name, base, scale)
                assert change.shape == base.shape
        fitting.add(frozenset(terms))
    assert len(fitting) >= 12


@pytest.mark.parametrize("shape, is_fit", [((4, 1), True), ((1, 28), True), ((2, 6), True), ((2, 5), False), ((3, 1), False)])
def test_packed_rotations_are_triangles_of_blocks_that_fill_the_inputs(shape, is_fit):
    assert fits(nn.Linear(8, 8), {"oft_R": torch.zeros(shape), "series": torch.tensor(5)}) is is_fit


def test_the_inputs_of_a_square_convolution_are_told_by_the_configuration():
    """As a list of names or as one text, as peft accepts both."""
    module = nn.Conv2d(8, 8, 1)
    for named in ("net.2", ["net.2"], []):
        terms = with_configuration(
            module, "x.net.2", {"ia3_l": torch.arange(8.0).view(1, 8, 1, 1)}, {"feedforward_modules": named}
        )
        factors = torch.arange(8.0).view((1, 8, 1, 1) if named else (8, 1, 1, 1)) - 1
        torch.testing.assert_close(lycoris.change(terms, "weight", module.weight), module.weight * factors)
