"""Captions that are made: from the lines of a file of templates, and from the names of images."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from customize.data.captions.caption_lint import lint
from customize.data.captions.caption_rule import Caption, CaptionRule, apply_rule
from customize.data.captions.caption_text import read_text
from customize.data.findings import Findings
from customize.families.trigger_words import calls
from customize.printable import first_few, printable

SUBJECT = ("{}", "[name]")
"""What a template has for the subject; [name] is A1111's."""
COUNTER = re.compile(r"(?:[_-]\d+|\s*\(\d+\))+$")
"""What programs add to a name so that there are not two of it."""
NOTHING = re.compile(
    r"(?:[\W\d_]|img|dsc[fn]?|pxl|mvimg|image|photo|picture|scan|screenshot|gopr|dji|wa|hdr|copy)*", re.IGNORECASE
)
"""Names that cameras and phones give."""


def rule_of(settings, index: int, num_folders: int, found: Findings) -> CaptionRule:
    """The caption rule of a folder of a run, with the templates of `caption_templates` in place of the built-in ones."""
    rule = settings.caption_rule(index, num_folders)
    if settings.caption_templates is None:
        return rule
    if not rule.subject:
        what = "cannot be used: images of one folder may show several words"
        found.problem("caption_templates", what, "give a folder for each placeholder_token, or a caption for each image")
        return rule
    templates = read_templates(Path(os.path.expanduser(settings.caption_templates)), rule, found)
    return replace(rule, fallback=templates or rule.fallback)


def captions_for(
    rule: CaptionRule, names: Sequence[str], read: Mapping[str, tuple[Caption, ...]], where: str, found: Findings,
    of_subject: bool = True,
) -> dict[str, tuple[str, ...]]:  # fmt: skip
    """The captions of each of the images `names`; `read` are those of files and tables. Adds problems and notes. of_subject:
    whether the images are to teach it, so that the words of their captions matter for that."""
    written = captions_of_names(names, where, found) if rule.use == "file_names" else read
    chosen = apply_rule(rule, names, written, where, found)
    if of_subject:
        lint(rule, {name: written[name] for name in names if name in written}, chosen, where, found)
    return chosen


def read_templates(path: Path, rule: CaptionRule, found: Findings) -> tuple[str, ...]:
    """The lines of a file as captions, {} replaced by the subject; lines that do not call it are a problem."""
    scratch = Findings()
    text = read_text(path, scratch)
    lines = list(dict.fromkeys(line.strip() for line in (text or "").split("\n") if line.strip()))
    captions = [with_subject(line, rule) for line in lines]
    strays = [printable(line, 60) for line, caption in zip(lines, captions, strict=True) if not calls(caption, rule.triggers)]
    if text is not None and not lines:
        scratch.problem(path, "contains no template", "write one per line, such as: a photo of {}")
    if any("[filewords]" in line for line in lines):
        scratch.problem(path, "contains [filewords]", "leave it out: images with captions of their own use these, not templates")
    elif strays:
        what = f"{len(strays)} of {len(lines)} templates do not name the subject: {first_few(strays, 3)}"
        scratch.problem(path, what, "write {} where it stands")
    found.problems.extend(problem for problem in scratch.problems if problem not in found.problems)
    return tuple(captions)


def with_subject(template: str, rule: CaptionRule) -> str:
    """A template with the subject and the trigger word in their places."""
    for place in SUBJECT:
        template = template.replace(place, rule.subject)
    return rule.with_trigger(template)


def captions_of_names(names: Sequence[str], where: str, found: Findings) -> dict[str, tuple[Caption, ...]]:
    """The caption of each image that its name is: "sks dog on_a_beach (2).jpg" is "sks dog on a beach"."""
    texts = {name: " ".join(COUNTER.sub("", PurePosixPath(name).stem).replace("_", " ").split()) for name in names}
    if nothing := [name for name, text in texts.items() if NOTHING.fullmatch(text)]:
        what = f"the names of {len(nothing)} of {len(names)} images describe nothing: {first_few(nothing)}"
        found.problem(where, what, "name the images by what they show, or use --captions auto")
    return {name: (Caption(text, printable(name)),) for name, text in texts.items()}
