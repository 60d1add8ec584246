"""The JSON schema that pydantic makes of the settings holds all that the table of a command line says."""

import json
import math

import pytest
from pydantic import BaseModel, create_model

from customize.cli.flags.settings_by_command import MODELS
from customize.demo.pretraining.settings import DemoSettings
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.common import Settings
from customize.settings.field import joined, of_scope, setting, table
from customize.settings.inference import InferenceSettings
from customize.settings.training import TrainingSettings

TYPES = {"boolean": bool, "integer": int, "number": float, "string": str, "object": dict}
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum", "multiple_of": "multipleOf"}
CLASSES = (Settings, TrainingSettings, *MODELS, DemoSettings)


def one_value(schema: dict) -> tuple[dict, bool, bool]:
    """What the schema of a field says of one value; whether the field may be null; whether it is a list of such values."""
    alternatives = schema.get("anyOf", [schema])
    (value,) = [each for each in alternatives if each["type"] != "null"]
    many = value["type"] == "array"
    return value["items"] if many else value, len(alternatives) == 2, many


@pytest.mark.parametrize("model", CLASSES)
def test_the_schema_equals_the_table(model):
    schema = json.loads(json.dumps(model.model_json_schema()))
    assert schema["properties"].keys() == table(model).keys() and not schema["additionalProperties"]
    assert set(schema.get("required", ())) == {name for name, line in table(model).items() if line.required}
    for name, line in table(model).items():
        field = schema["properties"][name]
        value, optional, many = one_value(field)
        assert (TYPES[value["type"]], optional, many) == (line.type, line.optional, line.many), name
        assert {key: value.get(key) for key in BOUNDS.values()} == {key: getattr(line, ours) for ours, key in BOUNDS.items()}, (
            name
        )
        assert tuple(value.get("enum", [value["const"]] if "const" in value else ())) == line.choices, name
        if not line.required:
            assert field["default"] == (list(line.default) if line.many and line.default is not None else line.default), name
        assert (field["description"], field["section"], field["scope"]) == (line.description, line.section, line.scope), name
        facts = (field.get("unit", ""), field.get("text", "line"), field.get("secret", False), field.get("default_in_words", ""))
        assert facts == (line.unit, line.text, line.secret, line.default_in_words), name
        needed = field.get("only_with")
        assert (needed and (needed["setting"], tuple(needed["values"]))) == line.only_with, name


def test_some_fields_as_they_are():
    """Independent of the table: what a page that reads the schema gets."""
    properties = DreamBoothSettings.model_json_schema()["properties"]
    resolution, rate, adapter = properties["resolution"], properties["learning_rate"], properties["adapter"]
    assert resolution["anyOf"][0] == {"type": "integer", "minimum": 16, "maximum": 4096, "multipleOf": 8}
    assert (resolution["unit"], resolution["section"]) == ("pixels", "data")
    assert (rate["type"], rate["exclusiveMinimum"], rate["maximum"], rate["default"]) == ("number", 0, 10, 2e-6)
    assert adapter["enum"][:1] == ["none"] and "lora" in adapter["enum"] and adapter["default"] == "none"
    assert properties["lora_targets"]["only_with"] == {"setting": "adapter", "values": []}
    assert properties["rank"]["only_with"] == {"setting": "adapter", "values": ["loha", "lokr", "lora"]}
    assert properties["text_encoder_learning_rate"]["only_with"] == {"setting": "train_text_encoder", "values": [True]}
    assert properties["hub_token"]["secret"] is True
    vectors = TextualInversionSettings.model_json_schema()["properties"]["num_vectors"]
    assert vectors["items"] == {"type": "integer", "minimum": 1, "maximum": 75} and vectors["default"] == [1]
    assert InferenceSettings.model_json_schema()["properties"]["seed"]["maximum"] == 2**64 - 1


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("rank", 0, "0 is not a whole number from 1 to 4096"),
        ("rank", "4097", "4097 is not a whole number from 1 to 4096"),
        ("rank", "x", '"x" is not a whole number from 1 to 4096'),
        ("learning_rate", "0", "0.0 is not a number above 0, at most 10"),
        ("learning_rate", math.nan, "nan is not a number above 0, at most 10"),
        ("learning_rate", "nan", "nan is not a number above 0, at most 10"),
        ("lora_dropout", "1", "1.0 is not a number at least 0, below 1"),
        ("resolution", "513", "513 is not a whole number from 16 to 4096, a multiple of 8, or none"),
        ("lr_scheduler", "foo", '"foo" is not one of '),
        ("max_train_steps", True, "true is not a whole number from 1 to 10000000, or none"),
    ],
)
def test_what_pydantic_refuses_in_our_words(name, value, words):
    given = {"instance_prompt": "a photo of sks dog", "instance_data_dir": "dogs", "adapter": "lora", name: value}
    (problem,) = DreamBoothSettings.examine(given)[1]
    assert problem.where == name and problem.what.startswith(words)


