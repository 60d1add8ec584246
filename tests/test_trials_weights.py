"""Trials: weights of other programs as files, and what prompts written for other programs call, each with its outcome."""

from pathlib import Path

import pytest
import torch
from adapters_of_others import TEXT, UNET, File, kohya
from safetensors.torch import save_file
from test_lora_formats import assert_equal, changed_by_hand, family, loaded  # noqa: F401

from customize.cli.flags import settings_from_files
from customize.cli.flags.settings_from_files import read_settings
from customize.errors import InputError
from customize.inference import load_pipeline
from customize.inference.metadata.write_png import hashes, parameters
from customize.inference.run import command
from customize.inference.run.extra_networks import resolve_grid
from customize.inference.run.grid import grid
from customize.inference.run.wildcards import chosen
from customize.settings.inference import InferenceSettings
from customize.settings.scale import path_and_scale
from customize.weights.learned_weights import find_learned

BLOCK = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"


def pair(name: str, ends: str = "lora_down.weight lora_up.weight", shapes=((4, 32), (32, 4))) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{end}": shape for end, shape in zip(ends.split(), shapes, strict=True)}


AB = "lora_A.weight lora_B.weight"
REFUSED = [
    pytest.param(pair("lora_unet_double_blocks_0_img_attn_qkv"), "FLUX", id="kohya LoRA for FLUX"),
    pytest.param(pair("transformer.single_transformer_blocks.0.attn.to_q", AB), "FLUX", id="diffusers LoRA for FLUX"),
    pytest.param(pair("diffusion_model.double_blocks.3.txt_mlp.0", AB), "FLUX", id="ComfyUI LoRA for FLUX"),
    pytest.param(pair("transformer.transformer_blocks.0.attn.add_q_proj", AB), "Stable Diffusion 3", id="diffusers LoRA for SD3"),
    pytest.param(pair("lora_unet_joint_blocks_0_x_block_attn_qkv"), "Stable Diffusion 3", id="kohya LoRA for SD3"),
    pytest.param(pair("diffusion_model.blocks.0.self_attn.q", AB), "Wan", id="LoRA for Wan"),
    pytest.param(pair("diffusion_model.layers.0.attention.to_q", AB), "Z-Image", id="LoRA for Z-Image"),
    pytest.param(pair("lora_te2_text_model_encoder_layers_0_mlp_fc1"), "SDXL", id="kohya LoRA for SDXL by its second encoder"),
    pytest.param(pair("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", AB), "SDXL", id="diffusers LoRA for SDXL"),
    pytest.param(pair("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"), "SDXL", id="LoRA for SDXL by its depth"),
    pytest.param(
        pair("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", AB, ((4, 2048), (640, 4))),
        "SDXL", id="LoRA for SDXL by its width",
    ),
    pytest.param({"clip_l": (2, 768), "clip_g": (2, 1280)}, "SDXL", id="embedding for SDXL"),
    pytest.param({"clip_l": (2, 768), "t5xxl": (2, 4096)}, "T5", id="embedding for FLUX"),
    pytest.param({f"IN0{i}": (1, 32) for i in range(4)}, "XTI", id="XTI embedding"),
    pytest.param({"emp_params": (2, 768), "emp_params_out": (2, 768)}, "OneTrainer", id="embedding of outputs"),
    pytest.param({"bundle_emb.toy.clip_l_out": (2, 768), **pair(BLOCK)}, "OneTrainer", id="bundled embedding of outputs"),
    pytest.param({f"{BLOCK}.oft_diag": (4, 8)}, "OFT", id="early OFT of LyCORIS"),
    pytest.param({"base_model.model.x.oft_r": (4, 8, 8)}, "OFT", id="early OFT of peft"),
    pytest.param({"base_model.model.x.boft_R": (1, 4, 8, 8)}, "BOFT", id="BOFT of peft"),
    pytest.param({f"{BLOCK}.lambda_layer": (1, 4), f"{BLOCK}.q_layer.weight": (4, 32)}, "T-LoRA", id="T-LoRA of LyCORIS"),
    pytest.param(pair(BLOCK) | {f"{BLOCK}.bias_indices": (2, 3)}, "sparse biases", id="LyCORIS with sparse biases"),
    pytest.param({"base_model.model.x.vera_lambda_b": (4,)}, "peft", id="VeRA"),
    pytest.param({"down_blocks.0.motion_modules.0.proj_in.weight": (4, 4)}, "AnimateDiff", id="motion module"),
    pytest.param({"image_proj.proj.weight": (4, 4), "ip_adapter.1.to_k_ip.weight": (4, 4)}, "IP-Adapter", id="IP-Adapter"),
    pytest.param({"control_model.input_blocks.0.0.weight": (4, 4)}, "ControlNet", id="ControlNet"),
    pytest.param({"lllite_unet_x.down.0.weight": (4, 4)}, "LLLite", id="ControlNet-LLLite"),
    pytest.param({"320.0.linear.0.weight": (4, 4)}, "hypernetwork", id="hypernetwork"),
    pytest.param({"encoder.down.0.block.0.conv1.weight": (4, 4)}, "VAE", id="VAE"),
    pytest.param({"model.0.weight": (4, 4), "model.1.sub.0.conv.weight": (4, 4)}, "upscaler", id="upscaler"),
    pytest.param({"model.diffusion_model.out.2.weight": (4, 4)}, "base model", id="checkpoint"),
    pytest.param({"text_model.embeddings.token_embedding.weight": (9, 4)}, "base model", id="text encoder"),
    pytest.param({"anything": (2, 3, 4)}, "neither embeddings nor an adapter", id="neither"),
    pytest.param({"clip_l": (2, 3, 4)}, "neither embeddings nor an adapter", id="embedding of three axes"),
]  # fmt: skip


