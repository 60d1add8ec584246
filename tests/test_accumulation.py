"""Accumulated micro-batches are one large batch, in double precision to the last digits; every sample weighs the same."""

from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from kit import prepared, settings_for, write_pictures

from customize.trainer import train


class Double:
    """Batches in float64, which remember what they gave."""

    def __init__(self, batches):
        self.batches, self.given = batches, []

    def batch(self, step, positions):
        batch = self.batches.batch(step, positions)
        self.given += [(name, prompt) for name, prompt in zip(batch.names, batch.prompts, strict=True)]
        values = {field.name: getattr(batch, field.name) for field in fields(batch)}
        floats = {name: value.double() for name, value in values.items() if torch.is_tensor(value) and value.is_floating_point()}
        return replace(batch, **floats)


def learned(method, base, pictures, folder, size, accumulated):
    settings = settings_for(
        method, base, pictures, folder, train_batch_size=size, gradient_accumulation_steps=accumulated, snr_gamma=5.0,
        max_train_steps=3,
    )  # fmt: skip
    bench, training = prepared(settings)
    model, batches, condition = training.method.double(), Double(training.batches), training.method.condition
    model.condition = lambda prompts: condition(prompts).double()
    train(settings, model, batches, [], bench.accelerator, 3)
    return {name: tensor.detach().clone() for name, tensor in model.learned().items()}, batches.given


@pytest.mark.parametrize("method", ["textual_inversion", "lora"])
@pytest.mark.parametrize("base", ["tiny_epsilon", pytest.param("tiny_v", marks=pytest.mark.slow)])
def test_four_by_one_two_by_two_and_one_by_four_are_the_same(method, base, pictures, tmp_path, request):
    """Three pictures in groups of four: a group ends in the middle of an epoch."""
    base = request.getfixturevalue(base)
    expected, drawn = learned(method, base, pictures, tmp_path, 4, 1)
    assert all(tensor.dtype == torch.float64 for tensor in expected.values()) and len(drawn) == 12
    for size, accumulated in ((2, 2), (1, 4)):
        found, given = learned(method, base, pictures, tmp_path, size, accumulated)
        assert given == drawn
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_class", [2, 7])
@pytest.mark.parametrize("size, accumulated", [(4, 1), (2, 2), (1, 4)])
def test_every_picture_counts_the_same(num_class, size, accumulated, tiny_epsilon, pictures, tmp_path):
    """Fewer and more class pictures than the three of the subject, in groups that go into neither."""
    changes = {
        "train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_train_steps": 5, "prior_loss_weight": 0.25,
        "prior_preservation": "images", "class_prompt": "a photo of dog", "num_class_images": num_class,
        "class_data_dir": str(write_pictures(tmp_path / "class", num_class, seed=1)),
    }  # fmt: skip
    _, training = prepared(settings_for("full", tiny_epsilon, pictures, tmp_path / "run", **changes))
    used: dict[str, Counter] = {"a photo of sks dog": Counter(), "a photo of dog": Counter()}
    for step in range(5):
        for first in range(0, 4, size):
            batch = training.batches.batch(step, range(first, first + size))
            assert batch.weights.tolist() == [1.0] * size + [0.25] * size
            for name, prompt in zip(batch.names, batch.prompts, strict=True):
                used[prompt][name] += 1
    for count, number in zip(used.values(), (3, num_class), strict=True):
        assert count.total() == 20 and len(count) == number and max(count.values()) - min(count.values()) <= 1
