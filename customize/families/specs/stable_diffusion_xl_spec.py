"""Stable Diffusion XL, before torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from customize.errors import InputError, Problem
from customize.families.files.folder_check import AGAIN, INDEX, Parts, read_configuration
from customize.families.files.ldm_header import XL_WIDTH, Layout, is_xl, read_xl_layout
from customize.families.files.original_layout import Configs, xl_layout
from customize.families.files.recognition import CHANNELS, other_pipeline, refusal
from customize.families.specs.architectures import Architecture, known
from customize.families.specs.family_spec import SETTING, Source
from customize.families.specs.network_names import NetworkNames
from customize.families.specs.stable_diffusion_spec import StableDiffusionSpec, widths_read
from customize.families.specs.unet_names import UNET
from customize.printable import printable
from customize.storage.safetensors_header import TensorInfo, read_header

PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline")
REFINER_WIDTH = 1280
"""Of the prompts' embeddings: the refiner has the second text encoder only."""


SIGNS = re.compile(
    r"^lora_te2_|^text_encoder_2\.|^clip_g$|\.clip_g[.$]|(^|[._])add_embedding[._]|(^|[._])label_emb[._]|"
    r"attentions?_\d+_transformer_blocks_[1-9]|attentions\.\d+\.transformer_blocks\.[1-9]|"
    r"^lora_unet_(input|output)_blocks_\d+_1_transformer_blocks_[1-9]|_blocks\.\d+\.1\.transformer_blocks\.[1-9]"
)
"""Names of tensors in files that were learned on SDXL: of its second text encoder, of its UNet's size conditioning, and of
transformers with several blocks in a row."""


def clip_names(part: str, kohya: str, comfyui: str) -> NetworkNames:
    """What files call the modules of one of several CLIP text encoders, by its names in each program."""
    comfyui_prefixes = (f"{comfyui}.text_model.", f"{comfyui}.transformer.text_model.")
    older = (rf"{part}.text_model.\1.to_\2", rf"{part}.\1.to_\2")
    return NetworkNames(
        dotted=(
            f"{part}.text_model.", f"{part}.", f"{kohya}.text_model.", *comfyui_prefixes,
        ),
        underscored=(f"{kohya}_text_model_", f"{kohya}_"),
        inner="text_model.",
        original=list,
        original_dotted=(f"text_encoders.{comfyui}.transformer.text_model.",),
        older=((r"(.*\.self_attn)\.(q|k|v|out)_proj", older),),
        library="transformers",
    )  # fmt: skip


class StableDiffusionXLSpec(StableDiffusionSpec):
    """Folders and single files of SDXL; files and limits are read as those of Stable Diffusion, for two text encoders."""

    name, title = "stable_diffusion_xl", "SDXL"
    load = "customize.families.stable_diffusion_xl:load"
    networks: Mapping[str, NetworkNames] = {
        "unet": replace(UNET, kohya_is_original=True),
        "text_encoder": clip_names("text_encoder", "lora_te1", "clip_l"),
        "text_encoder_2": clip_names("text_encoder_2", "lora_te2", "clip_g"),
    }
    parts = Parts(("unet", "vae", "text_encoder", "text_encoder_2"), ("tokenizer", "tokenizer_2"))
    pipeline = "StableDiffusionXLPipeline"
    unused_parts = ()
    pipeline_files = (INDEX, *parts.networks, *parts.tokenizers, "scheduler")
    scheduler_options = {}
    autoencoder = "sdxl"
    align_your_steps = "StableDiffusionXL"

    def matches(self, path: Path) -> bool:
        """A folder whose model_index.json names SDXL, or names nothing known beside a UNet that takes the size of images; a file
        with networks of SDXL."""
        if not path.is_dir():
            try:
                return is_xl(read_header(path).tensors)
            except InputError:  # the file is damaged, or has another format
                return False
        index, unet = (read_configuration(path / file, []) for file in (INDEX, "unet/config.json"))
        takes_size = unet.get("addition_embed_type") == "text_time"
        return index.get("_class_name") in PIPELINES or (takes_size and other_pipeline(index) is None)

    def layout(self, source: Source) -> Layout:
        assert source.file
        return read_xl_layout(source.file, source.prediction_type)

    def single_file_layout(self, configs: Configs, where: object) -> Layout:
        return xl_layout(configs, where)

    def refuse_others(self, folder: Path) -> None:
        """Raises InputError for models that are built like SDXL and cannot be used."""
        unet = read_configuration(folder / "unet/config.json", [])
        if unet and unet.get("addition_embed_type") != "text_time":
            what = "is SDXL by its model_index.json, but its UNet does not take the size of an image (addition_embed_type)"
            raise InputError(Problem(SETTING, f"{printable(folder)} {what}", AGAIN))
        if unet.get("cross_attention_dim") == REFINER_WIDTH:
            raise InputError(refusal(folder, "the SDXL refiner", "give the base model of SDXL, whose images it refines"))
        if (channels := unet.get("in_channels", 4)) not in (4, 9):
            raise InputError(
                refusal(folder, f"SDXL for {CHANNELS.get(channels, 'another task')} (its UNet takes {channels} channels)")
            )
        if str(read_configuration(folder / "scheduler/scheduler_config.json", []).get("_class_name")).startswith("EDM"):
            what = "is a model of SDXL's architecture that was trained with EDM preconditioning, such as Playground v2.5"
            raise InputError(Problem(SETTING, f"{printable(folder)} {what}", "use a model that predicts epsilon or v"))

    def architectures(self) -> Sequence[Architecture]:
        return [known(self.title, "sdxl", tuple(self.networks.items()))]

    def learned_on(self, tensors: Mapping[str, TensorInfo]) -> bool:
        return XL_WIDTH in widths_read(tensors) or any(map(SIGNS.search, tensors))


STABLE_DIFFUSION_XL = StableDiffusionXLSpec()
