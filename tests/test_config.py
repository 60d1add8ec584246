"""Settings: what is refused and accepted, all problems in one report, and TOML there and back."""

import math
import tomllib

import pytest
from hypothesis import assume, given, settings, strategies
from pydantic import ValidationError

from customize.cli.flags import aliases
from customize.cli.flags.settings_by_command import MODELS
from customize.errors import InputError
from customize.methods import DreamBoothSettings, FromScratchSettings, TextualInversionSettings
from customize.methods.from_scratch_settings import OF_BASE_MODELS
from customize.settings.field import table
from customize.settings.files import toml_file
from customize.settings.frozen_model import SECTIONS
from customize.settings.inference import InferenceSettings
from customize.settings.texts import PATHS
from customize.settings.training_parts.evaluation import WITH_PICTURES

REQUIRED = {
    TextualInversionSettings: {"placeholder_token": "<cat>", "initializer_token": "cat", "train_data_dir": "cats"},
    DreamBoothSettings: {"instance_prompt": "a photo of sks dog", "instance_data_dir": "dogs"},
    FromScratchSettings: {},
    InferenceSettings: {"prompt": "a cat"},
}
PRIOR = {"prior_preservation": "images", "class_prompt": "a dog", "class_data_dir": "class"}
CONDITIONS = {
    ("hires_scale", ()): {"hires_scale": 2.0},
    ("adapter", ()): {"adapter": "lora"},
    ("evaluation", ("auto", "pictures")): {"evaluation": "pictures"},
    ("prior_preservation", ()): PRIOR,
    ("prior_preservation", ("images",)): PRIOR,
    ("captions", ("auto", "files")): {"captions": "auto"},
    ("placeholder_token", ()): {
        "placeholder_token": ["<cat>"],
        "initializer_token": "cat",
        "adapter": "lora",
        "instance_prompt": "a photo of <cat>",
    },
    ("train_text_encoder", (True,)): {"train_text_encoder": True},
    ("dataset_name", ()): {"dataset_name": "pictures", "train_data_dir": (), "instance_data_dir": None},
    ("image", ()): {"image": "cat.png"},
    ("low_res_image", ()): {"low_res_image": "cat.png"},
    ("weights", ()): {"weights": ["cat.safetensors"]},
    ("trace", (True,)): {"trace": True},
    ("merge", ()): {"merge": "model"},
    ("between", ()): {"prompt": ["a cat", "a dog"], "between": 0.5},
    ("illusion", ("anagram", "alternating_anagram", "looking_glass")): {
        "prompt": ["a cat", "a dog"],
        "illusion": "anagram",
        "view": ["identity", "flip"],
    },
    ("illusion", ("hybrid",)): {"prompt": ["a cat", "a dog"], "illusion": "hybrid"},
    ("illusion", ()): {"prompt": ["a cat", "a dog"], "illusion": "hybrid"},
    ("process", ("denoiser",)): {"process": "denoiser"},
    ("process", ("ddpm", "flow")): {"process": "ddpm"},
    ("lr_scheduler", ("piecewise_constant",)): {"lr_scheduler": "piecewise_constant", "lr_step_rules": "1"},
    ("resume_from_checkpoint", ()): {"resume_from_checkpoint": "latest"},
    ("multires_noise_iterations", ()): {"multires_noise_iterations": 6},
    ("mask_image", ()): {"image": "cat.png", "mask_image": "mask.png"},
}


RULED = {
    "keep_tags": {"shuffle_tags": True},
    "tag_warmup_min": {"tag_warmup_steps": 10},
    "masked_prior_preservation_weight": {"adapter": "lora"},
    "dco_beta": {"adapter": "lora"},
    "tlora_min_rank": {"rank": 4096},
    "unet_train_fraction": {"train_text_encoder": True},
    "text_encoder_lr_warmup_steps": {"lr_scheduler": "linear", "max_train_steps": None, "num_train_epochs": 1},
    "tlora_alpha": {"tlora_min_rank": 4},
}
"""What rules, not `only_with`, demand of a setting's company."""


def condition(name, values):
    """Settings with which one that needs another has an effect."""
    return CONDITIONS.get((name, values)) or {name: values[0]}


