"""Conditioning, the named inputs of a denoiser: rows are samples, whatever the keys and shapes."""

import pytest
import torch

from customize.families.conditioning import Conditioning, slerp


def bundle(rows: int, seed: int = 0) -> Conditioning:
    """As an SDXL-like denoiser takes it, and one with an attention mask."""
    generator = torch.Generator().manual_seed(seed)
    return Conditioning(
        {
            "encoder_hidden_states": torch.randn(rows, 7, 5, generator=generator),
            "text_embeds": torch.randn(rows, 3, generator=generator),
            "attention_mask": torch.randint(2, (rows, 7), generator=generator),
        }
    )


def assert_equal(first: Conditioning, second: Conditioning) -> None:
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)


def test_rows_are_selected_split_and_joined_in_every_key():
    whole = bundle(6)
    assert len(whole) == 6
    for rows in (slice(1, 4), [5, 0, 0], torch.tensor([True, False] * 3)):
        assert_equal(whole[rows], Conditioning({name: tensor[rows] for name, tensor in whole.tensors.items()}))
    for sizes, lengths in ((4, [4, 2]), ([1, 2, 3], [1, 2, 3])):
        parts = whole.split(sizes)
        assert list(map(len, parts)) == lengths
        assert_equal(Conditioning.cat(parts), whole)


def test_parts_of_different_keys_are_not_joined():
    first = bundle(2)
    with pytest.raises(ValueError, match="different keys"):
        Conditioning.cat([first, first.extended(time_ids=torch.zeros(2, 6))])


def test_interpolation_is_linear_or_spherical_in_numbers_and_the_union_of_masks():
    first, second = bundle(2), bundle(2, seed=1)
    for spherical in (False, True):
        found = first.interpolate(second, 0.3, spherical)
        for name in ("encoder_hidden_states", "text_embeds"):
            a, b = first.tensors[name], second.tensors[name]
            expected = slerp(a, b, 0.3) if spherical else 0.7 * a.double() + 0.3 * b.double()
            torch.testing.assert_close(found.tensors[name].double(), expected.double(), rtol=1e-6, atol=1e-6)
        masks = [each.tensors["attention_mask"].bool() for each in (first, second, found)]
        assert torch.equal(masks[0] | masks[1], masks[2])


def test_a_bundle_moves_without_a_change_of_dtype():
    moved = bundle(2).extended(guidance_scale=torch.ones(2, dtype=torch.float64)).to("meta")
    assert {tensor.device.type for tensor in moved.tensors.values()} == {"meta"}
    assert moved.tensors["guidance_scale"].dtype == torch.float64 and not moved.tensors["attention_mask"].is_floating_point()
