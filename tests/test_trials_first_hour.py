"""What a newcomer meets in the first hour: first and last lines for many flags and surroundings, units, times left, prompts of
samples, labels of sheets. Each trial states what is printed or what comes out."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image, ImageFont

from customize import adapters, units
from customize.adapters import lora
from customize.adapters.peft_layers import PeftAdapter
from customize.cli import main
from customize.cli.terminal import table, time_left
from customize.data.samples.streaming import Streamed
from customize.device import Machine
from customize.families import Source, trigger_words
from customize.inference.explain.contact_sheet import contact_sheet, line_length, wrapped
from customize.inference.run.grid import Axis
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.next_command import command_line
from customize.settings.inference import InferenceSettings
from customize.settings.training_parts.validation_prompts import sample_prompts
from customize.storage.run_folder import KOHYA_LORA, LORA
from customize.training import summary
from customize.training.callbacks import Pace

NO_GPU = Machine("CPU (8 threads)", "no GPU found")
WITHOUT_CUDA = Machine(
    "CPU (8 threads)", "NVIDIA GeForce RTX 3060 found, but torch 2.13.0+cpu is a build without CUDA",
    "pip install --force-reinstall torch==2.13.0",
)  # fmt: skip
GPU = Machine("NVIDIA GeForce RTX 3060 (12 GiB)")
MPS = Machine("Apple GPU (MPS)")
HUB = Source("stable-diffusion-v1-5/stable-diffusion-v1-5")
FILE = Source("/models/dreamshaper_8.safetensors", file=Path("/models/dreamshaper_8.safetensors"))
FOLDER = Source("models/sd 2.1", folder=Path("models/sd 2.1"))
DEMO = Source("demo", folder=Path("demo"))


def dreambooth(**changes):
    return DreamBoothSettings(**{"instance_prompt": "sks cat", "instance_data_dir": "my cat", "resolution": 512, **changes})


def words(**changes):
    given = {"placeholder_token": "<t>", "initializer_token": "toy", "train_data_dir": "my cat", "resolution": 512}
    return TextualInversionSettings(**{**given, **changes})


def photos(*sizes, classes=0):
    return SimpleNamespace(
        instances=tuple(SimpleNamespace(name="a.jpg", size=size, mask=None, repeats=1, concept=0) for size in sizes),
        classes=(SimpleNamespace(concept=0),) * classes,
    )


PHONE = photos(*[(3024, 4032)] * 12)


def first_lines(settings, source=HUB, machine=GPU, found=PHONE, folder="runs/dreambooth-0001"):
    return table(summary.before_loading(settings, Path(folder), source, found, machine))


@pytest.mark.parametrize(
    ("output", "lines"),
    [
        pytest.param(first_lines(dreambooth(resolution=64), DEMO, NO_GPU), ["base      demo, a toy model of 64 x 64 pixels"],
                     id="the toy says that it is one"),
        pytest.param(first_lines(dreambooth(resolution=64), DEMO, NO_GPU),
                     ["for your own photos: --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5"],
                     id="the toy names the model for photos"),
        pytest.param(first_lines(dreambooth(resolution=64), DEMO, NO_GPU), ["3024 x 4032 pixels, cropped and scaled to 64 x 64"],
                     id="photos become 64 x 64 aloud"),
        pytest.param(first_lines(dreambooth(resolution=64), DEMO, GPU), ["device    NVIDIA GeForce RTX 3060 (12 GiB)\n"],
                     id="the toy on a GPU"),
        pytest.param(first_lines(dreambooth(), HUB, NO_GPU), ["on a CPU a run takes hours to days"], id="SD on a CPU"),
        pytest.param(first_lines(dreambooth(), FILE, NO_GPU), ["on a CPU a run takes hours to days"],
            id="a single file on a CPU"),
        pytest.param(first_lines(dreambooth(), HUB, WITHOUT_CUDA),
                     ["RTX 3060 found, but torch 2.13.0+cpu is a build without CUDA",
                      "          -> pip install --force-reinstall torch==2.13.0\n"], id="a CPU wheel beside a card"),
        pytest.param(first_lines(dreambooth(), HUB, MPS), ["device    Apple GPU (MPS)\n"], id="Apple"),
        pytest.param(first_lines(dreambooth(mixed_precision="bf16"), HUB, GPU), ["(12 GiB), bf16\n"], id="precision is named"),
        pytest.param(first_lines(dreambooth(mixed_precision="bf16"), HUB, NO_GPU), ["CPU (8 threads), bf16: no GPU found"],
                     id="bf16 on a CPU, as the refusal of fp16 proposes"),
        pytest.param(first_lines(dreambooth(), FILE), ["base      /models/dreamshaper_8.safetensors\n"], id="base from a file"),
        pytest.param(first_lines(dreambooth(), FOLDER), ["base      models/sd 2.1\n"], id="base from a folder with a blank"),
        pytest.param(first_lines(dreambooth(), HUB), ["stable-diffusion-v1-5 (from the hub)\n"], id="base from the hub"),
        pytest.param(first_lines(dreambooth(), Source("a/b", revision="fp16")), ["base      a/b (from the hub, fp16)"],
                     id="a revision is named"),
        pytest.param(first_lines(dreambooth(), Source("a/b\x1b[31m\nx")), [r"base      a/b\x1b[31m\nx (from the hub)"],
                     id="an escape sequence in a name stays text"),
        pytest.param(first_lines(dreambooth(), folder="runs/it's mine"), ["folder    runs/it's mine"],
            id="a folder with a quote"),
        pytest.param(first_lines(dreambooth(instance_data_dir="/photos/my cat")), ["12 in /photos/my cat"], id="photos' folder"),
        pytest.param(first_lines(dreambooth(), found=photos((512, 512))), ["images    1 in my cat, 512 x 512 pixels\n"],
                     id="one photo of the right size is not scaled"),
        pytest.param(first_lines(dreambooth(), found=photos((256, 256))), ["256 x 256 pixels, scaled to 512 x 512"],
                     id="a small square is enlarged, not cropped"),
        pytest.param(first_lines(dreambooth(), found=photos((640, 480), (4000, 3000))),
                     ["2 in my cat, 640 x 480 to 4000 x 3000 pixels, cropped and scaled to 512 x 512"], id="several sizes"),
        pytest.param(first_lines(dreambooth(adapter="lora")), ['a LoRA of rank 16 beside the UNet is trained on "sks cat"'],
                     id="LoRA"),
        pytest.param(first_lines(dreambooth(adapter="lora", rank=64)), ["rank 64"], id="another rank"),
        pytest.param(first_lines(dreambooth()), ['all weights of the UNet are trained on "sks cat"'], id="full"),
        pytest.param(first_lines(dreambooth(train_text_encoder=True)), ["UNet and text encoder"], id="with the text encoder"),
        pytest.param(first_lines(dreambooth(adapter="lora", prior_preservation="teacher", class_prompt="a cat")),
                     ['prior preservation of "a cat" by the base model'], id="teacher"),
        pytest.param(first_lines(dreambooth(prior_preservation="images", class_prompt="a cat", class_data_dir="c",
                                            num_class_images=200)),
                     ["200 of the class, 200 of them generated first"], id="class images are generated first"),
        pytest.param(first_lines(dreambooth(prior_preservation="images", class_prompt="a cat", class_data_dir="c",
                                            num_class_images=2), found=photos((512, 512), classes=5)),
                     ["; 2 of the class\n"], id="class images are there"),
        pytest.param(first_lines(words()), ['learns an object as <t> (1 vector), starting from "toy"'], id="a new word"),
        pytest.param(first_lines(words(learnable_property="style", num_vectors=5)), ["learns a style as <t> (5 vectors)"],
                     id="a style"),
        pytest.param(first_lines(words(train_data_dir=None or (), dataset_name="me/cats")), ["12 in me/cats"], id="a data set"),
        pytest.param(first_lines(words(placeholder_token=("<a>", "<b>"), train_data_dir=("one", "two"))), ["12 in one, two"],
                     id="two folders"),
        pytest.param(first_lines(dreambooth(instance_prompt="фото sks кошки")), ['trained on "фото sks кошки"'], id="Cyrillic"),
    ],
)  # fmt: skip
def test_first_lines(output, lines):
    for line in lines:
        assert line in output
    assert "\x1b" not in output and 5 <= len(output.splitlines()) <= 9
    titles = [line[:10].strip() for line in output.splitlines() if line[:1] != " "]
    assert [title for title in titles if title != "cut off"] == ["base", "method", "images", "device", "folder"]


BENCH = {
    "evaluation": "loss",
    "max_train_steps": 800,
    "first_step": 0,
    "global_batch": 1,
    "is_slow": False,
    "validation_steps": 400,
    "streamed": Streamed(False, False, 12, 1),
}


@pytest.mark.parametrize(
    ("changes", "seconds", "text"),
    [
        pytest.param({}, 250, "800 steps, batch size 1; 5,000 trainable parameters; about 4 min 10 s\n", id="minutes"),
        pytest.param({"is_slow": True}, 68_400, "about 19 h without a GPU: Ctrl-C saves and stops\n", id="hours on a CPU"),
        pytest.param({"is_slow": True}, 260_000, "about 3 days without a GPU", id="days on a CPU"),
        pytest.param({"first_step": 300}, 100, "500 steps left of 800, batch size 1", id="a resumed run"),
        pytest.param({"global_batch": 16}, 100, "batch size 16", id="batch size over all processes"),
        pytest.param({"max_train_steps": 1}, 0.2, "training  1 step, batch size 1; 5,000 trainable parameters; under 1 s",
                     id="one step"),
        pytest.param({}, 100, '1 image of each of 2 prompts every 400 steps: "sks cat", "sks cat on the beach"', id="samples"),
        pytest.param({"sample_prompts": ()}, 100, "samples   none, so no before_after.png", id="samples are off"),
        pytest.param({"sample_prompts": ("sks cat",)}, 100, 'samples   1 image every 400 steps: "sks cat"', id="one sample"),
        pytest.param({"max_train_steps": 50}, 100, "every 50 steps", id="samples of a short run"),
        pytest.param({"sample_prompts": ("a", "b", "c", "d")}, 100, '4 prompts every 400 steps: "a", "b" and 2 more',
            id="more prompts"),
    ],
)  # fmt: skip
def test_messages_before_the_first_step(changes, seconds, text):
    settings = dreambooth()
    learned = SimpleNamespace(trainable_state_dict=lambda: {"a": SimpleNamespace(numel=lambda: 5000)})
    context = SimpleNamespace(**{**BENCH, "settings": settings, "sample_prompts": sample_prompts(settings), **changes})
    assert text in table(summary.prepared(context, SimpleNamespace(method=learned), seconds)) + "\n"


@pytest.mark.parametrize(
    "folder", ["run", "my run", "it's mine", 'a "b"', "$HOME", "日本", "a;b", "a&b", "-x", "a#b", "(1)", "~x"]
)
def test_the_next_command_runs_unchanged(folder, tmp_path):
    place = tmp_path / folder
    (place / "samples").mkdir(parents=True)
    for name in ("before_after.png", "samples/contact_sheet.png"):
        (place / name).touch()
    output = table(summary.finished(dreambooth(), place, [place / LORA], HUB, 12, 800, 125)).splitlines()
    assert output[0] == 'trained   "sks cat" from 12 images in 800 steps, 2 min 5 s'
    assert [Path(each).is_file() for each in output[1][10:].split(" and ")] == [True, True]
    parsed = shlex.split(output[2][10:])
    settings, _ = main.read(InferenceSettings, parsed[2:])
    assert settings.weights == (str(place),) and settings.prompt == ("sks cat on the beach",) and settings.num_images == 4


@pytest.mark.parametrize(
    ("names", "source", "text"),
    [
        pytest.param([LORA], HUB, f"copy runs/x/{LORA} to ComfyUI/models/loras or stable-diffusion-webui/models/Lora", id="LoRA"),
        pytest.param([LORA, KOHYA_LORA], HUB, f"copy runs/x/{KOHYA_LORA} to ComfyUI/models/loras", id="LoRA with kohya's names"),
        pytest.param(["learned_embeds.safetensors"], HUB,
            "ComfyUI/models/embeddings or stable-diffusion-webui/embeddings", id="word"),
        pytest.param(["model_index.json"], HUB, "StableDiffusionPipeline.from_pretrained('runs/x')", id="whole model"),
        pytest.param([LORA], DEMO, None, id="what the toy learned is of use nowhere else"),
    ],
)  # fmt: skip
def test_where_to_put_the_result(names, source, text):
    output = table(summary.finished(dreambooth(), Path("runs/x"), [Path(name) for name in names], source, 1, 2, 3))
    assert (text in output) if text else ("elsewhere" not in output)


def test_only_an_adapter_whose_files_others_read_is_copied_to_them(monkeypatch):
    """LoRA's are; those of another type of peft are not unless it says so."""
    settings = dreambooth(adapter="lora")
    for read, adapter in ((True, lora.Adapter), (False, PeftAdapter)):
        monkeypatch.setattr(adapters, "build", lambda name, adapter=adapter: adapter())
        output = table(summary.finished(settings, Path("runs/x"), [Path(LORA)], HUB, 1, 2, 3))
        assert ("elsewhere" in output) == read


