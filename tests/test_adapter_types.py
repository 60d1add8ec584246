"""Every adapter and every variant of LoRA: its layer against the formula of its paper in float64, and a run from training over
files and checkpoints to images, in the same way for all of them."""

import copy
import json
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from kit import prepared, settings_for, train_loop
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from customize import adapters
from customize.adapters import peft_layers
from customize.adapters.lora_keys import sorted_out
from customize.adapters.peft_layers import NAME
from customize.adapters.timestep_rank import TimestepRank
from customize.cli.flags.settings_from_files import read_settings
from customize.errors import InputError
from customize.evaluation.learned_change import kept, relative_change
from customize.inference.pipeline import Pipeline
from customize.inference.pipeline_loading import load_pipeline
from customize.methods import DreamBoothSettings
from customize.optim import optimizers
from customize.settings.field import table
from customize.storage import checkpoint
from customize.training import loop, model_card
from customize.weights.learned_weights import find_learned

CASES = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "pissa": {"init_lora_weights": "pissa"},
    "tlora": {"tlora_min_rank": 1, "tlora_alpha": 2.0},
    "ranks": {"rank_pattern": ("convolutions=2", "down_blocks.0=6"), "lora_alpha": None},
    "loha": {"adapter": "loha"},
    "lokr": {"adapter": "lokr", "rank": 1, "decompose_factor": 4},
    "lokr, both in factors": {"adapter": "lokr", "rank": 1, "decompose_both": True},
    "oft": {"adapter": "oft", "oft_block_size": 8},
    "boft": {"adapter": "boft", "boft_block_size": 4, "boft_n_butterfly_factor": 3},
}


def runs(*often: str, without: str = "") -> list:
    """All cases but plain LoRA, which has tests of its own; those that are not named run with the slow tests."""
    cases = [case for case in CASES if case not in ("lora", without)]
    return [case if case in often else pytest.param(case, marks=pytest.mark.slow) for case in cases]


TARGETS = {"conv": (nn.Conv2d(8, 12, 3, stride=2, padding=1), (2, 8, 6, 6)), "linear": (nn.Linear(8, 24), (2, 5, 8))}


def settings_of(case: str, **changes) -> SimpleNamespace:
    """The settings of DreamBooth with their defaults, as an adapter reads them."""
    own = {name: line.default for name, line in table(DreamBoothSettings).items()}
    adapter = CASES[case].get("adapter", "lora")
    own |= {name: line.default for name, line in adapters.settings_of(adapter).items()}
    return SimpleNamespace(**{**own, "adapter": adapter, "rank": 4, "lora_alpha": 3.0, **CASES[case], **changes})


