"""customize resize, extract and merge: the same changes within the stated error, and refusals before anything is written."""

import copy
import re

import models
import pytest
import torch
from adapters_of_others import TEXT, UNET, File, diffusers, kohya
from layouts_of_others import built
from models import tiny_stable_diffusion, tiny_stable_diffusion_xl
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.ldm_layout import to_ldm
from customize import __main__, families
from customize.adapters.peft_layers import merge
from customize.families.files.parameters import Parameters
from customize.families.source import locate
from customize.families.whole_models.pipeline_folder import save_pipeline
from customize.weights.learned_weights import find_learned
from customize.weights.load_adapters import add_adapters
from customize.weights.tools import decomposition
from customize.weights.tools.extraction import architecture_of
from customize.weights.tools.ranks import Choice

SHAPES = {name: shape for name, shape in UNET.items()} | {"down_blocks.1.resnets.0.conv1": (64, 32, 3, 3)} | TEXT


def run(*argv: object) -> int:
    return __main__.main([*map(str, argv)])


def deltas(path) -> dict[str, torch.Tensor]:
    """alpha / rank B A of each module in float64, by its name in the file, which is kohya's or diffusers'."""
    tensors, found = load_file(path), {}
    for name, up in tensors.items():
        if name.endswith((".lora_up.weight", ".lora_B.weight")):
            stem, _, end = name.rpartition(".lora_")
            down = tensors[f"{stem}.lora_{'down' if 'up' in end else 'A'}.weight"].double()
            factor = float(tensors[f"{stem}.alpha"]) / len(down) if f"{stem}.alpha" in tensors else 1.0
            found[stem] = factor * up.double().flatten(1) @ down.flatten(1)
    return found


def assert_deltas(path, expected: dict[str, torch.Tensor], tolerance: float) -> None:
    found = deltas(path)
    assert found.keys() == expected.keys()
    for name, change in expected.items():
        torch.testing.assert_close(found[name], change.flatten(1), rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    file = File(2).lora(SHAPES, kohya, rank=lambda i: 4 + i % 3, alpha=lambda i: 2.0 + i)
    return file, file.write(
        tmp_path_factory.mktemp("lora") / "lora.safetensors", {"ss_network_dim": "6", "ss_tag_frequency": "{}"}
    )


# resize


def test_at_full_rank_the_change_stays(tiny_epsilon, lora, tmp_path, capsys):
    file, path = lora
    out = tmp_path / "out.safetensors"
    assert run("resize", path, out, "--rank", 64, "--pretrained_model_name_or_path", tiny_epsilon) == 0
    assert_deltas(out, {kohya(module): change for module, change in file.changes.items()}, 1e-6)
    text = capsys.readouterr().out
    assert "10 layers, ranks 4 to 6; 100.00 % of the energy" in text and float(re.search(r"relative error (\S+)", text)[1]) < 1e-6
    with safe_open(out, "pt") as opened:
        assert opened.metadata()["ss_network_dim"] == "6" and opened.metadata()["ss_tag_frequency"] == "{}"


def first(holds) -> int:
    """The least number from 1 on for which a condition holds."""
    return next(k for k in range(1, 99) if holds(k))


CHOICES = {
    "--rank 2": lambda s: 2,
    "--energy 0.9": lambda s: first(lambda k: (s[:k] ** 2).sum() >= 0.9 * (s**2).sum()),
    "--sv_fro 0.9": lambda s: first(lambda k: s[:k].norm() >= 0.9 * s.norm()),
    "--sv_cumulative 0.7": lambda s: first(lambda k: s[:k].sum() >= 0.7 * s.sum()),
    "--sv_ratio 2.5": lambda s: int((s > s[0] / 2.5).sum()),
    "--energy 0.99 --rank 3": lambda s: min(3, first(lambda k: (s[:k] ** 2).sum() >= 0.99 * (s**2).sum())),
}


@pytest.mark.parametrize("flags", CHOICES)
def test_each_layer_keeps_the_best_product_of_its_rank(tiny_epsilon, lora, tmp_path, capsys, flags):
    """Against numpy's decomposition of each whole change; the printed error is that of all changes together."""
    file, path = lora
    out = tmp_path / "out.safetensors"
    assert run("resize", path, out, *flags.split(), "--pretrained_model_name_or_path", tiny_epsilon) == 0
    expected, lost, whole = {}, 0.0, 0.0
    for module, change in file.changes.items():
        left, values, right = torch.linalg.svd(change.flatten(1), full_matrices=False)
        rank = CHOICES[flags](values[values > 1e-9])
        expected[kohya(module)] = left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]
        lost, whole = lost + float((values[rank:] ** 2).sum()), whole + float((values**2).sum())
        assert len(load_file(out)[f"{kohya(module)}.lora_down.weight"]) == rank
    assert_deltas(out, expected, 1e-5)
    stated = float(re.search(r"relative error (\S+)", capsys.readouterr().out)[1])
    assert stated == pytest.approx((lost / whole) ** 0.5, rel=0.02)


