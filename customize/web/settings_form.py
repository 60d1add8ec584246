"""A form of all settings, drawn from their declarations as one piece of HTML, because a component for each would take seconds.

`arguments` has those of a gr.HTML with the event `set`: its `changes` are texts by name, as they stand in the form. The value is
what `state` returns; the browser puts it into the controls, so that no text of a person becomes HTML, and adds `waiting`, the
changes of which it does not know yet that they are written.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from customize.errors import InputError, Problem
from customize.printable import html
from customize.settings.field import Setting, table, written
from customize.settings.files import toml_edit, toml_file
from customize.settings.frozen_model import SECTIONS, Validated, by_section
from customize.web.settings_form_script import SCRIPT, STYLE


def arguments(model: type[Validated], left_out: Collection[str] = ()) -> dict[str, Any]:
    """The arguments of the gr.HTML. left_out: settings that have a field elsewhere."""
    value = state(model, {})
    return {
        "value": value, "form": form(model, left_out), "html_template": "${form}", "css_template": STYLE, "js_on_load": SCRIPT,
        "apply_default_css": False,
    }  # fmt: skip


def shown(model: type[Validated], left_out: Collection[str] = ()) -> dict[str, list[Setting]]:
    """The settings that have a row, by section: a secret stands in no file, and a table is written as TOML."""
    sections = by_section(model).items()
    rows = {section: [line for line in lines if not line.secret and line.type is not dict] for section, lines in sections}
    return {section: [line for line in lines if line.name not in left_out] for section, lines in rows.items()}


def form(model: type[Validated], left_out: Collection[str] = ()) -> str:
    """The rows of all settings by section, and a box that filters them."""
    parts = [
        f'<details><summary><b>{section}</b>: {html(SECTIONS[section])} <span class="count"></span></summary>'
        f'<div class="rows">{"".join(map(row, lines))}</div></details>'
        for section, lines in shown(model, left_out).items()
        if lines
    ]
    search = '<label class="search">Filter <input type="search" placeholder="a name, or a word of its description"></label>'
    none = '<p class="none" role="status" hidden>No setting has these words.</p>'
    broken = '<p class="broken" role="status" hidden>Correct the TOML first.</p>'
    return f"{search}{broken}<fieldset><legend>Settings</legend>{''.join(parts)}</fieldset>{none}"


def row(line: Setting) -> str:
    """A setting: its name, its control, what it does, and places for why it has no effect and what is wrong."""
    about = f"about-{line.name}"
    control = control_of(line, f'class="control" id="set-{line.name}" aria-describedby="{about}"')
    return (
        f'<div class="setting" data-name="{line.name}"><div class="name"><label for="set-{line.name}">{line.name}</label>'
        f'<span class="mark" hidden>changed</span></div>{control}'
        f'<div id="{about}"><p class="about">{html(about_of(line))}</p>'
        '<p class="idle" hidden></p><p class="fault" hidden></p></div></div>'
    )


def control_of(line: Setting, attributes: str) -> str:
    """The control that fits a setting's type; an empty one stands for the default."""
    default = html(line.default_text)
    if line.many:
        return f'<textarea rows="2" {attributes} placeholder="{default}"></textarea>'
    if line.type is bool and not line.optional:
        return f'<input type="checkbox" role="switch" {attributes}>'
    choices: Sequence[str] = ("true", "false") if line.type is bool else line.choices
    if choices:
        more = ("none",) * (line.optional and line.default is not None)
        options = "".join(f"<option>{html(choice)}</option>" for choice in (*choices, *more))
        return f'<select {attributes}><option value="">{default or "none"} (default)</option>{options}</select>'
    keys = {int: ' inputmode="numeric"', float: ' inputmode="decimal"'}.get(line.type, "")
    return f'<input type="text"{keys} autocomplete="off" spellcheck="false" {attributes} placeholder="{default}">'


def about_of(line: Setting) -> str:
    """What a setting does, its values and its default."""
    limits = "" if line.choices or line.type in (str, bool) else f"; {line.expected}{f' ({line.unit})' if line.unit else ''}"
    several = f"; several, one a line{f': {line.expected}' if line.choices else ''}" if line.many else ""
    default = "required" if line.required else f"default {line.default_text or 'empty'}"
    return f"{line.description}{limits}{several}; {default}"


