"""What in captions makes a subject hard to learn: no trigger word, the same words everywhere, two ways to write."""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from customize.data.captions.caption_rule import Caption, CaptionRule
from customize.data.findings import Findings
from customize.families.trigger_words import any_calls, words_of
from customize.printable import first_few, printable

SHARE, LEAST = 0.8, 4
"""A phrase is noted if it stands in this share of the captions, and in at least so many."""
LONGEST = 6
"""Words of a phrase."""
PLAIN = frozenset(
    "a an the of in on at with and or to for from by is are as this that its his her their one two some very"
    " photo photograph picture image painting drawing illustration portrait render sketch shot closeup close-up close up view"
    " style background solo 1girl 1boy 1other girl boy man woman person".split()
)
"""Words that say how a caption is written, or to which class its subject belongs."""
SEGMENTS = re.compile(r"[,;.:!?|\n]+")


def lint(
    rule: CaptionRule, written: Mapping[str, tuple[Caption, ...]], chosen: Mapping[str, tuple[str, ...]],
    where: str, found: Findings,
) -> None:  # fmt: skip
    """Add a note for each fault. written: captions by image, as they were written; chosen: as they are used, of all images."""
    note_missing_triggers(rule, {name: chosen[name] for name, each in written.items() if each}, where, found)
    texts = [caption.text for each in written.values() for caption in each]
    if len(texts) < LEAST:
        return
    text, count = Counter(" ".join(text.split()) for text in texts).most_common(1)[0]
    if count >= max(LEAST, SHARE * len(texts)):
        if text not in rule.fallback:
            what = f"{count} of {len(texts)} captions are the same: {printable(text, 60)!r}"
            found.note(where, f"{what}; write what differs between the images, or leave out the captions")
        return
    word = rule.trigger or " or ".join(rule.triggers[:3]) or "the trigger word"
    for phrase, count in common_phrases(texts, rule):
        what = f"{count} of {len(texts)} captions have {printable(phrase, 60)!r}, so that these words learn it instead of {word}"
        found.note(where, f"{what}; leave it out of the captions if it belongs to the subject")
    tags, sentences = sum(map(is_tags, texts)), sum(map(is_sentence, texts))
    if min(tags, sentences) >= 2:
        what = f"{tags} of {len(texts)} captions are lists of tags, {sentences} are sentences"
        found.note(where, f"{what}; one way of writing is learned better")


def note_missing_triggers(rule: CaptionRule, texts: Mapping[str, tuple[str, ...]], where: str, found: Findings) -> None:
    """A note if captions lack the words that will trigger the subject. texts: by image."""
    if not texts or not rule.triggers or rule.placeholders:  # without a placeholder it is a problem, which is reported elsewhere
        return
    lacking = [name for name, each in texts.items() if not any_calls(each, rule.triggers)]
    words = " or ".join(rule.triggers[:3])
    if len(lacking) == len(texts):
        what = f"no caption contains {words} from instance_prompt (0 of {len(texts)} images), so it will not trigger the subject"
        prefix = f'--caption_prefix "{rule.fallback[0]},"' if rule.fallback else "--caption_prefix"
        found.note(where, f"{what}; add it to the captions, prepend it with {prefix}, or use --captions prompt")
    elif lacking:
        having = len(texts) - len(lacking)
        what = f"{words} from instance_prompt is in the captions of {having} of {len(texts)} images, but not of"
        found.note(where, f"{what}: {first_few(lacking)}; write it there, too")


def common_phrases(texts: Sequence[str], rule: CaptionRule) -> list[tuple[str, int]]:
    """The longest phrases that stand in most texts, and in how many; most frequent first.

    A phrase is a whole tag, or two to six words in one part of a sentence, of which the first and the last describe something.
    """
    plain = PLAIN.union(*map(words_of, (*rule.fallback[:1], rule.subject)))
    counts = Counter(phrase for text in texts for phrase in phrases(text, plain, rule.triggers))
    least = max(LEAST, SHARE * len(texts))
    common = {phrase: count for phrase, count in counts.items() if count >= least}
    longest = [phrase for phrase in common if not any(is_part(phrase, other) for other in common)]
    return sorted(((" ".join(phrase), common[phrase]) for phrase in longest), key=lambda each: (-each[1], each[0]))


def phrases(text: str, plain: Collection[str], triggers: Collection[str]) -> set[tuple[str, ...]]:
    """The phrases of a text. A trigger word ends a phrase, and so does the noun of its class, which follows it."""
    found = set()
    for segment in SEGMENTS.split(text):
        words = without_triggers(segment, triggers)
        for start in range(len(words)):
            for end in range(start + 1, min(len(words), start + LONGEST) + 1):
                phrase = tuple(words[start:end])
                if "" in phrase:
                    break
                whole = len(words) == len(phrase)
                if (len(phrase) > 1 or whole) and not {phrase[0], phrase[-1]} & {*plain}:
                    found.add(phrase)
    return found


def without_triggers(segment: str, triggers: Collection[str]) -> list[str]:
    """The words of a part of a sentence, with "" in place of each trigger word and the word after it."""
    for trigger in triggers:
        segment = re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", " \0 ", segment, flags=re.IGNORECASE)
    words = [word for piece in re.split("(\0)", segment) for word in (["\0"] if piece == "\0" else words_of(piece))]
    return ["" if "\0" in words[max(0, place - 1) : place + 1] else word for place, word in enumerate(words)]


def is_part(phrase: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether a phrase stands in another, longer one."""
    length = len(phrase)
    return length < len(other) and any(other[start : start + length] == phrase for start in range(len(other) - length + 1))


def is_tags(text: str) -> bool:
    """Whether a caption is a list of tags: at least three, of at most three words."""
    parts = [part.split() for part in text.split(",") if part.strip()]
    return len(parts) >= 3 and all(len(part) <= 3 for part in parts)


def is_sentence(text: str) -> bool:
    """Whether a caption is a sentence: at least six words before a comma."""
    return len(text.split(",")[0].split()) >= 6
