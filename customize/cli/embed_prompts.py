"""`customize embed-prompts MODEL --prompt ... --output FILE`: prompts encoded once, by a text encoder that is large."""

from collections.abc import Sequence
from pathlib import Path

from customize.cli.file_tools import answered
from customize.cli.parser import Parser

USAGE = "customize embed-prompts MODEL --prompt PROMPT [--prompt PROMPT ...] --output FILE.safetensors"
ABOUT = (
    "Encodes prompts with the text encoder of MODEL, and nothing else of it, into a file. infer.py and train_dreambooth.py\n"
    "take it as --prompt_embeddings FILE, and then never load the text encoder: T5 of DeepFloyd IF has 4.8 billion parameters.\n"
    "The empty prompt, which guidance needs, is always encoded too. Stages I and II of DeepFloyd IF share one text encoder, and\n"
    "the file."
)


def main(argv: Sequence[str]) -> int:
    """Encode prompts; return the exit status."""
    made = Parser("customize embed-prompts", USAGE, ABOUT, "Exit status: 0 done, 2 not done.")
    made.add_argument("model", metavar="MODEL", help="a folder of DeepFloyd IF, or its name on the hub")
    made.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a prompt or negative prompt; repeatable")
    made.add_argument("--prompt_file", metavar="FILE", help="a text file with one prompt per line")
    made.add_argument("--output", metavar="FILE", required=True, help="the .safetensors file to write")
    made.add_argument("--variant", metavar="NAME", help="variant of the model's files, such as fp16")
    made.add_argument("--mixed_precision", choices=("no", "fp16", "bf16"), default="no", help="number format of the text encoder")
    made.add_argument("--save_precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="number format of the file")
    made.add_argument("--overwrite", action="store_true", help="replace what this program wrote before")

    def work() -> int:
        from customize.settings.files.prompt_file import read_prompts
        from customize.weights.tools.encode_prompts import encode

        given = made.read(argv)
        prompts = [*given.prompt, *(read_prompts(given.prompt_file) if given.prompt_file else ())]
        target, precisions = Path(given.output), (given.mixed_precision, given.save_precision)
        encode(given.model, prompts, target, *precisions, given.overwrite, given.variant)
        return 0

    return answered(made, argv, work)
