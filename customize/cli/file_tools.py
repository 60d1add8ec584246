"""`customize resize`, `extract` and `merge`: smaller LoRAs, LoRAs of models, and models and LoRAs of LoRAs."""

from collections.abc import Sequence
from pathlib import Path

from customize.cli.main import main, outcome
from customize.cli.parser import Parser
from customize.errors import InputError, Problem

RESIZE = (
    "customize resize FILE OUT.safetensors (--rank N | --energy 0.95 | --sv_fro X | --sv_cumulative X | --sv_ratio X)",
    "Writes an adapter as a LoRA of smaller ranks, by the singular values of each layer's change, and says what is lost.",
)
EXTRACT = (
    "customize extract TUNED BASE OUT.safetensors --rank N",
    "Writes the difference of two models of one architecture as a LoRA, and says what is lost. A model is a folder in\n"
    "diffusers' layout or a single file; both are read one parameter at a time.",
)
MERGE = (
    "customize merge FILE[:SCALE] ... --out OUT [--base BASE]",
    "Writes learned weights at their scales into one model, as `infer.py --merge` does: a folder; or several LoRAs into one if\n"
    "OUT ends with .safetensors; or a complete model in a single file with --save_model_as safetensors. LoRAs for Stable\n"
    "Diffusion 1.x, 2.x and SDXL are merged into one without a base model.",
)
RANKS = ("rank", "energy", "sv_fro", "sv_cumulative", "sv_ratio")
STATUS = "\nExit status: 0 done, 2 not done."


def resize(argv: Sequence[str]) -> int:
    """Resize an adapter; return the exit status."""
    made = with_ranks(Parser("customize resize", *RESIZE, STATUS))
    made.add_argument("file", metavar="FILE", help="a .safetensors file with a LoRA, LoHa or LoKr of any program")
    made.add_argument("out", metavar="OUT", help="the .safetensors file to write")
    made.add_argument("--layout", metavar="NAME", help="as in customize convert; default: that of the file")
    made.add_argument("--pretrained_model_name_or_path", metavar="BASE", help="if its architecture is not a known one")
    made.add_argument("--save_precision", choices=("fp32", "fp16", "bf16"), help="number format; default: as in the file")

    def work() -> int:
        from customize.weights.tools.resize import resize

        given = made.read(argv)
        base, precision = given.pretrained_model_name_or_path, given.save_precision
        resize(Path(given.file), Path(given.out), choice_of(given), given.layout, base, precision, given.overwrite)
        return 0

    return answered(made, argv, work)


def extract(argv: Sequence[str]) -> int:
    """Extract a LoRA from two models; return the exit status."""
    made = with_ranks(Parser("customize extract", *EXTRACT, STATUS))
    made.add_argument("tuned", metavar="TUNED", help="the model whose weights were changed")
    made.add_argument("base", metavar="BASE", help="the model that it was tuned from")
    made.add_argument("out", metavar="OUT", help="the .safetensors file to write")
    made.add_argument("--layout", metavar="NAME", default="kohya", help="as in customize convert; default: kohya")
    made.add_argument("--save_precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="number format; default: fp32")

    def work() -> int:
        from customize.weights.tools.extraction import extract

        given = made.read(argv)
        choice = choice_of(given)
        extract(given.tuned, given.base, Path(given.out), choice, given.layout, given.save_precision, given.overwrite)
        return 0

    return answered(made, argv, work)


def merge(argv: Sequence[str]) -> int:
    """Merge learned weights; return the exit status."""
    made = with_ranks(Parser("customize merge", *MERGE, STATUS))
    made.add_argument("files", metavar="FILE[:SCALE]", nargs="+", help="learned weights, as for infer.py --weights")
    made.add_argument("--out", "--merge", metavar="OUT", required=True, help="a folder or a .safetensors file")
    made.add_argument("--base", "--pretrained_model_name_or_path", metavar="BASE", help="the base model, for a model")
    made.add_argument("--layout", "--lora_format", metavar="NAME", help="of a LoRA, as in customize convert")
    made.add_argument("--save_model_as", choices=("diffusers", "safetensors"), help="a complete model as folder or single file")
    made.add_argument("--save_precision", choices=("fp32", "fp16", "bf16"), help="number format; default: fp32")

    def work() -> int:
        given = made.read(argv)
        if given.base is None and given.save_model_as is None and given.out.endswith(".safetensors"):
            return merge_adapters(given)
        flags = ["--weights", *given.files, "--merge", given.out]
        precision = {"fp32": "no"}.get(given.save_precision, given.save_precision)
        own = {"pretrained_model_name_or_path": given.base, "lora_format": given.layout, "save_model_as": given.save_model_as}
        for name, value in {**own, "mixed_precision": precision}.items():
            flags += [f"--{name}", value] if value is not None else []
        from customize.inference.run import command
        from customize.settings.inference import InferenceSettings

        refuse_ranks(given)
        return main(InferenceSettings, command.run, flags + ["--overwrite_output_dir"] * given.overwrite, command.check)

    return answered(made, argv, work)


def merge_adapters(given) -> int:
    """Merge adapters into one LoRA without a base model."""
    from customize.printable import printable
    from customize.settings.scale import path_and_scale
    from customize.settings.texts import text_fault
    from customize.weights.tools.joining import join

    faults = [(each, text_fault("weights", each)) for each in given.files]
    if problems := [
        Problem(printable(each), fault, "give a path, or a path, a colon and a number") for each, fault in faults if fault
    ]:
        raise InputError(problems)
    weights = [path_and_scale(each) for each in given.files]
    choice = choice_of(given) if any(getattr(given, name) is not None for name in RANKS) else None
    join(weights, Path(given.out), choice, given.layout or "kohya", given.save_precision or "fp32", given.overwrite)
    return 0


def refuse_ranks(given) -> None:
    """Raises InputError for flags that have no effect on a model."""
    if names := [name for name in RANKS if getattr(given, name) is not None]:
        what = "has an effect only where adapters become one LoRA without a base model"
        raise InputError(Problem(" and ".join(names), what, "leave it out, or leave out base and name a .safetensors file"))


def with_ranks(made: Parser) -> Parser:
    """The parser with the conditions that choose a rank for each layer."""
    made.add_argument("--rank", metavar="N", type=int, help="rank of each layer, or the most with one of the conditions below")
    made.add_argument("--energy", metavar="X", type=float, help="part of the squared norm of the change that is kept")
    made.add_argument("--sv_fro", metavar="X", type=float, help="part of the norm that is kept, as in kohya's resize_lora.py")
    made.add_argument("--sv_cumulative", metavar="X", type=float, help="part of the sum of singular values that is kept")
    made.add_argument("--sv_ratio", metavar="X", type=float, help="singular values above the largest divided by this are kept")
    made.add_argument("--overwrite", "--overwrite_output_dir", action="store_true", help="replace what this program wrote before")
    return made


def choice_of(given):
    """The choice of ranks that the arguments make."""
    from customize.weights.tools.ranks import Choice

    return Choice(*(getattr(given, name) for name in RANKS))


def answered(made: Parser, argv: Sequence[str], work) -> int:
    """The exit status of a command, whose help needs no work."""
    if {"--help", "-h"} & set(argv):
        print(made.format_help(), end="")
        return 0
    return outcome(made.command, work)
