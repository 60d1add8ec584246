"""The judge of the demo world: its questions, how answers are counted, and the report."""

import json
import math
from collections import Counter
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from customize.demo.judge import (
    NOT_ASKED,
    QUESTIONS,
    WEIGHTS,
    Answers,
    Judge,
    JudgedWorld,
    Rate,
    as_pixels,
    ask,
    by_question,
    compare,
    labels,
    load_judge,
    pixelated,
    rates,
    recognised,
    truth,
)
from customize.demo.pretraining import quality, quality_report
from customize.demo.pretraining.quality import Painter, ReportSettings, counterparts, filled, prompt, random_prompts, still
from customize.demo.pretraining.quality_report import markdown
from customize.demo.pretraining.train_judge import JudgeSettings, disturbed, loss, save_judge, train
from customize.demo.world import draw_examples
from customize.demo.world.glyphs import HELD_OUT_OBJECTS, OBJECTS
from customize.demo.world.styles import HELD_OUT_STYLES, Effect
from customize.demo.world.world import HELD_OUT_COMBINATIONS, Spec

EXAMPLES = draw_examples.FOLDER
TINTED = (Effect("tint", ("red",)),)
CAR = Spec("car", "beach", colour="blue", time="night")
CAT = Spec("cat", "room", colour="red", style=(Effect("blurred"), Effect("duotone", ("purple", "yellow"))))
PUMPKIN = Spec("pumpkin", "city", style=HELD_OUT_STYLES["ember"])


class Fixed(nn.Module):
    """A judge that gives the same answers, [N, Q], whatever it sees."""

    def __init__(self, places: torch.Tensor):
        super().__init__()
        self.places = places.clamp(min=0)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        columns = zip(self.places.unbind(1), QUESTIONS.values(), strict=True)
        return torch.cat([nn.functional.one_hot(column, len(answers)).float() for column, answers in columns], 1)


def blank(count: int) -> np.ndarray:
    return np.zeros((count, 64, 64, 3), np.uint8)


def changed(specs: list[Spec], question: str, answer: str) -> Answers:
    """The right answers, but for the first picture's one to `question`."""
    places = labels(specs)
    places[0, list(QUESTIONS).index(question)] = QUESTIONS[question].index(answer)
    return Answers(places)


@pytest.mark.parametrize("index", range(60))
def test_labels_are_the_truth_in_numbers(index: int) -> None:
    spec = JudgedWorld().spec(7, index)
    answers, places = truth(spec), labels([spec])
    for place, question in enumerate(QUESTIONS):
        if question in answers:
            assert Answers(places).to(question) == [answers[question]]
        else:
            assert places[0, place] == NOT_ASKED


def test_questions_that_do_not_apply_have_no_answer() -> None:
    assert "colour" not in truth(replace(CAR, style=TINTED)) and "colour" not in truth(replace(CAR, style=(Effect("inverted"),)))
    assert truth(replace(CAR, style=(Effect("blurred"),)))["colour"] == "blue"
    assert "colour" not in truth(replace(CAR, colour="")) and truth(Spec("elephant", "room"))["colour"] == "own"
    assert "time" not in truth(CAT) and truth(CAR)["time"] == "night"
    assert not {"first ink", "second ink"} & truth(PUMPKIN).keys()
    assert truth(replace(CAR, style=TINTED))["second ink"] == "none" == truth(CAR)["first ink"]


def test_a_style_is_its_recolouring_inks_and_other_effects() -> None:
    answers = truth(CAT)
    assert (answers["recolouring"], answers["first ink"], answers["second ink"]) == ("duotone", "purple", "yellow")
    assert [name for name in QUESTIONS if answers.get(name) == "yes"] == ["blurred"]
    assert answers["named style"] == "other"
    assert {name: truth(replace(CAR, style=style))["named style"] for name, style in HELD_OUT_STYLES.items()} == {
        name: name for name in HELD_OUT_STYLES
    }


