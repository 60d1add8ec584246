"""Aspect-ratio buckets: their sizes, what is cut off, and that every image is used equally often by steps of one bucket each."""

import math
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from kit import prepared, settings_for, write_images, write_shapes
from PIL import Image

from customize.data import bucket_report
from customize.data.buckets import Buckets, Fit, cover, grouped, sizes_of, squares, uses, usual_step
from customize.data.crops import all_pixels, crop_of, variants
from customize.data.example import Example
from customize.data.samples import bucket_order
from customize.data.samples.image_uses import image_uses
from customize.data.samples.latent_dataset import EpochSampler, SampleConfig
from customize.diffusion import rng
from customize.errors import InputError
from customize.methods import DreamBoothSettings
from customize.settings import derived
from customize.training import resume
from customize.training.loop import LoopConfig, micro_batches

SHAPES = [(512, 512), (640, 480), (480, 640), (600, 400), (400, 600), (1280, 720), (720, 1280), (1000, 400), (300, 900),
          (800, 700), (2000, 500), (520, 512)]  # fmt: skip
"""Twelve shapes, from 4:1 to 1:3."""
SDXL = """512x2048 512x1984 512x1920 512x1856 576x1792 576x1728 576x1664 640x1600 640x1536 704x1472 704x1408 704x1344 768x1344
768x1280 832x1216 832x1152 896x1152 896x1088 960x1088 960x1024 1024x1024"""
"""The sizes of appendix I of the paper; each also turned."""


def settings_with(**changes):
    return DreamBoothSettings(instance_prompt="a photo of sks dog", instance_data_dir="x", **changes)


def example(size, name="a.png", repeats=1):
    return Example(name, ("x",), "instance", Image.new("RGB", size), size, "", repeats=repeats)


