"""Captions in every layout that programs leave them in; nothing of them is passed over without a line that names it."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from customize.data.examples import examine_examples
from customize.errors import InputError
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.training import model_card


def put(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name, "PNG")
    return folder


def look(folder: Path, **values):
    """(captions by image, problems, notes) of a DreamBooth run on the folder."""
    where = {} if "dataset_name" in values else {"instance_data_dir": str(folder)}
    found, problems = examine_examples(DreamBoothSettings(**{"instance_prompt": "sks dog", **where, **values}), 16)
    captions = {example.name: list(example.captions) for example in found.instances}
    return captions, [str(each) for each in problems], list(found.notes)


def write(folder: Path, name: str, content) -> None:
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    else:
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")


NFD, NFC = (unicodedata.normalize(form, "Bär_Zoë") for form in ("NFD", "NFC"))
TWO = {"a.png": ["sks one"], "b.png": ["sks two"]}
KOHYA = {"a": {"caption": "sks", "tags": "one"}, "b": {"caption": "sks two"}}


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"a.txt": "sks one", "b.txt": "sks two"}, id="txt"),
        pytest.param({"a.caption": "sks one", "b.caption": "sks two"}, id="kohya's .caption"),
        pytest.param({"a.png.txt": "sks one", "b.png.txt": "sks two"}, id="name and extension"),
        pytest.param({"a.png.caption": "sks one", "b.txt": "sks two"}, id="mixed"),
        pytest.param({"A.TXT": "sks one", "B.txt": "sks two"}, id="upper case"),
        pytest.param({"A.PNG.txt": "sks one", "b.Caption": "sks two"}, id="upper case of all"),
        pytest.param({"a.tags": "sks one\r\n", "b.cap": " sks two \n"}, id="tags and cap"),
        pytest.param({"a.json": {"caption": "sks one"}, "b.json": {"text": "sks two", "tags": ["x"]}}, id="json beside"),
        pytest.param({"a.json": {"tags": ["sks one"]}, "b.json": {"prompt": "sks two", "score": 9}}, id="json of tags"),
        pytest.param({"a.txt": "sks one".encode("utf-16"), "b.txt": b"\xef\xbb\xbfsks two"}, id="byte-order marks"),
        pytest.param({"a.txt": b"\xfe\xff" + "sks one".encode("utf-16-be"), "b.txt": "sks two"}, id="UTF-16 big-endian"),
        pytest.param(
            {"metadata.jsonl": '{"file_name":"a.png","text":"sks one"}\n{"file_name":"b.png","text":"sks two"}'}, id="jsonl"
        ),
        pytest.param(
            {"metadata.jsonl": '{"image":"./a.png","prompt":"sks one"}\n{"image":"b.png","prompt":"sks two"}'}, id="prompt"
        ),
        pytest.param({"metadata.csv": "file_name,text\na.png,sks one\nb.png,sks two\n"}, id="csv"),
        pytest.param({"metadata.csv": "file_name;text\r\na.png;sks one\r\nb.png;sks two\r\n"}, id="Excel's semicolons"),
        pytest.param(
            {"metadata.csv": "\ufefffile_name,text,,\r\na.png,sks one,,\r\n,,,\r\nb.png,sks two,,\r\n,,,\r\n"}, id="blank rows"
        ),
        pytest.param({"metadata.csv": "sep=;\nfile_name;text\na.png;sks one\nb.png;sks two"}, id="Excel's sep line"),
        pytest.param({"metadata.csv": "File_Name, Text\na.png, sks one\nb.png, sks two\n"}, id="header in capitals"),
        pytest.param({"metadata.csv": "File Name;Caption\nA.PNG;sks one\nB.PNG;sks two\n"}, id="names in capitals"),
        pytest.param(
            {"metadata.csv": "file_name\ttext\r\na.png\tsks one\r\nb.png\tsks two\r\n".encode("utf-16")}, id="Unicode text"
        ),
        pytest.param({"metadata.tsv": "file_name\ttext\na.png\tsks one\nb.png\tsks two\n"}, id="tsv"),
        pytest.param({"captions.csv": "image,caption\na.png,sks one\nb.png,sks two\n"}, id="captions.csv"),
        pytest.param({"captions.txt": "a.png\tsks one\nb.png\tsks two\n"}, id="captions.txt with tabs"),
        pytest.param({"captions.txt": "image,caption\na.png,sks one\nb.png,sks two\n"}, id="captions.txt as Flickr's"),
        pytest.param({"captions.txt": "a.png|sks one\nb.png|sks two\n"}, id="captions.txt with bars"),
        pytest.param(
            {"data.jsonl": '{"path":"a.png","caption":"sks one"}\n{"path":"b.png","caption":"sks two"}'}, id="any jsonl"
        ),
        pytest.param(
            {"metadata.json": [{"file_name": "a.png", "text": "sks one"}, {"file_name": "b.png", "text": "sks two"}]}, id="array"
        ),
        pytest.param({"captions.json": {"a.png": "sks one", "b.png": "sks two"}}, id="json of names"),
        pytest.param({"meta_cap.json": {"a": {"caption": "sks one"}, "b": {"caption": "sks two"}}}, id="kohya's meta_cap"),
        pytest.param(
            {"meta_lat.json": {"a.png": {"tags": "sks one"}, "b.png": {"tags": "sks two", "train_resolution": [8, 8]}}},
            id="meta_lat",
        ),
        pytest.param(
            {"meta.json": {"C:\\x\\a.png": {"caption": "sks one"}, "/home/x/b.png": {"caption": "sks two"}}}, id="full paths"
        ),
        pytest.param(
            {"metadata.jsonl": '{"file_name":".\\\\a.png","text":"sks one"}\n{"file_name":"b.png","text":"sks two"}'},
            id="backslash",
        ),
        pytest.param({"metadata.csv": 'file_name,text\na.png,"sks one"\nb.png,sks two\na.png,sks one\n'}, id="a row twice"),
        pytest.param({"a.txt": "sks one", "b.txt": "sks two", "meta.json": {"version": 3}}, id="json of something else"),
        pytest.param({"a.txt": "sks one", "a.json": {"seed": 3}, "b.txt": "sks two"}, id="json without a caption"),
    ],
)
def test_layouts(tmp_path, files):
    put(tmp_path, "a.png", "b.png")
    for name, content in files.items():
        write(tmp_path, name, content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    captions, problems, notes = look(tmp_path)
    assert captions == TWO and problems == []
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    reported = " ".join(notes)
    unused = [name for name in files if name in ("meta.json", "a.json") and len(files) > 2]
    assert all(name in reported for name in unused)


def test_kohya_puts_tags_behind_the_caption(tmp_path):
    write(put(tmp_path, "a.png", "b.png"), "meta_lat.json", KOHYA)
    assert look(tmp_path)[0] == {"a.png": ["sks, one"], "b.png": ["sks two"]}
    write(tmp_path, "meta_cap.json", KOHYA)
    captions, problems, _ = look(tmp_path)
    assert captions["a.png"] == ["sks, one"] and problems == [], "two tables that say the same are one"
    write(tmp_path, "meta_cap.json", {"a": {"caption": "another"}})
    assert "more than one place: meta_cap.json, meta_lat.json" in look(tmp_path)[1][0]


@pytest.mark.skipif(os.path.normcase("A") == "a", reason="names that differ in case")
def test_unicode_forms_and_case_are_matched_with_care(tmp_path):
    put(tmp_path / "forms", f"{NFD}_0.png", f"{NFD}_1.png", f"{NFC}_2.png")
    for name in (f"{NFC}_0.txt", f"{NFC}_1.png.txt", f"{NFD}_2.TXT"):
        write(tmp_path / "forms", name, f"sks {name[-5]}")
    captions, problems, _ = look(tmp_path / "forms")
    assert len(captions) == 3 and problems == [] and ["sks dog"] not in captions.values()
    table = "".join(json.dumps({"file_name": f"{NFC}_{i}.png", "text": f"sks {i}"}) + "\n" for i in range(2))
    write(put(tmp_path / "table", f"{NFD}_0.png", f"{NFD}_1.png"), "metadata.jsonl", table)
    assert look(tmp_path / "table")[0] == {f"{NFD}_0.png": ["sks 0"], f"{NFD}_1.png": ["sks 1"]}
    put(tmp_path / "exact", "img.png", "IMG.png")
    write(tmp_path / "exact", "IMG.txt", "sks large")
    captions, problems, notes = look(tmp_path / "exact")
    assert captions == {"img.png": ["sks dog"], "IMG.png": ["sks large"]} and "no caption for 1 of 2" in " ".join(notes)
    put(tmp_path / "doubt", "Img.png")
    write(tmp_path / "doubt", "img.txt", "one")
    write(tmp_path / "doubt", "IMG.txt", "two")
    (problem,) = look(tmp_path / "doubt")[1]
    assert "matches several caption files: IMG.txt, img.txt" in problem
    put(tmp_path / "shared", "Img.png", "iMG.png")
    write(tmp_path / "shared", "img.txt", "one")
    (problem,) = look(tmp_path / "shared")[1]
    assert "matches several images: Img.png, iMG.png" in problem
    put(tmp_path / "rows", "Img.png", "iMG.png")
    write(tmp_path / "rows", "metadata.csv", "file_name,text\nimg.png,one\n")
    (problem,) = look(tmp_path / "rows")[1]
    assert "matches several images" in problem


def test_the_precedence_of_captions_is_reported(tmp_path):
    put(tmp_path, "a.png", "b.png")
    for name, text in {"a.txt": "sks one", "a.caption": "other", "b.png.txt": "sks two", "b.txt": "other"}.items():
        write(tmp_path, name, text)
    captions, problems, notes = look(tmp_path)
    assert captions == TWO and problems == []
    reported = " ".join(notes)
    assert "some images have several caption files; not used (1): a.caption" in reported and "b.txt" in reported


def test_texts_that_belong_to_no_image_are_named(tmp_path):
    put(tmp_path, "IMG_0000.png", "IMG_0001.png")
    for name in ("IMG_0.txt", "IMG_1.caption", "README.txt", "prompts.csv", "notes.json"):
        write(tmp_path, name, "{}" if name.endswith("json") else "sks")
    captions, problems, notes = look(tmp_path)
    assert captions == {"IMG_0000.png": ["sks dog"], "IMG_0001.png": ["sks dog"]} and problems == []
    assert len(notes) == 1 and "(5): IMG_0.txt, IMG_1.caption, README.txt, notes.json, prompts.csv" in notes[0]
    (problem,) = look(tmp_path, captions="files")[1]
    assert "no caption for 2 of 2 images" in problem


def test_a_table_for_half_of_the_images(tmp_path):
    write(put(tmp_path, "a.png", "b.png", "c.png"), "metadata.csv", "file_name,text\na.png,sks one\n")
    for way in ({}, {"dataset_name": str(tmp_path)}):
        captions, problems, notes = look(tmp_path, **way)
        assert captions == {"a.png": ["sks one"], "b.png": ["sks dog"], "c.png": ["sks dog"]} and problems == []
        assert any("no caption for 2 of 3 images, instance prompt instead: b.png, c.png" in note for note in notes)


def test_a_table_above_its_images(tmp_path):
    put(tmp_path, "train/a.png", "train/b.png", "test/c.png")
    write(tmp_path, "metadata.csv", "file_name,text\ntrain/a.png,sks one\ntrain\\b.png,sks two\n")
    captions, problems, _ = look(tmp_path)
    assert captions == {"train/a.png": ["sks one"], "train/b.png": ["sks two"]} and problems == []
    captions, problems, notes = look(tmp_path, dataset_name=str(tmp_path))
    assert captions == {"train/a.png": ["sks one"], "train/b.png": ["sks two"]} and problems == []
    assert any("only the images of train are used, not those of test" in note for note in notes)
    write(tmp_path, "metadata.csv", "file_name,text\ntrain/z.png,sks\n/etc/x.png,sks\nC:\\p\\a.png,sks\n../a.png,sks\n")
    problems = " ".join(look(tmp_path)[1])
    assert all(
        words in problems for words in ("refers to a missing file in a subfolder", "an absolute path", "outside the folder")
    )


def test_a_path_to_the_folder_itself_is_accepted(tmp_path):
    write(
        put(tmp_path, "a.png", "b.png"), "metadata.csv", f"file_name,text\n{tmp_path}/a.png,sks one\n{tmp_path}/b.png,sks two\n"
    )
    assert look(tmp_path)[0] == TWO
    write(tmp_path, "metadata.csv", "file_name,text\nC:\\Users\\x\\a.png,sks one\n")
    assert "write only 'a.png'" in look(tmp_path)[1][0]


@pytest.mark.parametrize("way", ["train/metadata.csv", "metadata.jsonl in classes", "txt in classes"])
def test_a_data_set_in_a_folder_keeps_its_captions(tmp_path, way):
    """datasets' own reader has no captions of these."""
    if way.startswith("train"):
        put(tmp_path, "train/a.png", "train/b.png")
        write(tmp_path / "train", "metadata.csv", "file_name,text\na.png,sks one\nb.png,sks two\n")
        expected = {"train/a.png": ["sks one"], "train/b.png": ["sks two"]}
    else:
        put(tmp_path, "cat/a.png", "dog/b.png")
        for name, text in (("cat/a", "sks one"), ("dog/b", "sks two")):
            if way.startswith("txt"):
                write(tmp_path, f"{name}.txt", text)
            else:
                row = {"file_name": f"{name[-1]}.png", "text": text}
                write(tmp_path / name.split("/")[0], "metadata.jsonl", json.dumps(row))
        expected = {"cat/a.png": ["sks one"], "dog/b.png": ["sks two"]}
    captions, problems, notes = look(tmp_path, dataset_name=str(tmp_path))
    assert captions == expected and problems == []
    assert not any("ignored" in note for note in notes)