class Network(nn.Module):
    """One layer, called like a denoiser: with timesteps, which only a T-LoRA reads."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return self.layer(x)


def attached(case: str, kind: str) -> tuple[Network, adapters.Adapter]:
    """A network with the adapter, whose tensors are random."""
    torch.manual_seed(5)
    module, _ = TARGETS[kind]
    network = Network(type(module)(**{**constructor(module)}))
    adapter = adapters.build(settings_of(case).adapter)
    changes = {"lora_targets": ("layer",)} | ({"rank_pattern": ("layer=2",)} if case == "ranks" else {})
    adapter.attach([network], settings_of(case, **changes), {})
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape)
    return network, adapter


def constructor(module: nn.Module) -> dict[str, object]:
    if isinstance(module, nn.Linear):
        return {"in_features": module.in_features, "out_features": module.out_features}
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    return {name: getattr(module, name) for name in names}


def rotation(blocks: Tensor) -> Tensor:
    """R = (I + Q)(I - Q)^-1 of one block."""
    skew, identity = blocks - blocks.T, torch.eye(len(blocks), dtype=torch.float64)
    return (identity + skew) @ torch.linalg.inv(identity - skew)


def oft(weight: Tensor, own: dict[str, Tensor], layer) -> Tensor:
    return torch.block_diag(*map(rotation, own["oft_blocks"])).T @ weight


def boft(weight: Tensor, own: dict[str, Tensor], layer) -> Tensor:
    """Stage i rotates the rows of W that are numbered j and j + 2^i b / 2, for all j of the pairs of a block."""
    size = own["oft_blocks"].shape[-1]
    for i, stage in enumerate(own["oft_blocks"]):
        far = 2**i * size // 2
        pairs = [j for start in range(0, len(weight), 2 * far) for j in range(start, start + far)]
        order = [row for j in pairs for row in (j, j + far)]
        whole = torch.zeros(len(weight), len(weight), dtype=torch.float64)
        whole[torch.tensor(order)[:, None], torch.tensor(order)] = torch.block_diag(*map(rotation, stage))
        weight = whole @ weight
    return weight


def kron(one: Tensor, two: Tensor) -> Tensor:
    return torch.cat([torch.cat([number * two for number in row], 1) for row in one])


def lokr(weight: Tensor, own: dict[str, Tensor], layer) -> Tensor:
    one = own["lokr_w1"] if "lokr_w1" in own else own["lokr_w1_a"] @ own["lokr_w1_b"]
    return weight + 3.0 / 1 * kron(one, own["lokr_w2_a"] @ own["lokr_w2_b"])


def loha(weight: Tensor, own: dict[str, Tensor], layer) -> Tensor:
    return weight + 3.0 / 4 * (own["hada_w1_a"] @ own["hada_w1_b"]) * (own["hada_w2_a"] @ own["hada_w2_b"])


def lora(scale: float = 3.0 / 4) -> Callable:
    return lambda weight, own, layer: weight + scale * own["lora_B"] @ own["lora_A"]


def dora(weight: Tensor, own: dict[str, Tensor], layer) -> Tensor:
    whole = lora()(weight, own, layer)
    return own["lora_magnitude_vector"].reshape(-1, 1) * whole / whole.norm(dim=1, keepdim=True).detach()


def pissa(weight: Tensor, own: dict[str, Tensor], layer) -> Tensor:
    """W_res + s B A, where W_res = W - s B0 A0 has all but the largest singular values of W."""
    left, values, right = torch.linalg.svd(weight)
    values[:4] = 0
    residual = left[:, : len(values)] * values @ right[: len(values)]
    return residual + 3.0 / 4 * own["lora_B"] @ own["lora_A"]


FORMULAS = {
    "lora": lora(), "dora": dora, "rslora": lora(3.0 / 2), "orthogonal": lora(), "pissa": pissa, "ranks": lora(2.0 / 2),
    "loha": loha, "lokr": lokr, "lokr, both in factors": lokr, "oft": oft, "boft": boft,
}  # fmt: skip


def own_tensors(layer) -> dict[str, Tensor]:
    """The trained tensors as matrices in float64, by the kind in their names."""
    named = {name.split(".")[0]: parameter for name, parameter in layer.named_parameters() if parameter.requires_grad}
    flat = {kind: each.detach().double() for kind, each in named.items()}
    return {kind: (each.flatten(1) if each.dim() == 4 and kind != "oft_blocks" else each) for kind, each in flat.items()}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("case", FORMULAS)
def test_layer_and_gradient_are_the_formula(case, kind):
    network, adapter = attached(case, kind)
    layer, x = network.layer, torch.randn(TARGETS[kind][1])
    output = network(x, torch.tensor([1, 2]))
    output.square().sum().backward()
    own = {name: tensor.requires_grad_() for name, tensor in own_tensors(layer).items()}
    base = layer.get_base_layer()
    weight = FORMULAS[case](base.weight.detach().double().flatten(1), own, layer).view(base.weight.shape)
    if kind == "conv":
        expected = F.conv2d(x.double(), weight, base.bias.double(), base.stride, base.padding)
    else:
        expected = F.linear(x.double(), weight, base.bias.double())
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=2e-5)
    expected.square().sum().backward()
    found = {name.split(".")[0]: each.grad for name, each in layer.named_parameters() if each.requires_grad}
    for name, tensor in own.items():
        gradient = found[name].double().reshape(tensor.shape)
        assert (gradient - tensor.grad).abs().max() <= 2e-5 * tensor.grad.abs().max(), name
    with adapter.disabled(network):
        assert torch.equal(network(x, torch.tensor([1, 2])), base(x))
    assert torch.equal(network(x, torch.tensor([1, 2])), output)


@pytest.mark.parametrize("kind", TARGETS)
def test_each_sample_of_a_t_lora_has_the_ranks_of_its_timestep(kind):
    """r(t) = floor(((T - t) / T)^a (r - r_min)) + r_min, with T = 1000, r = 4, r_min = 1, a = 2."""
    network, _ = attached("tlora", kind)
    layer, x = network.layer, torch.randn(TARGETS[kind][1])
    base, own = layer.get_base_layer(), own_tensors(network.layer)
    output = network(x, torch.tensor([0, 999]))
    for row, ranks in ((0, 4), (1, 1)):
        change = 3.0 / 4 * own["lora_B"][:, :ranks] @ own["lora_A"][:ranks]
        weight = base.weight.double() + change.view(base.weight.shape)
        args = (base.bias.double(), base.stride, base.padding) if kind == "conv" else (base.bias.double(),)
        expected = (F.conv2d if kind == "conv" else F.linear)(x[row : row + 1].double(), weight, *args)
        torch.testing.assert_close(output[row : row + 1].double(), expected, rtol=1e-5, atol=2e-5)
    by_hand = {0: 4, 1: 3, 183: 3, 184: 2, 422: 2, 423: 1, 999: 1}  # 0.817^2 * 3 = 2.0025, 0.816^2 * 3 = 1.9976, 0.578^2 ...
    found = TimestepRank(1, 2.0).kept(torch.tensor([*by_hand]), 4)
    assert found.tolist() == [*by_hand.values()]
    assert TimestepRank(8, 1.0).kept(torch.tensor([0, 500, 999]), 4).tolist() == [4, 4, 4]


def test_a_t_lora_has_its_ranks_in_the_backward_pass_too(tiny_epsilon, image_folder, tmp_path):
    """Where activations are computed again after the teacher's forward pass, which has fewer samples, gradients are the same."""
    found = []
    for checkpointing in (False, True):
        changes = {"tlora_min_rank": 1, "prior_preservation": "teacher", "class_prompt": "a photo of dog", "train_batch_size": 2}
        settings = settings_for(
            "lora", tiny_epsilon, image_folder, tmp_path / "run", **changes, gradient_checkpointing=checkpointing
        )
        _, training = prepared(settings)
        training.method.train()
        for batch in training.dataset.deal(0, range(2)):
            training.method(batch).sum().backward()
        found.append({name: p.grad for name, p in training.method.named_parameters() if p.requires_grad and p.grad.any()})
    plain, checkpointed = found
    assert plain.keys() == checkpointed.keys() and plain
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("case", "start"), [("orthogonal", 1e-6), ("pissa", 1e-5), ("loha", 0), ("lokr", 0), ("oft", 0), ("boft", 0)]
)
def test_an_adapter_starts_as_the_base_model(case, start):
    torch.manual_seed(1)
    network = Network(nn.Linear(8, 24))
    x = torch.randn(3, 8)
    before = network(x, torch.tensor([1]))
    adapters.build(settings_of(case).adapter).attach([network], settings_of(case, lora_targets=("layer",)), {})
    assert (network(x, torch.tensor([1])) - before).abs().max() <= {"orthogonal": 1e-6, "pissa": 1e-5}.get(case, 0)
    own = own_tensors(network.layer)
    if case == "orthogonal":
        assert (own["lora_B"] @ own["lora_A"]).abs().max() < 1e-6 < own["lora_B"].abs().max()
    if case == "pissa":
        weight = network.layer.get_base_layer().weight.detach().double()
        best = 3.0 / 4 * own["lora_B"] @ own["lora_A"]
        error, values = (weight - best).square().sum().item(), torch.linalg.svdvals(weight)
        assert error == pytest.approx(values[4:].square().sum().item(), rel=1e-4)


