"""Identifies files of learned weights that cannot be loaded, by the names and shapes in their headers, and says what to do."""

import re
from collections.abc import Collection, Mapping

from customize.adapters.lora_keys import split
from customize.errors import Problem
from customize.families import specs
from customize.families.specs.family_spec import FamilySpec
from customize.printable import printable
from customize.storage.safetensors_header import TensorInfo

OTHER_BASE = ""
"""A placeholder for the remedy of `other_base`: weights of a base model that no family here supports."""
MERGED = "merge it into its base model with the program that made it, and give that model as --pretrained_model_name_or_path"
ELSEWHERE = "use it in a program that supports it, such as ComfyUI"

SIGNATURES: Mapping[str, tuple[str, str]] = {
    # adapters whose change of W cannot be read here
    r"\.oft_diag|\.oft_r(\.|$)": ("is an OFT in the form of an early version of its program", MERGED),
    r"\.boft_(R|s)": ("is a BOFT of peft", MERGED),
    r"\.lambda_layer$": ("is a T-LoRA, whose change depends on the timestep", MERGED),
    r"\.bm\.weight$": ("is a GLoRA with a Tucker core", MERGED),
    r"\.bias_(indices|values|size)$": ("is a LyCORIS with sparse biases", "extract it again without use_sparse_bias"),
    r"^(?!bundle_emb\.).*\.(p?vera_lambda|randlora|shira|bone|road|miss|hra|hira|glora|gralora|delora|fourierft|c3a|vblora|waveft|psoft|peanut|beft|deft|"
    r"frod|lily|unilora|tinylora|adamss|shadow)_|\.boneblock": ("is an adapter of peft other than a LoRA", MERGED),
    r"\.lora_embedding_[AB]": ("is a LoRA of the vocabulary", MERGED),
    r"(^|\.)(clip_[lg]|em[bp]_params)_out$": (
        "has vectors for the output of a text encoder (OneTrainer)", "save it in OneTrainer without output embedding"),
    r"^lllite_": ("is a ControlNet-LLLite", ELSEWHERE),
    # other base models, before their parts
    r"(^|[._])single_transformer_blocks[._]|(^|[._])(double|single)_blocks[._]|double_stream_modulation": (
        "was learned on FLUX (or a model built like it)", OTHER_BASE),
    r"(^|[._])joint_blocks[._]": ("was learned on Stable Diffusion 3", OTHER_BASE),
    r"^(transformer\.|lora_transformer_)?(transformer_blocks[._]\d+[._]attn[._]add_[qkv]_proj)": (
        "was learned on Stable Diffusion 3 (or a transformer built like it)", OTHER_BASE),
    r"^(diffusion_model|transformer|base_model\.model|model\.diffusion_model)\.(blocks|layers|transformer_blocks|double_layers|"
    r"single_layers|context_refiner|noise_refiner)\.\d|^lora_unet_(blocks|layers)_\d|^lora_transformer_": (
        "was learned on a transformer, such as Wan, Qwen-Image, Z-Image or PixArt", OTHER_BASE),
    r"^t5xxl$|^t5$": (
        "was learned on a model with T5, such as FLUX or Stable Diffusion 3", "give one for Stable Diffusion or SDXL"),
    r"^lora_prior_|^prior\.|^stage_[abc]\.": ("was learned on Stable Cascade or Würstchen", OTHER_BASE),
    # files that are neither adapters nor embeddings
    r"motion_modules\.|temporal_transformer": ("is a motion module of AnimateDiff", ELSEWHERE),
    r"^(image_proj|ip_adapter)\.": ("is an IP-Adapter", ELSEWHERE),
    r"^control_model\.|^controlnet_|^input_hint_block\.|^lora_controlnet": ("is a ControlNet", ELSEWHERE),
    r"^adapter\.body\.|^body\.\d+\.block": ("is a T2I-Adapter", ELSEWHERE),
    r"^\d+\.linear[12]?\.|^(320|640|768|1024|1280)\.\d": ("is a hypernetwork", ELSEWHERE),
    r"^model\.\d+\.(sub|weight)|^body\.\d+\.rdb|^conv_first\.": ("is an upscaler", ELSEWHERE),
    r"^(en|de)coder\.(down|up|mid|conv_in|mid_block|down_blocks|up_blocks)|^quant_conv\.": ("is a VAE", ELSEWHERE),
    r"^(IN|OUT)\d\d$|^MID$": ("is an embedding with separate vectors for each layer (XTI)", OTHER_BASE),
}  # fmt: skip
"""Patterns in the names of tensors, the kind of such a file, and the remedy. The first match is reported; one with
`OTHER_BASE` only if no family claims the file (`FamilySpec.learned_on`)."""


def unsupported(path: object, tensors: Mapping[str, TensorInfo]) -> Problem | None:
    """The problem of a file that cannot be loaded into any base model; None if there is none."""
    is_known = any(spec.learned_on(tensors) for spec in specs.every())
    for pattern, (what, remedy) in SIGNATURES.items():
        search = re.compile(pattern).search
        if not (is_known and remedy == OTHER_BASE) and any(map(search, tensors)):
            return Problem("weights", printable(f"{path} {what}, which is not supported"), remedy or other_base())
    return None


def other_base() -> str:
    """The remedy for weights of a base model that no family here supports."""
    return f"give weights that were learned on {', or '.join(spec.title for spec in specs.every())}"


def is_adapter(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether a file holds an adapter of any kind rather than embeddings."""
    return any(split(name) or re.search(r"lora_|[._]lora\.|lycoris_|\.oft_", name) for name in tensors)


def prompt_width(tensors: Mapping[str, TensorInfo], words: Collection[str], spec: FamilySpec) -> int | None:
    """The width of the prompt embeddings of the base model that a file was learned on; None if its tensors do not tell.

    It is that of the input of the layers that read the prompt, else of the vectors `words` (tensors of embeddings), else of the
    layers of the text encoder where the family has one.
    """
    pieces = [(parts[0].replace(".", "_"), info.shape) for name, info in tensors.items() if (parts := input_of(name))]
    readers = {shape[1] for name, shape in pieces if name.endswith(READERS) and len(shape) == 2}
    vectors = sum({tensors[name].shape[-1] for name in words})
    texts = {shape[1] for name, shape in pieces if name.endswith(TEXT_LAYERS) and len(shape) == 2 and len(spec.networks) == 2}
    return next(iter(readers or ({vectors} if vectors else texts)), None)


def input_of(name: str) -> tuple[str, str] | None:
    """The module and kind of a tensor whose second axis is the module's input."""
    parts = split(name)
    return parts if parts and parts[1] in ("A", "hada_w1_b", "weight") else None


LEFTOVER = re.compile(r"(^|[._])(exp_avg(_sq)?|optimizer\w*|position_ids|num_batches_tracked|dtype_tensor|state_step)(\.|$)")
"""Names of tensors beside an adapter that are no part of it, such as the state of an optimizer."""
READERS = ("attn2_to_k", "attn2_to_v", "attn2_processor_to_k", "attn2_processor_to_v")
TEXT_LAYERS = ("self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "mlp_fc1")