@pytest.mark.parametrize("tensors, word", REFUSED)
def test_files_that_cannot_be_loaded_are_identified(tmp_path, tensors, word):
    """From its header alone; the report is one problem with the file's name and something to do."""
    path = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path)
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        find_learned("demo", [(path, 1.0)])
    [problem] = caught.value.problems
    assert word in problem.what and str(path) in problem.what and problem.remedy and "convert it" not in problem.remedy
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "name",
    [
        "float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float64",
    ],
)  # fmt: skip
def test_number_formats_are_read(family, tmp_path, name):  # noqa: F811
    file = File(4).lora(UNET | TEXT, alpha=lambda i: 2.0 + i, dtype=getattr(torch, name))
    ours, _, notes = loaded(family, file.write(tmp_path / "x.safetensors"), 0.5)
    assert_equal(ours, changed_by_hand(family, file.changes, 0.5))
    assert notes == []


@pytest.mark.parametrize(
    "name, number", [("float8_e4m3fn", "nan"), ("float8_e5m2", "inf"), ("float8_e5m2", "nan"), ("float16", "inf")]
)
def test_nan_and_infinity_are_refused(tmp_path, name, number):
    tensors = File(4).lora(UNET, dtype=getattr(torch, name)).tensors
    first = next(iter(tensors))
    tensors[first] = torch.full(tensors[first].shape, float(number)).to(getattr(torch, name))
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="NaN or infinity in 1 of 10 tensors"):
        find_learned("demo", [(tmp_path / "x.safetensors", 1.0)])


def test_what_an_optimizer_left_in_a_file_is_no_part_of_it(family, tmp_path):  # noqa: F811
    file = File(4).lora(UNET, alpha=lambda i: 2.0)
    first = next(iter(file.tensors))
    left = {f"{first}.exp_avg": torch.zeros(3), "optimizer_state.0": torch.zeros(2), "x.position_ids": torch.zeros(1, 77).long()}
    file.tensors |= left
    ours, _, notes = loaded(family, file.write(tmp_path / "x.safetensors"))
    assert_equal(ours, changed_by_hand(family, file.changes))
    assert notes == []


@pytest.mark.parametrize("word", ["shadow_cat", "miss_lily", "my.road_trip", "lora_girl", "clip_l"])
def test_a_bundled_word_may_be_named_like_an_adapter(tmp_path, word):
    file = File(4).lora(UNET, alpha=lambda i: 2.0)
    file.tensors[f"bundle_emb.{word}.string_to_param.*"] = torch.randn(2, 32)
    [found] = find_learned("demo", [(file.write(tmp_path / "x.safetensors"), 1.0)]).files
    assert found.is_adapter and list(found.placeholders) == [word]


WORDS = [
    pytest.param({"emb_params": 2}, "my-toy", id="A1111"),
    pytest.param({"emp_params": 2}, "my-toy", id="OneTrainer"),
    pytest.param({"clip_l": 2}, "my-toy", id="kohya, OneTrainer: clip_l"),
    pytest.param({"string_to_param.*": 2}, "my-toy", id="pickle converted by hand"),
    pytest.param({"*": 3}, "my-toy", id="the star of the first implementation"),
    pytest.param({"<toy>": 2}, "<toy>", id="diffusers"),
    pytest.param({"sks": 1}, "sks", id="diffusers, a plain word"),
]


