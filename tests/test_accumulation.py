"""Accumulated micro-batches are one large batch, in double precision to the last digits; every sample weighs the same."""

from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from kit import conditioning, hidden_states, prepared, settings_for, train_loop, write_images
from PIL import Image

from customize.diffusion import dropout


class Double:
    """Batches in float64, which remember what they gave."""

    def __init__(self, dataset):
        self.dataset, self.given = dataset, []

    def deal(self, step, positions):
        return [self.double(batch) for batch in self.dataset.deal(step, positions)]

    def double(self, batch):
        self.given += [(name, prompt) for name, prompt in zip(batch.names, batch.prompts, strict=True)]
        values = {field.name: getattr(batch, field.name) for field in fields(batch)}
        floats = {name: value.double() for name, value in values.items() if torch.is_tensor(value) and value.is_floating_point()}
        return replace(batch, **floats)


def learned(method, base, image_folder, folder, size, accumulated, **changes):
    settings = settings_for(
        method, base, image_folder, folder, train_batch_size=size, gradient_accumulation_steps=accumulated, snr_gamma=5.0,
        max_train_steps=3, **changes,
    )  # fmt: skip
    context, training = prepared(settings)
    model, batches, condition = training.method.double(), Double(training.dataset), training.method.condition
    model.condition = lambda prompts: conditioning(hidden_states(condition(prompts)).double())
    train_loop(settings, training, context.accelerator, 3, dataset=batches)
    return {name: tensor.detach().clone() for name, tensor in model.trainable_state_dict().items()}, batches.given


@pytest.mark.parametrize("method", ["textual_inversion", "lora"])
@pytest.mark.parametrize("base", ["tiny_epsilon", pytest.param("tiny_v", marks=pytest.mark.slow)])
def test_four_by_one_two_by_two_and_one_by_four_are_the_same(method, base, image_folder, tmp_path, request):
    """Three images in global batches of four: a batch ends in the middle of an epoch."""
    base = request.getfixturevalue(base)
    expected, drawn = learned(method, base, image_folder, tmp_path, 4, 1)
    assert all(tensor.dtype == torch.float64 for tensor in expected.values()) and len(drawn) == 12
    for size, accumulated in ((2, 2), (1, 4)):
        found, given = learned(method, base, image_folder, tmp_path, size, accumulated)
        assert given == drawn
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-12)


DROPOUT = {
    "a LoRA": {},
    "the text encoder, too": {"train_text_encoder": True},
    "long captions": {"train_text_encoder": True, "instance_prompt": "a photo of the small sks dog in the red house " * 9},
    "activations computed twice": {"gradient_checkpointing": True},
    "convolutions": {"lora_targets": ("attention", "conv1", "time_emb_proj")},
    "a DoRA": {"use_dora": True},
    "a prior by the teacher": {"prior_preservation": "teacher", "class_prompt": "a photo of dog"},
    "class images": {"prior_preservation": "images", "class_prompt": "a photo of dog", "num_class_images": 3},
    "masks": {"masked_loss": True, "masked_prior_preservation_weight": 0.5, "resolution": 16},
}


QUICK = ("a LoRA", "a prior by the teacher")


@pytest.mark.parametrize("kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in DROPOUT])
def test_dropout_masks_do_not_depend_on_micro_batches(kind, tiny_epsilon, image_folder, tmp_path):
    changes = {"lora_dropout": 0.5, **DROPOUT[kind]}
    if kind == "class images":
        changes["class_data_dir"] = str(image_folder)
        image_folder = write_images(tmp_path / "mine", 3, seed=5)
    if kind == "masks":
        image_folder = write_images(tmp_path / "mine", 3)
        for number in range(2):  # the third image has none
            Image.linear_gradient("L").resize((24, 16)).save(image_folder / f"{number}-mask.png")
    expected, drawn = learned("lora", tiny_epsilon, image_folder, tmp_path / "run", 4, 1, **changes)
    if kind == "a LoRA":
        without, _ = learned("lora", tiny_epsilon, image_folder, tmp_path / "run", 4, 1, **changes | {"lora_dropout": 0.0})
        assert max((expected[name] - without[name]).abs().max() for name in expected) > 1e-4
    for size, accumulated in ((2, 2), (1, 4)) if kind == "a LoRA" else ((2, 2),):
        found, _ = learned("lora", tiny_epsilon, image_folder, tmp_path / "run", size, accumulated, **changes)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-12)


