"""The command lines of diffusers' documentation, and every flag of its scripts, mean here what they mean there."""

import shlex

import pytest

from customize.cli import main
from customize.cli.flags import aliases, diffusers_flags
from customize.errors import InputError
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.field import table

ABSENT, REQUIRED = object(), object()

DIFFUSERS = {  # flag: its default in textual_inversion.py, train_dreambooth.py and train_dreambooth_lora.py
    "adam_beta1": (0.9, 0.9, 0.9),
    "adam_beta2": (0.999, 0.999, 0.999),
    "adam_epsilon": (1e-08, 1e-08, 1e-08),
    "adam_weight_decay": (0.01, 0.01, 0.01),
    "allow_tf32": (False, False, False),
    "center_crop": (False, False, False),
    "checkpointing_steps": (500, 500, 500),
    "checkpoints_total_limit": (None, None, None),
    "class_data_dir": (ABSENT, None, None),
    "class_labels_conditioning": (ABSENT, None, None),
    "class_prompt": (ABSENT, None, None),
    "dataloader_num_workers": (0, 0, 0),
    "enable_xformers_memory_efficient_attention": (False, False, False),
    "gradient_accumulation_steps": (1, 1, 1),
    "gradient_checkpointing": (False, False, False),
    "hub_model_id": (None, None, None),
    "hub_token": (None, None, None),
    "image_interpolation_mode": (ABSENT, ABSENT, "lanczos"),
    "initializer_token": (REQUIRED, ABSENT, ABSENT),
    "instance_data_dir": (ABSENT, REQUIRED, REQUIRED),
    "instance_prompt": (ABSENT, REQUIRED, REQUIRED),
    "learnable_property": ("object", ABSENT, ABSENT),
    "learning_rate": (0.0001, 5e-06, 0.0005),
    "local_rank": (-1, -1, -1),
    "logging_dir": ("logs", "logs", "logs"),
    "lora_dropout": (ABSENT, ABSENT, 0.0),
    "lr_num_cycles": (1, 1, 1),
    "lr_power": (ABSENT, 1.0, 1.0),
    "lr_scheduler": ("constant", "constant", "constant"),
    "lr_warmup_steps": (500, 500, 500),
    "max_grad_norm": (ABSENT, 1.0, 1.0),
    "max_train_steps": (5000, None, None),
    "mixed_precision": ("no", None, None),
    "no_safe_serialization": (False, ABSENT, ABSENT),
    "num_class_images": (ABSENT, 100, 100),
    "num_train_epochs": (100, 1, 1),
    "num_validation_images": (4, 4, 4),
    "num_vectors": (1, ABSENT, ABSENT),
    "offset_noise": (ABSENT, False, ABSENT),
    "output_dir": ("text-inversion-model", "dreambooth-model", "lora-dreambooth-model"),
    "placeholder_token": (REQUIRED, ABSENT, ABSENT),
    "pre_compute_text_embeddings": (ABSENT, False, False),
    "pretrained_model_name_or_path": (REQUIRED, REQUIRED, REQUIRED),
    "prior_generation_precision": (ABSENT, None, None),
    "prior_loss_weight": (ABSENT, 1.0, 1.0),
    "push_to_hub": (False, False, False),
    "rank": (ABSENT, ABSENT, 4),
    "repeats": (100, ABSENT, ABSENT),
    "report_to": ("tensorboard", "tensorboard", "tensorboard"),
    "resolution": (512, 512, 512),
    "resume_from_checkpoint": (None, None, None),
    "revision": (None, None, None),
    "sample_batch_size": (ABSENT, 4, 4),
    "save_as_full_pipeline": (False, ABSENT, ABSENT),
    "save_steps": (500, ABSENT, ABSENT),
    "scale_lr": (False, False, False),
    "seed": (None, None, None),
    "set_grads_to_none": (ABSENT, False, ABSENT),
    "skip_save_text_encoder": (ABSENT, False, ABSENT),
    "snr_gamma": (ABSENT, None, ABSENT),
    "text_encoder_use_attention_mask": (ABSENT, False, False),
    "tokenizer_max_length": (ABSENT, None, None),
    "tokenizer_name": (None, None, None),
    "train_batch_size": (16, 4, 4),
    "train_data_dir": (REQUIRED, ABSENT, ABSENT),
    "train_text_encoder": (ABSENT, False, False),
    "use_8bit_adam": (ABSENT, False, False),
    "validation_epochs": (None, ABSENT, 50),
    "validation_images": (ABSENT, None, None),
    "validation_prompt": (None, None, None),
    "validation_scheduler": (ABSENT, "DPMSolverMultistepScheduler", ABSENT),
    "validation_steps": (100, 100, ABSENT),
    "variant": (None, None, None),
    "with_prior_preservation": (ABSENT, False, False),
}

