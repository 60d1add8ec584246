"""docs/coming_from.md is what docs/make_coming_from.py writes, and says what the commands do with each name."""

import pytest

from customize.cli.flags import aliases, diffusers_flags
from customize.cli.flags.aliases_table import BY_VALUE
from customize.settings.field import table
from docs.make_coming_from import AI_TOOLKIT, KOHYA, METHODS, ONETRAINER, PAGE, fate, page

NAMES = sorted({*KOHYA.split(), *ONETRAINER.split(), *AI_TOOLKIT.split(), *diffusers_flags.FLAGS})


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python docs/make_coming_from.py"


@pytest.mark.parametrize("group", ["taken", "here", "refused", ""])
def test_each_name_is_treated_as_the_page_says(group):
    """For a command that has the name: a value of a setting, a note, a problem, or nothing."""
    names = [name for name in NAMES if fate(name)[0] == group]
    assert len(names) > 5
    for name in names:
        models = [model for model in METHODS if name in {**aliases.lines(model), **diffusers_flags.flags(model), **table(model)}]
        assert bool(models) == bool(group), name
        if not models or name in BY_VALUE:
            continue
        [model, *_] = models
        flag = {**diffusers_flags.flags(model), **aliases.flags(model)}.get(name)
        value = True if flag and flag.type is bool else "3" if flag and flag.type is int else ["a"] if flag and flag.many else "a"
        found = aliases.ours(model, {name: value})
        values, notes, problems = diffusers_flags.translate(model, found.values)
        assert all(setting in table(model) for setting in values), name
        said = "taken" if values else "refused" if found.problems or problems else "here" if found.notes or notes else ""
        assert said == group, name
