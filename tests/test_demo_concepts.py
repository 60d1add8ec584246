"""What is asked of a model that was taught a held-out concept."""

from customize.demo.pretraining.concepts import asked_for, plain_specs
from customize.demo.world.styles import HELD_OUT_STYLES


def test_prompts_match_their_specs() -> None:
    with_it, without, wanted, plain = asked_for("ice", 40)
    assert plain == plain_specs(40) and not any(spec.style or spec.colour for spec in plain)
    assert all(text == f"{known} in the style of <ice>" for text, known in zip(with_it, without, strict=True))
    assert all(spec.style == HELD_OUT_STYLES["ice"] for spec in wanted)
    assert [spec.object for spec in wanted] == [spec.object for spec in plain]
    assert all(spec.object.replace("_", " ") in text for spec, text in zip(plain, without, strict=True))


def test_prompts_of_a_subject_use_its_trigger_words() -> None:
    with_it, without, wanted, plain = asked_for("parrot", 40)
    assert all("sks toy" in text and "parrot" not in text for text in with_it)
    assert {spec.object for spec in wanted} == {"parrot"} and not any("sks" in text for text in without)
    assert [spec.scene for spec in wanted] == [spec.scene for spec in plain]