def test_captions_in_two_folders_are_ambiguous(tmp_path):
    put(tmp_path, "train/a.png")
    write(tmp_path, "train/a.txt", "one")
    write(tmp_path, "metadata.csv", "file_name,text\ntrain/a.png,two\n")
    (problem,) = look(tmp_path, dataset_name=str(tmp_path))[1]
    assert "in more than one place" in problem and "train/a.png" in problem


def test_unreadable_encodings_are_guessed_in_the_report(tmp_path):
    write(put(tmp_path, "a.png"), "a.txt", "sks dog, café".encode("cp1252"))
    (problem,) = look(tmp_path)[1]
    assert (
        "is not UTF-8 in line 1 (byte 0xe9)" in problem and "it is Windows-1252 now if the line reads 'sks dog, café'" in problem
    )
    write(tmp_path, "a.txt", b"\xff\xfea")
    assert "incomplete UTF-16" in look(tmp_path)[1][0]
    write(tmp_path, "a.txt", b"\x89PNG\r\n\x1a\n\xff\xff")
    assert "is a PNG image, not a text file" in look(tmp_path)[1][0]


def test_links_of_the_hubs_cache(tmp_path):
    root = tmp_path / "datasets--me--dog"
    snapshot = root / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    put(root / "blobs", "b0", "b1")
    (root / "blobs" / "t0").write_text('{"file_name": "0.png", "text": "sks one"}\n{"file_name": "1.png", "text": "sks two"}')
    for name, blob in (("0.png", "b0"), ("1.png", "b1"), ("metadata.jsonl", "t0")):
        os.symlink(f"../../blobs/{blob}", snapshot / name)
    captions, problems, _ = look(snapshot)
    assert captions == {"0.png": ["sks one"], "1.png": ["sks two"]} and problems == []
    (problem,) = look(root)[1]
    assert f"did you mean {snapshot}? (it contains 2 images)" in problem


