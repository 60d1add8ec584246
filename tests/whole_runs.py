"""Complete runs of the training commands, for tests that stop them, limit their resources and resume them."""

import json
from pathlib import Path
from typing import Any

from fork_server import ForkServer
from kit import settings_for
from safetensors import safe_open

from customize.storage.atomic import write_text

LATEST = ["--resume_from_checkpoint", "latest"]


class Run:
    """A run of one method in its own folder."""

    def __init__(self, server: ForkServer, folder: Path, method: str, base: Path, image_folder: Path, **changes):
        settings = settings_for(method, base, image_folder, folder / "run", **changes)
        self.server, self.folder, self.method = server, folder / "run", method
        self.command = "textual_inversion" if method == "textual_inversion" else "dreambooth"
        self.config = folder / "config.toml"
        write_text(self.config, settings.to_toml())

    def __call__(
        self, *arguments: str, moment: str = "", number: int = 1, action: str = "SIGKILL", **limits: Any
    ) -> tuple[int, str]:
        return self.server.run(self.command, [str(self.config), *arguments], moment, number, action, **limits)

    def result(self) -> dict[str, bytes]:
        """The bytes of every trained tensor."""
        words, lora = "learned_embeds.safetensors", "pytorch_lora_weights.safetensors"
        patterns = {"textual_inversion": [words], "lora": [lora], "pivotal": [words, lora], "full": ["unet/*.safetensors"]}
        found = {}
        for pattern in patterns[self.method]:
            [file] = self.folder.glob(pattern)
            with safe_open(file, "pt") as tensors:
                found |= {name: tensors.get_tensor(name).numpy().tobytes() for name in tensors.keys()}  # noqa: SIM118
        return found

    def losses(self) -> list[float]:
        lines = [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "loss" in line]