def base(model, line=None):
    """The least that `model` accepts, and what the setting `line` needs to have an effect."""
    known = table(model)
    values = {**REQUIRED[model], **(condition(*line.only_with) if line and line.only_with else {})}
    values |= RULED.get(line.name, {}) if line else {}
    return {name: value for name, value in values.items() if name in known}


def faulty(model, **values):
    """The names of the settings that a report on these values speaks of, in its order."""
    return [problem.where for problem in model.examine({**base(model), **values})[1]]


def every(predicate):
    """(model, setting) of all models' settings that pass, without those that a model refuses whatever their value."""
    found = [(model, line) for model in MODELS for line in table(model).values() if predicate(line)]
    found = [(model, line) for model, line in found if line.name not in refused(model)]
    return pytest.mark.parametrize("model, line", found, ids=[f"{model.__name__}-{line.name}" for model, line in found])


def refused(model):
    """The settings of base models, and of pictures that are compared with a base model's, where there is none."""
    of_pictures = (name for name, line in table(model).items() if line.only_with == WITH_PICTURES)
    of_words = {"masked_prior_preservation_weight"} if model is TextualInversionSettings else set()
    return {*OF_BASE_MODELS, *of_pictures} if model is FromScratchSettings else of_words


def bounds(line):
    """The least and the greatest value that is fit, and the nearest ones outside."""
    step = line.multiple_of or 1
    if line.type is int:
        return line.ge, line.le, line.ge - step, line.le + step
    low = line.ge if line.gt is None else math.nextafter(line.gt, math.inf)
    high = line.le if line.lt is None else math.nextafter(line.lt, -math.inf)
    return low, high, math.nextafter(low, -math.inf), math.nextafter(high, math.inf)


@every(lambda line: line.type in (int, float))
def test_number_at_its_bounds(model, line):
    low, high, *outside = bounds(line)
    context = base(model, line)
    for value in (low, high, str(low), repr(high)):
        assert line.name not in [p.where for p in model.examine({**context, line.name: value})[1]], value
    wrong = [
        *outside,
        min(low, 0) - 1,
        math.nan,
        math.inf,
        -math.inf,
        "nan",
        "inf",
        "x",
        "",
        True,
        None,
    ]
    if line.type is int:
        wrong += [low + 0.5, line.multiple_of and low + 1]
    for value in wrong:
        if value is None and line.optional:
            continue
        assert line.name in [p.where for p in model.examine({**context, line.name: value})[1]], value


@every(lambda line: line.choices)
def test_choices(model, line):
    for choice in line.choices:
        assert not line.required
        refused = [p.what for p in model.examine({**base(model, line), line.name: choice})[1] if p.where == line.name]
        assert not any("is not one of" in what for what in refused)
    (problem,) = model.examine({**base(model, line), line.name: "foo"})[1]
    assert problem.where == line.name and all(choice in problem.what for choice in line.choices)


@every(lambda line: line.type is str and not line.choices and line.text not in ("any", "prompt"))
def test_text_is_one_nonempty_line(model, line):
    for value in ("", "   ", "a\nb", "a\x00b", "\x1b[31m", 5, "\udcff"):
        assert line.name in [p.where for p in model.examine({**base(model, line), line.name: value})[1]], value


@every(lambda line: True)
def test_every_setting_has_a_help_text(model, line):
    assert line.description and line.section in SECTIONS
    if line.type in (int, float):
        low, high, *_ = bounds(line)
        assert low < high
    if not line.required and line.default is not None:
        for value in line.default if line.many else (line.default,):
            assert line.fault(value) is None or line.text == "any"


def test_faults_that_diffusers_accepts():
    wrong = {
        "learning_rate": (-1, 0, math.nan, 1e30), "resolution": (60, 65, 0), "train_batch_size": (0,),
        "gradient_accumulation_steps": (0,), "checkpointing_steps": (0,), "save_steps": (-1,), "repeats": (0,),
        "max_train_steps": (0, -1), "checkpoints_total_limit": (0,), "lr_scheduler": ("foo",),
        "learnable_property": ("foo",), "num_vectors": (0, -1, [1, 0]), "placeholder_token": ("", "my cat", "../../x"),
        "initializer_token": ("",), "validation_prompt": ("", ["a", ""]),
        "pretrained_model_name_or_path": ("a.ckpt", ""),
    }  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            assert faulty(TextualInversionSettings, **{name: value}) == [name], (name, value)
    assert faulty(DreamBoothSettings, adapter="lora", rank=0) == ["rank"]
    assert faulty(DreamBoothSettings, adapter="lora", rank=-4) == ["rank"]