def latents_of(pipeline: Pipeline) -> Tensor:
    return pipeline.generate("a photo of sks dog", num_inference_steps=2, seeds=2, output_type="latent")


@pytest.fixture(scope="module")
def plain(tiny_epsilon) -> Tensor:
    return latents_of(load_pipeline(str(tiny_epsilon)))


class First(loop.Callback):
    """Keeps the checkpoint of the first step."""

    def after_step(self, state, metrics) -> None:
        if state.step == 1:
            self.checkpoint = copy.deepcopy(state.checkpoint())


@pytest.fixture(scope="module")
def trained(tiny_epsilon, image_folder, tmp_path_factory):
    """A function: the settings of a case, what was trained, the image in memory, and the folder with the files."""

    @cache
    def trained(case: str) -> SimpleNamespace:
        folder = tmp_path_factory.mktemp("run")
        adapter = CASES[case].get("adapter", "lora")
        own = {} if adapter in ("oft", "boft") else {"rank": 4, "lora_alpha": 2.0}
        own |= {"adapter": adapter, "lora_targets": ("attention", "conv1", "conv_in"), "train_text_encoder": True, **CASES[case]}
        settings = settings_for(adapter, tiny_epsilon, image_folder, folder / "run", learning_rate=0.02, max_train_steps=2, **own)
        context, training = prepared(settings)
        first = First()
        state = train_loop(settings, training, context.accelerator, 2, [first])
        method = training.method.eval()
        saved = checkpoint.save(folder / "checkpoints", state.checkpoint(), method.description())
        files = method.save(folder, model_card.metadata(settings, method, context.family, 2))
        latents = latents_of(Pipeline(context.family))
        learned = {name: each.detach().clone() for name, each in method.trainable_state_dict().items()}
        return SimpleNamespace(
            settings=settings, family=context.family, method=method, first=first.checkpoint, checkpoint=saved, files=files,
            latents=latents, learned=learned,
        )  # fmt: skip

    return trained