@pytest.mark.parametrize("name", ["LoHa", "LoKr, both in factors", "LyCORIS LoCon, Tucker core", "LoKr of peft", "float8 E4M3"])
def test_other_kinds_become_loras(tiny_epsilon, tmp_path, name):
    family = families.load(locate(str(tiny_epsilon)))
    weights = {
        f"{part}.{name}": tensor.double()
        for part, network in family.trainable.items()
        for name, tensor in network.named_parameters()
    }
    layout = built(name, weights)
    source, out = layout.write(tmp_path), tmp_path / "out.safetensors"
    base = ("--pretrained_model_name_or_path", tiny_epsilon, "--layout", "kohya-diffusers")
    assert run("resize", source, out, "--rank", 512, *base) == 0
    expected = {}
    for parameter, change in layout.changes.items():
        part, _, module = parameter.removesuffix(".weight").partition(".")
        expected[kohya(module)] = change
    assert_deltas(out, expected, 1e-5 if "float8" not in name else 2e-3)


def test_the_layout_of_the_file_is_kept(tiny_epsilon, tmp_path):
    path = File(3).lora(UNET, diffusers, ("lora_A.weight", "lora_B.weight")).write(tmp_path / "lora.safetensors")
    out = tmp_path / "out.safetensors"
    assert run("resize", path, out, "--rank", 4, "--pretrained_model_name_or_path", tiny_epsilon) == 0
    assert load_file(out).keys() == load_file(path).keys()


def test_a_known_architecture_needs_no_base(tmp_path):
    module = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    path = File(3).lora({module: (640, 640)}).write(tmp_path / "lora.safetensors")
    assert run("resize", path, tmp_path / "out.safetensors", "--rank", 1) == 0


