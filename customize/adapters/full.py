"""No adapter: every weight of the network is trained, and the result is a complete model, as a folder or a single file."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from customize.errors import InputError, Problem
from customize.families import specs
from customize.families.specs.network_names import NetworkNames
from customize.storage.run_folder import MODEL

if TYPE_CHECKING:
    from torch import nn

    from customize.adapters import Family


class Adapter:
    """Fine-tunes a network in full. The result is a base model, which `families` loads."""

    peft_type = ""
    title = ""
    learning_rate = 2e-6
    read_by_others = True
    kinds = ()
    is_converted = False

    def attach(self, networks: "Sequence[nn.Module]", settings, presets: Mapping[str, Sequence[str]]) -> None:
        for network in networks:
            network.requires_grad_(True)

    def notes(self, settings, num_images: int) -> Iterable[str]:
        return ()

    def disabled(self, *networks: "nn.Module") -> AbstractContextManager:
        remedy = "use --adapter lora, or --prior_preservation images"
        raise InputError(
            Problem("prior_preservation", "the base model's predictions are lost once all its weights are trained", remedy)
        )

    def name_in_files(self, name: str, networks: Mapping[str, NetworkNames]) -> str:
        return name

    def description(self, family: "Family") -> dict[str, str]:
        return {}

    def files(self, settings) -> tuple[str, ...]:
        return (MODEL,) if settings.writes_model_file else specs.pipeline_files()

    def save(self, folder: Path, family: "Family", metadata: dict[str, str], settings) -> list[Path]:
        if settings.writes_model_file:
            from customize.families.whole_models.model_file import save_model_file

            return save_model_file(folder / MODEL, family, metadata, settings.save_precision)
        from customize.families.whole_models.pipeline_folder import save_pipeline

        return save_pipeline(folder, family, metadata, settings.save_precision)
