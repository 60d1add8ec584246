"""AdamW as it should be: fused in 32 bits, bitsandbytes' in 8 bits, with the schedule's rates."""

import json

import pytest
import torch
from kit import prepared, settings_for, train_loop, write_images

from customize.errors import InputError
from customize.optim.optimizers import LearningRates, build_adamw
from customize.settings import derived


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("pictures"))


def test_8_bit_adam_keeps_large_tensors_in_8_bits_and_trains(tiny_epsilon, image_folder, tmp_path):
    results = {}
    for use_8bit_adam in (False, True):
        settings = settings_for(
            "full", tiny_epsilon, image_folder, tmp_path / str(use_8bit_adam), use_8bit_adam=use_8bit_adam, max_train_steps=4
        )
        context, training = prepared(settings)
        before = {name: tensor.detach().clone() for name, tensor in training.method.trainable_state_dict().items()}
        state = train_loop(settings, training, context.accelerator, 4)
        results[use_8bit_adam] = {
            name: after.detach() - before[name] for name, after in training.method.trainable_state_dict().items()
        }
    optimizer = state.optimizer.optimizer
    assert type(optimizer).__module__.startswith("bitsandbytes")
    moments = {parameter: optimizer.state[parameter]["state1"] for parameter in training.method.trainable_state_dict().values()}
    assert all((moment.dtype == torch.uint8) == (parameter.numel() >= 4096) for parameter, moment in moments.items())
    share = sum(p.numel() for p, m in moments.items() if m.dtype == torch.uint8) / sum(p.numel() for p in moments)
    assert share > 0.9
    ours, theirs = (torch.cat([change.flatten() for change in result.values()]) for result in results.values())
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.9 and ours.abs().max() > 1e-3


def test_adamw_is_fused_and_equals_its_formula(tiny_epsilon, image_folder, tmp_path):
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path, adam_weight_decay=0.1)
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = build_adamw(settings, [{"params": [parameter], "lr": 0.01}])
    assert optimizer.defaults["fused"]
    parameter.grad = torch.tensor([0.3, -0.1])
    optimizer.step()
    expected = torch.tensor([1.0, -2.0]) * (1 - 0.01 * 0.1) - 0.01 * torch.tensor([0.3, -0.1]).sign()
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=0)


def test_every_group_keeps_its_own_rate(tiny_epsilon, image_folder, tmp_path):
    settings = settings_for(
        "full",
        tiny_epsilon,
        image_folder,
        tmp_path,
        train_text_encoder=True,
        text_encoder_learning_rate=(1e-5,),
        lr_scheduler="linear",
    )
    _, training = prepared(settings)
    optimizer = training.method.build_optimizer(settings)
    assert len(optimizer.param_groups) == 2
    rates = LearningRates(settings, optimizer, 10, scale=4)
    assert rates.set(5) == pytest.approx(4 * 1e-3 / 2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2e-3, 2e-5])


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, (1e-3, 1e-3)), pytest.param((1e-5,), (1e-5, 1e-5), marks=pytest.mark.slow), ((1e-5, 2e-5), (1e-5, 2e-5))],
)
def test_text_encoders_have_one_rate_or_one_each(given, expected, tiny_xl, image_folder, tmp_path):
    """In the optimizer, in the identity of a run, and in the log."""
    from customize.training import preflight

    changes = {"train_text_encoder": True, "text_encoder_learning_rate": given, "max_train_steps": 1, "lr_scheduler": "linear"}
    settings = settings_for("lora", tiny_xl, image_folder, tmp_path / "run", **changes)
    _, training = prepared(settings)
    groups = training.method.build_optimizer(settings).param_groups
    assert [group["lr"] for group in groups] == [1e-3, *expected]
    networks = [training.method.unet, training.method.text_encoder, training.method.text_encoder_2]
    for group, network in zip(groups, networks, strict=True):
        assert {id(each) for each in group["params"]} == {id(each) for each in network.parameters() if each.requires_grad}
    rate = derived.learning_rates(settings, [3], 1)["text_encoder_learning_rate"]
    assert rate == (list(expected) if len(set(expected)) > 1 else expected[0])
    [line] = (preflight.run(settings) / "log.jsonl").read_text().splitlines()
    logged = {name: value for name, value in json.loads(line).items() if name.startswith("learning_rate")}
    numbered = {f"learning_rate_{place}": value for place, value in enumerate(expected, 2) if value != 1e-3}
    assert logged == {"learning_rate": 1e-3, **numbered}


def test_more_rates_than_text_encoders_are_refused(tiny_epsilon, image_folder, tmp_path):
    from customize.training import preflight

    changes = {"train_text_encoder": True, "text_encoder_learning_rate": (1e-5, 2e-5)}
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **changes)
    with pytest.raises(InputError, match="text_encoder_learning_rate: has 2 values; .* has 1 text encoder"):
        preflight.check(settings)
