"""The side of a family that needs no torch: which models belong to it, and what their files tell before one is loaded."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from customize.errors import Problem
from customize.families.specs.network_names import NetworkNames
from customize.families.specs.text_limits import TextLimit
from customize.storage.safetensors_header import TensorInfo

SETTING = "pretrained_model_name_or_path"


@dataclass(frozen=True)
class Source:
    """A base model: a `folder` in diffusers' layout, a single `file`, or the `name` of a model on the hub.

    revision, variant: as for the hub; prediction_type: "epsilon" or "v_prediction", which replaces the model's own; family: the
    name of its `FamilySpec`.
    """

    name: str
    folder: Path | None = None
    file: Path | None = None
    revision: str | None = None
    variant: str | None = None
    prediction_type: str | None = None
    family: str = "stable_diffusion"


class FamilySpec(ABC):
    """A family of base models; `families/specs/__init__.py` lists the families.

    name: of the family; title: its models in messages, such as "Stable Diffusion 1.x or 2.x".
    load: "module:function" of (Source, Placement) -> Family.
    networks: what files of adapters call each network that can learn, by the name of its folder: the denoiser, then the text
    encoders.
    pipeline: diffusers' class of its complete pipelines; pipeline_files: the files and folders of one; unused_parts: those that
    are never loaded, and copied as they are.
    scheduler_options: configuration that every scheduler of diffusers gets, where it takes it.
    align_your_steps: the beginning of its keys in diffusers' `AysSchedules`; empty where it has none.
    prompt_widths: base models by the width of the prompts' embeddings, for messages.
    """

    name: str
    title: str
    load: str
    networks: Mapping[str, NetworkNames]
    pipeline: str = "DiffusionPipeline"
    pipeline_files: tuple[str, ...] = ("model_index.json",)
    unused_parts: tuple[str, ...] = ()
    scheduler_options: Mapping[str, object] = {}
    align_your_steps: str = ""
    prompt_widths: Mapping[int, str] = {}

    @abstractmethod
    def matches(self, path: Path) -> bool:
        """Whether a folder or a .safetensors file is a model of the family, damaged or not."""

    @abstractmethod
    def check(self, source: Source) -> Source:
        """The source, with the folder in which the model lies. Raises InputError with everything that is wrong with the model."""

    @abstractmethod
    def files(self, source: Source) -> Sequence[Path]:
        """The model's files that are read; none of a model on the hub."""

    def resolution(self, source: Source) -> int | None:
        """The side in pixels of the images that the model was trained on; None where its files do not tell."""
        return None

    def prediction_type(self, source: Source) -> str | None:
        """A key of `diffusion.predictions.PREDICTIONS`; None where the model's files do not tell."""
        return source.prediction_type

    def not_trainable(self, source: Source) -> Problem | None:
        """Why a model that images can be made with cannot be trained; None where it can."""
        return None

    def vocabulary(self, source: Source) -> set[str]:
        """The words that a new word may not be called. Raises InputError for files that are no tokenizer."""
        return set()

    def text_limits(self, source: Source) -> Sequence[TextLimit]:
        """How long its texts may be; one for text encoders that count alike."""
        return ()

    def learned_on(self, tensors: Mapping[str, TensorInfo]) -> bool:
        """Whether a file of learned weights is known for one of this family, by the names and shapes of its tensors, although
        `weights/signatures.py` refuses it as one of another base model."""
        return False