@pytest.mark.parametrize(
    ("settings", "config", "command"),
    [
        (dreambooth(), "runs/x/config.toml", "python train_dreambooth.py runs/x/config.toml --resume_from_checkpoint latest"),
        (words(), "my run/config.toml",
         'python train_textual_inversion.py "my run/config.toml" --resume_from_checkpoint latest'),
    ],
)  # fmt: skip
def test_the_command_to_resume(settings, config, command):
    assert summary.resume_command(settings, Path(config)) == command


@pytest.mark.parametrize(
    ("prompt", "rare"),
    [
        ("sks cat", {"sks"}), ("a photo of sks dog", {"sks"}), ("photo of ohwx man, smiling", {"ohwx"}),
            ("<cat-toy>", {"cat-toy"}),
        ("zwx", {"zwx"}), ("a photo of ohwx", {"ohwx"}), ("TOK, in the style of TOK", {"tok"}), ("p3rs0n", {"p3rs0n"}),
        ("a photo of my_cat", {"my_cat"}), ("ảnh mèo sks", {"ảnh", "mèo", "sks"}), ("猫の写真", {"猫の写真"}),
            ("a photo of Bella the dog", {"bella"}),
        ("sks, sks, sks", {"sks"}), ("a", {"a"}), ("🐱 sks", {"sks"}), ("a photo of sks dog!", {"sks"}),
    ],
)  # fmt: skip
def test_triggers_of_prompts_as_people_write_them(prompt, rare):
    assert set(trigger_words.rare_words(prompt)) == rare
    made = sample_prompts(dreambooth(instance_prompt=prompt))
    assert made[0] == prompt and trigger_words.any_calls(made, rare)
    foreign = dreambooth(instance_prompt=prompt, validation_prompt=("a photo of a tree",) if prompt != "a" else ("tree",))
    assert any("sample images will not show what is learned" in note for note in foreign.notes())
    assert not [note for note in dreambooth(instance_prompt=prompt, validation_prompt=made).notes() if "sample images" in note]


