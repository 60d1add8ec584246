"""Names of our settings in kohya's sd-scripts, OneTrainer, ai-toolkit, SimpleTuner, AUTOMATIC1111, ComfyUI and InvokeAI.

`SAME`: another name of a setting. `FLAGS`: a switch that stands for a value of a setting, has no effect, or is not
supported. `BY_VALUE`: a name whose meaning depends on its value. Rows apply to the commands that have the setting.
"""

from collections.abc import Mapping
from typing import Any

from customize.cli.flags.diffusers_flags import BOTH, DREAMBOOTH, TEXTUAL_INVERSION, Flag
from customize.cli.flags.settings_by_command import MODELS
from customize.settings.common import Settings
from customize.settings.inference import InferenceSettings

INFERENCE = (InferenceSettings,)
ALL = MODELS

SAME: Mapping[str, str] = {
    "pretrained_model_name_or_path": "model model_path model_name model_id model_name_or_path pretrained_model"
    " pretrained_model_name"
    " pretrained_model_path pretrained base_model base_model_name base_model_path base ckpt ckpt_path ckpt_name checkpoint"
    " checkpoint_path sd_model sd_model_checkpoint stable_diffusion_model",
    "rescale_betas_zero_snr": "zero_terminal_snr zero_snr ztsnr rescale_noise_scheduler_to_zero_terminal_snr",
    "mixed_precision": "precision dtype torch_dtype weight_dtype train_dtype compute_dtype",
    "output_dir": "output out outdir out_dir output_path output_folder save_dir save_path output_directory"
    " workspace_dir outpath o",
    "overwrite_output_dir": "overwrite",
    # training
    "train_data_dir": "data_dir dataset_dir image_dir images_dir img_dir instance_data_dir instance_dir folder_path"
    " dataset_path"
    " train_dir input input_dir images data",
    "instance_data_dir": "data_dir dataset_dir image_dir images_dir img_dir train_data_dir instance_dir folder_path"
    " dataset_path"
    " train_dir input input_dir images data instance_images_dir",
    "class_data_dir": "class_dir class_images_dir reg_data_dir reg_dir regularization_dir regularization_data_dir reg_images",
    "num_class_images": "num_reg_images class_images_count",
    "instance_prompt": "prompt instance_caption instance",
    "class_prompt": "class_caption reg_prompt",
    "placeholder_token": "token_string trigger_word trigger placeholder placeholder_string embedding_name concept_token"
    " token_abstraction",
    "embedding_learning_rate": "embedding_lr lr_embedding embeddings_learning_rate textual_inversion_lr ti_lr",
    "embedding_train_fraction": "train_text_encoder_ti_frac",
    "initializer_token": "initializer_concept init_word init_words initializer initializer_word initializer_words"
    " initial_embedding_text init_token init_text",
    "num_vectors": "num_vectors_per_token vectors_per_token token_count tokens_per_embedding num_embedding_vectors"
    " num_new_tokens_per_abstraction",
    "resolution": "size image_size img_size train_resolution base_resolution",
    "crop_variants": "image_variations",
    "image_interpolation_mode": "resize_interpolation",
    "bucket_reso_steps": "bucket_tolerance",
    "random_flip": "flip flip_aug random_hflip horizontal_flip flip_x",
    "repeats": "num_repeats dataset_repeats",
    "caption_dropout": "caption_dropout_rate caption_dropout_probability proportion_empty_prompts",
    "shuffle_tags": "shuffle_caption shuffle_tokens enable_tag_shuffling",
    "keep_tags": "keep_tokens keep_tags_count",
    "tag_dropout": "caption_tag_dropout_rate token_dropout_rate tag_dropout_probability",
    "tag_warmup_steps": "token_warmup_step",
    "tag_warmup_min": "token_warmup_min",
    "tag_separator": "caption_separator tag_delimiter",
    "latents_cache_dir": "cache_dir_vae vae_cache_dir latent_cache_dir cache_latents_dir",
    "train_batch_size": "batch batch_size bs bsz per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation grad_accum accumulation_steps accumulate_grad_batches grad_accum_steps",
    "gradient_checkpointing": "grad_checkpointing checkpoint_gradients enable_gradient_checkpointing",
    "max_train_steps": "steps train_steps max_steps num_train_steps num_steps training_steps total_steps iterations",
    "num_train_epochs": "epochs epoch max_train_epochs num_epochs max_epochs train_epochs",
    "learning_rate": "lr unet_lr learning_rate_unet unet_learning_rate base_lr",
    "text_encoder_learning_rate": "text_encoder_lr te_lr lr_text_encoder learning_rate_te",
    "lr_scheduler": "learning_rate_scheduler scheduler_type lr_scheduler_type",
    "lr_warmup_steps": "warmup warmup_steps learning_rate_warmup_steps num_warmup_steps lr_warmup",
    "lr_num_cycles": "lr_scheduler_num_cycles num_cycles learning_rate_cycles",
    "lr_power": "lr_scheduler_power",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "adam_epsilon": "eps epsilon adam_eps",
    "adam_weight_decay": "weight_decay wd",
    "max_grad_norm": "clip_grad_norm gradient_clip grad_clip gradient_clip_val",
    "snr_gamma": "min_snr_gamma min_snr",
    "loss_type": "loss",
    "huber_schedule": "loss_schedule",
    "noise_offset": "offset_noise_weight",
    "input_perturbation": "ip_noise_gamma",
    "min_timestep": "min_denoising_steps",
    "max_timestep": "max_denoising_steps",
    "dco_beta": "dcoloss_beta",
    "optimizer": "optimizer_type optim",
    "offload_ema": "ema_cpu_only",
    "text_encoder_train_fraction": "train_text_encoder_frac",
    "prodigy_d_coef": "d_coef",
    "prior_loss_weight": "reg_loss_weight prior_weight",
    "random_brightness": "random_brightness_max_strength",
    "random_contrast": "random_contrast_max_strength",
    "random_saturation": "random_saturation_max_strength",
    "random_hue": "random_hue_max_strength",
    "random_rotate": "random_rotate_max_angle random_rotation",
    "masked_loss": "masked_training mask_loss",
    "mask_data_dir": "mask_path mask_dir masks_dir conditioning_data_dir",
    "unmasked_weight": "mask_min_value",
    "masked_prior_preservation_weight": "inverted_mask_prior_multiplier",
    "rank": "lora_rank network_dim network_rank lora_dim lora_r linear",
    "lora_alpha": "network_alpha alpha linear_alpha",
    "lora_dropout": "network_dropout dropout",
    "lora_targets": "target_modules lora_target_modules lora_layers",
    "init_lora_weights": "lora_init_type lora_init lora_initialization",
    "decompose_factor": "lokr_factor",
    "tlora_min_rank": "min_rank",
    "tlora_alpha": "alpha_rank_scale",
    "use_dora": "dora weight_decompose lora_decompose",
    "init_weights": "network_weights init_lora lora_weights_path finetune_from start_from lora_weights resume_lora",
    "checkpointing_steps": "checkpoint_steps checkpointing_step_interval save_state_every backup_every checkpoint_every",
    "checkpoints_total_limit": "save_total_limit max_step_saves_to_keep checkpoints_limit keep_checkpoints",
    "resume_from_checkpoint": "resume resume_from resume_path continue_from",
    "save_steps": "save_every save_every_n_steps save_every_steps save_frequency save_interval",
    "save_precision": "save_dtype output_dtype",
    "validation_prompt": "validation_prompts sample_prompt sample_prompts val_prompt",
    "num_validation_images": "num_sample_images validation_images_per_prompt num_images",
    "validation_steps": "sample_every sample_every_n_steps validation_step_interval sample_steps_interval",
    "validation_epochs": "sample_every_n_epochs validation_epoch_interval",
    "validation_scheduler": "sample_sampler sampler sampler_name validation_noise_scheduler",
    "sample_guidance_scale": "guidance_scale validation_guidance cfg cfg_scale sample_cfg",
    "sample_inference_steps": "num_inference_steps validation_num_inference_steps sample_steps",
    "report_to": "log_with tracker logger",
    "logging_dir": "log_dir tensorboard_dir",
    "hub_model_id": "huggingface_repo_id hub_repo_id repo_id",
    "hub_token": "huggingface_token hf_token",
    "push_to_hub": "upload_to_hub hub_push",
    # generating
    "weights": "lora loras lora_path lora_weights lora_model lora_name lora_file lora_dir network_weights adapter_path embedding"
    " embeddings embedding_path textual_inversion textual_inversion_path textual_inversion_embeddings learned_embeds hypernetwork"
    " run run_dir",
    "scale": "lora_scale lora_weight lora_strength strength_model network_mul multiplier lora_multiplier adapter_scale",
    "prompt": "prompts p text positive positive_prompt",
    "negative_prompt": "neg negative neg_prompt n_prompt uc negative_text negativeprompt unconditional_prompt",
    "guidance_scale": "cfg cfg_scale guidance cfgscale unconditional_guidance_scale cfg_guidance",
    "num_inference_steps": "steps num_steps sampling_steps inference_steps ddim_steps sample_steps num_sampling_steps",
    "scheduler": "sampler sampler_name sampler_index sampling_method sample_method noise_scheduler scheduler_name",
    "use_karras_sigmas": "karras karras_sigmas use_karras",
    "num_images": "n_iter n n_images num_samples n_samples images_per_prompt num_images_per_prompt num_outputs"
    " batch_count count iterations images",
    "batch_size": "batch bs",
    "height": "h image_height img_height",
    "width": "w image_width img_width",
    "image": "init_image init_img init input_image image_path input img source_image source start_image img2img i",
    "strength": "denoise denoising denoising_strength image_strength img2img_strength denoising_start",
    "upscalers": "upscale_model upscale_models super_resolution_models",
    "low_res_image": "low_res low_res_img lowres_image image_to_enlarge small_image",
    "mask_image": "mask mask_path mask_img inpaint_mask inpainting_mask",
    "vae_tiling": "tiled_vae enable_vae_tiling vae_tile tile_vae",
    "clip_skip": "clipskip clip_stop_at_last_layers clip_layer",
    "vae": "pretrained_vae_model_name_or_path pretrained_vae_name_or_path vae_path vae_model vae_id sd_vae vae_name",
    "eta": "ddim_eta",
    "guidance_rescale": "cfg_rescale rescale_cfg cfg_rescale_multiplier",
    "hires_scale": "hr_scale upscale_by hires_upscale upscale hires_fix",
    "image_format": "format samples_format output_format extension",
    "mask_blur": "blur",
    "prompt_file": "from_file prompts_file prompts_from_file prompt_path",
    "weights_dir": "lora_folder loras_dir embeddings_dir embedding_dir",
    "wildcards_dir": "wildcard_dir wildcards",
    "plain_prompt": "no_weighting",
}
"""Setting -> its names in other programs. A name may stand for several settings: each command uses the one that it has."""

