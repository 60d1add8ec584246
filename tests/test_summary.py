"""What a run says first and last: base, device, images, steps; the result, what to look at, and a command that runs."""

import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from kit import prepared, settings_for, write_images

from customize import device as machine
from customize import next_command
from customize.cli.terminal import table
from customize.device import Machine
from customize.families import Source
from customize.inference.run import image_summary
from customize.inference.run.grid import grid
from customize.inference.run.image_folder import ImageFolder
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.inference import InferenceSettings
from customize.training import expected_time, summary
from customize.training.evaluating.cost import Cost
from customize.training.preflight import check

CPU = Machine("CPU (2 threads)", "no GPU found")
GPU = Machine("NVIDIA H100 80GB HBM3 (79.1 GiB)")
HUB = Source("stable-diffusion-v1-5/stable-diffusion-v1-5")


def examples(*sizes, classes=0):
    instances = tuple(SimpleNamespace(name=f"{index}.jpg", size=size, mask=None) for index, size in enumerate(sizes))
    return SimpleNamespace(instances=instances, classes=(SimpleNamespace(concept=0),) * classes)


def dreambooth(**changes):
    return DreamBoothSettings(**{"instance_prompt": "sks cat", "instance_data_dir": "my cat", **changes})


def test_the_demo_model_is_announced_as_a_toy():
    settings = dreambooth(resolution=64)
    found = examples(*[(3024, 4032)] * 6)
    assert table(summary.before_loading(settings, Path("runs/dreambooth"), Source("demo"), found, CPU)).splitlines() == [
        "base      demo, a toy model of 64 x 64 pixels that comes with the program to show how it works",
        "          for your own photos: --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5",
        'method    DreamBooth: all weights of the UNet are trained on "sks cat"',
        "images    6 in my cat, 3024 x 4032 pixels, cropped and scaled to 56 x 72",
        "cut off   4 % of each image",
        "device    CPU (2 threads): no GPU found",
        "folder    runs/dreambooth",
    ]


def test_stable_diffusion_on_a_cpu_is_reported():
    settings = dreambooth(pretrained_model_name_or_path=HUB.name, mixed_precision="bf16")
    printed = table(summary.before_loading(settings, Path("out"), HUB, examples((512, 512)), CPU)).splitlines()
    assert printed[0] == "base      stable-diffusion-v1-5/stable-diffusion-v1-5 (from the hub)"
    assert "images    1 in my cat, 512 x 512 pixels" in printed
    assert printed[-3:] == [
        "device    CPU (2 threads), bf16: no GPU found",
        "          a model of Stable Diffusion's size needs a GPU: on a CPU a run takes hours to days",
        "folder    out",
    ]
    printed = table(summary.before_loading(settings, Path("out"), HUB, examples((512, 512)), GPU))
    assert "device    NVIDIA H100 80GB HBM3 (79.1 GiB), bf16\nfolder" in printed and "needs a GPU" not in printed


def test_a_single_process_that_is_to_shard_says_that_it_cannot(monkeypatch):
    def rows():
        return dict(summary.before_loading(dreambooth(resolution=64), Path("out"), Source("demo"), examples((64, 64)), CPU))

    assert "sharded" not in rows()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert rows()["sharded"].startswith("nothing: one process cannot share weights")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert rows()["sharded"] == "over 3 processes (FSDP2): each holds a part of every weight"


