"""Settings of adapters that do not fit each other, and files that cannot be used as they are: reported before a model loads."""

import json

import pytest
import torch
from adapters_of_others import UNET, File, diffusers
from safetensors import safe_open

from customize.adapters.timestep_rank import MARK, TimestepRank
from customize.cli.commands import infer, train_dreambooth
from customize.errors import InputError
from customize.methods import DreamBoothSettings
from customize.weights.learned_weights import find_learned
from customize.weights.tools.joining import join
from customize.weights.tools.ranks import Choice
from customize.weights.tools.resize import resize


def problems_of(**given) -> list[tuple[str, str]]:
    """(setting, what is wrong) of DreamBooth's settings."""
    try:
        DreamBoothSettings(instance_prompt="a photo of sks dog", instance_data_dir="images", **given)
    except InputError as error:
        return [(problem.where, problem.what) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("given", "where", "what"),
    [
        ({"adapter": "lora", "rank": 8, "tlora_min_rank": 9}, "tlora_min_rank", "is 9, above rank = 8"),
        ({"adapter": "lora", "tlora_min_rank": 4, "use_dora": True}, "use_dora", "magnitudes hold for all ranks"),
        ({"adapter": "lora", "tlora_min_rank": 4, "init_lora_weights": "pissa"}, "init_lora_weights", "other ranks"),
        ({"adapter": "lora", "tlora_alpha": 2.0}, "tlora_alpha", "has no effect without"),
        ({"adapter": "lora", "rank": 5, "init_lora_weights": "orthogonal"}, "rank", "needs an even one"),
        ({"adapter": "lora", "use_dora": True, "init_lora_weights": "pissa"}, "use_dora", "not combined"),
        ({"adapter": "lora", "init_weights": "x", "init_lora_weights": "pissa"}, "init_lora_weights", "no effect with"),
        ({"adapter": "lora", "rank_pattern": ("mid_block",)}, "rank_pattern", "is not PART=RANK"),
        ({"adapter": "lora", "rank_pattern": ("mid_block=0",)}, "rank_pattern", "is not PART=RANK"),
        ({"adapter": "lora", "init_lora_weights": "eva"}, "init_lora_weights", "is not one of gaussian, orthogonal, pissa"),
        ({"adapter": "oft", "rank": 8}, "rank", "has no effect without adapter = loha"),
        ({"adapter": "loha", "tlora_min_rank": 4}, "tlora_min_rank", "has no effect without adapter = lora"),
        ({"adapter": "lokr", "oft_block_size": 4}, "oft_block_size", "has no effect without adapter = oft"),
        ({"adapter": "boft", "boft_block_size": 1}, "boft_block_size", "is not a whole number from 2"),
        ({"prior_preservation": "teacher", "class_prompt": "a dog"}, "prior_preservation", "teacher needs an adapter"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(given, where, what):
    assert [problem for problem in problems_of(**given) if problem[0] == where and what in problem[1]], problems_of(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"adapter": "lora", "rank": 4, "tlora_min_rank": 4, "init_lora_weights": "orthogonal"},
        {"adapter": "lora", "rank_pattern": ("convolutions=4", "up_blocks.*.to_q=2"), "init_lora_weights": "pissa"},
        {
            "adapter": "loha",
            "rank": 4,
            "rank_pattern": ("mid_block=2",),
            "prior_preservation": "teacher",
            "class_prompt": "a dog",
        },
    ],
)
def test_settings_that_fit(given):
    assert problems_of(**given) == []


def lora_file(path, metadata: dict[str, str]):
    return File().lora(UNET, diffusers, ("lora_A.weight", "lora_B.weight")).write(path, metadata)


@pytest.fixture
def t_lora(tmp_path):
    return lora_file(tmp_path / "t_lora.safetensors", TimestepRank(2, 1.5).metadata)


def test_the_mark_of_a_t_lora_is_read(t_lora):
    [file] = find_learned("demo", [(t_lora, 1.0)]).files
    assert file.timestep_rank == TimestepRank(2, 1.5)
    with safe_open(t_lora, "pt") as opened:
        assert json.loads(opened.metadata()[MARK]) == {"min_rank": 2, "power": 1.5}


@pytest.mark.parametrize(
    "mark",
    ["", "{", "[]", "{}", '{"min_rank": 0, "power": 1}', '{"min_rank": 2.5, "power": 1}', '{"min_rank": 2, "power": "1"}',
     '{"min_rank": 2, "power": -1}', '{"min_rank": 2, "power": 1e999}', '{"min_rank": 2, "power": null}'],
)  # fmt: skip
def test_a_damaged_mark_is_reported(mark, tmp_path):
    path = lora_file(tmp_path / "x.safetensors", {MARK: mark})
    with pytest.raises(InputError) as caught:
        find_learned("demo", [(path, 1.0)])
    assert str(path) in str(caught.value)


def test_a_t_lora_is_neither_merged_nor_resized(t_lora, tiny_epsilon, tmp_path, capsys):
    target = tmp_path / "merged"
    for name in (f"{target}", f"{target}.safetensors"):
        assert infer(f"--pretrained_model_name_or_path {tiny_epsilon} --weights {t_lora} --merge {name}".split()) == 2
        assert "is a T-LoRA, whose change depends on the timestep" in capsys.readouterr().err
    with pytest.raises(InputError, match="is a T-LoRA"):
        resize(t_lora, tmp_path / "small.safetensors", Choice(rank=2), None)
    with pytest.raises(InputError, match="is a T-LoRA"):
        join([(str(t_lora), 1.0)], tmp_path / "both.safetensors", None, "kohya", "fp32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t_lora.safetensors"]


@pytest.mark.parametrize(
    ("adapter", "own"),
    [
        ("oft", "--oft_block_size 8"),
        pytest.param("lora", "--init_lora_weights pissa --rank 4 --lora_format both", marks=pytest.mark.slow),
        pytest.param("lora", "--tlora_min_rank 1 --rank 4", marks=pytest.mark.slow),
        pytest.param("lokr", "--rank 1 --prior_preservation teacher --class_prompt dog", marks=pytest.mark.slow),
    ],
)
def test_a_whole_run(adapter, own, tiny_epsilon, image_folder, tmp_path, capsys):
    """Trained, verified by loading, and drawn from by the two commands."""
    line = f"--pretrained_model_name_or_path {tiny_epsilon} --instance_data_dir {image_folder} --adapter {adapter} {own}"
    line += f" --max_train_steps 2 --report_to none --validation_prompt none --evaluation none --output_dir {tmp_path}/run"
    status = train_dreambooth([*line.split(), "--instance_prompt", "a photo of sks dog"])
    said = capsys.readouterr()
    assert status == 0, said.err
    assert ("other programs use all ranks" in said.out + said.err) == ("tlora" in own)
    with safe_open(tmp_path / "run" / "pytorch_lora_weights.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["customize"])["settings"]["adapter"] == adapter
        assert all(torch.isfinite(opened.get_tensor(name)).all() for name in opened.keys())  # noqa: SIM118
    line = f"--weights {tmp_path}/run --pretrained_model_name_or_path {tiny_epsilon} --num_inference_steps 2 --seed 1"
    assert infer([*line.split(), "--output_dir", f"{tmp_path}/images", "--prompt", "a photo of sks dog"]) == 0
