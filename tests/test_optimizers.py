"""AdamW as it should be: fused in 32 bits, bitsandbytes' in 8 bits, with the schedule's rates."""

import json

import pytest
import torch
from kit import prepared, settings_for, train_loop, write_images

from customize.errors import InputError
from customize.optim import optimizers
from customize.optim.learning_rates import LearningRates
from customize.settings import derived


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("pictures"))


def test_8_bit_adam_keeps_large_tensors_in_8_bits_and_trains(tiny_epsilon, image_folder, tmp_path):
    results = {}
    for optimizer in ("adamw", "adamw_8bit"):
        settings = settings_for("full", tiny_epsilon, image_folder, tmp_path / optimizer, optimizer=optimizer, max_train_steps=4)
        context, training = prepared(settings)
        before = {name: tensor.detach().clone() for name, tensor in training.method.trainable_state_dict().items()}
        state = train_loop(settings, training, context.accelerator, 4)
        results[optimizer] = {
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
    optimizer = optimizers.build(settings, [{"params": [parameter], "lr": 0.01}])
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


@pytest.mark.parametrize("ratio", [None, 16.0])
@pytest.mark.parametrize("use_dora", [False, True])
def test_lora_plus_has_the_groups_of_peft(use_dora, ratio, tiny_epsilon, image_folder, tmp_path):
    from peft.optimizers import create_loraplus_optimizer

    changes = {"use_dora": use_dora, "loraplus_lr_ratio": ratio, "train_text_encoder": True, "scale_lr": True}
    changes |= {"text_encoder_learning_rate": (1e-5,), "train_batch_size": 2, "lr_scheduler": "linear"}
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **changes)
    context, training = prepared(settings)
    rates = training.learning_rates(settings, 10, context.learning_rate_scale)
    rates.set(5)
    found = {id(p): group["lr"] for group in rates.optimizer.param_groups for p in group["params"]}
    expected = {}
    for network, rate in ((training.method.unet, 1e-3), (training.method.text_encoder, 1e-5)):
        groups = create_loraplus_optimizer(network, torch.optim.AdamW, lr=rate, loraplus_lr_ratio=ratio or 1).param_groups
        expected |= {id(p): 2 * group["lr"] / 2 for group in groups for p in group["params"]}
    assert found == pytest.approx(expected) and len(set(found.values())) == (4 if ratio else 2)


def test_a_text_encoder_keeps_its_weights_after_its_part_of_the_run(tiny_epsilon, image_folder, tmp_path):
    changes = {"train_text_encoder": True, "text_encoder_train_fraction": 0.5, "max_train_steps": 4, "optimizer": "schedule_free"}
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **changes)
    assert settings.depends_on_length and not settings.model_copy(update={"text_encoder_train_fraction": 1.0}).depends_on_length
    context, training = prepared(settings)
    seen = []
    method = training.method
    method.after_step = lambda: seen.append(
        [
            torch.cat([p.detach().flatten() for p in network.parameters() if p.requires_grad])
            for network in method.networks.values()
        ]
    )
    train_loop(settings, training, context.accelerator, 4)
    unet, encoder = zip(*seen, strict=True)
    assert not torch.equal(encoder[0], encoder[1]) and torch.equal(encoder[1], encoder[2]) and torch.equal(encoder[1], encoder[3])
    assert all(not torch.equal(one, other) for one, other in zip(unet[:-1], unet[1:], strict=True))
