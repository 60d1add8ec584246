"""Real-world folders: what is read, refused and reported; nothing in them is changed."""

import io
import json
import os
import struct
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corpus import chunk, encoded
from PIL import Image
from test_colour import profile

from customize.data.examples import examine_examples
from customize.methods import DreamBoothSettings

PIXELS = [np.random.default_rng(seed).integers(0, 256, (32, 40, 3), dtype=np.uint8) for seed in range(6)]
PNGS = [encoded(pixels, "PNG") for pixels in PIXELS]
JPEGS = [encoded(pixels, "JPEG") for pixels in PIXELS]
PROMPT = "a photo of sks dog"


def heic() -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PIXELS[0])).save(buffer)
    return buffer.getvalue()


def grown(data: bytes, *chunks: bytes) -> bytes:
    return data[:33] + b"".join(chunks) + data[33:]


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[274] = orientation
    return encoded(PIXELS[0], "JPEG", exif=tags)


def movie(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(64)


def images(*names: str) -> dict[str, bytes]:
    return {name: PNGS[number % len(PNGS)] for number, name in enumerate(names)}


AB = images("a.png", "b.png")
NFD = unicodedata.normalize("NFD", "Café été")
NFC = unicodedata.normalize("NFC", "Café été")

GOOD: dict[str, tuple[dict[str, bytes | str], int, list[str]]] = {  # files, number of images, expected notes
    "names with blanks": (images("a b.png", " c.png", "d .png"), 3, []),
    "names in other scripts": (images("犬.png", "كلب.png", "собака.png", "😀.png"), 4, []),
    "names with quotes": (images("it's.png", 'a"b.png', "$(x).png", "-rf.png"), 4, []),
    "names of many dots": (images("a.b.c.png", "...d.png"), 1, ["only one image"]),
    "extensions in capitals": ({"A.JPG": JPEGS[0], "B.Jpeg": JPEGS[1], "C.PNG": PNGS[2]}, 3, []),
    "phones' jfif and pjpeg": ({"a.jfif": JPEGS[0], "b.pjpeg": JPEGS[1], "c.jpe": JPEGS[2]}, 3, []),
    "a PNG called jpg": ({"a.jpg": PNGS[0], "b.jpg": PNGS[1]}, 2, []),
    "a WebP called jpg": ({"a.jpg": encoded(PIXELS[0], "WEBP", lossless=True), "b.png": PNGS[1]}, 2, []),
    "an AVIF called jpg": ({"a.jpg": encoded(PIXELS[0], "AVIF", quality=100), "b.png": PNGS[1]}, 2, []),
    "HEIC beside JPEG": ({"IMG_1.HEIC": b"heic", "IMG_2.JPG": JPEGS[1]}, 2, []),
    "HEIC called jpg": ({"a.jpg": b"heic", "b.jpg": JPEGS[1]}, 2, []),
    "live photos": (
        {"IMG_1.HEIC": b"heic", "IMG_1.MOV": movie(b"qt  "), "b.png": PNGS[1]},
        2,
        ["ignored, not images (1): IMG_1.MOV"],
    ),
    "edits of a phone": ({"IMG_1.JPG": JPEGS[0], "IMG_E1.JPG": JPEGS[1], "IMG_1.AAE": "<?xml"}, 2, ["IMG_1.AAE"]),
    "motion photo": ({"a.jpg": JPEGS[0] + movie(b"mp42"), "b.jpg": JPEGS[1]}, 2, []),
    "sideways": ({"a.jpg": exif(6), "b.jpg": exif(3)}, 2, []),
    "Display P3": (
        {"a.png": encoded(PIXELS[0], "PNG", icc_profile=profile("DisplayP3-v4")), "b.png": PNGS[1]},
        2,
        ["colours converted from", "to sRGB (1): a.png"],
    ),
    "several Display P3": (
        {n: encoded(p, "PNG", icc_profile=profile("DisplayP3-v4")) for n, p in zip(("a.png", "b.png"), PIXELS, strict=False)},
        2,
        ["to sRGB (2): a.png, b.png"],
    ),
    "sRGB profiles": ({"a.png": encoded(PIXELS[0], "PNG", icc_profile=profile("sRGB-v4")), "b.png": PNGS[1]}, 2, []),
    "a broken profile": (
        {"a.png": encoded(PIXELS[0], "PNG", icc_profile=b"junk" * 50), "b.png": PNGS[1]},
        2,
        ["colours treated as sRGB: its colour profile is damaged (1): a.png"],
    ),
    "CMYK from a print shop": (
        {"a.jpg": encoded(Image.fromarray(PIXELS[0]).convert("CMYK"), "JPEG"), "b.png": PNGS[1]},
        2,
        ["CMYK converted only roughly, without a colour profile"],
    ),
    "CMYK with a profile": (
        {
            "a.jpg": encoded(Image.fromarray(PIXELS[0]).convert("CMYK"), "JPEG", icc_profile=profile("CGATS001Compat-v2-micro")),
            "b.png": PNGS[1],
        },
        2,
        ["converted from"],
    ),
    "linear PNG": (
        {"a.png": grown(PNGS[0], chunk(b"gAMA", struct.pack(">I", 100000))), "b.png": PNGS[1]},
        2,
        ["gamma 1 to sRGB"],
    ),
    "HDR PNG": ({"a.png": grown(PNGS[0], chunk(b"cICP", bytes([9, 16, 0, 1]))), "b.png": PNGS[1]}, 2, ["HDR (PQ)"]),
    "usual gamma": ({"a.png": grown(PNGS[0], chunk(b"gAMA", struct.pack(">I", 45455))), "b.png": PNGS[1]}, 2, []),
    "grey and one bit": ({"a.png": encoded(PIXELS[0][..., 0], "PNG"), "b.png": encoded(PIXELS[1][..., 0] > 99, "PNG")}, 2, []),
    "sixteen bits": ({"a.png": encoded(PIXELS[0][..., 0].astype(np.uint16) * 257, "PNG"), "b.png": PNGS[1]}, 2, []),
    "transparent": ({"a.png": encoded(np.dstack([PIXELS[0], PIXELS[1][..., :1]]), "PNG"), "b.png": PNGS[1]}, 2, []),
    "Windows' leftovers": (
        {**AB, "Thumbs.db": b"\xd0\xcf\x11", "desktop.ini": "[x]"},
        2,
        ["not images (2): Thumbs.db, desktop.ini"],
    ),
    "macOS's leftovers": ({**AB, ".DS_Store": b"x", "._a.png": b"x"}, 2, []),
    "an archive beside": ({**AB, "all.zip": b"PK\3\4"}, 2, ["ignored, not images (1): all.zip"]),
    "a README": ({**AB, "README.txt": "my dog", "LICENSE.txt": "mine"}, 2, ["not used (2): LICENSE.txt, README.txt"]),
    "images without an extension": ({**AB, "photo1": PNGS[2]}, 2, ["images without an image extension", "(1): photo1"]),
    "an odd extension": ({**AB, "c.jpg_large": JPEGS[2]}, 2, ["images without an image extension", "c.jpg_large"]),
    "regularisation within": ({**AB, "reg/c.png": PNGS[2]}, 2, ["ignored, not images (1): reg"]),
    "trigger nowhere": (
        {**AB, "a.txt": "a dog", "b.txt": "dog, grass"},
        2,
        ["no caption contains sks from instance_prompt (0 of 2 images)"],
    ),
    "animations and a GIF called png": (
        {
            **AB,
            "c.png": encoded(PIXELS[2], "GIF"),
            **{
                name: encoded(PIXELS[place], name[2:].upper(), save_all=True, append_images=[Image.fromarray(PIXELS[1])])
                for place, name in enumerate(("d.webp", "e.avif", "f.gif"), 3)
            },
        },
        6,
        ["an animation, of which only the first frame is used (3): d.webp, e.avif, f.gif"],
    ),
    "trigger in some": ({**AB, "a.txt": "a sks dog", "b.txt": "dog"}, 2, ["in the captions of 1 of 2 images, but not of: b.png"]),
    "trigger with a comma": ({**AB, "a.txt": "sks, dog", "b.txt": "(Sks:1.2) dog"}, 2, []),
    "tags of a booru": ({**AB, "a.txt": "sks, 1girl, solo, :d, ^_^", "b.txt": "sks, <o> <o>, \\(x\\)"}, 2, []),
    "half with captions": ({**AB, "a.txt": "sks"}, 2, ["no caption for 1 of 2 images, instance prompt instead: b.png"]),
    "numbered otherwise": (
        {**images("IMG_0001.png", "IMG_0002.png"), "IMG_1.txt": "sks", "IMG_2.txt": "sks"},
        2,
        ["(2): IMG_1.txt, IMG_2.txt"],
    ),
    "caption and tags": ({**AB, "a.txt": "sks", "a.caption": "x", "b.txt": "sks"}, 2, ["not used (1): a.caption"]),
    "Takeout's json": ({**AB, "a.png.json": '{"title": "a.png", "description": ""}'}, 2, ["a.png.json"]),
    "json that is broken": ({**AB, "a.json": "{"}, 2, ["contains no caption under text"]),
    "a log in csv": ({**AB, "log.csv": "step,loss\n1,2\n"}, 2, ["not used (1): log.csv"]),
    "a table in UTF-8 of Excel": ({**AB, "metadata.csv": "\ufefffile_name,text\r\na.png,sks é\r\nb.png,sks\r\n"}, 2, []),
    "a table with a quoted line break": ({**AB, "metadata.csv": 'file_name,text\na.png,"sks\nred"\nb.png,sks\n'}, 2, []),
    "a caption of 200 words": ({**AB, "a.txt": "sks " + "dog " * 200, "b.txt": "sks"}, 2, []),
    "NFD names, NFC captions": ({**images(f"{NFD}.png", "b.png"), f"{NFC}.txt": "sks", "b.txt": "sks"}, 2, []),
    "a trailing blank": ({**AB, "a.txt": " sks \r\n\r\n", "b.txt": "sks\t"}, 2, []),
    "one image": ({"a.png": PNGS[0]}, 1, ["there is only one image"]),
    "twice the same": ({"a.png": PNGS[0], "b.png": PNGS[0], "c.png": PNGS[1]}, 3, ["identical: a.png, b.png"]),
}

BAD: dict[str, tuple[dict[str, bytes | str], str]] = {  # files, what the one report says
    "nothing": ({}, "contains no images"),
    "only texts": ({"a.txt": "sks"}, "contains no images"),
    "only an archive": ({"photos.zip": b"PK\3\4"}, "unpack photos.zip"),
    "only a film": ({"a.mov": movie(b"qt  ")}, "contains no images"),
    "only without extensions": ({"p1": PNGS[0], "p2": PNGS[1]}, "rename them"),
    "kohya's tree": ({"img/10_sks dog/a.png": PNGS[0]}, "img/10_sks dog? (it contains 1 image)"),
    "one folder down": ({"photos/a.png": PNGS[0], "photos/b.png": PNGS[1]}, "photos? (it contains 2 images)"),
    "two concepts": ({"cat/a.png": PNGS[0], "dog/a.png": PNGS[1], "dog/b.png": PNGS[2]}, "dog? (it contains 2 images, or 1 more"),
    "images/ within": ({"images/a.png": PNGS[0], "README.txt": "x"}, "images? (it contains 1 image)"),
    "a web page called jpg": ({**AB, "c.jpg": "<!DOCTYPE html><html>404"}, "c.jpg: is a web page (HTML)"),
    "a Git LFS pointer": (
        {**AB, "c.png": "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"},
        "c.png: is a Git LFS pointer",
    ),
    "a PDF called jpg": ({**AB, "c.jpg": b"%PDF-1.7\n%\xe2\xe3"}, "is a PDF document"),
    "a film called jpg": ({**AB, "c.jpg": movie(b"isom")}, "is an MP4 video"),
    "a QuickTime film called jpg": ({**AB, "c.jpg": movie(b"qt  ")}, "is a QuickTime video"),
    "Photoshop called png": ({**AB, "c.png": b"8BPS\0\1" + bytes(40)}, "is a Photoshop file"),
    "a zip called jpg": ({**AB, "c.jpg": b"PK\3\4" + bytes(40)}, "is a zip archive"),
    "JPEG XL called jpg": ({**AB, "c.jpg": b"\xff\x0a" + bytes(40)}, "is a JPEG XL image"),
    "Canon's raw called jpg": ({**AB, "c.jpg": movie(b"crx ")}, "is a camera's raw file"),
    "Fuji's raw called jpg": ({**AB, "c.jpg": b"FUJIFILMCCD-RAW 0201" + bytes(40)}, "is a camera's raw file"),
    "a text called jpg": ({**AB, "c.jpg": "this is my dog\n"}, "is a text file"),
    "a raw file": ({**AB, "c.CR2": b"II*\0"}, "is an image in an unsupported format (.cr2)"),
    "a cut GIF": ({**AB, "c.gif": b"GIF89a"}, "c.gif: is not an image in a supported format"),
    "an empty file": ({**AB, "c.jpg": b""}, "c.jpg: is empty (0 bytes)"),
    "a half download": ({**AB, "c.jpg": JPEGS[2][: len(JPEGS[2]) // 2]}, "c.jpg: is damaged"),
    "a half download of PNG": ({**AB, "c.png": PNGS[2][: len(PNGS[2]) // 2]}, "c.png: is damaged"),
    "a cut HEIC": ({**AB, "c.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"}, "c.heic: is damaged"),
    "a panorama": ({**AB, "c.png": encoded(np.zeros((4, 90, 3), np.uint8), "PNG")}, "an aspect ratio of 1:10 or more"),
    "an empty caption": ({**AB, "a.txt": " \n", "b.txt": "sks"}, "a.txt: contains no caption"),
    "a caption in cp1252": (
        {**AB, "a.txt": "sks, café".encode("cp1252")},
        "it is Windows-1252 now if the line reads 'sks, café'",
    ),
    "a caption in Shift JIS": ({**AB, "a.txt": "犬 sks".encode("shift_jis")}, "a.txt: is not UTF-8 in line 1"),
    "a caption without its mark": ({**AB, "a.txt": "sks".encode("utf-16-le")}, "a.txt: contains zero bytes"),
    "captions in two places": (
        {**AB, "a.txt": "sks", "metadata.csv": "file_name,text\nb.png,sks\n"},
        "captions in more than one place",
    ),
    "tables that differ": (
        {**AB, "metadata.csv": "file_name,text\na.png,x\n", "captions.txt": "a.png|y\n"},
        "captions in more than one place",
    ),
    "a row without an image": (
        {**AB, "metadata.csv": "file_name,text\nc.png,sks\na.png,sks\nb.png,sks\n"},
        "line 2: refers to a missing image",
    ),
    "a row without a caption": (
        {**AB, "metadata.jsonl": '{"file_name":"a.png","text":null}'},
        "has no caption in the column 'text'",
    ),
    "a table without names": ({**AB, "metadata.csv": "id,words\n1,sks\n"}, "has no column file_name (its columns: id, words)"),
    "an absolute path": ({**AB, "metadata.csv": "file_name,text\n/x/a.png,sks\n"}, "write only 'a.png'"),
    "a path of Windows": ({**AB, "metadata.csv": "file_name,text\nC:\\x\\a.png,sks\n"}, "write only 'a.png'"),
    "a path upwards": ({**AB, "metadata.csv": "file_name,text\n../a.png,sks\n"}, "a path outside the folder"),
    "an address": ({**AB, "metadata.jsonl": '{"file_name":"https://x.org/a.png","text":"sks"}'}, "contains a URL"),
    "a comma too many": ({**AB, "metadata.csv": "file_name,text\na.png,sks, red\n"}, "has more fields than line 1 has columns"),
    "broken JSON lines": ({**AB, "metadata.jsonl": '{"file_name": "a.png", "text": "sks"'}, "line 1: is not JSON"),
    "nested JSON": ({**AB, "metadata.jsonl": "[" * 50_000}, "line 1: is not JSON"),
}


def fill(folder: Path, files: dict[str, bytes | str]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = heic() if content == b"heic" else content
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def look(folder: Path):
    settings = DreamBoothSettings(instance_prompt=PROMPT, instance_data_dir=str(folder))
    before = content(folder)
    found, problems = examine_examples(settings, 16)
    assert content(folder) == before
    for line in (*found.notes, *(f"{each.where}{each.what}{each.remedy}" for each in problems)):
        assert line.isprintable() and "Traceback" not in line
    return found, problems


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in GOOD])
def test_what_is_read(tmp_path, name):
    files, count, reported = GOOD[name]
    found, problems = look(fill(tmp_path / "set", files))
    assert problems == [] and len(found.instances) == count
    notes = [note for note in found.notes if "enlarged" not in note]
    assert all(any(words in note for note in notes) for words in reported), notes
    assert reported or notes == [], notes
    captions = {caption for example in found.instances for caption in example.captions}
    has_words = any(name.lower().endswith((".txt", ".csv", ".jsonl")) and b"sks" in (c.encode() if isinstance(c, str) else c)
                    for name, c in files.items())  # fmt: skip
    assert has_words or captions == {PROMPT} or "trigger" in name


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in BAD])
def test_what_is_refused(tmp_path, name):
    files, words = BAD[name]
    found, problems = look(fill(tmp_path / "set", files))
    assert len(problems) == 1 and words in str(problems[0]), problems
    assert all(example.name in files for example in found.instances)


LINKS: dict[str, tuple[Callable[[Path], object], bool]] = {
    "an image elsewhere": (lambda folder: os.symlink(folder.parent / "other.png", folder / "c.png"), True),
    "a link to a link": (lambda folder: (os.symlink(folder.parent / "other.png", folder.parent / "l.png"),
                                         os.symlink(folder.parent / "l.png", folder / "c.png")), True),
    "a folder elsewhere": (lambda folder: os.symlink(folder.parent, folder / "up"), True),
    "nowhere": (lambda folder: os.symlink("gone.png", folder / "c.png"), False),
    "itself": (lambda folder: os.symlink("c.png", folder / "c.png"), False),
    "a device": (lambda folder: os.symlink("/dev/zero", folder / "c.png"), False),
    "a pipe": (lambda folder: os.mkfifo(folder / "c.png"), False),
    "the password file": (lambda folder: os.symlink("/etc/passwd", folder / "c.png"), False),
    "the password file as caption": (lambda folder: os.symlink("/etc/passwd", folder / "a.txt"), False),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in LINKS])
def test_links(tmp_path, name):
    (tmp_path / "other.png").write_bytes(PNGS[2])
    folder = fill(tmp_path / "set", AB)
    make, fine = LINKS[name]
    make(folder)
    settings = DreamBoothSettings(instance_prompt=PROMPT, instance_data_dir=str(folder))
    found, problems = examine_examples(settings, 16)
    assert len(problems) == (0 if fine else 1) and "root:" not in json.dumps([*found.notes, *map(str, problems)])
    assert (tmp_path / "other.png").read_bytes() == PNGS[2]