def test_the_judged_world_shows_what_is_held_out() -> None:
    specs = [JudgedWorld().spec(7, index) for index in range(4000)]
    objects = Counter(spec.object for spec in specs)
    assert set(objects) == {*OBJECTS, *HELD_OUT_OBJECTS} and max(objects.values()) < 2.5 * min(objects.values())
    styles = [truth(spec)["named style"] for spec in specs]
    assert set(styles) == {"other", *HELD_OUT_STYLES} and 0.17 < 1 - styles.count("other") / 4000 < 0.23
    assert 0.36 < sum(not spec.style for spec in specs) / 4000 < 0.44
    assert all(any(spec.matches(part) for spec in specs) for part in HELD_OUT_COMBINATIONS)


def test_correct_answers_count() -> None:
    specs = [CAR, CAT, PUMPKIN, Spec("elephant", "plain", backdrop="white")]
    found = compare(Answers(labels(specs)), specs)
    assert astuple(found) == ((4, 4), (1, 1), (4, 4), (2, 2), (4, 4), (4, 4))
    assert compare(Answers(labels(specs[1:2])), specs[1:2]).colour == Rate(0, 0)


@pytest.mark.parametrize(
    ("spec", "question", "answer", "wrong"),
    [
        (CAR, "object", "bus", {"object", "everything"}),
        (CAR, "colour", "own", {"colour", "everything"}),
        (CAR, "scene", "snow", {"scene", "everything"}),
        (CAR, "time", "sunset", {"time"}),
        (CAR, "inverted", "yes", {"style", "everything"}),
        (CAR, "named style", "moss", set()),
        (CAT, "colour", "green", set()),
        (CAT, "time", "sunset", set()),
        (CAT, "second ink", "orange", {"style", "everything"}),
        (CAT, "recolouring", "outline", {"style", "everything"}),
        (CAT, "blurred", "no", {"style", "everything"}),
        (PUMPKIN, "first ink", "brown", set()),
        (PUMPKIN, "named style", "dusk", {"style", "everything"}),
        (Spec("elephant", "room"), "colour", "pink", set()),
    ],
)
def test_wrong_answers_count_only_if_the_question_applies(spec: Spec, question: str, answer: str, wrong: set[str]) -> None:
    specs = [spec, CAR, CAT]
    right, found = compare(Answers(labels(specs)), specs), compare(changed(specs, question, answer), specs)
    fewer = {name: getattr(right, name).right - getattr(found, name).right for name in right.__dataclass_fields__}
    assert {name for name, less in fewer.items() if less} == wrong and set(fewer.values()) <= {0, 1}
    assert all(getattr(right, name).asked == getattr(found, name).asked for name in fewer)


def test_shares() -> None:
    assert Rate(1, 4).share == 0.25 and str(Rate(1, 4)) == "25.0 %"
    assert math.isnan(Rate(0, 0).share) and str(Rate(0, 0)) == "-"


def test_images_are_judged_in_batches_and_in_any_form() -> None:
    specs = [CAR, CAT, PUMPKIN]
    judge = Fixed(labels(specs))
    assert rates(judge, blank(3), specs).everything == Rate(3, 3)
    assert recognised(judge, blank(3), object="pumpkin") == pytest.approx(1 / 3)
    assert recognised(judge, blank(3), object="pumpkin", named_style="ember") == pytest.approx(1 / 3)
    assert recognised(judge, blank(3), object="car", named_style="ember") == 0
    real = Judge().eval()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    forms = pixels, torch.from_numpy(pixels), pixels / 255, [Image.fromarray(picture) for picture in pixels]
    assert all(torch.allclose(as_pixels(form), as_pixels(pixels), atol=1e-6) for form in forms)
    assert torch.allclose(as_pixels(pixels.repeat(2, 1).repeat(2, 2)), as_pixels(pixels), atol=1e-6)
    assert torch.equal(ask(real, pixels, batch_size=2).places, ask(real, pixels).places)