@pytest.mark.parametrize("case", runs("pissa", "tlora", "oft"))
def test_the_file_gives_the_image_of_the_run(case, trained, plain, tiny_epsilon):
    run = trained(case)
    tolerance = 1e-4 if case == "pissa" else 0  # whose file has the sum of two products
    for file in run.files:
        pipeline = load_pipeline(str(tiny_epsilon), [(file, 1.0)])
        found = latents_of(pipeline)
        assert (found - run.latents).abs().max() <= tolerance and (found - plain).abs().max() > 1e-2
        assert ["T-LoRA" in note for note in pipeline.notes] == [True] * (case == "tlora")
    pipeline.weights.scales = (0.0,)
    assert torch.equal(latents_of(pipeline), plain)
    with run.method.adapter.disabled(*run.method.networks.values()):
        assert torch.equal(latents_of(Pipeline(run.family)), plain)


@pytest.mark.parametrize("case", runs("oft"))
def test_a_resumed_run_ends_with_the_same_bits(case, trained):
    run = trained(case)
    context, training = prepared(run.settings, first_step=1)
    train_loop(run.settings, training, context.accelerator, 2, resume=run.first)
    again = training.method.trainable_state_dict()
    assert again.keys() == run.learned.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in run.learned.items())


@pytest.mark.parametrize("case", runs("pissa", "oft"))
def test_a_checkpoint_is_loaded_as_weights(case, trained, tiny_epsilon):
    run = trained(case)
    weights = [(run.checkpoint, 1.0)]
    if case == "pissa":
        with pytest.raises(InputError, match="starts by pissa, whose factors are not its change"):
            load_pipeline(str(tiny_epsilon), weights)
    else:
        assert torch.equal(latents_of(load_pipeline(str(tiny_epsilon), weights)), run.latents)


@pytest.mark.parametrize("case", runs("pissa", without="tlora"))
def test_merged_it_is_the_same_model(case, trained, tiny_epsilon):
    run = trained(case)
    pipeline = load_pipeline(str(tiny_epsilon), [(run.files[0], 1.0)])
    with torch.no_grad():
        for network in pipeline.family.trainable.values():
            peft_layers.merge(network)
    assert not peft_layers.tuner_layers(*pipeline.family.trainable.values())
    assert (latents_of(pipeline) - run.latents).abs().max() < 1e-4


@pytest.mark.parametrize("case", runs("oft"))
def test_a_new_run_starts_from_the_file(case, trained, tiny_epsilon, image_folder, tmp_path):
    run = trained(case)
    own = {"instance_prompt": "a photo of sks dog", "instance_data_dir": str(image_folder), "validation_prompt": None}
    own |= {"pretrained_model_name_or_path": str(tiny_epsilon), "report_to": ("none",), "output_dir": str(tmp_path / "run")}
    settings = read_settings(DreamBoothSettings, init_weights=str(run.files[0]), **own)
    context, training = prepared(settings)
    training.method.eval()
    assert settings.adapter == run.settings.adapter and settings.train_text_encoder
    assert (latents_of(Pipeline(context.family)) - run.latents).abs().max() < 1e-4


@pytest.mark.parametrize(("given", "share"), [({}, 0.0), ({"adam_weight_decay": 0.1}, (1 - 1e-3 * 0.1) ** 2 - 1)])
def test_weight_decay_takes_nothing_of_the_weights_that_a_pissa_starts_with(given, share):
    """A step of AdamW without gradients: s (B A - B0 A0) is ((1 - r d)^2 - 1) s B0 A0, which is 0 by default."""
    start = {"instance_prompt": "a sks dog", "instance_data_dir": "x", "adapter": "lora", "init_lora_weights": "pissa"}
    settings = DreamBoothSettings(**start, **given)
    network = Network(nn.Linear(12, 8))
    adapters.build("lora").attach([network], settings_of("pissa", lora_targets=("layer",)), {})
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizers.build(settings, [{"params": trained, "lr": 1e-3}]).step()
    layer = network.layer
    change = layer.lora_B[NAME].weight.double() @ layer.lora_A[NAME].weight.double()
    start = layer.start_B.double() @ layer.start_A.double()
    assert (change - start - share * start).abs().max() < 1e-6 * start.abs().max() and start.abs().max() > 0.01


