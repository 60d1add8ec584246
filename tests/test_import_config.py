"""Configurations of other trainers as ours: nothing is dropped without a word, and what is written is valid."""

import json
import os

import pytest

from customize.__main__ import main
from customize.cli import main as cli
from customize.methods import DreamBoothSettings, TextualInversionSettings

PROMPT = ("--instance_prompt", "a photo of sks dog")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)


def imported(capsys, name: str, content, *more: str, model=DreamBoothSettings):
    """(the settings of the file that was written, what was printed)."""
    with open(name, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    status = main(["import-config", name, "ours.toml", *more])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return cli.read(model, ["ours.toml"])[0], printed.out


def refused(capsys, name: str, content, *more: str) -> str:
    """What is printed where nothing is written."""
    if content is not None:
        with open(name, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
    before = sorted(os.listdir())
    status = main(["import-config", name, *more])
    printed = capsys.readouterr()
    assert status == 2 and printed.out == "" and "Traceback" not in printed.err and sorted(os.listdir()) == before
    assert all(line.isprintable() for line in printed.err.splitlines())
    return printed.err


def has(settings, **values) -> None:
    assert {name: getattr(settings, name) for name in values} == values


def part(printed: str, title: str) -> str:
    """The lines below a title of the report."""
    return printed.partition(f"{title}:\n")[2].partition("\n\n")[0] + "\n"


KOHYA = """
[model]
pretrained_model_name_or_path = "sd15.safetensors"
v2 = false
clip_skip = 2
[data]
train_data_dir = "photos"
resolution = "512,512"
shuffle_caption = true
keep_tokens = 1
caption_extension = ".txt"
[network]
network_module = "networks.lora"
network_dim = 32
network_args = ["conv_dim=4", "conv_alpha=1"]
[training]
learning_rate = 1e-4
unet_lr = 2e-4
max_train_steps = 1000
lr_warmup_steps = 0.1
optimizer_type = "AdamW8bit"
lr_scheduler = "cosine"
save_precision = "float"
sdpa = true
made_up = 3
"""


def test_a_config_file_of_sd_scripts(capsys):
    settings, printed = imported(capsys, "lora.toml", KOHYA, *PROMPT, "--seed", "7")
    has(settings, pretrained_model_name_or_path="sd15.safetensors", clip_skip=1, instance_data_dir="photos", resolution=512)
    has(settings, shuffle_tags=True, keep_tags=1, adapter="lora", rank=32, learning_rate=2e-4, max_train_steps=1000, seed=7)
    has(settings, lr_warmup_steps=100, optimizer="adamw_8bit", lr_scheduler="cosine", save_precision="fp32")
    has(settings, instance_prompt="a photo of sks dog")
    has(settings, lora_alpha=1.0, train_text_encoder=True, text_encoder_learning_rate=(1e-4,), train_batch_size=1)
    assert "lora_alpha = 1.0" in part(printed, "its defaults, which are not ours") and "clip_skip = 2" in part(printed, "taken")
    assert "sdpa" in part(printed, "already so here") and "conv_alpha" in part(printed, "not taken")
    has(settings, lora_targets=("attention", "feed-forward", "projections", "convolutions"), rank_pattern=("convolutions=4",))
    assert "without a counterpart here (1): made_up" in printed and "next: customize check ours.toml" in printed
    names = [line.split(" = ")[0] for line in KOHYA.splitlines() if " = " in line]
    changed = {
        "v2": False,
        "network_args": "conv_dim",
        "learning_rate": "text_encoder_lr",
    }  # off; the rate of the UNet has a name of its own
    assert all(changed.get(name, name) is False or changed.get(name, name) in printed for name in names)


def test_the_epochs_of_sd_scripts_take_precedence_and_leave_shares_of_steps_open(capsys):
    text = KOHYA.replace("max_train_steps = 1000", "max_train_steps = 1000\nmax_train_epochs = 3\ntoken_warmup_step = 0.5")
    settings, printed = imported(capsys, "lora.toml", text, *PROMPT)
    has(settings, num_train_epochs=3, max_train_steps=None, lr_warmup_steps=0, tag_warmup_steps=0)
    assert "lr_warmup_steps = 0.1" in part(printed, "not taken") and "token_warmup_step = 0.5" in part(printed, "not taken")


def test_a_command_of_sd_scripts_in_a_script(capsys):
    os.makedirs("imgs/10_sks dog")
    command = """#!/bin/bash
export MODEL="base/xl"
# accelerate launch train_db.py --resolution 256
accelerate launch --num_cpu_threads_per_process 1 "./sd-scripts/sdxl_train_network.py" \\
  --pretrained_model_name_or_path="$MODEL" --train_data_dir=imgs --network_module=networks.lora --network_dim 8 \\
  --resolution=1024,1024 --network_train_unet_only --caption_tag_dropout_rate 0.1 --optimizer_args "weight_decay=0.1" "a=2"
"""
    settings, printed = imported(capsys, "run.sh", command)
    has(settings, pretrained_model_name_or_path="base/xl", instance_data_dir="imgs/10_sks dog", repeats=10, rank=8)
    has(settings, instance_prompt="sks dog", resolution=1024, tag_dropout=0.1, train_text_encoder=False, learning_rate=2e-6)
    assert "optimizer_args" in part(printed, "not taken")
    has(settings, max_train_steps=1600, lora_targets=("attention", "feed-forward", "projections"))
    os.remove("ours.toml")
    lokr = command.replace("networks.lora", "lycoris.kohya --network_args algo=lokr factor=8").replace("--optimizer_args", "--a")
    settings, printed = imported(capsys, "lokr.sh", lokr)
    has(settings, adapter="lokr", rank=8)
    assert "adapter = lokr is given" not in printed


def test_the_rates_of_blocks_and_the_end_of_the_text_encoder_of_sd_scripts(capsys):
    text = KOHYA.replace('"conv_alpha=1"]', '"down_lr_weight=1,1,1,1,0.5", "mid_lr_weight=2"]\nstop_text_encoder_training = 250')
    settings, printed = imported(capsys, "lora.toml", text, *PROMPT)
    pattern = ("down_blocks.1.resnets.0=0.5", "down_blocks.1.attentions.0=0.5", "mid_block.resnets=2", "mid_block.attentions=2")
    has(settings, lr_pattern=pattern, text_encoder_train_fraction=0.25, rank_pattern=("convolutions=4",))
    taken = part(printed, "taken")
    assert "down_lr_weight = 1,1,1,1,0.5" in taken and "stop_text_encoder_training = 250" in taken
    os.remove("ours.toml")
    settings, printed = imported(capsys, "curve.toml", text.replace("down_lr_weight=1,1,1,1,0.5", "down_lr_weight=sine"), *PROMPT)
    has(settings, lr_pattern=())
    assert "down_lr_weight = sine" in part(printed, "not taken")


def test_a_command_of_windows_that_learns_a_word(capsys):
    command = (
        '@echo off\r\nset DATA=C:\\my photos\r\naccelerate launch train_textual_inversion.py ^\r\n --token_string="mytoy" '
        '--init_word="toy" --num_vectors_per_token=4 ^\r\n --train_data_dir="%DATA%" --use_object_template '
        "--max_train_steps=900\r\n"
    )
    settings, _ = imported(capsys, "run.bat", command, model=TextualInversionSettings)
    has(settings, placeholder_token=("mytoy",), initializer_token=("toy",), num_vectors=(4,), max_train_steps=900)
    has(settings, train_data_dir=("C:\\my photos",), learnable_property="object", learning_rate=2e-6)


def test_full_training_by_sd_scripts_trains_the_text_encoder_unless_told_otherwise(capsys):
    command = "python train_db.py --train_data_dir=x --resolution=512 "
    has(imported(capsys, "a.sh", command, *PROMPT)[0], adapter="none", train_text_encoder=True)
    os.remove("ours.toml")
    settings, _ = imported(capsys, "b.sh", command + "--stop_text_encoder_training=-1", *PROMPT)
    has(settings, adapter="none", train_text_encoder=False)
    os.remove("ours.toml")
    has(imported(capsys, "c.sh", "python sdxl_train.py --train_data_dir=x", *PROMPT)[0], train_text_encoder=False)


DATASET = """
[general]
shuffle_caption = true
keep_tokens = 1
[[datasets]]
resolution = [768, 768]
batch_size = 4
keep_tokens = 2
  [[datasets.subsets]]
  image_dir = 'C:\\photos'
  class_tokens = 'sks girl'
  num_repeats = 5
  [[datasets.subsets]]
  image_dir = 'C:\\more'
  class_tokens = 'sks girl'
  [[datasets.subsets]]
  is_reg = true
  image_dir = 'C:\\people'
  class_tokens = 'girl'
"""


def test_a_dataset_config_of_sd_scripts(capsys):
    settings, printed = imported(capsys, "data.toml", DATASET)
    has(settings, instance_data_dir="C:\\photos", instance_prompt="sks girl", repeats=5, resolution=768, train_batch_size=4)
    has(settings, shuffle_tags=True, keep_tags=2, prior_preservation="images", class_data_dir="C:\\people", class_prompt="girl")
    has(settings, adapter="none", train_text_encoder=False, learning_rate=2e-6)
    assert "image_dir = C:\\more" in part(printed, "not taken")
    os.remove("ours.toml")
    settings, _ = imported(capsys, "run.toml", KOHYA.replace('train_data_dir = "photos"', 'dataset_config = "data.toml"'))
    has(settings, instance_data_dir="C:\\photos", class_prompt="girl", rank=32, keep_tags=2)
    os.remove("ours.toml")
    gone = KOHYA.replace('train_data_dir = "photos"', 'dataset_config = "gone.toml"')
    settings, printed = imported(capsys, "gone_run.toml", gone, *PROMPT, "--instance_data_dir", "photos")
    assert "dataset_config = gone.toml" in part(printed, "not taken") and settings.instance_data_dir == "photos"


SEVERAL = """
[general]
shuffle_caption = true
[[datasets]]
resolution = 512
  [[datasets.subsets]]
  image_dir = 'dogs'
  class_tokens = 'sks dog'
  num_repeats = 4
  [[datasets.subsets]]
  image_dir = 'more'
  class_tokens = 'sks dog'
  [[datasets.subsets]]
  image_dir = 'reg'
  class_tokens = 'dog'
  is_reg = true
[[datasets]]
resolution = 768
  [[datasets.subsets]]
  image_dir = 'cats'
  class_tokens = 'ohwx cat'
  caption_prefix = 'ohwx,'
  [[datasets.subsets]]
  image_dir = 'foxes'
"""


def test_the_subsets_of_sd_scripts_are_concepts(capsys):
    settings, printed = imported(capsys, "several.toml", SEVERAL)
    dog = {"instance_data_dir": "dogs", "instance_prompt": "sks dog", "class_prompt": "dog", "class_data_dir": "reg"}
    dog |= {"repeats": 4, "prior_preservation": "images", "class_image_captions": "auto"}
    cat = {"instance_data_dir": "cats", "instance_prompt": "ohwx cat", "repeats": 1, "caption_prefix": "ohwx,"}
    has(settings, concept=(dog, cat), resolution=512, shuffle_tags=True, repeats=1, instance_prompt=None)
    lost = part(printed, "not taken")
    for words in (
        "image_dir = more",
        "sks calls image_dir = dogs, too",
        "image_dir = foxes",
        "resolution = 768 of image_dir = cats",
    ):
        assert words in lost, lost
    assert "[[concept]] instance_data_dir = cats, instance_prompt = ohwx cat, repeats = 1" in part(printed, "taken")
    os.remove("ours.toml")
    one, printed = imported(capsys, "several.toml", SEVERAL, "--instance_prompt", "a photo of zwx dog")
    has(one, concept=(), instance_prompt="a photo of zwx dog", instance_data_dir="dogs", repeats=4, class_data_dir="reg")
    assert "image_dir = cats" in part(printed, "not taken") and "--instance_prompt is given" in part(printed, "not taken")


def test_prompts_of_sample_images(capsys):
    with open("prompts.txt", "w") as file:
        file.write("# mine\nsks dog asleep --w 512 --n bad\nsks dog on grass\n")
    settings, printed = imported(capsys, "a.toml", KOHYA + 'sample_prompts = "prompts.txt"\n', *PROMPT)
    has(settings, validation_prompt=("sks dog asleep", "sks dog on grass"))
    assert "options in prompts.txt" in part(printed, "not taken")


ONETRAINER = {
    "__version": 10, "training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "base_model_name": "m/sd15",
    "learning_rate": 3e-4, "learning_rate_scheduler": "COSINE", "epochs": 50, "batch_size": 4, "resolution": "512",
    "ema": "OFF", "train_dtype": "BFLOAT_16", "output_dtype": "FLOAT_16", "latent_caching": True, "clip_grad_norm": 0.5,
    "min_noising_strength": 0.1, "max_noising_strength": 1.0,
    "loss_weight_fn": "MIN_SNR_GAMMA", "loss_weight_strength": 5.0, "offset_noise_weight": 0.05, "text_encoder_layer_skip": 1,
    "text_encoder": {"train": True, "learning_rate": 5e-5}, "lora_rank": 8, "backup_after": 30,
    "optimizer": {"optimizer": "ADAMW_8BIT", "weight_decay": 0.01},
    "embedding": {"placeholder": "<embedding>", "token_count": 1, "initial_embedding_text": "*"},
    "concepts": [
        {"name": "off", "path": "off", "enabled": False},
        {"name": "dog", "path": "dogs", "enabled": True, "image": {"enable_random_flip": True},
         "text": {"prompt_source": "filename", "enable_tag_shuffling": True, "keep_tags_count": 2}},
        {"name": "cat", "path": "cats"},
    ],
}  # fmt: skip


def test_onetrainers_ends_of_parts(capsys):
    ends = {"train": True, "stop_training_after": 30, "stop_training_after_unit": "EPOCH"}
    never = {"stop_training_after": 5, "stop_training_after_unit": "NEVER"}
    minutes = {"stop_training_after": 5, "stop_training_after_unit": "MINUTE"}
    settings, printed = imported(capsys, "a.json", json.dumps({**ONETRAINER, "text_encoder": ends, "unet": never}), *PROMPT)
    has(settings, text_encoder_train_fraction=0.6, unet_train_fraction=1.0)
    assert "text_encoder.stop_training_after = 30" in part(printed, "taken")
    os.remove("ours.toml")
    settings, printed = imported(capsys, "b.json", json.dumps({**ONETRAINER, "unet": minutes}), *PROMPT)
    has(settings, unet_train_fraction=1.0)
    assert "unet.stop_training_after = 5 MINUTE" in part(printed, "not taken")


def test_onetrainers_lora_and_its_concepts(capsys):
    settings, printed = imported(capsys, "ot.json", json.dumps(ONETRAINER), *PROMPT)
    has(settings, lora_targets=("attention", "feed-forward", "projections", "convolutions"))
    has(settings, adapter="lora", rank=8, lora_alpha=1.0, learning_rate=3e-4, text_encoder_learning_rate=(5e-5,), clip_skip=1)
    has(settings, lr_scheduler="cosine", lr_warmup_steps=200, num_train_epochs=50, train_batch_size=4, resolution=512)
    has(settings, mixed_precision="bf16", save_precision="fp16", snr_gamma=5.0, noise_offset=0.05, max_grad_norm=0.5)
    has(
        settings,
        min_timestep=100,
        max_timestep=1000,
        optimizer="adamw_8bit",
        adam_weight_decay=0.01,
        instance_data_dir="dogs",
        captions="file_names",
    )
    has(settings, shuffle_tags=True, keep_tags=2, random_flip=True, placeholder_token=(), gradient_checkpointing=True)
    assert "concept cat" in part(printed, "not taken") and "latent_caching" in part(printed, "already so here")
    assert "without a counterpart here (1): backup_after" in printed
    os.remove("ours.toml")
    some = {**ONETRAINER, "peft_type": "LOHA", "layer_filter_preset": "attn-mlp"}
    settings, printed = imported(capsys, "loha.json", json.dumps(some), *PROMPT)
    has(settings, adapter="loha", rank=8, lora_targets=("attention", "feed-forward", "projections"))
    os.remove("ours.toml")
    some |= {"layer_filter_preset": "custom", "layer_filter": "up_blocks"}
    assert "layer_filter = up_blocks" in part(imported(capsys, "custom.json", json.dumps(some), *PROMPT)[1], "not taken")
    os.remove("ours.toml")
    other = {**ONETRAINER, "model_type": "FLUX_DEV_1", "training_method": "EMBEDDING", "concept_file_name": "gone.json"}
    other |= {"concepts": None, "embedding": {"placeholder": "<dog>", "token_count": 3, "initial_embedding_text": "dog"}}
    settings, printed = imported(capsys, "ti.json", json.dumps(other), "--train_data_dir", "x", model=TextualInversionSettings)
    has(settings, placeholder_token=("<dog>",), num_vectors=(3,), initializer_token=("dog",), train_data_dir=("x",))
    assert all(word in part(printed, "not taken") for word in ("model_type = FLUX_DEV_1", "concept_file_name = gone.json"))


def test_onetrainers_concepts_are_called_by_their_names(capsys):
    every = [
        {"name": "sks dog", "path": "dogs", "balancing": 3.0, "text": {"prompt_source": "sample"}},
        {"name": "", "path": "C:\\\\pictures\\\\ohwx cat", "balancing": 0.5},
        {"name": "seen", "path": "held", "type": "VALIDATION"},
    ]
    with open("concepts.json", "w") as file:
        json.dump(every, file)
    whole = {name: value for name, value in ONETRAINER.items() if name != "concepts"} | {"concept_file_name": "concepts.json"}
    settings, printed = imported(capsys, "ot.json", json.dumps(whole))
    assert settings.concept == (
        {"instance_data_dir": "dogs", "instance_prompt": "sks dog", "repeats": 3, "captions": "files"},
        {"instance_data_dir": every[1]["path"], "instance_prompt": "ohwx cat", "repeats": 1, "captions": "auto"},
    )
    assert all(words in part(printed, "not taken") for words in ("balancing = 0.5", "concept seen"))


def test_onetrainers_losses_and_noise(capsys):
    """What a run of it saves where nothing was changed is already so here; the rest is taken, or named."""
    plain = {"loss_weight_fn": "CONSTANT", "loss_weight_strength": 5.0, "mse_strength": 1.0, "mae_strength": 0.0,
             "log_cosh_strength": 0.0, "huber_strength": 0.0, "huber_delta": 1.0, "perturbation_noise_weight": 0.0,
             "min_noising_strength": 0.0, "max_noising_strength": 1.0, "noising_weight": 0.0, "noising_bias": 0.0}  # fmt: skip
    settings, printed = imported(capsys, "a.json", json.dumps({**ONETRAINER, **plain}), *PROMPT)
    has(settings, loss_weighting=None, loss_type="l2", max_timestep=1000)
    assert not any(name in part(printed, "not taken") for name in plain)
    os.remove("ours.toml")
    other = {"loss_weight_fn": "P2", "loss_weight_strength": 1.5, "huber_strength": 1.0, "perturbation_noise_weight": 0.1,
             "max_noising_strength": 0.8, "timestep_distribution": "LOGIT_NORMAL", "noising_bias": 0.5}  # fmt: skip
    settings, printed = imported(capsys, "b.json", json.dumps({**ONETRAINER, **other}), *PROMPT)
    has(settings, loss_weighting="p2", p2_gamma=1.5, timestep_sampling="logit_normal", max_timestep=800, input_perturbation=0.0)
    lost = part(printed, "not taken")
    assert all(name in lost for name in ("huber_strength", "perturbation_noise_weight", "noising_bias"))


AI_TOOLKIT = """
job: extension
config:
  name: "my_dog"
  process:
    - type: 'sd_trainer'
      training_folder: "output"
      trigger_word: "p3r5on"
      network: {type: "lora", linear: 16, linear_alpha: 8}
      save: {dtype: float16, save_every: 250}
      datasets:
        - {folder_path: "photos", caption_ext: "txt", shuffle_tokens: true, resolution: [768]}
        - {folder_path: "more"}
      train: {batch_size: 1, steps: 2000, train_text_encoder: false, lr: 1e-4, dtype: bf16, optimizer: "adamw8bit"}
      model: {name_or_path: "xl", is_xl: true, novelty: 3}
      sample: {sample_every: 100, prompts: ["[trigger] asleep"], guidance_scale: 6, width: 1024}
"""


def test_ai_toolkits_job(capsys):
    settings, printed = imported(capsys, "job.yaml", AI_TOOLKIT)
    has(settings, instance_prompt="p3r5on", adapter="lora", rank=16, lora_alpha=8.0, learning_rate=1e-4, max_train_steps=2000)
    has(settings, instance_data_dir="photos", shuffle_tags=True, resolution=768, mixed_precision="bf16", save_precision="fp16")
    has(
        settings,
        validation_prompt=("p3r5on asleep",),
        validation_steps=100,
        sample_guidance_scale=6.0,
        output_dir="output/my_dog",
    )
    assert "trigger_word = p3r5on" in part(printed, "taken") and "folder_path = more" in part(printed, "not taken")
    assert "novelty" in printed


def test_ai_toolkits_datasets_are_concepts_where_each_has_a_word(capsys):
    text = AI_TOOLKIT.replace('caption_ext: "txt",', 'default_caption: "a photo of sks dog",')
    text = text.replace('{folder_path: "more"}', '{folder_path: "more", trigger_word: "ohwx", num_repeats: 2}')
    settings, _ = imported(capsys, "job.yaml", text)
    assert settings.concept == (
        {"instance_data_dir": "photos", "instance_prompt": "a photo of sks dog", "repeats": 1},
        {"instance_data_dir": "more", "instance_prompt": "ohwx", "repeats": 2},
    )
    has(settings, shuffle_tags=True, resolution=768, instance_data_dir=None)


def test_an_existing_file_is_not_replaced_and_what_is_missing_is_asked_for(capsys):
    with open("ours.toml", "w") as file:
        file.write("mine")
    assert "ours.toml: exists already" in refused(capsys, "lora.toml", KOHYA, "ours.toml", *PROMPT)
    assert open("ours.toml").read() == "mine"
    report = refused(capsys, "lora.toml", KOHYA, "new.toml")
    assert "instance_prompt: is missing" in report and "add --instance_prompt VALUE to this command" in report
    assert "rank" in refused(capsys, "lora.toml", KOHYA, "new.toml", *PROMPT, "--rank", "x")
    assert "is not a .toml file in an existing folder" in refused(capsys, "lora.toml", KOHYA, "no/new.toml")
    assert "lora.toml: exists already" in refused(capsys, "lora.toml", KOHYA)
    assert "has no file to read" in refused(capsys, "--seed", None)


DEEP = "[" * 20000 + "]" * 20000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old},*{old}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.toml", "x = [1, 2\n", "is not TOML"),
        ("a.toml", "a" + ".a" * 50000 + " = 1", "nests tables too deeply"),
        ("a.toml", "x = 1\n", "is not settings of sd-scripts, OneTrainer or ai-toolkit"),
        ("a.toml", b"\x89PNG\r\n\x1a\n\xff\xff", "a PNG image"),
        ("a.toml", b"x = 1\n" * 200_001, "more than 1,000,000"),
        ("a.json", "{", "is not JSON"),
        ("a.json", f'{{"training_method": {DEEP}}}', "is not JSON"),
        ("a.json", "[1]", "holds no table of settings"),
        ("a.json", json.dumps({str(n): n for n in range(6000)}), "holds more than 5,000 values"),
        ("a.json", '{"training_method": "LORA", "concepts": [{"path": "\\u001b[31mred"}]}', "instance_prompt"),
        ("a.yaml", "!!python/object/apply:os.system ['touch owned']", "is not YAML"),
        ("a.yaml", BOMB, "holds more than 5,000 values"),
        ("a.yaml", "config: {process: [{train: 3, datasets: 4, network: [1]}]}", "cannot be read as settings"),
        ("a.sh", "echo --hello\n", "is not a command that starts"),
        ("a.sh", "python train_db.py --resolution '512\n", "a quote that is not closed"),
        ("a.exe", "MZ", "is not a file that ends in one of"),
        ("gone.toml", None, "does not exist"),
        ("a.toml", "[[datasets]]\nsubsets = 3\n", "cannot be read as settings"),
        ("a.toml", 'network_dim = 4\nclip_skip = "x"\n', "cannot be read as settings"),
    ],
)
def test_broken_and_hostile_files(capsys, name, content, words):
    assert words in refused(capsys, name, content, "new.toml")


def test_a_pipe_is_not_waited_for(capsys):
    os.mkfifo("a.toml")
    assert "a named pipe" in refused(capsys, "a.toml", None, "new.toml")


def test_a_name_may_not_reach_the_terminal_as_a_command(capsys):
    text = KOHYA.replace("made_up", '"made\\u001b[2Jup"').replace('"sd15.safetensors"', '"sd\\u001b[31m15"')
    _, printed = imported(capsys, "a.toml", text, *PROMPT)
    assert "\x1b" not in printed and "pretrained_model_name_or_path = " in part(printed, "not taken")


@pytest.mark.parametrize("name, content", [("job.yaml", AI_TOOLKIT), ("ot.json", json.dumps(ONETRAINER)), ("data.toml", DATASET)])
def test_training_names_the_command_for_files_of_others(capsys, name, content):
    with open(name, "w") as file:
        file.write(content)
    assert main(["train_dreambooth", name]) == 2
    assert f"customize import-config {name} reads the file of another trainer" in capsys.readouterr().err
