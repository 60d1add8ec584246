"""Sweeps: parsing of values, the layout of the grid, and swept images equal to those generated alone."""

import json

import numpy as np
import pytest
from hypothesis import given, strategies
from PIL import Image

from customize.errors import InputError
from customize.inference.metadata.read_png import read_generation_info
from customize.inference.run import command, generate
from customize.inference.run.grid import batches, grid, read_axis
from customize.settings.inference import InferenceSettings


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("guidance_scale=1,2.5, 5", "guidance_scale", (1.0, 2.5, 5.0)),
        ("seed=1..4", "seed", (1, 2, 3, 4)),
        ("seed=1..3,7", "seed", (1, 2, 3, 7)),
        ("strength=0.2..1..0.2", "strength", (0.2, 0.4, 0.6, 0.8, 1.0)),
        ("num_inference_steps=20..5..-5", "num_inference_steps", (20, 15, 10, 5)),
        ("--num-inference-steps=3", "num_inference_steps", (3,)),
        ("prompt=a cat, sitting|a dog", "prompt", (("a cat, sitting",), ("a dog",))),
        ("negative_prompt=|snow, rain", "negative_prompt", ("", "snow, rain")),
        ("scheduler=none,DDIMScheduler", "scheduler", (None, "DDIMScheduler")),
        ("weights=a:0.5|a:1", "weights", (("a:0.5",), ("a:1",))),
        ("weights=none|a", "weights", (("none",), ("a",))),
        ("use_karras_sigmas=true,False,none", "use_karras_sigmas", (True, False, None)),
        ("mixed_precision=no,bf16", "mixed_precision", ("no", "bf16")),
    ],
)
def test_values_of_an_axis(text, name, values):
    axis = read_axis(text)
    assert (axis.name, axis.values) == (name, values)
    assert [type(value) for value in axis.values] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("guidance_scale", "has no values"), ("guidance_scale=", "has no values"), ("guidance=1", "guidance_scale"),
        ("output_dir=a,b", "cannot be swept"), ("seed=1.5", "1.5"), ("seed=-1", "-1"), ("seed=1..9999999", "values"),
        ("seed=4..1", "0 values"), ("seed=a..b", "not a range"), ("strength=0..1..0", "not a range"), ("strength=0,1", "above 0"),
        ("mixed_precision=fp17", "fp17"), ("use_karras_sigmas=maybe", "maybe"), ("seed=" + "1," * 2000 + "1", "2001 values"),
        ("seed=1..inf", "not a range"), ("seed=nan..2", "not a range"), ("seed=1..2..1..4", "1..2..1..4"),
    ],
)  # fmt: skip
def test_invalid_sweeps_are_reported(text, fault):
    with pytest.raises(InputError) as caught:
        read_axis(text)
    assert fault in str(caught.value) and caught.value.problems[0].where == "sweep"


@given(strategies.text(alphabet="abcdestrngh_=.,|-0123456789 inf", max_size=40))
def test_any_text_is_an_axis_or_an_error_of_ours(text):
    for name in ("", "seed=", "strength=", "prompt="):
        try:
            read_axis(name + text)
        except InputError:
            pass


def test_one_sweep_is_a_row_two_are_a_grid_three_more_rows():
    def shape(*sweeps, **values):
        found = grid(InferenceSettings(prompt=["a", "b"], sweep=sweeps, **values))
        return len(found.rows), len(found.rows[0]), found.column_labels, found.row_labels

    assert shape() == (2, 1, ["seed 0"], ["a", "b"])
    assert shape("seed=1..3") == (2, 3, ["seed 1", "seed 2", "seed 3"], ["a", "b"])
    rows, columns, _, labels = shape("seed=1..3", "guidance_scale=1,2", "num_inference_steps=5,6")
    assert (rows, columns) == (8, 3)
    assert labels[:3] == [
        "num inference steps 5, guidance scale 1.0, a", "num inference steps 5, guidance scale 1.0, b",
        "num inference steps 5, guidance scale 2.0, a",
    ]  # fmt: skip
    assert shape("prompt=a cat|a dog", "guidance_scale=1,2", num_images=2) == (
        4, 2, ["a cat", "a dog"],
        ["guidance scale 1.0", "guidance scale 1.0, seed + 1", "guidance scale 2.0", "guidance scale 2.0, seed + 1"],
    )  # fmt: skip


def test_all_faults_of_sweeps_come_at_once():
    with pytest.raises(InputError) as caught:
        grid(InferenceSettings(prompt="a", sweep=["seed=1", "seed=2", "sede=1", "strength=2", "guidance_scale=1"]))
    faults = str(caught.value)
    assert all(part in faults for part in ("seed is swept twice", "sede", "strength: 2.0"))
    with pytest.raises(InputError, match="4 sweeps"):
        grid(InferenceSettings(prompt="a", sweep=["seed=1", "guidance_scale=2", "height=16", "width=16"]))
    with pytest.raises(InputError, match="no effect without"):
        grid(InferenceSettings(prompt="a", sweep=["strength=0.5"]))