def test_links_to_images_elsewhere_are_images_and_links_to_texts_are_not_followed(tmp_path):
    put(tmp_path / "album", "x.png")
    (tmp_path / "secret.txt").write_text("of the house")
    folder = put(tmp_path / "chosen", "b.png")
    os.symlink(tmp_path / "album" / "x.png", folder / "a.png")
    assert list(look(folder)[0]) == ["a.png", "b.png"]
    os.symlink(tmp_path / "secret.txt", folder / "b.txt")
    captions, (problem,), _ = look(folder)
    assert "is a link to a file outside the folder" in problem and "of the house" not in str(captions)


def test_a_folder_above_the_images_points_to_them(tmp_path):
    put(tmp_path / "kohya", "img/10_sks dog/a.png", "img/10_sks dog/b.png")
    (problem,) = look(tmp_path / "kohya")[1]
    assert f"did you mean {tmp_path}/kohya/img/10_sks dog? (it contains 2 images)" in problem
    put(tmp_path / "two", "cat/a.png", "dog/b.png", "dog/c.png")
    (problem,) = look(tmp_path / "two")[1]
    assert f"did you mean {tmp_path}/two/dog? (it contains 2 images, or 1 more such folder in it)" in problem
    (tmp_path / "zip").mkdir()
    write(tmp_path / "zip", "photos.zip", b"PK\3\4")
    assert "unpack photos.zip" in look(tmp_path / "zip")[1][0]
    put(tmp_path / "bare", "photo1", "photo2")
    (problem,) = look(tmp_path / "bare")[1]
    assert "rename them" in problem and "photo1, photo2" in problem


