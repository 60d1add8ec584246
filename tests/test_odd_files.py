"""Odd and damaged files of weights: every command refuses them in one report, or what it writes is complete and finite."""

import json
import os
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from customize import __main__
from customize.storage import disk
from customize.storage.safetensors_header import TensorInfo
from customize.weights.load_adapters import fits as fits_module
from customize.weights.load_adapters import with_peft_names
from customize.weights.tools.shapes import fits

QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"


def run(*argv: object) -> int:
    return __main__.main([*map(str, argv)])


def lora(stem: str = QUERY, rank: int = 4, size: int = 320, alpha: float = 2.0, factor: float = 1.0) -> dict:
    random = torch.Generator().manual_seed(rank)
    down, up = (torch.randn(*shape, generator=random) * factor for shape in ((rank, size), (size, rank)))
    return {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(alpha)}


def loha(rows: int = 320) -> dict:
    shapes = {"hada_w1_a": (320, 2), "hada_w1_b": (2, 320), "hada_w2_a": (rows, 2), "hada_w2_b": (2, 320)}
    return {f"{QUERY}.{kind}": torch.randn(*shape) for kind, shape in shapes.items()}


def only(tensors: dict, *ends: str) -> dict:
    return {name: tensor for name, tensor in tensors.items() if name.endswith(ends)}


NO_CHANGE = {
    "an alpha alone": only(lora(), ".alpha"),
    "an alpha of a layer without factors": lora() | only(lora(CONV), ".alpha"),
    "A alone": only(lora(), "down.weight", ".alpha"),
    "B alone": only(lora(), "up.weight"),
    "an alpha of four numbers": lora() | {f"{QUERY}.alpha": torch.ones(4)},
    "an alpha of no number": lora() | {f"{QUERY}.alpha": torch.ones(0)},
    "rank 0": lora(rank=0),
    "A is a number": lora() | {f"{QUERY}.lora_down.weight": torch.tensor(1.0)},
    "all are numbers": {name: torch.tensor(1.0) for name in lora()},
    "LoHa of other rows": loha(300),
    "half a LoHa": only(loha(), "w1_a", "w1_b"),
    "LoHa of numbers": {name: torch.tensor(1.0) for name in loha()},
    "LoKr of another size": {f"{QUERY}.lokr_w1": torch.ones(7, 3), f"{QUERY}.lokr_w2": torch.ones(3, 3)},
    "LoKr with half a factor": {f"{QUERY}.lokr_w1_a": torch.ones(4, 4), f"{QUERY}.lokr_w2": torch.ones(80, 80)},
    "a difference of another size": {f"{QUERY}.diff": torch.ones(32, 32)},
    "a bias of another size": {f"{CONV}.diff_b": torch.ones(3)},
    "a core that is a number": lora(CONV) | {f"{CONV}.lora_mid.weight": torch.tensor(1.0)},
    "LoRA and LoHa of one layer": lora() | loha(),
    "LoRA and difference of one layer": lora() | {f"{QUERY}.diff": torch.ones(320, 320)},
    "magnitudes of another size": lora() | {f"{QUERY}.dora_scale": torch.ones(7)},
    "magnitudes alone": {f"{QUERY}.dora_scale": torch.ones(320, 1)},
    "one module twice": lora() | lora("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"),
}


@pytest.mark.parametrize("case", NO_CHANGE)
def test_tensors_that_define_no_change_are_refused_by_every_command(case, tmp_path, capsys):
    file, sound = tmp_path / "odd.safetensors", tmp_path / "sound.safetensors"
    save_file(NO_CHANGE[case], file)
    save_file(lora(), sound)
    out = tmp_path / "new" / "out.safetensors"
    commands = [["convert", file, out, "--layout", layout] for layout in ("kohya", "diffusers", "peft")]
    commands += [["resize", file, out, "--rank", 1], ["merge", file, sound, "--out", out]]
    for command in commands:
        assert run(*command) == 2, command
        report = capsys.readouterr().err
        assert "1 problem" in report and (
            "fit no module of a known base model" in report or "name a module that others name" in report
        ), report
    assert not out.parent.exists()
    assert run("show", file) == 0 and "fits" in (shown := capsys.readouterr().out) and "no known base model" in shown


