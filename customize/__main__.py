"""All commands: `customize COMMAND ...`, or `python -m customize COMMAND ...`. The scripts in a source checkout call the
same functions: `customize infer` is `python infer.py`."""

import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from customize import __version__
from customize.cli import commands
from customize.cli.main import outcome, refuse_removed_folder

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "teach": (commands.teach, "teach what the photos in a folder show: customize teach FOLDER cat"),
    "use": (commands.use, 'generate with what was learned: customize use RUN "a cat on the beach"'),
    "web": (commands.web, "the page: teach photos, watch runs, generate images"),
    "doctor": (commands.doctor, "examine this machine: the GPU and why it is not used, memory, disk, versions, and the remedies"),
    "train_dreambooth": (commands.train_dreambooth, "teach a base model a subject, by full fine-tuning or as a LoRA"),
    "train_textual_inversion": (commands.train_textual_inversion, "teach a base model new words"),
    "train_digits": (commands.train_digits, "train a small model of handwritten digits from scratch, to learn how it is done"),
    "infer": (commands.infer, "generate images with a base model and learned weights"),
    "mask": (commands.mask, "draw masks of the subject beside images"),
    "caption": (commands.caption, "write captions beside images"),
    "check": (commands.check, "list all problems of the settings and images of a run before it starts"),
    "import_config": (commands.import_config, "write a configuration of kohya, OneTrainer or ai-toolkit as one of ours"),
    "verify": (commands.verify, "check that every file of a run is intact"),
    "convert": (commands.convert, "write learned weights in the layout of another program"),
    "embed_prompts": (commands.embed_prompts, "encode prompts once, so that a large text encoder is not loaded again"),
    "show": (commands.show, "tell what is in files of weights"),
    "resize": (commands.resize, "write an adapter as a LoRA of smaller ranks, and say what is lost"),
    "extract": (commands.extract, "write the difference of two models as a LoRA"),
    "merge": (commands.merge, "write learned weights into one model, or several LoRAs into one"),
    "score": (commands.score, "measure what weights have learned: of the steps of a run, or of any file"),
    "compare": (commands.compare, "teach the same images in several ways, and tell which is best"),
    "find_lr": (commands.find_lr, "find a learning rate by a range test"),
    "completion": (lambda argv: complete(argv), "print a script with which bash, zsh or fish completes commands and settings"),
    "configs": (commands.configs, "list the included configurations, or copy one"),
}
FRONT = 4
"""The first commands decide everything themselves."""
WORDS = {
    "generate": "infer", "draw": "infer", "txt2img": "infer", "img2img": "infer", "inference": "infer", "sample": "infer",
    "train": "train_dreambooth", "dreambooth": "train_dreambooth", "lora": "train_dreambooth", "train_lora": "train_dreambooth",
    "learn": "teach",
    "digits": "train_digits", "mnist": "train_digits",
    "textual_inversion": "train_textual_inversion", "embedding": "train_textual_inversion", "config": "configs",
    "import": "import_config", "migrate": "import_config",
    "diagnose": "doctor", "system": "doctor", "env": "doctor",
    "inspect": "show", "info": "show", "lr_find": "find_lr", "lr_finder": "find_lr",
    "ui": "web", "webui": "web", "gui": "web", "page": "web", "serve": "web", "server": "web", "gradio": "web",
    "evaluate": "score", "eval": "score", "measure": "score", "scores": "score",
    "masks": "mask", "segment": "mask", "captions": "caption", "tag": "caption", "autocaption": "caption", "blip": "caption",
}  # fmt: skip
"""Other names that users may try -> the command."""


def complete(argv: Sequence[str]) -> int:
    """Print the script of a shell."""
    from customize.cli.front import completion

    return completion.main(argv, {name: about for name, (_, about) in COMMANDS.items()})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command named by the first argument; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    return outcome(" ".join(["customize", *argv[:1]]), lambda: chosen(argv))


def chosen(argv: Sequence[str]) -> int:
    """Run the command named by the arguments; return its exit status."""
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(help_text(), end="")
        return 0 if argv else 2
    if argv[0] in ("--version", "-V", "version"):
        from customize.machine.packages import versions

        print(f"customize {__version__}", *(f"{package} {number}" for package, number in versions().items()), sep="\n")
        return 0
    name = argv[0].replace("-", "_").removesuffix(".py")
    if name not in COMMANDS:
        near = WORDS.get(name) or next(iter(get_close_matches(name, COMMANDS, 1)), None)
        print(f'unknown command "{argv[0]}"{f": did you mean {near}?" if near else ""}\n{help_text()}', end="", file=sys.stderr)
        return 2
    if not {"--help", "-h"} & set(argv):
        refuse_removed_folder()
    command, _ = COMMANDS[name]
    return command(argv[1:])


def help_text() -> str:
    """All commands, one per line."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{about}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: customize COMMAND ...",
            "",
            *lines[:FRONT],
            "",
            *lines[FRONT:],
            "",
            "`customize COMMAND --help` shows its settings.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