@pytest.mark.parametrize("token", ["<cat-toy>", "sks", "*", "猫", "a.b", "<café>"])
def test_placeholder_accepted(token):
    assert TextualInversionSettings(**{**base(TextualInversionSettings), "placeholder_token": token})


@pytest.mark.parametrize("token", ["my cat", "a\tb", "a\u00a0b", "a\u200bb", "a\u202eb", "a/b", "a\\b", "..", "x" * 65, ""])
def test_placeholder_refused(token):
    assert faulty(TextualInversionSettings, placeholder_token=token) == ["placeholder_token"]


CROSS = [
    (TextualInversionSettings, {"train_data_dir": ()}, "train_data_dir"),
    (TextualInversionSettings, {"dataset_name": "x"}, "train_data_dir"),
    (TextualInversionSettings, {"initializer_token": ["a", "b"]}, "initializer_token"),
    (TextualInversionSettings, {"num_vectors": [1, 2]}, "num_vectors"),
    (TextualInversionSettings, {"train_data_dir": ["a", "b"]}, "train_data_dir"),
    (TextualInversionSettings, {"placeholder_token": ["<a>", "<A>"]}, "placeholder_token"),
    (TextualInversionSettings, {"placeholder_token": ["<a>", "<a>_1"], "num_vectors": 2}, "placeholder_token"),
    (TextualInversionSettings, {"output_dir": "cats"}, "output_dir"),
    (TextualInversionSettings, {"max_train_steps": "none"}, "max_train_steps"),
    (TextualInversionSettings, {"lr_scheduler": "linear", "lr_warmup_steps": 500}, "lr_warmup_steps"),
    (TextualInversionSettings, {"report_to": ["none", "wandb"]}, "report_to"),
    (InferenceSettings, {"scheduler": ""}, "scheduler"),
    (DreamBoothSettings, {"overwrite_output_dir": True, "resume_from_checkpoint": "x"}, "resume_from_checkpoint"),
    (DreamBoothSettings, {"instance_data_dir": None}, "instance_data_dir"),
    (DreamBoothSettings, {"dataset_name": "x"}, "instance_data_dir"),
    (DreamBoothSettings, {"dataset_config_name": "x"}, "dataset_config_name"),
    (DreamBoothSettings, {"rank": 16}, "rank"),
    (DreamBoothSettings, {"use_dora": True}, "use_dora"),
    (DreamBoothSettings, {"adapter": "lora", "instance_prompt": "an oil of <new>", "placeholder_token": "<new>",
                          "initializer_token": "oil", "learnable_property": "style", "class_prompt": "a dog"}, "class_prompt"),
    (DreamBoothSettings, {"text_encoder_learning_rate": 1e-6}, "text_encoder_learning_rate"),
    (DreamBoothSettings, {**PRIOR, "class_prompt": None}, "class_prompt"),
    (DreamBoothSettings, {**PRIOR, "class_data_dir": None}, "class_data_dir"),
    (DreamBoothSettings, {**PRIOR, "class_data_dir": "dogs/../dogs"}, "class_data_dir"),
    (DreamBoothSettings, {"prior_preservation": "teacher", "class_prompt": "a dog"}, "prior_preservation"),
    (DreamBoothSettings, {"adapter": "lora", **PRIOR, "prior_preservation": "teacher"}, "class_data_dir"),
    (InferenceSettings, {"strength": 0.5}, "strength"),
    (InferenceSettings, {"between": 0.5}, "prompt"),
    (InferenceSettings, {"lesson": "forward", "image": "a.png", "trace": True}, "trace"),
    (InferenceSettings, {"interpolation": "spherical"}, "interpolation"),
    (InferenceSettings, {"illusion": "hybrid"}, "prompt"),
    (InferenceSettings, {"illusion": "looking_glass", "prompt": ["a", "b"], "view": ["identity", "flip"], "upscalers": ["x"]},
     "upscalers"),
    (InferenceSettings, {"illusion": "anagram"}, "view"),
    (InferenceSettings, {"illusion": "anagram", "view": ["identity", "flip"], "prompt": ["a", "b", "c"]}, "prompt"),
    (InferenceSettings, {"illusion": "hybrid", "prompt": ["a", "b"], "image": "a.png"}, "image"),
    (InferenceSettings, {"illusion": "hybrid", "prompt": ["a", "b"], "between": 0.5}, "illusion"),
    (InferenceSettings, {"weights": "cat.bin:0.5"}, "weights"),
    (InferenceSettings, {"weights": "cat.safetensors:nan"}, "weights"),
    (InferenceSettings, {"weights": ":0.5"}, "weights"),
]  # fmt: skip