@pytest.mark.parametrize(
    ("settings", "found", "resolution", "text"),
    [
        (dreambooth(), examples((64, 64)), 64, "1 in my cat, 64 x 64 pixels"),
        (dreambooth(), examples((640, 640), (64, 64)), 64, "2 in my cat, 64 x 64 to 640 x 640 pixels, scaled to 64 x 64"),
        (dreambooth(), examples((800, 600), (64, 64)), 512,
         "2 in my cat, 64 x 64 to 800 x 600 pixels, cropped and scaled to 2 sizes"),
        (dreambooth(aspect_ratio_buckets=None), examples((800, 600), (64, 64)), 512,
         "2 in my cat, 64 x 64 to 800 x 600 pixels, cropped and scaled to 512 x 512"),
        (dreambooth(), examples((800, 600)), None, "1 in my cat, 800 x 600 pixels"),
        (
            dreambooth(prior_preservation="images", class_prompt="cat", class_data_dir="c", num_class_images=1200),
            examples((64, 64), classes=1000), 64, "1 in my cat, 64 x 64 pixels; 1,200 of the class, 200 of them generated first",
        ),
        (dreambooth(instance_data_dir="日本の猫"), examples((64, 64)), 64, "1 in 日本の猫, 64 x 64 pixels"),
        (dreambooth(instance_data_dir=None, dataset_name="me/cats"), examples((64, 64)), 64, "1 in me/cats, 64 x 64 pixels"),
    ],
)  # fmt: skip
def test_images(settings, found, resolution, text):
    assert summary.images(settings, found, resolution) == text


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (dreambooth(train_text_encoder=True), 'DreamBooth: all weights of the UNet and text encoder are trained on "sks cat"'),
        (dreambooth(adapter="lora", rank=4), 'DreamBooth: a LoRA of rank 4 beside the UNet is trained on "sks cat"'),
        (
            dreambooth(adapter="lora", prior_preservation="teacher", class_prompt="cat"),
            'DreamBooth: a LoRA of rank 16 beside the UNet is trained on "sks cat"; '
            'prior preservation of "cat" by the base model',
        ),
        (
            TextualInversionSettings(placeholder_token="<dusk>", initializer_token="black and white", num_vectors=3,
                                     learnable_property="style", train_data_dir="x"),
            'textual inversion: learns a style as <dusk> (3 vectors), starting from "black and white"',
        ),
        (
            TextualInversionSettings(placeholder_token=("<a>", "<b>"), initializer_token=("dog", "cat"), train_data_dir="x"),
            'textual inversion: learns an object as <a> (1 vector), <b> (1 vector), starting from "dog", "cat"',
        ),
    ],
)  # fmt: skip
def test_methods(settings, text):
    assert settings.description == text


