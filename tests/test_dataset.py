"""A step is a list of batches, each of one shape of latents: how they are dealt, combined and summed."""

from dataclasses import fields, replace

import pytest
import torch
from kit import prepared, settings_for, train_loop, write_images

from customize.data.samples.batches import Batch
from customize.data.samples.latent_dataset import CachedImage, EpochSampler, LatentDataset, SampleConfig
from customize.data.samples.prior import PriorDistillation, PriorPreservation
from customize.families.conditioning import Conditioning, Crop
from customize.training.loop import with_last

C = 4


def caption(i):
    return f"a photo of sks dog {i}"


@pytest.fixture(scope="module")
def family(tiny_epsilon):
    from customize.families import load, locate

    return load(locate(str(tiny_epsilon)))


def crop(height, width):
    """All of an image of these latents."""
    return Crop.whole(2 * height, 2 * width)


def dataset_of(family, shapes, stream="instance", seed=3, global_batch=4):
    """A dataset of one image for each (H, W), with random moments."""
    config = SampleConfig(seed, global_batch)
    generator = torch.Generator().manual_seed(len(stream))
    images = [
        CachedImage(f"{stream} {i}", (caption(i),), {0: torch.randn(2 * C, *shape, generator=generator)}, [crop(*shape)])
        for i, shape in enumerate(shapes)
    ]
    return LatentDataset(family, config, EpochSampler(stream, config, len(images), [1] * len(images)), images)


MIXED = [(8, 8), (8, 16), (8, 8), (16, 8)]


def test_each_shape_is_a_batch_and_no_sample_is_lost(family):
    dataset = dataset_of(family, MIXED)
    for step in range(5):
        batches = dataset.deal(step, range(4))
        assert sorted(position for batch in batches for position in batch.positions) == [0, 1, 2, 3]
        assert len({batch.latents.shape[1:] for batch in batches}) == len(batches) == 3
        for batch in batches:
            assert len(batch) == len(batch.latents) == len(batch.prompts) and not batch.is_prior.any()
            for row, position in enumerate(batch.positions):
                [alone] = dataset.deal(step, [position])
                assert equal(batch.part(slice(row, row + 1)), alone)


def equal(one, other):
    values = ((getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in values)


def test_the_fixed_samples_are_of_one_shape(family):
    batch = dataset_of(family, MIXED).probe(6)
    assert batch.latents.shape == (6, C, 8, 8) and len(batch.timesteps.unique()) == 6
    assert batch.names == tuple(f"instance {i}" for i in (0, 2, 0, 2, 0, 2))
    assert batch.prompts == tuple(caption(i) for i in (0, 2, 0, 2, 0, 2))


def test_a_batch_is_split_and_joined(family):
    [batch] = dataset_of(family, [(8, 8)] * 3).deal(1, range(4))
    assert equal(Batch.cat([batch.part(slice(1)), batch.part(slice(1, None))]), batch)
    rows = torch.tensor([True, False, True, False])
    part = batch.part(rows)
    assert part.names == (batch.names[0], batch.names[2]) and torch.equal(part.noise, batch.noise[[0, 2]])
    assert part.positions == (0, 2) and len(part) == 2


def test_prior_samples_are_marked(family):
    """Of one shape they share a batch, the subject first; other shapes are batches of their own."""
    subject = dataset_of(family, [(8, 8), (8, 16)])
    for prior, prompts in (
        (PriorPreservation(subject, dataset_of(family, [(8, 8)], "class"), 0.5), [caption(0)] * 4),
        (PriorDistillation(subject, "a photo of dog", 0.5), ["a photo of dog"] * 4),
    ):
        batches = prior.deal(0, range(4))
        rows = [row for batch in batches for row in zip(batch.is_prior.tolist(), batch.loss_weights.tolist(), strict=True)]
        assert sorted(rows) == [(False, 1.0)] * 4 + [(True, 0.5)] * 4
        for batch in batches:
            assert batch.is_prior.tolist() == sorted(batch.is_prior.tolist())
        assert [
            prompt
            for batch in batches
            for prompt, is_prior in zip(batch.prompts, batch.is_prior.tolist(), strict=True)
            if is_prior
        ] == prompts
    first = PriorPreservation(subject, dataset_of(family, [(8, 8)], "class"), 0.5).deal(0, range(4))[0]
    assert len(first) in (2, 6), "two samples of the subject, with all four of the class where they have this shape"


class InDouble:
    """A dataset in float64."""

    def __init__(self, dataset):
        self.dataset = dataset

    def deal(self, step, positions):
        return [
            replace(batch, **{name: getattr(batch, name).double() for name in ("latents", "noise", "loss_weights")})
            for batch in self.dataset.deal(step, positions)
        ]


@pytest.mark.parametrize("size, accumulated", [(4, 1), (2, 2)])
@pytest.mark.parametrize("prior", [None, "teacher"])
def test_the_gradient_of_a_step_of_several_shapes(prior, size, accumulated, tiny_epsilon, tmp_path):
    """Equals that of the losses of each sample, computed apart and summed, in float64."""
    settings = settings_for(
        "lora", tiny_epsilon, write_images(tmp_path / "pictures"), tmp_path / "run", train_batch_size=size, max_grad_norm=None,
        gradient_accumulation_steps=accumulated, max_train_steps=1,
        **({"prior_preservation": prior, "class_prompt": "a photo of dog"} if prior else {}),
    )  # fmt: skip
    context, training = prepared(settings)
    method = training.method.double()
    width = context.family.unet.config.cross_attention_dim
    known = {prompt: torch.randn(77, width, dtype=torch.float64) for prompt in ("a photo of dog", *map(caption, range(4)))}
    method.condition = lambda prompts: Conditioning({"encoder_hidden_states": torch.stack([known[each] for each in prompts])})
    subject = dataset_of(context.family, MIXED)
    dataset = InDouble(PriorDistillation(subject, "a photo of dog", 0.25) if prior else subject)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in method.trainable_state_dict().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    method.train()
    apart = [batch for position in range(4) for batch in dataset.deal(0, [position])]
    assert len({tuple(batch.latents.shape) for batch in apart}) == 3
    sum(method(batch).sum() for batch in apart).div(4).backward()
    expected = {name: parameter.grad.clone() for name, parameter in method.trainable_state_dict().items()}
    method.zero_grad()
    found = {}
    method.before_step = lambda: found.update({name: p.grad.clone() for name, p in method.trainable_state_dict().items()})
    train_loop(settings, training, context.accelerator, 1, dataset=dataset)
    assert expected.keys() == found.keys() and any(gradient.abs().max() > 1e-6 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_only_one_batch_is_prepared_in_advance(number):
    taken = []
    items = with_last(taken.append(i) or i for i in range(number))
    for place, (item, is_last) in enumerate(items):
        assert item == place and is_last == (place == number - 1)
        assert taken == list(range(min(place + 2, number)))
    assert len(taken) == number