@pytest.mark.parametrize("model, values, where", CROSS, ids=[f"{c[2]}-{i}" for i, c in enumerate(CROSS)])
def test_settings_that_contradict_each_other(model, values, where):
    assert faulty(model, **values) == [where]


@pytest.mark.parametrize(
    "model, values",
    [
        (
            TextualInversionSettings,
            {"placeholder_token": ["<a>", "<b>"], "num_vectors": [1, 2], "initializer_token": "cat"},
        ),
        (TextualInversionSettings, {"placeholder_token": ["<a>", "<a>_1"]}),
        (TextualInversionSettings, {"train_data_dir": (), "dataset_name": "x", "image_column": "picture"}),
        (DreamBoothSettings, PRIOR),
        (DreamBoothSettings, {"adapter": "lora", "prior_preservation": "teacher", "class_prompt": "a dog"}),
        (InferenceSettings, {"image": "cat.png", "strength": 0.5, "negative_prompt": ""}),
    ],
)
def test_settings_that_go_together(model, values):
    assert faulty(model, **values) == []


def test_all_problems_in_one_report():
    values = {"learning_rate": -1, "resolution": 65, "max_train_step": 3, "train_text_encoder": "perhaps", "rank": 3,
              "instance_prompt": "", "prior_preservation": "images", "dataset_name": "x"}  # fmt: skip
    with pytest.raises(InputError) as caught:
        DreamBoothSettings(instance_data_dir="dogs", **values)
    assert sorted(problem.where for problem in caught.value.problems) == sorted([
        "learning_rate", "resolution", "max_train_step", "train_text_encoder", "rank", "instance_prompt",
        "class_prompt", "class_data_dir", "instance_data_dir",
    ])  # fmt: skip
    assert all(problem.what and problem.remedy for problem in caught.value.problems)


def test_unknown_names_lead_to_the_nearest_or_to_the_command_that_has_them():
    def remedy(model, name):
        (problem,) = model.examine({**base(model), name: "x"})[1]
        return aliases.explained(problem, model).remedy

    assert remedy(DreamBoothSettings, "learning_rat") == "did you mean learning_rate?"
    assert remedy(DreamBoothSettings, "max_steps") == "did you mean max_train_steps?"
    assert remedy(InferenceSettings, "guidance") == "did you mean guidance_scale?"
    assert remedy(InferenceSettings, "x" * 1_000_000) == "--help lists all settings"
    assert remedy(InferenceSettings, "xyzzy") == "--help lists all settings"
    assert remedy(TextualInversionSettings, "rank") == "leave it out: it is a setting of train_dreambooth.py"
    (problem,) = DreamBoothSettings.examine({**base(DreamBoothSettings), "lr_scheduler": "cosin"})[1]
    assert problem.remedy == "did you mean cosine?"


def test_defaults_that_depend_on_other_settings():
    def made(**values):
        return DreamBoothSettings(**base(DreamBoothSettings), **values)

    assert made().learning_rate == 2e-6 and made(adapter="lora").learning_rate == 1e-4
    assert made(adapter="lora", learning_rate=3e-4).learning_rate == 3e-4
    assert made().max_train_steps == 800 and made(num_train_epochs=3).max_train_steps is None
    assert made(num_train_epochs=3, max_train_steps=7).max_train_steps == 7
    assert made(num_train_epochs="none").max_train_steps == 800


def test_settings_are_frozen():
    made = InferenceSettings(prompt="a cat")
    with pytest.raises(ValidationError):
        made.seed = 1
    assert made.prompt == ("a cat",)


