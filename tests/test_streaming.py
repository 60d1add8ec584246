"""Images and captions that are encoded in the steps: the same bits as before the first one, and bounded memory."""

import signal

import numpy as np
import pytest
import torch
from kit import prepared, settings_for, train_loop, write_images
from PIL import Image
from whole_runs import LATEST, Run

from customize.data.samples import encoding, streaming
from customize.data.samples.on_demand import Kept, Variants
from customize.data.samples.streaming import Streamed
from customize.errors import ResourceError
from customize.families.latents import KLLatents
from customize.training.preflight import check
from customize.training.setup import release_unused

ON_DEMAND = {"vae_cache_ondemand": True}


@pytest.fixture
def many(tmp_path):
    """Five images, each with a caption of its own and three with a mask."""
    folder = write_images(tmp_path / "many", 5)
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"a photo of sks dog {'red blue green big small'.split()[number]}")
        if number < 3:
            mask = np.zeros((16, 24), np.uint8)
            mask[4:, 8 * number :] = 255
            Image.fromarray(mask).save(folder / f"{number}-mask.png")
    return folder


@pytest.fixture
def encoded(monkeypatch):
    """The number of encodings so far."""
    calls = []
    encode = KLLatents.encode
    monkeypatch.setattr(KLLatents, "encode", lambda self, pixels: calls.append(1) or encode(self, pixels))
    return calls


def deal_all(settings, steps: int = 8):
    """The batches of a run's first steps, with the conditioning of their prompts."""
    context, training = prepared(settings)
    batches = [batch for step in range(steps) for batch in training.dataset.deal(step, range(settings.train_batch_size))]
    return [(batch, training.method.condition(batch.prompts)) for batch in batches], training.dataset.probe(4)


def equal(one, other) -> bool:
    """Whether two batches are the same in every bit."""
    return all(
        torch.equal(value, getattr(other, name)) if isinstance(value, torch.Tensor) else value == getattr(other, name)
        for name, value in vars(one).items()
    )


def test_what_is_kept_is_bounded_and_what_was_used_last_stays():
    made = []
    kept = Kept(lambda key: made.append(key) or bytes(key), len, 10)
    assert [len(kept(key)) for key in (4, 3, 4, 3, 2)] == [4, 3, 4, 3, 2] and made == [4, 3, 2] and kept.bytes == 9
    kept(4)
    kept(5)  # 3 leaves, and 2, which were not used for longest
    assert made == [4, 3, 2, 5] and [*kept.values] == [4, 5] and kept.bytes == 9
    kept(11)
    assert [*kept.values] == [] and kept.bytes == 0
    nothing = Kept(lambda key: made.append(key) or bytes(key), len, 0)
    assert len(nothing(1)) == len(nothing(1)) == 1 and made[-2:] == [1, 1]


def test_variants_are_asked_for_by_number():
    variants = Variants(lambda place: torch.tensor(place), 7, 2)
    assert [*variants] == [0, 1] and len(variants) == 2 and variants[1].tolist() == [7, 1]
    assert variants.get(2) is None and -1 not in variants


@pytest.mark.parametrize("prior", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_batches_and_captions_have_the_same_bits(prior, many, encoded, tiny_epsilon, tmp_path, monkeypatch):
    """Of masked images of two shapes, with and without class images, in memory that holds two encodings and two captions."""
    monkeypatch.setattr(streaming, "MANY", 3)
    changes = {"masked_loss": True, "resolution": 16, "train_batch_size": 3, "evaluation": "none", "max_train_steps": 8}
    if prior:
        changes |= {"prior_preservation": "images", "class_prompt": "a dog", "num_class_images": 3}
        changes |= {"class_data_dir": str(write_images(tmp_path / "class", 3, (16, 32), seed=4))}
    settings = settings_for("lora", tiny_epsilon, many, tmp_path / "run", **changes)
    eager, probe = deal_all(settings.model_copy(update={"vae_cache_ondemand": False}))
    at_first = len(encoded)
    streamed, other = deal_all(settings)
    assert len(eager) == len(streamed) >= 8 and equal(probe, other)
    for (one, condition), (two, again) in zip(eager, streamed, strict=True):
        assert equal(one, two)
        assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in condition.tensors.items())
    assert any((batch.loss_mask != 1).any() for batch, _ in eager)
    assert 0 < len(encoded) - at_first <= at_first  # each once: memory holds all
    context, training = prepared(settings, first_step=5)
    last = training.dataset.deal(7, range(3))  # after resuming
    assert all(equal(one, two) for one, (two, _) in zip(last, eager[-len(last) :], strict=True))
    assert context.streamed == Streamed(True, True, context.streamed.num_crops, 5 + prior)
    release_unused(context, training.method)
    assert {context.family.components[name].device.type for name in ("vae", "text_encoder")} == {"cpu"}


