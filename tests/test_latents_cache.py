"""The latents cache: results are bit-identical with and without it, and doubtful entries are computed again."""

from pathlib import Path

import pytest
import torch
from kit import METHODS, prepared, settings_for, write_images
from PIL import Image
from safetensors.torch import load_file, save_file
from whole_runs import LATEST, Run

from customize.errors import ResourceError
from customize.families.latents import KLLatents
from customize.training.preflight import check


@pytest.fixture
def asked(monkeypatch):
    """How often the autoencoder was asked."""
    calls = []
    encode = KLLatents.encode
    monkeypatch.setattr(KLLatents, "encode", lambda self, pixels: calls.append(1) or encode(self, pixels))
    return calls


def settings_with(cache, base, image_folder, folder, **changes):
    changes = {"latents_cache_dir": str(cache), "max_train_steps": 400, **changes}
    return settings_for("textual_inversion", base, image_folder, folder, **changes)


def entries(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.safetensors"))


def latents(settings) -> torch.Tensor:
    return torch.stack([prepared(settings)[1].dataset.deal(step, [0])[0].latents for step in range(4)])


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(method, marks=pytest.mark.slow) for method in METHODS if method != "lora")]
)
def test_bits_are_equal_with_and_without(method, finished_run, server, tiny_epsilon, image_folder, tmp_path):
    plain = finished_run(method)
    for name in ("first", "second"):
        run = Run(server, tmp_path / name, method, tiny_epsilon, image_folder, latents_cache_dir=str(tmp_path / "cache"))
        assert run()[0] == 0 and run.result() == plain.result() and run.losses() == plain.losses()
    assert entries(tmp_path / "cache")


def test_cached_latents_are_not_computed_again_and_others_are(asked, tiny_epsilon, tiny_v, tmp_path):
    image_folder, cache = write_images(tmp_path / "pictures"), tmp_path / "cache"

    def count(base=tiny_epsilon, **changes) -> int:
        asked.clear()
        prepared(settings_with(cache, base, image_folder, tmp_path / "run", **changes))
        return len(asked)

    everything = count()
    assert everything == 18 == len(entries(cache))  # three pictures, three crops, each mirrored or not
    assert count() == 0
    assert count(tiny_v) == 0  # another model, with the same autoencoder
    assert count(random_flip=False) == 0  # half of them
    assert count(center_crop=True) == 4  # of six: the centre of one picture is among its random places
    assert count(image_interpolation_mode="nearest") == 18 and count(resolution=24) > 0
    image = Image.open(image_folder / "0.png")
    image.putpixel((3, 3), (1, 2, 3))
    image.save(image_folder / "0.png")
    assert count() == 6
    image.save(image_folder / "0.png", compress_level=0)  # the same pixels in other bytes
    assert count() == 6 and count() == 0
    other = changed_autoencoder(tiny_epsilon, tmp_path / "other")
    assert count(other) == 18


def changed_autoencoder(base: Path, folder: Path) -> Path:
    import shutil

    shutil.copytree(base, folder)
    [file] = (folder / "vae").glob("*.safetensors")
    tensors = load_file(file)
    tensors["encoder.conv_in.weight"][0, 0, 0, 0] += 1e-6
    save_file(tensors, file, {"format": "pt"})
    return folder


SELDOM = ["start", "metadata", "empty"]


@pytest.mark.parametrize(
    "place", ["header", "numbers", "cut", "swapped", *(pytest.param(place, marks=pytest.mark.slow) for place in SELDOM)]
)
def test_a_damaged_entry_is_replaced_and_reported(place, asked, tiny_epsilon, image_folder, tmp_path, capsys, terminal):
    cache = tmp_path / "cache"
    settings = settings_with(cache, tiny_epsilon, image_folder, tmp_path / "run")
    expected = latents(settings)
    path, other = entries(cache)[:2]
    whole = path.read_bytes()
    damaged = bytearray(whole)
    at = {"start": 0, "header": 12, "metadata": whole.index(b"sha256") + 12, "numbers": len(whole) - 1}.get(place)
    if at is not None:
        damaged[at] ^= 1
    path.write_bytes({"cut": whole[:-5], "empty": b"", "swapped": other.read_bytes()}.get(place, bytes(damaged)))
    asked.clear()
    capsys.readouterr()
    assert torch.equal(latents(settings), expected) and len(asked) == 1
    output = capsys.readouterr().out
    assert output.count("is damaged") == 1 and path.name in output and "will be recomputed" in output
    asked.clear()
    assert torch.equal(latents(settings), expected) and not asked and "damaged" not in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["shape", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("nan", "whole numbers"))])
