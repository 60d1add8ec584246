"""`customize check`: its report on images and captions, which agrees with that of a run."""

import io
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import corpus
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from customize.cli import check as doctor
from customize.data import example as one_example
from customize.data import examples as data
from customize.data.captions.caption_files import read_captions
from customize.data.example import Example
from customize.data.examples import load_examples
from customize.data.findings import Findings
from customize.data.images import checked_images, similarity
from customize.data.images.image_file import open_image
from customize.data.images.similarity import DUPLICATE_BITS, SHARP, Features, fingerprint, measure, near_duplicates, sharpness
from customize.data.peculiarities import note_peculiarities
from customize.errors import InputError
from customize.families import Source
from customize.families.specs import STABLE_DIFFUSION
from customize.families.specs.text_limits import too_long
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.storage import atomic as files
from customize.storage import ownership
from customize.training import preflight

ROOT = Path(__file__).parents[1]


def scene(seed: int, width: int = 240, height: int = 180) -> Image.Image:
    """Blocks of colour with sharp edges: a picture that is like no other seed's."""
    random = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), random.integers(0, 256, 3), np.uint8)
    for _ in range(40):
        top, left = random.integers(0, height), random.integers(0, width)
        tall, wide = random.integers(height // 10, height // 2), random.integers(width // 10, width // 2)
        pixels[top : top + tall, left : left + wide] = random.integers(0, 256, 3)
    return Image.fromarray(pixels)


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(corpus.encoded(image, "JPEG", quality=quality))).convert("RGB")


def soft(image: Image.Image, sigma: float) -> Image.Image:
    return Image.fromarray(gaussian_filter(np.asarray(image), (sigma, sigma, 0)))


def check(capsys, *words: object) -> tuple[int, list[str]]:
    status = doctor.main([str(word) for word in words])
    captured = capsys.readouterr()
    assert captured.err == "" and "Traceback" not in captured.out and "\x1b" not in captured.out
    return status, captured.out.splitlines()


def fill(folder: Path, **pictures: Image.Image) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in pictures.items():
        image.save(folder / f"{name}.png")
    return folder


# measures


@pytest.mark.parametrize("seed", range(5))
def test_the_fingerprint_is_that_of_the_cosine_transform(seed):
    """Against scipy's transform of the same 32 x 32 pixels."""
    grey = scene(seed).convert("L")
    waves = dctn(np.asarray(grey.resize((32, 32), Image.Resampling.LANCZOS), float), type=2)[1:9, 1:9]
    expected = "".join("1" if wave > np.median(waves) else "0" for wave in waves.ravel())
    assert f"{fingerprint(grey):064b}" == expected and expected.count("1") == 32


def bits(one: Image.Image, other: Image.Image) -> int:
    return (fingerprint(one.convert("L")) ^ fingerprint(other.convert("L"))).bit_count()


