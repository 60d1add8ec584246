"""What reaches others or a library of a stranger's files: weights as stock reads them, texts made harmless, no places."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from customize.adapters.lora_keys import ADAPTER_METADATA
from customize.errors import InputError
from customize.families import Source, load, locate
from customize.families.specs import STABLE_DIFFUSION
from customize.inference.metadata import write_png
from customize.inference.metadata.read_png import read_generation_info
from customize.inference.run.grid import grid
from customize.methods import DreamBoothSettings
from customize.methods.words import EmbeddingReport, VectorReport
from customize.settings.files import sharing
from customize.settings.inference import InferenceSettings
from customize.storage.safetensors_header import Header
from customize.training import model_card
from customize.weights.learned_weights import find_learned
from customize.weights.weight_file import metadata_of

PARTS = ("unet", "vae", "text_encoder")
HOSTILE = "\x1b]0;x\x07\r```\n<script>alert(1)</script>\u202e"
HOME = "/home/anna/secret"


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_networks_equal_stock_whatever_else_a_configuration_has(tiny_epsilon, tmp_path):
    stock = StableDiffusionPipeline.from_pretrained(tiny_epsilon, safety_checker=None)
    model = shutil.copytree(tiny_epsilon, tmp_path / "model")
    orders = {
        "_attn_implementation": "kernels-community/evil", "attn_implementation": "eager", "auto_map": {"AutoModel": "evil.Evil"},
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}, "torch_dtype": "evil", "dtype": "float16",
        "_attn_implementation_internal": "eager", "use_safetensors": False, "custom_pipeline": "evil", "trust_remote_code": True,
        "experts_implementation": "evil", "kernel_config": {}, "_name_or_path": HOME, "output_attentions": True,
    }  # fmt: skip
    for part in PARTS:
        change(model / part / "config.json", **orders)
    change(model / "tokenizer/tokenizer_config.json", **orders, tokenizer_class="Evil", chat_template="{{ evil }}")
    change(model / "model_index.json", **orders, unet=["evil", "Evil"])
    family = load(locate(str(model)))
    for part in PARTS:
        own, theirs = (getattr(each, part) for each in (family, stock))
        assert own.state_dict().keys() == theirs.state_dict().keys() and own.dtype == torch.float32
        assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in own.state_dict().items())
    assert family.text_encoder.config._attn_implementation == stock.text_encoder.config._attn_implementation
    prompt = ["a red dog, zebra's 12"]
    tokens = family.text_encoders[0].tokenize(prompt)
    assert torch.equal(tokens, stock.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = stock.unet(noise, 500, encoder_hidden_states=stock.text_encoder(tokens)[0], return_dict=False)[0]
        predicted = family.predict(noise, torch.tensor([500]), family.encode_prompts(prompt)).prediction
    torch.testing.assert_close(predicted, seen, rtol=0, atol=1e-6)
    family.pipeline().save_pretrained(tmp_path / "saved")
    texts = [path.read_text() for path in (tmp_path / "saved").rglob("*.json")]
    assert texts and not any(word in text for text in texts for word in (HOME, str(tmp_path), "evil", "Evil"))


def test_weights_in_half_precision_and_in_shards(tiny_epsilon, tmp_path):
    model = shutil.copytree(tiny_epsilon, tmp_path / "model")
    file = model / "unet/diffusion_pytorch_model.safetensors"
    tensors = {name: tensor.half() for name, tensor in load_file(file).items()}
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        save_file({name: tensors[name] for name in part}, f"{file.with_suffix('')}-0000{number}-of-00002.safetensors")
    file.unlink()
    found = load(locate(str(model))).unet.state_dict()
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name].float()) for name in names)


@pytest.mark.parametrize(
    ("changed", "words"), [({"time_cond_proj_dim": 32}, "latent consistency model"), ({"in_channels": 5}, "for depth-to-image")]
)
def test_unusable_initial_weights_are_reported(tmp_path, changed, words):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_text(json.dumps(changed))
    problem = STABLE_DIFFUSION.not_trainable(Source("x", folder=tmp_path))
    assert problem is not None and words in problem.what and "infer.py" in problem.remedy


def test_quoted_texts_are_harmless_in_terminal_and_card(tmp_path):
    report = str(EmbeddingReport(1.0, 2.0, (VectorReport("<cat>", 1.0, 0.5, ((HOSTILE, 0.5), ("<|endoftext|>", 0.4))),)))
    assert all(line.isprintable() for line in report.split("\n")) and "<|endoftext|> 0.40" in report
    about_it = {
        "base_model": HOSTILE, "trigger_words": ["<cat>", HOSTILE], "method": "lora", "steps": 1, "example_prompt": HOSTILE,
        "settings": {"instance_prompt": HOSTILE}, "versions": {"torch": "2"},
    }  # fmt: skip
    card = model_card.card(tmp_path / "run\x1b[31m<b>", about_it, [Path("a`.safetensors")], report)
    assert all(line.isprintable() for line in card.split("\n")) and "`<cat>`" in card
    assert [line for line in card.split("\n") if line.startswith("```")] == ["````bash", "````"]
    outside = card.partition("````bash")[0] + card.rpartition("````")[2]
    assert "<script" not in outside.replace(json.dumps(HOSTILE), "") and "<b>" not in outside and "&lt;script&gt;" in outside


def test_shared_files_have_no_local_paths(tmp_path, monkeypatch):
    settings = DreamBoothSettings(
        pretrained_model_name_or_path=f"{HOME}/sd15", output_dir=f"{HOME}/out", instance_data_dir=f"{HOME}/cats",
        instance_prompt="a photo of sks cat", latents_cache_dir="C:\\Users\\Anna\\cache", hub_model_id="anna-b/cat",
        hub_token="hf_x", validation_data_dir=f"{HOME}/others", scorer=f"{HOME}/dinov2",
    )  # fmt: skip
    method = SimpleNamespace(name="lora", trigger_words=["sks"], example_prompt="a photo of sks cat")
    output = model_card.metadata(settings, method, SimpleNamespace(name=settings.pretrained_model_name_or_path), 3)["customize"]
    assert (
        json.loads(output)["base_model"] == "sd15" and json.loads(output)["settings"]["instance_prompt"] == "a photo of sks cat"
    )
    card = model_card.card(Path(f"{HOME}/out"), json.loads(output), [Path("x")], "")
    calls = []

    class Api:
        def __init__(self, token=None): ...

        def create_repo(self, name, exist_ok):
            return SimpleNamespace(repo_id=name)

        def upload_folder(self, **options):
            calls.append(options)

        def upload_file(self, **options):
            calls.append(options)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model_card.upload(settings, tmp_path)
    _, config = calls
    assert config["path_in_repo"] == "config.toml"
    reported = config["path_or_fileobj"].decode()
    assert 'pretrained_model_name_or_path = "sd15"' in reported and 'instance_prompt = "a photo of sks cat"' in reported
    for text in (output, card, reported):
        assert not any(word in text for word in ("secret", "/home", "Users", "Anna", "hf_x", "cats"))


def test_the_base_is_found_by_the_run_that_the_weights_lie_in(tiny_epsilon, tmp_path):
    run = tmp_path / "run"
    (run / "weights/step-000002").mkdir(parents=True)
    for folder in (run, run / "weights/step-000002"):
        output = {"customize": json.dumps({"base_model": "tiny_epsilon"})}
        save_file({"<cat>": torch.ones(1, 32)}, folder / "learned_embeds.safetensors", output)
    (run / "config.toml").write_text(f"[model]\npretrained_model_name_or_path = {json.dumps(str(tiny_epsilon))}\n")
    for path in (run, run / "learned_embeds.safetensors", run / "weights/step-000002"):
        assert find_learned(None, [(path, 1.0)]).base == str(tiny_epsilon)
    moved = shutil.copy(run / "learned_embeds.safetensors", tmp_path / "cat.safetensors")
    with pytest.raises(InputError, match="was learned on tiny_epsilon, whose location is not known"):
        find_learned(None, [(moved, 1.0)])
    assert find_learned(str(tiny_epsilon), [(moved, 1.0)]).base == str(tiny_epsilon)
    (run / "config.toml").write_text('pretrained_model_name_or_path = "/another/model"\n')
    with pytest.raises(InputError, match="location is not known"):
        find_learned(None, [(run, 1.0)])


def test_an_image_stores_names_and_finds_files_beside_it(tmp_path):
    weights = tmp_path / "loras" / "cat.safetensors"
    weights.parent.mkdir()
    save_file({"<cat>": torch.ones(1, 32)}, weights)
    given = {"prompt": ["x"], "weights": [f"{weights}:0.5"], "image": str(tmp_path / "start.png"), "strength": 0.5}
    asked = InferenceSettings(**given, pretrained_model_name_or_path=f"{HOME}/sd15", output_dir=f"{HOME}/out")
    learned = find_learned("demo", asked.weights_and_scales).files
    info = write_png.png_info(
        write_png.texts(write_png.facts(f"{HOME}/sd15", learned), grid(asked).requests[0], "DDIMScheduler", (8, 8), (0, 1))
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    text = "".join(Image.open(tmp_path / "a.png").text.values())
    assert str(tmp_path) not in text and HOME not in text and "cat.safetensors" in text
    assert read_generation_info(tmp_path / "a.png").base_model == "sd15"
    (tmp_path / "config.toml").write_text(asked.to_toml())
    found = read_generation_info(tmp_path / "a.png")
    assert found.base_model == f"{HOME}/sd15" and found.settings["image"] == given["image"] and found.notes == ()
    assert [(file.name, file.scale) for file in found.weights] == [(str(weights), 0.5)]
    assert list(found.settings["weights"]) == given["weights"]
    other = tmp_path / "others" / "cat.safetensors"
    (tmp_path / "config-2.toml").write_text(InferenceSettings(prompt=["x"], weights=[str(other)]).to_toml())
    assert "cat.safetensors" not in sharing.local_places(tmp_path), "of two places of one name neither is taken"


@pytest.mark.parametrize(
    ("pattern", "sound"),
    [
        ("[0-9]+", True), (r"down_blocks\.\d+\.attentions", True), (r"(to_q|to_k)", True), ("mid_block.*to_v", True), ("", True),
        ("(a+)+$", False), ("(a|a)*b", False), ("((((", False), (".*.*.*.*x", False), ("a{1,9}{1,9}", False), ("x" * 400, False),
    ],
)  # fmt: skip
def test_a_pattern_of_an_adapter_is_refused_only_where_it_may_take_for_ever(tmp_path, pattern, sound):
    output = {ADAPTER_METADATA: json.dumps({"unet.r": 4, "unet.rank_pattern": {pattern: 4}})}
    if sound:
        assert metadata_of(Header({}, output), tmp_path) == {}
    else:
        with pytest.raises(InputError, match="damaged metadata"):
            metadata_of(Header({}, output), tmp_path)


def test_a_saved_adapter_names_no_base_by_its_place(tiny_epsilon, tmp_path):
    from test_inference import lora

    file = lora(tmp_path / "run", tiny_epsilon, text_encoder=False) / "pytorch_lora_weights.safetensors"
    with safe_open(file, "pt") as opened:
        described = opened.metadata()[ADAPTER_METADATA]
    assert str(tiny_epsilon.parent) not in described