@pytest.mark.parametrize("tensors, word", WORDS)
def test_an_embedding_is_named_by_its_word_or_its_file(tiny_epsilon, tmp_path, tensors, word):
    rows = {name: torch.randn(rows, 32) for name, rows in tensors.items()}
    save_file(rows, tmp_path / "my-toy.safetensors")
    learned = find_learned("demo", [(tmp_path / "my-toy.safetensors", 1.0)])
    assert learned.trigger_words == (word,) and f"trigger words: {word};" in learned.summaries[0]


def test_an_embedding_in_a_lora_file_is_loaded_with_it(tiny_epsilon, family, tmp_path):  # noqa: F811
    file = File(4).lora(UNET, alpha=lambda i: 2.0)
    vectors = torch.randn(2, 32)
    file.tensors["bundle_emb.mytoy.string_to_param.*"] = vectors
    path = file.write(tmp_path / "x.safetensors")
    ours = load_pipeline(str(tiny_epsilon), [(path, 1.0)])
    assert ours.family.text_encoders[0].placeholders == {"mytoy": ("mytoy", "mytoy_1")} and ours.trigger_words == ("mytoy",)
    assert torch.equal(ours.family.text_encoder.get_input_embeddings().vectors[0], vectors)
    assert_equal(ours.family, changed_by_hand(family, file.changes))
    assert "adapter and embeddings, 2 vectors" in find_learned("demo", [(path, 1.0)]).summaries[0]


SAID = [
    pytest.param({"ss_base_model_version": "sd_v1", "ss_sd_model_name": "animefull.ckpt"},
                 "learned on Stable Diffusion 1.x (animefull.ckpt)", id="kohya's base model"),
    pytest.param({"modelspec.architecture": "stable-diffusion-v2-768-v/lora", "modelspec.trigger_phrase": "ohwx cat"},
                 "trigger words: ohwx cat; learned on Stable Diffusion 2.x", id="modelspec"),
    pytest.param({"ss_tag_frequency": '{"10_x": {"1girl": 9, "solo": 7}, "1_y": {"solo": 5}}'},
                 "most frequent in its captions: solo, 1girl", id="kohya's tags"),
    pytest.param({"ss_tag_frequency": "{{{", "ss_base_model_version": "\x1b[31mfoo\nbar"},
                 "learned on \\x1b[31mfoo\\nbar", id="hostile metadata"),
    pytest.param({"ss_tag_frequency": '{"a": {"b": "c"}, "d": 4}', "ss_sd_model_name": "None"},
                 "base model unknown", id="odd metadata"),
]  # fmt: skip


@pytest.mark.parametrize("metadata, words", SAID)
def test_metadata_of_other_programs_files_are_reported(tmp_path, metadata, words):
    path = File().lora(UNET).write(tmp_path / "x.safetensors", metadata)
    [line] = find_learned("demo", [(path, 1.0)]).summaries
    assert words in line and line.isprintable()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """A folder of weights as people have it."""
    folder = tmp_path_factory.mktemp("shelf")
    for name in ("Styles/MyCat_v2", "twin", "Styles/twin", "Umlaut-ä", "with.dots.v1"):
        (folder / name).parent.mkdir(exist_ok=True)
        File().lora(UNET).write(folder / f"{name}.safetensors")
    (folder / "run-cat").mkdir()
    File().lora(UNET).write(folder / "run-cat/pytorch_lora_weights.safetensors")
    for name, tensors in {"EasyNeg": {"emb_params": 2}, "emb/toy": {"<toy>": 1, "<toy2>": 1}}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        save_file({key: torch.randn(rows, 192) for key, rows in tensors.items()}, folder / f"{name}.safetensors")
    (folder / "old.pt").write_bytes(b"PK")
    (folder / "loop").symlink_to(folder)
    (folder / "animal.txt").write_text("\ufeff# beasts\ncat\n\n  dog  \n", encoding="utf-8")
    (folder / "Styles/deep.txt").write_text("a {big|small} __animal__\n")
    (folder / "self.txt").write_text("__self__\n")
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    (folder / "empty.txt").write_text("# nothing\n\n")
    return folder


