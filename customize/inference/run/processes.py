"""Several processes of `accelerate launch` that share the images of one run. torch is imported once there are several."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from customize import device
from customize.errors import Problem
from customize.inference.run import image_folder
from customize.inference.run.image_folder import ImageFolder
from customize.settings.field import table
from customize.settings.inference import InferenceSettings
from customize.storage import ownership

T = TypeVar("T")
ALONE = ("chain", "upscalers", "trace", "show_start", "attention", "merge")
"""Settings that need one process: an image starts from another, or is recorded while it is drawn."""


@dataclass(frozen=True)
class Processes:
    """index: of this process; count: how many there are. Every `count`-th batch is drawn by this one, so each batch, and with it
    each bit of an image, is that of a single process."""

    index: int = 0
    count: int = 1

    @classmethod
    def of_environment(cls) -> "Processes":
        """The processes that `accelerate launch` or `torchrun` started."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def start(self) -> None:
        """Meets the other processes; each gets a GPU of its own, where there are several."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState(cpu=device.best_device().type == "cpu")

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    @contextmanager
    def claimed(self, settings: InferenceSettings, count: int) -> Iterator[ImageFolder]:
        """The folder and the numbers that the first process claims (`image_folder.claimed`), in all processes."""
        if self.is_first:
            with image_folder.claimed(settings, count) as place:
                yield self.agreed(place)
        else:
            place = self.agreed(ImageFolder(Path(), 0, 0, ""))
            with ownership.recording(place.folder):
                yield place

    def agreed(self, value: T) -> T:
        """The value of the first process."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]


def problems(settings: InferenceSettings) -> Iterator[Problem]:
    """Settings that cannot be shared over processes."""
    given = [
        name for name, value in settings.values().items() if name in ALONE and value != table(InferenceSettings)[name].default
    ]
    if given and Processes.of_environment().count > 1:
        what = "is drawn by one process, and accelerate launch starts several"
        yield from (Problem(name, what, "start infer.py without accelerate launch") for name in given)


ONE = Processes()