def test_weights_and_scales():
    made = InferenceSettings(prompt="x", weights=["runs/cat", "a.safetensors:0.8", r"C:\cat", r"C:\cat:-1", "a:b:1e-1"])
    assert made.weights_and_scales == (
        ("runs/cat", 1.0), ("a.safetensors", 0.8), (r"C:\cat", 1.0), (r"C:\cat", -1.0), ("a:b", 0.1)
    )  # fmt: skip


WORDS = strategies.text(strategies.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=12).filter(
    lambda text: text.strip() and text.casefold() != "none"
)
TEXTS = {
    "line": WORDS,
    "path": WORDS,
    "any": WORDS | strategies.just(""),
    "placeholder": strategies.from_regex(r"<[a-z]{1,9}>", fullmatch=True),
    "weights": WORDS.map(lambda word: f"{word}.safetensors:0.5"),
    "model": WORDS.map(lambda word: f"{word}/model"),
    "ranks": strategies.sampled_from(["convolutions=8", "mid_block=4", "*.to_k=1"]),
    "factors": strategies.sampled_from(["mid_block=0.5", "attention=0", "*.to_k=1000"]),
    "modules": strategies.sampled_from(["attention", "feed-forward", "to_q", "mid.attn.to_k"]),
}  # fmt: skip