MEMORY_HELP = (
    "offloading to the CPU is not supported",
    "add --mixed_precision bf16 (or fp16), --vae_tiling, --batch_size 1",
)
TRAIN_MEMORY_HELP = (
    "offloading to the CPU is not supported",
    "add --gradient_checkpointing, --use_8bit_adam, --mixed_precision bf16, or train a LoRA (--adapter lora)",
)
NO_ROUNDING = (
    "buckets are sizes, not rounded aspect ratios",
    "leave it out; --bucket_reso_steps sets how far apart they are, --aspect_ratio_buckets lists them",
)
AS_WRITTEN = (
    "captions are used as they are written",
    "leave it out, and edit the captions themselves",
)
OWN_OPTIONS = (
    "the options of an optimizer are settings",
    "leave it out, and give them by name (--help, [train]), as in --adam_weight_decay 0.1",
)
EPOCHS_OF_SAVES = ("weights are saved by steps, not by epochs", "give --save_steps N")
IN_THE_PROMPT = ("the words of a subject are part of its prompts", 'write them in --instance_prompt, as in "a photo of sks dog"')
OWN_ATTENTION = "torch's own attention saves the same memory"
ALWAYS_CACHED = "images are encoded once, many of them in the steps; --latents_cache_dir FOLDER caches them on disk"
DEVICE = (
    "the device is chosen automatically: a GPU if there is one",
    "leave it out; CUDA_VISIBLE_DEVICES=0 (or empty: none) selects another",
)


