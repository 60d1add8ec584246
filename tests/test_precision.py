"""Trained parameters are kept in float32 and never rounded; frozen ones have the requested dtype."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from kit import METHODS, prepared, settings_for, train_loop, write_images


@pytest.mark.parametrize("method", METHODS)
def test_bf16_trains_and_rounds_nothing_that_learns(method, tiny_v, tmp_path):
    from accelerate.state import AcceleratorState

    image_folder = write_images(tmp_path / "pictures")
    settings = settings_for(method, tiny_v, image_folder, tmp_path / "run", mixed_precision="bf16", learning_rate=1e-12)
    AcceleratorState._reset_state(reset_partial_state=True)
    context, training = prepared(settings, mixed_precision="bf16")
    learned = training.method.trainable_state_dict()
    before = {name: tensor.detach().clone() for name, tensor in learned.items()}
    frozen = [p for p in context.family.unet.parameters() if not p.requires_grad]
    assert all(tensor.dtype == torch.float32 for tensor in learned.values())
    assert all(parameter.dtype == torch.bfloat16 for parameter in frozen) and (frozen or method == "full")
    if method == "full":
        plain = UNet2DConditionModel.from_pretrained(tiny_v, subfolder="unet")
        assert all(torch.equal(before[f"unet.{name}"], parameter) for name, parameter in plain.named_parameters())
    state = train_loop(settings, training, context.accelerator, 2)
    assert state.step == 2
    for name, tensor in training.method.trainable_state_dict().items():
        torch.testing.assert_close(tensor.detach(), before[name], rtol=0, atol=1e-10)
    AcceleratorState._reset_state(reset_partial_state=True)