OF_SDXL = (
    "adam_weight_decay_text_encoder cache_dir cache_latents caption_column dataset_config_name dataset_name do_edm_style_training"
    " image_column initializer_concept lora_unet_blocks noise_offset num_new_tokens_per_abstraction output_kohya_format"
    " prodigy_beta3 prodigy_decouple prodigy_safeguard_warmup prodigy_use_bias_correction random_flip text_encoder_lr"
    " token_abstraction train_text_encoder_frac train_text_encoder_ti train_text_encoder_ti_frac use_blora use_dora"
).split()
"""Flags of train_dreambooth_lora_sdxl.py and its advanced version that the scripts of Stable Diffusion lack."""
TOY = """--pretrained_model_name_or_path=demo --train_data_dir=./cat --learnable_property="object"
    --placeholder_token="<cat-toy>" --initializer_token="toy" --resolution=512 --train_batch_size=1
    --gradient_accumulation_steps=4 --max_train_steps=3000 --learning_rate=5.0e-04 --scale_lr --lr_scheduler="constant"
    --lr_warmup_steps=0 --push_to_hub --output_dir="textual_inversion_cat" """
DOG = """--pretrained_model_name_or_path=demo --instance_data_dir=dog --output_dir=path-to-save-model
    --instance_prompt="a photo of sks dog" --resolution=512 --train_batch_size=1 --lr_scheduler="constant"
    --lr_warmup_steps=0 --push_to_hub """
PRIOR = """--class_data_dir=path-to-class-images --with_prior_preservation --prior_loss_weight=1.0
    --class_prompt="a photo of dog" --num_class_images=200 --max_train_steps=800 """
CLASS = {
    "prior_preservation": "images", "class_data_dir": "path-to-class-images", "class_prompt": "a photo of dog",
    "prior_loss_weight": 1.0, "num_class_images": 200, "max_train_steps": 800,
}  # fmt: skip

DOCUMENTED = [  # the README's command lines: arguments, what they mean, how many notes they get
    (TextualInversionSettings, TOY, {
        "placeholder_token": ("<cat-toy>",), "initializer_token": ("toy",), "train_data_dir": ("./cat",),
        "scale_lr": True, "learning_rate": 5e-4, "max_train_steps": 3000, "gradient_accumulation_steps": 4,
        "train_batch_size": 1, "resolution": 512, "push_to_hub": True, "output_dir": "textual_inversion_cat",
        "num_vectors": (1,)}, 0),
    (DreamBoothSettings, DOG + "--gradient_accumulation_steps=1 --learning_rate=5e-6 --max_train_steps=400", {
        "instance_prompt": "a photo of sks dog", "learning_rate": 5e-6, "max_train_steps": 400, "adapter": "none",
        "prior_preservation": "none", "train_text_encoder": False}, 0),
    (DreamBoothSettings, DOG + PRIOR + "--gradient_accumulation_steps=1 --learning_rate=5e-6", CLASS, 0),
    (DreamBoothSettings, DOG + PRIOR + """--gradient_accumulation_steps=2 --gradient_checkpointing --use_8bit_adam
        --learning_rate=5e-6""", {**CLASS, "gradient_checkpointing": True, "optimizer": "adamw_8bit"}, 0),
    (DreamBoothSettings, DOG + PRIOR + """--gradient_accumulation_steps=1 --gradient_checkpointing --use_8bit_adam
        --enable_xformers_memory_efficient_attention --set_grads_to_none --learning_rate=2e-6""",
        {**CLASS, "learning_rate": 2e-6, "optimizer": "adamw_8bit"}, 2),
    (DreamBoothSettings, DOG + PRIOR + """--sample_batch_size=1 --gradient_accumulation_steps=1
        --gradient_checkpointing --learning_rate=5e-6""",
        {**CLASS, "sample_batch_size": 1, "mixed_precision": "fp16"}, 0),
    (DreamBoothSettings, DOG + PRIOR + """--train_text_encoder --use_8bit_adam --gradient_checkpointing
        --learning_rate=2e-6""",
        {**CLASS, "train_text_encoder": True}, 0),
    (DreamBoothSettings, DOG + """--gradient_accumulation_steps=1 --checkpointing_steps=100 --learning_rate=1e-4
        --report_to="wandb" --max_train_steps=500 --validation_prompt="A photo of sks dog in a bucket"
        --validation_epochs=50 --seed="0" --adapter lora""", {
        "adapter": "lora", "checkpointing_steps": 100, "learning_rate": 1e-4, "report_to": ("wandb",), "seed": 0,
        "validation_prompt": ("A photo of sks dog in a bucket",), "validation_epochs": 50,
        "validation_steps": None}, 0),
    (DreamBoothSettings, DOG + """--gradient_accumulation_steps=4 --learning_rate=1e-4 --report_to="wandb" --max_train_steps=500
        --validation_prompt="A photo of sks dog in a bucket" --validation_epochs=25 --seed="0" --adapter lora
        --mixed_precision="fp16" --gradient_checkpointing --use_8bit_adam --enable_xformers_memory_efficient_attention
        --use_dora --output_kohya_format --text_encoder_lr 5e-6 --train_text_encoder --prodigy_decouple true""", {
        "adapter": "lora", "mixed_precision": "fp16", "use_dora": True, "lora_format": "both", "train_text_encoder": True,
        "gradient_checkpointing": True}, 3),
]  # fmt: skip