def picture(shelf: Path, prompt: str, negative: str = "", **values):
    settings = InferenceSettings(
        **{"prompt": prompt, "negative_prompt": negative, "weights_dir": str(shelf), "wildcards_dir": str(shelf), **values}
    )
    [wanted] = resolve_grid(grid(settings)).requests
    weights = [weights.removeprefix(f"{shelf}/") for weights in wanted.settings.weights]
    return wanted.prompts[0], wanted.settings.negative_prompt, weights


CAT, TOY = "Styles/MyCat_v2.safetensors", "emb/toy.safetensors"
CALLED = [
    pytest.param("a cat <lora:mycat_v2:0.8>", "", ("a cat", "", [f"{CAT}:0.8"]), id="A1111"),
    pytest.param("<lora:MyCat_v2>, a cat", "", (", a cat", "", [f"{CAT}:1.0"]), id="no scale"),
    pytest.param("a <LoRA: mycat_v2 : .5 > cat", "", ("a  cat", "", [f"{CAT}:0.5"]), id="blanks and capitals"),
    pytest.param("a <lyco:mycat_v2:-1>", "", ("a", "", [f"{CAT}:-1.0"]), id="lyco"),
    pytest.param("a <lora:mycat_v2:0.8:0.5>", "", ("a", "", [f"{CAT}:0.5:0.8"]), id="text encoder, then UNet"),
    pytest.param("a <lora:mycat_v2:te=0:unet=1>", "", ("a", "", [f"{CAT}:1.0:0.0"]), id="by name"),
    pytest.param("a <lora:mycat_v2:1:1>", "", ("a", "", [f"{CAT}:1.0"]), id="twice the same"),
    pytest.param("a <lora:Styles/MyCat_v2:1>", "", ("a", "", [f"{CAT}:1.0"]), id="with its folder"),
    pytest.param("a <lora:Styles\\MyCat_v2.safetensors:1>", "", ("a", "", [f"{CAT}:1.0"]), id="Windows' folder and ending"),
    pytest.param("a <lora:styles/twin:1>", "", ("a", "", ["Styles/twin.safetensors:1.0"]), id="one of two by its folder"),
    pytest.param("a <lora:umlaut-ä:1>", "", ("a", "", ["Umlaut-ä.safetensors:1.0"]), id="umlaut"),
    pytest.param("a <lora:with.dots.v1:1>", "", ("a", "", ["with.dots.v1.safetensors:1.0"]), id="dots"),
    pytest.param("a <lora:run-cat:1>", "", ("a", "", ["run-cat/pytorch_lora_weights.safetensors:1.0"]), id="a run's folder"),
    pytest.param("<lora:mycat_v2:1><lora:run-cat:0.5>", "",
                 ("", "", [f"{CAT}:1.0", "run-cat/pytorch_lora_weights.safetensors:0.5"]), id="two"),
    pytest.param("embedding:toy on a hill", "", ("<toy> <toy2> on a hill", "", [TOY]), id="ComfyUI's embedding"),
    pytest.param("(embedding:toy:1.2), b", "embedding:easyneg.",
                 ("(<toy> <toy2>:1.2), b", "EasyNeg.", [TOY, "EasyNeg.safetensors"]), id="weighted, and in the negative prompt"),
    pytest.param("Embedding: emb/toy.safetensors, x", "", ("<toy> <toy2>, x", "", [TOY]), id="embedding with folder and ending"),
    pytest.param("embedding:toy embedding:toy", "embedding:toy",
                 ("<toy> <toy2> <toy> <toy2>", "<toy> <toy2>", [TOY]), id="embedding thrice"),
    pytest.param("a {red} <lora:x:1> __y__ embedding:z", "", None, id="plain_prompt leaves all"),
    pytest.param("a\n  dog,\t big", "x\ny", ("a dog, big", "x y", []), id="line breaks"),
    pytest.param("a __animal__", "", ("a dog", "", []), id="wildcard"),
    pytest.param("__Styles/deep__", "", ("a small dog", "", []), id="choices in a wildcard"),
    pytest.param("a \\{b\\} c", "", ("a \\{b\\} c", "", []), id="escaped brackets stay for the grammar"),
]  # fmt: skip


@pytest.mark.parametrize("prompt, negative, expected", CALLED)
def test_weights_that_a_prompt_names_are_loaded(shelf, prompt, negative, expected):
    plain = expected is None
    got = picture(shelf, prompt, negative, plain_prompt=plain)
    assert got == ((prompt, negative, []) if plain else expected)


