"""The gallery: its commands are sound, and its configuration files say the same."""

import shlex

import pytest

from customize.cli.main import read
from customize.settings.inference import InferenceSettings
from docs.make_gallery import CONFIGS, ENTRIES, HERE, IMAGES, Entry, config, page


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_configs_equal_their_commands(entry: Entry):
    flags, _ = read(InferenceSettings, [*shlex.split(entry.command), "--output_dir", f"images/{entry.name}"])
    file = CONFIGS / f"{entry.name}.toml"
    assert file.read_text(encoding="utf-8") == config(entry)
    assert read(InferenceSettings, [str(file)])[0] == flags
    assert len(list(IMAGES.glob(f"{entry.name}.*"))) == 1


def test_the_page_is_up_to_date():
    assert (HERE / "gallery.md").read_text(encoding="utf-8") == page()
    assert {path.stem for path in CONFIGS.iterdir()} == {entry.name for entry in ENTRIES}
