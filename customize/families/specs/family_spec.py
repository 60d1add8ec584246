"""The torch-free side of a family: which models belong to it, and what is known from their files before loading."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from customize.errors import InputError, Problem
from customize.families.specs.architectures import Architecture
from customize.families.specs.network_names import NetworkNames
from customize.families.specs.text_limits import TextLimit
from customize.storage.json_files import read_object
from customize.storage.safetensors_header import TensorInfo

Start = Literal["noise", "image", "mask"]
SETTING = "pretrained_model_name_or_path"


@dataclass(frozen=True)
class Source:
    """A base model: a `folder` in diffusers' layout, a single `file`, or the `name` of a model on the hub.

    revision, variant: as for the hub; prediction_type ("epsilon" or "v_prediction"), rescale_betas_zero_snr (whether the noise
    schedule ends in pure noise): replace the model's own; prompt_embeddings: a file of encoded prompts, in place of the text
    encoder; with_text_encoder: False where the conditioning comes from elsewhere; with_denoiser: False where prompts are encoded,
    and nothing else. Only families with `load_prompts` can do without one of the two. family: the name of its `FamilySpec`.
    untrained: for a network with random weights, the configurations of its parts by folder, and the `seed` of the weights.
    """

    name: str
    folder: Path | None = None
    file: Path | None = None
    revision: str | None = None
    variant: str | None = None
    prediction_type: str | None = None
    rescale_betas_zero_snr: bool | None = None
    prompt_embeddings: str | None = None
    with_text_encoder: bool = True
    with_denoiser: bool = True
    family: str = "stable_diffusion"
    untrained: Mapping[str, Any] | None = None

    @property
    def is_remote(self) -> bool:
        """Whether it is a model on the hub, whose files are not known yet."""
        return not (self.folder or self.file or self.untrained)

    @property
    def loads_text_encoder(self) -> bool:
        """Whether the text encoder is checked and loaded."""
        return self.with_text_encoder and self.prompt_embeddings is None


class FamilySpec(ABC):
    """A family of base models; `families/specs/__init__.py` lists the families.

    name: of the family; title: its name in messages, such as "Stable Diffusion 1.x or 2.x".
    load: "module:function" of (Source, Placement) -> Family.
    load_prompts: "module:function" of (Source, Placement) -> the text encoder alone, which has `encode` of a prompt; empty:
    the text encoder is always loaded with the model.
    hub_names: a pattern of the names of its models on the hub; empty: they are recognised once they are downloaded.
    networks: the names in adapter files of each trainable network, by folder name: the denoiser first, then the text
    encoders.
    pipeline: diffusers' class of its complete pipelines; pipeline_files: the files and folders of one; unused_parts: folders
    that are never loaded, only copied.
    autoencoder: the folder in families/configs with the configuration of an autoencoder in a single file (`--vae`).
    scheduler_options: configuration of every scheduler of diffusers that accepts it.
    shows_attention: whether attention maps of words can be recorded.
    align_your_steps: the prefix of its keys in diffusers' `AysSchedules`; empty if it has none.
    prompt_widths: names of base models by the width of their prompt embeddings, for messages.
    """

    name: str
    title: str
    load: str
    load_prompts: str = ""
    hub_names: str = ""
    networks: Mapping[str, NetworkNames]
    pipeline: str = "DiffusionPipeline"
    pipeline_files: tuple[str, ...] = ("model_index.json",)
    unused_parts: tuple[str, ...] = ()
    autoencoder: str = "sd15"
    scheduler_options: Mapping[str, object] = {}
    shows_attention: bool = False
    align_your_steps: str = ""
    prompt_widths: Mapping[int, str] = {}

    @abstractmethod
    def matches(self, path: Path) -> bool:
        """Whether a folder or a .safetensors file is a model of the family, even a damaged one."""

    @abstractmethod
    def check(self, source: Source) -> Source:
        """The source, with the folder that contains the model. Raises InputError with every problem of the model."""

    @abstractmethod
    def files(self, source: Source) -> Sequence[Path]:
        """The files of the model that are read; none for a model on the hub."""

    def resolution(self, source: Source) -> int | None:
        """The side in pixels of the images that the model was trained on; None if unknown."""
        return None

    def prediction_type(self, source: Source) -> str | None:
        """A key of `diffusion.predictions.PREDICTIONS`; None if unknown."""
        return source.prediction_type

    def num_levels(self, source: Source) -> int | None:
        """The number of noise levels in its scheduler's configuration; None if unknown. Raises InputError."""
        config = (source.untrained or {}).get("scheduler", {})
        if source.folder:
            config = read_object(source.folder / "scheduler/scheduler_config.json")
        return config.get("num_train_timesteps")

    def enlarges(self, source: Source) -> bool:
        """Whether it is a super-resolution model, which takes an image to enlarge; False if unknown."""
        return False

    def guidance_scale(self, source: Source, start: Start = "noise") -> float:
        """The usual scale of classifier-free guidance. start: what generation starts from."""
        return 7.5

    def distilled(self, source: Source) -> str | None:
        """By which method the model was distilled to few steps, such as "turbo"; None if it is not known to be."""
        return None

    def prompt_width(self, path: Path) -> int | None:
        """The width of the prompt embeddings that the denoiser of a model's folder or file reads; None if unknown."""
        return None

    def prompt_problem(self, text: str) -> Problem | None:
        """Why the model cannot read a prompt; None if it can."""
        return None

    def not_trainable(self, source: Source) -> Problem | None:
        """Why a model that can generate images cannot be trained; None if it can."""
        return None

    def most_clip_skip(self, source: Source) -> int | None:
        """How many of the last layers can be skipped in every text encoder; None if unknown."""
        return None

    def vocabulary(self, source: Source) -> set[str]:
        """The existing words, which a new word must not use. Raises InputError if the files are not a tokenizer."""
        return set()

    def single_file_layout(self, configs: Mapping[str, Mapping[str, Any]], where: object) -> Any:
        """The layout of a single file for a model with these configurations, by the names of their folders.

        Raises InputError, with the model's name `where`, for a model that no single file can hold.
        """
        remedy = "leave it out: the result is a folder in diffusers' layout"
        raise InputError(Problem("save_model_as", f"{self.title} has no layout of a single file", remedy))

    def refuse_single_file(self, source: Source) -> None:
        """Raises InputError if a located model cannot be saved as a single file; one on the hub is checked once downloaded."""
        self.single_file_layout({}, source.name)

    def text_limits(self, source: Source) -> Sequence[TextLimit]:
        """The limits of text lengths; text encoders with the same tokenizer share one."""
        return ()

    def architectures(self) -> Sequence[Architecture]:
        """The family's base models whose modules are known without their files."""
        return ()

    def learned_on(self, tensors: Mapping[str, TensorInfo]) -> bool:
        """Whether learned weights belong to this family, by the names and shapes of their tensors, although
        `weights/signatures.py` refuses them as those of another base model."""
        return False