def test_many_rows_take_no_time(tmp_path):
    write(put(tmp_path, "a.png"), "metadata.csv", "file_name,text\n" + "".join(f"a.png,sks {i}\n" for i in range(20_000)))
    assert len(look(tmp_path)[0]["a.png"]) == 20_000


# the word that calls up what is learned


def four(folder: Path, *captions: str) -> Path:
    put(folder, *(f"{number}.png" for number in range(len(captions))))
    for number, caption in enumerate(captions):
        write(folder, f"{number}.txt", caption)
    return folder


def test_a_trigger_missing_from_all_captions_is_reported(tmp_path):
    folder = four(tmp_path, "a brown dog on a sofa", "a dog in the snow", "a dog", "a dog, asleep")
    notes = look(folder)[2]
    assert notes == [
        f"{folder}: no caption contains sks from instance_prompt (0 of 4 images), so it will not trigger the subject; add it "
        'to the captions, prepend it with --caption_prefix "sks dog,", or use --captions prompt'
    ]
    assert look(folder, captions="files")[2] == notes
    assert not any("instance_prompt" in note for note in look(folder, captions="prompt")[2])


def test_a_trigger_missing_from_some_captions_is_reported(tmp_path):
    folder = four(tmp_path, "a SKS dog", "a dog in the snow", "sks, a dog", "asks for food")
    assert look(folder)[2] == [
        f"{folder}: sks from instance_prompt is in the captions of 2 of 4 images, but not of: 1.png, 3.png; write it there, too"
    ]


