"""Generates docs/coming_from.md, other trainers' settings by name, from the tables of `customize/cli/flags`:
`python docs/make_coming_from.py`.

`KOHYA`, ... are the names that each program has; what becomes of them follows from the tables.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from customize.cli.flags import aliases, diffusers_flags
from customize.cli.flags.aliases_table import BY_VALUE
from customize.cli.imports import ai_toolkit, onetrainer
from customize.methods import DreamBoothSettings, TextualInversionSettings
from customize.settings.field import table, written

PAGE = Path(__file__).parent / "coming_from.md"
METHODS = (DreamBoothSettings, TextualInversionSettings)
INTRODUCTION = """\
# Coming from kohya's sd-scripts, OneTrainer, ai-toolkit or diffusers

[sd-scripts](#kohyas-sd-scripts) · [OneTrainer](#onetrainer) · [ai-toolkit](#ai-toolkit) · [diffusers](#diffusers-scripts)

| there | here |
|---|---|
| a folder named like `10_sks dog` | read as it is, also with regularisation images: [images.md](images.md#kohyas-folders) |
| captions and tags beside the images, shuffled or dropped | read as they are: [captions.md](captions.md) |
| buckets | on by default, with the same sizes: [images.md](images.md#shapes-aspect-ratio-buckets) |
| a LoRA for ComfyUI and webuis | each run writes one in kohya's names: [elsewhere.md](elsewhere.md) |
| regularisation images | class images, or the base model as teacher: [objective.md](objective.md#prior-preservation) |
| the text encoder is trained (sd-scripts) | only with [`--train_text_encoder`](settings.md#train_text_encoder) |
| samples, to see which epoch is best | the run measures this and keeps the best: [evaluation.md](evaluation.md) |
| a saved state to go on from | `--resume_from_checkpoint latest`, to the same bits |
| several subjects in one run | [concepts.md](concepts.md) |
| LoRAs that you trained there | `infer.py --weights FILE`, `--init_weights FILE` to go on: [files.md](files.md) |

## Take a configuration along

`customize import-config FILE` reads the configuration of another trainer, writes it as one of ours, and says of each setting what
it became: taken (as what), already so here, or not taken, with what to do instead. It never writes over a file.

```bash
customize import-config my_lora.toml dog.toml --instance_prompt "a photo of sks dog"   # sd-scripts: config_file, dataset_config
customize import-config train.sh dog.toml                                              # or a script with the command line
customize import-config config.json dog.toml --instance_prompt "a photo of sks dog"    # OneTrainer
customize import-config job.yaml dog.toml                                              # ai-toolkit
customize check dog.toml
```

Settings on its command line win over the file, and give what the file lacks: this project needs an `instance_prompt` (or a new
token), which the others leave to captions and folder names. What a program does without being told is written down where it
differs from our default: sd-scripts' alpha of 1, and its training of the text encoder.

The names below are also accepted as flags and in a TOML file, so that `--network_dim 32` is `--rank 32`. Where a name stands for
a value, other values are reported. A setting of theirs that is not listed is reported, too.

`python docs/make_coming_from.py` writes this page from the tables that the commands use."""

KOHYA = """
v2 v_parameterization pretrained_model_name_or_path tokenizer_cache_dir vae
train_data_dir reg_data_dir in_json dataset_config dataset_repeats resolution
caption_extension caption_prefix caption_suffix caption_separator shuffle_caption keep_tokens keep_tokens_separator
secondary_separator enable_wildcard weighted_captions caption_dropout_rate caption_dropout_every_n_epochs
caption_tag_dropout_rate token_warmup_min token_warmup_step
color_aug flip_aug face_crop_aug_range random_crop enable_bucket min_bucket_reso max_bucket_reso bucket_reso_steps
bucket_no_upscale resize_interpolation cache_latents cache_latents_to_disk vae_batch_size cache_info skip_cache_check
alpha_mask masked_loss conditioning_data_dir prior_loss_weight
token_string init_word num_vectors_per_token use_object_template use_style_template
network_module network_dim network_alpha network_dropout network_args network_weights dim_from_weights scale_weight_norms
base_weights base_weights_multiplier network_train_unet_only network_train_text_encoder_only training_comment
unet_lr text_encoder_lr learning_rate_te learning_rate_te1 learning_rate_te2 stop_text_encoder_training train_text_encoder
block_lr no_token_padding no_half_vae fp8_base fp8_base_unet
optimizer_type use_8bit_adam use_lion_optimizer optimizer_args optimizer_schedulefree_wrapper learning_rate max_grad_norm
lr_scheduler lr_scheduler_type lr_scheduler_args lr_warmup_steps lr_decay_steps lr_scheduler_num_cycles lr_scheduler_power
lr_scheduler_timescale lr_scheduler_min_lr_ratio fused_backward_pass fused_optimizer_groups
max_train_steps max_train_epochs train_batch_size gradient_accumulation_steps gradient_checkpointing cpu_offload_checkpointing
seed mixed_precision full_fp16 full_bf16 max_token_length clip_skip
min_snr_gamma debiased_estimation_loss scale_v_pred_loss_like_noise_pred v_pred_like_loss zero_terminal_snr loss_type
huber_schedule huber_c huber_scale min_timestep max_timestep noise_offset noise_offset_random_strength adaptive_noise_scale
multires_noise_iterations multires_noise_discount ip_noise_gamma ip_noise_gamma_random_strength
mem_eff_attn xformers sdpa torch_compile dynamo_backend lowram highvram cache_text_encoder_outputs
cache_text_encoder_outputs_to_disk text_encoder_batch_size disable_mmap_load_safetensors
max_data_loader_n_workers persistent_data_loader_workers deepspeed zero_stage
output_dir output_name save_precision save_model_as save_every_n_epochs save_every_n_steps save_n_epoch_ratio
save_last_n_epochs save_last_n_steps save_state save_state_on_train_end resume skip_until_initial_step initial_epoch
no_metadata metadata_title metadata_author metadata_description metadata_license metadata_tags
huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token huggingface_repo_visibility async_upload
sample_every_n_steps sample_every_n_epochs sample_at_first sample_prompts sample_sampler
validation_split validation_seed validate_every_n_steps validate_every_n_epochs
logging_dir log_with log_prefix log_tracker_name wandb_run_name wandb_api_key
"""
"""Flags of sd-scripts 0.10.1 for models with a UNet."""
ONETRAINER = f"""
{" ".join(sorted(onetrainer.TOP))}
num_repeats image_variations text_variations enable_tag_shuffling tag_delimiter keep_tags_count tag_dropout_probability
proportion_empty_prompts preserve_embedding_norm layer_filter token_count initial_embedding_text
"""
AI_TOOLKIT = """
name_or_path vae_path is_v_pred is_xl quantize low_vram linear linear_alpha conv conv_alpha dropout trigger_word
folder_path caption_ext caption_dropout_rate shuffle_tokens token_dropout_rate keep_tokens cache_latents
cache_latents_to_disk flip_x random_crop num_repeats resolution mask_path is_reg
steps lr unet_lr text_encoder_lr batch_size gradient_accumulation_steps gradient_accumulation gradient_checkpointing
train_unet train_text_encoder optimizer optimizer_params lr_scheduler lr_scheduler_params max_grad_norm noise_offset
min_snr_gamma snr_gamma loss_type timestep_type use_ema ema_decay dtype xformers seed
save_every max_step_saves_to_keep push_to_hub sample_every prompts neg guidance_scale sample_steps walk_seed
init_words
"""
"""Settings of ai-toolkit's processes, by the name in their table."""


def page() -> str:
    """The text of docs/coming_from.md."""
    return "\n\n".join([
        INTRODUCTION,
        *chapter("kohya's sd-scripts", KOHYA.split(), {}),
        *chapter("OneTrainer", ONETRAINER.split(), onetrainer.PLACES),
        *chapter("ai-toolkit", AI_TOOLKIT.split(), {k: v for each in ai_toolkit.TABLES.values() for k, v in each.items()}),
        *diffusers(),
    ]) + "\n"  # fmt: skip


def chapter(program: str, names: Iterable[str], places: dict[str, str]) -> Iterator[str]:
    """The names of a program in four groups. places: where else a setting stands -> a name that the tables know."""
    rows: dict[str, list[str]] = {"taken": [], "here": [], "refused": [], "": []}
    for name, known in {**dict.fromkeys(names, ""), **places}.items():
        group, words = fate(known or name)
        rows[group].append(f"| `{name}` | {words} |" if group else f"`{name}`")
    yield f"## {program}"
    yield "\n".join(["| there | here |", "|---|---|", *rows["taken"]])
    if rows["here"]:
        yield "Needless here, and accepted:"
        yield "\n".join(["| there | because |", "|---|---|", *rows["here"]])
    if rows["refused"]:
        yield "Not supported; the command says so:"
        yield "\n".join(["| there | because, and what to do |", "|---|---|", *rows["refused"]])
    if rows[""]:
        yield f"Without a counterpart: {', '.join(rows[''])}."


def fate(name: str) -> tuple[str, str]:
    """(group, words) of what becomes of a name: "taken", "here" (needless), "refused", or "" for one that is not known."""
    for model in METHODS:
        by_name = {**aliases.same(model), **dict.fromkeys(table(model), "")}
        flags = {**diffusers_flags.flags(model), **aliases.flags(model)}
        if name in by_name:
            return "taken", link(by_name[name] or name)
        if name in BY_VALUE and name in flags:
            values = ", ".join(f"`{value}`" for value in BY_VALUE[name][1])
            return "taken", f"by its value: {values}; others are reported"
        if name not in flags:
            continue
        flag = flags[name]
        if flag.means:
            return "taken", f"{link(flag.means[0])} = `{written(flag.means[1])}`"
        if flag.changes:
            return "taken", (flag.changes.__doc__ or "").partition(": ")[2].rstrip(".")
        if flag.refused:
            return "refused", escaped(f"{flag.refused[0]}: {flag.refused[1]}")
        return "here", escaped(flag.done)
    return "", ""


def link(name: str) -> str:
    """A setting of ours, with its place in the reference."""
    return f"[`{name}`](settings.md#{name})"


def diffusers() -> Iterator[str]:
    """What differs from diffusers' scripts, whose names are ours."""
    yield "## diffusers' scripts"
    yield (
        "Settings have the names of `textual_inversion.py`, `train_dreambooth.py`, `train_dreambooth_lora.py` and the scripts\n"
        "for SDXL, so that a command line from their documentation runs here: `train_dreambooth_lora.py` is\n"
        "`train_dreambooth.py --adapter lora`. These flags are not settings here:"
    )
    found = {name: fate(name) for name in diffusers_flags.FLAGS}
    words = {"taken": "", "here": "needless: ", "refused": "not supported: "}
    rows = [f"| `{name}` | {words[group]}{text} |" for name, (group, text) in found.items()]
    yield "\n".join(["| flag | here |", "|---|---|", *rows])
    yield "Other defaults:"
    rows = [
        f"| {link(name)} | {escaped(theirs)} | {escaped(ours)} | {why} |"
        for name, theirs, ours, why in diffusers_flags.differences()
    ]
    yield "\n".join(["| setting | theirs | ours | because |", "|---|---|---|---|", *rows])


def escaped(text: str) -> str:
    """A text as a cell of a table."""
    return text.replace("<", "&lt;").replace("|", r"\|").replace("__", r"\_\_")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