@pytest.mark.parametrize(
    ("steps", "seconds", "text"),
    [
        ([5.0], 100, ""), ([5.0, 0.3], 400, "0.3 s per step, 2 min left"), ([300.0, 2.0, 2.0], 1800, "2 s per step, 1 h left"),
        ([1.0, 86.0], 799, "1 min 26 s per step, 19 h 5 min left"), ([0.1, 0.012], 10, "12 ms per step, under 1 s left"),
        ([9.0, *[1.0] * 50, *[3.0] * 100], 100, "3 s per step, 5 min left"),
    ],
)  # fmt: skip
def test_time_left(steps, seconds, text):
    pace = Pace()
    for step in steps:
        pace.step(step)
    assert time_left(pace.seconds, pace.left(seconds)) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (147_089_743, "140 MiB"), (76_421_148_672, "71.2 GiB"), (3_438_167_536, "3.2 GiB"), (9_850_000,
            "9.39 MiB"), (3300, "3.22 KiB"),
        (1023, "1 KiB"), (12, "12 bytes"), (10**15, "909 TiB"),
    ],
)  # fmt: skip
def test_sizes_of_real_files(number, text):
    assert units.size(number) == text


@pytest.mark.parametrize(
    ("label", "width"),
    [
        ("a photo of sks dog on the beach", 128), ("weights pytorch_lora_weights", 128), ("x" * 300, 128),
            ("guidance scale 7.5", 64),
        ("Ein sehr langer Prompt über Häuser, Gärten und Wälder im Süden", 256), ("", 128), ("日本の猫", 128),
    ],
)  # fmt: skip
def test_labels_fit(label, width):
    font = ImageFont.load_default(14)
    lines = wrapped(label, font, width).split("\n")
    assert all(line_length(line, font) <= width for line in lines) and len(lines) <= 4
    sheet = contact_sheet([[Image.new("RGB", (width, width), "red")]], [label], [label])
    assert sheet.width >= width and sheet.height >= width


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((("runs/cat",), ("runs/cat:0.5",)), ["cat", "cat:0.5"]),
        ((("/a/b/c/very/long/path/to/my lora v2.safetensors:0.8",), ()), ["my lora v2:0.8", "(none)"]),
        ((("runs/x/checkpoints/step-000100",), ("runs/y/checkpoints/step-000100",)),
         ["x/checkpoints/step-000100", "y/checkpoints/step-000100"]),
        (((f"runs/x/{LORA}",), (f"runs/y/{LORA}",)), ["x", "y"]),
    ],
)  # fmt: skip
def test_columns_of_weights(values, labels):
    assert Axis("weights", values).labels == [f"weights {label}" for label in labels]


def test_commands_are_quoted_for_the_shell():
    assert command_line("infer.py", weights="runs/x", prompt=["a b", "c"]) == 'python infer.py --weights runs/x --prompt "a b" c'
    assert re.fullmatch(r"python infer.py --prompt='?-x'?", command_line("infer.py", prompt="-x"))


def test_a_toy_under_another_name_needs_no_gpu():
    assert "needs a GPU" not in first_lines(dreambooth(resolution=64), FOLDER, NO_GPU)
    assert "needs a GPU" in first_lines(dreambooth(resolution=256), FOLDER, NO_GPU)
