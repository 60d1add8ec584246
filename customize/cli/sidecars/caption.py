"""`customize caption FOLDER`: captions beside images."""

from collections.abc import Sequence
from pathlib import Path

from customize.cli.file_tools import STATUS, answered
from customize.cli.parser import Parser
from customize.units import count

USAGE = "customize caption FOLDER [--model CAPTIONER] [--trigger WORDS] [--class_word WORD] [--prefix TEXT]"
ABOUT = (
    "Writes NAME.txt with a caption beside each image, by a captioner of transformers (BLIP or GIT) in a folder or in the hub's\n"
    "cache. Read the captions, and correct them. Files that exist are never replaced."
)


def main(argv: Sequence[str]) -> int:
    """Write captions; return the exit status."""
    from customize.data.captions.captioner import USUAL

    made = Parser("customize caption", USAGE, ABOUT, STATUS)
    made.add_argument("folder", metavar="FOLDER", help="the folder of images")
    made.add_argument("--model", metavar="CAPTIONER", default=USUAL, help=f"its folder, or its name; default: {USUAL}")
    made.add_argument("--trigger", metavar="WORDS", default="", help='words that call the subject, such as "sks dog"')
    made.add_argument("--class_word", metavar="WORD", default="", help="the noun that --trigger replaces, such as dog")
    made.add_argument("--prefix", metavar="TEXT", default="", help="text before each caption")
    made.add_argument("--prompt", metavar="TEXT", help="text that the captions continue, such as `a photo of`")

    def work() -> int:
        from customize import events
        from customize.data.captions.captioner import Wording, write_captions

        given = made.read(argv)
        wording = Wording(given.prefix, given.trigger, given.class_word)
        paths = write_captions(Path(given.folder), given.model, wording, given.prompt)
        events.info(f"{count(len(paths), 'caption')} written: read and correct them")
        return 0

    return answered(made, argv, work)
