"""The prompts of the probe pictures, made from what a run teaches by templates. torch is not imported."""

import re
from collections.abc import Sequence

from customize.evaluation.record import Pair, ProbePrompt
from customize.families.trigger_words import calls, words_of
from customize.settings.concept import Concept

SCENES = ("on the beach", "in the snow", "in the city at night", "in the forest")
"""Where a subject is placed: scenes that differ at a glance and that every base model knows."""
CONTENTS = ("a house on the beach", "a cat in the snow", "a car in the city at night", "a mushroom in the forest")
"""What a style is applied to."""
OTHERS = ("a cat in the forest", "a house on the beach", "a car in the city", "a sunflower in the desert")
"""What has nothing to do with a subject."""
WITHOUT = "a photo"
"""The prompt without the class word, with which masks are found."""
MOST_STEPS = 12
"""Denoising steps of a picture at most: enough to compare pictures, at half the time of the usual 25."""
FIRST_SEED = 1_000_003
"""Far from the seeds that people use for sample images and class images, which a run may have learned by heart."""


def probe_prompts(concept: Concept, further: Sequence[str] = ()) -> tuple[ProbePrompt, ...]:
    """The prompts of all kinds. further: the user's own validation prompts, which count as what they contain."""
    if concept.kind == "style":
        own = [ProbePrompt("concept", f"{content} {concept.prompt}", content) for content in CONTENTS]
        rest = [ProbePrompt("other", content, content) for content in CONTENTS]
    else:
        own = [ProbePrompt("concept", f"{concept.prompt} {scene}", f"{concept.plain} {scene}") for scene in SCENES]
        own += [ProbePrompt("bare", concept.prompt, concept.plain)]
        of_class = [f"{concept.plain} {scene}" for scene in SCENES if concept.plain != concept.prompt]
        rest = [ProbePrompt("class", text, text) for text in of_class]
        rest += [ProbePrompt("other", other, other) for other in OTHERS if not is_about(other, concept)]
    made = [*own, *rest]
    known = {prompt.text for prompt in made}
    added = [as_probe(text, concept) for text in dict.fromkeys(further) if text not in known]
    return tuple(made + [prompt for prompt in added if prompt.kind != "class"])


def probes_of(concepts: Sequence[Concept], further: Sequence[str] = ()) -> list[tuple[ProbePrompt, ...]]:
    """The prompts of each concept of a run. A prompt of the user is of the first concept that it calls, else of the first one;
    what has nothing to do with any of several concepts is drawn once, with those of the first one."""
    if len(concepts) == 1:
        return [probe_prompts(concepts[0], further)]
    of_each: list[list[str]] = [[] for _ in concepts]
    for text in further:
        called = (place for place, concept in enumerate(concepts) if calls(text, concept.trigger.split()))
        of_each[next(called, 0)].append(text)
    found = [probe_prompts(concept, own) for concept, own in zip(concepts, of_each, strict=True)]
    others = [each for each in found[0] if each.kind == "other" and not any(is_about(each.text, one) for one in concepts)]
    others = others or [each for each in found[0] if each.kind == "other"]
    return [(*(each for each in own if each.kind != "other"), *(() if place else others)) for place, own in enumerate(found)]


def as_probe(text: str, concept: Concept) -> ProbePrompt:
    """A prompt of the user. One that calls the concept has the class word instead of it in `plain`."""
    if concept.prompt in text:
        return ProbePrompt("concept", text, text.replace(concept.prompt, concept.plain))
    if concept.trigger and calls(text, [concept.trigger]):
        named = rf"{re.escape(concept.trigger)}(\s+{re.escape(concept.class_word)})?"
        plain = re.sub(named, lambda _: concept.class_word, text, flags=re.IGNORECASE)
        return ProbePrompt("concept", text, " ".join(plain.split()))
    return ProbePrompt("class" if is_about(text, concept) else "other", text, text)


def is_about(text: str, concept: Concept) -> bool:
    """Whether a prompt names the class."""
    return bool(set(words_of(concept.class_word)) & set(words_of(text)))


def mask_prompts(word: str) -> tuple[str, str]:
    """The prompts whose predictions show where a noun is in an image: with it, and without."""
    return f"{WITHOUT} of {'an' if word[0] in 'aeiou' else 'a'} {word}", WITHOUT


def encoded_texts(concept: Concept, prompts: Sequence[ProbePrompt]) -> list[str]:
    """All that is encoded where pictures of these prompts are drawn and measured."""
    texts = [text for prompt in prompts for text in (prompt.text, prompt.plain)]
    return [*texts, *(mask_prompts(concept.class_word) if texts and concept.class_word else ())]


def pairs(prompts: Sequence[ProbePrompt], seeds: int) -> tuple[Pair, ...]:
    """The pictures of every candidate: `seeds` of each prompt of the concept, twice as many of the bare one, and one of
    each other prompt."""
    count = {"concept": seeds, "bare": 2 * seeds, "class": 1, "other": 1}
    return tuple(Pair(place, FIRST_SEED + i) for place, prompt in enumerate(prompts) for i in range(count[prompt.kind]))
