"""Trials of resuming: pairs of command lines as people type them, sample images and logs that were damaged meanwhile, rates."""

import json
import os
import shlex
import shutil
import struct
import sys
import types
import zlib

import pytest
from kit import write_images
from PIL import Image
from whole_runs import LATEST, Run

from customize.cli import main
from customize.errors import InputError
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.training.preflight import check
from customize.training.resume import differences, identity
from customize.training.validation import PROMPTS, ValidationImages


@pytest.fixture(scope="module")
def place(tiny_epsilon, tmp_path_factory):
    """A folder with `dog` (4 images), `toy` (the same 4, with captions), `dogs` (of the class), `tiny` (a base model)."""
    folder = tmp_path_factory.mktemp("place")
    write_images(folder / "dog", 4)
    shutil.copytree(folder / "dog", folder / "moved")
    shutil.copytree(folder / "dog", folder / "toy")
    for number in range(4):
        (folder / f"toy/{number}.txt").write_text(f"a photo of sks dog {number}")
    write_images(folder / "dogs", 3, seed=1)
    shutil.copytree(folder / "dogs", folder / "more dogs")
    shutil.copytree(tiny_epsilon, folder / "tiny")
    shutil.copytree(tiny_epsilon, folder / "tiny 2")
    return folder


BASE = "--pretrained_model_name_or_path tiny --output_dir run --report_to none"
DREAMBOOTH = f"{BASE} --instance_data_dir dog --instance_prompt 'a photo of sks dog' --adapter lora --rank 4"
INVERSION = f"{BASE} --train_data_dir dog --placeholder_token '<toy>' --initializer_token toy --num_vectors 2"
CLASS = "--prior_preservation images --class_data_dir dogs --class_prompt 'a dog' --num_class_images 3"


def words_of(command: str) -> list[str]:
    """The command line, with the last of each flag."""
    flags: dict[str, list[str]] = {}
    for word in shlex.split(command):
        if word.startswith("--"):
            name = word.partition("=")[0]
            flags[name] = [word]
        else:
            flags[name].append(word)
    return [word for words in flags.values() for word in words]


def identity_of(place, command: str) -> dict:
    model = TextualInversionSettings if "--placeholder_token" in command else DreamBoothSettings
    before = os.getcwd()
    os.chdir(place)
    try:
        settings, _ = main.read(model, words_of(command))
        _, source, examples = check(settings)
        return identity(settings, source, examples, 1)
    finally:
        os.chdir(before)


