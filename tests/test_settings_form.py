"""The form of all settings: each setting of every command goes from its control to the TOML and back, and all text stays text."""

from html.parser import HTMLParser

import pytest

from customize.errors import InputError
from customize.jobs import queue
from customize.settings.field import Setting, table
from customize.settings.files import toml_edit, toml_file
from customize.web import settings_form
from customize.web.settings_form import form, shown, state, text_of, with_changes

HOSTILE = "\"'><img src=x onerror=alert(1)>\"' {{value}} ${1+1} # = \\ \u202e"
TOML = """# mine

[train]  # the loop
# slow but sure
max_train_steps = 500  # "five" # hundred

[ method ]
'instance-prompt' = "a # sks dog"  # a rare word
lora_targets = [ # of the adapter
    "attention", "]",
] # end

[data]
instance_data_dir = \"\"\"a
rank = 3\"\"\"
[[concept]]
instance_prompt = "another"
class_prompt = "one"
"""
LONG = f"rank = [\n{'[1],' * 9}\n" + "[2],\n" * 5000 + "]\n"
"""Takes minutes if each of its lines is tried as the last one."""


def samples(line: Setting) -> list:
    """Values of a setting, valid by its type."""
    if line.choices or line.type is bool:
        one = [*(line.choices or (True, False))]
    elif line.type is str:
        one = ["a cat, on a mat", HOSTILE, "true", "12", "ümläut"]
    else:
        one = [each for each in (0, 1, -1, 7, 64, 123456, 1e-7, 0.25, 2.5e6) if not line.fault(line.type(each))]
        one = [line.type(each) for each in one]
    return [(each, one[0]) for each in one] if line.many else one


@pytest.mark.parametrize("command", queue.MODELS)
def test_every_setting_goes_to_the_toml_and_back(command):
    model, count, values = queue.MODELS[command], 0, {}
    base = "# mine\n\n[output]\nseed = 3 # kept\n" if "seed" in table(model) else "# mine\n"
    for line in [line for lines in shown(model).values() for line in lines]:
        for value in samples(line):
            text = with_changes(model, base, {line.name: text_of(value)})
            given = toml_file.of_text(text, "")[0].get(line.name)
            given = tuple(given) if line.many and given is not None else given
            if line.type is bool and given is None:
                given = line.default
            assert given == value and (type(given) is type(value) or isinstance(value, float)), line.name
            assert text.startswith("# mine\n") and ("# kept" in text) == ("# kept" in base)
            if line.name != "seed":
                assert toml_file.of_text(with_changes(model, text, {line.name: ""}), "") == toml_file.of_text(base, "")
            count += 1
        values[line.name] = value
    assert count > 2 * len(table(model))
    assert state(model, values)["values"] == {name: text_of(value) for name, value in values.items()}


class Controls(HTMLParser):
    """The controls by name: tag, type, choices; and every attribute of the page."""

    def __init__(self, text: str):
        super().__init__()
        self.found: dict[str, list] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        own = dict(attrs)
        if own.get("class") == "control":
            self.last = self.found.setdefault(own["id"].removeprefix("set-"), [tag, own.get("type"), own.get("inputmode")])
        elif tag == "option" and "value" not in own:
            self.last.append("")

    def handle_data(self, data):
        if self.found and self.last[-1] == "":
            self.last[-1] = data


@pytest.mark.parametrize("command", queue.MODELS)
def test_each_setting_has_the_control_that_fits_its_type(command):
    lines = table(queue.MODELS[command])
    page = Controls(form(queue.MODELS[command], ["seed"]))
    rest = {line.name for line in lines.values() if line.secret or line.type is dict} | {"seed"}
    assert page.found.keys() == lines.keys() - rest
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) and {value for name, value in page.attributes if name in ("for", "aria-describedby")} <= {
        *ids
    }
    for name, (tag, kind, keys, *choices) in page.found.items():
        line = lines[name]
        if line.many:
            assert tag == "textarea"
        elif line.choices:
            assert tag == "select" and choices[: len(line.choices)] == [*line.choices]
        elif line.type is bool:
            assert (tag, kind) == ("input", "checkbox") or (tag == "select" and line.optional)
        else:
            assert (tag, kind, keys) == ("input", "text", {int: "numeric", float: "decimal"}.get(line.type))


