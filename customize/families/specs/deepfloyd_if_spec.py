"""DeepFloyd IF, stages I and II, before torch."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from customize.errors import InputError, Problem
from customize.families.files.configurations import SCHEDULER
from customize.families.files.folder_check import (
    AGAIN,
    INDEX,
    Parts,
    check_folder,
    configuration_problems,
    read_configuration,
    weight_files,
)
from customize.families.files.prompt_embeddings import key
from customize.families.files.prompt_embeddings import read as prompts_in
from customize.families.files.recognition import refusal
from customize.families.specs.architectures import Architecture, known
from customize.families.specs.family_spec import SETTING, FamilySpec, Source, Start
from customize.families.specs.network_names import NetworkNames
from customize.families.specs.text_limits import TextLimit
from customize.printable import printable
from customize.storage.json_files import read_object
from customize.storage.safetensors_header import TensorInfo

LENGTH = 77
"""The tokens of a prompt, with the end token: T5 could read more, but the denoisers were trained with as many."""
STAGES = {3: 1, 6: 2}
"""By the input channels of the UNet: the picture alone, or beside a smaller one that was enlarged."""
NOISING = "image_noising_scheduler"
"""The folder of the scheduler that adds noise to the picture that stage II enlarges."""
ARCHITECTURES = {"stage I XL": "if_i_xl", "stage I M": "if_i_m", "stage II L": "if_ii_l"}
"""The folders in families/configs."""
UNET = NetworkNames(
    dotted=("unet.", "", "base_model.model.", "base_model.model.unet.", "unet.base_model.model."),
    underscored=("lora_unet_",),
    older=((r"(.*attentions\.\d+)\.(to_[qkv]|add_[kv]_proj|to_out(?=\.0))(\.0)?", (r"unet.\1.processor.\2",)),),
    reads_prompt=("add_k_proj", "add_v_proj"),
)
READS_PROMPT = re.compile(r"attentions[._]\d+[._](processor[._])?add_[kv]_proj")
"""Layers of attention blocks without a transformer around them."""


class DeepFloydIFSpec(FamilySpec):
    """Folders of stages I and II. The safety checker and the watermarker are never loaded."""

    name, title = "deepfloyd_if", "DeepFloyd IF"
    load = "customize.families.deepfloyd_if:load"
    load_prompts = "customize.families.encoded_prompts:load_t5"
    hub_names = r"/IF-II?-"
    networks: Mapping[str, NetworkNames] = {"unet": UNET}
    parts = Parts(("unet", "text_encoder"), ("tokenizer",), {"text_encoder": "t5"})
    pipeline = "IFPipeline"
    unused_parts = ("safety_checker", "feature_extractor", "watermarker")
    pipeline_files = (INDEX, "unet", "text_encoder", "tokenizer", "scheduler", NOISING, *unused_parts)

    def matches(self, path: Path) -> bool:
        """A folder whose UNet pools the prompt itself, or whose model_index.json names a pipeline of DeepFloyd IF."""
        if not path.is_dir():
            return False
        index, unet = (read_configuration(path / file, []) for file in (INDEX, "unet/config.json"))
        return unet.get("addition_embed_type") == "text" or re.match(r"IF\w*Pipeline$", str(index.get("_class_name"))) is not None

    def parts_of(self, source: Source) -> Parts:
        """The parts that are loaded."""
        read = self.parts if source.loads_text_encoder else Parts(("unet",), ())
        return read if source.with_denoiser else replace(read, networks=read.networks[1:])

    def check(self, source: Source) -> Source:
        if not source.folder:
            return source
        if source.loads_text_encoder and (source.folder / INDEX).is_file() and not (source.folder / "text_encoder").is_dir():
            remedy = f"give --prompt_embeddings FILE with prompts that were encoded before, or {AGAIN}"
            raise InputError(Problem(SETTING, f"{printable(source.folder)} has no text encoder (T5)", remedy))
        folder = check_folder(source.folder, source.variant, self.parts_of(source), self.refuse_others)
        noising = folder / NOISING / "scheduler_config.json"
        if source.with_denoiser and self.stage(folder) == 2 and (problems := configuration_problems(noising, SCHEDULER)[0]):
            raise InputError(problems)
        if source.prompt_embeddings:
            self.refuse_other_prompts(source.prompt_embeddings, folder)
        return replace(source, folder=folder)

    def refuse_other_prompts(self, path: str, folder: Path) -> None:
        """Raises InputError for encoded prompts of another width than the model's."""
        width, (_, theirs) = (
            read_object(folder / "unet/config.json").get("encoder_hid_dim"),
            prompts_in(Path(os.path.expanduser(path))).shape,
        )
        if width != theirs:
            what = f"{path} has prompts {theirs} wide, and {printable(folder)} reads {width}"
            raise InputError(Problem("prompt_embeddings", what, "encode them with the text encoder of this model"))

    def stage(self, folder: Path) -> int:
        """1 or 2, by the input channels of a checked model's UNet."""
        return STAGES[read_object(folder / "unet/config.json")["in_channels"]]

    def refuse_others(self, folder: Path) -> None:
        """Raises InputError for a UNet that is neither of stage I nor of stage II."""
        unet = read_configuration(folder / "unet/config.json", [])
        if unet and unet.get("addition_embed_type") != "text":
            what = "is DeepFloyd IF by its model_index.json, but its UNet does not pool the prompt (addition_embed_type)"
            raise InputError(Problem(SETTING, f"{printable(folder)} {what}", AGAIN))
        if unet and unet.get("in_channels", 4) not in STAGES:
            kind = f"DeepFloyd IF or the like, whose UNet takes {printable(unet.get('in_channels', 4), 20)} channels"
            raise InputError(refusal(folder, kind, "give stage I (3 channels) or stage II (6 channels)"))

    def files(self, source: Source) -> Sequence[Path]:
        if not source.folder:
            return []
        parts, folder = self.parts_of(source), source.folder
        words = [path for part in parts.tokenizers for path in sorted((folder / part).iterdir())]
        weights = [file for part in parts.networks for file in weight_files(folder / part, source.variant)]
        configs = [folder / name for name in parts.configurations]
        return list(dict.fromkeys(path for path in (*configs, *words, *weights) if path.is_file()))

    def resolution(self, source: Source) -> int | None:
        size = read_object(source.folder / "unet/config.json").get("sample_size") if source.folder else None
        return size if type(size) is int else None

    def prediction_type(self, source: Source) -> str | None:
        if source.prediction_type or source.folder is None:
            return source.prediction_type
        return read_object(source.folder / "scheduler/scheduler_config.json").get("prediction_type", "epsilon")

    def enlarges(self, source: Source) -> bool:
        return self.stage(source.folder) == 2 if source.folder else "IF-II-" in source.name

    def guidance_scale(self, source: Source, start: Start = "noise") -> float:
        """The defaults of diffusers' pipelines."""
        return 4.0 if self.enlarges(source) else 10.0 if start == "image" else 7.0

    def most_clip_skip(self, source: Source) -> int | None:
        return 0

    def text_limits(self, source: Source) -> Sequence[TextLimit]:
        """Counted by the model's own tokenizer; unknown for a model on the hub, and without its text encoder."""
        if not source.folder or not source.loads_text_encoder:
            return ()
        return (TextLimit(LENGTH, LENGTH, partial(counter, source.folder)),)

    def architectures(self) -> Sequence[Architecture]:
        networks = tuple(self.networks.items())
        return [known(f"{self.title} {title}", config, networks) for title, config in ARCHITECTURES.items()]

    def learned_on(self, tensors: Mapping[str, TensorInfo]) -> bool:
        return any(map(READS_PROMPT.search, tensors))


def counter(folder: Path) -> Callable[[str], int]:
    """Counts the tokens of a text, including the end. transformers, slow to import, is imported only if needed."""
    from customize.families.files.t5_tokenizer import load_t5_tokenizer

    tokenizer = load_t5_tokenizer(folder / "tokenizer")
    return lambda text: len(tokenizer(key(text), truncation=False, verbose=False).input_ids)


DEEPFLOYD_IF = DeepFloydIFSpec()