SAME = {
    "a rate in other figures": ("--learning_rate 1e-4", "--learning_rate 0.0001"),
    "a rate in other figures still": ("--learning_rate 5E-05", "--learning_rate=0.00005"),
    "the default rate of an adapter": ("", "--learning_rate 1e-4"),
    "dashes": ("--max_train_steps 8 --train_batch_size 2", "--max-train-steps=8 --train-batch-size=2"),
    "two epochs": ("--max_train_steps 8 --lr_scheduler cosine", "--num_train_epochs 2 --lr_scheduler cosine"),
    "one epoch of two uses": (
        "--max_train_steps 8 --lr_scheduler cosine", "--num_train_epochs 1 --repeats 2 --lr_scheduler cosine"
    ),
    "epochs of large batches": (
        "--train_batch_size 4 --lr_scheduler linear --max_train_steps 3",
        "--train_batch_size 4 --lr_scheduler linear --num_train_epochs 3",
    ),
    "defaults typed out": (
        "", "--adam_beta1 0.9 --adam_beta2 0.999 --adam_weight_decay 0.01 --max_grad_norm 1 --seed 0 --crop_variants 4 "
        "--lr_scheduler constant --gradient_accumulation_steps 1 --mixed_precision no"
    ),
    "the alpha that follows": ("", "--lora_alpha 4"),
    "the targets that are meant": ("", "--lora_targets attention"),
    "what none means": ("", "--snr_gamma none --resolution none"),
    "the size that the model has": ("", "--resolution 16"),
    "a rate that is scaled": (
        "--scale_lr --train_batch_size 2 --gradient_accumulation_steps 2 --learning_rate 1e-4",
        "--train_batch_size 2 --gradient_accumulation_steps 2 --learning_rate 4e-4",
    ),
    "moved images": ("", "--instance_data_dir moved"),
    "a moved base": ("", "--pretrained_model_name_or_path 'tiny 2'"),
    "captions by the prompt": ("", "--captions prompt"),
    "captions from files": ("--instance_data_dir toy", "--instance_data_dir toy --captions files"),
    "moved class images": (CLASS, CLASS.replace("class_data_dir dogs", "class_data_dir 'more dogs'")),
    "diffusers' flag for the prior": (CLASS, CLASS.replace("--prior_preservation images", "--with_prior_preservation")),
    "how class images are drawn": (CLASS, f"{CLASS} --sample_batch_size 1"),
    "other samples": ("", "--validation_prompt 'a dog' --num_validation_images 2 --sample_inference_steps 5"),
    "no samples": ("", "--validation_prompt none"),
    "checkpoints": ("", "--checkpointing_steps 3 --checkpoints_total_limit 2 --save_steps 2"),
    "other bits in the result": ("", "--save_precision fp16"),
    "a longer run": ("--max_train_steps 8", "--max_train_steps 80"),
    "a longer run with rates in pieces": (
        "--lr_scheduler piecewise_constant --lr_step_rules 1:10,0.1",
        "--lr_scheduler piecewise_constant --lr_step_rules 1:10,0.1 --max_train_steps 900",
    ),
    "rates in pieces, otherwise written": (
        "--lr_scheduler piecewise_constant --lr_step_rules 1:10,0.1:20,0.01",
        "--lr_scheduler piecewise_constant --lr_step_rules '0.10:20, 1.0:10, 1e-2'",
    ),
    "a warm-up that constant has not": ("", "--lr_warmup_steps 10"),
}  # fmt: skip


@pytest.mark.parametrize(("first", "second"), [pytest.param(*pair, id=name) for name, pair in SAME.items()])
def test_equivalent_flags_are_the_same_run(place, first, second):
    assert differences(*(identity_of(place, f"{DREAMBOOTH} {each}") for each in (first, second))) == []


INVERTED = {
    "one start for two words": ("--initializer_token toy --num_vectors 2", "--initializer_token toy toy --num_vectors 2 2"),
}


@pytest.mark.parametrize(("first", "second"), [pytest.param(*pair, id=name) for name, pair in INVERTED.items()])
def test_equivalent_captions_are_the_same_run(place, first, second):
    two = f"{BASE} --train_data_dir dog toy --placeholder_token '<toy>' '<sks>' --captions templates"
    assert differences(*(identity_of(place, f"{two} {each}") for each in (first, second))) == []


