"""The metadata of learned files, as other programs read them, by their rules. A documented table lists all entries.

Sources: A1111 extensions-builtin/Lora/network.py and ui_edit_user_metadata.py, Forge sd_forge_lora/network.py, SD.Next
modules/lora/network.py, ComfyUI-Lora-Manager py/utils/lora_metadata.py and file_utils.py.
"""

import hashlib
import json
import re
from datetime import date
from pathlib import Path

import pytest
import torch
from kit import prepared, settings_for, write_images
from safetensors import safe_open
from test_model_file import small_configs  # noqa: F401

from customize.evaluation import verify_result
from customize.families.text_encoder import TextEncoder
from customize.inference.pipeline_loading import load_pipeline
from customize.inference.run import command
from customize.settings.inference import InferenceSettings
from customize.storage.run_folder import KOHYA_LORA, LORA, MODEL
from customize.training import model_card
from customize.weights.weight_file import check_file

DOCUMENTED = Path(__file__).parents[1] / "docs/inference.md"
OWN = {"format", "customize", "lora_adapter_metadata", "placeholder_token"}
WIDTHS = {"sd15": 768, "sd21": 1024, "sdxl": 768}


@pytest.fixture
def real_widths(monkeypatch):
    """The tiny models count as those of the version with this width of its text encoder."""
    return lambda version: monkeypatch.setattr(TextEncoder, "width", WIDTHS[version])


def result(method: str, base: Path, folder: Path, **changes) -> list[Path]:
    """The files of a result with random changes."""
    image_folder = write_images(folder / "images of a result")
    for number, path in enumerate(sorted(image_folder.glob("*.png"))):
        path.with_suffix(".txt").write_text("a photo of sks dog, <new>, " + ("in the snow" if number else "asleep"))
    captions = {} if method != "textual_inversion" else {"captions": "files"}
    settings = settings_for(method, base, image_folder, folder / "unused", **{**captions, **changes})
    context, training = prepared(settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in training.method.trainable_state_dict().values():
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    return training.method.eval().save(folder, model_card.metadata(settings, training.method, context.family, 6))


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def data_hash(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()


def a1111_version(metadata: dict[str, str]) -> str:
    if str(metadata.get("ss_base_model_version", "")).startswith("sdxl_"):
        return "SDXL"
    return "SD2" if str(metadata.get("ss_v2", "")) == "True" else "SD1" if metadata else "Unknown"


def forge_version(metadata: dict[str, str]) -> str:
    if metadata.get("modelspec.architecture") == "stable-diffusion-xl-v1-base/lora":
        return "SDXL"
    if str(metadata.get("ss_base_model_version", "")).startswith("sdxl_"):
        return "SDXL"
    if metadata.get("ss_v2") == "True":
        return "SD2"
    return "SD1" if metadata.get("modelspec.architecture") == "stable-diffusion-v1/lora" else "Unknown"


def autov3(metadata: dict[str, str]) -> str:
    embedded = metadata.get("sshs_model_hash") or metadata.get("modelspec.hash_sha256") or ""
    return embedded.strip().removeprefix("0x")[:12].lower()


def a1111_images(metadata: dict[str, str]) -> int:
    return sum(int(entry.get("img_count", 0)) for entry in json.loads(metadata["ss_dataset_dirs"]).values())


def managers_words(metadata: dict[str, str]) -> tuple[list[tuple[str, int]], str]:
    words = next(iter(json.loads(metadata["ss_tag_frequency"]).values()))
    first = json.loads(metadata["ss_datasets"])[0]["subsets"][0]["class_tokens"]
    return sorted(words.items(), key=lambda item: item[1], reverse=True), first


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("sd15", ("SD1", "stable-diffusion-v1/lora", "sd_v1")),
        ("sd21", ("SD2", "stable-diffusion-v2-768-v/lora", "sd_v2_v")),
        ("sdxl", ("SDXL", "stable-diffusion-xl-v1-base/lora", "sdxl_base_v1-0")),
    ],
)
def test_other_programs_read_a_lora(version, expected, bases, tmp_path, real_widths):
    real_widths(version)
    for file in result("lora", bases / version, tmp_path):
        metadata = metadata_of(file)
        read = a1111_version(metadata), metadata["modelspec.architecture"], metadata["ss_base_model_version"]
        assert read == expected and forge_version(metadata) == expected[0]
        assert autov3(metadata) == data_hash(file)[:12] and metadata["modelspec.hash_sha256"] == f"0x{data_hash(file)}"
        assert a1111_images(metadata) == int(metadata["ss_num_train_images"]) == 3
        words, tokens = managers_words(metadata)
        assert tokens == metadata["modelspec.trigger_phrase"] == "a photo of sks dog"
        assert words == [("a photo of sks dog", 3), ("<new>", 3), ("in the snow", 2), ("asleep", 1)]
        assert metadata["ss_sd_model_name"] == version and metadata["ss_resolution"] == "(16, 16)"
        assert metadata["modelspec.resolution"] == "16x16" and "ss_output_name" not in metadata
        date.fromisoformat(metadata["modelspec.date"])
    kohya = metadata_of(tmp_path / KOHYA_LORA)
    assert [kohya[f"ss_network_{name}"] for name in ("module", "dim", "alpha")] == ["networks.lora", "4", "2"]
    assert "ss_network_dim" not in metadata_of(tmp_path / LORA)