CONV_SHAPES = {"A": (4, 6, 1, 1), "B": (8, 4, 1, 1), "mid": (4, 4, 3, 3), "alpha": (), "dora_scale": (8, 1, 1, 1)}
FORMS = [
    ((8, 6), {"A": (4, 6), "B": (8, 4), "alpha": (), "bias": (8,)}),
    ((8, 6), {"A": (4, 6, 1, 1), "B": (8, 4), "magnitude": (8,), "B_bias": (8,)}),
    ((8, 6), {"A": (4, 6), "B": (8, 4), "dora_scale": (1, 6)}),
    ((8, 6, 3, 3), CONV_SHAPES),
    ((8, 6, 3, 3), {"A": (4, 6, 3, 3), "B": (8, 4, 1, 1), "dora_scale": (8, 1, 1, 1)}),
    ((8, 6), {"hada_w1_a": (8, 2), "hada_w1_b": (2, 6), "hada_w2_a": (8, 2), "hada_w2_b": (2, 6), "dora_scale": (8, 1)}),
    ((8, 6, 3, 3), {"hada_w1_a": (2, 8), "hada_w1_b": (2, 6), "hada_t1": (2, 2, 3, 3)}
                   | {"hada_w2_a": (2, 8), "hada_w2_b": (2, 6), "hada_t2": (2, 2, 3, 3)}),
    ((8, 6), {"lokr_w1": (2, 2), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 3), "alpha": ()}),
    ((8, 6, 3, 3), {"lokr_w1_a": (2, 1), "lokr_w1_b": (1, 2), "lokr_t2": (2, 2, 3, 3), "lokr_w2_a": (2, 4), "lokr_w2_b": (2, 3)}),
    ((8, 6), {"weight": (8, 6), "bias": (8,)}),
    ((8,), {"weight": (8,), "bias": (8,)}),
    ((8, 6), {"a1": (6, 2), "a2": (2, 6), "b1": (8, 2), "b2": (2, 6)}),
    ((8, 6), {"ia3": (8,), "on_input": ()}),
    ((8, 6), {"oft_blocks": (2, 4, 4), "rescale": (8, 1)}),
    ((8, 6), {"oft_R": (2, 3), "scaled_oft": ()}),
]  # fmt: skip


def module_of(shape: tuple[int, ...]) -> nn.Module:
    if len(shape) == 1:
        return nn.LayerNorm(shape[0])
    return nn.Linear(shape[1], shape[0]) if len(shape) == 2 else nn.Conv2d(shape[1], shape[0], shape[2:])


def test_the_rule_by_shapes_is_that_of_the_loader():
    """For each form, and 1,500 changes of one axis, one more or one less tensor: the same answer as the formulas themselves."""
    dice, answers = random.Random(0), []
    for shape, sound in FORMS:
        for i in range(100):
            own = dict(sound)
            kind = dice.choice(sorted(own))
            change = dice.randrange(4) if i else 4
            if change == 0:
                del own[kind]
            elif change == 1:
                other, theirs = dice.choice(sorted(dice.choice(FORMS)[1].items()))
                own.setdefault(other, theirs)
            elif change < 4 and (axes := len(own[kind])):
                at = dice.randrange(axes)
                own[kind] = tuple(
                    dice.choice((0, size + 1, 2 * size)) if axis == at else size for axis, size in enumerate(own[kind])
                )
            if not own or {"on_input"} == own.keys():
                continue
            module = module_of(shape)
            terms = with_peft_names(module, {kind: torch.zeros(size) for kind, size in own.items()})
            expected = fits_module(module, terms)
            found = fits(shape, {kind: TensorInfo("F32", size) for kind, size in own.items()})
            assert found == expected, (shape, own)
            answers.append(found)
            assert i or found, (shape, own)
    assert 200 < sum(answers) < len(answers) - 400


