"""Prompts that were encoded before: the same pictures and the same LoRA, without the text encoder in memory."""

import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.pipelines import pipeline_utils
from huggingface_hub.utils import filter_repo_objects
from models import tiny_deepfloyd_if
from PIL import Image
from safetensors.torch import load_file, save_file

from customize.cli import commands
from customize.errors import InputError
from customize.evaluation import record
from customize.evaluation.score.plan import plan
from customize.families import load, locate
from customize.families.files import prompt_embeddings
from customize.inference import load_pipeline
from customize.settings.scoring import ScoreSettings

PROMPTS = ["a Photo of sks dog", "a photo of sks dog in the snow", "blue"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_deepfloyd_if(tmp_path_factory.mktemp("if") / "IF-I-tiny")


@pytest.fixture(scope="module")
def embeddings(model, tmp_path_factory) -> Path:
    """The file that the command writes."""
    file = tmp_path_factory.mktemp("prompts") / "prompts.safetensors"
    flags = [flag for prompt in PROMPTS for flag in ("--prompt", prompt)]
    assert commands.embed_prompts([str(model), *flags, "--output", str(file)]) == 0
    return file


def infer(*words: str) -> int:
    return commands.infer([*words, "--num_inference_steps", "3", "--guidance_scale", "3", "--seed", "2"])


def test_the_file_is_named_by_its_prompts(model, embeddings, capsys):
    tensors, family = load_file(embeddings), load(locate(str(model)))
    assert {*tensors} == {*PROMPTS, ""}
    for prompt, tensor in tensors.items():
        assert torch.equal(tensor, family.encode_prompts([prompt]).tensors["encoder_hidden_states"][0])
    assert commands.show([str(embeddings)]) == 0
    shown = capsys.readouterr().out
    assert "encoded prompts" in shown and "IF-I-tiny" in shown and all(prompt in shown for prompt in PROMPTS)


def test_the_text_encoder_is_not_in_memory(model, embeddings):
    """Bytes of all components, before and after."""
    of_all, without = (load(locate(str(model), prompt_embeddings=file)) for file in (None, str(embeddings)))
    size = {name: sum(p.nbytes for p in network.parameters()) for name, network in of_all.components.items()}
    assert [*size] == ["unet", "text_encoder"] and [*without.components] == ["unet"]
    assert sum(p.nbytes for p in without.unet.parameters()) == size["unet"]
    alive = [obj for obj in vars(without.prompts).values() if isinstance(obj, torch.nn.Module)]
    assert not alive


def test_pictures_are_the_same(model, embeddings, tmp_path):
    """Also where prompts of another program are read: [1, L, D] in another precision, in upper case."""
    words = ["--pretrained_model_name_or_path", str(model), "--prompt", PROMPTS[0], "--negative_prompt", "blue"]
    assert infer(*words, "--output_dir", str(tmp_path / "t5")) == 0
    assert infer(*words, "--prompt_embeddings", str(embeddings), "--output_dir", str(tmp_path / "file")) == 0
    first, second = (Image.open(tmp_path / folder / "000.png").tobytes() for folder in ("t5", "file"))
    assert first == second
    save_file({text.upper(): each[None].double() for text, each in load_file(embeddings).items()}, tmp_path / "other.safetensors")
    pipeline = load_pipeline(str(model), prompt_embeddings=str(tmp_path / "other.safetensors"))
    (found,) = pipeline.generate(PROMPTS[0], negative_prompt="blue", num_inference_steps=3, guidance_scale=3, seeds=2)
    assert found.tobytes() == first


def test_prompts_that_are_missing_are_reported_before_anything_is_loaded(model, embeddings, tmp_path, capsys):
    words = ["--pretrained_model_name_or_path", str(model), "--prompt", "a cat", "--prompt_embeddings", str(embeddings)]
    assert infer(*words, "--output_dir", str(tmp_path / "out")) == 2
    report = capsys.readouterr().err
    assert "lacks 'a cat'" in report and f"customize embed-prompts {model} --prompt 'a cat' --output" in report
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({"a dog": torch.zeros(77)}, "no embeddings of a prompt"), ({"a dog": torch.zeros(77, 8)}, "prompts 8 wide"),
        ({"a dog": torch.zeros(77, 32), "a cat": torch.zeros(9, 32)}, "different shapes"), ({}, "holds no prompts"),
        ({"a dog": torch.full((77, 32), torch.nan)}, "NaN"),
    ],
)  # fmt: skip
def test_other_files_are_refused(model, tensors, what, tmp_path, capsys):
    save_file(tensors, tmp_path / "file.safetensors")
    words = ["--pretrained_model_name_or_path", str(model), "--prompt", "a dog"]
    assert infer(*words, "--prompt_embeddings", str(tmp_path / "file.safetensors"), "--output_dir", str(tmp_path / "out")) == 2
    assert what in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_pickle_is_refused_with_the_way_to_convert_it(model, tmp_path, capsys):
    """The way that the report names works, for the files of courses: a dictionary from prompt to [1, 77, D] in float16."""
    made = {"a dog": torch.randn(1, 77, 32).half(), "": torch.randn(1, 77, 32).half()}
    torch.save(made, tmp_path / "prompts.pth")
    words = ["--pretrained_model_name_or_path", str(model), "--prompt", "a dog", "--output_dir", str(tmp_path / "out")]
    assert infer(*words, "--prompt_embeddings", str(tmp_path / "prompts.pth")) == 2
    code = capsys.readouterr().err.partition("in Python: ")[2].splitlines()[0]
    exec(code, {})
    found = prompt_embeddings.read(tmp_path / "prompts.safetensors")
    assert {*found.names} == {"a dog", ""} and found.shape == (77, 32)