def _all(names: str, **facts: Any) -> tuple[tuple[str, Flag], ...]:
    return tuple((name, Flag(**{"commands": ALL, "type": bool, **facts})) for name in names.split())


FLAGS: tuple[tuple[str, Flag], ...] = (
    *_all("fp16 half use_fp16 full_fp16", means=("mixed_precision", "fp16")),
    *_all("bf16 use_bf16 full_bf16", means=("mixed_precision", "bf16")),
    *_all("fp32 no_half full_precision", means=("mixed_precision", "no")),
    *_all("tf32", means=("allow_tf32", True)),
    *_all("xformers sdpa mem_eff_attn diffusers_xformers opt_sdp_attention opt_split_attention use_xformers flash_attn",
          done=OWN_ATTENTION),
    *_all("enable_attention_slicing attention_slicing opt_channels_last enable_vae_slicing", done=OWN_ATTENTION),
    *_all("use_safetensors safe_serialization", done="only safetensors files are read and written"),
    *_all("v2 is_v2 sdxl xl is_xl", done="the model's files specify which Stable Diffusion it is"),
    *_all("v_parameterization v_pred v_prediction is_v_pred", means=("prediction_type", "v_prediction")),
    *_all("lowvram medvram low_vram lowram novram always_low_vram sequential_offload enable_model_cpu_offload cpu_offload",
           commands=INFERENCE, refused=MEMORY_HELP),
    *_all("enable_sequential_cpu_offload", commands=INFERENCE, refused=MEMORY_HELP),
    *_all("lowvram medvram low_vram cpu_offload blocks_to_swap", commands=BOTH, refused=TRAIN_MEMORY_HELP),
    *_all("lowram highvram high_vram", commands=BOTH,
          done="components that training does not need are moved off the device before it starts"),
    *_all("medvram_sdxl", commands=INFERENCE, refused=MEMORY_HELP),
    *_all("no_half_vae upcast_vae vae_fp32", commands=INFERENCE,
          refused=("the autoencoder computes in the number format of the rest",
                   "leave it out; if images come out black, use --mixed_precision bf16 or no")),
    *_all("no_half_vae upcast_vae vae_fp32", commands=BOTH, done="images are encoded in float32"),
    *_all("cpu use_cpu force_cpu no_cuda", refused=DEVICE),
    *_all("device device_id gpu gpu_id gpu_ids", type=str, refused=DEVICE, harmless=("auto", "cuda", "gpu", "cuda:0", "0")),
    # training
    *_all("train_unet network_train_unet_only", commands=DREAMBOOTH,
          done="the UNet is trained, and the text encoder only with --train_text_encoder"),
    *_all("network_train_text_encoder_only train_text_encoder_only", commands=DREAMBOOTH,
           refused=("the text encoder cannot be trained alone", "leave it out, or add --train_text_encoder to train both")),
    *_all("use_object_template", commands=TEXTUAL_INVERSION, means=("learnable_property", "object")),
    *_all("use_style_template", commands=TEXTUAL_INVERSION, means=("learnable_property", "style")),
    *_all("continue_last_backup auto_resume", commands=BOTH, means=("resume_from_checkpoint", "latest")),
    *_all("cache_latents latent_caching cache_latents_to_disk vae_batch_size", commands=BOTH, done=ALWAYS_CACHED),
    *_all("cache_text_embeddings cache_text_encoder_outputs cache_text_encoder_outputs_to_disk", commands=BOTH,
          done="prompts are encoded once unless the text encoder is trained"),
    *_all("normalize_masked_area_loss", commands=BOTH, done="the loss is the mean over what a mask selects, whatever its area"),
    *_all("unmasked_probability", commands=BOTH, type=str, harmless=("0", "0.0", 0, 0.0),
          refused=("masks are used in every step", "leave it out, or give --unmasked_weight 0.1")),
    *_all("inverted_mask_prior", commands=DREAMBOOTH, means=("masked_prior_preservation_weight", 1.0)),
    *_all("random_crop", commands=BOTH,
          done="images are cropped at random positions unless --center_crop is given"),
    *_all("max_data_loader_n_workers num_workers dataloader_workers dataloader_threads", commands=BOTH, type=int,
           done="images are decoded and encoded once, before training starts"),
    *_all("persistent_data_loader_workers", commands=BOTH, done="images are decoded and encoded once, before training starts"),
    *_all("save_state save_state_on_train_end", commands=BOTH,
          done="a checkpoint to resume from is written every --checkpointing_steps"),
    *_all("enable_bucket aspect_ratio_bucketing buckets", commands=BOTH, means=("aspect_ratio_buckets", "auto")),
    *_all("aspect_bucket_rounding", commands=BOTH, type=str, refused=NO_ROUNDING),
    *_all("weighted_captions enable_wildcard", commands=BOTH, refused=AS_WRITTEN),
    *_all("keep_tokens_separator secondary_separator", commands=BOTH, type=str,
          refused=("tags are told apart by --tag_separator alone", "leave it out; --keep_tags N keeps the first N in place")),
    *_all("color_aug", commands=BOTH,
          refused=("how much colours change is a number for each", "give --random_brightness 0.05 --random_hue 0.02")),
    *_all("caption_dropout_every_n_epochs", commands=BOTH, type=str, harmless=("0", 0),
          refused=("captions are left out at random, not in whole epochs", "leave it out, and give --caption_dropout 0.1")),
    *_all("caption_extension caption_extention caption_ext", commands=BOTH, type=str,
          harmless=(".txt", "txt", ".caption", "caption"),
           refused=("captions are read from .txt and .caption files, and from tables", "rename the caption files to NAME.txt")),
    *_all("max_token_length", commands=BOTH, type=int, harmless=(75, 77, 150, 225),
           refused=("captions are encoded in chunks of 75 tokens", "leave it out")),
    *_all("optimizer_args lr_scheduler_args", commands=BOTH, type=str, many=True, refused=OWN_OPTIONS),
    *_all("use_8bit_adam", commands=TEXTUAL_INVERSION, means=("optimizer", "adamw_8bit")),
    *_all("use_8bit adam8bit use_adam8bit", commands=BOTH, means=("optimizer", "adamw_8bit")),
    *_all("use_lion_optimizer", commands=BOTH, means=("optimizer", "lion")),
    *_all("ema_update_interval ema_update_step_interval", commands=BOTH, type=int, harmless=(1,),
           refused=("every step is averaged", "leave it out; --ema_decay sets how long the average is")),
    *_all("foreach_ema", commands=BOTH, done="the average is updated in every step anyway"),
    *_all("adaptive_noise_scale", commands=BOTH, type=str,
          refused=("noise is plain, or has an offset, coarser noise or a perturbation",
                   "leave it out, or give --noise_offset 0.05, --multires_noise_iterations 6 or --input_perturbation 0.1")),
    *_all("noise_offset_random_strength ip_noise_gamma_random_strength", commands=BOTH,
          refused=("the strength of noise is the same in all samples", "leave it out, and halve the strength for the same mean")),
    *_all("perturbation_noise_weight generalized_offset_noise", commands=BOTH, type=str,
          refused=("a perturbation is not a part of the target, and an offset the same at all noise levels",
                   "leave it out, or give --input_perturbation 0.1 or --noise_offset 0.05")),
    *_all("huber_scale", commands=BOTH, type=str, harmless=("1", "1.0"),
          refused=("a threshold is not scaled", "leave it out, and give --huber_c")),
    *_all("min_noising_strength max_noising_strength", commands=BOTH, type=str, harmless=("0", "0.0", "1", "1.0", 1),
          refused=("bounds are timesteps of 0 ... 999, and the upper one is not included",
                   "give --min_timestep or --max_timestep: a share of 0.3 is 300")),
    *_all("mae_strength log_cosh_strength huber_strength huber_delta", commands=BOTH, type=str, harmless=("0", "0.0"),
          refused=("a run has one distance", "give --loss_type l1, log_cosh or huber, with --huber_schedule constant --huber_c")),
    *_all("mse_strength", commands=BOTH, type=str, harmless=("1", "1.0", 1),
          refused=("a run has one distance, which is not scaled", "leave it out, or give another --loss_type")),
    *_all("noising_bias noising_weight sigmoid_scale sigmoid_bias", commands=BOTH, type=str,
          refused=("a distribution of timesteps is given by mean and deviation",
                   "give --timestep_sampling logit_normal with --logit_mean and --logit_std")),
    *_all("debiased_estimation_loss debiased_estimation debiased", commands=BOTH, means=("loss_weighting", "debiased")),
    *_all("use_soft_min_snr soft_min_snr", commands=BOTH, means=("loss_weighting", "soft_min_snr")),
    *_all("soft_min_snr_sigma_data", commands=BOTH, type=str, harmless=("1", "1.0"),
          refused=("soft-min-SNR has a gamma", "give --snr_gamma 1 / sigma_data^2")),
    *_all("scale_v_pred_loss_like_noise_pred scale_v_pred_loss", commands=BOTH, means=("loss_weighting", "noise")),
    *_all("save_every_n_epochs save_n_epochs", commands=BOTH, type=str, refused=EPOCHS_OF_SAVES),
    *_all("save_last_n_epochs save_last_n_steps save_last_n_steps_state", commands=BOTH, type=str,
           refused=("all saved weights are kept", "leave it out; --checkpoints_total_limit N keeps the newest N checkpoints")),
    *_all("output_name model_name_out", commands=BOTH, type=str,
          done="result files have the names that other programs expect"),
    *_all("save_model_as", commands=TEXTUAL_INVERSION, type=str, harmless=("safetensors", "diffusers", "diffusers_safetensors"),
           refused=("results are written as safetensors", "leave it out: every program reads them")),
    *_all("network_args network_train_args", commands=DREAMBOOTH, type=str, many=True,
           refused=("an adapter is configured by --adapter (algo), --rank, --lora_alpha, --lora_dropout, --lora_targets",
                 "leave it out, and use these; conv_dim is --rank_pattern convolutions=N, factor is --decompose_factor")),
    *_all("conv_dim conv_alpha network_conv_dim conv", commands=DREAMBOOTH, type=str,
           refused=("convolutions are only trained if they are targets",
                 "leave it out, or give --lora_targets attention convolutions --rank_pattern convolutions=N")),
    *_all("block_dims block_alphas conv_block_dims conv_block_alphas", commands=DREAMBOOTH, type=str,
           refused=("ranks of blocks are named", "give --rank_pattern, as in --rank_pattern down_blocks.0=4 mid_block=16")),
    *_all("block_lr block_lr_zero_threshold down_lr_weight mid_lr_weight up_lr_weight", commands=DREAMBOOTH, type=str,
           refused=("rates of blocks are named", "give --lr_pattern, as in --lr_pattern down_blocks.0=0.5 mid_block=2")),
    *_all("learning_rate_te1 learning_rate_te2 text_encoder_1_lr text_encoder_2_lr", commands=DREAMBOOTH, type=str,
           refused=("the rates of both text encoders are one setting", "give --text_encoder_learning_rate RATE_1 RATE_2")),
    *_all("trigger_word trigger instance_token token_string", commands=DREAMBOOTH, type=str, refused=IN_THE_PROMPT),
    *_all("class_token class_word", commands=DREAMBOOTH, type=str,
           refused=("the class is part of a prompt", 'write it in --class_prompt, as in "a photo of dog"')),
    *_all("negative_prompt validation_negative_prompt", commands=BOTH, type=str,
           refused=("sample images are generated without a negative prompt", "leave it out, and use it with infer.py")),
    *_all("unet_path", commands=ALL, type=str,
          refused=("a base model is loaded as a whole", "give --pretrained_model_name_or_path")),
    *_all("dataset_config data_backend_config concept_file_name in_json concepts_list", commands=BOTH, type=str,
           refused=("images are given as folders, with captions beside them",
                    "give the folder (--help, [data]), or read the other trainer's file by customize import-config")),
    *_all("wandb_api_key", commands=BOTH, type=str,
          refused=("a key does not belong on a command line", "run `wandb login`, or set WANDB_API_KEY")),
    *_all("wandb_run_name log_tracker_name tracker_project_name tracker_run_name log_prefix", commands=BOTH, type=str,
           done="a run is named after its folder, --output_dir"),
    *_all("wandb use_wandb", commands=BOTH, means=("report_to", "wandb")),
    *_all("stop_text_encoder_training", commands=DREAMBOOTH, type=str,
           refused=("the text encoder's part of the run is given as a share of the steps",
                    "leave it out, and give --text_encoder_train_fraction, such as 0.5")),
    *_all("learning_rate_te1 learning_rate_te2 text_encoder_1_lr text_encoder_2_lr", commands=DREAMBOOTH, type=str,
           refused=("the rates of the text encoders are one setting", "give --text_encoder_learning_rate RATE_1 RATE_2")),
    *_all("tokenizer_cache_dir cache_info skip_cache_check disable_mmap_load_safetensors async_upload", commands=BOTH, type=str,
          done="files are read and written as safely and quickly without it"),
    *_all("text_encoder_batch_size text_variations", commands=BOTH, type=str,
          done="each caption is encoded once, and drawn anew in each use of its image"),
    *_all("sample_at_first", commands=BOTH, done="sample images are drawn before the first step, too"),
    *_all("skip_until_initial_step initial_epoch initial_step", commands=BOTH, type=str,
          done="a resumed run goes on with the images and the noise that would have come next"),
    *_all("dim_from_weights", commands=DREAMBOOTH, done="--init_weights takes the rank from its file"),
    *_all("training_comment metadata_title metadata_author metadata_description metadata_license metadata_tags", commands=BOTH,
          type=str, refused=("metadata are made of the settings", "leave it out, and edit README.md of the result")),
    *_all("validation_split validate_every_n_steps validate_every_n_epochs validation_seed", commands=BOTH, type=str,
          refused=("the loss on held-out images is measured with the result, on fixed noise", "give --num_held_out N images")),
    *_all("torch_compile compile dynamo_backend", commands=BOTH, type=str,
          refused=("networks are not compiled", "leave it out")),
    *_all("fp8_base fp8_base_unet quantize", commands=BOTH, refused=("networks have 16 or 32 bits", TRAIN_MEMORY_HELP[1])),
    *_all("deepspeed zero_stage", commands=BOTH, type=str,
          refused=("DeepSpeed is not used", "leave it out, and launch with configs/accelerate/fsdp.yaml, which shards networks")),
    *_all("base_weights base_weights_multiplier", commands=DREAMBOOTH, type=str, many=True,
          refused=("a run has one base model", "merge them first: customize merge FILE:SCALE --base MODEL --out MERGED")),
    *_all("huggingface_repo_type huggingface_path_in_repo huggingface_repo_visibility", commands=BOTH, type=str,
          refused=("the result is uploaded as a repository of its own", "leave it out, and give --hub_model_id")),
    # generating
    *_all("plms", commands=INFERENCE, means=("scheduler", "PNDMScheduler")),
    *_all("dpm_solver dpm", commands=INFERENCE, means=("scheduler", "DPMSolverMultistepScheduler")),
    *_all("ddim", commands=INFERENCE, means=("scheduler", "DDIMScheduler")),
    *_all("disable_safety_checker no_safety_checker skip_safety_checker nsfw disable_nsfw_filter", commands=INFERENCE,
          done="there is no safety checker"),
    *_all("skip_grid no_grid skip_save no_preview", commands=INFERENCE,
          done="each image is written to its own file, beside the contact sheet"),
    *_all("schedule_type noise_schedule sigma_schedule", commands=INFERENCE, type=str,
          refused=("is part of the sampler's name", 'write it after the sampler, as in --scheduler "DPM++ 2M Karras"')),
    *_all("size image_size resolution aspect_ratio ar", commands=INFERENCE, type=str,
          refused=("width and height are separate settings", "give --width 512 --height 512")),
    *_all("interactive", commands=INFERENCE, refused=("there is no interactive mode", 'give prompts: --prompt "a cat" "a dog"')),
    *_all("restore_faces tiling", commands=INFERENCE, refused=("images are not post-processed", "leave it out")),
)  # fmt: skip