def test_masks_are_independent_and_of_the_rate():
    """8 samples, 3 modules, 2 steps: each number is dropped as often as asked, no two masks agree more than by chance."""
    masks = []
    for step in (0, 1):
        for name in "abc":
            keys = dropout.Samples(3, step, tuple(range(8))).keys(name, 8, torch.device("cpu"))
            masks += list(dropout.keep(keys, (40, 50), 0.3).flatten(1).float())
    kept = torch.stack(masks)
    assert kept.mean().item() == pytest.approx(0.7, abs=0.005)
    assert kept.mean(0).var().item() == pytest.approx(0.21 / len(kept), rel=0.1)
    correlations = torch.corrcoef(kept) - torch.eye(len(kept))
    assert correlations.abs().max() < 5 / 2000**0.5
    along = torch.corrcoef(torch.stack([kept[:, :-1].flatten(), kept[:, 1:].flatten()]))[0, 1]
    assert along.abs() < 5 / kept.numel() ** 0.5


def test_a_mask_is_splitmix64_in_whole_numbers():
    """Against Python's integers."""
    key, size, p = 123456789123456789, 50, 0.4
    found = dropout.keep(torch.tensor([key]), (size,), p)[0].tolist()
    for number, kept in enumerate(found, 1):
        z = (key + number * 0x9E3779B97F4A7C15) % 2**64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        assert kept == (z >> 33 >= round(p * 2**31))


def test_dropout_keeps_the_mean_and_is_off_in_evaluation():
    module = dropout.SampleDropout(0.25, "x")
    ones = torch.ones(2, 1000)
    with dropout.samples(0, 0, [0, 1]):
        assert module(ones).unique().tolist() == pytest.approx([0.0, 4 / 3])
        assert not torch.equal(module(ones)[0], module(ones)[1])
        with dropout.samples(0, 0, [1]):
            alone = module(ones[:1])
        assert torch.equal(alone[0], module(ones)[1])
    assert torch.equal(module.eval()(ones), ones)


@pytest.mark.parametrize("num_class", [2, 7])
@pytest.mark.parametrize("size, accumulated", [(4, 1), (2, 2), (1, 4)])
def test_every_image_has_the_same_weight(num_class, size, accumulated, tiny_epsilon, image_folder, tmp_path):
    """Fewer and more class images than the three of the subject, in batches whose size divides neither number."""
    changes = {
        "train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_train_steps": 5, "prior_loss_weight": 0.25,
        "prior_preservation": "images", "class_prompt": "a photo of dog", "num_class_images": num_class,
        "class_data_dir": str(write_images(tmp_path / "class", num_class, seed=1)),
    }  # fmt: skip
    _, training = prepared(settings_for("full", tiny_epsilon, image_folder, tmp_path / "run", **changes))
    used: dict[str, Counter] = {"a photo of sks dog": Counter(), "a photo of dog": Counter()}
    for step in range(5):
        for first in range(0, 4, size):
            batch = training.dataset.deal(step, range(first, first + size))[0]
            assert batch.loss_weights.tolist() == [1.0] * size + [0.25] * size
            for name, prompt in zip(batch.names, batch.prompts, strict=True):
                used[prompt][name] += 1
    for count, number in zip(used.values(), (3, num_class), strict=True):
        assert count.total() == 20 and len(count) == number and max(count.values()) - min(count.values()) <= 1