def test_a_forged_entry_with_a_valid_hash_is_not_trusted(kind, asked, tiny_epsilon, image_folder, tmp_path, capsys, terminal):
    """Its hash fits, but the autoencoder cannot have computed it."""
    from customize.families.latents import hash_of

    settings = settings_with(tmp_path / "cache", tiny_epsilon, image_folder, tmp_path / "run")
    expected = latents(settings)
    for entry in entries(tmp_path / "cache"):
        moments = load_file(entry)["moments"]
        forged = {"shape": moments[:, :1], "nan": moments * float("nan"), "whole numbers": moments.int()}[kind].contiguous()
        save_file({"moments": forged}, entry, {"key": entry.stem, "sha256": hash_of({"moments": forged})})
    asked.clear()
    assert torch.equal(latents(settings), expected) and len(asked) == len(entries(tmp_path / "cache"))
    assert "will be recomputed" in capsys.readouterr().out


def test_killed_while_an_entry_is_written(finished_run, server, tiny_epsilon, image_folder, tmp_path):
    plain = finished_run("lora")
    cache = tmp_path / "cache"
    run = Run(server, tmp_path / "killed", "lora", tiny_epsilon, image_folder, latents_cache_dir=str(cache))
    assert run(moment="at a cached latent", number=3)[0] == -9
    assert len(entries(cache)) == 2
    (cache / f".{'0' * 64}.safetensors.999999999.unfinished").write_text("left by a kill within the write")
    assert run(*LATEST)[0] == 0 and run.result() == plain.result()


def test_an_image_that_changes_after_the_check_is_reported_with_a_cache_too(tiny_epsilon, tmp_path, monkeypatch):
    image_folder, cache = write_images(tmp_path / "pictures"), tmp_path / "cache"
    settings = settings_with(cache, tiny_epsilon, image_folder, tmp_path / "run")
    prepared(settings)
    for change in (lambda: write_images(image_folder, seed=5), (image_folder / "1.png").unlink):
        checked = check(settings)
        change()
        monkeypatch.setattr("customize.training.preflight.check", lambda settings, checked=checked: checked)
        with pytest.raises(ResourceError, match="has changed since it was checked"):
            prepared(settings)
        monkeypatch.undo()


def test_an_unusable_cache_folder_is_reported_first(server, tiny_epsilon, image_folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    for place, words in ((tmp_path / "file", "is a file"), (image_folder, "is the same folder as instance_data_dir")):
        run = Run(server, tmp_path / "run", "lora", tiny_epsilon, image_folder)
        status, output = run("--latents_cache_dir", str(place))
        assert status == 2 and "latents_cache_dir" in output and words in output and not run.folder.exists()


@pytest.mark.parametrize("number", [2, *(pytest.param(number, marks=pytest.mark.slow) for number in (3, 5))])
def test_class_images_killed_while_they_are_generated(number, server, tiny_epsilon, image_folder, tmp_path):
    """The same set, whenever the kill comes: between batches of two, or within one."""

    def run(name: str) -> Run:
        changes = {
            "prior_preservation": "images", "class_prompt": "a photo of dog", "num_class_images": 5, "sample_batch_size": 2,
            "sample_inference_steps": 2, "class_data_dir": str(tmp_path / name / "class"),
        }  # fmt: skip
        return Run(server, tmp_path / name, "lora", tiny_epsilon, image_folder, **changes)

    def drawn(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / name / "class").glob("*.png")}

    finished_run, killed = run("straight"), run("killed")
    assert finished_run()[0] == 0 and len(drawn("straight")) == 5
    assert killed(moment="at a class picture", number=number)[0] == -9 and len(drawn("killed")) == number - 1
    assert killed()[0] == 0
    assert drawn("killed") == drawn("straight") and killed.result() == finished_run.result()


def test_batches_of_class_images_do_not_depend_on_kills():
    from customize.training.class_images import batches

    every = [str(number) for number in range(7)]
    assert batches(every, every, 3) == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert batches(every, ["4", "5", "6"], 3) == [["3", "4", "5"], ["6"]]
