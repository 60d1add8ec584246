"""The commands, as functions of their words: each returns an exit status, and imports what it needs once it needs it.

So `--help` and a bad setting answer before the modules of a job are imported, and these before torch is.
"""

from collections.abc import Sequence

from customize.cli import main


def train_dreambooth(argv: Sequence[str] | None = None) -> int:
    """Teaches a subject to a base model, in full or as a LoRA."""
    from customize.methods import DreamBoothSettings

    return main.main(DreamBoothSettings, run_training, argv, check_training)


def train_textual_inversion(argv: Sequence[str] | None = None) -> int:
    """Teaches new words to a base model."""
    from customize.methods import TextualInversionSettings

    return main.main(TextualInversionSettings, run_training, argv, check_training)


def infer(argv: Sequence[str] | None = None) -> int:
    """Generates images with a base model and what was taught to it."""
    from customize.settings.inference import InferenceSettings

    return main.main(InferenceSettings, run_inference, argv, check_inference)


def check(argv: Sequence[str]) -> int:
    """Lists everything that is wrong with the settings and images of a run, before it is begun."""
    from customize.cli import check as doctor

    return doctor.main(argv)


def verify(argv: Sequence[str]) -> int:
    """Checks that every file of a run is intact."""
    from customize.cli import verify as verify_command

    return verify_command.main(argv)


def configs(argv: Sequence[str]) -> int:
    """Lists the configurations that come with the program, and copies one."""
    from customize.cli import configs

    return configs.main(argv)


def run_training(settings) -> None:
    """See `preflight.run`."""
    from customize.training.preflight import run

    run(settings)


def check_training(settings) -> None:
    """See `preflight.check`."""
    from customize.training.preflight import check

    check(settings)


def run_inference(settings) -> None:
    """See `inference.command.run`."""
    from customize.inference.run.command import run

    run(settings)


def check_inference(settings) -> None:
    """See `inference.command.check`."""
    from customize.inference.run.command import check

    check(settings)
