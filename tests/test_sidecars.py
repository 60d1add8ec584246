"""`customize mask` and `customize caption`: what is written beside images, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from kit import write_images
from PIL import Image
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
)

from customize.__main__ import main
from customize.data.captions.captioner import Wording, write_captions
from customize.errors import InputError
from customize.evaluation.masks.draw_masks import draw_masks
from customize.families.source import DEMO

SUBJECT = DEMO.parent / "examples" / "subject"
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] [DEC] a photo of dog cat red the".split()
SMALL = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
EYE = dict(**SMALL, image_size=32, patch_size=8)


def tokenizer(folder: Path) -> BertTokenizerFast:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return BertTokenizerFast(str(folder / "vocab.txt"))


def tiny_blip(folder: Path) -> Path:
    """A BLIP with random weights, as transformers saves it."""
    words, ends = tokenizer(folder), dict(bos_token_id=5, eos_token_id=3, sep_token_id=3, pad_token_id=0)
    text = dict(**SMALL, **ends, vocab_size=14, encoder_hidden_size=16, projection_dim=8)
    torch.manual_seed(0)
    network = BlipForConditionalGeneration(
        BlipConfig(text_config=text, vision_config={**EYE, "projection_dim": 8}, projection_dim=8, image_text_hidden_size=8)
    )
    network.save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), words).save_pretrained(folder)
    return folder


def tiny_git(folder: Path) -> Path:
    """A GIT with random weights, as transformers saves it."""
    words = tokenizer(folder)
    torch.manual_seed(0)
    network = GitForCausalLM(GitConfig(vision_config=EYE, vocab_size=14, **SMALL, bos_token_id=2, eos_token_id=3, pad_token_id=0))
    network.save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    GitProcessor(CLIPImageProcessorPil(**size), words).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["blip", "git"])
def test_captions_are_those_of_the_captioner_and_replace_none(kind, tmp_path):
    model = {"blip": tiny_blip, "git": tiny_git}[kind](tmp_path / "model")
    folder = write_images(tmp_path / "images", 3)
    (folder / "1.caption").write_text("mine\n")
    written = write_captions(folder, str(model), Wording(prefix="sks, "))
    assert written == [folder / "0.txt", folder / "2.txt"] and (folder / "1.caption").read_text() == "mine\n"
    network = {"blip": BlipForConditionalGeneration, "git": GitForCausalLM}[kind].from_pretrained(model).eval()
    processor = {"blip": BlipProcessor, "git": GitProcessor}[kind].from_pretrained(model)
    for path in written:
        inputs = processor(images=Image.open(path.with_suffix(".png")), return_tensors="pt")
        [said] = processor.batch_decode(network.generate(**inputs, max_new_tokens=64, num_beams=3), skip_special_tokens=True)
        assert path.read_text() == f"sks, {said}\n" and "\n" not in said
    assert any(path.read_text().strip() != "sks," for path in written)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert write_captions(folder, str(model)) == [] and before == {path: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "wording, text, expected",
    [
        (Wording(), " a dog\non the  beach. ", "a dog on the beach"),
        (Wording("photo, "), "a dog", "photo, a dog"),
        (Wording(trigger="sks dog"), "a cat", "sks dog, a cat"),
        (Wording(trigger="sks dog", class_word="dog"), "an old Dog and a dog", "an old sks dog and a dog"),
        (Wording(trigger="<it>", class_word="owl"), "An owl by the bowl", "a <it> by the bowl"),
        (Wording(trigger="sks dog", class_word="dog"), "hotdogs", "sks dog, hotdogs"),
        (Wording("x, ", "sks dog", "dog"), "", "x, sks dog"),
    ],
)
def test_the_trigger_stands_for_the_class_word(wording, text, expected):
    assert wording.of(text) == expected


def test_a_wrong_captioner_is_one_report(tmp_path, capsys):
    folder = write_images(tmp_path / "images", 1)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    other = tmp_path / "other"
    other.mkdir()
    assert main(["caption", str(folder), "--model", str(other), "--class_word", "dog"]) == 2
    report = capsys.readouterr().err
    assert all(words in report for words in ("broken.png", "has no config.json", "class_word", "hf download")), report
    for name in ("model.safetensors", "preprocessor_config.json"):
        (other / name).write_bytes(b"{}")
    for config, what in (({"model_type": "clip"}, "'clip', no captioner"), ({"model_type": "blip"}, "cannot be loaded")):
        (other / "config.json").write_text(json.dumps(config))
        (folder / "broken.png").unlink(missing_ok=True)
        with pytest.raises(InputError, match=what):
            write_captions(folder, str(other))
    with pytest.raises(InputError, match="is no folder, and not in the hub's cache"):
        write_captions(folder, "someone/captioner")
    assert sorted(path.name for path in folder.iterdir()) == ["0.png"]


def test_masks_are_drawn_where_the_subject_is_and_replace_none(tmp_path):
    for number in (1, 2, 4):
        shutil.copy(SUBJECT / f"{number}.png", tmp_path)
    Image.new("RGB", (64, 64), "white").save(tmp_path / "blank.png")
    Image.new("L", (128, 128), 255).save(tmp_path / "2-mask.png")
    mine = (tmp_path / "2-mask.png").read_bytes()
    assert draw_masks(tmp_path, "toy", "demo") == [tmp_path / "1-mask.png", tmp_path / "4-mask.png"]
    for number in (1, 4):
        pixels = np.asarray(Image.open(tmp_path / f"{number}.png").convert("RGB")).astype(int)
        far, drawn = np.abs(pixels - pixels[4, 4]).max(-1) > 60, Image.open(tmp_path / f"{number}-mask.png")
        found = np.asarray(drawn) >= 128
        assert drawn.mode == "L" and (far & found).sum() / (far | found).sum() > 0.8
    assert (tmp_path / "2-mask.png").read_bytes() == mine and not (tmp_path / "blank-mask.png").exists()
    (tmp_path / "blank.png").unlink()
    assert draw_masks(tmp_path, "toy", "demo") == []


def test_faults_of_masks_to_draw_are_one_report(tmp_path, capsys):
    folder = write_images(tmp_path / "images", 1)
    Image.open(folder / "0.png").convert("RGB").save(folder / "0.jpg")
    other = tmp_path / "other"
    other.mkdir()
    arguments = ["mask", str(folder), "--class-word", " ", "--base", str(tmp_path / "none"), "--segmenter", str(other)]
    assert main(arguments) == 2
    report = capsys.readouterr().err
    assert all(words in report for words in ("several images of one name", "class_word", "segmenter", "config.json")), report
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (other / name).write_text('{"model_type": "clip"}')
    with pytest.raises(InputError, match="'clip', no CLIPSeg"):
        draw_masks(folder, "dog", "demo", str(other))
    assert main(["mask", str(folder)]) == 2 and "class_word" in capsys.readouterr().err
    assert not list(folder.glob("*-mask.png"))