def test_prefix_and_suffix_are_put_around_captions_that_are_read(tmp_path):
    folder = four(tmp_path, "a dog", "a cat\na dog")
    put(folder, "z.png")
    captions, problems, notes = look(folder, caption_prefix="sks dog,", caption_suffix=", studio light")
    assert captions == {
        "0.png": ["sks dog, a dog, studio light"],
        "1.png": ["sks dog, a cat, studio light", "sks dog, a dog, studio light"],
        "z.png": ["sks dog"],
    }
    assert problems == [] and not any("calls up" in note or "instance_prompt is" in note for note in notes)
    assert look(folder, caption_prefix="sks ", caption_suffix="in oil")[0]["0.png"] == ["sks a dog in oil"]
    (folder / "none").mkdir()
    assert any(
        "have no effect: no captions were read" in note for note in look(put(folder / "none", "a.png"), caption_prefix="sks")[2]
    )


def test_a_placeholder_may_come_with_the_prefix(tmp_path):
    folder = four(tmp_path, "in the snow", "asleep")
    words = {"placeholder_token": ("<cat>",), "initializer_token": ("cat",), "train_data_dir": (str(folder),)}
    examples, problems = examine_examples(TextualInversionSettings(**words, caption_prefix="<cat>"), 16)
    assert problems == [] and [example.captions for example in examples.instances] == [("<cat> in the snow",), ("<cat> asleep",)]
    _, (problem,) = examine_examples(TextualInversionSettings(**words), 16)
    assert "no placeholder token (<cat>)" in str(problem)
    with pytest.raises(InputError, match="caption_prefix: has no effect without captions = auto or captions = files"):
        TextualInversionSettings(**words, caption_prefix="x", captions="templates")


def test_the_card_lists_only_trigger_words_of_captions(tmp_path, tiny_epsilon):
    from kit import prepared, settings_for

    folder = four(tmp_path / "set", "a brown dog on a sofa", "a dog")
    for prefix, words, example in ((None, [], "a dog"), ("sks dog,", ["a photo of sks dog"], "a photo of sks dog")):
        settings = settings_for("lora", tiny_epsilon, folder, tmp_path / "out", caption_prefix=prefix)
        context, training = prepared(settings)
        facts = json.loads(model_card.metadata(settings, training.method, context.family, 6)["customize"])
        assert (facts["trigger_words"], facts["example_prompt"]) == (words, example)
        card = model_card.card(tmp_path, facts, [], "")
        assert ("instance_prompt:" in card, "No trigger words." in card) == (bool(words), not words)


def test_the_names_of_images_are_captions(tmp_path):
    folder = put(tmp_path, "sks dog_on_a_beach (2).png", "sks dog asleep_001.png", "{trigger} dog.jpg", "SKS dog.png")
    write(folder, "SKS dog.txt", "not read")
    captions, problems, notes = look(folder, captions="file_names", caption_suffix=", a photo")
    assert problems == [] and not any("instance_prompt" in note for note in notes)
    assert captions == {
        "sks dog_on_a_beach (2).png": ["sks dog on a beach, a photo"], "sks dog asleep_001.png": ["sks dog asleep, a photo"],
        "{trigger} dog.jpg": ["sks dog, a photo"], "SKS dog.png": ["SKS dog, a photo"],
    }  # fmt: skip
    assert look(folder)[0]["sks dog asleep_001.png"] == ["sks dog"], "only if they are asked for"
    (problem,) = look(put(folder, "IMG_2031.png", "IMG-20240101-WA0003.png", "7.png"), captions="file_names")[1]
    assert "the names of 3 of 7 images describe nothing: 7.png, IMG-20240101-WA0003.png, IMG_2031.png" in problem
    with pytest.raises(InputError, match="file_names needs folders"):
        DreamBoothSettings(instance_prompt="sks dog", dataset_name="x", captions="file_names")


