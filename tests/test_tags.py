"""Captions whose tags are drawn: what each sample gets, that it is encoded as it would have been before, and that runs resume."""

import signal
from collections import Counter
from hashlib import blake2b
from math import floor

import pytest
import torch
from kit import hidden_states, prepared, settings_for, write_images
from test_accumulation import learned
from whole_runs import LATEST, Run

from customize.data.samples.encoding import EncodedInTheStep, encode_each_caption
from customize.data.samples.tag_draws import TagDraws
from customize.errors import InputError
from customize.families import load, locate
from customize.methods import DreamBoothSettings
from customize.methods.method import chunks_needed
from customize.training.setup import release_unused

TAGS = "sks dog, red collar, grass, sitting, looking at viewer, outdoors, day"
SHUFFLED = {"shuffle_tags": True, "keep_tags": 1, "tag_dropout": 0.3}


def generator(stream, step, position, seed=5):
    """The generator of one draw, by its definition."""
    digest = blake2b(f"{seed}/{stream}/{step}/{position}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") // 2)


def kohyas(caption, keep, dropout, warmup_min, warmup_steps, step, order, drawn):
    """The caption by the rules of kohya's `process_caption`, with its random choices given."""
    tokens = caption.split(", ")
    fixed, flex = tokens[:keep], tokens[keep:]
    if warmup_steps and step < warmup_steps:
        flex = flex[: floor(step * ((len(flex) - warmup_min) / warmup_steps)) + warmup_min]
    flex = [flex[place] for place in order(len(flex))]
    return ", ".join(fixed + [tag for tag, u in zip(flex, drawn(len(flex)), strict=True) if u >= dropout])


@pytest.mark.parametrize("keep", [0, 1, 3, 9])
@pytest.mark.parametrize("warmup", [(1, 0), (0, 8), (2, 7), (12, 5)])
def test_tags_are_drawn_by_kohyas_rules(keep, warmup):
    draws = TagDraws(True, keep, 0.4, *warmup)
    for step in range(10):
        for position in range(3):

            def order(count, place=(step, position)):
                return torch.randperm(count, generator=generator("instance/tag_order", *place)).tolist()

            def drawn(count, place=(step, position)):
                return torch.rand(count, generator=generator("instance/tag_dropout", *place)).tolist()

            expected = kohyas(TAGS, keep, 0.4, *warmup, step, order, drawn)
            assert draws.drawn(TAGS, 5, "instance", step, position) == expected


def test_shares_are_right_and_the_trigger_stays():
    draws = TagDraws(shuffle=True, dropout=0.25, triggers=("sks",))
    found = [draws.drawn(TAGS, 0, "instance", step, 0).split(", ") for step in range(4000)]
    counts = Counter(tag for tags in found for tag in tags)
    assert counts.pop("sks dog") == 4000 and len(counts) == 6
    assert all(abs(count / 4000 - 0.75) < 4 * (0.75 * 0.25 / 4000) ** 0.5 for count in counts.values())
    first = Counter(TagDraws(shuffle=True).drawn(TAGS, 0, "instance", step, 0).split(", ")[0] for step in range(4000))
    assert all(abs(first[tag] / 4000 - 1 / 7) < 4 * (1 / 7 * 6 / 7 / 4000) ** 0.5 for tag in TAGS.split(", "))
    warm = TagDraws(warmup_min=1, warmup_steps=10, triggers=("sks",))
    assert warm.drawn("grass, day, sks dog, sky", 0, "instance", 0, 0) == "grass, sks dog"
    assert warm.drawn("grass, day, sks dog, sky", 0, "instance", 10, 0) == "grass, day, sks dog, sky"


def test_separators_and_empty_tags():
    assert TagDraws(True, keep=2, separator=";").drawn("a, b;; c ;", 0, "s", 0, 0) == "a, b; c"
    assert TagDraws(dropout=1.0).drawn("a, b", 0, "s", 0, 0) == ""


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
    """Images of which each has a caption of tags."""
    folder = write_images(tmp_path_factory.mktemp("tagged"))
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"sks dog, number {number}, {TAGS[9:]}")
    return folder


def test_micro_batches_draw_the_same_captions(tagged, tiny_epsilon, tmp_path):
    """And the gradients of captions that are encoded in the step are those of one large batch."""
    expected, drawn = learned("lora", tiny_epsilon, tagged, tmp_path, 4, 1, **SHUFFLED)
    found, given = learned("lora", tiny_epsilon, tagged, tmp_path, 1, 4, **SHUFFLED)
    assert given == drawn and len({prompt for _, prompt in drawn}) > 3
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-12)


