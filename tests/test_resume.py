"""A run that was killed, stopped or failed, and then resumed, ends bit-identical to one that was not."""

import shutil
import signal

import pytest
import torch
from kit import METHODS, write_images, write_shapes
from models import tiny_stable_diffusion_xl
from PIL import Image
from safetensors.torch import load_file
from whole_runs import LATEST, Run

from customize.families import Source, locate
from customize.training.resume import BLOCK, BLOCKS, fingerprint

SELDOM = [pytest.param(method, marks=pytest.mark.slow) for method in METHODS if method != "lora"]


@pytest.mark.parametrize("method", ["lora", *SELDOM])
def test_killed_at_three_moments_and_resumed(method, server, tiny_epsilon, tmp_path):
    """With images in three buckets."""
    image_folder = write_shapes(tmp_path / "images")
    finished_run = (
        Run(server, tmp_path / "straight", method, tiny_epsilon, image_folder, lora_dropout=0.2)
        if method == "lora"
        else Run(server, tmp_path / "straight", method, tiny_epsilon, image_folder)
    )
    assert finished_run()[0] == 0
    killed = Run(
        server, tmp_path / "killed", method, tiny_epsilon, image_folder, **({"lora_dropout": 0.2} if method == "lora" else {})
    )
    assert killed(moment="in a step", number=4)[0] == -signal.SIGKILL  # step 4: after the checkpoint of step 2
    status, output = killed(*LATEST, moment="inside a checkpoint")  # that of step 4, with its files but without its manifest
    assert status == -signal.SIGKILL and "resuming after step 2" in output
    status, output = killed(*LATEST, moment="after a checkpoint")
    assert status == -signal.SIGKILL and "resuming after step 2" in output
    status, output = killed(*LATEST)
    assert status == 0 and "resuming after step 4" in output
    assert killed.result() == finished_run.result()
    assert killed.losses() == finished_run.losses() and len(finished_run.losses()) == 6


@pytest.fixture(scope="module")
def tiny_xl(tmp_path_factory):
    return tiny_stable_diffusion_xl(tmp_path_factory.mktemp("models") / "tiny_xl")


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        pytest.param("textual_inversion", {}, marks=pytest.mark.slow),
        pytest.param("lora", {"train_text_encoder": True, "lora_dropout": 0.2}, marks=pytest.mark.slow),
        pytest.param("pivotal", {}, marks=pytest.mark.slow),
        ("pivotal", {"normalize_embedding": True, "train_text_encoder": True, "embedding_train_fraction": 0.5}),
    ],
)
def test_a_killed_run_on_sdxl_resumes_to_the_same_bits(method, changes, server, tiny_xl, image_folder, tmp_path):
    changes = {**changes, "max_train_steps": 5, "lr_scheduler": "cosine"}
    straight = Run(server, tmp_path / "straight", method, tiny_xl, image_folder, **changes)
    killed = Run(server, tmp_path / "killed", method, tiny_xl, image_folder, **changes)
    assert straight()[0] == 0 and killed(moment="in a step", number=4)[0] == -signal.SIGKILL
    status, output = killed(*LATEST)
    assert status == 0 and "resuming after step 2" in output
    assert killed.result() == straight.result() and killed.losses() == straight.losses()


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (
            "lora",
            {
                "optimizer": "schedule_free",
                "text_encoder_train_fraction": 0.5,
                "train_text_encoder": True,
                "text_encoder_lr_warmup_steps": 1,
                "lr_pattern": ("mid_block=0.5", "attn2.to_k=0"),
            },
        ),
        (
            "pivotal",
            {"optimizer": "prodigy", "learning_rate": 1.0, "use_ema": True, "lr_warmup_steps": 2, "unet_train_fraction": 0.5},
        ),
        pytest.param("full", {"optimizer": "muon", "use_ema": True, "offload_ema": True}, marks=pytest.mark.slow),
        *(
            pytest.param("lora", {"optimizer": name, "loraplus_lr_ratio": 4.0, "use_ema": True}, marks=pytest.mark.slow)
            for name in ("adafactor", "came", "lion", "lion_8bit", "paged_adamw_8bit")
        ),
    ],
)
def test_any_optimizer_and_average_resume_to_the_same_bits(method, changes, server, tiny_epsilon, image_folder, tmp_path):
    changes = {"lr_scheduler": "constant_with_warmup", **changes}
    straight = Run(server, tmp_path / "straight", method, tiny_epsilon, image_folder, **changes)
    killed = Run(server, tmp_path / "killed", method, tiny_epsilon, image_folder, **changes)
    assert straight()[0] == 0 and killed(moment="in a step", number=4)[0] == -signal.SIGKILL
    status, output = killed(*LATEST)
    assert status == 0 and "resuming after step 2" in output, output
    assert killed.result() == straight.result() and killed.losses() == straight.losses()