def test_the_file_of_a_pissa_is_what_was_learned(trained):
    """s (B A - B0 A0) in float64, of every layer, in both files."""
    run = trained("pissa")
    layers = {
        f"{part}.{name}": layer
        for part, network in run.method.networks.items()
        for name, layer in network.named_modules()
        if peft_layers.is_tuner_layer(layer)
    }
    for file in run.files:
        found, number = load_file(file), 0
        names = run.family.spec.networks
        modules = {part: [name for name, _ in network.named_modules() if name] for part, network in run.method.networks.items()}
        sorted_tensors, _ = sorted_out(found, modules, names)
        for (part, module), own in sorted_tensors.items():
            layer, own = layers[f"{part}.{module}"], {kind: each.double().flatten(1) for kind, each in own.items() if each.dim()}
            down, up = (each[NAME].weight.detach().double().flatten(1) for each in (layer.lora_A, layer.lora_B))
            start = layer.start_B.double().flatten(1) @ layer.start_A.double().flatten(1)
            expected = 2.0 / 4 * (up @ down - start)
            assert own["A"].shape[0] == 8 and (own["B"] @ own["A"] - expected).abs().max() < 1e-6
            number += 1
        assert number == len(layers)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["loha", "lokr", "lokr, both in factors", "oft", "boft"])
def test_lycoris_computes_the_same_change_of_the_file(case, trained):
    """Its functions, given the tensors of the file, within 1e-6."""
    functional = pytest.importorskip("lycoris.functional")
    run = trained(case)
    found, seen = load_file(run.files[0]), 0
    modules = {part: dict(network.named_modules()) for part, network in run.method.networks.items()}
    sorted_tensors, _ = sorted_out(found, modules, run.family.spec.networks)
    for (part, module), own in sorted_tensors.items():
        layer = modules[part][module]
        weight, alpha = layer.get_base_layer().weight, float(own["alpha"])
        if "hada_w1_a" in own:
            kinds = ("hada_w1_b", "hada_w1_a", "hada_w2_b", "hada_w2_a")
            theirs = functional.loha.diff_weight(*(own[kind] for kind in kinds), None, None, gamma=torch.tensor(alpha / 4))
        elif "oft_blocks" in own:
            apply = functional.boft.diff_weight if own["oft_blocks"].dim() == 4 else functional.diag_oft.diff_weight
            theirs = apply(weight, own["oft_blocks"], None, constraint=alpha * len(weight))
        else:
            kinds = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
            is_full = {"lokr_w1", "lokr_w2"} <= own.keys()
            theirs = functional.lokr.diff_weight(*(own.get(kind) for kind in kinds), gamma=1.0 if is_full else alpha / 1)
        assert (theirs.reshape(weight.shape) - layer.get_delta_weight(NAME)).abs().max() < 1e-6
        seen += 1
    assert seen == len(peft_layers.tuner_layers(*run.method.networks.values()))


def test_a_file_is_in_the_layout_of_lycoris(trained):
    """Names of modules are kohya's, every layer has its alpha, and the metadata name the algorithm."""
    [file] = find_learned("demo", [(trained("oft").files[0], 1.0)]).files
    stems = {name.rpartition(".")[0] for name in file.header.tensors}
    assert all({f"{stem}.oft_blocks", f"{stem}.alpha"} <= file.header.tensors.keys() for stem in stems)
    assert {stem.split("_")[1] for stem in stems} == {"unet", "te"} and "lora_unet_conv_in" in stems
    assert file.header.metadata["ss_network_module"] == "lycoris.kohya"
    assert json.loads(file.header.metadata["ss_network_args"]) == {"algo": "diag-oft"}
    assert file.adapter is None and not file.leaves_weights


def test_how_much_a_run_changed_is_measured_of_the_weights(trained):
    """|dW| / |W| over all layers; the tensors of an OFT, which start at 0, are no measure."""
    run = trained("oft")
    now = kept(run.method)
    start = {name: torch.zeros_like(sample) for name, sample in now.items()}
    changed = total = 0.0
    for layer in peft_layers.tuner_layers(*run.method.networks.values()):
        weight = layer.get_base_layer().weight.detach().double()
        delta = oft(weight.flatten(1), own_tensors(layer), layer) - weight.flatten(1)
        step = max(1, delta.numel() // 4096)
        changed += delta.flatten()[::step].square().sum().item()
        total += weight.flatten()[::step].square().sum().item()
    assert relative_change(run.method, start, now) == pytest.approx((changed / total) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("case", ["loha", "lokr", "oft"])
def test_a_change_is_computed_in_float32_under_autocast(case):
    """So that a run in half precision has the weights of its file."""
    layer = attached(case, "linear")[0].layer
    expected = layer.get_delta_weight(NAME)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.get_delta_weight(NAME), expected)
