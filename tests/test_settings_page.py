"""docs/settings.md is what docs/make_settings.py writes, and holds every setting of every command."""

import re

import pytest

from customize.cli.flags.settings_by_command import MODELS
from customize.methods import FromScratchSettings
from customize.methods.from_scratch_settings import OF_BASE_MODELS
from customize.settings.field import table
from customize.settings.scoring import ScoreSettings
from docs.make_settings import PAGE, page


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python docs/make_settings.py"


def rows(text: str, command: str) -> dict[str, list[str]]:
    """The cells behind each name, in the chapters of a command."""
    chapters = [part for part in text.split("\n## ") if command in part.partition("\n")[0]]
    lines = re.findall(r'^\| <a id="([\w-]+)"></a>\[`(\w+)`\]\(#\1\) \| (.*) \|$', "\n".join(chapters), re.MULTILINE)
    assert len({name for _, name, _ in lines}) == len(lines)
    return {name: re.sub(r"\[(`\w+`)\]\(#[\w-]+\)", r"\1", cells).split(" | ") for _, name, cells in lines}


def test_every_name_is_an_anchor_and_no_anchor_is_there_twice():
    found = re.findall(r'<a id="([^"]+)">', page())
    assert len(found) == len(set(found)) and {name for model in (*MODELS, ScoreSettings) for name in table(model)} <= {*found}
    assert {"infer-seed", "customize-score-prompt"} <= {*found}


@pytest.mark.parametrize("model", [*MODELS, ScoreSettings])
def test_every_setting_has_a_row_with_its_range_and_default(model):
    found = rows(page(), model.command)
    lines = {name: line for name, line in table(model).items() if model is not FromScratchSettings or name not in OF_BASE_MODELS}
    assert found.keys() == lines.keys()
    for name, line in lines.items():
        values, default, meaning = found[name]
        for bound in (line.ge, line.gt, line.le, line.lt, line.multiple_of):
            assert bound is None or f"{bound:,}" in values, name
        assert all(f"`{choice}`" in values for choice in line.choices), name
        assert values.startswith("list of: ") == line.many and values.endswith("or `none`") == line.optional, name
        assert (default == "**required**") == line.required and line.default_in_words in default, name
        assert line.only_with is None or f"`{line.only_with[0]}`" in meaning, name
        assert line.unit in values and len(meaning) > 5, name


def test_some_rows_as_they_are():
    dreambooth, infer = rows(page(), "train_dreambooth.py"), rows(page(), "infer.py")
    default, needs = "8 (adapter loha); 16 (adapter lokr, lora)", "(needs `adapter` = `loha` or `lokr` or `lora`)"
    assert dreambooth["rank"] == ["integer, \u2265 1, \u2264 4,096", default, f"rank of the adapter {needs}"]
    assert dreambooth["lora_alpha"][0] == "number, > 0, \u2264 1,000,000, or `none`"
    assert (
        dreambooth["learning_rate"][0] == "number, > 0, \u2264 10" and "0.0001 (adapter lora)" in dreambooth["learning_rate"][1]
    )
    assert infer["height"][0] == "integer, \u2265 16, \u2264 4,096, multiple of 8 (pixels), or `none`"
    assert infer["strength"][2] == "how much to change the input image (0: nothing, 1: everything) (needs `image`)"
    assert infer["prompt"][0] == "list of: text" and "&lt;lora:NAME:0.8>" in infer["weights_dir"][2]