def values_of(line):
    if line.choices:
        one = strategies.sampled_from(line.choices)
    elif line.type is bool:
        one = strategies.booleans()
    elif line.type is str:
        one = TEXTS[line.text]
    elif line.type is float:
        low, high, *_ = bounds(line)
        one = strategies.floats(low, high)
    else:
        step = line.multiple_of or 1
        one = strategies.integers(line.ge // step, line.le // step).map(lambda number: number * step)
    if line.many:
        one = strategies.lists(one, min_size=line.default != (), max_size=1 if line.choices else 3, unique=True).map(tuple)
    return one | strategies.none() if line.optional else one


SITUATIONS = {
    TextualInversionSettings: [{}, CONDITIONS["dataset_name", ()]],
    FromScratchSettings: [{}, {"process": "denoiser"}, {"process": "ddpm", "class_conditioned": False}],
    DreamBoothSettings: [{}, PRIOR, {"adapter": "lora", "prior_preservation": "teacher", "class_prompt": "a dog"},
                         {"adapter": "lora", "train_text_encoder": True, **PRIOR}],
    InferenceSettings: [{}, {"image": "cat.png"}, {"weights": ["cat:0.5", "dog:0@0,1@0.3"]}],
}  # fmt: skip


@strategies.composite
def valid(draw, model):
    """A settings object: any values for any of the settings that have an effect in one of the situations."""
    known = table(model)
    situation = {**base(model), **draw(strategies.sampled_from(SITUATIONS[model]))}
    situation = {name: value for name, value in situation.items() if name in known}
    plain, _ = model.examine(situation)
    decided = situation.keys() | refused(model) | {name for name, _ in CONDITIONS} | {"hub_token", "concept", "concepts_list"}
    free = {name: values_of(line) for name, line in known.items() if name not in decided and plain.has_effect(name)}
    values = {**situation, **draw(strategies.fixed_dictionaries({}, optional=free))}
    assume(not model.examine(values)[1])
    return model(**values)


@pytest.mark.parametrize("model", MODELS)
def test_toml_there_and_back(model):
    @settings(max_examples=25, deadline=None)
    @given(made=valid(model))
    def check(made):
        document = tomllib.loads(made.to_toml())
        values = {name: value for members in document.values() for name, value in members.items()}
        assert model(**values) == made
        assert model(**made.values()) == made

    check()


def test_secrets_are_kept_back():
    made = DreamBoothSettings(**base(DreamBoothSettings), push_to_hub=True, hub_token="hf_secret")
    assert made.hub_token == "hf_secret"
    assert not any("hf_secret" in str(shown) for shown in (made.to_toml(), made.values(), repr(made)))
    (problem,) = DreamBoothSettings.examine({**base(DreamBoothSettings), "hub_token": "hf_secret\n"})[1]
    assert "hf_secret" not in str(problem)


def test_toml_tables_are_for_reading(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('seed = 1\n[train]\n"instance-prompt" = "a dog"\n[data.deep]\nrank = 4\nlora_targets = ["to_q", "to_k"]\n')
    values, places = toml_file.read(str(file))
    assert values == {"seed": 1, "instance_prompt": "a dog", "rank": 4, "lora_targets": ["to_q", "to_k"]}
    assert places["instance_prompt"] == f"{file}:3: instance-prompt" and places["rank"] == f"{file}:5: rank"


@pytest.mark.parametrize(
    "content, line, phrase",
    [
        (b"seed = 1\nname = \n", 2, "is not TOML"),
        (b"seed = 1\n\nseed = 2\n", 3, "is not TOML"),
        (b"a = 1\nb = \xff\xfe\n", 2, "is not UTF-8"),
        (b"a = \x00\n", 1, "is not TOML"),
        (b"[a]\nseed = 1\n[b]\nseed = 2\n", 2, "is given twice"),
        (b"a = " + b"[" * 100_000, None, "is not TOML"),
        (b"a = " + b"1" * 10_000, None, "is not TOML"),
        (b"#" * 1_000_001, None, "too large"),
    ],
)
def test_toml_faults_name_file_and_line(tmp_path, content, line, phrase):
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        toml_file.read(str(file))
    (problem,) = caught.value.problems
    assert phrase in problem.what
    assert problem.where.startswith(f"{file}:{line}" if line else str(file))


def test_toml_that_is_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing.toml"):
        with pytest.raises(InputError, match="is a folder" if path.is_dir() else "does not exist"):
            toml_file.read(str(path))


def test_toml_with_byte_order_mark(tmp_path):
    file = tmp_path / "config.toml"
    file.write_bytes(b"\xef\xbb\xbfseed = 3\r\n")
    assert toml_file.read(str(file))[0] == {"seed": 3}


@settings(max_examples=100, deadline=None)
@given(content=strategies.binary(max_size=40) | strategies.text(alphabet="a=1\n[]{}\"'.# -_", max_size=40).map(str.encode))
def test_any_file_is_read_or_refused(content, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(content)
    try:
        values, places = toml_file.read(str(file))
    except InputError:
        return
    _, problems = InferenceSettings.examine(values)
    assert values.keys() == places.keys() and len(problems) >= len(values.keys() - table(InferenceSettings).keys())


def test_a_home_is_written_out_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    settings = TextualInversionSettings(
        placeholder_token=["<x>", "<y>"], initializer_token="toy", train_data_dir=["~/a", "b/~"], output_dir="~/runs/~x",
        latents_cache_dir="~", pretrained_model_name_or_path="~nobody-of-that-name/model",
    )  # fmt: skip
    assert settings.train_data_dir == ("/home/someone/a", "b/~") and settings.output_dir == "/home/someone/runs/~x"
    assert (
        settings.latents_cache_dir == "/home/someone" and settings.pretrained_model_name_or_path == "~nobody-of-that-name/model"
    )
    other = InferenceSettings(prompt="~", weights=["~/cat:0.5"], image="~/a.png", like=None, merge=None)
    assert other.weights == ("/home/someone/cat:0.5",) and other.image == "/home/someone/a.png" and other.prompt == ("~",)


def test_every_setting_that_names_a_file_or_folder_is_a_path():
    """Those are the ones whose value is a place: their names end in _dir, or they are these."""
    others = {
        "pretrained_model_name_or_path",
        "resume_from_checkpoint",
        "dataset_name",
        "image",
        "mask_image",
        "low_res_image",
        "upscalers",
        "like",
        "merge",
        "weights",
        "prompt_file",
        "init_weights",
        "vae",
        "scorer",
        "prompt_embeddings",
        "validation_images",
        "caption_templates",
        "concepts_list",
        "leave_out",
    }
    for model in (TextualInversionSettings, DreamBoothSettings, InferenceSettings):
        for name, line in table(model).items():
            is_path = name in others or (name.endswith("_dir") and line.type is str and name != "logging_dir")
            assert (line.text in PATHS) == is_path, name
            if is_path:
                assert line.fault("a/" + "x" * 255) is None and "255 bytes" in line.fault("x" * 256 + "/a")
                assert "4,000 bytes" in line.fault("a/" * 2001)


def test_a_text_that_is_too_long_is_refused_before_it_is_parsed():
    text = f"seed = [{', '.join(['1'] * 400_000)}]"
    with pytest.raises(InputError, match="too many for settings"):
        toml_file.of_text(text, "the text box")