# merge


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two LoRAs for Stable Diffusion 1.x that share a module, and a LoHa."""
    folder = tmp_path_factory.mktemp("two")
    q, k = (f"down_blocks.1.attentions.0.transformer_blocks.0.attn1.{name}" for name in ("to_q", "to_k"))
    text = "encoder.layers.3.mlp.fc1"
    first = File(1).lora({q: (640, 640), text: (3072, 768)}, alpha=lambda i: 2.0)
    second = File(2).lora({q: (640, 640), k: (640, 640)}, diffusers, ("lora_A.weight", "lora_B.weight"), rank=lambda i: 3)
    a, b, c, d = (File(3).random(*size) for size in ((640, 2), (2, 640), (640, 2), (2, 640)))
    third = File(
        3,
        {
            f"{kohya(k)}.{name}": tensor
            for name, tensor in zip(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), (a, b, c, d), strict=True)
        },
    )
    third.changes[k] = (a.double() @ b.double()) * (c.double() @ d.double())
    return [(file, file.write(folder / f"{i}.safetensors")) for i, file in enumerate((first, second, third))]


def test_adapters_are_added_up_without_a_base_model(two, tmp_path, capsys):
    (first, a), (second, b), (third, c) = two
    out = tmp_path / "out.safetensors"
    assert run("merge", f"{a}:0.5:-1", f"{b}:2", c, "--out", out) == 0
    expected: dict[str, torch.Tensor] = {}
    for file, scale in ((first, 0.5), (second, 2.0), (third, 1.0)):
        for module, change in file.changes.items():
            own = -1.0 if module.startswith("encoder.") else scale
            expected[kohya(module)] = expected.get(kohya(module), 0) + own * change
    assert_deltas(out, expected, 2e-5)
    assert "3 files merged; 3 layers, ranks 4 to 7" in capsys.readouterr().out
    assert run("merge", f"{a}:0.5:-1", f"{b}:2", c, "--out", tmp_path / "small.safetensors", "--rank", 2) == 0
    stated = float(re.search(r"relative error (\S+)", capsys.readouterr().out)[1])
    found = deltas(tmp_path / "small.safetensors")
    lost = sum(float((found[name] - change).square().sum()) for name, change in expected.items())
    assert stated == pytest.approx((lost / sum(float(change.square().sum()) for change in expected.values())) ** 0.5, rel=0.02)


def test_an_adapter_that_fits_two_base_models_is_merged_with_one_that_fits_one(two, tmp_path):
    module = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    other = File(4).lora({module: (640, 1024)}).write(tmp_path / "2x.safetensors")
    to_q = File(5).lora({module.replace("attn2.to_k", "attn1.to_q"): (640, 640)}).write(tmp_path / "both.safetensors")
    assert run("merge", to_q, other, "--out", tmp_path / "out.safetensors") == 0
    assert len(load_file(tmp_path / "out.safetensors")) == 6


def test_adapters_of_different_base_models_are_not_merged(two, tmp_path, capsys):
    module = "down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q"
    other = File(4).lora({module: (640, 640)}).write(tmp_path / "xl.safetensors")
    assert run("merge", two[0][1], other, "--out", tmp_path / "out.safetensors") == 2
    text = capsys.readouterr().err
    assert "SDXL" in text and "Stable Diffusion 1.x" in text and [each.name for each in tmp_path.iterdir()] == ["xl.safetensors"]
    assert run("merge", two[0][1], f"{other}:0@0,1@0.5", "--out", tmp_path / "out.safetensors") == 2
    assert "changes during denoising" in capsys.readouterr().err
    assert run("merge", two[0][1], "--out", tmp_path / "folder", "--rank", 3) == 2
    assert "rank: has an effect only where" in capsys.readouterr().err


# extract


def tuned_by(base, changes: dict[str, torch.Tensor], folder, **save):
    """A copy of the base with changed weights."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(base)
    with torch.no_grad():
        for module, change in changes.items():
            network = pipe.text_encoder if module.startswith("encoder.") else pipe.unet
            network.get_submodule(module).weight += change.view_as(network.get_submodule(module).weight).float()
    pipe.save_pretrained(folder, **save)
    return folder


def test_what_was_merged_is_extracted_again(tiny_epsilon, lora, tmp_path, capsys):
    """By the commands: merge into a folder, extract from it; unchanged layers are left out."""
    file, path = lora
    out = tmp_path / "out.safetensors"
    assert run("merge", path, "--base", tiny_epsilon, "--out", tmp_path / "tuned") == 0
    assert run("extract", tmp_path / "tuned", tiny_epsilon, out, "--rank", 6) == 0
    stated = float(re.search(r"relative error (\S+)", capsys.readouterr().out)[1])
    found, lost, whole = deltas(out), 0.0, 0.0
    assert found.keys() == {kohya(module) for module in file.changes}
    for module, change in file.changes.items():
        lost += float((found[kohya(module)] - change.flatten(1)).square().sum())
        whole += float(change.square().sum())
    assert (lost / whole) ** 0.5 < 1e-6 and stated < 1e-6
    with safe_open(out, "pt") as opened:
        assert '"method": "extracted"' in opened.metadata()["customize"] and str(tmp_path) not in str(opened.metadata())


def test_a_small_rank_is_stated_with_what_a_lora_cannot_hold(tiny_epsilon, tmp_path, capsys):
    module, norm = "mid_block.attentions.0.transformer_blocks.0.attn1.to_v", "mid_block.attentions.0.norm"
    generator = torch.Generator().manual_seed(1)
    changes = {module: torch.randn(64, 64, generator=generator).double(), norm: torch.ones(64).double()}
    tuned, out = tuned_by(tiny_epsilon, changes, tmp_path / "tuned"), tmp_path / "out.safetensors"
    assert run("extract", tuned, tiny_epsilon, out, "--rank", 8, "--layout", "diffusers") == 0
    values = torch.linalg.svdvals(changes[module])
    lost, whole = float((values[8:] ** 2).sum()) + 64, float((values**2).sum()) + 64
    text = capsys.readouterr()
    stated = float(re.search(r"relative error (\S+)", text.out)[1])
    assert (
        stated == pytest.approx((lost / whole) ** 0.5, rel=0.02) and "cannot hold the changes of 1 norms" in text.out + text.err
    )
    assert {name.partition(".lora_")[0] for name in load_file(out)} == {f"unet.{module}"}


