"""Other programs' names of settings: each sets the right setting, or is refused with the right remedy."""

import shlex

import pytest

from customize.cli import main
from customize.cli.flags import aliases, diffusers_flags
from customize.cli.flags.aliases_table import BY_VALUE, FLAGS, SAME
from customize.cli.flags.settings_by_command import MODELS
from customize.errors import InputError
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.field import table
from customize.settings.inference import InferenceSettings
from customize.settings.suggestions import unknown

DOG = '--instance_data_dir dogs --instance_prompt "a photo of sks dog" '
TOY = '--train_data_dir toys --placeholder_token "<toy>" --initializer_token toy '
CAT = "--prompt cat "


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)


def read(model, line):
    return main.read(model, shlex.split(line))


def problems(model, line):
    with pytest.raises(InputError) as caught:
        read(model, line)
    return caught.value.problems


@pytest.mark.parametrize(
    "model, line, meaning",
    [
        (DreamBoothSettings, DOG + "--lora_rank 8", {"rank": 8, "adapter": "lora"}),
        (DreamBoothSettings, DOG + "--network_dim=32 --network_alpha=16", {"rank": 32, "lora_alpha": 16.0, "adapter": "lora"}),
        (DreamBoothSettings, DOG + "--steps 100", {"max_train_steps": 100}),
        (DreamBoothSettings, DOG + "--max_train_epochs 3", {"num_train_epochs": 3, "max_train_steps": None}),
        (DreamBoothSettings, DOG + "--epochs 3", {"num_train_epochs": 3}),
        (DreamBoothSettings, DOG + "--lr 1e-5", {"learning_rate": 1e-5}),
        (DreamBoothSettings, DOG + "--unet_lr 1e-5 --train_text_encoder --text_encoder_lr 1e-6",
         {"learning_rate": 1e-5, "text_encoder_learning_rate": (1e-6,)}),
        (DreamBoothSettings, DOG + "--train_text_encoder --text_encoder_lr 1e-5 2e-5",
         {"text_encoder_learning_rate": (1e-5, 2e-5)}),
        (DreamBoothSettings, DOG + "--text_encoder_lr 1e-6", {"train_text_encoder": True}),
        (DreamBoothSettings, DOG + "--optimizer_type AdamW8bit", {"optimizer": "adamw_8bit"}),
        (DreamBoothSettings, DOG + "--optimizer_type ADAMW", {"optimizer": "adamw"}),
        (DreamBoothSettings, DOG + "--optimizer_type AdamWScheduleFree", {"optimizer": "schedule_free", "use_ema": False}),
        (DreamBoothSettings, DOG + "--use_lion_optimizer", {"optimizer": "lion", "learning_rate": 2e-6 * 0.2}),
        (DreamBoothSettings, DOG + "--ema CPU", {"use_ema": True, "offload_ema": True}),
        (DreamBoothSettings, DOG + "--train_text_encoder_frac 0.3",
         {"train_text_encoder": True, "text_encoder_train_fraction": 0.3}),
        (DreamBoothSettings, DOG + "--network_module networks.lora", {"adapter": "lora", "learning_rate": 1e-4}),
        (DreamBoothSettings, DOG + "--model_type lora --lora_rank 4", {"adapter": "lora", "rank": 4}),
        (DreamBoothSettings, DOG + "--batch_size 2 --gradient_accumulation 4",
         {"train_batch_size": 2, "gradient_accumulation_steps": 4}),
        (DreamBoothSettings, DOG + "--enable_bucket --bucket_tolerance 32 --bucket_no_upscale",
         {"aspect_ratio_buckets": "auto", "bucket_reso_steps": 32, "bucket_no_upscale": True}),
        (DreamBoothSettings, DOG + "--fp16", {"mixed_precision": "fp16"}),
        (DreamBoothSettings, DOG + "--mixed_precision bfloat16", {"mixed_precision": "bf16"}),
        (DreamBoothSettings, DOG + "--precision float", {"mixed_precision": "no"}),
        (DreamBoothSettings, DOG + "--min_snr_gamma 5 --flip_aug", {"snr_gamma": 5.0, "random_flip": True}),
        (DreamBoothSettings, DOG + "--sample_every_n_steps 50 --log_with wandb",
         {"validation_steps": 50, "report_to": ("wandb",)}),
        (DreamBoothSettings, DOG + "--lr_scheduler COSINE --lr_scheduler_num_cycles 2",
         {"lr_scheduler": "cosine", "lr_num_cycles": 2}),
        (DreamBoothSettings, DOG + "--v_parameterization --ckpt demo", {"prediction_type": "v_prediction"}),
        (DreamBoothSettings, '--train_data_dir dogs --instance_prompt "sks dog"', {"instance_data_dir": "dogs"}),
        (DreamBoothSettings, DOG + "--report_to tensorboard,wandb", {"report_to": ("tensorboard", "wandb")}),
        (DreamBoothSettings, DOG + "--random_flip yes --center_crop off --scale_lr 1", {"random_flip": True, "scale_lr": True}),
        (TextualInversionSettings, '--data_dir toys --token_string "<t>" --init_word toy --num_vectors_per_token 4',
         {"train_data_dir": ("toys",), "placeholder_token": ("<t>",), "initializer_token": ("toy",), "num_vectors": (4,)}),
        (TextualInversionSettings, TOY + "--use_style_template", {"learnable_property": "style"}),
        (TextualInversionSettings, TOY + "--save_every 10 --resume latest",
         {"save_steps": 10, "resume_from_checkpoint": "latest"}),
        (InferenceSettings, CAT + "--steps 20 --cfg 5", {"num_inference_steps": 20, "guidance_scale": 5.0}),
        (InferenceSettings, CAT + "--cfg_scale 5 --n_iter 3", {"guidance_scale": 5.0, "num_images": 3}),
        (InferenceSettings, CAT + "--W 512 --H 768", {"width": 512, "height": 768}),
        (InferenceSettings, CAT + "--neg ugly", {"negative_prompt": "ugly"}),
        (InferenceSettings, CAT + "--sampler DDIMScheduler", {"scheduler": "DDIMScheduler"}),
        (InferenceSettings, CAT + "--init_image a.png --denoising_strength 0.4", {"image": "a.png", "strength": 0.4}),
        (InferenceSettings, CAT + "--lora a.safetensors:0.5 --model demo --out here",
         {"weights": ("a.safetensors:0.5",), "pretrained_model_name_or_path": "demo", "output_dir": "here"}),
        (InferenceSettings, CAT + "--trace_page", {"trace": True, "trace_page": True}),
        (InferenceSettings, CAT + "--trace_decode full", {"trace": True, "trace_decode": "full"}),
        (InferenceSettings, CAT + "--trace yes --plain_prompt on", {"trace": True, "plain_prompt": True}),
    ],
)  # fmt: skip
def test_aliases_set_their_setting(model, line, meaning):
    settings, notes = read(model, line)
    assert {name: getattr(settings, name) for name in meaning} == meaning
    if "--trace yes" not in line and "--random_flip" not in line:
        assert notes or "," in line or "mixed_precision" in line, "read as something else, without a word"


