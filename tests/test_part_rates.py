"""A rate, a warm-up and an end for each part of what is trained, and factors of the rates of blocks and layers."""

import json
import re

import pytest
import torch
from kit import prepared, settings_for, train_loop, write_images
from test_adapter_targets import unet

from customize.adapters import parameter_groups
from customize.cli.imports import kohya_blocks
from customize.cli.imports.translation import Reading
from customize.errors import InputError
from customize.families.stable_diffusion import LORA_TARGETS
from customize.methods import DreamBoothSettings
from customize.optim.learning_rates import LearningRates
from customize.settings import derived
from customize.training.loop import Callback

PATTERN = ("attn2.to_k=3", "mid_block=0.5", "up_blocks.*=0", "attention=2")


def factor_of(name: str) -> float:
    """What `PATTERN` says of a parameter, by its name in a network."""
    if ".attn2.to_k." in name:
        return 3.0
    if name.startswith("mid_block."):
        return 0.5
    if name.startswith("up_blocks."):
        return 0.0
    return 2.0 if re.search(r"\.to_(q|k|v|out\.0)\.", name) else 1.0


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("pictures"))


class Gradients(Callback):
    """Keeps the gradients and the gradient norm of each step before it is made, and the weights after it."""

    def __init__(self, method):
        self.networks, self.gradients, self.norms, self.weights = method.networks, [], [], []

    def tensors(self, of):
        own = {(part, name): of(p) for part, network in self.networks.items() for name, p in network.named_parameters()}
        return {key: tensor.detach().double().clone() for key, tensor in own.items() if tensor is not None}

    def before_step(self, state, metrics):
        self.gradients.append(self.tensors(lambda p: p.grad))
        self.norms.append(metrics.gradient_norm)

    def after_step(self, state, metrics):
        self.weights.append(self.tensors(lambda p: p if p.requires_grad else None))


@pytest.mark.parametrize(
    ("method", "changes", "scheduler"),
    [
        ("full", {}, "constant"),
        ("lora", {"loraplus_lr_ratio": 4.0, "lora_targets": ("attention", "convolutions", "feed-forward")}, "linear"),
        pytest.param(
            "lora", {"adapter": "loha", "lora_targets": ("attention", "convolutions")}, "linear", marks=pytest.mark.slow
        ),
    ],
)
def test_each_layer_moves_at_its_own_rate(method, changes, scheduler, tiny_epsilon, image_folder, tmp_path):
    """The weights after the first step of AdamW, in float64: w (1 - r d) - r g / (|g| + eps), at the rate r of its layer."""
    own = {"train_text_encoder": True, "text_encoder_learning_rate": (1e-4,), "lr_pattern": PATTERN, "max_grad_norm": 0.1}
    settings = settings_for(
        method, tiny_epsilon, image_folder, tmp_path / "run", **own, **changes, adam_weight_decay=0.1, lr_scheduler=scheduler
    )
    context, training = prepared(settings)
    seen = Gradients(training.method)
    before = seen.tensors(lambda p: p if p.requires_grad else None)
    train_loop(settings, training, context.accelerator, 4, [seen])
    [gradients, *_], [after, *_] = seen.gradients, seen.weights
    factors, ratio = set(), changes.get("loraplus_lr_ratio", 1.0)
    for (part, name), start in before.items():
        factor = factor_of(name) if part == "unet" else 2.0 if re.search(r"\.(q|k|v|out)_proj\.", name) else 1.0
        rate = factor * (1e-3 if part == "unet" else 1e-4) * (ratio if "lora_B" in name else 1.0)
        factors.add(factor)
        if factor == 0:
            assert (part, name) not in gradients and torch.equal(after[part, name], start), name
            continue
        gradient = gradients[part, name]
        expected = start * (1 - rate * 0.1) - rate * gradient / (gradient.abs() + settings.adam_epsilon)
        torch.testing.assert_close(after[part, name], expected, rtol=1e-5, atol=rate * 1e-3)
    assert factors == {0.0, 0.5, 1.0, 2.0, 3.0}
    norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm().item()
    assert norm == pytest.approx(0.1, rel=1e-4) and seen.norms[0] > 0.1  # clipped without what does not learn


def test_factors_of_parts_by_name():
    """On the real architecture, of all weights: each parameter has the factor of the first part that its layer is in."""
    network = unet("sd15")
    [found] = parameter_groups.factors_of([network], PATTERN, LORA_TARGETS)
    expected = {name: factor_of(name) for name, _ in network.named_parameters() if factor_of(name) != 1}
    assert found == expected and len({*expected.values()}) == 4
    assert parameter_groups.factors_of([network], (), LORA_TARGETS) == [{}]
    with pytest.raises(InputError, match="lr_pattern: mid_blok has no layer that is trained"):
        parameter_groups.factors_of([network], ("mid_block=1", "mid_blok=2"), LORA_TARGETS)
    with pytest.raises(InputError, match="leaves nothing to be trained"):
        parameter_groups.factors_of([network], ("*=0",), LORA_TARGETS)