@pytest.mark.parametrize("number", range(1, 1 + len(DOCUMENTED)))
def test_documented_command_lines(number, monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if number == 6:  # accelerate launch --mixed_precision="fp16"
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    model, line, meaning, num_notes = DOCUMENTED[number - 1]
    settings, notes = main.read(model, shlex.split(line))
    assert {name: getattr(settings, name) for name in meaning} == meaning
    assert len(notes) == num_notes


def test_deepfloyd_command_line_is_refused_for_another_base_model_with_every_reason():
    line = (
        DOG
        + """--report_to wandb --learning_rate=1e-6 --max_train_steps=2000 --validation_prompt="a sks dog"
        --pre_compute_text_embeddings --tokenizer_max_length=77 --text_encoder_use_attention_mask
        --validation_images a.png b.png --class_labels_conditioning=timesteps --skip_save_text_encoder"""
    )
    with pytest.raises(InputError) as caught:
        main.read(DreamBoothSettings, shlex.split(line))
    assert [problem.where for problem in caught.value.problems] == [
        "--text_encoder_use_attention_mask", "--class_labels_conditioning",
    ]  # fmt: skip


def accepting(model):
    columns = (0,) if model is TextualInversionSettings else (1, 2)
    return {name for name, defaults in DIFFUSERS.items() if any(defaults[column] is not ABSENT for column in columns)}


def test_all_flags_are_known():
    assert len(DIFFUSERS) == 74
    for model in diffusers_flags.BOTH:
        ours, other = set(table(model)), set(diffusers_flags.flags(model))
        of_sdxl = set(OF_SDXL) if model is DreamBoothSettings else set()
        assert accepting(model) | of_sdxl <= ours | other | set(aliases.lines(model))
        assert not ours & other and other <= accepting(model) | of_sdxl
    for flag in diffusers_flags.FLAGS.values():
        assert bool(flag.means) + bool(flag.changes) + bool(flag.done) + bool(flag.refused) == 1 + bool(flag.family)


@pytest.mark.parametrize("model", diffusers_flags.BOTH)
def test_no_flag_is_silently_ignored(model):
    for name, flag in diffusers_flags.flags(model).items():
        value = True if flag.type is bool else "3" if flag.type is int else ["a", "b"] if flag.many else "a"
        values, notes, problems = diffusers_flags.translate(model, {name: value, "seed": 1})
        assert values.pop("seed") == 1
        assert bool(values) + len(notes) + len(problems) == 1, name
        if flag.means:
            assert table(model)[flag.means[0]] and values == dict([flag.means])
        if flag.type is bool:
            for off in (False, "false"):
                assert diffusers_flags.translate(model, {name: off}) == ({}, [], [])
            assert len(diffusers_flags.translate(model, {name: "perhaps"})[2]) == 1


def test_values_of_flags():
    def translated(**given):
        return diffusers_flags.translate(DreamBoothSettings, given)

    assert translated(tokenizer_max_length="77") == ({}, [], [])
    assert len(translated(tokenizer_max_length=64)[2]) == 1
    assert translated(offset_noise=True)[0] == {"noise_offset": 0.1}
    assert translated(image_interpolation_mode="nearest_exact")[0] == {"image_interpolation_mode": "nearest"}
    assert translated(with_prior_preservation=True, prior_preservation="images")[2] == []
    assert len(translated(with_prior_preservation=True, prior_preservation="teacher")[2]) == 1


def test_every_other_default_is_documented():
    ours = {model: {name: line.default for name, line in table(model).items()} for model in diffusers_flags.BOTH}
    lora = DreamBoothSettings(instance_prompt="a dog", instance_data_dir="dogs", adapter="lora")
    columns = (ours[TextualInversionSettings], ours[DreamBoothSettings], dict(lora))
    others = set()
    for name, defaults in DIFFUSERS.items():
        for theirs, here in zip(defaults, columns, strict=True):
            if theirs is ABSENT or theirs is REQUIRED or name not in here:
                continue
            mine = here[name]
            if mine != theirs and mine not in ((theirs,), ()):
                others.add(name)
    documented = set(diffusers_flags.DIFFERENCES) - {"pretrained_model_name_or_path", "random_flip", "max_grad_norm"}
    assert documented == others
    assert all(len(row) == 4 and all(row) for row in diffusers_flags.differences())
