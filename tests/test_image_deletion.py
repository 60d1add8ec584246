"""Images are deleted on the page: those that customize wrote, unchanged, and nothing of the user."""

from pathlib import Path

import pytest
from PIL import Image

from customize.errors import InputError
from customize.storage import ownership
from customize.storage.atomic import write_image, write_text
from customize.web.pictures import image_deletion, picture_html
from customize.web.pictures.image_gallery import beside, find


@pytest.fixture
def images(tmp_path) -> Path:
    """The folder of a job of two images, with a recording of the first and a sheet."""
    folder = tmp_path / "images/0001-a"
    folder.mkdir(parents=True)
    with ownership.recording(folder) as record:
        record.append({"job": "x", "start": 0, "count": 2, "suffix": ""})
        write_text(folder / "config.toml", 'prompt = "a"\n')
        for number, name in enumerate(("000.png", "001.png", "000-attention.png", "sheet.png")):
            write_image(folder / name, Image.new("RGB", (8, 8), (number, 0, 0)))
        write_text(folder / "000-trace.html", "<h1>")
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def image(folder: Path, name: str):
    return find(folder.parent, f"{folder.name}/{name}")


def test_an_image_goes_with_what_was_recorded_of_it_and_the_folder_with_its_last(images):
    image_deletion.delete([image(images, "000.png")])
    assert names(images) == {"001.png", "sheet.png", "config.toml"}
    image_deletion.delete([image(images, "001.png")])
    assert not images.exists() and images.parent.is_dir()


def test_files_of_the_user_stay(images):
    for name in ("000-notes.txt", "002.png", "notes.txt"):
        (images / name).write_bytes((images / "001.png").read_bytes())
    Image.new("RGB", (8, 8), "red").save(images / "000-attention.png")  # changed by hand
    assert [image_deletion.is_deletable(each) for each in beside(image(images, "000.png"))] == [True, True, False]
    with pytest.raises(InputError, match="was not written by customize"):
        image_deletion.delete(beside(image(images, "000.png")))
    assert len(names(images)) == 9
    image_deletion.delete([image(images, "000.png"), image(images, "001.png")])
    assert names(images) == {"000-notes.txt", "002.png", "notes.txt", "000-attention.png", "sheet.png", "config.toml"}
    (images / "002.png").unlink()
    write = images / "003.png"
    with ownership.recording(images):
        write_image(write, Image.new("RGB", (8, 8)))
    image_deletion.delete([image(images, "003.png")])
    assert names(images) == {"000-notes.txt", "notes.txt", "000-attention.png"}


def test_a_job_that_is_not_finished_keeps_its_settings(images):
    with ownership.recording(images) as record:
        record.append({"job": "y", "start": 2, "count": 9, "suffix": "-002"})
        write_text(images / "config-002.toml", 'prompt = "b"\n')
    image_deletion.delete(beside(image(images, "000.png")))
    assert names(images) == {"config.toml", "config-002.toml", "sheet.png"}


@pytest.mark.parametrize("change", ["no record", "a link", "a record of others", "edited"])
def test_what_is_not_ours_is_not_deletable(images, change):
    if change == "no record":
        (images / ownership.NAME).unlink()
    if change == "a record of others":
        (images / ownership.NAME).write_text("{}\n")
    if change == "edited":
        Image.new("RGB", (8, 8), "red").save(images / "000.png")
    if change == "a link":
        (images / "000.png").unlink()
        (images / "000.png").symlink_to(images / "001.png")
        assert image(images, "000.png") is None
        return
    assert not image_deletion.is_deletable(image(images, "000.png"))
    with pytest.raises(InputError):
        image_deletion.delete([image(images, "000.png")])


def test_the_question_names_what_goes(images):
    html = picture_html.deletion(image(images, "000.png"), 2)
    assert (
        html.startswith("<details><summary>Delete ...")
        and 'data-action="delete" data-image="0001-a/000.png">Delete 000.png<' in html
    )
    assert 'data-action="delete_all"' in html and "delete_all" not in picture_html.deletion(image(images, "000.png"), 1)