OTHER = {
    "another rate": ("", "--learning_rate 2e-4", {"learning_rate"}),
    "a rate that is nearly the same": ("--learning_rate 1e-4", "--learning_rate 1.0000001e-4", {"learning_rate"}),
    "another schedule": ("", "--lr_scheduler cosine", {"lr_scheduler", "max_train_steps"}),
    "a longer cosine": (
        "--lr_scheduler cosine --max_train_steps 8",
        "--lr_scheduler cosine --max_train_steps 9",
        {"max_train_steps"},
    ),
    "a longer cosine by epochs": (
        "--lr_scheduler cosine --num_train_epochs 2",
        "--lr_scheduler cosine --num_train_epochs 6",
        {"max_train_steps"},
    ),
    "other pieces": (
        "--lr_scheduler piecewise_constant --lr_step_rules 1:10,0.1",
        "--lr_scheduler piecewise_constant --lr_step_rules 1:11,0.1",
        {"lr_step_rules"},
    ),
    "another seed": ("", "--seed 1", {"seed"}),
    "a batch": ("", "--train_batch_size 2", {"train_batch_size"}),
    "accumulation": ("", "--gradient_accumulation_steps 2", {"gradient_accumulation_steps"}),
    "a scaled rate": ("--train_batch_size 2", "--train_batch_size 2 --scale_lr", {"learning_rate"}),
    "the images mirrored": ("", "--random_flip", {"random_flip"}),
    "other crops": ("", "--crop_variants 1", {"crop_variants"}),
    "captions for a prompt": ("", "--instance_data_dir toy", {"images and captions"}),
    "another prompt": ("", "--instance_prompt 'a photo of sks cat'", {"instance_prompt", "images and captions"}),
    "other images": ("", "--instance_data_dir dogs", {"images and captions"}),
    "more rank": ("", "--rank 8", {"rank", "lora_alpha"}),
    "more targets": ("", "--lora_targets attention feed-forward", {"lora_targets"}),
    "the text encoder": ("", "--train_text_encoder", {"train_text_encoder", "text_encoder_learning_rate"}),
    "dropout": ("", "--lora_dropout 0.1", {"lora_dropout"}),
    "a prior": ("", CLASS, {"prior_preservation", "class_prompt", "class_data_dir"}),
    "a heavier prior": (CLASS, f"{CLASS} --prior_loss_weight 2", {"prior_loss_weight"}),
    "noise with an offset": ("", "--offset_noise", {"noise_offset"}),
    "min-SNR": ("", "--snr_gamma 5", {"snr_gamma"}),
    "half precision": ("", "--mixed_precision bf16", {"mixed_precision"}),
}


@pytest.mark.parametrize(("first", "second", "named"), [pytest.param(*each, id=name) for name, each in OTHER.items()])
def test_another_run_is_named(place, first, second, named):
    before, after = (identity_of(place, f"{DREAMBOOTH} {each}") for each in (first, second))
    found = differences(before, after)
    assert named <= {problem.where for problem in found}
    assert all("was " in problem.what or "from those of the run" in problem.what for problem in found)
    assert all(problem.remedy and "\n" not in str(problem.what) for problem in found)


def labelled(folder):
    """Sample images of two prompts at steps 0, 2 and 4, as a run leaves them."""
    samples = ValidationImages.__new__(ValidationImages)
    samples.folder, samples.prompts, samples.images, samples.damaged = folder, ("a dog", "a cat"), 1, []
    samples.settings = types.SimpleNamespace(start_label="base model")
    for step in (0, 2, 4):
        (folder / f"step-{step:06d}").mkdir(parents=True)
        for row in range(2):
            Image.new("RGB", (16, 16), (40 * step, 100 * row, 0)).save(folder / f"step-{step:06d}/{row:03d}.png")
        (folder / f"step-{step:06d}" / PROMPTS).write_text(json.dumps(["a dog", "a cat"]))
    return samples


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def made_folder(path):
    path.unlink()
    path.mkdir()


def made_pipe(path):
    path.unlink()
    os.mkfifo(path)


def enlarged(path):
    """A PNG whose header says 40,000 x 40,000."""
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 40000, 40000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


