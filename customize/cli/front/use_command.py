"""`customize use RUN "PROMPT"`: generates with what a run has learned, and puts the word for it into the prompt."""

import sys
from collections.abc import Sequence

from customize.cli import main as cli
from customize.errors import InputError, Problem
from customize.inference.run.command import check, run
from customize.printable import printable
from customize.settings.inference import InferenceSettings
from customize.teach.calling_prompt import calling, found_weights

USAGE = """usage: customize use RUN PROMPT ... [--setting value ...]

Generates with what a run has learned: customize use runs/miezi "a cat on the beach"

RUN is a run folder, its name in runs/, RUN@STEP, or a .safetensors file. Where a PROMPT lacks the word for what was learned, it
is put in, and said: "a cat on the beach" becomes "a sks cat on the beach". All settings of infer.py are accepted, too, such as
--num_images 4 or --seed 7. Exit status: as for infer.py.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    if not argv or {"--help", "-h"} & set(argv):
        print(USAGE, end="")
        return 0 if argv else 2
    number = next((place for place, word in enumerate(argv) if word.startswith("--")), len(argv))
    words, rest = list(argv[:number]), list(argv[number:])
    if not words:
        raise InputError(Problem("RUN", "is missing", 'as in: customize use runs/miezi "a cat on the beach"'))
    weights = found_weights(words[0])
    if not words[1:]:
        raise InputError(Problem("PROMPT", "is missing", f'as in: customize use {words[0]} "on the beach"'))
    how = calling(weights)
    prompts = [how.put_into(prompt) if how else prompt for prompt in words[1:]]
    for prompt, called in zip(words[1:], prompts, strict=True):
        if called != prompt:
            print(printable(f'prompt    "{called}"'))
    if how is None:
        what = f"{printable(words[0])} does not name one word that calls all that it has learned"
        print(f"note: {what}: write yours into the prompt (`customize show` lists what it names)", file=sys.stderr)
    given = [f"--weights={weights}", *(f"--prompt={prompt}" for prompt in prompts)]
    return cli.main(InferenceSettings, run, [*given, *rest], check)