def test_blocks_are_measured_even_when_soft_or_outlined() -> None:
    noise = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    blocks = noise[..., :16, :16].repeat_interleave(4, 2).repeat_interleave(4, 3)
    soft = nn.functional.avg_pool2d(blocks, 3, 1, 1, count_include_pad=False)
    outlined = nn.functional.max_pool2d(blocks, 3, 1, 1) + nn.functional.max_pool2d(-blocks, 3, 1, 1)
    assert all(pixelated(images).all() for images in (blocks, soft, outlined, blocks + 0.05 * noise))
    larger = noise[..., :8, :8].repeat_interleave(8, 2).repeat_interleave(8, 3).roll((1, 2), (2, 3))
    assert not any(pixelated(images).any() for images in (noise, noise * 0, larger))


def test_questions_that_do_not_apply_have_no_gradient() -> None:
    logits = torch.randn(2, sum(map(len, QUESTIONS.values())), requires_grad=True)
    wanted = labels([PUMPKIN, CAT])
    (slope,) = torch.autograd.grad(loss(logits, wanted), logits)
    for piece, column in zip(by_question(slope), wanted.unbind(1), strict=True):
        assert torch.equal(piece.abs().sum(1) > 0, column != NOT_ASKED)


def test_augmented_images_keep_their_content() -> None:
    pixels = torch.full((8, 64, 64, 3), 255, dtype=torch.uint8)
    pixels[:, :, 32:] = 0
    found = disturbed(pixels, torch.Generator().manual_seed(0))
    assert found.shape == (8, 3, 64, 64)
    left, right = found[..., :27].mean((1, 2, 3)), found[..., -27:].mean((1, 2, 3))
    assert torch.allclose(left.abs(), torch.ones(8), atol=0.05) and torch.allclose(left, -right, atol=0.1)
    assert {True, False} == set((left > 0).tolist())


def test_it_learns_and_is_saved(tmp_path: Path) -> None:
    """Plain colours stand in for renderings, so that no font is needed."""
    torch.manual_seed(0)
    names = ["car", "cat", "cow", "dog"]
    specs = [Spec(names[index % 4], "room") for index in range(64)]
    pixels = blank(64)
    for index in range(64):
        pixels[index] = 80 * (index % 4)
    judge = Judge((8, 8, 8))
    settings = JudgeSettings(num_epochs=6, train_batch_size=16, bf16=False)
    losses = list(train(judge, settings, pixels, specs))
    assert len(losses) == 24 and losses[-1] < 0.3 * losses[0]
    judge = Judge().eval()
    save_judge(judge, tmp_path / "judge.safetensors")
    loaded = load_judge(tmp_path / "judge.safetensors")
    with torch.no_grad():
        assert torch.allclose(loaded(as_pixels(pixels)), judge(as_pixels(pixels)), atol=0.01)


def test_a_judge_of_another_world_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(QUESTIONS, "object", ("car", "cat"))
    save_judge(Judge(), tmp_path / "judge.safetensors")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="another world"):
        load_judge(tmp_path / "judge.safetensors")


def test_the_shipped_judge_recognises_the_example_images() -> None:
    assert WEIGHTS.stat().st_size <= 1.5e6
    judge = load_judge()
    subjects, styles = ([Image.open(file) for file in sorted((EXAMPLES / name).glob("*.png"))] for name in ("subject", "style"))
    assert len(subjects) == len(styles) == 6
    assert ask(judge, subjects).to("object") == ["pumpkin"] * 6
    assert ask(judge, styles).to("named style") == ["dusk"] * 6
    assert recognised(judge, subjects, object="pumpkin", named_style="dusk") == 0