def state(
    model: type[Validated], values: Mapping[str, Any] | None, problems: Iterable[Problem] | None = None, done: Any = None
) -> dict[str, Any]:
    """What the form shows of these settings: texts of those that are given, and which of them differ from their defaults;
    defaults that depend on others; which settings have no effect; and what is wrong.

    values: None if the TOML cannot be read. problems: other ones than those of the settings. done: a change that is written now,
    of which the browser then knows.
    """
    if values is None:
        return {"broken": True, "done": done}
    lines = table(model)
    checked, found = model.examine({name: value for name, value in values.items() if name in lines})
    faults: dict[str, str] = {}
    for each in (found if problems is None else problems) if values else ():
        faults.setdefault(each.where, f"{each.what} \u2192 {each.remedy}")
    given = {name: value for name, value in values.items() if name in lines and lines[name].type is not dict}
    return {
        "values": {name: text_of(value) for name, value in given.items()},
        "changed": [name for name in given if name in faults or not is_default(checked, values, name)],
        "usual": {name: text_of(value) for name, value in usual(checked, given)},
        "idle": {name: idle_of(line) for name, line in lines.items() if not checked.has_effect(name)},
        "faults": {name: text for name, text in faults.items() if name in lines},
        "done": done,
    }


def is_default(checked: Validated, values: Mapping[str, Any], name: str) -> bool:
    """Whether a setting has the value that it would have if it were not given."""
    others = {other: value for other, value in values.items() if other != name}
    default = checked.completed(others).get(name, table(type(checked))[name].default)
    return getattr(checked, name) == (tuple(default) if isinstance(default, list) else default)


def usual(checked: Validated, given: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The values of settings that are not given, where their declaration does not tell them."""
    for name, line in table(type(checked)).items():
        value = getattr(checked, name)
        if name not in given and value not in (None, ()) and (value is True or value != line.default):
            yield name, value


def idle_of(line: Setting) -> str:
    """Why a setting has no effect."""
    other, values = line.only_with or ("", ())
    words = " or ".join(written(each) for each in values)
    return f"has no effect without {other}{f' = {words}' if words else ''}"


def text_of(value: Any) -> str:
    """A value as the text of its control: several have a line each; a line break within one counts as a blank."""
    parts = value if isinstance(value, list | tuple) else (value,)
    return "\n".join(re.sub(r"[\r\n]+", " ", written(each)) for each in parts)


def value_of(line: Setting, text: str) -> Any:
    """The value that a text is, of the setting's type where it can be one."""
    if line.many:
        return tuple(one_of(line.type, part) for part in text.split("\n") if part.strip())
    return one_of(line.type, text)


def one_of(kind: type, text: str) -> Any:
    """One value; the text itself if it is none of this type."""
    if kind is bool:
        return {"true": True, "false": False}.get(text, text)
    for number in (int, float) if kind in (int, float) else ():
        try:
            if math.isfinite(found := number(text.strip())):
                return found
        except (ValueError, OverflowError):
            continue
    return text


def with_changes(model: type[Validated], text: str, changes: Mapping[str, Any], tables: bool = True) -> str:
    """The TOML text with these changes; an empty text takes a setting out. Raises InputError if the TOML cannot be read, or sets
    one of them in a way that cannot be changed here. tables: whether a new line goes into the table of its section."""
    for name, given in changes.items():
        line = table(model).get(name)
        if line is not None and not line.secret and line.type is not dict and isinstance(given, str):
            text = with_change(model, line, text, given, tables)
    return text


def completed(model: type[Validated], text: str, form: Mapping[str, Any] | None, tables: bool = True) -> str:
    """The TOML with the changes that wait in the value of a form: a button may be pressed right after a value was typed."""
    try:
        return with_changes(model, text, (form or {}).get("waiting") or {}, tables)
    except InputError:
        return text


def with_change(model: type[Validated], line: Setting, text: str, given: str, tables: bool) -> str:
    """The same with one change."""
    before, _ = toml_file.of_text(text, "settings")
    wanted = {line.name: value_of(line, given)} if given.strip() else {}
    others = {name: value for name, value in before.items() if name != line.name}
    if line.type is bool and not line.many and wanted and is_default(model.examine(others | wanted)[0], others, line.name):
        wanted = {}
    literal = toml_file.literal(wanted[line.name]) if wanted else ""
    new = toml_edit.assigned(text, line.section * tables, line.name, literal)
    try:
        after, _ = toml_file.of_text(new, "settings")
    except InputError:
        after = {}
    if {name: text_of(value) for name, value in after.items()} != {
        name: text_of(value) for name, value in (others | wanted).items()
    }:
        remedy = "change it in the TOML"
        raise InputError(Problem(line.name, "is set in a line with others, so that the form cannot change it", remedy))
    return new