def test_a_declaration_of_hostile_text_stays_text():
    line = table(queue.MODELS["infer"])["prompt"]
    hostile = Setting(**{**line.__dict__, "description": HOSTILE, "default": HOSTILE, "default_in_words": HOSTILE})
    for changes in ({}, {"many": False}, {"many": False, "choices": (HOSTILE,)}):
        html = settings_form.row(Setting(**{**hostile.__dict__, **changes}))
        assert not {"onerror", "src"} & {name for name, _ in Controls(html).attributes} and "\u202e" not in html


def test_a_line_is_changed_where_it_stands_and_comments_are_kept():
    change = {"max_train_steps": "9", "instance_prompt": "a <b>", "lora_targets": "x\n\ny", "rank": "4", "learning_rate": "1e-4"}
    text = with_changes(queue.MODELS["train_dreambooth"], TOML, change)
    assert text == TOML.replace("= 500  #", "= 9  #").replace('"a # sks dog"', '"a <b>"').replace(
        '[ # of the adapter\n    "attention", "]",\n]', '["x", "y"]'
    ).replace("[ method ]", "[ method ]\nrank = 4").replace("[train]  # the loop", "[train]  # the loop\nlearning_rate = 0.0001")
    gone = with_changes(queue.MODELS["train_dreambooth"], text, dict.fromkeys(change, ""))
    assert '\n# "five" # hundred\n' in gone and "= 9" not in gone and "another" in gone and "rank = 4" not in gone
    own = with_changes(queue.MODELS["train_dreambooth"], TOML, {"class_prompt": "two"})
    assert own == TOML.replace("[ method ]", '[ method ]\nclass_prompt = "two"')
    assert with_changes(queue.MODELS["infer"], "", {"clip_skip": "1"}, tables=False) == "clip_skip = 1\n"


@pytest.mark.parametrize("text", ["rank = ", "method = {rank = 8, adapter = 'lora'}", "[output\n", LONG])
def test_what_the_form_cannot_change_it_leaves_and_says_so(text):
    with pytest.raises(InputError):
        with_changes(queue.MODELS["train_dreambooth"], text, {"rank": "4"})


def test_a_toml_that_cannot_be_read_locks_the_form():
    assert not toml_edit.is_toml("[output\n") and state(queue.MODELS["infer"], None) == {"broken": True, "done": None}


def test_secrets_tables_and_unknown_names_are_not_written():
    changes = {"hub_token": "hf_x", "concept": "x", "none_such": "1", "rank": 3, "__class__": "x"}
    assert with_changes(queue.MODELS["train_dreambooth"], TOML, changes) == TOML


def test_the_state_says_what_is_changed_idle_and_wrong():
    model = queue.MODELS["train_dreambooth"]
    found = state(model, {"adapter": "lora", "rank": 16, "learning_rate": 0.0001, "lora_alpha": "0,5", "max_train_steps": -1})
    assert found["changed"] == ["adapter", "lora_alpha", "max_train_steps"] and found["values"]["lora_alpha"] == "0,5"
    assert "did you mean 0.5" in found["faults"]["lora_alpha"] and "instance_prompt" in found["faults"]
    assert state(model, {"adapter": "lora"})["usual"]["learning_rate"] == "0.0001"
    assert "learning_rate" not in state(model, {})["usual"] and state(model, {})["faults"] == {}
    idle = state(model, {})["idle"]
    assert idle["masked_prior_preservation_weight"] == "has no effect without masked_loss = true"
    assert "lora_alpha" in idle and "lora_alpha" not in found["idle"]