def test_resize_reports_a_damaged_file_with_all_other_problems(tmp_path, capsys):
    (tmp_path / "cut.safetensors").write_bytes(b"12345678")
    assert run("resize", tmp_path / "cut.safetensors", tmp_path / "out.txt", "--rank", 0, "--layout", "none") == 2
    report = capsys.readouterr().err
    assert "4 problems" in report and "cut.safetensors: is not a complete safetensors file" in report


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_numbers_stay_finite_and_equal(dtype, tmp_path, capsys):
    """Factors near the limit of float16: what half precision cannot hold is written in float32."""
    file, out = tmp_path / "large.safetensors", tmp_path / "out.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in lora(factor=15_000.0).items()}
    save_file(tensors, file)
    up, down = (tensors[f"{QUERY}.lora_{side}.weight"].double() for side in ("up", "down"))
    commands = (
        [["resize", file, out, "--rank", 4], 0.5],
        [["merge", f"{file}:100", "--out", out, "--save_precision", "fp16"], 50],
    )
    for command, scale in commands:
        assert run(*command, "--overwrite") == 0
        found = load_file(out)
        factor = float(found[f"{QUERY}.alpha"]) / len(found[f"{QUERY}.lora_down.weight"])
        change = factor * found[f"{QUERY}.lora_up.weight"].double() @ found[f"{QUERY}.lora_down.weight"].double()
        expected = scale * up @ down
        assert float((change - expected).norm() / expected.norm()) < 0.01


def test_results_beyond_float32_are_refused(tmp_path, capsys):
    file, out = tmp_path / "large.safetensors", tmp_path / "out.safetensors"
    save_file({f"{CONV}.diff_b": torch.full((320,), 3e38)}, file)
    assert run("merge", f"{file}:100", "--out", out) == 2
    assert "beyond the range of float32" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("scale", ["nan", "inf", "1e9", "0.5:nan", "0@0,1@2"])
def test_a_scale_that_is_no_number_is_refused(scale, tmp_path, capsys):
    file, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    save_file(lora(), file)
    assert run("merge", f"{file}:{scale}", f"{file}:-inf", "--out", out) == 2
    assert "2 problems" in capsys.readouterr().err and not out.exists()


def test_what_is_stated_of_a_resized_file_is_true_of_it(tmp_path):
    """The hash is that of the new tensors; a LoHa that became a LoRA is no longer called one."""
    stale = {"modelspec.hash_sha256": "0x" + "ab" * 32, "sshs_model_hash": "ab" * 32, "sshs_legacy_hash": "ab"}
    stale |= {"ss_network_module": "lycoris.kohya", "ss_network_args": '{"algo": "loha"}', "ss_network_dim": "2"}
    save_file(loha(), tmp_path / "loha.safetensors", stale)
    assert run("resize", tmp_path / "loha.safetensors", tmp_path / "out.safetensors", "--rank", 3) == 0
    with safe_open(tmp_path / "out.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert "ab" * 32 not in json.dumps(metadata) and len(metadata["sshs_model_hash"]) == 64
    assert metadata["ss_network_module"] == "networks.lora" and metadata["ss_network_dim"] == "3"
    assert "ss_network_args" not in metadata


def test_leftovers_of_training_are_no_part_of_an_adapter(tmp_path):
    """As in infer.py: the state of an optimizer beside a LoRA."""
    save_file(lora() | {"optimizer.exp_avg": torch.ones(3)}, tmp_path / "a.safetensors")
    assert run("convert", tmp_path / "a.safetensors", tmp_path / "out.safetensors") == 0
    assert load_file(tmp_path / "out.safetensors").keys() == lora().keys()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_show_says_that_an_alpha_is_no_number(value, tmp_path, capsys):
    save_file(lora(alpha=value), tmp_path / "a.safetensors")
    assert run("show", tmp_path / "a.safetensors") == 0 and "an alpha is NaN or infinite" in capsys.readouterr().out
    assert run("show", tmp_path / "a.safetensors", "--json") == 0

    def refuse(name: str) -> None:
        raise ValueError(name)

    assert not json.loads(capsys.readouterr().out, parse_constant=refuse)["supported"]


def test_names_that_cannot_be_written(tmp_path, capsys):
    file = tmp_path / "a.safetensors"
    save_file(lora(), file)
    os.mkfifo(tmp_path / "pipe.safetensors")
    for out in ("", ".", "/", "a" * 300 + ".safetensors", tmp_path / "pipe.safetensors", f"{file}/x.safetensors"):
        for command in (["convert", file, out], ["resize", file, out, "--rank", 1]):
            assert run(*command) == 2, out
            assert "1 problem" in capsys.readouterr().err
    assert run("convert", "demo", tmp_path / "model.ckpt") == 2 and "is the name of a pickle" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "pipe.safetensors"]