LORA = {"adapter": "lora"}
RELATIVES = {
    **{f"{start}{name}": {"adapter": name} for start in ("", "networks.") for name in ("loha", "lokr", "oft", "boft")},
    "diag-oft": {"adapter": "oft"},
    "oft_2": {"adapter": "oft"},
    "dora": {"adapter": "lora", "use_dora": True},
}
"""Kinds of adapters by the names of kohya's modules, LyCORIS' algorithms and OneTrainer's types."""
BY_VALUE: Mapping[str, tuple[tuple[type[Settings], ...], Mapping[str, Mapping[str, Any]], tuple[str, str]]] = {
    "loss_weight_fn": (BOTH, {"constant": {}, "min_snr_gamma": {"loss_weighting": "min_snr"}, "p2": {"loss_weighting": "p2"},
                              "debiased_estimation": {"loss_weighting": "debiased"}},
                       ("is not a loss weighting of models with a UNet", "give --loss_weighting, which --help lists")),
    "loss_weight_strength": (BOTH, {}, ("is a setting of each weighting", "give --snr_gamma or --p2_gamma")),
    "weighting_scheme": (BOTH, {"none": {}, "logit_normal": {"timestep_sampling": "logit_normal"}},
                         ("is not a distribution of timesteps here", "give --timestep_sampling, which --help lists")),
    "timestep_distribution": (BOTH, {"uniform": {}, "logit_normal": {"timestep_sampling": "logit_normal"}},
                              ("is not a distribution of timesteps here", "give --timestep_sampling, which --help lists")),
    "ema": (BOTH, {"gpu": {"use_ema": True}, "true": {"use_ema": True}, "cpu": {"use_ema": True, "offload_ema": True},
                   "off": {}, "none": {}, "false": {}}, ("is gpu, cpu or off", "give --use_ema, and --offload_ema for the CPU")),
    "network_module": (DREAMBOOTH, {"networks.lora": LORA, "networks.lora_fa": LORA, "lora": LORA, "locon": LORA, **RELATIVES},
                       ("only LoRA and what --adapter lists are trained",
                        "give --adapter lora, loha, lokr, oft or boft (the algo of lycoris.kohya)")),
    "model_type": (DREAMBOOTH, {"lora": LORA, "full": {"adapter": "none"}}, ("is lora or full",
          "give --adapter lora or --adapter none")),
    "training_method": (DREAMBOOTH, {"lora": LORA, "fine_tune": {"adapter": "none"}, "full": {"adapter": "none"}},
                        ("is lora or full", "give --adapter lora; new words are learned by train_textual_inversion.py")),
    "model_family": (ALL, dict.fromkeys(("sd1x", "sd15", "sd1", "sd2x", "sd2", "sdxl", "xl"), {}),
                     ("only Stable Diffusion 1.x, 2.x and XL are supported", "leave it out: the model's files specify it")),
}  # fmt: skip
"""Names whose meaning depends on their value: commands, value -> settings, and the problem of other values."""
BY_VALUE = {
    **BY_VALUE,
    "arch": BY_VALUE["model_family"],
    "network_type": BY_VALUE["network_module"],
    "peft_type": BY_VALUE["network_module"],
    "algo": BY_VALUE["network_module"],
    "lora_type": (DREAMBOOTH, {"standard": LORA, "lora": LORA, **RELATIVES}, BY_VALUE["network_module"][2]),
    "use_lora": (DREAMBOOTH, {"true": LORA, "1": LORA, "yes": LORA, "false": {}}, BY_VALUE["network_module"][2]),
    "lora": (DREAMBOOTH, {"true": LORA, "1": LORA, "yes": LORA, "false": {}},
             ("a LoRA is trained with --adapter lora", "give --adapter lora; --init_weights FILE starts from one")),
}  # fmt: skip

