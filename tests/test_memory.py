"""Frozen networks are loaded in the precision of the run, and no step and no verification makes a wider copy of their weights."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from kit import prepared, settings_for, train_loop
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from customize.evaluation import verify_result
from customize.families import load, locate
from customize.families.base import Placement
from customize.inference import load_pipeline
from customize.methods import words
from customize.training import model_card
from customize.training.class_images import computing_in
from customize.training.loop import Callback
from customize.training.setup import placement_of

KINDS = {
    "textual inversion": ("textual_inversion", {}),
    "lora": ("lora", {}),
    "text encoders": ("lora", {"train_text_encoder": True}),
    "pivotal tuning": (
        "lora",
        {"placeholder_token": ("<s>",), "initializer_token": ("toy",), "instance_prompt": "a photo of <s>"},
    ),
}


class WiderCopies(TorchDispatchMode):
    """Counts the bytes of float32 and float64 tensors that are computed as copies of these bf16 weights."""

    def __init__(self, weights):
        super().__init__()
        self.places, self.bytes, self.seen = {weight.untyped_storage().data_ptr() for weight in weights}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        is_of_weight = args and isinstance(args[0], torch.Tensor) and args[0].untyped_storage().data_ptr() in self.places
        self.seen += bool(is_of_weight)
        if is_of_weight and isinstance(found, torch.Tensor) and found.dtype.itemsize > args[0].dtype.itemsize:
            self.bytes += found.nbytes * (found.numel() == args[0].numel())
        return found


@pytest.fixture
def base(tiny_xl) -> Path:
    return tiny_xl


@pytest.fixture(autouse=True)
def accelerators():
    """accelerate keeps one precision for the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def in_bf16(kind, base, image_folder, folder, **changes):
    """(settings, context, training) of a run in bf16, as it prepares them."""
    method, own = KINDS[kind]
    settings = settings_for(method, base, image_folder, folder, mixed_precision="bf16", **{**own, **changes})
    return settings, *prepared(settings, mixed_precision="bf16")


@pytest.mark.parametrize("kind", KINDS)
def test_no_wider_copy_of_a_frozen_weight_is_made(kind, base, image_folder, tmp_path):
    settings, context, training = in_bf16(kind, base, image_folder, tmp_path / "run")
    family, method = context.family, training.method
    networks = [network for part, network in family.components.items() if part != "vae"]
    learned = {id(tensor) for tensor in method.trainable_state_dict().values()}
    frozen = [weight for network in networks for weight in network.parameters() if id(weight) not in learned]
    assert {weight.dtype for weight in frozen} == {torch.bfloat16}
    assert {weight.dtype for weight in family.vae.parameters()} == {torch.float32}
    before = [weight.clone() for weight in frozen]
    with WiderCopies([weight for weight in frozen if weight.dim() > 1]) as copies:
        train_loop(settings, training, context.accelerator, 2)
        method.eval().save(tmp_path, model_card.metadata(settings, method, family, 2))
        verified = verify_result.check(tmp_path, family, method.example_prompt, weights=method.trainable_state_dict())
    assert verified == 0 and copies.seen > len(frozen) and copies.bytes == 0
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(before, frozen, strict=True))
    assert all(tensor.dtype == torch.float32 for tensor in method.trainable_state_dict().values())


def test_whole_networks_and_the_rest_of_their_model_are_float32(base, image_folder, tmp_path):
    """The result is the whole model, so that a frozen text encoder in bf16 would be saved rounded."""
    settings = settings_for("full", base, image_folder, tmp_path / "run", mixed_precision="bf16")
    context, training = prepared(settings, mixed_precision="bf16")
    training.method.save(tmp_path / "saved", model_card.metadata(settings, training.method, context.family, 0))
    for file in sorted(base.glob("*/*.safetensors")):
        saved = load_file(tmp_path / "saved" / file.relative_to(base))
        assert all(torch.equal(tensor, saved[name]) for name, tensor in load_file(file).items()), file


@pytest.mark.parametrize("text_encoder", [False, True])
def test_a_dora_computes_at_first_what_the_base_model_does(text_encoder, base, image_folder, tmp_path):
    """Its magnitudes are the norms of the weights in use, in float32."""
    changes = {"use_dora": True, "train_text_encoder": text_encoder}
    _, context, training = in_bf16("lora", base, image_folder, tmp_path / "run", **changes)
    method = training.method.eval()
    layers = [layer for layer in method.modules() if hasattr(layer, "lora_magnitude_vector")]
    for layer in layers:
        weight = layer.get_base_layer().weight
        assert weight.dtype == torch.bfloat16
        expected = weight.double().norm(dim=1)
        found = layer.lora_magnitude_vector["default"].weight
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    family = context.family
    trained = verify_result.prediction_of(family, "a photo of sks dog")
    with method.adapter.disabled(*method.children()):
        assert torch.equal(verify_result.prediction_of(family, "a photo of sks dog"), trained)