def test_copies_are_similar_and_others_are_not():
    scenes = [scene(seed) for seed in range(12)]
    copies = {
        "compressed": lambda image: as_jpeg(image, 30),
        "smaller": lambda image: image.resize((120, 90)),
        "larger": lambda image: image.resize((480, 360), Image.Resampling.BICUBIC),
        "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    }
    for name, copy in copies.items():
        for image in scenes:
            assert bits(image, copy(image)) <= DUPLICATE_BITS, name
            assert near_duplicates([measure(image, 512), measure(copy(image), 512)]) == [(0, 1)], name
    assert min(bits(scenes[i], scenes[j]) for i in range(12) for j in range(i)) > DUPLICATE_BITS + 4
    assert near_duplicates([measure(image, 512) for image in scenes]) == []


def test_the_same_shapes_in_other_colours_are_not_similar():
    image = scene(1)
    other = Image.merge("RGB", [ImageOps.invert(image.getchannel(2)), image.getchannel(1), ImageOps.invert(image.getchannel(0))])
    bright = [Features(0, measure(each, 512).colours, 1.0) for each in (image, other)]
    assert near_duplicates(bright) == []
    flat = [measure(Image.new("RGB", (60, 50), colour), 512) for colour in ("red", "blue", "#f00808")]
    assert near_duplicates(flat) == [(0, 2)] and flat[0].fingerprint == flat[1].fingerprint == 0


def test_pairs_are_sorted_by_similarity():
    grey = bytes(48)
    near, nearer, far = (Features(number, grey, 1.0) for number in (0b111, 0b1, (1 << 40) - 1))
    assert near_duplicates([near, Features(0, grey, 1.0), far, nearer]) == [(1, 3), (0, 3), (0, 1)]
    limit = Features((1 << DUPLICATE_BITS) - 1, grey, 1.0)
    beyond = Features((1 << (DUPLICATE_BITS + 1)) - 1, grey, 1.0)
    assert near_duplicates([Features(0, grey, 1.0), limit]) and not near_duplicates([Features(0, grey, 1.0), beyond])
    assert near_duplicates([]) == near_duplicates([near]) == []


@pytest.mark.parametrize("sigma", [1, 2, 4])
def test_sharpness_of_an_edge_equals_the_error_function(sigma):
    """The slope of a Gaussian edge over one pixel, and over the means of two: both follow from its integral."""
    from scipy.special import erf

    at = np.arange(-64, 64) + 0.5
    edge = 127.5 * (1 + erf(at / (sigma * 2**0.5)))
    grey = np.repeat(edge[None].astype(np.float32), 128, 0)
    slopes = []
    for _ in range(3):
        slopes.append(np.sort(np.abs(np.diff(edge)))[::-1])
        edge = edge.reshape(-1, 2).mean(1)
    # one pixel in a hundred: of 127 columns the 2nd steepest, of 63 and 31 the steepest
    places = [max(0, int(np.ceil(len(s) * 0.01)) - 1) for s in slopes]
    expected = min(slopes[k][places[k]] / slopes[k + 1][places[k + 1]] for k in range(2))
    assert sharpness(grey) == pytest.approx(expected, rel=0.02)


def test_blur_is_found_at_the_resolution_of_the_run():
    for seed in range(6):
        image = scene(seed, 360, 256)
        assert measure(image, 256).sharpness > SHARP + 0.1
        assert measure(as_jpeg(image, 75), 256).sharpness > SHARP
        for sigma in (2, 3, 6):
            assert measure(soft(image, sigma), 256).sharpness < SHARP
        assert measure(soft(image, 3), 32).sharpness > SHARP, "at an eighth of the size nothing of it is left"
        enlarged = image.resize((1440, 1024), Image.Resampling.BICUBIC)
        assert measure(enlarged, 1024).sharpness < SHARP < measure(enlarged, 256).sharpness
        assert measure(image, 1024).sharpness > SHARP, "a small picture is measured as it is"


def test_sharpness_does_not_depend_on_contrast_and_skips_flat_or_tiny_images():
    grey = np.asarray(scene(3).convert("L"), np.float32)
    assert sharpness(grey * 0.3 + 40) == pytest.approx(sharpness(grey), rel=1e-3)
    for flat in (np.full((64, 64), 7, np.float32), np.zeros((1, 1), np.float32), np.zeros((3, 900), np.float32)):
        assert sharpness(flat) == 1.0
    assert measure(Image.new("RGB", (1, 1)), 512).sharpness == 1.0


# the report


def test_a_good_folder(tmp_path, capsys):
    folder = fill(tmp_path / "set", **{f"p{seed}": scene(seed, 700, 600) for seed in range(4)})
    status, lines = check(capsys, folder)
    assert status == 0
    assert lines == [
        "warning: checked for Stable Diffusion 1.x; for another model give --pretrained_model_name_or_path or --resolution",
        "0 errors, 1 warning; training would start",
        "4 usable images, 700 x 600, for 512 pixels",
        "cut off: 9 % of each image",
    ]


def test_warnings_of_every_kind(tmp_path, capsys):
    folder = fill(
        tmp_path / "set", a=scene(0), b=as_jpeg(scene(0), 40), c=soft(scene(1), 3), d=scene(2), e=scene(2), small=scene(3, 99, 90)
    )  # fmt: skip
    (folder / "a.txt").write_text("a photo of sks house\na drawing of a house")
    (folder / "notes.md").write_text("x")
    status, lines = check(capsys, folder, "--trigger_word", "sks", "--resolution", 128, "--instance_prompt", "sks house")
    assert status == 0
    assert lines == [
        "warning: no sks in a caption of 1 of 6 images: a.png",
        "warning: smaller than 128 pixels, will be enlarged: small.png",
        f"warning: {folder}: no caption for 5 of 6 images, instance prompt instead: b.png, c.png, d.png, e.png, small.png",
        "warning: these images are identical: d.png, e.png",
        "warning: these images are nearly identical: a.png and b.png",
        "warning: blurred (no sharp edge at 128 pixels): c.png",
        f"warning: {folder}: ignored, not images (1): notes.md",
        "0 errors, 7 warnings; training would start",
        "6 usable images, 99 x 90 to 240 x 180, for 128 pixels",
        "buckets: 128 x 128 (1 image), 144 x 112 (5 images)",
        "cut off: 4 % of an image on average, 9 % of small.png",
    ]


def test_refusals_come_first_with_the_warnings(tmp_path, capsys):
    folder = fill(tmp_path / "set", a=scene(0), b=as_jpeg(scene(0), 40))
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "a.txt").write_text(" \n")
    status, lines = check(capsys, folder, "--placeholder_token", "<x>", "--resolution", "64", "--output", tmp_path / "sheet.png")
    assert status == 2
    assert [line.split(":")[0] for line in lines if not line.startswith(" ")][:3] == ["error", "error", "warning"]
    assert "a.txt: contains no caption" in lines[0] and "cut.jpg" in lines[2] and "nearly identical" in "".join(lines[4:])
    assert any("training would not start: 2 to fix" in line for line in lines)
    assert (tmp_path / "sheet.png").exists()