IMAGE, LIST = "step-000002/000.png", f"step-000002/{PROMPTS}"
DAMAGES = {
    "an image is gone": (IMAGE, lambda path: path.unlink(), True),
    "an image is cut": (IMAGE, lambda path: path.write_bytes(path.read_bytes()[:40]), True),
    "an image is empty": (IMAGE, lambda path: path.write_bytes(b""), True),
    "a byte of an image is another": (IMAGE, flipped, True),
    "an image is a text": (IMAGE, lambda path: path.write_text("hello"), True),
    "an image is a web page": (IMAGE, lambda path: path.write_text("<html></html>"), True),
    "an image is a folder": (IMAGE, made_folder, True),
    "an image is a pipe": (IMAGE, made_pipe, True),
    "an image is a dead link": (IMAGE, lambda path: (path.unlink(), path.symlink_to("nowhere")), True),
    "an image is a bomb": (IMAGE, enlarged, True),
    "an image is of another size": (IMAGE, lambda path: Image.new("RGB", (300, 20)).save(path), False),
    "an image is grey": (IMAGE, lambda path: Image.new("L", (16, 16)).save(path), False),
    "an image is a JPEG": (IMAGE, lambda path: Image.new("RGB", (16, 16)).save(path, format="JPEG"), True),
    "an image too many": (IMAGE, lambda path: shutil.copy(path, path.with_name("002.png")), True),
    "a note beside": (IMAGE, lambda path: path.with_name("note.txt").write_text("mine"), False),
    "a picture of the user's": (IMAGE, lambda path: shutil.copy(path, path.with_name("favourite.png")), False),
    "the list is gone": (LIST, lambda path: path.unlink(), True),
    "the list is cut": (LIST, lambda path: path.write_text('["a d'), True),
    "the list is empty": (LIST, lambda path: path.write_text(""), True),
    "the list is binary": (LIST, lambda path: path.write_bytes(b"\xff\xfe\0\x80"), True),
    "the list is a folder": (LIST, made_folder, True),
    "the list is a pipe": (LIST, made_pipe, True),
    "the list is deep": (LIST, lambda path: path.write_text("[" * 100000), True),
    "the list is of other prompts": (LIST, lambda path: path.write_text('["x"]'), None),
    "the list is something else": (LIST, lambda path: path.write_text('{"a": 1}'), None),
    "a step is a file": (IMAGE, lambda path: (shutil.rmtree(path.parent), path.parent.write_text("x")), True),
    "a step is gone": (IMAGE, lambda path: shutil.rmtree(path.parent), None),
}  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "reported"), [pytest.param(*each, id=name) for name, each in DAMAGES.items()])
def test_damaged_samples_are_skipped_with_one_note(name, damage, reported, tmp_path, capsys, terminal):
    """reported: whether a note says so; None: skipped silently, like images of other prompts."""
    samples = labelled(tmp_path / "samples")
    damage(samples.folder / name)
    assert [*samples.columns()] == ([0, 2, 4] if reported is False else [0, 4])
    sheet = samples.sheet()
    assert sheet.width > 100 and [*samples.columns()] == ([0, 2, 4] if reported is False else [0, 4])
    output = capsys.readouterr().out
    assert output.count("note: not shown, because sample images are missing or damaged") == (reported is True), output
    assert ("step-000002" in output) == (reported is True)
    example = types.SimpleNamespace(open=lambda: Image.new("RGB", (16, 16)), concept=0)
    samples.write_before_after(tmp_path / "before_after.png", [example], 4)
    assert (tmp_path / "before_after.png").exists()


@pytest.mark.parametrize("what", ["gone", "cut", "of other prompts"])
def test_without_the_base_models_images_nothing_is_called_before(what, tmp_path, capsys, terminal):
    samples = labelled(tmp_path / "samples")
    if what == "gone":
        shutil.rmtree(samples.folder / "step-000000")
    elif what == "cut":
        (samples.folder / "step-000000/000.png").write_bytes(b"\x89PNG")
    else:
        (samples.folder / "step-000000" / PROMPTS).write_text('["x"]')
    samples.write_before_after(tmp_path / "before_after.png", [], 4)
    assert not (tmp_path / "before_after.png").exists()
    assert "no before_after.png: the base model's sample images no longer exist" in capsys.readouterr().out


def test_optional_files_never_stop_a_run(server, tiny_epsilon, image_folder, tmp_path):
    """Samples, sheet, log and trackers' files damaged, each in its way; the result is that of an untouched run, to the bit."""
    changes = {"validation_prompt": ("a dog",), "num_validation_images": 1, "validation_steps": 2, "sample_inference_steps": 2}
    changes |= {"max_train_steps": 4, "report_to": ("tensorboard",)}
    finished_run = Run(server, tmp_path / "straight", "textual_inversion", tiny_epsilon, image_folder, max_train_steps=4)
    assert finished_run()[0] == 0
    run = Run(server, tmp_path / "run", "textual_inversion", tiny_epsilon, image_folder, **changes)
    assert run(moment="in a step", number=4)[0] < 0
    (run.folder / "samples/step-000000/000.png").write_bytes(b"")
    (run.folder / f"samples/step-000002/{PROMPTS}").unlink()
    (run.folder / "samples/contact_sheet.png").write_bytes(b"x")
    (run.folder / "log.jsonl").write_bytes(b"\xff\0{\n\n[]")
    shutil.rmtree(run.folder / "logs", ignore_errors=True)
    (run.folder / "logs").write_text("a file")
    status, output = run(*LATEST)
    assert status == 0 and "Traceback" not in output, output
    assert run.result() == finished_run.result()