def test_the_sizes_are_those_of_kohya():
    """As `make_bucket_resolutions` of sd-scripts defines them, with its defaults at 512."""
    expected = {(512, 512)}
    for width in range(256, 1024 + 1, 64):
        height = min(1024, int((512 * 512 // width) // 64) * 64)
        if height >= 256:
            expected |= {(width, height), (height, width)}
    assert set(Buckets.of(settings_with(), 512).sizes) == expected


def test_the_sizes_at_1024_are_among_those_of_sdxl():
    known = {tuple(map(int, size.split("x"))) for size in SDXL.split()}
    found = set(Buckets.of(settings_with(), 1024).sizes)
    assert found <= known | {(width, height) for height, width in known}
    assert {(512, 2048), (2048, 512), (832, 1216), (1024, 1024)} <= found


@pytest.mark.parametrize(("resolution", "step"), [(16, 8), (64, 8), (256, 32), (500, 56), (512, 64), (768, 64), (1024, 64)])
def test_the_usual_step(resolution, step):
    assert usual_step(resolution) == step


@pytest.mark.parametrize(
    ("changes", "resolution", "expected"),
    [
        ({"aspect_ratio_buckets": None}, 520, {(520, 520)}),
        ({"aspect_ratio_buckets": "832,1216; 1216,832"}, 512, {(1216, 832), (832, 1216)}),
        (
            {"min_bucket_reso": 40, "max_bucket_reso": 104, "bucket_reso_steps": 32},
            64,
            {(64, 64), (32, 128), (128, 32), (32, 96), (96, 32)},
        ),
        ({"bucket_reso_steps": 512}, 512, {(512, 512)}),
    ],
)
def test_settings_of_the_sizes(changes, resolution, expected):
    """Bounds are rounded to steps as sd-scripts rounds them: the shortest side down, the longest up."""
    assert set(Buckets.of(settings_with(**changes), resolution).sizes) == expected


@pytest.mark.parametrize("value", ["512", "512x768", "512,768,", "500,512", "8,512", "", "512,9999"])
def test_other_values_are_refused(value):
    with pytest.raises((InputError, ValueError)):
        settings_with(aspect_ratio_buckets=value)


def test_bounds_on_the_wrong_side_of_the_resolution_are_refused():
    for changes in ({"min_bucket_reso": 520}, {"max_bucket_reso": 504}):
        settings_with(**changes)
        with pytest.raises((InputError, ValueError)):
            settings_with(resolution=512, **changes)


@trials(max_examples=300, deadline=None, database=None)
@given(size=st.tuples(st.integers(8, 4000), st.integers(8, 4000)), resolution=st.sampled_from([16, 64, 512, 1024]))
def test_an_image_covers_its_bucket_and_loses_the_least(size, resolution):
    buckets = Buckets.of(settings_with(), resolution)
    fit = buckets.fit(size)
    (across, down), (width, height) = fit.bucket, fit.resized
    assert width >= across and height >= down and (width == across or height == down)
    scale = max(Fraction(across, size[0]), Fraction(down, size[1]))
    assert abs(width - scale * size[0]) <= Fraction(1, 2) and abs(height - scale * size[1]) <= Fraction(1, 2)
    assert fit.cut == pytest.approx(1 - across * down / (width * height)) and across * down <= resolution**2
    shape = size[0] / size[1]
    least = min(1 - min(shape * h / w, w / (shape * h)) for w, h in buckets.sizes)
    assert fit.cut == pytest.approx(least, abs=1 / min(width, height))
    assert buckets.fit((size[0], size[0])) == Fit((resolution, resolution), (resolution, resolution))


@trials(max_examples=200, deadline=None, database=None)
@given(size=st.tuples(st.integers(1, 900), st.integers(1, 900)))
def test_no_image_is_enlarged_without_upscaling(size):
    buckets = Buckets.of(settings_with(bucket_no_upscale=True), 512)
    fit = buckets.fit(size)
    usual = Buckets.of(settings_with(), 512).fit(size)
    if not usual.enlarges(size):
        assert fit == usual
    elif min(size) >= 64 and max(size) <= 1024:
        assert not fit.enlarges(size) and fit.bucket == tuple(side - side % 64 for side in size)
    assert math.prod(fit.bucket) <= 512**2


def test_pixels_of_a_bucket_are_resized_and_cropped():
    """640 x 500 at 512: scaled to 576 x 450, of which 2 rows of pixels are cut off."""
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (500, 640, 3), dtype=np.uint8))
    one = Example("a.png", ("x",), "instance", image, image.size, "")
    object.__setattr__(one, "open", lambda: image)
    fit = Buckets.of(settings_with(), 512).fit(image.size)
    assert fit == Fit((576, 448), (576, 450))
    cuts = variants(one, fit, False, 5, True, 0)
    assert [cut.top for cut in cuts] == [0, 0, 1, 1, 2, 2] and {cut.left for cut in cuts} == {0}
    expected = np.asarray(image.resize((576, 450), Image.Resampling.LANCZOS))
    for cut, found in zip(cuts, all_pixels(one, cuts), strict=True):
        part = expected[cut.top : cut.top + 448]
        assert np.array_equal(found, part[:, ::-1] if cut.flip else part)
        crop = crop_of(one, cut)
        assert (crop.original_size, crop.top_left, crop.target_size) == ((500, 640), (cut.top, 0), (448, 576))
    assert [cut.top for cut in variants(one, fit, True, 5, False, 0)] == [1]


def sampler_of(counts, global_batch, seed=3):
    """A sampler of buckets of so many images, numbered through, each with two variants."""
    images, buckets = iter(range(sum(counts))), []
    for count in counts:
        buckets.append([next(images) for _ in range(count)])
    return EpochSampler("instance", SampleConfig(seed, global_batch), sum(counts), [2] * sum(counts), buckets)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("accumulated", [1, 4])
@pytest.mark.parametrize("batch", [1, 3, 4])
def test_every_image_is_used_equally_often_in_steps_of_one_bucket(batch, accumulated, processes):
    """Twelve shapes, of one to seven images. Whatever the batch: in each epoch no image is lost; after G epochs of the order all
    were used exactly G times; processes and micro-batches deal the positions of the same global batch."""
    random = np.random.default_rng(batch)
    examples = [example(size, f"{size} {i}") for size in SHAPES for i in range(random.integers(1, 8))]
    settings = settings_with(train_batch_size=batch, gradient_accumulation_steps=accumulated)
    buckets = Buckets.of(settings, 512)
    in_buckets = grouped([buckets.fit(each.size) for each in examples], [1] * len(examples))
    total = derived.global_batch(settings, processes)
    assert total == batch * accumulated * processes and sorted(sum(in_buckets, [])) == list(range(len(examples)))
    sizes = tuple(map(len, in_buckets))
    assert sorted(uses(settings, examples, 512)) == sorted(sizes) and len(sizes) > 6
    sampler = EpochSampler("instance", SampleConfig(5, total), len(examples), [1] * len(examples), in_buckets)
    of_image = {image: bucket for bucket, images in enumerate(in_buckets) for image in images}
    steps_per_epoch = derived.steps_per_epoch(settings, sizes, processes)
    assert steps_per_epoch == sum(math.ceil(size / total) for size in sizes)
    used: Counter = Counter({image: 0 for image in of_image})
    for step in range(3 * steps_per_epoch):
        drawn = [sampler.draw(step, position)[0] for position in range(total)]
        assert len({of_image[image] for image in drawn}) == 1, "a step is of one bucket"
        used.update(drawn)
        if (step + 1) % steps_per_epoch == 0:
            assert min(used.values()) >= (step + 1) // steps_per_epoch, "no image is lost over an epoch"
    config = LoopConfig(0, 9, batch, accumulated, None)
    for step in (0, 7):
        dealt = []
        for process in range(processes):
            machine = SimpleNamespace(process_index=process)
            dealt += [[sampler.draw(step, position) for position in part] for part in micro_batches(config, machine)]
        assert [len(part) for part in dealt] == [batch] * accumulated * processes
        assert sum(dealt, []) == [sampler.draw(step, position) for position in range(total)]
        order = [bucket_order.batch_of(step, sizes, total, 5, "instance") for step in range(sum(sizes))]
    dealt = Counter(bucket for bucket, _ in order)
    assert [dealt[bucket] * total for bucket in range(len(sizes))] == [size * total for size in sizes], "each image G times"
    assert sorted(order) == [(bucket, batch) for bucket, size in enumerate(sizes) for batch in range(size)]


@trials(max_examples=60, deadline=None, database=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=12), total=st.integers(1, 32), epochs=st.integers(1, 9),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_after_each_epoch_of_the_order_every_image_is_within_a_batch(counts, total, epochs, seed):
    sizes = tuple(counts)
    sampler = sampler_of(counts, total, seed)
    steps = sum(math.ceil(epochs * size / total) for size in sizes)
    used = Counter(sampler.draw(step, position)[0] for step in range(steps) for position in range(total))
    for images in sampler.buckets:
        number = [used[image] for image in images]
        assert max(number) - min(number) <= 1 and min(number) >= epochs
        assert sum(number) < epochs * len(images) + total
    firsts = [bucket_order.batch_of(step, sizes, total, seed, "instance")[0] for step in range(steps)]
    assert set(firsts) == set(range(len(sizes))), "no bucket is left out"
    examples = [example((8 * (bucket + 1), 8), f"{bucket} {i}") for bucket, size in enumerate(sizes) for i in range(size)]
    listed = settings_with(aspect_ratio_buckets=";".join(f"16,{16 * (bucket + 1)}" for bucket in range(12)), seed=seed)
    found = image_uses("subject", "instance", listed, examples, 512, steps, total)
    assert (found.images, found.least, found.most) == (sum(counts), min(used.values()), max(used.values()))


@pytest.mark.parametrize("total", [1, 3, 8])
def test_one_bucket_is_drawn_as_without_buckets(total):
    sampler = sampler_of([7], total)
    for step in range(20):
        for position in range(total):
            epoch, place = divmod(step * total + position, 7)
            order = torch.randperm(7, generator=rng.generator(3, "instance/order", epoch)).tolist()
            assert sampler.draw(step, position)[0] == order[place]


def test_images_that_are_repeated_are_used_so_many_times_as_often():
    examples = [example((64, 64), "a", 3), example((64, 64), "b"), example((128, 32), "c", 2)]
    settings = settings_with(train_batch_size=2)
    assert sorted(uses(settings, examples, 64)) == [2, 4]
    buckets = Buckets.of(settings, 64)
    in_buckets = grouped([buckets.fit(each.size) for each in examples], [each.repeats for each in examples])
    assert in_buckets == [[0, 0, 0, 1], [2, 2]]
    sampler = EpochSampler("instance", SampleConfig(0, 2), 3, [1] * 3, in_buckets)
    used = Counter(sampler.draw(step, position)[0] for step in range(30) for position in range(2))
    assert used == {0: 30, 1: 10, 2: 20}
    assert grouped([cover((8, 8), (8, 8))] * 2, [4, 4]) == [[0, 1]], "what all have in common changes nothing"


def test_the_time_of_a_draw_does_not_grow_with_the_steps_before_it(monkeypatch):
    """Ten thousand images in 30 buckets: a late step looks at a few epochs."""
    sizes, looked_at = (333,) * 30, []
    inner = bucket_order.batches_before
    monkeypatch.setattr(bucket_order, "batches_before", lambda *given: looked_at.append(1) or inner(*given))
    bucket_order.batch_of(10**7, sizes, 4, 0, "far")
    assert len(looked_at) < 40


def test_a_run_says_what_is_cut_off():
    settings, squared = settings_with(), settings_with(aspect_ratio_buckets=None)
    examples = [example((1500, 1000), "wide.png"), example((512, 512), "square.png"), example((3072, 512), "strip.png")]
    assert dict(bucket_report.rows(settings, examples, 512)) == {
        "buckets": "512 x 512 (1 image), 640 x 384 (1 image), 1024 x 256 (1 image)",
        "cut off": "14 % of an image on average, 33 % of strip.png",
    }
    assert dict(bucket_report.rows(squared, examples, 512)) == {"cut off": "39 % of an image on average, 83 % of strip.png"}
    assert not list(bucket_report.rows(settings, examples[1:2], 512)) and bucket_report.notes(settings, examples, 512) == []
    [note] = bucket_report.notes(squared, examples, 512)
    assert "strip.png (83 %)" in note and "wide" not in note and "aspect_ratio_buckets = auto" in note


def test_what_identifies_a_run_is_the_buckets_in_use(tiny_epsilon):
    """A run of squares is that of an earlier version, whatever the settings of buckets."""
    from customize.families import locate

    source = locate(str(tiny_epsilon))

    def identity(*sizes, **changes):
        instances = tuple(example(size, f"{index}") for index, size in enumerate(sizes))
        found = resume.identity(
            settings_with(**changes), source, SimpleNamespace(instances=instances, classes=(), held_out=()), 1
        )
        return {name: value for name, value in found.items() if name != "run"}

    square = identity((16, 16))
    assert "aspect_ratio_buckets" not in square and not {name for name in square if "bucket" in name}
    assert square == identity((16, 16), aspect_ratio_buckets=None) == identity((16, 16), bucket_reso_steps=16)
    mixed = identity((16, 16), (48, 16))
    assert mixed["aspect_ratio_buckets"] == "24 x 8: 1"
    assert resume.differences(mixed, identity((16, 16), (48, 16), aspect_ratio_buckets=None))[0].where == "aspect_ratio_buckets"
    assert resume.differences(mixed, identity((16, 16), (48, 16), max_bucket_reso=24)) == []


@pytest.mark.parametrize("method", ["textual_inversion", "lora"])
def test_every_batch_of_a_run_has_one_shape(method, tiny_epsilon, tmp_path):
    """Of class images, too, which have buckets of their own; the fixed samples are of the most frequent shape."""
    folder, of_class = write_shapes(tmp_path / "images"), tmp_path / "class"
    prior = {"prior_preservation": "images", "class_prompt": "a dog", "class_data_dir": str(of_class), "num_class_images": 2}
    write_images(of_class, 2, (32, 8))
    changes = prior if method == "lora" else {}
    settings = settings_for(method, tiny_epsilon, folder, tmp_path / "run", train_batch_size=3, max_train_steps=8, **changes)
    context, training = prepared(settings)
    assert sorted(context.uses) == [1, 1, 2]
    shapes = {"0.png": (8, 8), "1.png": (4, 12), "2.png": (12, 4), "3.png": (4, 12)}
    seen: Counter = Counter()
    for step in range(8):
        batches = training.dataset.deal(step, range(3))
        assert len(batches) == 1 + bool(changes)
        own = batches[0]
        assert own.latents.shape == (3, 4, *shapes[own.names[0]]) and not own.is_prior.any()
        assert {crop.target_size for crop in own.crops} == {tuple(2 * side for side in own.latents.shape[2:])}
        seen.update(own.names)
        if changes:
            assert batches[1].latents.shape == (3, 4, 4, 16) and batches[1].is_prior.all()
        losses = training.method(own)
        assert losses.shape == (3,) and losses.isfinite().all()
    assert set(seen) == set(shapes)
    probe = training.dataset.probe(8)
    assert probe.latents.shape == (8, 4, 4, 12) and set(probe.names) == {"1.png", "3.png"}


def test_the_trial_of_a_dry_run_is_of_the_largest_bucket(tiny_epsilon, tmp_path):
    from customize.training.dry_run import TrialContext

    write_images(tmp_path / "images", 2, (48, 16))
    Image.new("RGB", (16, 16)).save(tmp_path / "images/square.png")
    context, _ = prepared(settings_for("lora", tiny_epsilon, tmp_path / "images", tmp_path / "run"))
    trial = TrialContext(context.settings, context.accelerator, context.family, context.examples, 0)
    dataset = trial.encode_images("instance", context.examples.instances)
    assert {name for step in range(6) for batch in dataset.deal(step, [0]) for name in batch.names} == {"square.png"}


def test_squares_of_other_tests_are_squares():
    assert sizes_of(16, 8, 32, 8) == ((8, 24), (8, 32), (16, 16), (24, 8), (32, 8)) and squares(16).sizes == ((16, 16),)