def test_many_of_a_kind_are_counted(tmp_path, capsys):
    folder = fill(tmp_path / "set", **{f"{number:02}": scene(number, 32, 24) for number in range(14)})
    status, lines = check(capsys, folder)
    assert status == 0 and "08.png, 09.png and 4 more" in lines[0]


def test_captions_too_long_for_the_text_encoder(tmp_path, capsys, tiny_epsilon):
    folder = fill(tmp_path / "set", a=scene(0, 80, 80), b=scene(1, 80, 80), c=scene(2, 80, 80))
    (folder / "a.txt").write_text("cat " * 75)
    (folder / "b.txt").write_text("cat " * 76)
    (folder / "c.txt").write_text("cat")
    base = ("--pretrained_model_name_or_path", tiny_epsilon, "--resolution", 64)
    status, lines = check(capsys, folder, *base)
    reported = "warning: longer than the 77 tokens that the text encoder reads at once, so read in chunks, as infer.py does: "
    assert status == 0 and reported + "b.png (78 tokens)" in lines
    (folder / "b.txt").write_text("cat " * 1201)
    status, lines = check(capsys, folder, *base)
    assert status == 2 and sum(line.startswith("error") for line in lines) == 1
    assert "(b.png): is too long: 1203 tokens, more than 1202" in lines[0] and len(lines[0]) < 250
    (folder / "b.txt").write_text("cat")
    (folder / "a.txt").write_text("cat " * 70 + "<x><X>")
    (folder / "b.txt").write_text("<x>")
    (folder / "c.txt").write_text("<x>")
    for vectors, expected in ((2, False), (3, True)):
        status, lines = check(capsys, folder, *base, "--placeholder_token", "<x>", "--num_vectors", vectors)
        assert status == 0 and any(line.startswith(reported) for line in lines) == expected
    with_prompt = (*base, "--captions", "prompt", "--instance_prompt", "a " * 80, "--validation_prompt", "dog " * 80)
    lines = check(capsys, folder, *with_prompt)[1]
    assert reported + "validation_prompt (82 tokens), a.png, b.png, c.png (82 tokens)" in lines
    status, lines = check(capsys, folder, "--resolution", 64, "--instance_prompt", "cat", "--captions", "prompt",
                          "--pretrained_model_name_or_path", "somebody/model", "--validation_prompt", "dog " * 80)  # fmt: skip
    assert status == 0 and reported + "validation_prompt (82 tokens)" in lines


def test_tokens_are_counted_as_the_model_counts_them(tiny_epsilon):
    from customize.families import load, locate

    source = locate(str(tiny_epsilon))
    family = load(source)
    import torch

    family.text_encoders[0].add_tokens("<x>", torch.zeros(3, 32))
    family.text_encoders[0].add_tokens("sks2", torch.zeros(2, 32))
    random = np.random.default_rng(0)
    pieces = ["cat", "dog", "zebra", "<x>", "<X>,", "ä", "sks2", ",", "...", "don't", "\N{GRINNING FACE}", "7", "<x><x>"]
    texts = [" ".join(random.choice(pieces, random.integers(5, 40))) for _ in range(200)]
    by_family = [text for text in texts if family.text_encoders[0].words_beyond_the_end(text)]
    found = too_long(STABLE_DIFFUSION.text_limits(source), texts, {"<x>": 3, "sks2": 2})
    assert [text for text, _, _ in found] == by_family
    assert 20 < len(by_family) < 180
    for text, number, limit in found:
        assert (
            number
            == len(family.tokenizer(family.text_encoders[0].expand(text), truncation=False, verbose=False).input_ids)
            > limit.at_once
            == 77
        )