SHORT = {"W": "width", "H": "height", "s": "steps", "S": "seed", "C": "cfg", "n": "num_images", "o": "output_dir", "p": "prompt",
         "i": "image", "m": "model", "c": "config", "r": "rank"}  # fmt: skip
"""Single-letter flags."""
CONFIG = ("config", "config_file", "cfg_file", "conf", "settings", "config_path")
"""Flags that give CONFIG.toml in other programs."""

PRECISIONS = {
    **dict.fromkeys(("half", "float16", "fp16", "f16", "float_16", "16", "torch.float16", "fp16-mixed", "16-mixed"), "fp16"),
    **dict.fromkeys(("bfloat16", "bf16", "bfloat_16", "torch.bfloat16", "bf16-mixed"), "bf16"),
    **dict.fromkeys(("float32", "fp32", "f32", "float_32", "float", "full", "32", "torch.float32", "none"), "no"),
}
SCHEDULES = {"cosine_annealing": "cosine", "cosine_annealing_with_restarts": "cosine_with_restarts",
      "warmup": "constant_with_warmup",
             "constant_warmup": "constant_with_warmup", "cosine_restarts": "cosine_with_restarts"}  # fmt: skip
OPTIMIZERS = {
    **dict.fromkeys(("adamw", "adam", "adamw_torch", "adamw_torch_fused"), "adamw"),
    **dict.fromkeys(("adamw8bit", "adam8bit", "adamw_8bit", "adam_8bit", "adamw_bnb_8bit", "bnb-adamw8bit"), "adamw_8bit"),
    **dict.fromkeys(("pagedadamw8bit", "paged_adamw8bit", "paged_adamw_8bit", "bnb-adamw8bit-paged"), "paged_adamw_8bit"),
    **dict.fromkeys(("lion8bit", "lion_8bit", "bnb-lion8bit"), "lion_8bit"),
    **dict.fromkeys(("schedule_free", "schedulefree", "adamwschedulefree", "adamw_schedulefree", "schedule_free_adamw",
                     "schedule-free"), "schedule_free"),
    **{name: name for name in ("adafactor", "came", "lion", "muon", "prodigy")},
}  # fmt: skip
VALUES: Mapping[str, Mapping[str, str]] = {
    "image_interpolation_mode": {"area": "box", "linear": "bilinear", "cubic": "bicubic"},
    "optimizer": OPTIMIZERS,
    "mixed_precision": PRECISIONS, "lr_scheduler": SCHEDULES, "save_model_as": {"diffusers_safetensors": "diffusers"},
    "timestep_sampling": {"sigmoid": "logit_normal"}, "loss_type": {"mse": "l2", "mae": "l1", "pseudo_huber": "huber"},
}  # fmt: skip
"""Other programs' words for values of settings, in lower case."""
SCHEDULE_NAMES = ("schedule_type", "noise_schedule", "sigma_schedule")
SCHEDULES_APART = {
    "karras": "Karras", "exponential": "Exponential", "sgm_uniform": "SGM Uniform", "sgm uniform": "SGM Uniform", "beta": "Beta",
    "simple": "Simple", "normal": "", "automatic": "",
}  # fmt: skip
"""Noise schedules that ComfyUI and A1111 give separately; the last two are the sampler's own."""