def test_eight_bit_adam_resumes_to_the_same_bits(server, tiny_epsilon, image_folder, tmp_path):
    """With moments of 8 bits (tensors of 4,096 numbers and more) and of 32."""
    changes = {"optimizer": "adamw_8bit", "rank": 128}
    finished_run = Run(server, tmp_path / "straight", "lora", tiny_epsilon, image_folder, **changes)
    killed = Run(server, tmp_path / "killed", "lora", tiny_epsilon, image_folder, **changes)
    assert finished_run()[0] == 0 and killed(moment="in a step", number=4)[0] == -signal.SIGKILL
    assert any(
        torch.uint8 == each.dtype for each in load_file(killed.folder / "checkpoints/step-000002/state.safetensors").values()
    )
    assert killed(*LATEST)[0] == 0 and killed.result() == finished_run.result()


@pytest.mark.parametrize(
    ("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), pytest.param("SIGHUP", 129, marks=pytest.mark.slow)]
)
def test_a_signal_finishes_the_step_saves_and_prints_how_to_resume(
    name, status, finished_run, server, tiny_epsilon, image_folder, tmp_path
):
    finished_run = finished_run("textual_inversion")
    run = Run(server, tmp_path / "stopped", "textual_inversion", tiny_epsilon, image_folder)
    stopped, output = run(moment="in a step", number=3, action=name)
    assert stopped == status and (run.folder / "checkpoints/step-000003").is_dir() and "Traceback" not in output
    assert f"{run.folder / 'config.toml'} --resume_from_checkpoint latest" in output
    assert run(*LATEST)[0] == 0
    assert run.result() == finished_run.result() and run.losses() == finished_run.losses()


def test_nan_leaves_the_last_good_state(finished_run, server, tiny_epsilon, image_folder, tmp_path):
    finished_run = finished_run("lora")
    run = Run(server, tmp_path / "nan", "lora", tiny_epsilon, image_folder)
    status, output = run(moment="in the loss", number=4, action="nan")
    assert status == 4 and "the loss is nan at step 4" in output and ".png" in output and "Traceback" not in output
    assert not list(run.folder.glob("*.safetensors"))
    status, output = run(*LATEST)
    assert status == 0 and "resuming after step 3" in output
    assert run.result() == finished_run.result()


def test_a_folder_with_a_run_is_refused_and_settings_that_matter_may_not_change(server, tiny_epsilon, image_folder, tmp_path):
    run = Run(server, tmp_path, "lora", tiny_epsilon, image_folder)
    assert run()[0] == 0
    before = run.result()
    status, output = run()
    assert status == 2 and "--resume_from_checkpoint latest" in output and "--overwrite_output_dir" in output
    status, output = run(*LATEST, "--learning_rate", "0.5", "--seed", "4")
    assert status == 2 and "learning_rate: was 0.001" in output and "seed: was 3" in output and "Traceback" not in output
    assert run.result() == before
    assert run("--overwrite_output_dir", "--seed", "4")[0] == 0
    assert run.result() != before
    assert run.folder.joinpath("config.toml").exists()


@pytest.mark.parametrize("method", [pytest.param("textual_inversion", marks=pytest.mark.slow), "lora"])
def test_accumulation_equals_a_larger_batch(method, server, tiny_v, image_folder, tmp_path):
    batch = Run(server, tmp_path / "batch", method, tiny_v, image_folder, train_batch_size=4)
    accumulated = Run(server, tmp_path / "accumulated", method, tiny_v, image_folder, gradient_accumulation_steps=4)
    assert batch()[0] == accumulated()[0] == 0
    assert accumulated.losses() == pytest.approx(batch.losses(), abs=1e-6)


@pytest.mark.parametrize(("moment", "action", "expected"), [("in the loss", "memory", 3), ("in the bar", "errno 28", 3)])
def test_the_state_is_saved_if_memory_or_disk_run_out(
    moment, action, expected, finished_run, server, tiny_epsilon, image_folder, tmp_path
):
    finished_run = finished_run("textual_inversion")
    run = Run(server, tmp_path / "short", "textual_inversion", tiny_epsilon, image_folder)
    status, output = run(moment=moment, number=4, action=action)
    assert status == expected and "Traceback" not in output and "->" in output
    status, output = run(*LATEST)
    assert status == 0 and f"resuming after step {3 if moment == 'in the loss' else 4}" in output
    assert run.result() == finished_run.result()


def test_a_finished_run_resumed_changes_nothing(server, tiny_epsilon, image_folder, tmp_path):
    run = Run(server, tmp_path, "lora", tiny_epsilon, image_folder)
    assert run()[0] == 0
    before, losses = run.result(), run.losses()
    status, output = run(*LATEST)
    assert status == 0 and "resuming after step 6" in output
    assert run.result() == before and run.losses() == losses


def test_another_run_is_not_the_same_run(server, tiny_epsilon, tmp_path):
    """Pictures, captions and the length of a schedule that it shapes are part of what a run is."""
    folder = write_images(tmp_path / "own")
    run = Run(server, tmp_path, "lora", tiny_epsilon, folder, lr_scheduler="cosine")
    assert run(moment="in a step", number=4)[0] == -signal.SIGKILL
    status, output = run(*LATEST, "--max_train_steps", "9")
    assert status == 2 and "max_train_steps: was 6" in output
    (folder / "1.txt").write_text("a photo of sks dog in the house")
    status, output = run(*LATEST)
    assert status == 2 and "images and captions" in output and "1.png" in output
    (folder / "1.txt").unlink()
    before = (folder / "2.png").read_bytes()
    picture = Image.open(folder / "2.png")
    picture.putpixel((0, 0), tuple(255 - value for value in picture.getpixel((0, 0))))
    picture.save(folder / "2.png")
    status, output = run(*LATEST)
    assert status == 2 and "images and captions" in output and "2.png" in output
    (folder / "2.png").write_bytes(before)
    assert run(*LATEST)[0] == 0


def test_another_base_model_is_detected_wherever_its_bytes_differ(tiny_epsilon, tmp_path):
    """In files of at most 64 blocks every byte counts; of larger ones the blocks are spread from start to end."""
    folder = shutil.copytree(tiny_epsilon, tmp_path / "base")
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    before, size = fingerprint(locate(str(folder))), file.stat().st_size
    assert size < BLOCKS * BLOCK
    for place in (size // 3, size // 2, size - 1):
        with open(file, "r+b") as stream:
            stream.seek(place)
            byte = stream.read(1)
            stream.seek(place)
            stream.write(bytes([byte[0] ^ 1]))
        after = fingerprint(locate(str(folder)))
        assert after != before
        before = after
    for name in (
        "checkpoints/step-000001/learned.safetensors",
        "lora/customize.json",
        "safety_checker/config.json",
        "unet/x.fp16.safetensors",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"what is not read does not count")
    assert fingerprint(locate(str(folder))) == before
    (folder / "tokenizer/added_tokens.json").write_text("{}")
    assert fingerprint(locate(str(folder))) != before
    large, found = tmp_path / "large.safetensors", set()
    for place in (0, 1 << 22, (1 << 23) - 1):
        content = bytearray(1 << 23)
        content[place - place % ((1 << 23) // BLOCKS)] = 1
        large.write_bytes(content)
        found.add(fingerprint(Source("large", file=large)))
    assert len(found) == 3


def test_no_file_of_the_user_is_overwritten_or_removed(server, tiny_epsilon, image_folder, tmp_path):
    folder = tmp_path / "run"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet/mine.safetensors").write_text("mine")
    (folder / "README.md").write_text("mine")
    run = Run(server, tmp_path, "full", tiny_epsilon, image_folder)
    for flags in ([], ["--overwrite_output_dir"]):
        status, output = run(*flags)
        assert status == 2 and "README.md" in output and "unet" in output and "name another folder" in output
    assert (folder / "unet/mine.safetensors").read_text() == (folder / "README.md").read_text() == "mine"


def test_inputs_of_a_run_are_not_removed_with_an_earlier_one(server, tiny_epsilon, image_folder, tmp_path):
    """The base model is its result, the images are its samples; the user's own files among them are never removed."""
    changes = {"validation_prompt": ("a dog",), "num_validation_images": 1, "sample_inference_steps": 1}
    earlier = Run(server, tmp_path, "full", tiny_epsilon, image_folder, max_train_steps=1, **changes)
    assert earlier()[0] == 0
    shutil.copytree(image_folder, earlier.folder / "samples/mine")
    mine = {path: path.read_bytes() for path in earlier.folder.glob("samples/mine/*")}
    (tmp_path / "linked").mkdir()
    for part in ("model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        (tmp_path / "linked" / part).symlink_to(earlier.folder / part)
    before = {path: path.read_bytes() for path in earlier.folder.rglob("*") if path.is_file()}
    inside = str(earlier.folder / "samples/step-000000")
    for flags, name in (
        (["--instance_data_dir", inside], "instance_data_dir"),
        (["--instance_data_dir", f"{earlier.folder}/checkpoints/../samples/step-000000"], "instance_data_dir"),
        (["--pretrained_model_name_or_path", str(earlier.folder)], "pretrained_model_name_or_path"),
        (["--pretrained_model_name_or_path", str(tmp_path / "linked")], "pretrained_model_name_or_path"),
        (["--latents_cache_dir", str(earlier.folder / "samples")], "latents_cache_dir"),
    ):
        status, output = earlier("--overwrite_output_dir", *flags)
        assert status == 2 and f"  {name}: " in output and "would be removed by overwrite_output_dir" in output, output
    assert {path: path.read_bytes() for path in earlier.folder.rglob("*") if path.is_file() and path.name != ".lock"} == {
        path: content for path, content in before.items() if path.name != ".lock"
    }
    status, output = earlier("--overwrite_output_dir", "--instance_data_dir", str(earlier.folder / "samples/mine"))
    [removed] = [line for line in output.splitlines() if line.startswith("overwrite_output_dir removes ")]
    assert status == 0 and "samples/mine" not in removed, output
    assert f"images    3 in {earlier.folder / 'samples/mine'}, " in output
    assert mine == {path: path.read_bytes() for path in earlier.folder.glob("samples/mine/*")}
    assert len(mine) == 3 and (earlier.folder / "model_index.json").is_file()


@pytest.mark.parametrize(
    "name",
    [
        "log.jsonl",
        "config.toml",
        "checkpoints",
        "../elsewhere",
        "a/b",
        ".",
        "..",
        "/tmp/x",
        ".lock",
        "learned_embeds_x.safetensors",
    ],
)
def test_trackers_have_their_own_folder(name, server, tiny_epsilon, image_folder, tmp_path):
    run = Run(server, tmp_path, "textual_inversion", tiny_epsilon, image_folder)
    status, output = run("--logging_dir", name)
    assert status == 2 and "logging_dir" in output and "not a plain, unused name" in output and not run.folder.exists()


def test_nan_in_the_result_is_a_numerics_error(server, tiny_epsilon, image_folder, tmp_path):
    """One step so long that the weights are finite and what the network makes of them is not."""
    run = Run(server, tmp_path, "full", tiny_epsilon, image_folder, learning_rate=10.0, max_train_steps=1)
    status, output = run()
    assert status == 4 and "predict NaN or infinity, so no result was saved" in output and "Traceback" not in output
    assert not list(run.folder.glob("model_index.json"))


def test_a_wrong_sampler_is_reported_before_an_earlier_run_is_removed(server, tiny_epsilon, image_folder, tmp_path):
    run = Run(server, tmp_path, "textual_inversion", tiny_epsilon, image_folder)
    assert run()[0] == 0
    before = run.result()
    status, output = run("--overwrite_output_dir", "--validation_prompt", "a dog", "--validation_scheduler", "EulerDiscrete")
    assert status == 2 and "validation_scheduler" in output and "EulerDiscreteScheduler" in output
    assert run.result() == before


def test_samples_and_intermediate_weights_have_their_own_folders(finished_run, server, tiny_epsilon, image_folder, tmp_path):
    prompts = ("a <new> in the house", "a dog", "a dog")  # one given twice is drawn once
    changes = {"validation_prompt": prompts, "num_validation_images": 2, "validation_steps": 3}
    run = Run(
        server, tmp_path, "textual_inversion", tiny_epsilon, image_folder, save_steps=4, sample_inference_steps=2, **changes
    )
    assert run()[0] == 0
    assert sorted(path.name for path in (run.folder / "samples").iterdir()) == [
        "contact_sheet.png", "step-000000", "step-000003", "step-000006",
    ]  # fmt: skip
    assert len(list((run.folder / "samples/step-000003").glob("*.png"))) == 4
    assert sorted(path.name for path in (run.folder / "weights").iterdir()) == ["step-000004", "step-000006"]
    assert run.result() == finished_run("textual_inversion").result()  # looking on changes nothing
    status, output = run(*LATEST, "--num_validation_images", "1")
    assert status == 0, output


def test_class_images_of_another_prompt_are_not_reused(server, tiny_epsilon, image_folder, tmp_path):
    changes = {
        "prior_preservation": "images",
        "class_prompt": "a photo of dog",
        "num_class_images": 3,
        "sample_inference_steps": 2,
    }
    run = Run(server, tmp_path, "full", tiny_epsilon, image_folder, class_data_dir=str(tmp_path / "class"), **changes)
    assert run()[0] == 0
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "class").glob("*.png")}
    assert len(drawn) == len(set(drawn.values())) == 3
    (tmp_path / "class/class-000001.png").unlink()
    assert run("--overwrite_output_dir")[0] == 0  # the missing one is drawn again, the same
    assert drawn == {path.name: path.read_bytes() for path in (tmp_path / "class").glob("*.png")}
    status, output = run("--overwrite_output_dir", "--class_prompt", "a photo of cat")
    assert status == 2 and "class_data_dir" in output and "prompt was 'a photo of dog'" in output
