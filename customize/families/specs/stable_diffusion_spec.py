"""Stable Diffusion 1.x and 2.x, before torch."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from customize.errors import InputError, Problem
from customize.families.files.folder_check import AGAIN, LEFT_ALONE, Parts, check_folder, refuse_other, weight_files
from customize.families.files.ldm_header import Layout, read_layout
from customize.families.files.original_layout import Configs, configurations, sd_layout
from customize.families.files.recognition import CHANNELS
from customize.families.files.tokenizer_files import added_words, tokenizer_files
from customize.families.specs.architectures import Architecture, known
from customize.families.specs.family_spec import SETTING, FamilySpec, Source
from customize.families.specs.network_names import NetworkNames
from customize.families.specs.text_limits import TextLimit
from customize.families.specs.unet_names import UNET
from customize.printable import printable
from customize.storage.json_files import read_object
from customize.storage.safetensors_header import TensorInfo, read_header
from customize.storage.untrusted_files import refusing

CLIP_LENGTH = 77
MOST_CHUNKS = 16
"""The largest number of chunks of a text; the time and memory of the UNet grow with it."""
CLIP = NetworkNames(
    dotted=(
        "text_encoder.text_model.", "text_encoder.", "text_model.", "base_model.model.text_model.", "base_model.model.",
        "text_encoder.base_model.model.text_model.", "lora_te.text_model.", "clip_l.text_model.",
        "clip_l.transformer.text_model.", "clip_h.transformer.text_model.",
    ),
    underscored=("lora_te_text_model_", "lora_te1_text_model_", "lora_te_", "lora_te1_", "lycoris_text_model_"),
    inner="text_model.",
    original=list,
    original_dotted=("text_encoders.clip_l.transformer.text_model.", "text_encoders.clip_h.transformer.text_model."),
    older=((r"(.*\.self_attn)\.(q|k|v|out)_proj", (r"text_encoder.text_model.\1.to_\2", r"text_encoder.\1.to_\2")),),
    library="transformers",
)  # fmt: skip

OPEN_CLIP = replace(CLIP, original_dotted=CLIP.original_dotted[::-1])
"""Of Stable Diffusion 2.x, whose text encoder ComfyUI calls clip_h."""

DISTILLED = re.compile(r"turbo|lightning|hyper-?sd|(?<![a-z])(hyper|lcm|dmd2?|pcm|tcd)(?![a-z])", re.IGNORECASE)
"""Names of methods by which models are distilled to few steps, in names of models."""
READS_PROMPT = re.compile(r"attn2[._](processor\.)?to_[kv][._]")
"""Layers whose input is the prompt."""


class StableDiffusionSpec(FamilySpec):
    """Recognises every model that no other family does: its check names models that cannot be used."""

    name, title = "stable_diffusion", "Stable Diffusion 1.x or 2.x"
    load = "customize.families.loading:load"
    networks = {"unet": UNET, "text_encoder": CLIP}
    parts = Parts()
    pipeline = "StableDiffusionPipeline"
    unused_parts = tuple(LEFT_ALONE)
    pipeline_files = ("model_index.json", *parts.networks, *parts.tokenizers, "scheduler", *unused_parts)
    scheduler_options = {"steps_offset": 1, "clip_sample": False, "skip_prk_steps": True}
    """Values that diffusers' pipeline corrects in old configurations."""
    shows_attention = True
    align_your_steps = "StableDiffusion"
    prompt_widths = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}

    def matches(self, path: Path) -> bool:
        return True

    def check(self, source: Source) -> Source:
        """The report names the family of another model."""
        if source.file:
            self.layout(source)
        if not source.folder:
            return source
        return replace(source, folder=check_folder(source.folder, source.variant, self.parts, self.refuse_others))

    def refuse_others(self, folder: Path) -> None:
        """Raises InputError where a folder is known to hold another model, by its name."""
        refuse_other(folder)

    def layout(self, source: Source) -> Layout:
        """The networks of a single file. Raises InputError for files of other models."""
        assert source.file
        return read_layout(source.file, source.prediction_type)

    def single_file_layout(self, configs: Configs, where: object) -> Layout:
        return sd_layout(configs, where)

    def refuse_single_file(self, source: Source) -> None:
        if source.folder:
            self.single_file_layout(configurations(source.folder, self.parts.networks), source.name)

    def files(self, source: Source) -> Sequence[Path]:
        if not source.folder:
            return [source.file] if source.file else []
        configs = [source.folder / name for name in self.parts.configurations]
        tokenizers = [path for part in self.parts.tokenizers for path in sorted((source.folder / part).iterdir())]
        words = [path for path in tokenizers if path.suffix in (".json", ".txt")]
        weights = [file for part in self.parts.networks for file in weight_files(source.folder / part, source.variant)]
        return list(dict.fromkeys(path for path in (*configs, *words, *weights) if path.is_file()))

    def resolution(self, source: Source) -> int | None:
        if source.file:
            return self.layout(source).resolution
        if source.folder is None:
            return None
        unet, vae = (read_object(source.folder / part / "config.json") for part in ("unet", "vae"))
        try:
            return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
        except (KeyError, TypeError, ValueError):  # a config may omit values that equal the library's defaults
            return None

    def prediction_type(self, source: Source) -> str | None:
        if source.file:
            return self.layout(source).prediction_type
        if source.prediction_type or source.folder is None:
            return source.prediction_type
        return read_object(source.folder / "scheduler/scheduler_config.json").get("prediction_type", "epsilon")

    def distilled(self, source: Source) -> str | None:
        """By the name of the model: its networks are those of other models."""
        found = DISTILLED.search(re.split(r"[/\\]", source.name)[-1])
        return found[0].lower() if found else None

    def prompt_width(self, path: Path) -> int | None:
        """By the UNet's configuration, or by its tensors in a single file."""
        try:
            if path.is_dir():
                width = read_object(path / "unet/config.json").get("cross_attention_dim")
                return width if type(width) is int else None
            layers = (info.shape for name, info in read_header(path).tensors.items() if name.endswith(".attn2.to_k.weight"))
            return next((shape[1] for shape in layers if len(shape) == 2), None)
        except (InputError, OSError, ValueError):  # the check of the model reports what is wrong with it
            return None

    def not_trainable(self, source: Source) -> Problem | None:
        """A problem for latent consistency models, and for UNets with other input channels than those of inpainting."""
        if source.file:
            unet = {"in_channels": self.layout(source).channels}
        elif source.folder:
            unet = read_object(source.folder / "unet/config.json")
        else:
            return None
        if unet.get("time_cond_proj_dim") is not None:
            kind = "a latent consistency model (LCM): its UNet was distilled with the guidance scale as an input"
            remedy = "train on the model that it was distilled from, and use the result with this one in infer.py"
        elif (channels := unet.get("in_channels", 4)) not in (4, 9):
            kind = f"Stable Diffusion for {CHANNELS.get(channels, 'another task')}: its UNet takes {channels} channels"
            remedy = "train on the text-to-image model of that version, and use the result with this one in infer.py"
        else:
            return None
        where = printable(source.folder or source.file)
        return Problem(SETTING, f"{where} is {kind}; it can generate images, but cannot be trained here", remedy)

    def most_clip_skip(self, source: Source) -> int | None:
        """All but one, by the configurations of a folder."""
        configs = [read_object(source.folder / part / "config.json") for part in [*self.networks][1:]] if source.folder else []
        layers = [config.get("num_hidden_layers") for config in configs]
        return min(layers) - 1 if layers and all(type(each) is int for each in layers) else None

    def vocabulary(self, source: Source) -> set[str]:
        """The words of any of the folder's tokenizers; empty if the model is not in a folder."""
        found = set[str]()
        for folder in [source.folder / part for part in self.parts.tokenizers] if source.folder else []:
            with refusing(folder, AGAIN, "contains no vocabulary"):
                files = tokenizer_files(folder)
                found |= {*files.words(), *added_words(files)}
        return found

    def architectures(self) -> Sequence[Architecture]:
        first, second = (self.prompt_widths[width] for width in (768, 1024))
        return [
            known(first, "sd15", (("unet", UNET), ("text_encoder", CLIP))),
            known(second, "sd21", (("unet", UNET), ("text_encoder", OPEN_CLIP))),
        ]

    def learned_on(self, tensors: Mapping[str, TensorInfo]) -> bool:
        return bool(widths_read(tensors) & {768, 1024})

    def text_limits(self, source: Source) -> Sequence[TextLimit]:
        """Counted by the model's own tokenizer; for a single file, or a model on the hub, by CLIP's."""
        at_once = length(source)
        return (TextLimit(at_once, MOST_CHUNKS * (at_once - 2) + 2, partial(counter, source)),)