def test_resolution_of_a_base_model(tiny_epsilon):
    from customize.families import locate

    assert STABLE_DIFFUSION.resolution(locate("demo")) == 64
    assert STABLE_DIFFUSION.resolution(locate(str(tiny_epsilon))) == 16
    assert STABLE_DIFFUSION.resolution(Source("somebody/model")) is None


def test_a_config_is_checked_as_its_command_would(tmp_path, capsys, monkeypatch, tiny_epsilon):
    folder = fill(tmp_path / "set", a=scene(0), b=scene(1))
    common = f'pretrained_model_name_or_path = "{tiny_epsilon}"\noutput_dir = "{tmp_path / "out"}"\n'
    inversion = f'placeholder_token = "<x>"\ninitializer_token = "toy"\ntrain_data_dir = "{folder}"\n'
    for name, text in {
        "ti": common + inversion,
        "db": common + f'instance_prompt = "sks"\ninstance_data_dir = "{folder}"\n',
    }.items():
        (tmp_path / f"{name}.toml").write_text(text)
        assert check(capsys, tmp_path / f"{name}.toml") == (
            0,
            [
                "0 errors, 0 warnings; training would start",
                "2 usable images, 240 x 180, for 16 pixels",
                "cut off: 24 % of each image",
            ],
        )
        status, lines = check(capsys, tmp_path / f"{name}.toml", "--learning_rate=-1", "--rezolution=8")
        assert status == 2 and "error: --learning_rate: " in lines[0] and "did you mean resolution" in "".join(lines)
    status, lines = check(capsys, tmp_path / "ti.toml", "--placeholder_token", "photo")
    assert status == 2 and "is already a word of the model" in lines[0]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.toml").touch()  # anybody's
    assert check(capsys, tmp_path / "db.toml")[0] == 0
    (tmp_path / "out" / "config.toml").unlink()
    with ownership.recording(tmp_path / "out"):
        files.write_text(tmp_path / "out/config.toml", "")
    assert "already contains a run" in check(capsys, tmp_path / "db.toml")[1][0]
    for target in ("nothing", "--resolution", str(tmp_path / "set" / "a.png")):
        assert check(capsys, target)[0] == 2
    assert check(capsys)[0] == 2 and check(capsys, "--help")[0] == 0


