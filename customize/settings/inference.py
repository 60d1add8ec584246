"""The settings of infer.py."""

from typing import ClassVar, Literal

from customize.settings.common import MANY, OWN, Settings
from customize.settings.field import override, setting
from customize.settings.rules.inference_rules import INFERENCE
from customize.settings.sampler_names import TIMESTEPS, num_timesteps
from customize.settings.scale import Scale, path_and_scale, times

Lesson = Literal["none", "autoencoder", "forward", "denoising", "views"]
Illusion = Literal["none", "anagram", "alternating_anagram", "looking_glass", "hybrid", "triple", "colour", "motion"]
WITH_WEIGHTS, WITH_IMAGE, WITH_MASK, WITH_MERGE = (("weights", ()), ("image", ()), ("mask_image", ()), ("merge", ()))
WITH_TRACE = ("trace", (True,))
OF_VIEWS = ("anagram", "alternating_anagram", "looking_glass")
"""Illusions in which each prompt has its own view."""


class InferenceSettings(Settings):
    """Generate images with a base model and learned weights."""

    command: ClassVar[str] = "infer.py"
    rules = (*Settings.rules, *INFERENCE)

    pretrained_model_name_or_path: str | None = override(
        Settings, "pretrained_model_name_or_path", None, default_in_words="none: the one of the weights, else demo"
    )
    weights: tuple[str, ...] = setting(
        (), "model", "learned weights as PATH[:SCALE]; PATH is a run folder (RUN@350: its step 350) or a .safetensors file; the "
        "scale may change during denoising, as in cat:0@0,1@0.3 (1 after 30 % of the steps)", text="weights", scope="batch",
    )  # fmt: skip
    scale: float = setting(
        1.0, "model", "factor for the scales of all weights", ge=-100, le=100, only_with=WITH_WEIGHTS, scope="batch"
    )
    weights_dir: str | None = setting(
        None, "model", "folder of weights that prompts load with <lora:NAME:0.8> or embedding:NAME", text="path", scope="batch"
    )
    partial_weights: bool = setting(False, "model", "load an adapter that only partly fits this base model: the matching part")
    seed: int = override(
        Settings, "seed", 0, description="random seed of the noise; -1 chooses one and prints it", ge=-1, le=2**64 - 1,
        scope="image",
    )  # fmt: skip

    prompt: tuple[str, ...] = setting(
        (), "inference", "what to show; num_images images per prompt", text="prompt", scope="image",
        default_in_words="required, except for some lessons",
    )  # fmt: skip
    prompt_file: str | None = setting(
        None, "inference", "text file with one prompt per line, used after those of prompt", text="path", scope="run"
    )
    negative_prompt: str = setting("", "inference", "what not to show", text="any", scope="image")
    plain_prompt: bool = setting(
        False, "inference", "read brackets, tags, AND and BREAK in prompts as plain text", scope="sampling"
    )
    wildcards_dir: str | None = setting(
        None, "inference", "folder of NAME.txt files: __NAME__ in a prompt becomes a line of it, chosen by the seed", text="path"
    )
    guidance_scale: float = setting(
        7.5, "inference", "scale of classifier-free guidance: how closely images follow the prompt; 1 turns guidance off",
        ge=0, le=100, scope="image", default_in_words="7.5; DeepFloyd IF: 7, from an image 10, stage II 4; x4 upscaler: 9",
    )  # fmt: skip
    num_inference_steps: int = setting(30, "inference", "denoising steps", ge=1, le=10_000, scope="sampling")
    timesteps: str | None = setting(
        None, "inference", "timesteps, instead of num_inference_steps evenly spaced ones: numbers (999,750,500,250,0), or a list "
        f"of DeepFloyd IF ({', '.join(TIMESTEPS)})", scope="sampling",
    )  # fmt: skip
    guidance_rescale: float = setting(
        0.0, "inference", "rescaling of guided predictions against overexposure (Lin et al. 2023); 0.7 is typical",
        ge=0, le=1, scope="sampling",
    )  # fmt: skip
    clip_skip: int | None = setting(
        None, "inference", "last layers of the text encoder to skip, counted as in diffusers (A1111's Clip skip minus 1)",
        ge=0, le=31, default_in_words="none: 0", scope="sampling",
    )  # fmt: skip
    scheduler: str | None = setting(
        None, "inference", "sampler: a scheduler class of diffusers, or a name of A1111, ComfyUI or InvokeAI (DPM++ 2M Karras)",
        default_in_words=OWN, scope="sampling",
    )  # fmt: skip
    use_karras_sigmas: bool | None = setting(
        None, "inference", "noise levels spaced as in Karras et al. 2022", default_in_words=OWN, scope="sampling"
    )
    timestep_spacing: Literal["leading", "trailing", "linspace"] | None = setting(
        None, "inference", "spacing of the timesteps (Lin et al. 2023, table 2); trailing is A1111's SGM Uniform",
        default_in_words=OWN, scope="sampling",
    )  # fmt: skip
    rescale_betas_zero_snr: bool | None = setting(
        None, "inference", "start the noise schedule at zero SNR (pure noise), for models trained that way",
        default_in_words=OWN, scope="sampling",
    )  # fmt: skip
    eta: float | None = setting(
        None, "inference", "noise added at each step by DDIM (1: as much as DDPM) or TCD (0.3 is typical)", ge=0, le=1,
        default_in_words="none: 0", scope="sampling",
    )  # fmt: skip
    num_images: int = setting(1, "inference", "images per prompt, with seeds seed, seed + 1, ...", ge=1, le=10_000, scope="run")
    batch_size: int = setting(4, "inference", "images generated at a time", ge=1, le=1024, scope="run")
    height: int | None = setting(
        None, "inference", "height of the images", unit="pixels", ge=16, le=4096, multiple_of=8, default_in_words=OWN,
        scope="sampling",
    )  # fmt: skip
    width: int | None = setting(
        None, "inference", "width of the images", unit="pixels", ge=16, le=4096, multiple_of=8, default_in_words=OWN,
        scope="sampling",
    )  # fmt: skip
    hires_scale: float | None = setting(
        None, "inference", "second pass (hires. fix): enlarge each image by this factor, then denoise it again", gt=1, le=4
    )
    hires_strength: float = setting(
        0.5, "inference", "how much the second pass changes the enlarged image (0: nothing, 1: everything)",
        gt=0, le=1, only_with=("hires_scale", ()),
    )  # fmt: skip
    vae_tiling: bool = setting(False, "inference", "decode large images in tiles: less memory, faint seams", scope="sampling")

    image: str | None = setting(None, "inference", "input image, to start from instead of noise (img2img)", text="path")
    strength: float | None = setting(
        None, "inference", "how much to change the input image (0: nothing, 1: everything)", gt=0, le=1, only_with=WITH_IMAGE,
        default_in_words="0.8; with a mask 1", scope="sampling",
    )  # fmt: skip
    chain: int = setting(
        1, "inference", "loopback: number of images in a row, each with the one before as its input image",
        ge=1, le=1000, only_with=WITH_IMAGE, scope="run",
    )  # fmt: skip
    show_start: bool = setting(
        False, "inference", "show the noised input images on the contact sheet", only_with=WITH_IMAGE, scope="run"
    )
    mask_image: str | None = setting(
        None, "inference", "mask for inpainting: white is generated, black is kept, grey mixes the two",
        text="path", only_with=WITH_IMAGE,
    )  # fmt: skip
    mask_invert: bool = setting(False, "inference", "generate where the mask is black", only_with=WITH_MASK)
    mask_blur: float = setting(
        0.0, "inference", "radius of a Gaussian blur of the mask, for soft edges", unit="pixels", ge=0, le=1000,
        only_with=WITH_MASK,
    )  # fmt: skip
    num_resamples: int = setting(
        1, "inference", "RePaint: number of times each stretch of steps is repeated, for a better fit at the mask's edge",
        ge=1, le=100, only_with=WITH_MASK, scope="sampling",
    )  # fmt: skip
    jump_length: int = setting(
        10, "inference", "RePaint: steps in such a stretch", ge=1, le=1000, only_with=WITH_MASK, scope="sampling"
    )
    low_res_image: str | None = setting(
        None, "inference", "image to enlarge, for super-resolution models: DeepFloyd IF's stage II, the x4 upscaler", text="path"
    )
    noise_level: int | None = setting(
        None, "inference", "noise that is added to the image to enlarge, as a timestep: more lets the model change more",
        ge=0, le=999, only_with=("low_res_image", ()), scope="sampling",
        default_in_words="the model's: DeepFloyd IF 250, with a mask 0; x4 upscaler 20",
    )  # fmt: skip
    upscalers: tuple[str, ...] = setting(
        (), "inference", "super-resolution models that enlarge each image, in this order, each as MODEL or with settings of its "
        "own, MODEL,noise_level=100,timesteps=smart27; the images of every stage are kept", text="path", scope="run",
    )  # fmt: skip
    between: float | None = setting(
        None, "inference", "one image between two prompts: from the first (0) to the second (1)", ge=0, le=1
    )
    interpolation: Literal["linear", "spherical"] = setting(
        "linear", "inference", "interpolation between the two prompts", only_with=("between", ())
    )
    illusion: Illusion = setting(
        "none", "inference", "one image of all prompts: under views (anagram, looking_glass) or as a sum of parts (hybrid, ...)"
    )
    image_part: Literal["low", "high", "grey", "colour"] | None = setting(
        None, "inference", "the part of such a sum that is taken from image instead of a prompt", only_with=WITH_IMAGE
    )
    view: tuple[str, ...] = setting(
        (), "inference", "the view of each prompt: identity, flip, rotate_180, jigsaw, ...", only_with=("illusion", OF_VIEWS)
    )
    hybrid_blur: float = setting(
        2.0, "inference", "what a hybrid shows from far away is blurred with this standard deviation, in pixels at height 64",
        ge=0.5, le=16, only_with=("illusion", ("hybrid",)),
    )  # fmt: skip
    illusion_gif: bool = setting(
        True, "inference", "write an animation of each illusion, which moves from one reading to the other",
        only_with=("illusion", ()), scope="run",
    )  # fmt: skip
    like: str | None = setting(
        None, "inference", "image of infer.py, A1111, ComfyUI, InvokeAI, ... whose settings to use; other flags override them",
        text="path", scope="run",
    )  # fmt: skip
    sweep: tuple[str, ...] = setting(
        (), "inference", "a setting and its values, such as guidance_scale=1,2.5,5 or seed=1..4; up to three make a grid",
        scope="run",
    )  # fmt: skip
    lesson: Lesson = setting(
        "none", "inference", "a sheet that explains, for image: the autoencoder, noising, denoising, or the views of illusions"
    )
    trace: bool = setting(False, "inference", "record every denoising step: image strip, GIF and trace.jsonl", scope="run")
    trace_decode: Literal["linear", "full"] = setting(
        "linear", "inference", "how latents of the trace are decoded: by a linear map (fast) or by the autoencoder",
        only_with=WITH_TRACE, scope="run",
    )  # fmt: skip
    trace_page: bool = setting(
        False, "inference", "write the trace of each image as an HTML page with a slider", only_with=WITH_TRACE, scope="run"
    )
    attention: bool = setting(False, "inference", "write cross-attention maps for each word: a sheet and a GIF", scope="run")

    output_dir: str | None = override(
        Settings, "output_dir", None, default_in_words="a new one per call: images/0001-a-dog-in-the-snow, ..."
    )
    max_images: int = setting(1000, "output", "refuse to generate more images than this", ge=1, le=MANY)
    skip_existing: bool = setting(
        False, "output", "continue a stopped job: generate the images of this configuration that output_dir lacks"
    )
    image_format: Literal["png", "jpg", "webp"] = setting(
        "png", "output", "file format of the images; jpg and webp are lossy, and store the settings in EXIF", scope="file"
    )
    merge: str | None = setting(
        None, "output", "merge only: write base model and weights to this folder, or all LoRAs to this .safetensors file",
        text="model",
    )  # fmt: skip
    save_model_as: Literal["diffusers", "safetensors"] = setting(
        "diffusers",
        "output",
        "a merged model as a folder in diffusers' layout, or as one .safetensors file",
        only_with=WITH_MERGE,
    )
    no_metadata: bool = setting(
        False, "output", "a merged file without metadata, except for what is needed to load it", only_with=WITH_MERGE
    )
    lora_format: Literal["diffusers", "kohya"] = setting(
        "kohya", "output", "tensor names in a merged LoRA: kohya (read by all programs), or diffusers", only_with=WITH_MERGE
    )

    @property
    def weights_and_scales(self) -> tuple[tuple[str, Scale], ...]:
        """`weights` as (path, scale); each scale (1 if none is given) is multiplied by `scale`."""
        return tuple((path, times(scale, self.scale)) for path, scale in map(path_and_scale, self.weights))

    @property
    def steps(self) -> int:
        """The number of denoising steps: that of `timesteps`, else `num_inference_steps`."""
        return self.num_inference_steps if self.timesteps is None else num_timesteps(self.timesteps)
