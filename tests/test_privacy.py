"""Nothing that a run or a job writes names a folder, the user or the machine, except in the files that stay here.

Everything lies in folders of a telling name, the user and the machine have telling names, and the bytes of every file are
searched for them.
"""

import ast
import os
import shutil
import socket
import tomllib
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import yaml
from huggingface_hub.utils import filter_repo_objects
from kit import settings_for, write_images
from test_model_file import small_configs  # noqa: F401

from customize.cli import convert
from customize.inference.run import command
from customize.settings.inference import InferenceSettings
from customize.training import model_card, preflight

FOLDER, USER, HOST = "Zebrafish Diary", "quillfeather", "mumblebox"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A folder of the user, which is the current one."""
    home = tmp_path / USER / FOLDER
    home.mkdir(parents=True)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, USER)
    monkeypatch.setenv("HOME", str(home.parent))
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.chdir(home)
    return home


def is_telling(name: str) -> bool:
    """Whether a name is too long to occur in the bytes of weights and images by chance."""
    return len(name) > 5


def telling(folder: Path) -> dict[str, list[str]]:
    """The telling words in the name or the bytes of each file in and below a folder."""
    words = [FOLDER, USER, HOST, "photos of me", "class of us", "of mine", "trips", *filter(is_telling, [os.uname().nodename])]
    found = {}
    for path in (path for path in sorted(folder.rglob("*")) if path.is_file()):
        name = path.relative_to(folder).as_posix()
        content = name.encode() + path.read_bytes()
        spelled = {word: [word.encode(), word.encode("utf-16-be"), word.encode("utf-16-le")] for word in words}
        if names := [word for word in words if any(each in content for each in spelled[word])]:
            found[name] = names
    return found


PRIVATE = ("config.toml", "logs/")
"""The files that need local paths, and those of trackers. They are never uploaded, and the documentation names them."""
QUICK = ("lora",)
"""The others run with the slow tests; `pivotal` and `single file` together write every kind of file."""
KINDS = {
    "textual_inversion": ("textual_inversion", "sd15", {"num_vectors": (1,)}),
    "lora": ("lora", "sd15", {"train_text_encoder": True}),
    "pivotal": (
        "lora",
        "sdxl",
        {
            "placeholder_token": ("<new>",),
            "initializer_token": ("dog",),
            "instance_prompt": "a photo of sks <new>",
            "evaluation": "pictures",
            "num_candidates": 1,
            "evaluation_seeds": 1,
        },
    ),
    "full": ("full", "sd15", {"checkpointing_steps": 1}),
    "single file": ("full", "sdxl", {"save_model_as": "safetensors"}),
}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in QUICK)) for kind in KINDS])
def test_a_run_and_what_is_made_with_it_tell_nothing(kind, home, bases):
    method, base, changes = KINDS[kind]
    shutil.copytree(bases / base, home / "base")
    photos = write_images(home / "photos of me")
    for path in [*photos.glob("*.png")]:
        path.with_suffix(".txt").write_text("a photo of sks dog, <new>")
    common = {
        "max_train_steps": 2, "report_to": ("tensorboard",), "validation_prompt": ("sks dog <new>",), "sample_inference_steps": 1,
        "num_validation_images": 1, "validation_steps": 2, "latents_cache_dir": str(home / "cache"), "save_steps": 1,
        "vae": str(shutil.copytree(home / "base/vae", home / "of mine/other_vae")),
    }  # fmt: skip
    if method != "textual_inversion":
        classes = str(write_images(home / "class of us", 2))
        common |= {"prior_preservation": "images", "class_data_dir": classes, "num_class_images": 2, "class_prompt": "a dog"}
    else:
        common |= {"captions": "files"}
    run = preflight.run(settings_for(method, home / "base", photos, Path("trips") / "run", **{**common, **changes}))
    image, mask = sorted(photos.glob("*.png"))[:2]
    for number, more in enumerate([{"trace": True}, {"image": str(image), "mask_image": str(mask), "image_format": "jpg"}]):
        output = home / f"images{number}"
        given = {"weights": (str(run),), "prompt": ("sks dog <new>",), "num_inference_steps": 2, "num_images": 2}
        command.run(InferenceSettings(**given, vae=str(home / "base/vae"), output_dir=str(output), **more))
    merged = home / "merged/model"
    command.run(InferenceSettings(weights=(str(run),), merge=str(merged))) if method != "full" else None
    places = [run, home / "images0", home / "images1", merged]
    if method == "lora":
        lora = f"{run}/pytorch_lora_weights.safetensors"
        command.run(InferenceSettings(weights=(f"{lora}:0.5", f"{run}/pytorch_lora_weights_kohya.safetensors:0.5"),
                                      merge=str(home / "shared/both.safetensors")))  # fmt: skip
        given = [lora, str(home / "shared/converted.safetensors"), "--pretrained_model_name_or_path", str(home / "base")]
        assert convert.main(given) == 0
        places.append(home / "shared")
    assert len(list(home.rglob("*.png"))) > 6
    found = {name: words for place in places for name, words in telling(place).items()}
    assert "config.toml" in found and not [name for name in found if not name.startswith(PRIVATE)], found


class Hub:
    """Stands for `huggingface_hub.HfApi`: keeps what is uploaded, by name in the repository."""

    def __init__(self, token=None):
        self.files = UPLOADED

    def whoami(self, token=None):
        return {"name": USER}

    def create_repo(self, name, exist_ok):
        assert exist_ok
        return SimpleNamespace(repo_id=f"someone/{name}")

    def upload_folder(self, *, repo_id, folder_path, allow_patterns):
        names = [path.relative_to(folder_path).as_posix() for path in sorted(folder_path.rglob("*")) if path.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            self.files[name] = (folder_path / name).read_bytes()

    def upload_file(self, *, repo_id, path_or_fileobj, path_in_repo):
        self.files[path_in_repo] = path_or_fileobj


UPLOADED: dict[str, bytes] = {}
ALWAYS = {"README.md", "config.toml", "customize.json", "manifest.json", "samples/contact_sheet.png"}
SAMPLES = {f"samples/step-00000{step}/00{image}.png" for step in (0, 2) for image in (0, 1)}
RESULTS = {
    "textual_inversion": {"learned_embeds.safetensors"},
    "lora": {"pytorch_lora_weights.safetensors", "pytorch_lora_weights_kohya.safetensors"},
    "single file": {"model.safetensors"},
}


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "lora")) for kind in RESULTS])
def test_the_result_goes_to_the_hub_and_nothing_private(kind, home, bases, monkeypatch):
    method, base, changes = KINDS[kind]
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    UPLOADED.clear()
    shutil.copytree(bases / base, home / "base")
    (home / "run").mkdir()
    (home / "run/letter.txt").write_text("mine")
    own = {
        "max_train_steps": 2, "validation_prompt": ("a photo of <new>: sks dog", '"quoted" sks dog <new>'), "push_to_hub": True,
        "num_validation_images": 1, "sample_inference_steps": 1, "validation_steps": 2, "report_to": ("tensorboard",),
        "hub_token": "hf_secret", "save_steps": 1,
    }  # fmt: skip
    photos = write_images(home / "photos of me")
    run = preflight.run(settings_for(method, home / "base", photos, Path("run"), **{**own, **changes}))
    assert UPLOADED.keys() == ALWAYS | SAMPLES | RESULTS[kind]
    words = [FOLDER.encode(), USER.encode(), HOST.encode(), b"photos of me", b"hf_secret", str(home).encode()]
    assert not [name for name, content in UPLOADED.items() if any(word in content for word in words)]
    assert tomllib.loads(UPLOADED["config.toml"].decode())["model"]["pretrained_model_name_or_path"] == "base"
    header = yaml.safe_load(UPLOADED["README.md"].decode().split("---\n")[1])
    assert header["widget"] == [
        {"text": text, "output": {"url": f"samples/step-000002/00{number}.png"}}
        for number, text in enumerate(own["validation_prompt"])
    ]
    assert "license" not in header and "base_model" not in header and header["pipeline_tag"] == "text-to-image"
    assert {"text-to-image", "diffusers", "stable-diffusion-xl" if base == "sdxl" else "stable-diffusion"} <= set(header["tags"])
    assert header.get("instance_prompt") == (None if method == "textual_inversion" else "a photo of sks dog")
    assert (run / "README.md").read_bytes() == UPLOADED["README.md"]


def test_the_card_of_a_model_on_the_hub_shows_the_code_for_diffusers(tmp_path):
    facts = {
        "base_model": "owner/base", "trigger_words": ["sks"], "method": "dreambooth_lora", "steps": 3, "settings": {},
        "example_prompt": "a 'sks' \"dog\"", "versions": {"torch": "2"},
    }  # fmt: skip
    names = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights_kohya.safetensors", "learned_embeds.safetensors")
    card = model_card.card(tmp_path / "my run", facts, [tmp_path / name for name in names], "")
    block = card.partition("```python\n")[2].partition("\n```")[0]
    calls = [ast.literal_eval(node) for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Constant) and node.value != 0]
    assert {*calls} == {"owner/base", "my run", names[0], facts["example_prompt"]}
    assert "put `pytorch_lora_weights_kohya.safetensors` into the folder of LoRAs." in card
    assert "put `learned_embeds.safetensors` into the folder of embeddings, under the name that you write in prompts." in card
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "owner/base"