def widths_read(tensors: Mapping[str, TensorInfo]) -> set[int]:
    """How wide the prompts are that the cross-attention of a UNet reads, by the tensors of an adapter beside it."""
    shapes = [info.shape for name, info in tensors.items() if READS_PROMPT.search(name)]
    return {shape[1] for shape in shapes if len(shape) == 2}


def length(source: Source) -> int:
    """The number of tokens that the text encoder reads at once, including start and end."""
    if not source.folder:
        return CLIP_LENGTH
    positions = read_object(source.folder / "text_encoder/config.json").get("max_position_embeddings") or CLIP_LENGTH
    config = source.folder / "tokenizer/tokenizer_config.json"
    declared = read_object(config).get("model_max_length") if config.exists() else None
    return min(positions, declared or positions)


def counter(source: Source) -> Callable[[str], int]:
    """Counts the tokens of a text, including start and end. transformers, slow to import, is imported only if needed."""
    if source.folder and (whole := source.folder / "tokenizer/tokenizer.json").exists():
        from tokenizers import Tokenizer

        with refusing(whole, AGAIN):
            quick = Tokenizer.from_str(tokenizer_files(whole.parent).files[whole.name])
        quick.no_truncation()
        quick.no_padding()
        return lambda text: len(quick.encode(text).ids)
    from customize.families.files.clip_tokenizer import clip_tokenizer, load_tokenizer

    tokenizer = load_tokenizer(source.folder) if source.folder else clip_tokenizer()
    return lambda text: len(tokenizer(text, truncation=False, verbose=False).input_ids)


STABLE_DIFFUSION = StableDiffusionSpec()