def test_tensorboard_has_each_step_once(tmp_path):
    """After going on from step 2 of 4, as `tracker_options` has it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    from customize.storage.checkpoint import Checkpoint
    from customize.training.run import tracker_options

    same = {"run": "abc"}
    for resume, steps in ((None, range(1, 5)), (Checkpoint(2, {}, {}), range(3, 7))):
        writer = SummaryWriter(str(tmp_path), **tracker_options(resume, same)["tensorboard"])
        for step in steps:
            writer.add_scalar("loss", 10.0 * (resume is not None) + step, step)
        writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, 1.0), (2, 2.0), (3, 13.0), (4, 14.0), (5, 15.0), (6, 16.0),
    ]  # fmt: skip


def test_weights_and_biases_continues_the_same_run(monkeypatch):
    from accelerate import Accelerator
    from accelerate.tracking import WandBTracker

    from customize.training.run import tracker_options

    Accelerator(cpu=True)
    calls = []
    stub = types.SimpleNamespace(init=lambda **options: calls.append(options) or types.SimpleNamespace(config={}))
    monkeypatch.setitem(sys.modules, "wandb", stub)
    for _ in range(2):
        tracker = WandBTracker("customize", **tracker_options(None, {"run": "0123"})["wandb"])
        tracker.start()
    assert calls == [{"project": "customize", "id": "0123", "resume": "allow"}] * 2


WRONG = {
    "no rules": ("--lr_scheduler piecewise_constant", "lr_step_rules: is missing"),
    "rules of another schedule": ("--lr_step_rules 1:10,0.1", "lr_step_rules: has no effect without lr_scheduler"),
    "a rule without its step": ("--lr_scheduler piecewise_constant --lr_step_rules 1,0.1", '"1" is not FACTOR:STEP'),
    "a last rule with a step": ("--lr_scheduler piecewise_constant --lr_step_rules 1:10", '"1:10" is not a factor'),
    "a warm-up as long as the run": (
        "--lr_scheduler cosine --max_train_steps 8 --lr_warmup_steps 8", "8 of 8 steps: the learning rate would never reach"
    ),
    "a warm-up longer than the epochs": (
        "--lr_scheduler cosine --num_train_epochs 1 --lr_warmup_steps 500",
        "500 of 4 steps: the learning rate would never reach",
    ),
    "another rate without a run": ("--change_learning_rate", "change_learning_rate: has no effect without a value for resume"),
    "a precision that is none": ("--save_precision fp8", "is not one of fp32, fp16, bf16"),
    "weights that are not there": ("--init_weights nowhere", "init_weights: no file or folder nowhere"),
    "images for weights": ("--init_weights dog", "dog contains no"),
    "an image for weights": ("--init_weights dog/0.png", "dog/0.png"),
    "a pickle for weights": ("--init_weights old.ckpt", "old.ckpt"),
    "a run that is not there": ("--resume_from_checkpoint step-000004", None),
}  # fmt: skip


@pytest.mark.parametrize(("words", "output"), [pytest.param(*each, id=name) for name, each in WRONG.items()])
def test_impossible_settings_are_in_one_report(place, words, output):
    (place / "old.ckpt").write_bytes(b"\x80\x02}q\x00.")
    before = sorted(path for path in place.rglob("*"))
    if output is None:
        assert identity_of(place, f"{DREAMBOOTH} {words}")
    else:
        with pytest.raises(InputError) as caught:
            identity_of(place, f"{DREAMBOOTH} {words}")
        assert output in str(caught.value)
        assert all(problem.remedy for problem in caught.value.problems)
    assert before == sorted(path for path in place.rglob("*"))