def test_without_drawn_tags_the_steps_are_those_of_before(tagged, tiny_epsilon, tmp_path):
    """A caption of kept tags alone is encoded in the step to the same bits as before the first one."""
    plain, drawn = learned("lora", tiny_epsilon, tagged, tmp_path, 4, 1)
    found, given = learned("lora", tiny_epsilon, tagged, tmp_path, 4, 1, shuffle_tags=True, keep_tags=99)
    assert given == drawn and all(torch.equal(found[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_caption_is_encoded_in_the_step_as_before_it(dtype, tiny_epsilon):
    family = load(locate(str(tiny_epsilon)))
    expected = encode_each_caption(family, [TAGS], 2)
    known = EncodedInTheStep(family, {}, 2, None)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        found = hidden_states(known[TAGS])
    assert torch.equal(found, hidden_states(expected[TAGS])) and not found.requires_grad and not known


def test_the_text_encoder_stays_where_captions_vary(tagged, tiny_epsilon, tmp_path):
    for changes, device in (({}, "meta"), (SHUFFLED, "cpu")):
        settings = settings_for("lora", tiny_epsilon, tagged, tmp_path, evaluation="none", **changes)
        context, training = prepared(settings)
        release_unused(context, training.method)
        assert context.family.components["text_encoder"].device.type == device
        assert context.family.components["vae"].device.type == "meta"


def test_every_order_of_a_long_caption_fits(tiny_epsilon):
    """Each prompt of a run has the same number of chunks, so that it does not depend on the others in its batch."""
    family = load(locate(str(tiny_epsilon)))
    lengths = (1, 17, 3, 25, 9, 30, 2, 19, 14, 22, 6, 28, 11)
    caption = ", ".join(" ".join(["dog"] * length) for length in lengths)
    settings = DreamBoothSettings(instance_prompt="sks dog", instance_data_dir="x", shuffle_tags=True)
    most, draws = chunks_needed(family, [caption], settings), TagDraws.of(settings)
    counts = {family.num_chunks(draws.drawn(caption, 0, "s", step, 0)) for step in range(200)}
    assert max(counts) <= most <= family.num_chunks(caption) * 2 and len(counts) > 1
    assert chunks_needed(family, [TAGS], settings) == 1
    plain = settings.model_copy(update={"shuffle_tags": False})
    assert chunks_needed(family, [caption], plain) == family.num_chunks(caption)


def test_a_killed_run_draws_the_same_tags_when_resumed(server, tiny_epsilon, tagged, tmp_path):
    changes = {**SHUFFLED, "tag_warmup_steps": 5}
    straight = Run(server, tmp_path / "straight", "lora", tiny_epsilon, tagged, **changes)
    killed = Run(server, tmp_path / "killed", "lora", tiny_epsilon, tagged, **changes)
    assert straight()[0] == 0 and killed(moment="in a step", number=4)[0] == -signal.SIGKILL
    status, output = killed(*LATEST)
    assert status == 0 and "resuming after step 2" in output
    assert killed.result() == straight.result() and killed.losses() == straight.losses()
    other = Run(server, tmp_path / "other", "lora", tiny_epsilon, tagged)
    assert other()[0] == 0 and other.losses() != straight.losses()


@pytest.mark.parametrize(
    "values, where, remedy",
    [
        ({"keep_tags": 1}, "keep_tags", "shuffle_tags = true"),
        ({"tag_separator": ";"}, "tag_separator", "tag_dropout"),
        ({"tag_warmup_min": 3}, "tag_warmup_min", "set tag_warmup_steps"),
        ({"tag_dropout": 1.5}, "tag_dropout", "valid value"),
        ({"shuffle_tags": True, "prompt_embeddings": "p.safetensors"}, "shuffle_tags", "leave out shuffle_tags or"),
        ({"tag_dropout": 0.1, "skip_save_text_encoder": True}, "tag_dropout", "leave out tag_dropout or"),
    ],
)
def test_what_has_no_effect_or_cannot_be_is_reported(values, where, remedy):
    with pytest.raises(InputError) as caught:
        DreamBoothSettings(instance_prompt="sks dog", instance_data_dir="x", **values)
    (problem,) = caught.value.problems
    assert problem.where == where and remedy in problem.remedy