def test_what_settings_bear_on():
    """Lists that must only change on purpose: what loads a model again, what an image records, what a resumed run may change."""
    assert of_scope(InferenceSettings, "model") == (
        "pretrained_model_name_or_path", "revision", "variant", "prediction_type", "vae", "prompt_embeddings", "mixed_precision",
        "allow_tf32", "partial_weights",
    )  # fmt: skip
    assert set(of_scope(InferenceSettings, "image")) == {"prompt", "negative_prompt", "guidance_scale", "seed"}
    assert set(of_scope(InferenceSettings, "sampling")) == {
        "num_inference_steps", "height", "width", "strength", "scheduler", "use_karras_sigmas", "timestep_spacing",
        "rescale_betas_zero_snr", "eta", "guidance_rescale", "clip_skip", "num_resamples", "jump_length", "plain_prompt",
        "vae_tiling", "timesteps", "noise_level",
    }  # fmt: skip
    assert of_scope(InferenceSettings, "file") == ("image_format",)
    assert set(of_scope(InferenceSettings, "run")) == {
        "sweep", "like", "prompt_file", "num_images", "chain", "show_start", "batch_size", "trace", "trace_decode", "trace_page",
        "attention", "illusion_gif", "upscalers",
        "output_dir", "overwrite_output_dir", "max_images", "skip_existing", "merge",
        "lora_format", "save_model_as", "no_metadata",
    }  # fmt: skip
    free = {
        "max_train_steps", "num_train_epochs", "repeats", "scale_lr", "change_learning_rate", "on_nan", "init_weights",
        "latents_cache_dir", "vae_cache_ondemand", "train_data_dir", "instance_data_dir", "class_data_dir", "dataset_name",
        "dataset_config_name",
        "image_column", "caption_column", "captions", "caption_prefix", "caption_suffix", "sample_batch_size", "max_images",
        "prior_generation_precision", "vae", "validation_data_dir", "num_held_out", "mask_data_dir", "alpha_mask",
        "aspect_ratio_buckets", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale",
        "caption_templates",
        "offload_ema", "class_image_captions", "concepts_list", "leave_out",
    }  # fmt: skip
    for model in (TextualInversionSettings, DreamBoothSettings):
        output = {name for name, line in table(model).items() if line.section == "output"}
        assert set(of_scope(model, "run")) == output | (free & table(model).keys())


def test_an_attribute_that_no_setting_has():
    with pytest.raises(TypeError, match="maximum"):
        setting(1, "model", "a number", maximum=3)


def test_one_declaration_of_a_setting_with_several_ranges():
    """The range is the smallest that includes all; a bound itself is valid if it is so for one of them."""

    class One(BaseModel):
        share: float = setting(0.5, "train", "a share", gt=0, lt=1)

    class Other(BaseModel):
        share: float = setting(0.25, "train", "a share", ge=0, le=0.5)

    class Text(BaseModel):
        share: str = setting("all", "train", "a share")

    model = create_model("Both", share=(float, joined({"one": One, "other": Other}, "share", "kind")))
    line = table(model)["share"]
    assert (line.ge, line.gt, line.le, line.lt) == (0, None, None, 1)
    assert line.default_text == "0.5 (kind one); 0.25 (kind other)"
    assert line.description == "a share (above 0, below 1 with kind one; from 0 to 0.5 with kind other)"
    assert line.fault(1) and not line.fault(0)
    with pytest.raises(TypeError, match="share is declared with other types or choices by one, text"):
        joined({"one": One, "text": Text}, "share", "kind")
