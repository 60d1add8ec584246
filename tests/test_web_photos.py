"""Photos of the page: what is taken, by its content; crops and captions on copies; and no file of the user that changes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from customize.errors import InputError
from customize.teach import look
from customize.web import photo_store
from customize.web.workspace import Workspace


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace beside a home with a folder of photos that is filled by hand."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "ws").mkdir()
    return Workspace(tmp_path / "ws")


def picture(path: Path, size=(60, 40), seed=0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_uploads_are_taken_by_their_content(workspace, tmp_path):
    up = tmp_path / "up"
    good = picture(up / "My Cat.png")
    (up / "My Cat.txt").write_text("a photo of sks cat")
    renamed = up / "renamed.exe"
    renamed.write_bytes(good.read_bytes())
    hostile = {
        "page.png": b"<!doctype html><script>alert(1)</script>", "x.svg": b"<svg onload='alert(1)'/>", "a.zip": b"PK\x03\x04",
        "cut.png": good.read_bytes()[:-300], "lone.txt": b"no image of that name", "p.pt": b"\x80\x02}", "empty.png": b"",
    }  # fmt: skip
    for name, data in hostile.items():
        (up / name).write_bytes(data)
    folder, refused = photo_store.keep(workspace, [str(path) for path in up.iterdir()], "../../etc/Mein Kätzchen")
    assert folder == workspace.photos / "etc-mein-katzchen" and sorted(contents(folder)) == [
        "my-cat.png",
        "my-cat.txt",
        "renamed.png",
    ]
    assert contents(folder)["my-cat.png"] == good.read_bytes()
    assert sorted(line.partition(":")[0] for line in refused) == sorted(hostile)
    assert [photo.name for photo in look(folder).usable] == ["my-cat.png", "renamed.png"]
    assert look(folder).usable[0].captions == ("a photo of sks cat",) and look(folder).left_out == ()
    again, _ = photo_store.keep(workspace, [str(good)], "../../etc/Mein Kätzchen")
    assert again.name == "etc-mein-katzchen-2"
    with pytest.raises(InputError, match="page.png"):
        photo_store.keep(workspace, [str(up / "page.png")], "x")


@pytest.mark.parametrize(
    "name", ["../../home/me.png", "..", "a\0b", "<img src=x onerror=alert(1)>.png", "con.png", ".hidden.png", "ü" * 300]
)
def test_a_name_is_reduced_to_plain_letters(workspace, tmp_path, name):
    folder, _ = photo_store.keep(workspace, [str(picture(tmp_path / "up.png"))], name)
    assert folder.parent == workspace.photos and folder.name.isascii() and not set(folder.name) & set("<>/\\.\0")


def test_crops_and_captions_change_no_file_of_the_user(workspace):
    mine = workspace.photos / "mine"
    picture(mine / "cat.jpg", seed=1)
    picture(mine / "cat.png", seed=2)
    (mine / "cat.txt").write_text("of the user")
    before = contents(mine)
    copy = photo_store.own(workspace, mine)
    assert copy != mine and photo_store.own(workspace, copy) == copy
    names = sorted(name for name in contents(copy) if not name.endswith(".txt"))
    for name in names:
        photo_store.captioned(copy, photo_store.cropped(copy, name, 0.5, 0.5, 0.5), "")
    assert contents(mine) == before and len([name for name in contents(copy) if name.endswith(".png")]) == 2
    assert {Image.open(copy / name).size for name in contents(copy)} == {(20, 20)}
    (copy / "notes.txt").write_text("put there by hand")
    assert photo_store.own(workspace, copy) not in (copy, mine)


def test_a_crop_is_the_square_that_was_asked_for(workspace, tmp_path):
    folder, _ = photo_store.keep(workspace, [str(picture(tmp_path / "a.png"))], "a")
    pixels = np.asarray(Image.open(folder / "a.png"))
    assert photo_store.cropped(folder, "a.png", 1.0, 0.0, 0.5) == "a.png"
    assert np.array_equal(np.asarray(Image.open(folder / "a.png")), pixels[0:20, 40:60])


@pytest.mark.parametrize("centre", [(0.5, 0.5), (0, 1), (-3, 9), (0.33, 0.71)])
@pytest.mark.parametrize("share", [0, 0.1, 0.77, 1, 5])
def test_a_square_lies_inside(centre, share):
    left, top, right, bottom = photo_store.square((60, 40), *centre, share)
    assert 0 <= left < right <= 60 and 0 <= top < bottom <= 40 and right - left == bottom - top


def test_folders_elsewhere_are_not_read(workspace, tmp_path):
    inside = picture(tmp_path / "home/photos/a.png").parent
    assert photo_store.allowed(workspace, str(inside)) == inside and photo_store.allowed(workspace, "~/photos") == inside
    (workspace.folder / "link").symlink_to("/etc")
    for name in ("/etc", "../..", "link", "~nobody/x", "a\0b/../../../etc", "~/../../etc", f"{inside}/../../../.."):
        with pytest.raises(InputError, match="neither in this workspace"):
            photo_store.allowed(workspace, name)
    for name in ("../a.png", "/etc/passwd", "", ".", "link/passwd", "none.png"):
        with pytest.raises(InputError, match="there is no"):
            photo_store.member(workspace.folder, name)
