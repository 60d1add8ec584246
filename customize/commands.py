"""The commands, as functions of their words: each returns an exit status, and imports what it needs once it needs it.

So `--help` and a bad setting answer before the modules of a job are imported, and these before torch is.
"""

from collections.abc import Sequence

from customize import cli


def train_dreambooth(argv: Sequence[str] | None = None) -> int:
    """Teaches a subject to a base model, in full or as a LoRA."""
    from customize.config import DreamBoothSettings

    return cli.main(DreamBoothSettings, run_training, argv, check_training)


def train_textual_inversion(argv: Sequence[str] | None = None) -> int:
    """Teaches new words to a base model."""
    from customize.config import TextualInversionSettings

    return cli.main(TextualInversionSettings, run_training, argv, check_training)


def infer(argv: Sequence[str] | None = None) -> int:
    """Generates images with a base model and what was taught to it."""
    from customize.config import InferenceSettings

    return cli.main(InferenceSettings, run_inference, argv, check_inference)


def check(argv: Sequence[str]) -> int:
    """Lists everything that is wrong with the settings and images of a run, before it is begun."""
    from customize import doctor

    return doctor.main(argv)


def verify(argv: Sequence[str]) -> int:
    """Checks that every file of a run is intact."""
    from customize import verify_command

    return verify_command.main(argv)


def configs(argv: Sequence[str]) -> int:
    """Lists the configurations that come with the program, and copies one."""
    from customize import shipped

    return shipped.main(argv)


def run_training(settings) -> None:
    """See `preflight.run`."""
    from customize.preflight import run

    run(settings)


def check_training(settings) -> None:
    """See `preflight.check`."""
    from customize.preflight import check

    check(settings)


def run_inference(settings) -> None:
    """See `inference.command.run`."""
    from customize.inference.command import run

    run(settings)


def check_inference(settings) -> None:
    """See `inference.command.check`."""
    from customize.inference.command import check

    check(settings)
