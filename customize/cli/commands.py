"""The commands, as functions of their arguments. Each returns an exit status and imports its modules lazily.

So `--help` and invalid settings are handled before the modules of a job, and torch, are imported.
"""

from collections.abc import Sequence

from customize.cli import main


def teach(argv: Sequence[str]) -> int:
    """From a folder of photos and a word to a run."""
    from customize.cli.front import teach_command

    return teach_command.main(argv)


def use(argv: Sequence[str]) -> int:
    """Generate with what a run has learned."""
    from customize.cli.front import use_command

    return use_command.main(argv)


def doctor(argv: Sequence[str]) -> int:
    """Tell what this machine is and what is missing."""
    from customize.cli.front import doctor_command

    return doctor_command.main(argv)


def train_dreambooth(argv: Sequence[str] | None = None) -> int:
    """Teach a base model a subject, by full fine-tuning or as a LoRA."""
    from customize.methods import DreamBoothSettings

    return main.main(DreamBoothSettings, run_training, argv, check_training)


def train_textual_inversion(argv: Sequence[str] | None = None) -> int:
    """Teach a base model new words."""
    from customize.methods import TextualInversionSettings

    return main.main(TextualInversionSettings, run_training, argv, check_training)


def train_digits(argv: Sequence[str] | None = None) -> int:
    """Train a small model of digits from scratch."""
    from customize.methods import FromScratchSettings

    return main.main(FromScratchSettings, run_training, argv, check_training)


def infer(argv: Sequence[str] | None = None) -> int:
    """Generate images with a base model and learned weights."""
    from customize.settings.inference import InferenceSettings

    return main.main(InferenceSettings, run_inference, argv, check_inference)


def import_config(argv: Sequence[str]) -> int:
    """Write a configuration of another trainer as one of ours."""
    from customize.cli.imports import import_config as command

    return command.main(argv)


def check(argv: Sequence[str]) -> int:
    """List all problems of the settings and images of a run before it starts."""
    from customize.cli import check as check_command

    return check_command.main(argv)


def verify(argv: Sequence[str]) -> int:
    """Check that every file of a run is intact."""
    from customize.cli import verify as verify_command

    return verify_command.main(argv)


def configs(argv: Sequence[str]) -> int:
    """List the included configurations, or copy one."""
    from customize.cli import configs

    return configs.main(argv)


def convert(argv: Sequence[str]) -> int:
    """Write learned weights in the layout of another program."""
    from customize.cli import convert as convert_command

    return convert_command.main(argv)


def embed_prompts(argv: Sequence[str]) -> int:
    """Encode prompts into a file."""
    from customize.cli import embed_prompts as embed_command

    return embed_command.main(argv)


def show(argv: Sequence[str]) -> int:
    """Tell what is in files of weights."""
    from customize.cli import show as show_command

    return show_command.main(argv)


def resize(argv: Sequence[str]) -> int:
    """Write an adapter as a LoRA of smaller ranks."""
    from customize.cli import file_tools

    return file_tools.resize(argv)


def extract(argv: Sequence[str]) -> int:
    """Write the difference of two models as a LoRA."""
    from customize.cli import file_tools

    return file_tools.extract(argv)


def merge(argv: Sequence[str]) -> int:
    """Write learned weights into one model or one LoRA."""
    from customize.cli import file_tools

    return file_tools.merge(argv)


def mask(argv: Sequence[str]) -> int:
    """Draw masks beside images."""
    from customize.cli.sidecars import mask as mask_command

    return mask_command.main(argv)


def caption(argv: Sequence[str]) -> int:
    """Write captions beside images."""
    from customize.cli.sidecars import caption as caption_command

    return caption_command.main(argv)


def compare(argv: Sequence[str]) -> int:
    """Teach the same images in several ways, and tell which is best."""
    from customize.cli.studies import compare as compare_command

    return compare_command.main(argv)


def find_lr(argv: Sequence[str]) -> int:
    """Find a learning rate by a range test."""
    from customize.cli.studies import find_lr as find_lr_command

    return find_lr_command.main(argv)


def web(argv: Sequence[str]) -> int:
    """Serve the page."""
    from customize.cli.front import serve

    return serve.main(argv)


def score(argv: Sequence[str]) -> int:
    """Measure what weights have learned."""
    from customize.cli import score as score_command

    return score_command.main(argv)


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