def test_sources_that_are_no_files_are_named(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "a.ckpt").write_bytes(b"\x80\x02}q\0.")
    assert run("show", tmp_path / "pipe.safetensors") == 2 and "is no regular file" in capsys.readouterr().err
    assert run("show", tmp_path / "a.ckpt") == 2
    assert "is a pickle, which is not opened" in (report := capsys.readouterr().err) and "despite" not in report


def test_a_bundled_embedding_without_rows_is_named(tmp_path, capsys):
    save_file(lora() | {"bundle_emb.toy.string_to_param.*": torch.tensor(1.0)}, tmp_path / "a.safetensors")
    assert run("convert", tmp_path / "a.safetensors", tmp_path / "out.safetensors") == 2
    assert "embeddings that are not rows of vectors: bundle_emb.toy" in capsys.readouterr().err
    assert run("show", tmp_path / "a.safetensors") == 0


def test_readers_are_those_of_the_kind(tmp_path, capsys):
    """No program is said to read a LoHa or a DoRA because it reads LoRAs in the same layout."""
    dora = lora() | {f"{QUERY}.dora_scale": torch.ones(320, 1)}
    for tensors, expected in (
        (lora(), "scripts and diffusers"),
        (dora, "that know DoRA"),
        (loha(), "that know adapters of LyCORIS"),
    ):
        save_file(tensors, tmp_path / "a.safetensors")
        assert run("show", tmp_path / "a.safetensors") == 0
        assert run("convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--overwrite") == 0
        said = capsys.readouterr().out
        assert said.count(expected) == 2 and ("diffusers" in said) == (expected == "scripts and diffusers")


def test_merging_into_the_root_is_refused_at_once(tmp_path, capsys):
    save_file(lora(), tmp_path / "a.safetensors")
    assert run("merge", tmp_path / "a.safetensors", "--base", "demo", "--out", "/") == 2
    assert "is or contains a file to merge" in capsys.readouterr().err


