"""What the check of images found is kept by their bytes: a known file is not decoded again, and any other is."""

import json
from dataclasses import replace

import pytest
from kit import settings_for, write_images
from PIL import Image

from customize.data.examples import examine_examples
from customize.data.images import checked_images
from customize.data.images.checked_images import NAME, CheckedImages, Facts
from customize.data.images.similarity import Features
from customize.training.preflight import check


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images that were decoded."""
    names = []
    plain = Facts.of
    monkeypatch.setattr(Facts, "of", lambda source, name, resolution: names.append(name[-5:]) or plain(source, name, resolution))
    return names


@pytest.fixture
def folder(tmp_path):
    """Four images: one is grey, one grey-blue with a colour remark, and one a copy of another."""
    folder = write_images(tmp_path / "pictures", 2, (40, 32))
    Image.new("CMYK", (40, 32), (10, 20, 30, 40)).save(folder / "2.jpg")
    (folder / "3.png").write_bytes((folder / "0.png").read_bytes())
    return folder


def settings_of(base, folder, tmp_path, **changes):
    changes = {"latents_cache_dir": str(tmp_path / "cache"), "resolution": 32, **changes}
    return settings_for("lora", base, folder, tmp_path / "run", **changes)


def test_a_second_check_decodes_only_other_bytes_and_finds_the_same(decoded, folder, tiny_epsilon, tmp_path):
    settings = settings_of(tiny_epsilon, folder, tmp_path)
    plain, problems = examine_examples(settings.model_copy(update={"latents_cache_dir": None}), 32)
    assert (
        not problems and sorted(decoded) == ["0.png", "1.png", "2.jpg", "3.png"] and any("CMYK" in note for note in plain.notes)
    )
    first, _ = examine_examples(settings, 32)
    assert not (tmp_path / "cache").exists()  # a check alone writes nothing
    first.checked.save()
    decoded.clear()
    second, _ = examine_examples(settings, 32)
    assert decoded == [] and plain.instances == first.instances == second.instances
    assert plain.notes == first.notes == second.notes
    before = (tmp_path / "cache" / NAME).stat().st_mtime_ns
    second.checked.save()
    assert (tmp_path / "cache" / NAME).stat().st_mtime_ns == before
    examine_examples(settings, 16)  # sharpness is measured at the resolution
    assert len({*decoded}) == 4 or len(decoded) >= 3
    decoded.clear()
    Image.new("RGB", (40, 32)).save(folder / "1.png")
    changed, _ = examine_examples(settings, 32)
    assert decoded == ["1.png"] and changed.instances[1].digest != first.instances[1].digest


def test_a_known_image_that_is_cut_off_is_found(folder, tiny_epsilon, tmp_path):
    settings = settings_of(tiny_epsilon, folder, tmp_path)
    check(settings)[2].checked.save()
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"1\.png.*damaged"):
        check(settings)
    (folder / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1\.png.*is empty \(0 bytes\)"):
        check(settings)
    (folder / "1.png").write_bytes(whole)
    check(settings)


@pytest.mark.parametrize("damage", ["{", "[]", '{"rules": 1}', "short", "digest", "size", "colours"])
def test_a_damaged_file_is_reported_and_not_used(damage, decoded, folder, tiny_epsilon, tmp_path, terminal, capsys):
    settings = settings_of(tiny_epsilon, folder, tmp_path)
    expected = check(settings)[2]
    expected.checked.save()
    path = tmp_path / "cache" / NAME
    content = json.loads(path.read_text())
    entry = next(iter(content["images"].values()))
    change = {
        "short": lambda: entry.clear(),
        "digest": lambda: entry.__setitem__(2, "00"),
        "size": lambda: entry.__setitem__(0, -1),
    }
    change["colours"] = lambda: entry.__setitem__(3, [1, "00", 1.0])
    if damage in change:
        change[damage]()
        path.write_text(json.dumps(content))
    else:
        path.write_text(damage)
    decoded.clear()
    found = check(settings)[2]
    assert found.instances == expected.instances and len(decoded) >= 3
    assert ("is damaged" in capsys.readouterr().out) == (damage != '{"rules": 1}')


def test_a_file_instead_of_the_folder_is_one_problem_and_no_note(folder, tiny_epsilon, tmp_path, terminal, capsys):
    settings = settings_of(tiny_epsilon, folder, tmp_path)
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(ValueError, match=r"latents_cache_dir: .*cache is a file"):
        check(settings)
    assert capsys.readouterr().out == "" and (tmp_path / "cache").read_text() == "mine"


def test_facts_of_other_rules_are_not_used(decoded, folder, tiny_epsilon, tmp_path, monkeypatch):
    settings = settings_of(tiny_epsilon, folder, tmp_path)
    check(settings)[2].checked.save()
    decoded.clear()
    monkeypatch.setattr(checked_images, "RULES", 2)
    check(settings)
    assert len(decoded) >= 3


def test_facts_survive_their_file():
    features = Features(2**63 + 5, bytes(range(48)), 0.1 + 0.2)
    facts = Facts((3, 4), "0f" * 16, features, ("a remark",))
    for each in (facts, replace(facts, features=None, remarks=())):
        assert Facts.from_json(json.loads(json.dumps(each.as_json()))) == each
    assert CheckedImages.of(None, 7) == CheckedImages(7)