INVALID_TAGS = [
    pytest.param("a <lora:mycat:1>", ["no mycat.safetensors", "did you mean MyCat_v2"], id="misspelt"),
    pytest.param("a <lora:zzz:1>", ["no zzz.safetensors", "--weights_dir"], id="not there"),
    pytest.param("a <lora:twin:1>", ["matches", "Styles/twin", "add the folder"], id="two of that name"),
    pytest.param("a <lora:old:1>", ["old.pt is a pickle"], id="pickle"),
    pytest.param("a <lora:EasyNeg:1>", ["contains embeddings, not a LoRA", "embedding:EasyNeg"], id="an embedding as a LoRA"),
    pytest.param("a embedding:mycat_v2", ["contains a LoRA", "<lora:MyCat_v2:1>"], id="a LoRA as an embedding"),
    pytest.param("a <hypernet:x:1>", ["hypernetworks are not supported"], id="hypernetwork"),
    pytest.param("a <lora:mycat_v2:high>", ["high is not a number"], id="a word as scale"),
    pytest.param("a <lora:mycat_v2:0,8>", ["0,8 is not a number"], id="decimal comma"),
    pytest.param("a <lora:mycat_v2:>", ["nothing is not a number"], id="no scale after the colon"),
    pytest.param("a <lora:mycat_v2:999>", ["from -100 to 100"], id="a scale beyond all"),
    pytest.param("a <lora:mycat_v2:nan>", ["from -100 to 100"], id="nan"),
    pytest.param("a <lora:mycat_v2:1:1:8>", ["8 is not supported"], id="third number"),
    pytest.param("a <lora:mycat_v2:1:lbw=MIDD>", ["lbw=MIDD is not supported"], id="block weights"),
    pytest.param("a <lora:>", ["has no file name"], id="no name"),
    pytest.param("a <lora:mycat_v2:0.8", ["are not supported here"], id="not closed"),
    pytest.param("a __zzz__", ["__zzz__ is not in"], id="no such wildcard"),
    pytest.param("a __anymal__", ["did you mean __animal__"], id="misspelt wildcard"),
    pytest.param("a __self__", ["name itself"], id="a wildcard of itself"),
    pytest.param("a __latin__", ["UTF-8"], id="a wildcard in Latin-1"),
    pytest.param("a __empty__", ["empty.txt is empty"], id="an empty wildcard"),
    pytest.param("a {red} car", ["has only one option", "(word:1.05)"], id="NovelAI's emphasis"),
    pytest.param("a {red|blue car", ["{ is not closed"], id="choice not closed"),
    pytest.param("a red|blue} car", ["} has no matching {"], id="choice not opened"),
    pytest.param("{3$$a|b}", ["has 2 options"], id="more than there are"),
    pytest.param("{x$$a|b}", ["not a number of options"], id="no number of options"),
    pytest.param("{0::a|0::b}", ["weight above 0"], id="weights of nothing"),
]


@pytest.mark.parametrize("prompt, words", INVALID_TAGS)
def test_invalid_tags_are_refused_before_anything_is_loaded(shelf, tmp_path, prompt, words, monkeypatch):
    monkeypatch.setattr("customize.families.load", lambda *_: pytest.fail("a model was loaded"))
    before = {path: path.stat().st_mtime_ns for path in shelf.rglob("*")}
    asked = InferenceSettings(
        prompt=prompt,
        weights_dir=str(shelf),
        wildcards_dir=str(shelf),
        output_dir=str(tmp_path / "out"),
        pretrained_model_name_or_path="demo",
    )
    with pytest.raises(InputError) as caught:
        command.run(asked)
    [problem] = caught.value.problems
    assert problem.where == "prompt" and all(word in f"{problem.what} {problem.remedy}" for word in words), str(problem)
    assert not (tmp_path / "out").exists() and before == {path: path.stat().st_mtime_ns for path in shelf.rglob("*")}


@pytest.mark.parametrize(
    "prompt, word", [("a <lora:x:1>", "--weights_dir"), ("embedding:x", "--weights_dir"), ("__x__", "--wildcards_dir")]
)
def test_without_a_folder_the_report_asks_for_it(prompt, word):
    with pytest.raises(InputError, match=word):
        resolve_grid(grid(InferenceSettings(prompt=prompt)))


def test_a_lora_in_the_negative_prompt_is_refused_and_a_given_file_takes_the_tags_scale(shelf):
    with pytest.raises(InputError, match="applies to the whole image"):
        picture(shelf, "a", "<lora:run-cat:1>")
    got = picture(
        shelf, "a <lora:mycat_v2:0.3>", weights=[f"{shelf}/{CAT}:0.9", f"{shelf}/EasyNeg.safetensors"], weights_dir=None
    )
    assert got == ("a", "", ["EasyNeg.safetensors", f"{CAT}:0.3"])