def test_the_trigger_word_takes_its_place_in_captions(tmp_path):
    put(tmp_path, "a.png", "b.png")
    write(tmp_path, "a.txt", "a {trigger} dog, [trigger]\nanother of {trigger}")
    write(tmp_path, "b.txt", "{trigger} {name}")
    captions, problems, _ = look(tmp_path, instance_prompt="a photo of ohwx dog")
    assert captions == {"a.png": ["a ohwx dog, ohwx", "another of ohwx"], "b.png": ["ohwx {name}"]} and problems == []
    toys = TextualInversionSettings(placeholder_token=("<toy>",), initializer_token=("toy",), train_data_dir=(str(tmp_path),))
    found, problems = examine_examples(toys, 16)
    assert problems == [] and found.instances[0].captions == ("a <toy> dog, <toy>", "another of <toy>")
    two = toys.model_copy(update={"placeholder_token": ("<a>", "<b>"), "initializer_token": ("a", "b")})
    problems = " ".join(map(str, examine_examples(two, 16)[1]))
    assert "{trigger} may be any of several words in some captions" in problems and "a.txt line 1" in problems


TEMPLATES = "a photo of {}\n\n  {} in a box \r\nan old [name]\nthe {trigger} thing\na photo of {}\n"


def test_templates_of_the_user(tmp_path):
    put(tmp_path / "images", "a.png", "b.png")
    write(tmp_path, "templates.txt", TEMPLATES)
    file = str(tmp_path / "templates.txt")
    captions, problems, _ = look(tmp_path / "images", caption_templates=file)
    own = ["a photo of sks dog", "sks dog in a box", "an old sks dog", "the sks thing"]
    assert captions == {"a.png": own, "b.png": own} and problems == []
    write(tmp_path / "images", "b.txt", "sks dog asleep")
    captions, _, notes = look(tmp_path / "images", caption_templates=file)
    assert captions == {"a.png": own, "b.png": ["sks dog asleep"]}
    assert any("no caption for 1 of 2 images, templates instead: a.png" in note for note in notes)
    captions, _, _ = look(tmp_path / "images", caption_templates=file, captions="prompt")
    assert captions == {"a.png": own, "b.png": own}
    words = {"placeholder_token": ("<t>",), "initializer_token": ("toy",), "train_data_dir": (str(tmp_path / "images"),)}
    found, problems = examine_examples(TextualInversionSettings(**words, captions="templates", caption_templates=file), 16)
    assert problems == []
    assert found.instances[0].captions == ("a photo of <t>", "<t> in a box", "an old <t>", "the <t> thing")


@pytest.mark.parametrize(
    "content, what",
    [
        ("a photo of a dog\na photo of {}\n", "1 of 2 templates do not name the subject: a photo of a dog"),
        ("\n \n", "contains no template"),
        ("a photo of [name], [filewords]\n", "contains [filewords]"),
        (b"\xff\xfe\x00", "incomplete UTF-16"),
        (None, "cannot be read: No such file"),
    ],
)
def test_templates_that_cannot_be_used_are_reported_once(tmp_path, content, what):
    put(tmp_path / "a", "a.png")
    put(tmp_path / "b", "b.png")
    if content is not None:
        write(tmp_path, "t.txt", content)
    words = {"placeholder_token": ("<s>", "<t>"), "initializer_token": ("toy", "cat")}
    folders = (str(tmp_path / "a"), str(tmp_path / "b"))
    settings = TextualInversionSettings(**words, train_data_dir=folders, caption_templates=str(tmp_path / "t.txt"))
    (problem,) = [str(each) for each in examine_examples(settings, 16)[1]]
    assert what in problem
    one = settings.model_copy(update={"train_data_dir": folders[:1]})
    assert any("images of one folder may show several words" in str(each) for each in examine_examples(one, 16)[1])
    with pytest.raises(InputError, match="caption_templates: has no effect without captions = auto or"):
        DreamBoothSettings(instance_prompt="sks dog", instance_data_dir="x", caption_templates="t.txt", captions="files")
