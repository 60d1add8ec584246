"""Prompts with choices: `{red|blue} __animal__`, in the syntax of sd-dynamic-prompts; a seed turns them into plain prompts.

    {a|b|c}             one of them          {0.3::a|b}      a with weight 0.3, b with 1
    {2$$a|b|c}          two of them, joined by a comma; {1-2$$a|b}: one or two; {2$$ and $$a|b}: joined by " and "
    __name__            a line of name.txt in a folder; lines may contain choices; blank lines and # lines are ignored
    \\{ \\} \\|            the characters themselves

The same seed makes the same choices, from left to right. torch is not needed here.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from random import Random

from customize.errors import InputError, Problem
from customize.printable import printable
from customize.settings.suggestions import nearest

SETTING = "wildcards_dir"
WILDCARD = re.compile(r"__(?=\S)([^\s_](?:[^_\n]|_(?!_))*)__")
HOW_MANY = re.compile(r"(\d{1,3})?(?:(-)(\d{1,3})?)?")
WEIGHT = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)::")
DEEPEST, LARGEST_FILE, LONGEST = 20, 10_000_000, 50_000
TEXT = "or treat the prompt as plain text with --plain_prompt"


def has_choices(prompt: str) -> bool:
    """Whether a prompt contains choices or wildcards."""
    return bool(re.search(r"(?<!\\)[{}]", prompt) or WILDCARD.search(prompt))


def chosen(prompt: str, seed: int, folder: str | None, where: str = "prompt") -> str:
    """The prompt with its choices made by the seed. folder: that of the wildcard files. Raises InputError for invalid syntax."""
    return Chooser(prompt, folder, where, Random(seed)).all_of(prompt, 0)


@dataclass
class Chooser:
    """Makes the choices of one prompt, from left to right."""

    prompt: str
    folder: str | None
    where: str
    random: Random

    def all_of(self, text: str, depth: int) -> str:
        """The text with all its choices made."""
        if depth > DEEPEST:
            what = f"choices are nested more than {DEEPEST} deep (does a wildcard name itself?)"
            raise self.error(what, "nest them less deeply")
        made, place = [], 0
        while place < len(text):
            if text[place] == "\\" and text[place + 1 : place + 2]:
                made.append(text[place : place + 2])
                place += 2
            elif text[place] == "{":
                end = self.closing(text, place)
                made.append(self.one_of(text[place + 1 : end], depth + 1))
                place = end + 1
            elif text[place] == "}":
                raise self.error("} has no matching {", f"write \\}} for the character, {TEXT}")
            elif wildcard := WILDCARD.match(text, place):
                made.append(self.all_of(self.random.choice(self.lines(wildcard[1])), depth + 1))
                place = wildcard.end()
            else:
                made.append(text[place])
                place += 1
        if sum(map(len, made)) > LONGEST:
            raise self.error(f"the choices result in more than {LONGEST:,} characters", "shorten them")
        return "".join(made)

    def closing(self, text: str, opened: int) -> int:
        """The index of the bracket that closes the one at `opened`."""
        depth, place = 0, opened
        while place < len(text):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                return place
            place += 2 if text[place] == "\\" else 1
        raise self.error("{ is not closed", f"add }}, write \\{{ for the character, {TEXT}")

    def one_of(self, text: str, depth: int) -> str:
        """The choice among the options within a pair of brackets."""
        options = split_options(text)
        if len(options) == 1 and "$$" not in text:
            remedy = f"write {{a|b}}, (word:1.05) for emphasis, \\{{ for the character, {TEXT}"
            raise self.error(f"{{{printable(text, 60)}}} has only one option", remedy)
        parts = options[0].split("$$", 2)
        fewest = most = 1
        joint = ", "
        if len(parts) > 1:
            match = HOW_MANY.fullmatch(parts[0].strip())
            if not match or not parts[0].strip():
                raise self.error(f"{printable(parts[0], 60)}$$ is not a number of options", "write {2$$a|b|c} or {1-2$$a|b|c}")
            fewest = int(match[1] or (0 if match[2] else 1))
            most = int(match[3] or len(options)) if match[2] else fewest
            joint = parts[1] if len(parts) == 3 else joint
            options[0] = parts[-1]
        if not fewest <= most <= len(options):
            raise self.error(f"{{{printable(text, 60)}}} has {len(options)} options", f"choose at most {len(options)} of them")
        weighted = [(WEIGHT.match(option), option) for option in options]
        left = [(float(match[1]) if match else 1.0, option[match.end() :] if match else option) for match, option in weighted]
        taken = []
        for _ in range(self.random.randint(fewest, most) if fewest < most else fewest):
            if not sum(weight for weight, _ in left):
                what = f"{{{printable(text, 60)}}} has too few options with a weight above 0"
                raise self.error(what, "give more of them a weight")
            [place] = self.random.choices(range(len(left)), [weight for weight, _ in left])
            taken.append(left.pop(place)[1])
        return joint.join(self.all_of(option, depth) for option in taken)

    def lines(self, name: str) -> list[str]:
        """The options of a wildcard file."""
        shown = f"__{printable(name, 60)}__"
        if self.folder is None:
            remedy = f"give it as --wildcards_dir, {TEXT}"
            raise self.error(
                f"{shown} names the file {printable(name, 60)}.txt, but the folder of wildcards is not given", remedy
            )
        known = {
            path.relative_to(self.folder).with_suffix("").as_posix().casefold(): path
            for path in sorted(Path(self.folder).rglob("*.txt"))
            if path.is_file()
        }
        wanted = name.replace("\\", "/").casefold()
        path = known.get(wanted) or next((each for key, each in known.items() if key.endswith(f"/{wanted}")), None)
        if path is None:
            near = nearest(wanted, known)
            remedy = f"did you mean __{near}__?" if near else f"put {printable(name, 60)}.txt there"
            raise self.error(f"{shown} is not in {self.folder}", remedy)
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise self.error(f"{path} has more than {LARGEST_FILE:,} bytes", "make it smaller")
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise self.error(f"{path} cannot be read as UTF-8 text", "save it as UTF-8") from error
        if lines := [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]:
            return lines
        raise self.error(f"{path} is empty", "write options into it, one per line")

    def error(self, what: str, remedy: str) -> InputError:
        return InputError(Problem(self.where, f"{what}\n    {printable(self.prompt, 120)}", remedy))


def split_options(text: str) -> list[str]:
    """Splits a text at its bars, but not at those within brackets."""
    options, depth, place = [""], 0, 0
    while place < len(text):
        step = 2 if text[place] == "\\" else 1
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(text[place], 0)
        if text[place] == "|" and depth <= 0:
            options.append("")
        else:
            options[-1] += text[place : place + step]
        place += step
    return options
