"""Counter-based randomness: draws depend on their coordinates, not on earlier draws."""

import hashlib

import torch

from customize.diffusion import rng


def test_a_draw_depends_on_its_four_coordinates_alone():
    first = torch.rand(5, generator=rng.generator(1, "noise", 2, 3))
    torch.rand(100)
    assert torch.equal(first, torch.rand(5, generator=rng.generator(1, "noise", 2, 3)))
    others = [(0, "noise", 2, 3), (1, "latent", 2, 3), (1, "noise", 3, 3), (1, "noise", 2, 4), (1, "noise", 23, 0)]
    assert all(not torch.equal(first, torch.rand(5, generator=rng.generator(*other))) for other in others)


def test_draws_do_not_depend_on_how_positions_are_split():
    whole = rng.normal((2, 3), 0, "noise", 7, range(4))
    parts = [rng.normal((2, 3), 0, "noise", 7, positions) for positions in (range(2), range(2, 3), range(3, 4))]
    assert torch.equal(whole, torch.cat(parts))
    integers = rng.integers(1000, 0, "timestep", 7, range(4))
    assert torch.equal(integers[2:], rng.integers(1000, 0, "timestep", 7, range(2, 4)))


def test_draws_have_the_right_distribution():
    normal = rng.normal((50,), 0, "noise", 0, range(200))
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03
    integers = rng.integers(10, 0, "timestep", 0, range(2000))
    assert integers.bincount(minlength=10).min() > 140 and integers.max() == 9
    uniform = rng.uniform(0, "dropout", 0, range(2000))
    assert 0 <= uniform.min() and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.03


def test_every_epoch_has_each_item_once_in_another_order():
    epochs = [[rng.shuffled(5 * epoch + i, 5, 0, "order") for i in range(5)] for epoch in range(20)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10


def test_the_seed_of_a_draw_has_a_fixed_value():
    """A run that is resumed by a later version of this code draws the same numbers: 63 bits of BLAKE2b of the four keys."""
    expected = int.from_bytes(hashlib.blake2b(b"7/noise/3/1", digest_size=8).digest(), "little") // 2
    assert rng.generator(7, "noise", 3, 1).initial_seed() == expected == 5017506220774216606