def test_prior_precision_applies_to_class_images_alone(base, image_folder, tmp_path):
    """Networks in bf16 compute in float32 where class images are to be, and are as they were afterwards."""
    changes = {
        "prior_preservation": "images", "class_prompt": "a photo of dog", "class_data_dir": str(tmp_path / "class"),
        "prior_generation_precision": "fp32", "mixed_precision": "bf16",
    }  # fmt: skip
    settings = settings_for("lora", base, image_folder, tmp_path / "run", **changes)
    family = load(locate(str(base)), placement_of(settings))
    before = {name: tensor.clone() for part in family.components.values() for name, tensor in part.state_dict().items()}
    with computing_in(torch.float32, family):
        assert {weight.dtype for part in family.components.values() for weight in part.parameters()} == {torch.float32}
    after = {name: tensor for part in family.components.values() for name, tensor in part.state_dict().items()}
    assert all(torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items())
    with computing_in(torch.bfloat16, family):
        assert family.dtype == torch.bfloat16 and torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_autoencoder_is_evaluated_in_its_own_precision(dtype, base):
    """Under autocast too: that of SDXL overflows in float16."""
    family = load(locate(str(base)), Placement("cpu", dtype, ("vae",)))
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    expected = family.latents.encode(pixels)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = family.latents.encode(pixels)
        assert torch.equal(found, expected) and family.latents.decode(found[:, :4]).dtype == torch.float32


def test_generating_in_bf16_loads_the_base_in_bf16(base, image_folder, tmp_path, monkeypatch):
    """The networks with a LoRA or a word are those that loading in float32 and rounding afterwards gives."""
    from customize import families

    placements, load_family = [], families.load
    for kind in ("lora", "textual inversion"):
        settings, context, training = in_bf16(kind, base, image_folder, tmp_path / "unused")
        training.method.save(tmp_path / kind, model_card.metadata(settings, training.method, context.family, 0))

        def seen(source, placement):
            placements.append(placement)
            return load_family(source, placement)

        monkeypatch.setattr(families, "load", seen)
        found = load_pipeline(str(base), [(tmp_path / kind, 0.7)], torch_dtype=torch.bfloat16).family.components
        exact = load_pipeline(str(base), [(tmp_path / kind, 0.7)]).family.to(torch.bfloat16).components
        for part in found:
            own, rounded = found[part].state_dict(), exact[part].state_dict()
            assert all(torch.equal(own[name], tensor) for name, tensor in rounded.items())
        monkeypatch.undo()
    assert [placement.dtype for placement in placements] == [torch.bfloat16, torch.float32] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_steps_do_not_need_leaves_memory_before_them(kind, base, image_folder, tmp_path, monkeypatch):
    """A whole run: frozen text encoders and the autoencoder are released, and the result is verified without them."""
    from customize.training import preflight, setup

    held, families = {}, []
    monkeypatch.setattr(setup, "load", lambda source, placement: families.append(load(source, placement)) or families[0])

    class Spy(Callback):
        def before_step(self, state, metrics):
            held.update({part: next(network.parameters()).device.type for part, network in families[0].components.items()})

    method, own = KINDS[kind]
    changes = {"mixed_precision": "bf16", "max_train_steps": 1, **own}
    settings = settings_for(method, base, image_folder, tmp_path / "run", **changes)
    preflight.run(settings, [Spy()])
    evaluated = kind != "lora"  # in the steps
    encoders = [part for part in held if part.startswith("text_encoder")]
    assert held == {"unet": "cpu", "vae": "meta", **dict.fromkeys(encoders, "cpu" if evaluated else "meta")}
    drawn = load_pipeline(None, [(tmp_path / "run", 1.0)]).generate("a photo of dog", seeds=1, num_inference_steps=1)
    assert drawn[0].size == (16, 16)


def test_the_report_on_vectors_does_not_depend_on_the_parts_of_the_vocabulary(base, image_folder, tmp_path, monkeypatch):
    _, _, training = in_bf16("textual inversion", base, image_folder, tmp_path / "run")
    whole = training.method.report()
    monkeypatch.setattr(words, "PART", 7)
    assert training.method.report() == whole and "nearest: toy" in whole