@pytest.mark.parametrize(
    "model, line, where, remedy",
    [
        (DreamBoothSettings, DOG + "--aspect_bucket_rounding 2", "--aspect_bucket_rounding", "--bucket_reso_steps"),
        (DreamBoothSettings, DOG + "--optimizer_type DAdaptAdam", "--optimizer_type", "docs/optimizers.md"),
        (DreamBoothSettings, DOG + "--network_module lycoris.kohya", "--network_module", "--adapter lora"),
        (DreamBoothSettings, DOG + "--reg_data_dir reg", "--reg_data_dir", "prior_preservation"),
        (DreamBoothSettings, DOG + "--train_text_encoder_only", "--train_text_encoder_only", "--train_text_encoder"),
        (DreamBoothSettings, DOG + "--save_every_n_epochs 2", "--save_every_n_epochs", "--save_steps"),
        (DreamBoothSettings, DOG + "--caption_extension .cap", "--caption_extension", ".txt"),
        (DreamBoothSettings, DOG + "--lowvram", "--lowvram", "--gradient_checkpointing"),
        (DreamBoothSettings, DOG + "--trigger_word sks", "--trigger_word", "--instance_prompt"),
        (DreamBoothSettings, DOG + "--device cpu", "--device", "CUDA_VISIBLE_DEVICES"),
        (DreamBoothSettings, DOG + "--rank 4 --network_dim 8", "--network_dim", "keep one"),
        (DreamBoothSettings, DOG + "--network_dim 0", "--network_dim", "valid value"),
        (InferenceSettings, CAT + "--network_dim 8", "--network_dim", "rank"),
        (InferenceSettings, CAT + "--medvram", "--medvram", "--vae_tiling"),
        (InferenceSettings, CAT + "--trace_page --no-trace", "--trace_page", "trace"),
        (InferenceSettings, CAT + "--cfg x", "--cfg", "valid value"),
    ],
)
def test_unsupported_names_suggest_the_right_setting(model, line, where, remedy):
    (problem,) = problems(model, line)
    assert problem.where == where and remedy in problem.remedy


