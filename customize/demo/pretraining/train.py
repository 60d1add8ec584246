"""Trains the demo model from scratch: renderings, autoencoder, then text encoder and UNet.

`python -m customize.demo.pretraining.train --output_dir FOLDER`. With the same settings, it resumes a stopped training.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from customize.demo.pretraining.settings import DemoSettings

COMBINED = 0.4  # combined effects are the hardest, so they are trained twice as often as they are evaluated


def run(settings: DemoSettings) -> None:
    """Renders the images, trains both stages, and writes the pipeline folder output_dir/model."""
    from customize.demo.pretraining import stages
    from customize.demo.world import renderings
    from customize.demo.world.world import World

    folder, world = Path(settings.output_dir), World(combined=COMBINED)
    renderings.prepare(world, settings.seed, settings.num_pictures, folder / "data", settings.num_workers)
    pixels, specs = renderings.load(folder / "data")
    if settings.initial_model:
        family = stages.earlier(settings.initial_model)
        if settings.decoder_steps:
            decoder = stages.train_decoder(settings, family.components["vae"], pixels, folder / "decoder")
            family.replace_vae(decoder, folder / "decoder")
    else:
        vae = stages.train_autoencoder(settings, pixels, folder / "autoencoder")
        family = stages.untrained(settings, vae, folder / "tokenizer")
    stages.train_denoiser(settings, world, family, pixels, specs, folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the settings and trains; returns the exit status."""
    from customize.cli.main import main

    return main(DemoSettings, run, argv)


if __name__ == "__main__":
    sys.exit(main())