def test_each_image_has_the_weights_of_its_own_prompt(shelf):
    settings = InferenceSettings(prompt=["a <lora:run-cat:1>", "b", "c {x|y}"], num_images=3, weights_dir=str(shelf))
    wanted = resolve_grid(grid(settings)).requests
    assert [len(each.settings.weights) for each in wanted] == [1] * 3 + [0] * 6
    assert len({each.prompts for each in wanted}) > 3 and all(each.prompts[0] in ("c x", "c y") for each in wanted[6:])


@pytest.mark.parametrize(
    "prompt, expected",
    [
        pytest.param("{a|b|c}", {"a", "b", "c"}, id="one of three"),
        pytest.param("{2$$a|b}", {"a, b", "b, a"}, id="both"),
        pytest.param("{2$$ and $$a|b}", {"a and b", "b and a"}, id="joined by a word"),
        pytest.param("{1-2$$a|b}", {"a", "b", "a, b", "b, a"}, id="one or two"),
        pytest.param("{0-1$$a|b}", {"", "a", "b"}, id="none or one"),
        pytest.param("{0::a|b}", {"b"}, id="weight 0"),
        pytest.param("{a {x|y}|b}", {"a x", "a y", "b"}, id="choices within choices"),
        pytest.param("{a|}", {"a", ""}, id="something or nothing"),
        pytest.param("{[x|y]|b}", {"[x|y]", "b"}, id="an alternation is one option"),
        pytest.param("{a\\|b|c}", {"a\\|b", "c"}, id="escaped bar"),
    ],
)
def test_choices_follow_from_the_seed(prompt, expected):
    made = [chosen(prompt, seed, None) for seed in range(100)]
    assert set(made) == expected and made == [chosen(prompt, seed, None) for seed in range(100)]


FILES = [
    pytest.param(b"a cat\n\n# no\n  a dog  \n", ("a cat", "a dog"), id="lines, comments, blanks"),
    pytest.param("\ufeffein Häuschen\r\nzwei\r\n".encode(), ("ein Häuschen", "zwei"), id="Windows, mark of UTF-8"),
    pytest.param("a cat\n".encode("utf-16"), ("a cat",), id="UTF-16"),
    pytest.param(b"a cat", ("a cat",), id="no end of line"),
    pytest.param(b"caf\xe9\n", "is not UTF-8 text", id="Latin-1"),
    pytest.param(b"# nothing\n", "contains no prompt", id="comments alone"),
    pytest.param(b'a cat\n--prompt "a dog" --seed 5\n', "contains options", id="A1111's options"),
    pytest.param(None, "cannot be read", id="not there"),
]


@pytest.mark.parametrize("content, expected", FILES)
def test_prompts_from_a_file(tmp_path, content, expected):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    given = {"prompt": "first", "prompt_file": str(path)}
    values, problems = settings_from_files.complete(InferenceSettings, given)
    if isinstance(expected, tuple):
        settings = read_settings(InferenceSettings, **given)
        assert not problems and settings.prompt == ("first", *expected) and "prompt_file" not in settings.to_toml()
    else:
        assert expected in str(problems[0]) and problems[0].remedy


def test_loras_are_written_to_metadata_as_by_a1111(shelf):
    settings = {"prompt": ["a cat"], "negative_prompt": "", "num_inference_steps": 2, "guidance_scale": 7, "seed": 1}
    files = find_learned("demo", [(shelf / CAT, path_and_scale("x:0.5:0.8")[1]), (shelf / "EasyNeg.safetensors", 1.0)]).files
    weights = [
        {"path": str(file.path), "scale": str(file.scale) if ":" in str(file.scale) else file.scale, **hashes(file)}
        for file in files
    ]
    facts = {"base_model": "demo", "weights": weights, "versions": {"customize": "0"}}
    first, last = parameters(facts, settings, "DDIMScheduler", (64, 64)).splitlines()
    content = (shelf / CAT).read_bytes()
    from hashlib import sha256

    own = sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()[:12]
    other = sha256((shelf / "EasyNeg.safetensors").read_bytes()).hexdigest()[:12]
    assert first == "a cat <lora:MyCat_v2:0.8:0.5>"
    assert f'Lora hashes: "MyCat_v2: {own}", TI hashes: "EasyNeg: {other}"' in last
    assert kohya("a.b") == "lora_unet_a_b"