def test_the_sheet_shows_pairs_and_blurred_images(tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    folder = fill(tmp_path / "one", a=scene(0), b=as_jpeg(scene(0), 40), c=soft(scene(1), 4), d=scene(2))
    status, lines = check(capsys, folder, "--resolution", 128, "--output", sheet)
    assert status == 0 and lines[-1].startswith(f"{sheet}: 2 of 2 rows")
    pixels = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    for name in ("a", "b", "c"):
        shown = np.asarray(open_image(folder / f"{name}.png")).astype(int)
        assert any(np.array_equal(pixels[top : top + 180, left : left + 240], shown) for top, left in corners(pixels, shown))
    sheet.unlink()
    status, lines = check(capsys, fill(tmp_path / "two", d=scene(2), e=scene(3)), "--resolution", 128, "--output", sheet)
    assert status == 0 and "no near-duplicate or blurred images" in lines[-1] and not sheet.exists()


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("sheet.jpg", "end in .png"), ("sheet", "end in .png"), ("set/a.png", "image folder"), ("set/new.png", "image folder"),
        ("mine.png", "not written by this"), ("folder.png", "not written by this"), ("x" * 300 + ".png", "255 bytes"),
        ("mine.png/sheet.png", "is a file"), ("link.png", "not written by this"),
        ("bomb.png", "not written by"), ("pipe.png", "not written by"),
    ],
)  # fmt: skip
def test_a_sheet_replaces_no_other_file(name, fault, tmp_path, capsys):
    folder = fill(tmp_path / "set", a=scene(0), b=as_jpeg(scene(0), 40))
    scene(1).save(tmp_path / "mine.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "mine.png")
    (tmp_path / "bomb.png").write_bytes(corpus.refused()["bomb_30000.png"])
    os.mkfifo(tmp_path / "pipe.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    status, lines = check(capsys, folder, "--resolution", 128, "--output", tmp_path / name)
    assert status == 2 and any(fault in line for line in lines), lines
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_sheet_replaces_an_earlier_one(tmp_path, capsys):
    folder = fill(tmp_path / "set", a=scene(0), b=as_jpeg(scene(0), 40))
    for _ in range(2):
        assert check(capsys, folder, "--resolution", 128, "--output", tmp_path / "sheet.png")[0] == 0


def corners(pixels: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Where the first row's first pixels of a picture are."""
    inside = pixels[: pixels.shape[0] - shown.shape[0] + 1, : pixels.shape[1] - shown.shape[1] + 1]
    return np.argwhere((inside == shown[0, 0]).all(-1))[:200_000]


# one mechanism


def test_a_run_prints_the_same_warnings_as_check(tmp_path):
    folder = fill(tmp_path / "set", a=scene(0), b=as_jpeg(scene(0), 40), c=soft(scene(1), 3))
    settings = DreamBoothSettings(instance_prompt="x", instance_data_dir=str(folder), resolution=128, output_dir="none")
    report = preflight.examine(settings)
    assert report.problems == ()
    assert preflight.check(settings)[2] == report.examples
    assert report.examples.notes == (
        "these images are nearly identical: a.png and b.png",
        "blurred (no sharp edge at 128 pixels): c.png",
    )


def test_each_image_is_read_once(tmp_path, monkeypatch):
    folder = fill(tmp_path / "set", **{f"p{seed}": scene(seed) for seed in range(9)})
    read, measured = [], []
    monkeypatch.setattr(
        one_example, "open_image", lambda *source, **more: (read.append(source[1]), open_image(*source, **more))[1]
    )
    monkeypatch.setattr(checked_images, "measure", lambda *given: (measured.append(given), measure(*given))[1])
    examples = load_examples(DreamBoothSettings(instance_prompt="x", instance_data_dir=str(folder)))
    assert sorted(read) == sorted(str(each.source) for each in examples.instances) and len(measured) == 9
    assert [each.name for each in examples.instances] == [f"p{seed}.png" for seed in range(9)]


def test_class_images_are_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(checked_images, "measure", lambda *given: pytest.fail("measured"))
    examples = data.load_class_examples(fill(tmp_path / "set", a=scene(0)), "a cat")
    assert examples[0].features is None and examples[0].role == "class"


def test_warnings_of_libraries_stay_silent_in_all_threads(tmp_path, recwarn):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(30):
        broken = {"exif": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 30}
        (folder / f"{number}.png").write_bytes(corpus.encoded(scene(number, 40, 30), "PNG", **broken))
    load_examples(DreamBoothSettings(instance_prompt="x", instance_data_dir=str(folder)))
    assert not recwarn.list


# the corpus


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_every_refused_image_is_named_once(tmp_path):
    """In a process of its own: within 300 MiB beyond the imports, nothing on standard error, torch not imported."""
    folder = put(tmp_path / "set", corpus.refused())
    names = [*corpus.refused(), *corpus.put_special_files(folder)]
    (folder / "good.png").write_bytes(corpus.encoded(corpus.PLAIN, "PNG"))
    before = {path: path.lstat()[:7] + (path.lstat().st_mtime_ns,) for path in folder.iterdir()}
    code = """
import resource, sys
from customize.cli import check as doctor
from customize.training import preflight
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
status = doctor.main([sys.argv[1], "--resolution", "64", "--pretrained_model_name_or_path", "somebody/model"])
print(status, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) // 1024 < 300)
print([name for name in ("torch", "diffusers", "datasets") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=300, cwd=ROOT, stdin=subprocess.DEVNULL
    )
    assert done.stderr == ""
    *lines, facts_line, modules = done.stdout.splitlines()
    output = [line for line in lines if line.startswith("error: ")]
    assert sorted(line.split(": ")[1] for line in output) == sorted(str(folder / name) for name in names)
    assert (facts_line, modules) == ("2 True", "[]")
    assert {path: path.lstat()[:7] + (path.lstat().st_mtime_ns,) for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", [*corpus.refused(), "pipe.png", "socket.png", "device.png", "loop.png", "dangling.png"])
def test_each_refused_image_is_refused_alone(tmp_path, name):
    """A pipe without a writer must not be waited for."""
    if name in corpus.refused():
        put(tmp_path / "set", {name: corpus.refused()[name]})
    else:
        (tmp_path / "all").mkdir()
        (tmp_path / "set").mkdir()
        corpus.put_special_files(tmp_path / "all")
        os.rename(tmp_path / "all" / name, tmp_path / "set" / name)
    settings = DreamBoothSettings(instance_prompt="x", instance_data_dir=str(tmp_path / "set"))
    outcome: list[str] = []

    def look():
        try:
            load_examples(settings)
        except InputError as error:
            outcome.extend(problem.where for problem in error.problems)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(20)
    assert outcome == [str(tmp_path / "set" / name)]


def put_accepted(folder: Path) -> Path:
    folder.mkdir()
    for name, (content, _, _) in corpus.accepted().items():
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(content)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_accepted_images_have_the_expected_pixels(tmp_path, capsys):
    folder = put_accepted(tmp_path / "set")
    examples = load_examples(DreamBoothSettings(instance_prompt="x", instance_data_dir=str(folder))).instances
    expected = corpus.accepted()
    assert [os.fsencode(example.name) for example in examples] == sorted(expected)
    for example in examples:
        _, pixels, tolerance = expected[os.fsencode(example.name)]
        shown = np.asarray(example.open()).astype(int)
        assert shown.shape == pixels.shape and np.abs(shown - pixels).max() <= tolerance, example.name
    status, lines = check(capsys, folder, "--resolution", 32)
    assert status == 0 and all(line.isprintable() for line in lines)


def test_ignored_files_change_nothing_and_are_counted(tmp_path, capsys):
    folder = fill(tmp_path / "set", a=scene(0), b=scene(1))
    settings = DreamBoothSettings(instance_prompt="x", instance_data_dir=str(folder), resolution=64)
    before = load_examples(settings, 64)
    reported = corpus.put_ignored(folder)
    after = load_examples(settings, 64)
    assert after.instances == before.instances and before.notes == ()
    others = [name for name in reported if name != "alone.txt"]
    assert after.notes == (
        f"{folder}: text files that do not belong to an image in this folder, not used (1): alone.txt",
        f"{folder}: ignored, not images ({len(others)}): {', '.join(others)}",
    )
    assert check(capsys, folder, "--resolution", 64)[0] == 0


def test_a_thousand_names_cost_a_thousand_reads_and_one_table_of_pairs(monkeypatch):
    """Counted, not timed: pairs are compared in one call for each picture."""
    calls = []
    count = np.bitwise_count
    monkeypatch.setattr(similarity.np, "bitwise_count", lambda values: (calls.append(len(values)), count(values))[1])
    random = np.random.default_rng(0)
    prints = [Features(int(random.integers(1 << 63)), bytes(48), 1.0) for _ in range(1000)]
    assert near_duplicates(prints) == [] and calls == list(range(999, 0, -1))


def test_textual_inversion_from_a_folder_of_sheets(tmp_path):
    """A run whose word is in no caption is refused by the doctor as by the run."""
    folder = fill(tmp_path / "set", a=scene(0), b=scene(1))
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text("a toy")
    settings = TextualInversionSettings(placeholder_token="<x>", initializer_token="toy", train_data_dir=str(folder))
    with pytest.raises(InputError) as caught:
        load_examples(settings)
    assert preflight.examine(settings).problems[-len(caught.value.problems) :] == caught.value.problems


def test_notes_on_many_images_are_bounded(tmp_path, monkeypatch):
    """One line for all groups of identical images, one for all pairs, one for all JSON files without captions."""
    one = Example("", ("a",), "instance", tmp_path, (64, 64), "", Features(0, bytes(48), 1.0))
    instances = [replace(one, name=f"{number}.png", digest=str(number % 6)) for number in range(12)]
    found = Findings()
    note_peculiarities(instances, 64, found)
    named = ", ".join(f"{n}.png and {n + 6}.png" for n in range(5))
    assert found.notes[0] == f"identical images, in 6 groups: {named} and 1 more"
    assert len(found.notes) == 2 and found.notes[1].endswith("0.png and 5.png and 55 more")
    monkeypatch.setattr(similarity, "MOST_PAIRS", 20)
    pairs = [(first, second) for first in (0, 1) for second in range(first + 1, 12)]
    assert near_duplicates([example.features for example in instances]) == pairs
    names = [f"{number}.json" for number in range(7)]
    for name in names:
        (tmp_path / name).write_text("{}")
    found = Findings()
    assert read_captions(tmp_path, [f"{number}.png" for number in range(7)], names, "text", found).of == {}
    assert found.notes == [f"{tmp_path / '0.json'}: contains no caption under text, caption, prompt or tags; so do 6 more"]