def test_without_rights(tmp_path, monkeypatch, capsys):
    """A source that must not be read and a folder that must not be written are refused before anything else is done."""
    file, out, is_file = tmp_path / "a.safetensors", tmp_path / "new" / "out.safetensors", Path.is_file
    save_file(lora(), file)

    def locked(path: Path) -> bool:
        if path.is_relative_to(tmp_path / "locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "is_file", locked)
        source = tmp_path / "locked" / "a.safetensors"
        commands = [
            ["show", source],
            ["convert", source, out],
            ["resize", source, out, "--rank", 1],
            ["merge", source, "--out", out],
        ]
        for command in commands:
            assert run(*command) == 2, command
            assert "cannot be read (Permission denied)" in (report := capsys.readouterr().err) and "permissions" in report
    monkeypatch.setattr(os, "access", lambda *given, **options: False)
    monkeypatch.setattr(os, "supports_effective_ids", set())
    for command in (["convert", file, out], ["convert", "demo", tmp_path / "model"], ["merge", file, "--out", out]):
        assert run(*command) == 2 and "is read-only for you" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_full_disk_is_told_with_a_remedy_that_helps(tmp_path, capsys, monkeypatch):
    file = tmp_path / "a.safetensors"
    save_file(lora(), file)
    monkeypatch.setattr(disk, "free_bytes", lambda path: 1024)
    assert run("convert", file, tmp_path / "out.safetensors") == 3
    report = capsys.readouterr().err
    assert "disk full" in report and "free some space" in report and "permissions" not in report
    assert report.count("out.safetensors") == 1 and not (tmp_path / "out.safetensors").exists()


def test_an_alpha_in_the_configuration_beyond_float32_is_refused(tmp_path, capsys):
    file, out = tmp_path / "a.safetensors", tmp_path / "out.safetensors"
    config = {"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": -1e308})}
    save_file(only(lora(), ".weight"), file, config)
    for command in (
        ["convert", file, out, "--layout", "diffusers"],
        ["resize", file, out, "--rank", 1],
        ["merge", file, "--out", out],
    ):
        assert run(*command) == 2 and "beyond the range of float32" in capsys.readouterr().err
    assert not out.exists()


def test_show_lists_a_few_of_many_words(tmp_path, capsys):
    words = [f"w{i}" for i in range(5000)]
    save_file(lora(), tmp_path / "a.safetensors", {"customize": json.dumps({"trigger_words": words})})
    save_file({word: torch.zeros(768) for word in words[:100]}, tmp_path / "b.safetensors")
    assert run("show", tmp_path / "a.safetensors", tmp_path / "b.safetensors") == 0
    output = capsys.readouterr().out
    assert len(output) < 5000 and "and 4976 more" in output and "and 76 more" in output
    assert run("show", tmp_path / "a.safetensors", "--json") == 0
    assert json.loads(capsys.readouterr().out)["trigger_words"] == words


def test_embeddings_lose_no_vectors(tmp_path, capsys):
    """Vectors of one width in two tensors would get one name; those of Stable Diffusion 3 are known by their T5."""
    out = tmp_path / "out.safetensors"
    save_file({"clip_l": torch.ones(2, 768), "clip_g": torch.zeros(2, 768)}, tmp_path / "a.safetensors")
    for layout in ("a1111", "comfyui"):
        assert run("convert", tmp_path / "a.safetensors", out, "--layout", layout) == 2
        report = capsys.readouterr().err
        assert "several vectors of one width" in report and f", {layout}" not in report.split("choose another layout")[1]
    save_file(
        {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280), "t5xxl": torch.ones(2, 4096)}, tmp_path / "b.safetensors"
    )
    assert run("convert", tmp_path / "b.safetensors", out, "--layout", "a1111") == 2
    assert "was learned on a model with T5" in capsys.readouterr().err and not out.exists()
    save_file({"emb_params": torch.ones(2, 5)}, tmp_path / "c.safetensors")
    assert run("show", tmp_path / "c.safetensors") == 0 and "none has these widths" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [[], ["--save_precision", "fp16"]])
def test_a_model_with_infinity_is_not_written(tiny_epsilon, flags, tmp_path, capsys):
    """A change beyond float32, and one that float32 holds but float16 does not."""
    file, out = tmp_path / "a.safetensors", tmp_path / "model"
    save_file(lora(size=32, alpha=1e6 if flags else 3e38, factor=10.0), file)
    assert run("merge", file, "--base", tiny_epsilon, "--out", out, *flags) == 2
    assert "the merged model would have NaN or infinity in unet.down_blocks.0" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
