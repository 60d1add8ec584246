"""From a folder of photos and a word to settings: which files are used, which word is chosen, and why."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from customize.errors import InputError
from customize.families import Source
from customize.machine.hardware import Hardware
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.files import toml_file
from customize.teach import Request, bases, look, memory, plan, rare_word, recipe, run_name
from customize.teach.calling_prompt import Calling
from customize.training import preflight

GIB = 1 << 30
CARD = Hardware("cuda", "RTX 3060", 12 * GIB, bf16=True)


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path, monkeypatch):
    """No base model of this machine is found, and runs go into an empty folder."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(bases.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two photos, a broken one, one in a format that is not read, a text and a video."""
    folder = tmp_path / "My Cat"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("a.jpg", "b.png"):
        Image.fromarray(random.integers(0, 256, (100, 120, 3), np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:3000])
    (folder / "raw.dng").write_bytes(b"II*\0")
    (folder / "notes.md").write_text("mine")
    (folder / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    return folder


def test_a_look_at_a_folder_says_what_is_left_out_and_why(photos):
    seen = look(photos)
    assert [each.name for each in seen.usable] == ["a.jpg", "b.png"]
    assert [each.size for each in seen.usable] == [(120, 100)] * 2
    assert seen.leave_out == ("raw.dng", "broken.jpg")
    assert [each.reason.partition(" (")[0] for each in seen.left_out] == [
        "is an image in an unsupported format",
        "is damaged and cannot be decoded",
    ]
    assert not any(note.startswith("blurred") for note in seen.notes)
    assert seen.notes[0].startswith("there are only 2 photos") and "film.mp4, notes.md" in seen.notes[-1]
    assert look(photos, ["a.jpg"]).usable == seen.usable[1:]


def test_a_file_whose_name_no_setting_can_hold_is_a_problem(photos):
    (photos / "a\nb.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"a\\nb.jpg: is not an image.*cannot be left out by its name, which contains a control"):
        look(photos)


def test_odd_photos_are_noted(photos):
    big = np.kron(np.asarray(Image.open(photos / "b.png")), np.ones((6, 6, 1), np.uint8))
    Image.fromarray(big).filter(ImageFilter.GaussianBlur(9)).save(photos / "soft.png")
    shutil.copy(photos / "b.png", photos / "same.png")
    notes = look(photos).notes
    assert "the same picture: b.png, same.png; it counts twice" in notes
    assert "blurred (no sharp edge at 512 pixels): soft.png" in notes


def test_what_is_left_out_is_not_read_by_the_run(photos, tmp_path):
    made = plan(Request(str(photos), "cat", base="demo"))
    settings = DreamBoothSettings(**made.values)
    _, _, examples = preflight.check(settings)
    assert [each.name for each in examples.instances] == ["a.jpg", "b.png"]
    with pytest.raises(InputError) as raised:
        preflight.check(settings.model_copy(update={"leave_out": ()}))
    assert [Path(each.where).name for each in raised.value.problems] == ["raw.dng", "broken.jpg"]


def test_a_name_as_long_as_the_disk_allows_is_read(photos):
    long = "n" * 251 + ".jpg"  # its mask would have a longer one
    (photos / "a.jpg").rename(photos / long)
    settings = DreamBoothSettings(**plan(Request(str(photos), "cat", base="demo")).values)
    assert [each.name for each in preflight.check(settings)[2].instances] == ["b.png", long]


@pytest.mark.parametrize("what", ["cat", "a cat.", " the cat ", "'cat'", "“cat”", "my 'cat'"])
def test_signs_around_a_noun_are_no_part_of_it(what):
    assert Request("photos", what).noun == "cat" and [*Request("photos", what).problems()] == []


def test_the_settings_are_written_with_their_reasons_and_read_again(photos, tmp_path):
    made = plan(Request(str(photos), "a cat", base="demo"))
    file = tmp_path / "plan.toml"
    file.write_text(made.toml())
    assert toml_file.read(str(file))[0] == made.values
    lines = file.read_text().splitlines()
    for each in made.decisions:
        place = next(number for number, line in enumerate(lines) if line.startswith(f"{each.name} = "))
        assert lines[place - 1].startswith("# ") and each.reason.endswith(lines[place - 1].removeprefix("# "))
    assert made.values["instance_prompt"] == "a sks cat" and made.values["class_prompt"] == "an animal"
    assert run_name.command_in(file) == f'customize teach "{photos}" "a cat" --base demo'
    file.write_text(file.read_text().replace("rank = 16", "rank = 17"))
    assert run_name.command_in(file) is None


def test_a_style_is_a_new_word_named_after_the_folder(photos):
    made = plan(Request(str(photos), "watercolour painting", kind="style", base="demo"))
    assert made.command == "train_textual_inversion" and made.word == "<my-cat>"
    assert TextualInversionSettings(**made.values).initializer_token == ("watercolour painting",)
    assert all("<my-cat>" in prompt for prompt in made.values["validation_prompt"][:2])
    assert not any("<my-cat>" in prompt for prompt in made.values["validation_prompt"][2:])


def test_planning_imports_no_torch(photos):
    code = (
        "import sys; from customize.teach import Request, plan, bases\n"
        f"plan(Request({str(photos)!r}, 'cat', base='demo')); bases.found(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def base_of(family: str, size: int = 5 * GIB) -> bases.Base:
    return bases.Base("a/model", "a/model", family, size, "cache", True, "in the hub's cache")


def case_of(photos: Path, family: str, machine: Hardware, **changes) -> dict:
    """The values that are decided for photos on a machine, by setting."""
    request = Request(str(photos), "cat", **changes)
    case = recipe.Case(request, look(photos), base_of(family), machine, "ohwx", "rare")
    return {each.name: each.value for each in recipe.decisions(case, "runs/x")}


@pytest.mark.parametrize(
    "family, gibibytes, bf16, precision, saves",
    [
        ("stable_diffusion", 6, False, "fp16", False),
        ("stable_diffusion_xl", 12, True, "bf16", True),
        ("stable_diffusion_xl", 24, True, "bf16", False),
    ],
)
def test_the_card_decides_precision_and_checkpointing(family, gibibytes, bf16, precision, saves, photos):
    values = case_of(photos, family, Hardware("cuda", "a card", gibibytes * GIB, bf16))
    assert (values["mixed_precision"], values["gradient_checkpointing"]) == (precision, saves)
    assert values["save_precision"] == "fp16" and ("lora_targets" in values) == (family == "stable_diffusion")


def test_effort_and_the_number_of_photos_decide_the_steps(photos):
    of_effort = {effort: case_of(photos, "stable_diffusion", CARD, effort=effort) for effort in ("quick", "balanced", "best")}
    assert [each["max_train_steps"] for each in of_effort.values()] == [300, 600, 900]
    assert [each["rank"] for each in of_effort.values()] == [8, 16, 32]
    for number in range(10):
        Image.new("RGB", (64, 64), (20 * number, 0, 0)).save(photos / f"more{number}.png")
    assert case_of(photos, "stable_diffusion", CARD)["max_train_steps"] == 1200


def test_of_a_person_no_score_ends_the_run(photos):
    assert case_of(photos, "stable_diffusion", CARD)["stop"] == "auto"
    assert case_of(photos, "stable_diffusion", CARD, kind="person")["stop"] == "off"
    assert Request(str(photos), "an old man").is_person and not Request(str(photos), "man", kind="style").is_person


def test_a_noun_that_may_be_misspelt_is_noted(photos):
    source = Source("a/model")
    assert [*rare_word.notes(Request("photos", "cat"), source)] == []
    [note] = rare_word.notes(Request("photos", "black kitteh"), source)
    assert note.startswith('"kitteh" is no common word of a/model')
    [note] = rare_word.notes(Request("photos", "кошка"), source)
    assert "was made with English texts" in note


def test_without_a_gpu_a_large_model_draws_one_picture(photos):
    processor = Hardware("cpu", "no GPU", 32 * GIB)
    assert case_of(photos, "stable_diffusion", processor)["validation_prompt"] == ["{instance_prompt}"]
    assert len(case_of(photos, "stable_diffusion", CARD)["validation_prompt"]) == 3


@pytest.mark.parametrize("family, parameters", [("stable_diffusion", 859_520_964), ("stable_diffusion_xl", 2_567_463_684)])
def test_the_memory_of_networks_is_that_of_their_parameters(family, parameters):
    """Parameters of the UNets as their authors' checkpoints have them."""
    assert memory.NEEDS[family].unet == pytest.approx(2 * parameters, rel=0.005)
    card = Hardware("cuda", "small", memory.NEEDS[family].of("lora", True, True))
    assert memory.problem(family, card) is None and memory.checkpointing(family, "lora", card)[0]
    assert memory.problem(family, replace(card, memory=card.memory - 1)).what.startswith("needs about")


def test_candidates_are_one_rare_token_of_clip():
    from customize.families.files.clip_tokenizer import clip_tokenizer

    tokenizer = clip_tokenizer()
    for word in rare_word.CANDIDATES:
        assert len(tokenizer(word).input_ids) == 3 and tokenizer(word).input_ids[1] > 44_000, word


def test_captions_and_the_noun_decide_the_word(photos, tmp_path):
    source = Source("a/model")
    request = Request(str(photos), "ohwx cat")
    assert rare_word.choose(request, source, ())[0] == "sks"
    assert rare_word.choose(Request("photos", "cat"), source, ())[0] == "ohwx"
    assert rare_word.choose(Request("photos", "cat"), source, ("a TZKY cat", "tzky"))[0] == "tzky"
    (photos / "a.txt").write_text("a cat on a chair")
    values = plan(Request(str(photos), "cat", base="demo")).values
    assert values["caption_prefix"] == "sks cat,"


def test_a_new_word_beside_a_lora_starts_from_the_noun(photos):
    made = plan(Request(str(photos), "cat", word="<miezi>", base="demo"))
    assert made.values["placeholder_token"] == ["<miezi>"] and made.values["initializer_token"] == ["cat"]
    assert made.values["instance_prompt"] == "a <miezi>" and made.values["class_prompt"] == "an animal"


def cached_model(tiny: Path, name: str, hub: Path, variant: str = "") -> None:
    """Puts a model into the hub's cache, its weights under the names of a variant."""
    folder = hub / f"models--{name.replace('/', '--')}"
    shutil.copytree(tiny, folder / "snapshots" / "abc")
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    for file in [*folder.rglob("*.safetensors")] if variant else []:
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))


def test_base_models_are_found_in_the_cache_and_in_folders_of_others(tiny_epsilon, tmp_path, monkeypatch):
    cached_model(tiny_epsilon, "one/plain", tmp_path / "hub")
    cached_model(tiny_epsilon, "one/half", tmp_path / "hub", "fp16")
    (tmp_path / "hub" / "models--bert--base" / "snapshots" / "x").mkdir(parents=True)
    (tmp_path / "ComfyUI/models/checkpoints").mkdir(parents=True)
    (tmp_path / "ComfyUI/models/checkpoints/broken.safetensors").write_bytes(b"no")
    found = {base.name: base for base in bases.found(CARD)}
    assert [*found] == ["one/half", "one/plain", *(name for name, *_ in bases.HUB), "demo"]
    assert found["one/half"].variant == "fp16" and found["one/plain"].variant is None
    assert not found["one/plain"].is_download and found[bases.HUB[0][0]].is_download
    assert bases.chosen(CARD) == found["one/half"]
    monkeypatch.setenv(bases.VARIABLE, "demo")
    assert bases.chosen(CARD).name == "demo" and bases.found(CARD)[0].place == "configured"


def test_a_folder_of_half_precision_files_is_read_as_such(tiny_epsilon, tmp_path, photos):
    cached_model(tiny_epsilon, "one/half", tmp_path / "hub", "fp16")
    folder = tmp_path / "hub/models--one--half/snapshots/abc"
    assert plan(Request(str(photos), "dog", base=str(folder)), CARD).values["variant"] == "fp16"


def test_who_names_a_base_model_gets_it_although_it_may_not_fit(photos):
    name, small = bases.HUB[0][0], Hardware("cuda", "GTX 1060", 6 * GIB)
    made = plan(Request(str(photos), "cat", base=name), small)
    assert made.photos.notes[-1] == f"{name} needs about 9.59 GiB, and GTX 1060 has 6 GiB: it may not fit"
    assert made.values["gradient_checkpointing"] and made.base.is_download


def test_a_card_that_is_too_small_is_offered_what_fits(tmp_path):
    offered = {base.name: base.offered for base in bases.found(Hardware("cuda", "GTX 1060", 6 * GIB))}
    assert offered == {bases.HUB[0][0]: False, bases.HUB[1][0]: True, "demo": True}


CAT = {"instance_prompt": "a photo of sks cat", "class_prompt": "a photo of cat"}
TOY = {"instance_prompt": "a sks toy", "class_prompt": "an animal"}
MIEZI = {"placeholder_token": ["<miezi>"], "initializer_token": ["cat"], "class_prompt": "a photo of cat"}
INK = {"placeholder_token": ["<ink>"], "learnable_property": "style", "initializer_token": ["ink"]}


@pytest.mark.parametrize(
    "settings, prompt, called",
    [
        (CAT, "a cat on the beach", "a sks cat on the beach"),
        (CAT, "An old Cat, asleep", "An old sks cat, asleep"),
        (CAT, "two cats", "two sks cats"),
        (CAT, "a (cat:1.2) on mars", "a (sks cat:1.2) on mars"),
        (CAT, "a caterpillar", "sks cat, a caterpillar"),
        (CAT, "on the beach", "a photo of sks cat on the beach"),
        (CAT, "the moon", "sks cat, the moon"),
        (CAT, "", "a photo of sks cat"),
        (CAT, "SKS in space", "SKS in space"),
        ({**CAT, "instance_prompt": "an ohwx owl", "class_prompt": "an owl"}, "an owl", "an ohwx owl"),
        ({**CAT, "instance_prompt": "a sks owl", "class_prompt": "an owl"}, "an owl at night", "a sks owl at night"),
        (TOY, "a toy on the beach", "a sks toy on the beach"),
        (TOY, "an animal at night", "a sks toy at night"),
        (MIEZI, "a cat on the beach", "<miezi> on the beach"),
        (MIEZI, "in the snow", "a photo of <miezi> in the snow"),
        (INK, "a house.", "a house in the style of <ink>"),
        (INK, "", "a picture in the style of <ink>"),
    ],
)
def test_the_word_is_put_into_prompts_that_lack_it(settings, prompt, called):
    assert Calling.of_settings(settings).put_into(prompt) == called


def test_settings_of_several_concepts_name_no_word():
    assert Calling.of_settings({"concept": [{"instance_prompt": "a photo of sks cat"}]}) is None
    assert Calling.of_settings({}) is None
