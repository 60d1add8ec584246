"""Troubleshooting, photos, glossary and the Python API say what the program prints, offers and does."""

import re
from functools import cache

import pytest

import customize
from customize.__main__ import COMMANDS
from docs.make_site import ROOT

FIELD_TERMS = """unet transformer vae text_encoder tokenizer noise_scheduler latents noise timesteps noisy_latents
    encoder_hidden_states prediction_type guidance_scale negative_prompt strength num_inference_steps placeholder_token
    initializer_token instance_prompt class_prompt prior_loss_weight rank lora_alpha gradient_accumulation_steps max_train_steps
    callback dataset batch sampler metadata validation checkpoint resume seed request result""".split()
FIELD_TERMS += ["dry run", "model output", "adapter", "base model", "trigger word", "prior preservation", "epoch", "overfitting"]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def text(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@cache
def source() -> str:
    """The package's source, with texts that go on in the next line put together."""
    files = "\0".join(path.read_text(encoding="utf-8") for path in (ROOT / "customize").rglob("*.py"))
    return re.sub(r'"\s*\n\s*f?"', "", files)


def messages(page: str) -> list[str]:
    """The messages that a page quotes: lines of blocks of text, and the first cells of tables that say so."""
    blocks = "".join(re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)).splitlines()
    tables = re.findall(r"^\| (?:it|the verdict) says \|.*\n\|---.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    return blocks + [cell for table in tables for cell in re.findall(r"^\| `([^`]+)", table, re.MULTILINE)]


@pytest.mark.parametrize(("name", "number"), [("troubleshooting.md", 45), ("photos.md", 13)])
def test_the_program_prints_each_message_that_a_page_quotes(name, number):
    found = messages(text(name))
    assert len(found) >= number
    for message in found:
        for part in re.split(r"\.\.\.", message):
            assert part.strip("; ") in source(), message


def test_a_message_that_is_no_longer_printed_is_noticed():
    (message,) = messages("```text\nnobody prints this ...\n```\n")
    assert message.removesuffix("...").strip() not in source()


def test_the_glossary_has_the_terms_of_the_field():
    page = text("glossary.md")
    known = {term for words in re.findall(r"\*\*(.+?)\*\*", page) for term in words.split(", ")} | {*re.findall(r"`(\w+)`", page)}
    assert not [term for term in FIELD_TERMS if term not in known]
    anchors = re.findall(r'<a id="([^"]+)">', page)
    assert len(anchors) == len(set(anchors))


def test_the_page_of_commands_has_each_of_them():
    rows = re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+) \|", text("commands.md"), re.MULTILINE)
    names = [name.replace("-", "_") for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    assert sorted(names) == sorted(COMMANDS), "each command has a row in docs/commands.md"


def test_the_python_page_has_every_name_and_its_blocks_are_python():
    page = text("python.md")
    rows = re.findall(r"^\| (`.+?) \|", page, re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(customize.__all__)
    for block in PYTHON.findall(page) + PYTHON.findall(text("elsewhere.md")):
        compile(block, "page", "exec")


@pytest.mark.slow
def test_the_python_page_runs(tmp_path, monkeypatch):
    """As it stands, one block after another, but for fewer steps and no pictures on the way."""
    (tmp_path / "customize").symlink_to(ROOT / "customize")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    few = ("max_train_steps=120", "max_train_steps=4, validation_prompt=(), num_candidates=1, evaluation_seeds=1")
    for block in PYTHON.findall(text("python.md")):
        exec(compile(block.replace(*few).replace("guidance_scale=4", "num_inference_steps=2"), "python.md", "exec"), names)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["beach-0.png", "beach-1.png"]
    assert names["again"].prompt == ("a sks toy on the beach",) and names["result"].steps == 4