def test_a_network_keeps_its_weights_after_its_part_and_counts_no_more_in_the_norm(tiny_epsilon, image_folder, tmp_path):
    changes = {"train_text_encoder": True, "unet_train_fraction": 0.5, "max_train_steps": 4, "max_grad_norm": 0.01}
    settings = settings_for("full", tiny_epsilon, image_folder, tmp_path / "run", **changes)
    assert settings.depends_on_length and not settings.model_copy(update={"unet_train_fraction": 1.0}).depends_on_length
    context, training = prepared(settings)
    seen = Gradients(training.method)
    train_loop(settings, training, context.accelerator, 4, [seen])
    unet, encoder = (
        [torch.cat([each.flatten() for (part, _), each in step.items() if part == own]) for step in seen.weights]
        for own in ("unet", "text_encoder")
    )
    assert not torch.equal(unet[0], unet[1]) and torch.equal(unet[1], unet[2]) and torch.equal(unet[1], unet[3])
    assert all(not torch.equal(one, other) for one, other in zip(encoder[:-1], encoder[1:], strict=True))
    for gradients in seen.gradients:
        assert torch.cat([each.flatten() for each in gradients.values()]).norm().item() == pytest.approx(0.01, rel=1e-4)
    assert all({part for part, _ in gradients} == {"text_encoder"} for gradients in seen.gradients[2:])


def test_text_encoders_have_a_warm_up_of_their_own(tiny_epsilon, image_folder, tmp_path):
    changes = {"train_text_encoder": True, "text_encoder_lr_warmup_steps": 4, "lr_warmup_steps": 2, "lr_scheduler": "linear"}
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **changes)
    _, training = prepared(settings)
    rates = LearningRates(settings, training.method.build_optimizer(settings), 10, scale=1)
    found = []
    for step in range(10):
        rates.set(step)
        found.append([group["lr"] for group in rates.optimizer.param_groups])
    expected = [
        [1e-3 * (step / warmup if step < warmup else (10 - step) / (10 - warmup)) for warmup in (2, 4)] for step in range(10)
    ]
    assert found == [pytest.approx(each) for each in expected]
    identity = derived.learning_rates(settings, [3], 1)
    assert identity["lr_warmup_steps"] == 2 and identity["text_encoder_lr_warmup_steps"] == 4
    same = settings.model_copy(update={"text_encoder_lr_warmup_steps": 2})
    assert "text_encoder_lr_warmup_steps" not in derived.learning_rates(same, [3], 1)