def test_seen_combinations_have_the_objects_and_the_rest_of_those_held_out() -> None:
    seen = counterparts()
    assert Counter(part["object"] for part in seen) == Counter(part["object"] for part in HELD_OUT_COMBINATIONS)
    for index, (part, held_out) in enumerate(zip(seen, HELD_OUT_COMBINATIONS, strict=True)):
        assert part | {"object": ""} == held_out | {"object": ""}
        for turn in range(20):
            known, new = filled(part, f"{index} {turn}", True), filled(held_out, f"{index} {turn}", False)
            assert known.matches(part) and new.matches(held_out) and known.style == new.style
            assert not any(known.matches(other) for other in HELD_OUT_COMBINATIONS)
            assert OBJECTS[known.object].hue is not None or not known.colour


def test_prompts_name_the_thing() -> None:
    words, specs = random_prompts(300)
    assert all(any(noun in text for noun in OBJECTS[spec.object].nouns) for text, spec in zip(words, specs, strict=True))
    assert all(spec.colour in text for text, spec in zip(words, specs, strict=True))
    assert words == random_prompts(300)[0] and prompt(CAR, "1") != prompt(CAR, "2")


class Pipeline:
    """Stands in for a pipeline: one colour per prompt, negative prompt and seed."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def generate(self, prompts, *, negative_prompt, seeds, **others) -> list[Image.Image]:
        self.calls.append(len(prompts))
        shades = [len(text) + 10 * len(no) + seed for text, no, seed in zip(prompts, negative_prompt, seeds, strict=True)]
        return [Image.new("RGB", (64, 64), (shade % 256, 0, 0)) for shade in shades]


def test_nothing_is_drawn_twice() -> None:
    painter = Painter(Pipeline(), ReportSettings(batch_size=2))
    first = painter(["a car", "a cat", "a dog"])
    assert first.shape == (3, 64, 64, 3) and painter.pipeline.calls == [2, 1]
    assert np.array_equal(painter(["a car", "a cat"], 4.0), first[:2]) and painter.pipeline.calls == [2, 1]
    painter(["a car", "a cat"], 6.0)
    painter(["a car", "a cat"], negatives=["", "a dog"])
    assert painter.pipeline.calls == [2, 1, 2, 1]


def test_negative_prompts_name_what_is_shown_or_something_else() -> None:
    painter = Painter(Pipeline(), ReportSettings())
    judge = Fixed(labels([CAR, CAT, CAR, CAT]))
    asked: list[tuple[int, str]] = []
    found = still(painter, judge, "object", ["a"] * 4, lambda i, shown: asked.append((i, shown)) or "bus", "a {}".format)
    assert asked == [(1, "cat"), (3, "cat")] and found == quality.Still(Rate(2, 2), Rate(2, 2))
    assert [no for _, no, _, _ in painter.drawn][4:] == ["a car", "a bus", "a car", "a bus"]


def test_the_report_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts that need neither font nor model."""
    monkeypatch.setattr("customize.inference.pipeline_loading.load_pipeline", lambda model: Pipeline())
    monkeypatch.setattr(quality_report, "load_judge", lambda: Judge().eval())
    small = dict(num_pictures=5, num_combinations=12, num_guidance=2, num_negatives=4)
    settings = ReportSettings(output_dir=str(tmp_path), parts=("prompts", "combinations", "guidance", "negatives"), **small)
    quality_report.run(settings)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["prompts"]["rates"]["all"]["object"]["asked"] == 5 == len(found["prompts"]["prompts"])
    assert found["combinations"]["never seen together"]["all"]["scene"]["asked"] == 12
    assert [row["object"]["asked"] for row in found["guidance"].values()] == [2] * 6
    assert found["negatives"]["thing"]["itself"]["asked"] == 2
    text = (tmp_path / "report.md").read_text()
    assert text.count("\n| ") > 15 and str(tmp_path) not in text
    assert Image.open(tmp_path / "sheet.png").width > 5 * 64
    assert markdown(settings, {}).startswith("# ")