@pytest.fixture
def no_card(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    return tmp_path


def card(root, name="NVIDIA GeForce RTX 3060"):
    file = root / "proc/driver/nvidia/gpus/0000:01:00.0/information"
    file.parent.mkdir(parents=True)
    file.write_text(f"Model: \t\t {name}\nIRQ:   31\n")


def test_no_gpu(no_card):
    assert machine.why_no_gpu() == ("no GPU found", "")
    found = machine.describe(torch.device("cpu"))
    assert re.fullmatch(r"CPU \(\d+ threads?\): no GPU found", str(found)) and not found.has_gpu


def test_torch_without_cuda_beside_a_gpu_is_reported_with_the_command(no_card):
    card(no_card)
    reason = "NVIDIA GeForce RTX 3060 found, but torch 2.13.0+cpu is a build without CUDA"
    assert machine.why_no_gpu() == (reason, "pip install --force-reinstall torch==2.13.0")


def test_fp16_without_a_gpu_says_why_and_what_the_cpu_would_mean(no_card):
    assert machine.fp16_problem("fp16", "cuda") == machine.fp16_problem("bf16", "cpu") == []
    [problem] = machine.fp16_problem("fp16", "cpu")
    assert (problem.where, problem.what) == ("mixed_precision", "fp16 needs a GPU: no GPU found")
    assert problem.remedy == "use --mixed_precision bf16 or no, which runs on the CPU: with Stable Diffusion for hours to days"
    card(no_card)
    [problem] = machine.fp16_problem("fp16", "cpu")
    assert problem.what.endswith("a build without CUDA") and problem.remedy.startswith("pip install --force-reinstall torch==")


def test_only_a_driver_is_there(no_card):
    (no_card / "dev").mkdir()
    (no_card / "dev/nvidiactl").touch()
    assert machine.why_no_gpu()[0].startswith("an NVIDIA driver found, but torch 2.13.0+cpu")


@pytest.mark.parametrize(
    ("output", "status", "found"),
    [("NVIDIA A100-SXM4-40GB\nNVIDIA A100\n", 0, "NVIDIA A100-SXM4-40GB"), ("", 0, ""), ("No devices were found", 6, ""),
     ("\x1b[31mRTX\n", 0, r"\x1b[31mRTX")],
)  # fmt: skip
def test_nvidia_smi_is_called(no_card, monkeypatch, output, status, found):
    program = no_card / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{output}'\nexit {status}\n")
    program.chmod(0o755)
    monkeypatch.setattr(machine.shutil, "which", lambda name: str(program))
    assert machine.nvidia_card() == found


def test_without_a_working_nvidia_smi_no_gpu_is_assumed(no_card, monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: str(no_card / "gone"))
    assert machine.nvidia_card() == ""


def test_a_card_that_is_hidden_or_too_new(no_card, monkeypatch):
    card(no_card, "RTX 5090")
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    reason, remedy = machine.why_no_gpu()
    assert reason == "RTX 5090 found, but this torch (CUDA 12.6) cannot use it" and "update the NVIDIA driver" in remedy
    for value in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert machine.why_no_gpu() == (f"RTX 5090 is hidden by CUDA_VISIBLE_DEVICES={value}", "unset CUDA_VISIBLE_DEVICES")


def test_other_machines(no_card, monkeypatch):
    monkeypatch.setattr(machine.os, "name", "nt")
    assert machine.cuda_command("2.13.0").endswith("torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130")
    monkeypatch.setattr(machine.os, "name", "posix")
    (no_card / "dev").mkdir()
    (no_card / "dev/kfd").touch()
    assert "AMD GPU found, but torch 2.13.0+cpu is a build without ROCm" in machine.why_no_gpu()[0]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert machine.why_no_gpu()[0] == "accelerate is configured to use the CPU"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 24 * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce RTX 3090")
    assert str(machine.describe(torch.device("cuda", 0))) == "NVIDIA GeForce RTX 3090 (24 GiB)"
    assert str(machine.describe(torch.device("mps"))) == "Apple GPU (MPS)"


@pytest.mark.parametrize(
    "word",
    [
        "runs/my cat",
        "it's",
        'a "cat"',
        "$HOME",
        "a`b`",
        "back\\slash",
        "wow!",
        "日本の猫",
        "",
        "a\nb",
        "<t>",
        "--x",
        "-1",
        "a=b",
        "*",
    ],
)
def test_printed_commands_are_parsed_as_intended(word):
    line = next_command.command_line("infer.py", weights=word, prompt=("a cat", word), num_images=4)
    words = shlex.split(line)
    assert words[:2] == ["python", "infer.py"] and words[-2:] == ["--num_images", "4"]
    from customize.cli import main
    from customize.settings.inference import InferenceSettings

    if word.strip() and "\n" not in word:
        settings, _ = main.read(InferenceSettings, words[2:])
        assert settings.prompt == ("a cat", word) and settings.weights == (word,)


def test_commands_name_the_scripts_where_they_are(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/opt/my tools/train_dreambooth.py", "x"])
    assert next_command.command_line("infer.py", prompt="a b") == 'python "/opt/my tools/infer.py" --prompt "a b"'
    monkeypatch.setattr(sys, "argv", ["train_dreambooth.py"])
    assert next_command.command_line("infer.py") == "python infer.py"
    for running in ("/usr/bin/customize", "customize.exe"):
        monkeypatch.setattr(sys, "argv", [running, "train_dreambooth"])
        assert next_command.command_line("infer.py") == "customize infer"
    monkeypatch.setattr(sys, "argv", ["/x/customize/__main__.py"])
    assert next_command.command_line("train_dreambooth.py", "a.toml") == "customize train_dreambooth a.toml"
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert next_command.command_line("infer.py") == "python infer.py"


def wanted_of(settings):
    return grid(settings).requests


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "images    1, the base model's own size, 30 denoising steps each"),
        ({"prompt": ("a", "b"), "num_images": 2}, "images    4 of 2 prompts, the base model's own size, 30 denoising steps each"),
        ({"width": 512, "height": 768, "num_inference_steps": 1}, "images    1, 512 x 768 pixels, 1 denoising step each"),
        ({"image": "a.png"}, "images    1, the size of image, 30 denoising steps each"),
        (
            {"sweep": ("seed=1..4",), "num_images": 300, "max_images": 2000},
            "images    1,200, the base model's own size, 30 denoising steps each",
        ),
    ],
)
def test_the_first_lines_of_images(changes, text):
    settings = InferenceSettings(**{"prompt": ("a cat",), **changes})
    printed = table(image_summary.before_loading(settings, wanted_of(settings), Source("demo"), CPU)).splitlines()
    assert printed[0].startswith("base      demo, a toy model") and printed[1].startswith(
        "          for photos: --pretrained_model"
    )
    assert printed[2:] == ["device    CPU (2 threads): no GPU found", text]
    learned = settings.model_copy(update={"weights": ("runs/cat",), "mixed_precision": "bf16"})
    printed = table(image_summary.before_loading(learned, wanted_of(settings), HUB, GPU)).splitlines()
    assert printed[:2] == [f"base      {HUB.name} (from the hub)", "device    NVIDIA H100 80GB HBM3 (79.1 GiB), bf16"]


