"""The captions of each image: its own, the built-in templates, or a prompt."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from customize.data.findings import Findings
from customize.printable import first_few

OBJECT_TEMPLATES = (
    "a photo of {}",
    "a photo of a {}",
    "a picture showing the {}",
    "a snapshot of my {}",
    "{} seen up close",
    "a close view of a {}",
    "a sharp image of {}",
    "a soft, slightly blurred shot of a {}",
    "a picture of {} in dim light",
    "a picture of {} in bright light",
    "one {} and nothing else",
    "a {} in the middle of the frame",
    "a large {} that fills the frame",
    "a small {} with space around it",
    "an image with a {} in it",
    "a detailed view of the {}",
    "an everyday scene with a {}",
    "a simple picture: {}",
    "look, a {}",
    "this is my {}",
)
STYLE_TEMPLATES = (
    "a picture in the style of {}",
    "a painting in the style of {}",
    "a drawing in the style of {}",
    "an illustration in {} style",
    "a scene in {} style",
    "artwork made the way of {}",
    "a large canvas in the manner of {}",
    "a small study in the manner of {}",
    "something painted like {}",
    "something drawn like {}",
    "a detail of a work in {} style",
    "a bright picture in {} style",
    "a dark picture in {} style",
    "a colourful piece after {}",
    "a quiet piece after {}",
    "a sketch in {} style",
    "a poster in the style of {}",
    "a print in the style of {}",
    "a fine example of {} style",
    "everything here looks like {}",
)


@dataclass(frozen=True)
class Caption:
    """A caption as written by its author, and its location (file and line) for messages."""

    text: str
    where: str


@dataclass(frozen=True)
class CaptionRule:
    """How images get their captions.

    use: "auto" (an image's own captions, else the fallback), "files" (its own only), "file_names" (its name); anything else: the
    fallback only.
    fallback: captions for images without their own; may be empty.
    remedy: what the user can do about an image without a caption.
    placeholders: each caption that is read must contain one of them; empty: no condition.
    prefix, suffix: text added before and after each caption that is read.
    triggers: words that will trigger the subject; a note lists captions without them.
    subject, trigger: what {} in a template and {trigger} in any caption become; empty where several words could be meant.
    """

    use: str
    fallback: tuple[str, ...]
    remedy: str = ""
    placeholders: tuple[str, ...] = ()
    prefix: str = ""
    suffix: str = ""
    triggers: tuple[str, ...] = ()
    subject: str = ""
    trigger: str = ""

    @property
    def reads(self) -> bool:
        """Whether captions are read from files or columns."""
        return self.use in ("auto", "files")

    def with_trigger(self, text: str) -> str:
        """The text with the trigger word in its places; [trigger] is ai-toolkit's way to write them."""
        return text.replace("{trigger}", self.trigger).replace("[trigger]", self.trigger) if self.trigger else text


def fill(templates: Collection[str], token: str) -> tuple[str, ...]:
    """The templates with {} replaced by `token`, literally."""
    return tuple(template.replace("{}", token) for template in templates)


def apply_rule(
    rule: CaptionRule, names: Sequence[str], captions: Mapping[str, tuple[Caption, ...]], where: str, found: Findings
) -> dict[str, tuple[str, ...]]:
    """The captions of each of the images `names`; `captions` are those that were read. Adds problems for missing ones."""
    own = {name: tuple(_within(rule, caption) for caption in captions[name]) for name in names if name in captions}
    tokens = rule.placeholders
    if unfilled := [caption.where for each in own.values() for caption in each if "{trigger}" in caption.text]:
        what = f"{{trigger}} may be any of several words in some captions: {first_few(unfilled)}"
        found.problem(where, what, "write the word itself")
    strays = [
        caption.where
        for each in own.values()
        for caption in each
        if tokens and not any(token in caption.text for token in tokens)
    ]
    if strays:
        what = f"no placeholder token ({' '.join(tokens)}) in some captions: {first_few(strays)}"
        found.problem(where, what, "write the token where the caption means the subject, or use --captions templates")
    lacking = [name for name in names if name not in own]
    what = f"no caption for {len(lacking)} of {len(names)} images"
    if lacking and (rule.use == "files" or not rule.fallback):
        found.problem(where, f"{what}: {first_few(lacking)}", rule.remedy)
    elif lacking and own:
        made = "templates" if tokens or len(rule.fallback) > 1 else "instance prompt"
        found.note(where, f"{what}, {made} instead: {first_few(lacking)}")
    if (rule.prefix or rule.suffix) and names and not own:
        found.note(where, "caption_prefix and caption_suffix have no effect: no captions were read")
    return {name: tuple(caption.text for caption in own[name]) if name in own else rule.fallback for name in names}


def _within(rule: CaptionRule, caption: Caption) -> Caption:
    """The caption with prefix and suffix, separated by blanks, except before a suffix that starts with punctuation."""
    before = f"{rule.prefix.rstrip()} " if rule.prefix.strip() else ""
    after = rule.suffix.strip()
    after = f" {after}" if after and (after[0].isalnum() or after[0] in "<(") else after
    return replace(caption, text=rule.with_trigger(f"{before}{caption.text}{after}"))
