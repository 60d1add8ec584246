"""`infer.py --like`: a picture made again, to the last bit, and what changes when other flags are given."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from customize.cli.flags.settings_from_files import read_settings
from customize.cli.main import main, read
from customize.errors import InputError
from customize.inference.metadata.reproduce import Like
from customize.inference.run import command
from customize.settings.inference import InferenceSettings

PROMPTS = (
    "a dog", "a (red:1.3) cat BREAK in the snow", "a [dog:cat:0.5] on the beach", "a dog AND a house :0.4", "a [cat|dog]",
    "häuschen, am see", "a cat, a dog, a house, a tree, a car, a bird, a fish, a boat, a lamp, a door, a road, a hill" * 4,
)  # fmt: skip
SCHEDULERS = (
    "DDIMScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
    "LMSDiscreteScheduler", "HeunDiscreteScheduler",
)  # fmt: skip


def random_settings(dice: random.Random, folder: Path, base: Path) -> list[str]:
    """A command line of infer.py that makes 2 to 6 pictures."""
    words = ["--pretrained_model_name_or_path", str(base), "--batch_size", str(dice.randint(1, 4))]
    words += ["--num_inference_steps", str(dice.randint(3, 6)), "--scheduler", dice.choice(SCHEDULERS)]
    words += ["--seed", str(dice.randrange(2**31)), "--guidance_scale", f"{dice.choice((1, 2.5, dice.uniform(3, 9))):g}"]
    words += ["--negative_prompt", dice.choice(("", "blurred", "(ugly:1.4), dark"))]
    match dice.randrange(6):
        case 0:
            words += ["--prompt", "a dog", "--prompt", "a cat", "--between", "0.3", "--num_images", "2"]
        case 1:
            words += ["--prompt", "a dog", "--prompt", "a cat", "--illusion", "hybrid", "--num_images", "2"]
        case 2:
            words += ["--prompt", dice.choice(PROMPTS), "--sweep", "guidance_scale=2,4", "--sweep", "seed=1..3"]
        case _:
            words += [word for prompt in dice.sample(PROMPTS, 2) for word in ("--prompt", prompt)]
            words += ["--num_images", str(dice.randint(1, 3))]
    if "--illusion" not in words and dice.random() < 0.5:
        words += ["--image", str(folder / "start.png"), "--strength", f"{dice.uniform(0.5, 1):.3f}"]
        if dice.random() < 0.5:
            words += ["--mask_image", str(folder / "mask.png")]
    return words


def picture(file: Path, seed: int, mode: str = "RGB") -> Path:
    shape = (24, 16, 3) if mode == "RGB" else (24, 16)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(file)
    return file


def infer(*words: str) -> int:
    return main(InferenceSettings, command.run, words)


@pytest.mark.parametrize("number", range(20))
def test_an_image_of_random_settings_is_reproduced_bit_for_bit(tiny_v, tmp_path, capsys, number):
    dice = random.Random(number)
    picture(tmp_path / "start.png", number), picture(tmp_path / "mask.png", number, "L")
    assert infer(*random_settings(dice, tmp_path, tiny_v), "--output_dir", str(tmp_path / "first")) == 0
    first = dice.choice(sorted((tmp_path / "first").glob("[0-9]*.png")))
    assert infer("--like", str(first), "--output_dir", str(tmp_path / "again")) == 0
    assert "the same: all" in (reported := capsys.readouterr().out) and "not the same" not in reported
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(tmp_path / "again/000.png")))
    assert Image.open(first).text == Image.open(tmp_path / "again/000.png").text


def test_other_flags_override_the_metadata(tiny_v, tmp_path, capsys):
    infer(
        "--pretrained_model_name_or_path", str(tiny_v), "--prompt", "a dog", "--num_images", "3", "--num_inference_steps", "3",
        "--guidance_scale", "4", "--output_dir", str(tmp_path / "first"),
    )  # fmt: skip
    like = ["--like", str(tmp_path / "first/002.png")]
    asked, _ = read(InferenceSettings, [*like, "--guidance_scale", "6"])
    assert (asked.seed, asked.guidance_scale, asked.prompt, asked.num_images) == (2, 6, ("a dog",), 1)
    capsys.readouterr()
    infer(*like, "--sweep", "guidance_scale=4,6", "--output_dir", str(tmp_path / "other"))
    assert "same" not in capsys.readouterr().out
    reported = [json.loads(Image.open(tmp_path / f"other/00{i}.png").text["customize"])["settings"] for i in range(2)]
    assert [each["guidance_scale"] for each in reported] == [4, 6] and [each["seed"] for each in reported] == [2, 2]
    written, _ = read(InferenceSettings, [str(tmp_path / "other/config.toml")])
    assert written.like is None and written.seed == 2 and written.sweep == ("guidance_scale=4,6",)


def test_a_changed_image_is_not_the_same(tmp_path, tiny_v, capsys):
    infer(
        "--pretrained_model_name_or_path",
        str(tiny_v),
        "--prompt",
        "a dog",
        "--num_inference_steps",
        "2",
        "--output_dir",
        str(tmp_path / "a"),
    )
    file = tmp_path / "a/000.png"
    with Image.open(file) as image:
        info, pixels = PngInfo(), np.array(image)
        info.add_itxt("customize", image.text["customize"])
    pixels[0, 0] ^= 3
    Image.fromarray(pixels).save(file, pnginfo=info)
    infer("--like", str(file), "--output_dir", str(tmp_path / "b"))
    assert f"not the same: 3 of {pixels.size:,} values differ, by up to" in capsys.readouterr().out
    like = Like.read(file)
    assert like.verdict(Image.new("RGB", (1, 2))) == f"not the same: 1 x 2 pixels, not {pixels.shape[1]} x {pixels.shape[0]}"


def test_images_of_other_programs_need_a_base_model(tmp_path, tiny_v, capsys):
    info = PngInfo()
    info.add_text("parameters", "a dog\nSteps: 3, Sampler: Euler, CFG scale: 5, Seed: 7, Size: 16x24, Model: dreams, RNG: CPU")
    Image.new("RGB", (16, 24)).save(tmp_path / "theirs.png", pnginfo=info)
    like = ["--like", str(tmp_path / "theirs.png"), "--output_dir", str(tmp_path / "out")]
    assert infer(*like) == 2
    assert (
        "the metadata of A1111 has only the name of the base model, dreams" in capsys.readouterr().err
        and not (tmp_path / "out").exists()
    )
    assert infer(*like, "--pretrained_model_name_or_path", str(tiny_v)) == 0
    output = capsys.readouterr()
    assert "dreams, only a name" in output.err and "same" not in output.out
    ours = Image.open(tmp_path / "out/000.png")
    assert ours.size == (16, 24) and json.loads(ours.text["customize"])["settings"]["scheduler"] == "EulerDiscreteScheduler"


def test_an_image_without_metadata_is_refused_with_all_other_problems(tmp_path):
    picture(tmp_path / "plain.png", 0)
    with pytest.raises(InputError) as caught:
        read_settings(InferenceSettings, like=str(tmp_path / "plain.png"), num_inference_steps=0)
    assert [problem.where for problem in caught.value.problems] == ["like", "num_inference_steps"]