def test_the_hash_of_a_base_model_in_one_file(bases, tmp_path):
    [base] = result("full", bases / "sdxl", tmp_path, save_model_as="safetensors")
    metadata = metadata_of(base)
    assert metadata["modelspec.hash_sha256"] == f"0x{data_hash(base)}" and metadata["modelspec.implementation"] == "sgm"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base"
    lora = metadata_of(result("lora", base, tmp_path)[0])
    assert lora["ss_new_sd_model_hash"] == hashlib.sha256(base.read_bytes()).hexdigest()
    assert lora["ss_sd_model_name"] == MODEL


def documented() -> set[str]:
    """The entries in the table of the documentation."""
    rows = re.findall(r"^\| (`(?:modelspec\.|ss)[^|]+) \|", DOCUMENTED.read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_entry_is_documented_and_every_documented_one_is_written(bases, tmp_path, real_widths):
    real_widths("sdxl")
    (tmp_path / "base").mkdir()
    [base] = result("full", bases / "sdxl", tmp_path / "base", save_model_as="safetensors")
    (tmp_path / "loha").mkdir()
    loha = result("lora", base, tmp_path / "loha", adapter="loha")
    files = [base, *loha, *result("lora", base, tmp_path), *result("textual_inversion", base, tmp_path)]
    assert {name for file in files for name in metadata_of(file)} - OWN == documented()
    assert all(isinstance(value, str) and "0" * 64 not in value for file in files for value in metadata_of(file).values())


NEEDED = {
    "textual_inversion": {"placeholder_token"},
    "lora": {"lora_adapter_metadata"},
    "full": {"modelspec.resolution", "modelspec.prediction_type"},
}


@pytest.mark.parametrize("method", NEEDED)
def test_files_without_metadata_still_load(method, bases, tmp_path):
    files = (
        result(method, bases / "sdxl", tmp_path, no_metadata=True, save_model_as="safetensors")
        if method != ("textual_inversion")
        else result(method, bases / "sdxl", tmp_path, no_metadata=True)
    )
    assert {name for file in files for name in metadata_of(file)} == {"format", *NEEDED[method]}
    prompt = "a photo of <new>"
    if method == "full":
        assert load_pipeline(str(files[0])).trigger_words == ()
        return
    pipelines = [load_pipeline(str(bases / "sdxl"), [(file, 1.0)] if file else []) for file in (*files, None)]
    *predictions, base = [verify_result.prediction_of(pipeline.family, prompt) for pipeline in pipelines]
    assert len(predictions) == (2 if method == "lora" else 1)
    assert all((each - predictions[0]).abs().max() < 1e-5 < (each - base).abs().max() for each in predictions)
    if method == "textual_inversion":
        assert check_file(files[0], 1.0).placeholders == {"<new>": ("clip_g", "clip_l")}


def test_a_merged_lora_names_its_base_or_nothing(bases, tmp_path):
    lora, _ = result("lora", bases / "sdxl", tmp_path)
    for name, needed in (("plain", {"no_metadata": True}), ("named", {})):
        given = {"weights": (str(lora),), "pretrained_model_name_or_path": str(bases / "sdxl"), **needed}
        command.run(InferenceSettings(merge=str(tmp_path / f"{name}.safetensors"), **given))
    assert metadata_of(tmp_path / "plain.safetensors").keys() <= {"format", "lora_adapter_metadata"}
    metadata = metadata_of(tmp_path / "named.safetensors")
    assert metadata["ss_sd_model_name"] == "sdxl" and autov3(metadata) == data_hash(tmp_path / "named.safetensors")[:12]
    assert "ss_tag_frequency" not in metadata and metadata["modelspec.description"] == "Merged from what was learned on sdxl."