def test_compatible_images_are_generated_together():
    def places(size, *sweep):
        wanted = grid(InferenceSettings(prompt="a", sweep=sweep)).requests
        return list(batches(range(len(wanted)), lambda place: generate.batch_key(wanted[place].settings), size))

    assert places(2, "num_inference_steps=5,6", "seed=1..3") == [[0, 2], [4], [1, 3], [5]]
    assert places(8, "guidance_scale=1,2,3", "negative_prompt=|x") == [[0, 3], [1, 2, 4, 5]]


def test_an_image_is_the_same_among_longer_prompts(tiny_epsilon, tmp_path):
    common = {"pretrained_model_name_or_path": str(tiny_epsilon), "num_inference_steps": 2}
    for name, prompts in ("alone", ["a dog"]), ("among", ["a dog", "a dog BREAK a red cat", "a cat"]):
        command.run(InferenceSettings(prompt=prompts, output_dir=str(tmp_path / name), **common))
    alone, among = (Image.open(tmp_path / name / "000.png") for name in ("alone", "among"))
    assert np.abs(np.asarray(alone, dtype=int) - np.asarray(among, dtype=int)).max() <= 1
    batches = [json.loads(Image.open(tmp_path / f"among/00{i}.png").text["customize"])["batch"] for i in range(3)]
    assert batches == [[0, 2], [0, 1], [1, 2]]


def test_a_swept_image_equals_one_generated_by_itself(tiny_epsilon, tmp_path):
    common = {"pretrained_model_name_or_path": str(tiny_epsilon), "num_inference_steps": 2}
    sweep = ["guidance_scale=1,4,7", "prompt=a dog|a red cat"]
    command.run(InferenceSettings(prompt="a", sweep=sweep, output_dir=str(tmp_path / "swept"), **common))
    with Image.open(tmp_path / "swept/sheet.png") as sheet:
        assert sheet.width > sheet.height
    for place in range(6):
        swept = Image.open(tmp_path / f"swept/{place:03d}.png")
        facts = json.loads(swept.text["customize"])
        assert facts["settings"]["guidance_scale"] == (1, 4, 7)[place % 3]
        assert facts["settings"]["prompt"] == [("a dog", "a red cat")[place // 3]] and "sweep" not in facts["settings"]
        base = {"pretrained_model_name_or_path": str(tiny_epsilon)}  # the image stores only its name
        assert facts["settings"]["pretrained_model_name_or_path"] == facts["base_model"] == tiny_epsilon.name
        command.run(InferenceSettings(**facts["settings"] | base, output_dir=str(tmp_path / f"alone-{place}")))
        alone = np.asarray(Image.open(tmp_path / f"alone-{place}/000.png"), dtype=int)
        assert np.abs(alone - np.asarray(swept, dtype=int)).max() <= 1


def test_each_image_of_a_chain_starts_from_the_one_before(tiny_epsilon, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "start.png")
    common = {"pretrained_model_name_or_path": str(tiny_epsilon), "num_inference_steps": 4, "prompt": "a dog", "strength": 0.5}
    chained = {"image": str(tmp_path / "start.png"), "chain": 3, "num_images": 2, "show_start": True}
    command.run(InferenceSettings(**common, **chained, output_dir=str(tmp_path / "chain")))
    images = sorted((tmp_path / "chain").glob("[0-9]*.png"))
    assert len(images) == 6
    for place, seed, start in ((0, 0, tmp_path / "start.png"), (2, 0, images[1]), (4, 1, images[3])):
        reported = json.loads(Image.open(images[place]).text["customize"])["settings"]
        assert (reported["image"], reported["seed"]) == (start.name, seed) and "chain" not in reported
        assert reported["pretrained_model_name_or_path"] == tiny_epsilon.name
        notes, found = (
            read_generation_info(images[place]).notes,
            read_generation_info(images[place]).settings,
        )  # with the places on this disk
        assert notes == (() if place == 0 else (f"image: using {start.name} beside the image",))
        assert (found["image"], found["pretrained_model_name_or_path"]) == (str(start), str(tiny_epsilon))
        command.run(InferenceSettings(**found, output_dir=str(tmp_path / f"alone-{place}")))
        alone, link = (np.asarray(Image.open(file), dtype=int) for file in (tmp_path / f"alone-{place}/000.png", images[place]))
        assert np.abs(alone - link).max() <= 1
    with pytest.raises(InputError, match="columns"):
        InferenceSettings(**common, **chained, sweep=["seed=1,2"])