@torch.no_grad()
def test_a_lora_of_sdxl_makes_the_base_into_the_tuned_model(tmp_path):
    """UNet and both text encoders; the change has a small rank, so nothing is lost."""
    folder = tiny_stable_diffusion_xl(tmp_path / "base")
    base, tuned = (families.load(locate(str(folder))) for _ in range(2))
    generator, changed = torch.Generator().manual_seed(4), []
    for part, network in tuned.trainable.items():
        for name, parameter in network.named_parameters():
            if name.endswith((".to_q.weight", ".conv1.weight", ".fc1.weight")):
                up, down = (torch.randn(size, generator=generator) for size in ((len(parameter), 2), (2, parameter[0].numel())))
                parameter += 0.1 * (up @ down).view_as(parameter)
                changed.append(f"{part}.{name}")
    (tmp_path / "tuned").mkdir()
    save_pipeline(tmp_path / "tuned", tuned, {"customize": "{}"})
    layouts = {
        "kohya": ("lora_unet_", "lora_te1_text_model_", "lora_te2_text_model_"),
        "diffusers": ("unet.", "text_encoder.", "text_encoder_2."),
    }
    for layout, starts in layouts.items():
        out = tmp_path / f"{layout}.safetensors"
        assert run("extract", tmp_path / "tuned", folder, out, "--rank", 2, "--layout", layout) == 0
        assert len({name.rpartition(".lora_")[0] for name in load_file(out) if ".lora_" in name}) == len(changed)
        assert all(any(name.startswith(start) for name in load_file(out)) for start in starts)
        own = copy.deepcopy(base)
        [adapter], _ = add_adapters(own, find_learned(str(folder), [(out, 1.0)]).files, partial=False)
        adapter.set_scale(1.0)
        for part, network in own.trainable.items():
            merge(network)
            for name, parameter in network.named_parameters():
                torch.testing.assert_close(parameter, dict(tuned.trainable[part].named_parameters())[name], rtol=0, atol=1e-5)


def test_half_precision_is_no_change(tiny_epsilon, lora, tmp_path):
    """A tuned model in float16 beside its base in float32: only what differs in float16 counts."""
    file, _ = lora
    module = next(iter(file.changes))
    tuned = tuned_by(tiny_epsilon, {module: file.changes[module]}, tmp_path / "tuned")
    for path in tuned.rglob("*model.safetensors"):
        save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    out = tmp_path / "out.safetensors"
    assert run("extract", tuned, tiny_epsilon, out, "--rank", 4) == 0
    assert deltas(out).keys() == {kohya(module)}


