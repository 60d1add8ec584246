"""The reported effect of a run, against sums over the complete matrices."""

import math
from dataclasses import replace

import pytest
import torch
from kit import prepared, settings_for, train_loop

from customize.evaluation.learned_change import Change, adapted, kept, relative_change
from customize.evaluation.probe_loss import Probe


def probed(method, base, image_folder, folder, steps, **changes):
    settings = settings_for(method, base, image_folder, folder, max_train_steps=steps, **changes)
    context, training = prepared(settings)
    accelerator = context.accelerator
    probe = Probe(training.method, {"training": training.dataset.probe(8)}, accelerator.device, 3, accelerator.autocast)
    before = {name: tensor.detach().double().clone() for name, tensor in training.method.trainable_state_dict().items()}
    train_loop(settings, training, accelerator, steps)
    return probe, before, training


def test_a_lora_against_whole_matrices(tiny_epsilon, image_folder, tmp_path):
    probe, _, training = probed(
        "lora", tiny_epsilon, image_folder, tmp_path, 3, lora_targets=("attention", "conv1"), learning_rate=1e-2
    )
    changed = total = 0.0
    for layer in adapted(training.method).values():
        changed += layer.get_delta_weight("default").double().square().sum().item()
        total += layer.get_base_layer().weight.double().square().sum().item()
    change = probe.measure().change
    assert change.weights == pytest.approx(math.sqrt(changed / total), rel=1e-5) and change.verdict == "learned"
    with torch.no_grad():
        batch = training.dataset.probe(8)
        training.method.eval()
        now = training.method.prediction(batch)
        with training.method.adapter.disabled(*training.method.children()):
            base = training.method.prediction(batch)
    assert change.predictions == pytest.approx(((now - base).norm() / base.norm()).item(), rel=1e-4)
    assert change.loss[0] == pytest.approx((base - batch.noise).square().mean().item(), rel=1e-5)
    assert change.loss[1] == pytest.approx((now - batch.noise).square().mean().item(), rel=1e-5)
    assert len(set(batch.timesteps.tolist())) == 8 and batch.timesteps.min() < 100 and batch.timesteps.max() > 900


def test_an_adapter_without_factors_is_measured_by_its_change_of_weights_or_its_parameters(
    tiny_epsilon, image_folder, tmp_path, monkeypatch
):
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path, max_train_steps=2, learning_rate=1e-2)
    context, training = prepared(settings)
    method = training.method

    def measured():
        """What is kept of the weights: of factors, of the change of W, and of the parameters themselves."""
        found = [kept(method)]
        with monkeypatch.context() as patch:
            for missing in ("factors", "delta_weight"):
                patch.setattr(method.adapter, missing, lambda *_: None)
                found.append(kept(method))
        return found

    def parameters():
        return {name: tensor.detach().double().clone() for name, tensor in method.trainable_state_dict().items()}

    start, before = measured(), parameters()
    train_loop(settings, training, context.accelerator, 2)
    of_factors, of_weights, of_parameters = (relative_change(method, *each) for each in zip(start, measured(), strict=True))
    assert of_weights == pytest.approx(of_factors, rel=1e-5) and 1e-4 < of_factors < 1
    changed = sum((tensor - before[name]).square().sum().item() for name, tensor in parameters().items())
    total = sum(tensor.square().sum().item() for tensor in before.values())
    assert of_parameters == pytest.approx(math.sqrt(changed / total), rel=1e-5) != pytest.approx(of_factors, rel=1e-2)


@pytest.mark.parametrize("method", ["textual_inversion", "full"])
def test_words_and_networks_against_all_their_numbers(method, tiny_epsilon, image_folder, tmp_path):
    probe, before, training = probed(method, tiny_epsilon, image_folder, tmp_path, 2)
    now = training.method.trainable_state_dict()
    changed = sum((now[name].double() - tensor).square().sum().item() for name, tensor in before.items())
    total = sum(tensor.square().sum().item() for tensor in before.values())
    assert probe.measure().change.weights == pytest.approx(math.sqrt(changed / total), rel=1e-4)


def test_measuring_changes_no_bit(tiny_epsilon, image_folder, tmp_path):
    """With dropout, which draws from torch's own generator."""
    changes = {"lora_dropout": 0.3, "learning_rate": 1e-2}
    _, _, one = probed("lora", tiny_epsilon, image_folder, tmp_path, 3, **changes)
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path, max_train_steps=3, **changes)
    context, other = prepared(settings)
    train_loop(settings, other, context.accelerator, 3)
    assert all(
        torch.equal(tensor, other.method.trainable_state_dict()[name])
        for name, tensor in one.method.trainable_state_dict().items()
    )


def test_the_loss_is_that_of_what_a_mask_selects(tiny_epsilon, image_folder, tmp_path):
    """Of the left half of each image, as it is trained."""
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path, aspect_ratio_buckets=None)
    context, training = prepared(settings)
    batch, method = training.dataset.probe(8), training.method.eval()
    left = torch.zeros(8, 1, *batch.latents.shape[2:])
    left[..., :4] = left.shape[3] / 4
    batch = replace(batch, loss_mask=left)
    probe = Probe(method, {"training": batch}, context.accelerator.device, 3, context.accelerator.autocast)
    with torch.no_grad():
        expected = (method.prediction(batch) - batch.noise)[..., :4].square().mean((1, 2, 3))
        torch.testing.assert_close(method(batch), expected, rtol=1e-5, atol=0)
    assert probe.base["training"][1].mean().item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_no_change_and_far_too_large_changes_are_reported(tiny_epsilon, image_folder, tmp_path):
    probe, *_ = probed("lora", tiny_epsilon, image_folder, tmp_path, 2, learning_rate=1e-6)
    change = probe.measure().change
    assert change.verdict == "hardly" and "more steps or a higher --learning_rate" in str(change)
    probe, *_ = probed("lora", tiny_epsilon, image_folder, tmp_path, 4, learning_rate=10.0)
    change = probe.measure().change
    assert change.verdict == "exploded" and "training diverged" in str(change)


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (Change(0.02, 0.08, (0.2, 0.18)), "learned", "changed: weights by 2 %, predictions by 8 %; the loss on 8 fixed samples"),
        (Change(0.0001, 0.0001, (0.2, 0.2)), "hardly", "weights by 0.01 %, predictions by 0.01 %"),
        (Change(0.0, 0.0, (0.2, 0.2)), "hardly", "weights by 0 %, predictions by 0 %"),
        (Change(1.4, 2.5, (0.2, 0.4)), "exploded", "from 0.2000 to 0.4000 (weights by 140 %, predictions by 250 %)"),
        (Change(0.1, float("nan"), (0.2, 0.2)), "exploded", "start over with a lower --learning_rate"),
        (Change(0.1, 0.5, (0.2, float("inf"))), "exploded", "training diverged"),
        (Change(0.1, 0.5, (0.2, 0.25)), "learned", "0.2500"),
        (Change(1.5, 0.5, (1.1, 1.0)), "exploded", "weights by 150 %"),
        (Change(4.0, 0.5, (0.2, 0.19), math.inf), "learned", "weights by 400 %"),
    ],
)  # fmt: skip
def test_the_words_for_it(change, verdict, words):
    assert change.verdict == verdict and words in str(change)
