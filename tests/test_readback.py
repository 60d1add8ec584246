"""The saved result is verified against the weights in memory, beside the base model in memory, which is left as it was."""

import json

import pytest
import torch
from kit import prepared, settings_for, write_images
from safetensors.torch import load_file, safe_open, save_file

from customize import families
from customize.evaluation import verify_result
from customize.storage.tensor_files import PRECISIONS
from customize.training import model_card

KINDS = {
    "textual_inversion": ("textual_inversion", {}),
    "lora": ("lora", {"lora_targets": ("attention", "feed-forward")}),
    "dora and text encoder": ("lora", {"use_dora": True, "train_text_encoder": True}),
    "kohya": ("lora", {"lora_format": "kohya"}),
    "pivotal": ("pivotal", {"train_text_encoder": True}),
    "full": ("full", {"train_text_encoder": True}),
}
PART_FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("pictures"))


def saved(kind, base, image_folder, folder, **changes):
    """(family, method) with weights far from their start, saved into the folder."""
    method, own = KINDS[kind]
    settings = settings_for(method, base, image_folder, folder / "unused", **{**own, **changes})
    context, training = prepared(settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in training.method.trainable_state_dict().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    training.method.eval()
    training.method.save(folder, model_card.metadata(settings, training.method, context.family, 6))
    return context.family, training.method


def everything(family):
    """Every tensor of a family, by name, and which module stands where."""
    tensors = {f"{i} {name}": t.clone() for i, network in family.components.items() for name, t in network.state_dict().items()}
    modules = [(name, id(module)) for network in family.components.values() for name, module in network.named_modules()]
    return tensors, modules, [vars(network).get("peft_config") for network in family.components.values()]


@pytest.mark.parametrize("kind", KINDS)
def test_no_second_base_is_loaded_and_the_trained_one_is_left_as_it_was(kind, tiny_epsilon, image_folder, tmp_path, monkeypatch):
    family, method = saved(kind, tiny_epsilon, image_folder, tmp_path)
    monkeypatch.setattr(families, "load", None)
    tensors, modules, configs = everything(family)
    trained = verify_result.prediction_of(family, method.example_prompt)
    assert verify_result.check(tmp_path, family, method.example_prompt, weights=method.trainable_state_dict()) < 1e-5
    after, modules_after, configs_after = everything(family)
    assert modules == modules_after and configs == configs_after and tensors.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in tensors.items())
    assert torch.equal(verify_result.prediction_of(family, method.example_prompt), trained)


def changed(file, change):
    """Writes the file again with `change` made to its first tensor that is not a single number."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    name = next(name for name, tensor in sorted(tensors.items()) if tensor.dim() > 1)
    save_file({**tensors, name: change(tensors[name])}, file, metadata)


def nudged(tensor):
    """The same but for the last bit of one number."""
    tensor = tensor.clone()
    tensor.view(-1)[0] = torch.nextafter(tensor.view(-1)[0].float(), torch.tensor(9.0)).to(tensor.dtype)
    return tensor


@pytest.mark.parametrize("kind", ["textual_inversion", "lora", "kohya"])
def test_a_single_bit_is_found(kind, tiny_epsilon, image_folder, tmp_path):
    family, method = saved(kind, tiny_epsilon, image_folder, tmp_path, **({"lora_format": "diffusers"} if kind == "lora" else {}))
    [file] = tmp_path.glob("*.safetensors")
    changed(file, nudged)
    with pytest.raises(OSError, match="does not contain the trained weights"):
        verify_result.check(tmp_path, family, method.example_prompt, weights=method.trainable_state_dict())


@pytest.mark.parametrize("kind", ["textual_inversion", "lora", "kohya"])
def test_tensors_in_each_others_place_are_found_by_the_prediction(kind, tiny_epsilon, image_folder, tmp_path):
    """All bits are in the file, under the wrong names; or the vectors of a word in another order."""
    family, method = saved(kind, tiny_epsilon, image_folder, tmp_path, **({"lora_format": "diffusers"} if kind == "lora" else {}))
    [file] = tmp_path.glob("*.safetensors")
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    if kind == "textual_inversion":
        swapped = {name: tensor.flip(0).contiguous() for name, tensor in tensors.items()}
    else:
        ups = [name for name in sorted(tensors) if "lora_B" in name or "lora_up" in name]
        one, other = next((a, b) for a in ups for b in ups if a != b and tensors[a].shape == tensors[b].shape)
        swapped = {**tensors, one: tensors[other], other: tensors[one]}
    save_file(swapped, file, metadata)
    with pytest.raises(OSError, match="does not reproduce the trained weights"):
        weights = {} if kind == "textual_inversion" else method.trainable_state_dict()
        verify_result.check(tmp_path, family, method.example_prompt, weights=weights)


@pytest.mark.parametrize("part", PART_FILES)
def test_a_single_bit_of_a_network_is_found(part, tiny_epsilon, image_folder, tmp_path):
    family, method = saved("full", tiny_epsilon, image_folder, tmp_path)
    changed(tmp_path / PART_FILES[part], nudged)
    with pytest.raises(OSError, match=f"{part} does not contain the trained weights"):
        verify_result.check(tmp_path, family, method.example_prompt)


def test_another_tokenizer_or_scheduler_is_found(tiny_epsilon, image_folder, tmp_path):
    family, method = saved("full", tiny_epsilon, image_folder, tmp_path)
    file = tmp_path / "scheduler/scheduler_config.json"
    text = file.read_text()
    file.write_text(json.dumps({**json.loads(text), "prediction_type": "v_prediction"}))
    with pytest.raises(OSError, match="another tokenizer or scheduler"):
        verify_result.check(tmp_path, family, method.example_prompt)


@pytest.mark.parametrize("train_text_encoder", [False, True])
@pytest.mark.parametrize(("clip_skip", "caption"), [(1, "a sks dog"), (None, "a sks dog" + " and a red house" * 30)])
def test_a_model_trained_on_an_earlier_layer_or_on_texts_of_several_chunks_is_verified(
    clip_skip, caption, train_text_encoder, tiny_epsilon, tmp_path
):
    images = write_images(tmp_path / "images", 1)
    (images / "0.txt").write_text(caption)
    changes = {"clip_skip": clip_skip, "train_text_encoder": train_text_encoder}
    family, method = saved("full", tiny_epsilon, images, tmp_path, **changes)
    assert verify_result.check(tmp_path, family, method.example_prompt, condition=method.condition) < 1e-5


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("kind", ["textual_inversion", "lora", "full"])
def test_rounded_results_are_compared_as_rounded(kind, precision, tiny_epsilon, image_folder, tmp_path):
    family, method = saved(kind, tiny_epsilon, image_folder, tmp_path, save_precision=precision)
    dtype = PRECISIONS[precision]
    assert verify_result.check(tmp_path, family, method.example_prompt, dtype, method.trainable_state_dict()) > 1e-6
    other = torch.bfloat16 if precision == "fp16" else torch.float16
    with pytest.raises(OSError, match="does not contain the trained weights"):
        verify_result.check(tmp_path, family, method.example_prompt, other, method.trainable_state_dict())