def test_a_base_in_half_precision_is_no_change_either(tiny_epsilon, lora, tmp_path):
    """The other way round: the tuned model in float32, its base rounded to bfloat16; the change is that of the numbers."""
    file, _ = lora
    module = next(iter(file.changes))
    tuned = tuned_by(tiny_epsilon, {module: file.changes[module]}, tmp_path / "tuned")
    base = tuned_by(tiny_epsilon, {}, tmp_path / "base")
    for path in base.rglob("*model.safetensors"):
        save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    out = tmp_path / "out.safetensors"
    assert run("extract", tuned, base, out, "--rank", 32) == 0
    before, after = (load_file(next((each / "unet").glob("*.safetensors")))[f"{module}.weight"] for each in (base, tuned))
    assert_deltas(out, {kohya(module): after.double() - before.double()}, 1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("broken", ["tuned", "base"])
def test_nan_and_infinity_are_not_extracted(tiny_epsilon, tmp_path, capsys, value, broken):
    name = next(iter(UNET))
    other = tuned_by(tiny_epsilon, {name: torch.full(UNET[name], value)}, tmp_path / "other")
    models = (other, tiny_epsilon) if broken == "tuned" else (tiny_epsilon, other)
    assert run("extract", *models, tmp_path / "out.safetensors", "--rank", 4) == 2
    assert f"unet.{name}.weight: has NaN or infinity in the {broken} model" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["other"]


def test_another_prediction_type_is_told(tiny_epsilon, lora, tmp_path, capsys):
    file, _ = lora
    module = next(iter(file.changes))
    tuned = tuned_by(tiny_epsilon, {module: file.changes[module]}, tmp_path / "tuned")
    models.change(tuned / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert run("extract", tuned, tiny_epsilon, tmp_path / "out.safetensors", "--rank", 4) == 0
    assert "use it with --prediction_type v_prediction" in "".join(capsys.readouterr())


@pytest.mark.parametrize("version", ["1.x", "2.x", "XL"])
def test_a_single_file_has_the_parameters_of_the_folder(tmp_path, version):
    """Bit for bit, with the joined projections of OpenCLIP taken apart."""
    make = tiny_stable_diffusion_xl if version == "XL" else tiny_stable_diffusion
    source = locate(str(make(tmp_path / "model")))
    architecture, family = architecture_of(source), families.load(source)
    networks = family.components
    if version == "2.x":
        networks["text_encoder"].config.hidden_act = "gelu"
    ldm = to_ldm(networks["unet"], networks["vae"], networks["text_encoder"], networks.get("text_encoder_2"))
    save_file(ldm, tmp_path / "file.safetensors")
    whole, file = Parameters(source, architecture), Parameters(locate(str(tmp_path / "file.safetensors")), architecture)
    assert file.places.keys() == whole.places.keys() and len(file.places) > 100
    for place in file.places:
        assert torch.equal(file(*place), whole(*place))


def test_a_matrix_is_its_decomposition():
    generator = torch.Generator().manual_seed(0)
    for shape in ((20, 7), (7, 20)):
        matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
        made = decomposition.of_matrix(matrix, Choice(rank=7))
        torch.testing.assert_close(made.values, torch.linalg.svdvals(matrix), rtol=0, atol=1e-10)
        up, down = made.product(Choice(rank=7))
        torch.testing.assert_close(up @ down, matrix, rtol=0, atol=1e-10)
        up, down = made.product(Choice(rank=3))
        assert made.lost(up, down) == pytest.approx(float((matrix - up @ down).square().sum()))


def test_a_few_singular_values_are_found_without_the_others():
    """By random projections: the product is as near to the matrix as the best one, to 1 in 1,000."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, 200, generator=generator, dtype=torch.float64)).Q for size in (200, 300))
    values = 0.98 ** torch.arange(200, dtype=torch.float64)
    matrix = left @ torch.diag(values) @ right.T
    choice = Choice(rank=8)
    assert choice.takes_a_few(200) and not choice.takes_a_few(90) and not Choice(rank=8, energy=0.9).takes_a_few(200)
    made = decomposition.of_matrix(matrix, choice)
    up, down = made.product(choice)
    best = float((values[8:] ** 2).sum())
    lost = float((matrix - up @ down).square().sum())
    assert best <= lost < 1.001 * best and made.lost(up, down) == pytest.approx(lost)
    up, down = up.half(), down.half()
    assert made.lost(up, down) == pytest.approx(float((matrix - up.double() @ down.double()).square().sum()))


# refusals


def test_refusals_come_together_and_write_nothing(tiny_epsilon, lora, tmp_path, capsys):
    _, path = lora
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    assert run("resize", path, out, "--rank", 0, "--energy", 2, "--layout", "x") == 2
    text = capsys.readouterr().err
    assert "4 problems" in text and "was not written by this program" in text and "rank: is 0" in text and "energy: is 2" in text
    assert run("resize", path, tmp_path / "new.safetensors") == 2 and "neither a rank" in capsys.readouterr().err
    assert run("extract", tiny_epsilon, tiny_epsilon, tmp_path / "new.safetensors", "--rank", 2) == 2
    assert "has the weights of" in capsys.readouterr().err
    assert run("extract", tiny_epsilon, "nowhere", tmp_path / "new.safetensors", "--rank", 2) == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.safetensors"] and out.read_bytes() == b"mine"


@pytest.mark.parametrize(
    "name", ["GLoRA of LyCORIS", "OFT of kohya", "DoRA over output rows (LyCORIS, OneTrainer)", "BOFT of LyCORIS"]
)
def test_changes_that_depend_on_the_base_are_refused(tiny_epsilon, tmp_path, capsys, name):
    family = families.load(locate(str(tiny_epsilon)))
    weights = {f"unet.{name}": tensor.double() for name, tensor in family.unet.named_parameters()}
    path = built(name, weights).write(tmp_path)
    base = ("--pretrained_model_name_or_path", tiny_epsilon)
    assert run("resize", path, tmp_path / "o.safetensors", "--rank", 2, *base) == 2
    assert "customize extract" in capsys.readouterr().err and not (tmp_path / "o.safetensors").exists()
