"""A family of base models is one class and its `FamilySpec`: a tiny flow-matching transformer, registered here, goes through
every command. Its LoRA is a file that diffusers' own loader for Stable Diffusion 3 puts into the same transformer.
"""

import json
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers.loaders import SD3LoraLoaderMixin
from families_of_tests import LENGTH, FlowTransformer, in_place
from PIL import Image
from safetensors.torch import load_file, save_file

from customize.cli import commands
from customize.errors import InputError, Problem
from customize.evaluation import verify_result
from customize.families import specs
from customize.families.specs.family_spec import FamilySpec
from customize.families.specs.network_names import NetworkNames
from customize.families.specs.text_limits import TextLimit
from customize.inference import load_pipeline
from customize.inference.schedulers import make_scheduler
from customize.storage.run_folder import KOHYA_LORA, LORA

PROMPT = "a photo of sks dog"
PARTS = ("transformer", "vae")
WEIGHTS = "diffusion_pytorch_model.safetensors"


class FlowSpec(FamilySpec):
    name, title, load = "tiny-flow", "a tiny flow", "test_new_family:load_flow"
    networks = {
        "transformer": NetworkNames(
            ("transformer.", "diffusion_model."), ("lora_unet_",), reads_prompt=("add_k_proj", "add_v_proj")
        )
    }
    pipeline, pipeline_files = "StableDiffusion3Pipeline", ("model_index.json", "scheduler", *PARTS)
    prompt_widths = {32: "a tiny flow"}

    def matches(self, path):
        return (path / "transformer").is_dir()

    def check(self, source):
        missing = [source.folder / part for part in PARTS if not (source.folder / part / WEIGHTS).is_file()]
        if missing:
            raise InputError(Problem(str(path), "missing", "get the model again") for path in missing)
        return source

    def files(self, source):
        return [source.folder / part / WEIGHTS for part in PARTS]

    def resolution(self, source):
        return 2 * json.loads((source.folder / "transformer/config.json").read_text())["sample_size"]

    def prediction_type(self, source):
        return "flow_prediction"

    def text_limits(self, source):
        return (TextLimit(LENGTH, LENGTH, lambda: len),)

    def learned_on(self, tensors):
        return all(name.startswith(("transformer.transformer_blocks.", "lora_unet_transformer_blocks_")) for name in tensors)


class Flow(FlowTransformer):
    spec = FlowSpec()


def load_flow(source, placement) -> Flow:
    """What `FlowSpec.load` names."""
    family = Flow()
    family.name, family.source = source.name, source.folder
    for part in PARTS:
        family.components[part].load_state_dict(load_file(source.folder / part / WEIGHTS))
    return in_place(family, placement)


@pytest.fixture(scope="module")
def registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(specs.SPECS, FlowSpec.name, Flow.spec)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory, registered) -> Path:
    """The folder of a model whose weights are not those that the class begins with."""
    folder, family = tmp_path_factory.mktemp("models") / "flow", Flow()
    for part in PARTS:
        generator = torch.Generator().manual_seed(1)
        for tensor in family.components[part].state_dict().values():
            tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator))
    family.pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def config(model, image_folder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("flow") / "flow.toml"
    path.write_text(f"""
        pretrained_model_name_or_path = "{model}"
        instance_data_dir = "{image_folder}"
        instance_prompt = "{PROMPT}"
        validation_prompt = ["{PROMPT}"]
        output_dir = "{path.parent / "run"}"
        adapter = "lora"
        rank = 2
        learning_rate = 1e-3
        max_train_steps = 3
        report_to = "none"
    """)
    return path


@pytest.fixture(scope="module")
def run(config) -> Path:
    """The folder of a run that the command has trained."""
    assert commands.train_dreambooth([str(config)]) == 0
    return config.parent / "run"


def test_check_asks_the_family(model, config, capsys, tmp_path):
    assert commands.check([str(config)]) == 0
    assert "for 16 pixels" in capsys.readouterr().out
    assert commands.check([str(config), "--instance_prompt", "sks " * 9]) == 2
    assert "is too long: 36 tokens, more than 32" in capsys.readouterr().out
    (tmp_path / "damaged" / "transformer").mkdir(parents=True)
    assert commands.train_dreambooth([str(config), "--pretrained_model_name_or_path", str(tmp_path / "damaged")]) == 2
    assert f"{tmp_path / 'damaged' / 'vae'}: missing" in capsys.readouterr().err


def test_the_result_is_intact_and_equals_the_trained_weights(run, capsys):
    assert commands.verify([str(run)]) == 0
    assert commands.train_dreambooth([str(run / "config.toml"), "--resume_from_checkpoint", "latest"]) == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    tensors, kohya = load_file(run / LORA), load_file(run / KOHYA_LORA)
    layers = [f"transformer_blocks.{block}.attn.{layer}" for block in (0, 1) for layer in ("to_q", "to_k", "to_v", "to_out.0")]
    assert tensors.keys() == {f"transformer.{layer}.lora_{side}.weight" for layer in layers for side in "AB"}
    for layer in layers:
        name = f"lora_unet_{layer.replace('.', '_')}"
        assert torch.equal(kohya[f"{name}.lora_up.weight"], tensors[f"transformer.{layer}.lora_B.weight"])
        assert tensors[f"transformer.{layer}.lora_B.weight"].any()


@torch.no_grad()
def test_stock_loads_our_lora_and_predicts_the_same(model, run):
    ours = load_pipeline(str(model), [(run, 1.0)]).family
    others = load_pipeline(str(model), [(run / KOHYA_LORA, 1.0)]).family
    base = load_pipeline(str(model)).family
    stock = load_pipeline(str(model)).family
    tensors, metadata = SD3LoraLoaderMixin.lora_state_dict(run, return_lora_metadata=True)
    SD3LoraLoaderMixin.load_lora_into_transformer(tensors, stock.denoiser, metadata=metadata)
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])
    found = {
        name: family.predict(x, t, family.encode_prompts([PROMPT])).prediction
        for name, family in (("ours", ours), ("others", others), ("base", base), ("stock", stock))
    }
    torch.testing.assert_close(found["ours"], found["stock"], rtol=0, atol=1e-6)
    torch.testing.assert_close(found["others"], found["stock"], rtol=0, atol=1e-6)
    assert (found["base"] - found["stock"]).abs().max() > 1e-4