def test_memory_is_bounded_and_what_left_it_is_encoded_again_or_read(many, encoded, tiny_epsilon, tmp_path, monkeypatch):
    settings = settings_for("textual_inversion", tiny_epsilon, many, tmp_path, **ON_DEMAND, caption_prefix="<new>")
    _, plain = prepared(settings)
    stored = plain.dataset.images[0].stored[0]
    monkeypatch.setattr(encoding.NoCache, "memory", 2 * stored.nbytes)
    monkeypatch.setattr(encoding.NoCache.__subclasses__()[0], "memory", 2 * stored.nbytes)

    def draw(**changes) -> int:
        _, training = prepared(settings.model_copy(update=changes))
        encoded.clear()
        for step in range(40):
            training.dataset.deal(step, [0])
        kept = training.dataset.images[0].stored.make
        assert kept.bytes == sum(tensor.nbytes for tensor in kept.values.values()) == 2 * stored.nbytes
        return len(encoded)

    places = {plain.dataset.sampler.draw(step, 0) for step in range(40)}
    cache = str(tmp_path / "cache")
    assert len(places) < draw() <= 40
    assert draw(latents_cache_dir=cache) == len(places) and draw(latents_cache_dir=cache) == 0


@pytest.mark.slow
def test_a_streamed_run_equals_another_also_when_it_is_killed(finished_run, server, tiny_epsilon, image_folder, tmp_path):
    plain, changes = finished_run("lora"), {**ON_DEMAND, "latents_cache_dir": str(tmp_path / "cache")}
    killed = Run(server, tmp_path / "killed", "lora", tiny_epsilon, image_folder, **changes)
    assert killed(moment="in a step", number=4)[0] == -signal.SIGKILL
    status, output = killed(*LATEST)
    assert status == 0 and "in the steps that first need them: 6 crops of images, kept in" in output
    assert killed.result() == plain.result() and killed.losses() == plain.losses()


def test_an_image_that_is_gone_in_the_middle_ends_the_run_with_its_name(many, tiny_epsilon, tmp_path):
    settings = settings_for("lora", tiny_epsilon, many, tmp_path / "run", **ON_DEMAND, evaluation="none")
    context, training = prepared(settings)
    name = training.dataset.deal(0, [0])[0].names[0]
    others = [path for path in many.glob("?.png") if path.name != name]
    for path in others:
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ResourceError, match="an image has changed since it was checked"):
        train_loop(settings, training, context.accelerator, 20)


def test_a_truncated_image_among_others_is_found_before_the_run(many, tiny_epsilon, tmp_path):
    path = many / "3.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"3\.png.*damaged"):
        check(settings_for("lora", tiny_epsilon, many, tmp_path / "run", **ON_DEMAND))


def test_which_runs_stream(image_folder, tmp_path):
    def of(steps: int, instances: int, **changes) -> Streamed:
        settings = settings_for("lora", tmp_path, image_folder, tmp_path / "run", **{"random_flip": False, **changes})
        examples = check_only(settings)
        return Streamed.of(settings, replace_many(examples, instances), 16, steps)

    from dataclasses import replace

    from customize.data.examples import load_examples

    def check_only(settings):
        return load_examples(settings, 16)

    def replace_many(examples, number):
        one = examples.instances[0]
        return replace(examples, instances=tuple(replace(one, name=str(i), captions=(f"caption {i}",)) for i in range(number)))

    assert of(10_000, 667) == Streamed(True, False, 2001, 667)  # three crops of 24 x 16 pixels each
    assert of(10_000, 666) == Streamed(False, False, 1998, 666)
    assert of(2000, 700) == Streamed(False, False, 2000, 700)
    assert of(10_000, 2001, crop_variants=1, vae_cache_ondemand=False) == Streamed(False, True, 2001, 2001)
    assert of(10, 1, vae_cache_ondemand=True) == Streamed(True, False, 3, 1)
    assert of(10, 1, shuffle_tags=True).captions


def test_a_dry_run_counts_what_is_held():
    few, many = Streamed(False, False, 100, 1), Streamed(True, False, 100_000, 1)
    assert few.held(131_072, False) == few.held(131_072, True) == 13_107_200
    assert (many.held(131_072, False), many.held(131_072, True), many.held(1, False)) == (1 << 30, 128 << 20, 100_000)