def test_the_table_has_no_duplicates_and_no_setting_names():
    names = set()
    for model in MODELS:
        same, flags = aliases.same(model), aliases.flags(model)
        names |= set(same) | set(flags)
        assert not set(same) & set(flags) and not (set(same) | set(flags)) & set(table(model))
        assert not set(same) & set(diffusers_flags.flags(model))
        for ours in set(same.values()):
            assert ours in table(model)
        rows = [name for ours, row in SAME.items() if ours in table(model) for name in row.split()]
        assert sorted(set(rows)) == sorted(rows), "one name for two settings of a command"
    assert len(names) > 300
    for _, flag in FLAGS:
        assert bool(flag.means) + bool(flag.done) + bool(flag.refused) == 1 and (flag.means or flag.commands)
    for _, meanings, _ in BY_VALUE.values():
        assert all(word == word.casefold() for word in meanings)


@pytest.mark.parametrize("model", MODELS)
def test_no_name_is_silently_ignored(model):
    for name, flag in aliases.flags(model).items():
        if name in BY_VALUE:
            continue
        value = True if flag.type is bool else "3" if flag.type is int else ["a", "b"] if flag.many else "a"
        found = aliases.ours(model, {name: value})
        assert len(found.notes) + len(found.problems) == 1 and bool(found.values) == bool(flag.means), name


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("stpes", "num_inference_steps"), ("smapler", "scheduler"), ("guidance_scal", "guidance_scale"), ("propmt", "prompt"),
        ("inference_step", "num_inference_steps"), ("seeds", "seed"), ("resolution", None), ("foo", None),
        ("sweeping_brush", None),
        ("scale_down", None), ("learn", None),
    ],
)  # fmt: skip
def test_suggestions_are_near_or_none(typed, meant):
    (problem,) = [each for each in InferenceSettings.examine({"prompt": ("x",), typed: "1"})[1] if each.where == typed]
    problem = aliases.explained(problem, InferenceSettings)
    assert (problem.remedy == f"did you mean {meant}?") if meant else "did you mean" not in problem.remedy


def test_all_words_of_a_longer_name_suggest_it():
    assert unknown("max_steps", dict.fromkeys(table(DreamBoothSettings), "")).remedy == "did you mean max_train_steps?"
    assert unknown("cache_dir", dict.fromkeys(table(DreamBoothSettings), "")).remedy == "did you mean latents_cache_dir?"


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("--max_train_steps 1,000", "1000"), ("--max_train_steps 1e3", "1000"), ("--max_train_steps 500,", "500"),
        ("--max_train_steps 2k", "2000"), ("--learning_rate 0,0001", "0.0001"), ("--resolution 512x512", "512"),
        ("--resolution 512px", "512"), ("--resolution 512,512", "512"), ("--caption_dropout 10%", "0.1"),
        ("--resolution 512x768", None), ("--max_train_steps many", None), ("--max_train_steps 1.5", None),
    ],
)  # fmt: skip
def test_numbers_in_other_notations_get_a_correction(typed, meant):
    (problem,) = problems(DreamBoothSettings, DOG + typed)
    assert (problem.remedy == f"did you mean {meant}?") if meant else "did you mean" not in problem.remedy


def test_a_configuration_may_use_the_same_names(tmp_path):
    config = tmp_path / "kohya.toml"
    config.write_text('network_dim = 8\nnetwork_alpha = 4\nunet_lr = 1e-4\noptimizer_type = "AdamW8bit"\nxformers = true\n')
    settings, notes = main.read(DreamBoothSettings, [str(config), *shlex.split(DOG)])
    assert (settings.rank, settings.lora_alpha, settings.adapter, settings.optimizer) == (8, 4.0, "lora", "adamw_8bit")
    assert len(notes) == 2
    config.write_text("network_dim = 0\n")
    (problem,) = problems(DreamBoothSettings, f"{config} {DOG}")
    assert problem.where == f"{config}:1: network_dim"