@pytest.mark.parametrize(
    ("changes", "seeds"),
    [
        ({"seed": 7}, "seed 7"), ({"seed": 7, "num_images": 3}, "seeds 7 to 9"), ({"sweep": ("seed=1,5,9",)}, "seeds 1, 5, 9"),
        ({"sweep": ("seed=1,3,5,7,9,11",)}, "seeds 1, 3, 5, 7 and 2 more"), ({"prompt": ("a", "b")}, "seed 0"),
    ],
)  # fmt: skip
def test_the_last_lines_of_images(changes, seeds, tmp_path):
    settings = InferenceSettings(**{"prompt": ("a cat",), **changes})
    wanted = wanted_of(settings)
    place = ImageFolder(tmp_path / "my images", 4, len(wanted), "-004")
    place.folder.mkdir()
    (place.folder / "sheet-004.png").touch()
    done, look, following = table(image_summary.finished(settings, wanted, place)).splitlines()
    number = "1 image" if len(wanted) == 1 else f"{len(wanted)} images"
    names = f"{place.folder / '004.png'}" + (f" to {3 + len(wanted):03d}.png" if len(wanted) > 1 else "")
    assert done == f"done      {number} of {seeds}: {names}" and look == f"look at   {place.folder / 'sheet-004.png'}"
    last = max(each.seed for each in wanted)
    words = ["--like", str(place.folder / "004.png"), "--seed", str(last + 1), "--num_images", "4"]
    assert shlex.split(following)[1:] == ["python", "infer.py", *words]


@pytest.mark.filterwarnings("error:.*checkpointing_enable:FutureWarning")
def test_the_step_that_is_timed_changes_nothing(tiny_epsilon, image_folder, tmp_path):
    for method in ("textual_inversion", "lora", "full"):
        changes = {"gradient_accumulation_steps": 3, "gradient_checkpointing": True}
        changes |= {"lora_dropout": 0.3, "train_text_encoder": True} if method == "lora" else {}
        context, training = prepared(settings_for(method, tiny_epsilon, image_folder, tmp_path / method, **changes))
        before = {name: tensor.detach().clone() for name, tensor in training.method.trainable_state_dict().items()}
        seconds = expected_time.of_a_step(context, training)
        assert 0 < seconds < 60 and all(parameter.grad is None for parameter in training.method.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in training.method.trainable_state_dict().items())


def test_the_time_of_a_run_counts_steps_and_samples():
    settings = SimpleNamespace(sample_inference_steps=25, num_validation_images=1, validation_prompt=("a", "b"),
                               evaluations_per_sample=3, train_batch_size=2, gradient_accumulation_steps=5)  # fmt: skip
    context = SimpleNamespace(
        settings=settings, first_step=0, max_train_steps=100, validation_steps=40, sample_prompts=("a", "b"),
        candidates=(),
    )  # fmt: skip
    drawn = 4 * 2 * 25 * 2  # at 0, 40, 80 and 100; of two prompts; denoising steps; with and without the prompt
    assert expected_time.of_a_run(context, 3.0) == pytest.approx(300 + drawn * 3.0 / 30)
    context.first_step, context.sample_prompts = 80, ()
    assert expected_time.of_a_run(context, 3.0) == pytest.approx(60)
    context.candidates = (50, 100)
    context.cost_of_pictures = Cost(700, 500)
    assert expected_time.of_a_run(context, 3.0) == pytest.approx(60 + 500 * 3.0 / 30), "those of step 50 are drawn already"


