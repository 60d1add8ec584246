"""A dry run predicts the run: file sizes to within a per cent, image counts exactly; and it writes nothing."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kit import prepared, settings_for, write_images
from whole_runs import LATEST, Run

from customize.errors import ResourceError
from customize.methods import DreamBoothSettings
from customize.storage import checkpoint
from customize.storage.resources import for_memory, less_memory, safetensors_size
from customize.training import dry_run
from customize.training.preflight import check

CLASS = {"prior_preservation": "images", "class_prompt": "a photo of dog", "num_class_images": 4, "sample_inference_steps": 2}


def plan_of(settings):
    return dry_run.make(settings, *check(settings))


def everything(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path.relative_to(folder)), path.stat().st_mtime_ns) for path in folder.rglob("*"))


SELDOM = [pytest.param(method, marks=pytest.mark.slow) for method in ("textual_inversion", "lora")]


@pytest.mark.parametrize("method", ["pivotal", "full", *SELDOM])
def test_files_are_as_large_as_planned(method, server, tiny_epsilon, image_folder, tmp_path):
    changes = {"train_batch_size": 2, "checkpointing_steps": 4, "save_steps": 3}
    run = Run(server, tmp_path, method, tiny_epsilon, image_folder, **changes)
    planned = plan_of(settings_for(method, tiny_epsilon, image_folder, run.folder, **changes))
    files = planned.files
    assert not run.folder.exists()
    assert run()[0] == 0
    checkpoints = sorted((run.folder / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step-000004", "step-000006"] and files.checkpoints == 2
    for path in checkpoints:
        assert {file.name for file in path.iterdir()} == files.checkpoint.keys()
        for file in path.iterdir():
            assert files.checkpoint[file.name] == pytest.approx(file.stat().st_size, rel=0.01), file
    for name, size in files.result.items():
        path = run.folder / name
        real = sum(each.stat().st_size for each in [path, *path.rglob("*")] if each.is_file())
        assert size == pytest.approx(real, rel=0.01), name
    assert files.intermediate == len(list((run.folder / "weights").iterdir())) == 2
    saved = {path.name for path in (run.folder / "weights/step-000006").iterdir()}
    assert files.result.keys() - {"customize.json"} == saved - {"manifest.json", "customize.json"}
    taken = sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())
    small = [*run.folder.glob("*.toml"), *run.folder.glob("*.jsonl"), *run.folder.glob("*.md"), run.folder / ".lock"]
    small += [run.folder / "manifest.json", *run.folder.glob("weights/*/manifest.json")]
    about = (run.folder / "customize.json").stat().st_size * (0 if method == "full" else 2)  # the weights of a step have none
    assert files.largest - about == pytest.approx(taken - sum(path.stat().st_size for path in small), rel=0.01)


def test_trained_parameters_and_epochs_are_reported(tiny_epsilon, image_folder, tmp_path):
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "run", train_batch_size=2, max_train_steps=7)
    context, training = prepared(settings)
    learned = training.method.trainable_state_dict()
    planned = plan_of(settings)
    [unet] = planned.trained
    assert unet.name == "unet" and unet.parameters == sum(tensor.numel() for tensor in learned.values())
    assert set(unet.modules) == {name.removeprefix("unet.").partition(".lora_")[0] for name in learned}
    [repeats] = planned.uses
    shown = Counter(name for step in range(7) for name in training.dataset.deal(step, range(2))[0].names)
    assert (repeats.images, repeats.least, repeats.most) == (len(shown), min(shown.values()), max(shown.values()))
    assert planned.steps == 7 and planned.seconds > 0
    optimizer = 2 * unet.parameters * 4 + 4 * len(learned)  # two moments, and a count of steps for each tensor
    assert planned.optimizer == optimizer
    settings = settings_for("textual_inversion", tiny_epsilon, image_folder, tmp_path / "run")
    assert [(each.name, each.modules, each.parameters) for each in plan_of(settings).trained] == [("<new>", (), 64)]
    settings = settings_for("pivotal", tiny_epsilon, image_folder, tmp_path / "run")
    assert [(each.name, each.parameters) for each in plan_of(settings).trained] == [("unet", unet.parameters), ("<new>", 64)]


def test_a_dry_run_writes_nothing(server, tiny_epsilon, image_folder, tmp_path):
    tmp_path.joinpath("temporary").mkdir()
    class_pictures = write_images(tmp_path / "class", 1, seed=1)
    changes = {**CLASS, "class_data_dir": str(class_pictures), "latents_cache_dir": str(tmp_path / "cache")}
    run = Run(server, tmp_path / "of", "full", tiny_epsilon, image_folder, **changes)
    before = everything(tmp_path)
    status, output = run("--dry_run", "--validation_prompt", "a dog")
    assert status == 0 and "dry_run: nothing was written" in output and "Traceback" not in output
    assert everything(tmp_path) == before
    assert "3 of the class will be generated first" in output
    assert "3 of the subject, each shown 2 times" in output and "4 of the class, each shown 1 or 2 times" in output
    assert "unet: " in output and "iB at the peak" in output and "main memory" in output
    status, output = run("--dry_run", "--validation_prompt", "a dog", "--validation_scheduler", "Eulr", "--no_random_flip")
    assert status == 2 and "validation_scheduler" in output and everything(tmp_path) == before


def test_a_dry_run_of_a_resumed_run(server, tiny_epsilon, image_folder, tmp_path):
    run = Run(server, tmp_path, "lora", tiny_epsilon, image_folder)
    assert run(moment="in a step", number=4)[0] == -9
    before = everything(run.folder)
    status, output = run(*LATEST, "--dry_run")
    assert status == 0 and "resuming after step 2" in output and "4 steps of" in output and everything(run.folder) == before
    status, output = run(*LATEST, "--dry_run", "--seed", "9")
    assert status == 2 and "seed: was 3" in output


def test_the_peak_counts_a_new_checkpoint_beside_the_old_ones():
    files = dry_run.Files({"a": 10}, 5, 1, {"b": 1}, 0, 0, 0)
    assert files.largest == 20
    assert replace(files, kept=3).largest == 40 and replace(files, kept=None).largest == 51
    assert replace(files, result={"b": 100}).largest == 110
    assert replace(files, intermediate=2, samples=3, sample=7).largest == 20 + 2 + 21
    assert replace(files, checkpoints=1).largest == 11
    assert [
        dry_run.times(0, 6, 4),
        dry_run.times(4, 6, 4),
        dry_run.times(0, 8, 4),
        dry_run.times(6, 6, 4),
        dry_run.times(3, 9, 2),
    ] == [
        2,
        1,
        2,
        0,
        4,
    ]


def test_shortages_are_reported_with_remedies(tiny_epsilon, image_folder, tmp_path, monkeypatch):
    settings = settings_for("full", tiny_epsilon, image_folder, tmp_path / "run")
    planned = plan_of(settings)
    assert planned.short == []
    assert ": 1 byte more needed" in replace(planned, free_disk=planned.files.largest - 1).short[0]
    assert "--gradient_checkpointing, --mixed_precision bf16" in replace(planned, free_memory=planned.memory).short[0]
    monkeypatch.setattr(dry_run, "make", lambda *given: replace(planned, free_disk=0))
    with pytest.raises(ResourceError, match="not enough disk space for .*iB more needed"):
        dry_run.run(settings, *check(settings))


def test_out_of_memory_in_the_trial_is_reported_with_remedies(server, tiny_epsilon, image_folder, tmp_path):
    run = Run(server, tmp_path, "full", tiny_epsilon, image_folder, train_batch_size=4)
    for flags in (["--dry_run"], []):
        status, output = run(*flags, moment="in the loss", number=2, action="memory")
        assert status == 3 and "out of memory" in output and "Traceback" not in output
        assert "--gradient_checkpointing, --train_batch_size 2 --gradient_accumulation_steps 2, --mixed_precision bf16" in output


def test_switches_that_are_on_are_not_proposed():
    least = {"instance_prompt": "a dog", "instance_data_dir": "dogs"}
    settings = DreamBoothSettings(**least, train_batch_size=6, gradient_accumulation_steps=2)
    assert less_memory(settings) == [
        "--gradient_checkpointing", "--train_batch_size 3 --gradient_accumulation_steps 4", "--mixed_precision bf16",
        "--optimizer adamw_8bit", "--adapter lora",
    ]  # fmt: skip
    all_on = {"gradient_checkpointing": True, "mixed_precision": "bf16", "adapter": "lora"}
    assert less_memory(DreamBoothSettings(**least, **all_on)) == []
    assert "resolution" in for_memory(DreamBoothSettings(**least, **all_on))
    odd = less_memory(DreamBoothSettings(**least, **all_on, train_batch_size=5))
    assert odd == ["--train_batch_size 1 --gradient_accumulation_steps 5"]


def test_the_size_of_a_safetensors_file():
    from safetensors.torch import save

    types = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool)
    tensors = {f"名{number}": torch.zeros(number + 1, 3, dtype=dtype) for number, dtype in enumerate(types)}
    tensors["scalar"] = torch.tensor(1.0)
    for metadata in (None, {"format": "pt", "é": 'a"b'}):
        assert math.isclose(safetensors_size(tensors, metadata), len(save(tensors, metadata)), abs_tol=16)


def test_a_checkpoint_of_other_tensors_is_refused_as_the_run_would(server, tiny_epsilon, image_folder, tmp_path):
    run = Run(server, tmp_path, "lora", tiny_epsilon, image_folder, max_train_steps=4)
    assert run(moment="in a step", number=4)[0] < 0
    [path] = (run.folder / "checkpoints").iterdir()
    kept = checkpoint.load(path)
    checkpoint.save(path.parent, replace(kept, learned={name: tensor[:1] for name, tensor in kept.learned.items()}))
    for flags in (["--dry_run"], []):
        status, output = run(*LATEST, *flags)
        assert status == 2 and "other tensors than this run's" in output, output