def test_a_run_begins_with_its_lora(config, run):
    """One more step at a learning rate next to 0 leaves it as it is."""
    again = run.parent / "again"
    words = f"--init_weights {run} --output_dir {again} --learning_rate 1e-30 --max_train_steps 1".split()
    assert commands.train_dreambooth([str(config), *words]) == 0
    before, after = load_file(run / LORA), load_file(again / LORA)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_infer_generates_with_it(model, run, tmp_path, capsys):
    words = ["--weights", str(run), "--prompt", PROMPT, "--num_inference_steps", "3", "--seed", "4"]
    assert commands.infer([*words, "--output_dir", str(tmp_path)]) == 0
    (expected,) = load_pipeline(str(model), [(run, 1.0)]).generate(PROMPT, num_inference_steps=3, seeds=4)
    found = Image.open(tmp_path / "000.png")
    assert found.size == (16, 16) and found.tobytes() == expected.tobytes()
    assert commands.infer([*words, "--scheduler", "Euler AYS", "--output_dir", str(tmp_path / "no")]) == 2


def test_it_is_fine_tuned_in_full(model, image_folder, tmp_path, capsys):
    """The result is a base model of the family, verified when it is saved, and a transformer that stock loads."""
    run = tmp_path / "run"
    words = ["--pretrained_model_name_or_path", str(model), "--instance_data_dir", str(image_folder), "--instance_prompt", PROMPT,
             "--max_train_steps", "2", "--learning_rate", "1e-3", "--validation_prompt", "none", "--report_to", "none",
             "--output_dir", str(run)]  # fmt: skip
    assert commands.train_dreambooth(words) == 0
    assert "verified: predictions differ by 0.0e+00" in capsys.readouterr().out
    assert commands.verify([str(run)]) == 0
    before, after = (load_file(folder / "transformer" / WEIGHTS) for folder in (model, run))
    assert before.keys() == after.keys() and any((after[name] - before[name]).abs().max() > 1e-4 for name in after)
    same, frozen = (load_file(folder / "vae" / WEIGHTS) for folder in (model, run))
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in same.items())
    ours, stock = load_pipeline(str(run)).family, SD3Transformer2DModel.from_pretrained(run / "transformer")
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])
    conditioning = ours.encode_prompts([PROMPT])
    with torch.no_grad():
        assert torch.equal(ours.predict(x, t, conditioning).prediction, stock(x, timestep=t, **conditioning.tensors).sample)


def test_another_scheduler_in_the_result_is_found(model, tmp_path):
    family, found = load_pipeline(str(model)).family, tmp_path / "saved"
    family.pipeline().save_pretrained(found)
    assert verify_result.check(found, family, PROMPT) == 0
    FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(found / "scheduler")
    with pytest.raises(OSError, match="another tokenizer or scheduler"):
        verify_result.check(found, family, PROMPT)


def test_what_is_of_another_base_model_is_refused_as_before(model, run, tiny_epsilon, tmp_path, capsys):
    """The transformer's LoRA into Stable Diffusion, and one of SDXL into neither."""
    with pytest.raises(InputError, match="was learned on a tiny flow"):
        load_pipeline(str(tiny_epsilon), [(run / LORA, 1.0)])
    save_file({"lora_te2_x.lora_down.weight": torch.zeros(2, 2)}, tmp_path / "sdxl.safetensors")
    with pytest.raises(InputError) as caught:
        load_pipeline(str(model), [(tmp_path / "sdxl.safetensors", 1.0)])
    [problem] = caught.value.problems
    assert problem.what.endswith(f"was learned on SDXL; {model} is a tiny flow")
    assert problem.remedy == "give weights that were learned on a tiny flow, or another base model"


def test_a_family_without_align_your_steps_says_so():
    base = EulerDiscreteScheduler()
    with pytest.raises(InputError, match="nobody has computed Align Your Steps for it"):
        make_scheduler(base, "Euler AYS", spec=Flow.spec)


def test_weights_of_a_transformer_are_refused_where_no_family_claims_them(run, monkeypatch):
    monkeypatch.delitem(specs.SPECS, FlowSpec.name)
    with pytest.raises(InputError, match="learned on a transformer, such as Wan, .* which is not supported"):
        load_pipeline(None, [(run / LORA, 1.0)])
