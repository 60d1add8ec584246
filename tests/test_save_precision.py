"""Results in lower precision: weights are rounded once; numbers that do not fit are kept in fp32 and reported."""

import pytest
import torch
from adapters_of_others import kohya
from diffusers import StableDiffusionPipeline
from kit import METHODS, prepared, settings_for
from safetensors.torch import load_file

from customize.errors import InputError
from customize.evaluation import verify_result
from customize.storage import run_folder
from customize.storage.run_folder import KOHYA_LORA, LORA
from customize.storage.tensor_files import PRECISIONS, save_tensors
from customize.training import model_card, preflight
from customize.training.dry_run import result_sizes

FORMATS = {"fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize("precision", FORMATS)
@pytest.mark.parametrize("method", METHODS)
def test_a_result_is_what_was_learned_rounded_once(method, precision, tiny_epsilon, image_folder, tmp_path):
    settings = settings_for(method, tiny_epsilon, image_folder, tmp_path / "run", save_precision=precision)
    context, training = prepared(settings)
    with torch.no_grad():
        for number, tensor in enumerate(training.method.trainable_state_dict().values()):
            tensor += 0.01 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number))
    learned = {name: tensor.detach().clone() for name, tensor in training.method.trainable_state_dict().items()}
    folder = tmp_path / "result"
    folder.mkdir()
    about = model_card.metadata(settings, training.method, context.family, 1)
    training.method.eval()
    files = training.method.save(folder, about)
    assert verify_result.check(folder, context.family, training.method.example_prompt, PRECISIONS[precision]) > 1e-6
    if method == "lora":
        assert files == [folder / LORA, folder / KOHYA_LORA]
        again = load_file(files.pop())
        for name, tensor in learned.items():
            module = name.removesuffix(".weight").removeprefix("unet.")
            side = {"A": "lora_down", "B": "lora_up"}[module[-1]]
            read = again.pop(f"{kohya(module[: -len('.lora_A')])}.{side}.weight")
            assert read.dtype == FORMATS[precision] and torch.equal(read, tensor.to(FORMATS[precision]))
        assert 2 * len(again) == len(learned) and all(name.endswith(".alpha") for name in again)
    files = [folder / "unet/diffusion_pytorch_model.safetensors"] if method == "full" else files
    read = {name: tensor for file in files for name, tensor in load_file(file).items()}
    prefix = "unet." if method == "full" else ""
    assert {prefix + name for name in read} == learned.keys()
    for name, tensor in read.items():
        assert tensor.dtype == FORMATS[precision] and torch.equal(tensor, learned[prefix + name].to(FORMATS[precision]))
    if method == "full":
        StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        output = result_sizes(settings, training, context, about)
        for part in ("unet", "vae", "text_encoder"):
            true = sum(path.stat().st_size for path in (folder / part).iterdir())
            assert output[part] == pytest.approx(true, rel=0.01)


def test_numbers_beyond_fp16_stay_in_fp32_and_are_reported(tmp_path, capsys, terminal):
    tensors = {"small": torch.tensor([1.0, 2.5]), "large": torch.tensor([1.0, 70000.0])}
    read = load_file(save_tensors(tmp_path / "x.safetensors", tensors, {}, "fp16"))
    assert read["small"].dtype == torch.float16 and torch.equal(read["large"], tensors["large"])
    assert capsys.readouterr().out == "note: x.safetensors: too large for fp16, kept in fp32: large\n"
    assert load_file(save_tensors(tmp_path / "x.safetensors", tensors, {}, "bf16"))["large"].isfinite().all()
    assert capsys.readouterr().out == ""


def test_a_finished_result_is_written_again_in_another_format(tmp_path):
    import json

    from customize.storage import manifest

    (tmp_path / "customize.json").write_text(json.dumps({"steps": 3, "settings": {"save_precision": "fp16"}}))
    manifest.write(tmp_path)
    assert run_folder.is_finished(tmp_path, 3, save_precision="fp16") and not run_folder.is_finished(
        tmp_path, 3, save_precision="fp32"
    )
    assert not run_folder.is_finished(tmp_path, 2, save_precision="fp16")
    assert not run_folder.is_finished(tmp_path, 3, save_precision="fp16", save_model_as="safetensors")


def test_no_layout_of_an_earlier_result_is_left_beside_a_new_one(tiny_epsilon, image_folder, tmp_path):
    own = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", max_train_steps=2, lora_format="kohya")
    preflight.run(own)
    resumed = own.model_copy(update={"resume_from_checkpoint": "latest", "max_train_steps": 3})

    def refused(layout):
        with pytest.raises(InputError) as caught:
            preflight.run(resumed.model_copy(update={"lora_format": layout}))
        [problem] = caught.value.problems
        assert problem.where == "lora_format"
        return f"{problem.what}; {problem.remedy}"

    assert "in the layout of kohya; resume with --lora_format kohya" in refused("diffusers")
    preflight.run(resumed.model_copy(update={"lora_format": "both", "max_train_steps": 2}))
    assert [(tmp_path / "run" / name).is_file() for name in (LORA, KOHYA_LORA)] == [True, True]
    for layout in ("diffusers", "kohya"):
        assert "in the layout of diffusers and of kohya; resume with --lora_format both" in refused(layout)
    (tmp_path / "run" / LORA).write_bytes(b"mine")
    preflight.run(resumed.model_copy(update={"lora_format": "kohya"}))
    assert (tmp_path / "run" / LORA).read_bytes() == b"mine"