def test_of_a_model_on_the_hub_all_but_the_denoiser_is_downloaded(model, embeddings, tmp_path, monkeypatch):
    """Of the files that diffusers finds there, those in `unet` are the largest of stage I."""
    hub, copied = [path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()], tmp_path / "copied"
    copied.mkdir()

    def snapshot_download(name, *, allow_patterns, ignore_patterns, **options):
        for each in filter_repo_objects(hub, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            (copied / each).parent.mkdir(exist_ok=True)
            shutil.copy(model / each, copied / each)
        return str(copied)

    listed = SimpleNamespace(siblings=[SimpleNamespace(rfilename=each) for each in hub], sha="0")
    monkeypatch.setattr(pipeline_utils, "model_info", lambda *args, **options: listed)
    index = shutil.copy(model / "model_index.json", copied)
    monkeypatch.setattr(pipeline_utils, "hf_hub_download", lambda *args, **options: index)
    monkeypatch.setattr(pipeline_utils, "snapshot_download", snapshot_download)
    file = tmp_path / "prompts.safetensors"
    assert commands.embed_prompts(["DeepFloyd/IF-I-XL-v1.0", "--prompt", PROMPTS[0], "--output", str(file)]) == 0
    assert torch.equal(load_file(file)[PROMPTS[0]], load_file(embeddings)[PROMPTS[0]])
    assert {"text_encoder", "tokenizer", "scheduler"} <= {path.name for path in copied.iterdir()}
    assert not (copied / "unet").exists() and (model / "unet/diffusion_pytorch_model.safetensors").is_file()


def test_stable_diffusion_takes_none(embeddings, tmp_path, capsys):
    assert infer("--prompt", "a dog", "--prompt_embeddings", str(embeddings), "--output_dir", str(tmp_path / "out")) == 2
    assert "whose text encoder is always loaded" in capsys.readouterr().err
    assert commands.embed_prompts(["demo", "--prompt", "a dog", "--output", str(tmp_path / "x.safetensors")]) == 2


def words_of(model: Path, images: Path) -> list[str]:
    """A short DreamBooth run."""
    return [
        f"--pretrained_model_name_or_path={model}", f"--instance_data_dir={images}", "--instance_prompt", PROMPTS[0],
        "--adapter=lora", "--resolution=16", "--max_train_steps=2", "--evaluation=none", "--report_to=none",
        f"--validation_prompt={PROMPTS[1]}", "--sample_inference_steps=2",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(model, image_folder, tmp_path_factory) -> Path:
    """A run that loads T5."""
    folder = tmp_path_factory.mktemp("run") / "t5"
    assert commands.train_dreambooth([*words_of(model, image_folder), "--output_dir", str(folder)]) == 0
    return folder


def test_a_lora_is_trained_to_the_same_bits(model, embeddings, run, image_folder, tmp_path, capsys):
    words, file = words_of(model, image_folder), ["--prompt_embeddings", str(embeddings)]
    assert commands.train_dreambooth([*words, *file, "--output_dir", str(tmp_path / "file")]) == 0
    assert f'--prompt "{PROMPTS[0]}"' in (output := capsys.readouterr().out) and f"--prompt_embeddings {embeddings}" in output
    first, second = (load_file(folder / "pytorch_lora_weights.safetensors") for folder in (run, tmp_path / "file"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert infer("--weights", str(tmp_path / "file"), *file, "--prompt", PROMPTS[0], "--output_dir", str(tmp_path / "out")) == 0
    words[3] = "a cat"
    assert commands.train_dreambooth([*words, *file, "--output_dir", str(tmp_path / "no")]) == 2
    assert "lacks 'a cat'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def of_pictures(run, embeddings, tmp_path_factory) -> Path:
    """The file that the command in the report makes, which encodes all prompts of the pictures of `customize score`."""
    folder = tmp_path_factory.mktemp("pictures")
    with pytest.raises(InputError) as caught:
        plan(ScoreSettings(weights=str(run), prompt_embeddings=str(embeddings)))
    [problem] = caught.value.problems
    command = shlex.split(problem.remedy.partition("encode them: ")[2])
    assert problem.where == "prompt_embeddings" and command[:2] == ["customize", "embed-prompts"]
    assert commands.embed_prompts([*command[2:-1], str(folder / command[-1])]) == 0
    return folder / command[-1]


def test_all_prompts_of_pictures_can_be_encoded(run, of_pictures):
    found = plan(ScoreSettings(weights=str(run), prompt_embeddings=str(of_pictures)))
    texts = [text for prompt in found.evaluation.prompts for text in (prompt.text, prompt.plain)]
    assert {*prompt_embeddings.read(of_pictures).names} == {each.lower() for each in (*texts, "a photo of a dog", "a photo", "")}


@pytest.mark.slow
def test_a_run_is_measured_to_the_same_numbers(model, run, of_pictures, tmp_path, monkeypatch):
    """With the file, T5 may be missing."""
    monkeypatch.chdir(tmp_path)
    without = shutil.copytree(model, tmp_path / "without", ignore=lambda folder, names: {"text_encoder", "tokenizer"} & {*names})
    words = [str(run), "--num_inference_steps", "1", "--evaluation_seeds", "1"]
    own = ["--pretrained_model_name_or_path", str(without), "--prompt_embeddings", str(of_pictures)]
    assert commands.score([*words, "--output_dir", "t5"]) == commands.score([*words, *own, "--output_dir", "file"]) == 0
    first, second = (record.read(tmp_path / folder).candidates for folder in ("t5", "file"))
    assert first == second and [each.step for each in first] == [0, 2] and first[1].values["obedience"]
