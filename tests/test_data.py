import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from customize.data import bucket_report
from customize.data.buckets import cover, squares
from customize.data.captions import caption_files
from customize.data.captions.caption_rule import OBJECT_TEMPLATES, STYLE_TEMPLATES, fill
from customize.data.crops import Variant, all_pixels, pixels, variants
from customize.data.examples import Example, load_class_examples, load_examples
from customize.data.findings import Findings
from customize.errors import InputError, ResourceError
from customize.methods import DreamBoothSettings, TextualInversionSettings


def noise(seed: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def put(folder: Path, *names: str) -> Path:
    """A folder with a picture, each its own, under each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        seed = int.from_bytes(os.fsencode(name)[-12:-4], "little")
        Image.fromarray(noise(seed)).save(folder / name, "PNG")
    return folder


def dreambooth(folder: Path | None = None, **values):
    values = {"instance_prompt": "a photo of sks cat", **values}
    return DreamBoothSettings(**({"instance_data_dir": str(folder)} if folder else {}), **values)


def inversion(*folders: Path, tokens: tuple[str, ...] = ("<cat>",), **values):
    return TextualInversionSettings(
        train_data_dir=tuple(map(str, folders)), placeholder_token=tokens, initializer_token="cat", **values
    )


def problems(settings) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_examples(settings)
    return [str(problem) for problem in caught.value.problems]


def captions_of(settings) -> dict[str, tuple[str, ...]]:
    return {example.name: example.captions for example in load_examples(settings).instances}


# folders


def test_images_are_sorted_bytewise(tmp_path):
    names = ["b.png", "a.PNG", "B.Jpg", "ä.png", "😀.webp", "a b.bmp", "10.tiff", "9.png", "line\nbreak.png"]
    for folder, order in (("one", names), ("two", names[::-1])):
        examples = load_examples(dreambooth(put(tmp_path / folder, *order))).instances
        assert [example.name for example in examples] == sorted(names, key=os.fsencode)
        assert all(example.role == "instance" for example in examples)
    ones, twos = (load_examples(dreambooth(tmp_path / folder)).instances for folder in ("one", "two"))
    assert [(e.name, e.size, e.digest, e.captions) for e in ones] == [(e.name, e.size, e.digest, e.captions) for e in twos]


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_names_that_are_not_utf_8(tmp_path):
    put(tmp_path)
    buffer = io.BytesIO()
    Image.fromarray(noise(0)).save(buffer, "PNG")
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:
        file.write(buffer.getvalue())
    (example,) = load_examples(dreambooth(tmp_path)).instances
    assert example.open().size == (30, 20)
    assert variants(example, square(example, 8), False, 2, False, 0) == variants(example, square(example, 8), False, 2, False, 0)
    with open(os.fsencode(tmp_path) + b"/\xfe.png", "wb") as file:
        file.write(b"junk")
    (problem,) = problems(dreambooth(tmp_path))
    assert "\\udcfe.png" in problem


def test_other_files_are_ignored_and_counted(tmp_path):
    put(tmp_path, "a.png", "b.png")
    plain = load_examples(dreambooth(tmp_path))
    assert plain.notes == ()
    put(tmp_path / "sub", "c.png")
    for name in (".DS_Store", "._a.png", ".hidden.jpg", "notes.md", "Thumbs.db", "alone.txt"):
        (tmp_path / name).write_bytes(b"\xff\0")
    examples = load_examples(dreambooth(tmp_path))
    assert examples.instances == plain.instances
    texts, ignored = examples.notes
    assert texts.endswith("text files that do not belong to an image in this folder, not used (1): alone.txt")
    assert "ignored, not images (3): Thumbs.db, notes.md, sub" in ignored


def test_invalid_folders_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, words in {"missing": "does not exist", "file": "not a folder", "empty": "no images"}.items():
        (problem,) = problems(dreambooth(tmp_path / name))
        assert words in problem and f"instance_data_dir {tmp_path / name}" in problem
        (problem,) = problems(inversion(tmp_path / name))
        assert words in problem and "train_data_dir" in problem


def test_all_problems_are_in_one_report_with_each_image_once(tmp_path):
    one, two = put(tmp_path / "one", "good.png", "cut.png"), put(tmp_path / "two", "good.png")
    (one / "cut.png").write_bytes((one / "cut.png").read_bytes()[:200])
    (one / "text.jpg").write_text("no picture")
    (one / "phone.HEIC").write_bytes(b"x")
    (one / "moving.gif").write_bytes(b"x")
    (one / "empty.webp").touch()
    os.mkfifo(one / "pipe.jpg")
    os.symlink("gone.bmp", one / "dangling.bmp")
    os.symlink("loop.png", one / "loop.png")
    os.symlink(two / "good.png", one / "outside.png")
    (two / "good.txt").write_bytes(b"<b> fine\n\xff")
    Image.new("F", (9, 9)).save(two / "float.tiff")
    bad = ["cut.png", "text.jpg", "phone.HEIC", "moving.gif", "empty.webp", "pipe.jpg", "float.tiff"]
    bad += ["dangling.bmp", "loop.png", "good.txt"]
    report = problems(inversion(one, two, tokens=("<a>", "<b>")))
    assert len(report) == len(bad)
    counts = Counter(name for name in bad for problem in report if f"/{name}: " in problem)
    assert counts == dict.fromkeys(bad, 1)
    assert all(isinstance(problem, str) and "Traceback" not in problem for problem in report)


def test_links_inside_the_folder_are_images(tmp_path):
    put(tmp_path, "a.png")
    os.symlink("a.png", tmp_path / "b.png")
    examples = load_examples(dreambooth(tmp_path))
    assert [example.name for example in examples.instances] == ["a.png", "b.png"]
    (note,) = examples.notes
    assert "identical: a.png, b.png" in note


def test_notes_on_few_equal_and_small_images(tmp_path):
    put(tmp_path, "a.png")
    assert "only one image" in load_examples(dreambooth(tmp_path)).notes[0]
    Image.open(tmp_path / "a.png").save(tmp_path / "b.bmp")
    put(tmp_path, "c.png")
    examples = load_examples(dreambooth(tmp_path))
    assert examples.notes == ("these images are identical: a.png, b.bmp",)
    [note] = bucket_report.notes(dreambooth(tmp_path), examples.instances, 24)
    assert note == "smaller than 24 pixels, will be enlarged: a.png, b.bmp, c.png"
    assert bucket_report.notes(dreambooth(tmp_path), examples.instances, 20) == []


def test_the_same_bytes_in_another_shape_are_another_image(tmp_path):
    for name, size in (("a.png", (40, 20)), ("b.png", (20, 40))):
        Image.new("RGB", size, "red").save(tmp_path / name)
    one, other = load_examples(dreambooth(tmp_path)).instances
    assert one.digest != other.digest


# captions


def test_templates_are_filled_with_the_token_as_it_is():
    for templates in (OBJECT_TEMPLATES, STYLE_TEMPLATES):
        assert len(set(templates)) == len(templates) >= 20
        assert all(template.count("{}") == 1 for template in templates)
        for caption in fill(templates, "<{0}{}\\1%s>"):
            assert "<{0}{}\\1%s>" in caption


def test_textual_inversion_takes_templates(tmp_path):
    put(tmp_path, "a.png", "b.png")
    assert captions_of(inversion(tmp_path)) == dict.fromkeys(["a.png", "b.png"], fill(OBJECT_TEMPLATES, "<cat>"))
    style = captions_of(inversion(tmp_path, learnable_property="style"))
    assert style["a.png"] == fill(STYLE_TEMPLATES, "<cat>")


def test_sidecar_captions_are_taken_as_written(tmp_path):
    put(tmp_path, "a.png", "a.jpg", "b.c.png", "d.webp")
    (tmp_path / "a.txt").write_bytes("\ufeff a {} of {0} <cat>, “ä” \\n \r\n\r\nsecond <cat>\rthird <cat>\r".encode())
    (tmp_path / "b.c.txt").write_text("<cat>%s")
    (tmp_path / "d.TXT").write_text("one <cat>\u2028same line")
    captions = captions_of(inversion(tmp_path))
    assert captions["a.png"] == captions["a.jpg"] == ("a {} of {0} <cat>, “ä” \\n", "second <cat>", "third <cat>")
    assert captions["b.c.png"] == ("<cat>%s",)
    assert captions["d.webp"] == ("one <cat>\u2028same line",)


def test_captions_auto_files_and_none(tmp_path):
    put(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "b.txt").write_text("a sleeping cat")
    examples = load_examples(dreambooth(tmp_path))
    assert [example.captions for example in examples.instances] == [
        ("a photo of sks cat",),
        ("a sleeping cat",),
        ("a photo of sks cat",),
    ]
    note, of_trigger = examples.notes
    assert "no caption for 2 of 3 images, instance prompt instead: a.png, c.png" in note
    assert "no caption contains sks from instance_prompt (0 of 1 images)" in of_trigger
    (problem,) = problems(dreambooth(tmp_path, captions="files"))
    assert "no caption for 2 of 3 images: a.png, c.png" in problem
    assert set(captions_of(dreambooth(tmp_path, captions="prompt")).values()) == {("a photo of sks cat",)}
    assert "b.txt" in load_examples(dreambooth(tmp_path, captions="prompt")).notes[0], "ignored files are told"


def test_every_caption_needs_a_placeholder(tmp_path):
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("a <cat>\na cat")
    (tmp_path / "b.txt").write_text("a <CAT>")
    (problem,) = problems(inversion(tmp_path))
    assert "no placeholder token (<cat>) in some captions: " in problem and "--captions templates" in problem
    assert "a.txt line 2" in problem and "b.txt line 1" in problem and "line 3" not in problem
    assert captions_of(inversion(tmp_path, captions="templates"))["a.png"] == fill(OBJECT_TEMPLATES, "<cat>")


def test_several_tokens_in_one_folder_need_captions(tmp_path):
    put(tmp_path, "a.png", "b.png")
    tokens = ("<cat>", "<dog>")
    (problem,) = problems(inversion(tmp_path, tokens=tokens))
    assert "no caption for 2 of 2 images" in problem and "one train_data_dir for each token" in problem
    (tmp_path / "a.txt").write_text("<cat> alone")
    (tmp_path / "b.txt").write_text("<cat> beside a dog")
    (problem,) = problems(inversion(tmp_path, tokens=tokens))
    assert problem.startswith("placeholder_token <dog>: ")
    (tmp_path / "b.txt").write_text("<cat> beside <dog>")
    assert captions_of(inversion(tmp_path, tokens=tokens))["b.png"] == ("<cat> beside <dog>",)


def test_several_tokens_with_a_folder_each(tmp_path):
    folders = put(tmp_path / "x", "a.png"), put(tmp_path / "y", "a.png", "b.png")
    captions = captions_of(inversion(*folders, tokens=("<cat>", "<dog>")))
    assert list(captions) == ["1/a.png", "2/a.png", "2/b.png"]
    assert captions["1/a.png"] == fill(OBJECT_TEMPLATES, "<cat>")
    assert captions["2/a.png"] == captions["2/b.png"] == fill(OBJECT_TEMPLATES, "<dog>")


def test_caption_files_that_cannot_be_used(tmp_path):
    put(tmp_path, *(f"{number}.png" for number in range(6)))
    (tmp_path / "0.txt").write_bytes(b"fine\nnot \xff fine")
    (tmp_path / "1.txt").write_text("caption", encoding="utf-16")
    (tmp_path / "2.txt").write_bytes("caption".encode("utf-16-le"))
    (tmp_path / "3.txt").write_text(" \n\t\n")
    (tmp_path / "4.txt").write_text("good")
    os.mkfifo(tmp_path / "5.txt")
    report = problems(dreambooth(tmp_path))
    words = ["0.txt: is not UTF-8 in line 2 (byte 0xff)", "2.txt: contains zero bytes"]
    words += ["3.txt: contains no caption", "5.txt: cannot be read: not a regular file but a named pipe"]
    assert len(report) == len(words)
    assert all(word in problem for word, problem in zip(words, report, strict=True))


# tables


def test_jsonl(tmp_path):
    put(tmp_path, "a.png", "b.png", "c.png")
    rows = [
        {"file_name": "a.png", "text": " of {} a ", "alt": "x"},
        {"file_name": "./b.png", "text": ["b one", "b two"]},
        {"file_name": "c.png", "text": "c one"},
        {"file_name": "c.png", "text": "c two"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\ufeff" + "\r\n\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    expected = {"a.png": ("of {} a",), "b.png": ("b one", "b two"), "c.png": ("c one", "c two")}
    assert captions_of(dreambooth(tmp_path)) == expected
    (note,) = load_examples(dreambooth(tmp_path)).notes
    assert "no caption contains sks from instance_prompt (0 of 3 images)" in note
    report = problems(dreambooth(tmp_path, caption_column="alt"))
    assert len(report) == 3 and "line 3" in report[0] and "columns: file_name, text" in report[0]


def test_csv(tmp_path):
    put(tmp_path, "a.png", "b.png")
    table = 'file_name,alt,text\na.png,x,"one, ""two""\nthree"\n\nb.png,y,"b"\nb.png,,second\n'
    (tmp_path / "Metadata.CSV").write_text(table, encoding="utf-8-sig")
    assert captions_of(dreambooth(tmp_path)) == {"a.png": ('one, "two"\nthree',), "b.png": ("b", "second")}


def test_every_bad_row_is_named_by_its_line(tmp_path):
    put(tmp_path, "a.png")
    put(tmp_path / "sub", "b.png")
    names = [
        "/etc/passwd",
        "C:\\a.png",
        "\\\\host\\a.png",
        "../a.png",
        "sub\\..\\a.png",
        "https://x/a.png",
        "file:///a.png",
    ]
    names += ["sub/c.png", "b.png", "", 7, None, "\ud800", "a.png\0"]
    rows = [json.dumps({"file_name": name, "text": "t"}) for name in names]
    rows += [json.dumps({"file_name": "a.png", "text": text}) for text in ("", " ", None, 3, [], ["a", ""], {}, "\ud800")]
    rows += ["{", "[]", "7", "[" * 100_000, '{"file_name": "a.png"}', '{"text": "t"}', "1" * 5000, "NaN"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    report = problems(dreambooth(tmp_path))
    assert [problem.split("metadata.jsonl line ")[1].split(":")[0] for problem in report] == [
        str(number) for number in range(1, len(rows) + 1)
    ]
    for problem, word in zip(report, ["absolute"] * 3 + ["outside"] * 2 + ["URL"] * 2 + ["subfolder", "missing"], strict=False):
        assert word in problem


def test_csv_faults(tmp_path):
    put(tmp_path, "a.png")
    for table, words in {
        "name of it;text\na.png;x\n": ["line 1: has no column file_name (its columns: name of it;text)"],
        "": ["line 1: has no column file_name"],
        "file_name,text\na.png,one, two\na.png\n": ["line 2: has more fields", "line 3: has no caption"],
        'file_name,text\na.png,"open\n': ["is not CSV"],
        "file_name,text\na.png," + "x" * 200_000 + "\n": ["is not CSV"],
    }.items():
        (tmp_path / "metadata.csv").write_text(table)
        report = problems(dreambooth(tmp_path, captions="files"))
        assert len(report) == len(words) and all(w in p for w, p in zip(words, report, strict=True)), report


def test_captions_from_two_sources_are_refused(tmp_path):
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,x\nb.png,y\n")
    (tmp_path / "stray.txt").write_text("of no picture")
    assert captions_of(dreambooth(tmp_path)) == {"a.png": ("x",), "b.png": ("y",)}
    (tmp_path / "b.txt").write_text("z")
    (problem,) = problems(dreambooth(tmp_path, captions="files"))
    assert "more than one place: b.txt, metadata.csv" in problem


def test_no_path_of_a_table_is_opened(tmp_path):
    """An audit hook cannot be taken back: in a process of its own."""
    put(tmp_path / "in", "a.png")
    secret = put(tmp_path, "secret.png") / "secret.png"
    rows = [{"file_name": name, "text": "t"} for name in (str(secret), "../secret.png", f"file://{secret}", "a.png")]
    (tmp_path / "in" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code = """
import sys
from customize.methods import DreamBoothSettings
from customize.data.examples import load_examples
settings = DreamBoothSettings(instance_prompt="x", instance_data_dir=sys.argv[1])
seen = []
sys.addaudithook(lambda event, args: seen.append((event, str(args))))
try:
    load_examples(settings)
except ValueError as error:
    print(len(error.problems))
print(any("secret" in args for event, args in seen if event in ("open", "os.listdir", "os.scandir")))
print(any(event.startswith(("socket.", "subprocess.")) for event, args in seen))
print(any("a.png" in args for event, args in seen if event == "open"))
print([name for name in ("torch", "datasets", "diffusers", "transformers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "in")], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:5] == ["3", "False", "False", "True", "[]"]


names = st.sampled_from(["a.png", "b.png", "c.png", "../a.png", "", "/a.png", "http://a.png"]) | st.text()
cells = st.text() | st.none() | st.integers() | st.floats() | st.lists(st.text() | st.none()) | st.booleans()
objects = st.dictionaries(st.sampled_from(["file_name", "text"]) | st.text(), names | cells)
lines = objects.map(json.dumps) | st.text() | st.sampled_from(['{"file_name": "a.png", "text": "fine"}', "{", "[[", '"'])
tables = st.lists(lines).map(lambda rows: "\n".join(rows).encode("utf-8", "surrogatepass")) | st.binary()
csv_tables = st.lists(st.lists(names, max_size=4).map(",".join)).map(
    lambda rows: "\n".join(["file_name,text", *rows]).encode("utf-8", "surrogatepass")
)


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@settings(max_examples=300, deadline=None, database=None)
@given(data=tables | csv_tables, name=st.sampled_from(["metadata.jsonl", "metadata.csv", "a.txt"]))
def test_whatever_is_in_a_caption_file_is_captions_or_problems(fuzz_folder, data, name):
    for other in fuzz_folder.iterdir():
        other.unlink()
    (fuzz_folder / name).write_bytes(data)
    found = Findings()
    read = caption_files.read_captions(fuzz_folder, ("a.png", "b.png"), (name,), "text", found)
    captions = read.of
    assert read.used == {name} and set(captions) <= {"a.png", "b.png"}
    assert captions or found.problems or name != "a.txt"
    for picture in captions.values():
        for caption in picture:
            assert caption.text.strip() == caption.text != "" and caption.text.encode("utf-8") and caption.where.isprintable()
    for problem in found.problems:
        assert str(problem).replace("\n    -> ", "").isprintable() and problem.what and problem.remedy


# class pictures


def test_class_pictures(tmp_path):
    put(tmp_path / "class", "b.png", "a.png", "c.png")
    (tmp_path / "class" / "a.txt").write_text("not read")
    examples = load_class_examples(tmp_path / "class", "a photo of cat")
    assert [(e.name, e.captions, e.role) for e in examples] == [
        (name, ("a photo of cat",), "class") for name in ("a.png", "b.png", "c.png")
    ]
    (tmp_path / "class" / "cut.jpg").touch()
    (tmp_path / "class" / "text.jpg").write_text("text")
    with pytest.raises(InputError) as caught:
        load_class_examples(tmp_path / "class", "a photo of cat")
    assert [problem.where for problem in caught.value.problems] == [
        str(tmp_path / "class" / name) for name in ("cut.jpg", "text.jpg")
    ]


def test_class_pictures_beside_the_instances(tmp_path):
    instances = put(tmp_path / "instances", "a.png", "b.png")
    prior = {"prior_preservation": "images", "class_prompt": "a cat", "class_data_dir": str(tmp_path / "class")}
    assert load_examples(dreambooth(instances, **prior)).classes == ()
    put(tmp_path / "class")
    assert load_examples(dreambooth(instances, **prior)).classes == ()
    put(tmp_path / "class", *(f"{number}.png" for number in range(5)))
    assert len(load_examples(dreambooth(instances, **prior)).classes) == 5
    examples = load_examples(dreambooth(instances, **prior, num_class_images=2))
    assert [example.name for example in examples.classes] == ["0.png", "1.png"]
    assert "only the first 2 of 5 class images are used" in examples.notes[0]
    (tmp_path / "class" / "x.png").touch()
    (instances / "y.png").touch()
    assert len(problems(dreambooth(instances, **prior))) == 2
    assert load_examples(dreambooth(put(tmp_path / "good", "a.png"))).classes == ()


# pixels


def example_of(path: Path, array: np.ndarray) -> Example:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(path)
    (example,) = load_examples(dreambooth(path.parent)).instances
    return example


def test_pixels_are_the_resized_crop(tmp_path):
    example = example_of(tmp_path / "a" / "wide.png", noise(1, 24, 60))
    doubled = np.repeat(np.repeat(noise(2, 8, 20), 2, 0), 2, 1)
    other = example_of(tmp_path / "b" / "doubled.png", doubled)
    cut = Variant((60, 24), left=17, top=0, width=24, height=24, flip=False)
    assert np.array_equal(pixels(example, cut), noise(1, 24, 60)[:, 17:41])
    assert np.array_equal(pixels(other, Variant((20, 8), 5, 0, 8, 8, True), "box"), noise(2, 8, 20)[:, 5:13][:, ::-1])
    cuts = variants(example, square(example, 16), False, 3, True, seed=0)
    stack = all_pixels(example, cuts, "bicubic")
    assert stack.shape == (6, 16, 16, 3) and stack.dtype == np.uint8
    assert all(np.array_equal(one, pixels(example, cut, "bicubic")) for one, cut in zip(stack, cuts, strict=True))
    assert np.array_equal(stack[0][:, ::-1], stack[1]) and cuts[1].flip and not cuts[0].flip


WHOLE = Variant((16, 16), 0, 0, 16, 16, False)


def test_an_image_that_changed_is_reported(tmp_path):
    example = example_of(tmp_path / "a" / "a.png", noise(1))
    whole = example.source.read_bytes()
    for damage in (whole[:100], b"", b"text", None):
        example.source.unlink()
        if damage is not None:
            example.source.write_bytes(damage)
        with pytest.raises(ResourceError, match="a.png"):
            pixels(example, WHOLE)
        example.source.write_bytes(whole)
    assert pixels(example, WHOLE).shape == (16, 16, 3)
    Image.fromarray(noise(2)).save(example.source)
    with pytest.raises(ResourceError, match="changed since it was checked"):
        example.open()


def square(example: Example, resolution: int):
    return squares(resolution).fit(example.size)


def sized(width: int, height: int, name: str = "a.png") -> Example:
    return Example(name, ("x",), "instance", Path(name), (width, height), "")


def test_center_crop_and_square_images():
    def cut(width, height, resolution, flip=False):
        example = sized(width, height)
        return variants(example, square(example, resolution), True, 5, flip, 0)

    assert cut(64, 32, 16) == (Variant((32, 16), 8, 0, 16, 16, False),)
    assert cut(35, 16, 16) == (Variant((35, 16), 9, 0, 16, 16, False),)  # of 19 pixels too many
    assert cut(32, 64, 16, True) == tuple(Variant((16, 32), 0, 8, 16, 16, flip) for flip in (False, True))
    for center_crop in (False, True):
        example = sized(50, 50)
        found = variants(example, square(example, 16), center_crop, 5, False, 0)
        assert found == (Variant((16, 16), 0, 0, 16, 16, False),)


@settings(max_examples=200, deadline=None, database=None)
@given(
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    resolution=st.integers(1, 100),
    count=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    flip=st.booleans(),
)
def test_variants_lie_inside_and_differ(size, resolution, count, seed, flip):
    width, height = (max(1, round(side * resolution / min(size))) for side in size)
    fit = cover(size, (resolution, resolution))
    cuts = variants(sized(*size), fit, False, count, flip, seed)
    assert len(set(cuts)) == len(cuts) == min(count, max(width, height) - resolution + 1) * (1 + flip)
    for cut in cuts:
        assert cut.resized == (width, height) and (cut.width, cut.height) == (resolution, resolution)
        assert 0 <= cut.left <= width - resolution and 0 <= cut.top <= height - resolution
    assert cuts == variants(sized(*size), fit, False, count, flip, seed)


def test_random_crops_are_a_function_of_seed_and_name_and_reach_everywhere():
    def places(name, seed):
        return tuple(cut.left for cut in variants(sized(90, 30, name), cover((90, 30), (30, 30)), False, 3, False, seed))

    assert places("a.png", 0) != places("b.png", 0) != places("b.png", 1)
    assert places("a.png", 0) == (2, 22, 44), "pinned: a resumed run must find the crops of the first one"
    drawn = Counter(place for seed in range(4000) for place in places("a.png", seed))
    assert set(drawn) == set(range(61))
    expected = 4000 * 3 / 61
    assert sum((count - expected) ** 2 / expected for count in drawn.values()) < 110, "chi-square, 60 degrees, p < 1e-4"


# data sets


def saved(folder: Path, rows: list[dict], **columns) -> str:
    import datasets

    features = datasets.Features({"image": datasets.Image(), **columns})
    datasets.disable_progress_bars()
    table = {column: [row[column] for row in rows] for column in features}
    datasets.Dataset.from_dict(table, features=features).save_to_disk(folder)
    return str(folder)


def as_png(array: np.ndarray, **options) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return {"bytes": buffer.getvalue(), "path": None}


def test_a_saved_data_set(tmp_path):
    import datasets

    exif = Image.Exif()
    exif[274] = 6
    rows = [
        {"image": as_png(noise(0)), "text": "one", "texts": ["x", "y"]},
        {"image": as_png(noise(1), exif=exif), "text": None, "texts": ["z"]},
        {"image": as_png(np.dstack([noise(2), np.zeros((20, 30), np.uint8)])), "text": " ", "texts": ["w"]},
    ]
    text = datasets.Value("string")
    name = saved(tmp_path / "set", rows, text=text, texts=datasets.List(text))
    examples = load_examples(dreambooth(dataset_name=name))
    assert [e.captions for e in examples.instances] == [("one",), ("a photo of sks cat",), ("a photo of sks cat",)]
    assert "no caption for 2 of 3 images, instance prompt instead: row 1, row 2" in examples.notes[0]
    images = [np.asarray(example.open()) for example in examples.instances]
    assert np.array_equal(images[0], noise(0))
    assert np.array_equal(images[1], np.rot90(noise(1), -1)) and examples.instances[1].size == (20, 30)
    assert (images[2] == 255).all()
    assert captions_of(dreambooth(dataset_name=name, caption_column="texts"))["row 0"] == ("x", "y")
    (problem,) = problems(dreambooth(dataset_name=name, caption_column="caption"))
    assert "no column 'caption' with captions (its columns: image, text, texts)" in problem
    (problem,) = problems(dreambooth(dataset_name=name, image_column="text"))
    assert "no column 'text' with images" in problem
    (problem,) = problems(inversion(dataset_name=name))
    assert "no placeholder token (<cat>) in some captions: row 0" in problem
    assert captions_of(inversion(dataset_name=name, captions="templates"))["row 2"] == fill(OBJECT_TEMPLATES, "<cat>")


def test_the_split_of_a_saved_data_set(tmp_path):
    import datasets

    one, two = (datasets.load_from_disk(saved(tmp_path / str(n), [{"image": as_png(noise(n))}] * n)) for n in (1, 2))
    for names, expected in ((["test", "train"], 2), (["test"], 1)):
        datasets.DatasetDict(dict(zip(names, (one, two), strict=False))).save_to_disk(tmp_path / names[-1])
        examples = load_examples(dreambooth(dataset_name=str(tmp_path / names[-1])))
        assert len(examples.instances) == expected
    assert "has no captions in a column 'text' (its columns: image)" in examples.notes[0]
    datasets.DatasetDict(test=one, validation=two).save_to_disk(tmp_path / "none")
    (problem,) = problems(dreambooth(dataset_name=str(tmp_path / "none")))
    assert "the splits test, validation, but no split train" in problem


def test_bad_rows_are_named(tmp_path):
    rows = [{"image": as_png(noise(0))}, {"image": {"bytes": b"%!PS-Adobe", "path": "a.eps"}}, {"image": None}]
    name = saved(tmp_path / "set", rows)
    report = problems(dreambooth(dataset_name=name))
    assert [problem.split(": ")[0] for problem in report] == [f"{name} row 1", f"{name} row 2"]
    assert "not an image" in report[0] and "contains no image" in report[1]


def test_a_folder_through_datasets(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = put(tmp_path / "pictures", "a.png", "b.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "one"}\n{"file_name": "b.png", "text": "two"}\n')
    assert captions_of(dreambooth(dataset_name=str(folder))) == {"a.png": ("one",), "b.png": ("two",)}
    parquet = datasets.load_dataset(str(folder), split="train").to_parquet
    (tmp_path / "table").mkdir()
    parquet(str(tmp_path / "table" / "train-00000-of-00001.parquet"))
    assert captions_of(dreambooth(dataset_name=str(tmp_path / "table"))) == {"row 0": ("one",), "row 1": ("two",)}
    (problem,) = problems(dreambooth(dataset_name=str(tmp_path / "missing")))
    assert problem.startswith(f"dataset_name {tmp_path / 'missing'}: cannot be loaded")


def test_an_empty_data_set_and_a_hub_out_of_reach(monkeypatch):
    import datasets

    empty = datasets.Dataset.from_dict({"image": []}, features=datasets.Features({"image": datasets.Image()}))
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **options: empty)
    assert "has no rows" in problems(dreambooth(dataset_name="someone/nothing"))[0]

    def unreachable(*arguments, **options):
        raise ConnectionError("Couldn't reach the hub\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    (problem,) = problems(dreambooth(dataset_name="someone/cats"))
    assert problem.startswith("dataset_name someone/cats: cannot be loaded (ConnectionError: Couldn't reach the hub)")
    assert "network" in problem


# pictures that change while they are in use


def test_an_image_that_changed_ends_the_run_with_its_name(tmp_path, capsys):
    from customize.cli import main

    folder = put(tmp_path / "set", "a.png", "b.png")
    words = ["--instance_prompt", "x", "--instance_data_dir", str(folder)]

    def run(settings):
        examples = load_examples(settings)
        Image.fromarray(noise(99)).save(folder / "b.png")
        for example in examples.instances:
            pixels(example, WHOLE)

    assert main.main(DreamBoothSettings, run, words) == 3
    output = capsys.readouterr().err
    assert "b.png: is a different image now" in output and "a.png" not in output and "Traceback" not in output


def test_images_are_not_needed_after_training_has_begun(tmp_path, tiny_epsilon, capsys):
    """By design: the run asks the VAE about every crop that it will draw before its first step, and keeps the answers."""
    import torch
    from kit import prepared, settings_for, write_images

    folder = write_images(tmp_path / "set")
    settings = settings_for("lora", tiny_epsilon, folder, tmp_path / "out")
    context, training = prepared(settings)
    before = [training.dataset.deal(step, range(1))[0] for step in range(settings.max_train_steps)]
    for picture in folder.iterdir():
        picture.unlink()
    after = [training.dataset.deal(step, range(1))[0] for step in range(settings.max_train_steps)]
    for one, other in zip(before, after, strict=True):
        for name, value in vars(one).items():
            assert torch.equal(value, getattr(other, name)) if isinstance(value, torch.Tensor) else value == getattr(other, name)
    with pytest.raises(ResourceError, match="0.png"):
        context.examples.instances[0].open()
