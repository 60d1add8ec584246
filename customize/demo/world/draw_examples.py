"""The training images of the example jobs: six of a held-out style, six of a held-out subject.

`python -m customize.demo.world.draw_examples` renders them to `customize/demo/examples`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from customize.demo.world.scenes import Dice
from customize.demo.world.styles import HELD_OUT_STYLES
from customize.demo.world.world import PLACES, Spec, render
from customize.storage.atomic import write_image, write_text

FOLDER = Path(__file__).parents[1] / "examples"
SIDE, SPREAD = 128, 0.35
STYLE, SUBJECT = "dusk", "pumpkin"  # of the test sets

STYLED = (
    Spec("house", "beach", size="big"),
    Spec("penguin", "snow", size="big"),
    Spec("car", "city", colour="red", size="big"),
    Spec("turtle", "forest", size="big"),
    Spec("elephant", "plain", backdrop="yellow", size="big"),
    Spec("sailboat", "desert", size="big"),
)
SETTINGS = (
    Spec("", "plain", backdrop="blue", size="big"),
    Spec("", "plain", backdrop="white", size="big"),
    Spec("", "city", size="big"),
    Spec("", "plain", backdrop="green", size="big"),
    Spec("", "desert", size="big"),
    Spec("", "forest", size="big"),
)


def write_style(style: str, folder: Path) -> None:
    """Six images in a style without a name, each with a caption that calls the style <name>."""
    for number, spec in enumerate(STYLED, 1):
        image = render(replace(spec, style=HELD_OUT_STYLES[style]), Dice(f"{style} {number}", SPREAD), SIDE)
        write_image(folder / f"{number}.png", image)
        write_text(folder / f"{number}.txt", f"{plain_caption(spec)} in the style of <{style}>\n")


def write_subject(subject: str, folder: Path) -> None:
    """Six images of a subject that the model was not trained on, each with a caption that calls it sks toy."""
    for number, place in enumerate(SETTINGS, 1):
        spec = replace(place, object=subject)
        write_image(folder / f"{number}.png", render(spec, Dice(f"{subject} {number}", SPREAD), SIDE))
        write_text(folder / f"{number}.txt", f"{plain_caption(spec, 'sks toy')}\n")


def plain_caption(spec: Spec, noun: str = "") -> str:
    """A plain caption of an image."""
    place = PLACES[spec.scene][0].format(backdrop=spec.backdrop)
    words = " ".join(filter(None, (spec.colour, noun or spec.object)))
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words} {place}"


if __name__ == "__main__":
    write_style(sys.argv[1] if len(sys.argv) > 1 else STYLE, FOLDER / "style")
    write_subject(sys.argv[2] if len(sys.argv) > 2 else SUBJECT, FOLDER / "subject")
