"""`customize mask FOLDER --class_word WORD`: masks of the subject beside images."""

from collections.abc import Sequence
from pathlib import Path

from customize.cli.file_tools import STATUS, answered
from customize.cli.parser import Parser
from customize.units import count

USAGE = "customize mask FOLDER --class_word WORD [--pretrained_model_name_or_path MODEL] [--segmenter CLIPSEG]"
ABOUT = (
    "Draws NAME-mask.png beside each image: white where the class word is, for --masked_loss and the evaluation. By CLIPSeg if\n"
    "its weights are here, else by the attention of the base model to the word. Where it is not clear what is the subject there\n"
    "is no mask. Look at the masks, and correct them in any image editor. Files that exist are never replaced."
)


def main(argv: Sequence[str]) -> int:
    """Draw masks; return the exit status."""
    made = Parser("customize mask", USAGE, ABOUT, STATUS)
    made.add_argument("folder", metavar="FOLDER", help="the folder of images")
    made.add_argument("--class_word", "--prompt", metavar="WORD", required=True, help="a noun for the subject, such as dog")
    made.add_argument(
        "--pretrained_model_name_or_path", "--base", metavar="MODEL", default="demo", help="the base model; default: demo"
    )
    made.add_argument("--segmenter", metavar="CLIPSEG", help="folder of a CLIPSeg, or its name in the hub's cache")

    def work() -> int:
        from customize import events
        from customize.evaluation.masks.draw_masks import draw_masks

        given = made.read(argv)
        paths = draw_masks(Path(given.folder), given.class_word, given.pretrained_model_name_or_path, given.segmenter)
        events.info(f"{count(len(paths), 'mask')} drawn: look at them, then train with --masked_loss")
        return 0

    return answered(made, argv, work)