@pytest.mark.parametrize("method", ["textual_inversion", "lora"])
def test_first_and_last_lines_of_a_run(method, server, tiny_epsilon, tmp_path):
    photos = write_images(tmp_path / "it's my cat", 3, (40, 30))
    folder = tmp_path / "out put"
    changes = {"max_train_steps": 4, "sample_inference_steps": 2, "validation_prompt": None}
    settings = settings_for(method, tiny_epsilon, photos, folder, **changes)
    (tmp_path / "a.toml").write_text(settings.to_toml())
    command = "textual_inversion" if method == "textual_inversion" else "dreambooth"
    status, printed = server.run(command, [str(tmp_path / "a.toml")])
    assert status == 0, printed
    lines = printed.splitlines()
    heads = [line[:10].strip() for line in lines]
    order = ["base", "method", "images", "device", "folder", "training", "samples", "saved", "trained", "look at", "next"]
    places = [heads.index(head) for head in order]
    assert places == sorted(places)
    assert f"3 in {photos}, 40 x 30 pixels, cropped and scaled to 16 x 16" in printed and f"folder    {folder}" in lines
    assert re.search(r"4 steps, batch size 1; [\d,]+ trainable parameters; about \d+ s", printed) or "under 1 s" in printed
    look = lines[heads.index("look at")][10:]
    for path in look.split(" and "):
        assert Path(path).is_file(), path
    assert (folder / "before_after.png").is_file() and (folder / "samples/contact_sheet.png").is_file()
    words = shlex.split(lines[heads.index("next")][10:])
    assert words[:2] == ["python", "infer.py"] and words[2:4] == ["--weights", str(folder)] and Path(words[3]).is_dir()
    prompt = words[words.index("--prompt") + 1]
    assert prompt == ("a photo of <new> on the beach" if method == "textual_inversion" else "a photo of sks dog on the beach")
    assert lines[heads.index("trained")].endswith("s") and "from 3 images in 4 steps" in lines[heads.index("trained")]


def test_a_run_in_full_prints_no_bar_into_a_log(server, tiny_epsilon, image_folder, tmp_path):
    settings = settings_for("full", tiny_epsilon, image_folder, tmp_path / "out", max_train_steps=2)
    (tmp_path / "a.toml").write_text(settings.to_toml())
    status, printed = server.run("dreambooth", [str(tmp_path / "a.toml")])
    assert status == 0 and "it/s" not in printed and "\r" not in printed and "%|" not in printed
    assert "samples   none, so no before_after.png" in printed and f"saved     {tmp_path / 'out'}, a complete pipeline" in printed


def test_a_dry_run_prints_the_first_lines_too(server, tiny_epsilon, image_folder, tmp_path):
    settings = settings_for("lora", tiny_epsilon, image_folder, tmp_path / "out")
    (tmp_path / "a.toml").write_text(settings.to_toml())
    status, printed = server.run("dreambooth", [str(tmp_path / "a.toml"), "--dry_run"])
    assert status == 0 and printed.startswith(f"base      {tiny_epsilon}\nmethod    DreamBooth: a LoRA of rank 4")
    assert "\ndevice    CPU" in printed and f"\nfolder    {tmp_path / 'out'}" in printed and not (tmp_path / "out").exists()
    assert check(settings)


def test_an_inpainting_model_is_given_an_image_and_a_mask_next():
    [(_, command)] = summary.next_rows(dreambooth(), Path("runs/none"), takes_mask=True)
    assert command.endswith("--image IMAGE.png --mask_image MASK.png")


@pytest.mark.parametrize(("name", "by"), [
    ("stabilityai/sdxl-turbo", "turbo"), ("models/dreamshaperXL_v21TurboDPMSDE.safetensors", "turbo"),
    ("C:\\models\\RealVisXL_V5.0_Lightning", "lightning"), ("ByteDance/Hyper-SD", "hyper-sd"), ("x/lcm-ssd-1b", "lcm"),
    ("turbo/plain", None), ("me/hyperrealism_xl", None), ("stable-diffusion-v1-5/stable-diffusion-v1-5", None),
])  # fmt: skip
def test_a_distilled_model_is_told_by_its_name(name, by):
    source = Source(name)
    training = table(summary.before_loading(dreambooth(), Path("out"), source, examples((512, 512)), GPU))
    request = InferenceSettings(prompt="a cat", num_inference_steps=30)
    inference = table(image_summary.before_loading(request, grid(request).requests, source, GPU))
    if by:
        assert f"by its name ({by}) distilled to few steps: training undoes that" in training
        assert f"by its name ({by}) distilled to few steps: its author says how many" in inference
        assert "here 30 steps and guidance_scale 7.5" in inference
    else:
        assert "distilled" not in training + inference
