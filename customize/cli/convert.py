"""`customize convert FILE OUT`: learned weights in the layout of another program."""

from collections.abc import Sequence
from pathlib import Path

from customize.cli.main import outcome
from customize.cli.parser import Parser
from customize.errors import InputError, Problem

USAGE = "customize convert FILE OUT.safetensors [--layout NAME] [--save_precision fp32|fp16|bf16]"
ABOUT = (
    "Writes learned weights in the layout of another program: the same tensors, number formats and metadata. A complete model\n"
    "in a folder becomes one file, and the other way round."
)


def main(argv: Sequence[str]) -> int:
    """Convert a file; return the exit status."""
    if {"--help", "-h"} & set(argv):
        print(parser().format_help(), end="")
        return 0
    return outcome("customize convert", lambda: run(argv))


def run(argv: Sequence[str]) -> int:
    """Convert the file that the arguments name."""
    from customize.weights.learned_weights import complete_model
    from customize.weights.tools.conversion import convert
    from customize.weights.tools.models import convert_model

    given = parser().read(argv)
    if given.file == "demo" or (model := complete_model(Path(given.file))):
        if given.layout:
            raise InputError(Problem("layout", "has no meaning for a complete model", "end OUT with .safetensors for one file"))
        convert_model(given.file if given.file == "demo" else str(model), Path(given.out), given.save_precision, given.overwrite)
        return 0
    base, precision = given.pretrained_model_name_or_path, given.save_precision
    convert(Path(given.file), Path(given.out), given.layout, base, precision, given.overwrite)
    return 0


def parser() -> Parser:
    """The arguments of the command."""
    from customize.adapters.lora_layouts import LAYOUTS
    from customize.weights.tools.conversion import EMBEDDINGS

    width = max(map(len, LAYOUTS)) + 2
    lines = ["layouts of adapters, and the programs that read them:"]
    lines += [f"  {name:{width}}{layout.read_by}" for name, layout in LAYOUTS.items()]
    lines += ["layouts of embeddings:", *(f"  {name:{width}}{read_by}" for name, read_by in EMBEDDINGS.items())]
    made = Parser("customize convert", USAGE, ABOUT, "\n".join([*lines, "", "Exit status: 0 done, 2 not done."]))
    made.add_argument(
        "file", metavar="FILE", help="a .safetensors file with an adapter or embeddings, of any program, or a complete model"
    )
    made.add_argument("out", metavar="OUT", help="the .safetensors file to write; for models and the layout peft also a folder")
    made.add_argument("--layout", metavar="NAME", help="one of those below; default: kohya, for embeddings diffusers")
    made.add_argument(
        "--pretrained_model_name_or_path", metavar="BASE",
        help="a base model of the adapter's architecture, if that is not Stable Diffusion 1.x, 2.x or SDXL",
    )  # fmt: skip
    made.add_argument("--save_precision", choices=("fp32", "fp16", "bf16"), help="number format; default: as in the file")
    made.add_argument("--overwrite", action="store_true", help="replace a file that this program wrote before")
    return made