@pytest.mark.parametrize(
    ("given", "where", "what"),
    [
        ({"unet_train_fraction": 0.5}, "unet_train_fraction", "nothing would be trained after 0.5 of the steps"),
        ({"unet_train_fraction": 0.5, "train_text_encoder": True, "text_encoder_train_fraction": 0.75},
         "unet_train_fraction", "nothing would be trained after 0.75 of the steps"),
        ({"unet_train_fraction": 0}, "unet_train_fraction", "is not"),
        ({"unet_train_fraction": float("nan")}, "unet_train_fraction", "is not"),
        ({"train_text_encoder": True, "text_encoder_lr_warmup_steps": 5}, "text_encoder_lr_warmup_steps",
         "has no effect: lr_scheduler = constant has no warm-up"),
        ({"train_text_encoder": True, "text_encoder_lr_warmup_steps": 800, "lr_scheduler": "cosine"},
         "text_encoder_lr_warmup_steps", "800 of 800 steps"),
        ({"text_encoder_lr_warmup_steps": 5, "lr_scheduler": "cosine"}, "text_encoder_lr_warmup_steps", "has no effect without"),
        ({"lr_pattern": ("mid_block=1",), "optimizer": "prodigy"}, "lr_pattern", "not combined with prodigy"),
        *(({"lr_pattern": (f"mid_block={value}",)}, "lr_pattern", "is not PART=FACTOR")
          for value in ("", "-1", "nan", "inf", "1e3", "1001", "0x1", "1,5", "\u0663")),
        ({"lr_pattern": ("mid_block",)}, "lr_pattern", "is not PART=FACTOR"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(given, where, what):
    with pytest.raises(InputError) as raised:
        DreamBoothSettings(instance_prompt="a photo of sks dog", instance_data_dir="images", **given)
    assert [each for each in raised.value.problems if each.where == where and what in each.what], raised.value.problems


def kohyas_block(name: str) -> int:
    """The block of a layer of Stable Diffusion 1.5, as `get_block_index` of sd-scripts' networks/lora.py counts them."""
    if name.startswith("mid_block."):
        return 12
    side, level, kind, place = re.match(r"(down|up)_blocks\.(\d)\.([a-z]+)\.(\d)", name).groups()
    index = 3 * int(level) + (2 if kind.endswith("samplers") else int(place))
    return index + (1 if side == "down" else 13)


def ldms_block(name: str) -> int:
    """The block of a layer of SDXL among input_blocks (from 1), middle_block (10) and output_blocks (13), by its name there."""
    if name.startswith("mid_block."):
        return {"mid_block.resnets.0": 10, "mid_block.attentions.0": 11, "mid_block.resnets.1": 12}[".".join(name.split(".")[:3])]
    side, level, kind, place = re.match(r"(down|up)_blocks\.(\d)\.([a-z]+)\.(\d)", name).groups()
    if side == "down":
        return 1 + 3 * (int(level) + 1) if kind == "downsamplers" else 2 + 3 * int(level) + int(place)
    return 13 + 3 * int(level) + (2 if kind == "upsamplers" else int(place))


@pytest.mark.parametrize(("model", "script", "targets"), [
    ("sd15", "train_network", ["attention"]), ("sd15", "train_network", ["attention", "convolutions"]),
    ("sdxl", "sdxl_train_network", ["attention"]), ("sdxl", "sdxl_train_network", ["attention", "convolutions"]),
])  # fmt: skip
def test_the_blocks_of_sd_scripts(model, script, targets):
    """Every layer with an adapter has the factor that sd-scripts gives its block."""
    number = 12 if model == "sd15" else 9
    down, up = ([side + place / 16 for place in range(number)] for side in (2, 3))
    middle = [0.5] if model == "sd15" else [0.5, 0.25, 0.1]
    weights = {"down_lr_weight": down, "mid_lr_weight": middle, "up_lr_weight": up}
    values = {name: ",".join(map(str, each)) for name, each in weights.items()}
    found = Reading("", DreamBoothSettings, {**values, "lora_targets": targets, "block_lr_zero_threshold": "0.1"})
    kohya_blocks.of_weights(found, script)
    network = unet(model).requires_grad_(False)
    kinds = "attentions" if targets == ["attention"] else "attentions|resnets|samplers"
    layers = [name for name, _ in network.named_modules() if re.search(rf"({kinds})\..*(to_q|conv1|conv)$", name)]
    for name in layers:
        network.get_submodule(name).requires_grad_(True)
    [factors] = parameter_groups.factors_of([network], found.values["lr_pattern"], LORA_TARGETS)
    expected = [*down, *middle, *up] if model == "sd15" else [None, *down, *middle, *up]
    expected = [0.0 if factor == 0.1 else factor for factor in expected]
    block = kohyas_block if model == "sd15" else ldms_block
    assert {name: factors[f"{name}.weight"] for name in layers} == {name: expected[block(name)] for name in layers}


def test_the_rates_of_blocks_of_sd_scripts():
    """block_lr has 23 rates: embeddings, 9 + 3 + 9 blocks, and the last layers."""
    rates = [1e-5 * (number + 2) for number in range(23)]
    found = Reading("", DreamBoothSettings, {"block_lr": ",".join(map(str, rates)), "learning_rate": "1e-5"})
    kohya_blocks.of_rates(found)
    network = unet("sdxl")
    [factors] = parameter_groups.factors_of([network], found.values["lr_pattern"], LORA_TARGETS)
    for name, _ in network.named_parameters():
        if name.startswith(("time_embedding.", "add_embedding.")):
            block = 0
        elif name.startswith(("conv_norm_out.", "conv_out.")):
            block = 22
        else:
            block = 1 if name.startswith("conv_in.") else ldms_block(name)
        assert factors[name] == pytest.approx(block + 2), name
    few = Reading("", DreamBoothSettings, {"block_lr": "1e-5,1e-5", "learning_rate": "1e-5"})
    kohya_blocks.of_rates(few)
    assert "lr_pattern" not in few.values and "is not 23 rates" in few.lines[0].words


def test_the_log_has_the_rate_of_each_group(tiny_epsilon, image_folder, tmp_path):
    from customize.training import preflight

    changes = {"lr_pattern": ("mid_block=0.5", "attn2=2"), "max_train_steps": 1}
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", **changes)
    [line] = (preflight.run(settings) / "log.jsonl").read_text().splitlines()
    logged = {name: value for name, value in json.loads(line).items() if name.startswith("learning_rate")}
    assert logged == {"learning_rate": 1e-3, "learning_rate_2": 5e-4, "learning_rate_3": 2e-3}
