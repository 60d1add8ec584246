"""Which sample images a training run draws: of the prompts that are given, or of prompts made from what is taught."""

from collections.abc import Iterator

MOST_WORDS = 4
"""New words that get a prompt of their own."""
LONGEST = 70
"""Bytes, and so at most tokens, of a made prompt: text encoders read 77 tokens, two of which are start and end."""
PLACEHOLDERS = "{instance_prompt}", "{placeholder_token}"


def sample_prompts(settings) -> tuple[str, ...]:
    """The prompts of the sample images, each once; empty where there are to be none.

    `{instance_prompt}` and `{placeholder_token}` in a given prompt stand for the value of that setting (its first one).
    """
    if settings.validation_prompt is not None:
        return tuple(dict.fromkeys(filled(prompt, settings) for prompt in settings.validation_prompt))
    return settings.default_validation_prompts


def filled(prompt: str, settings) -> str:
    """A prompt with the values of the settings that it names."""
    for name in PLACEHOLDERS:
        value = getattr(settings, name.strip("{}"), None)
        if value:
            prompt = prompt.replace(name, value if isinstance(value, str) else value[0])
    return prompt


def in_a_scene(prompt: str) -> str:
    """The prompt with a place that it does not name yet."""
    scene = "in the snow" if "beach" in prompt.casefold() else "on the beach"
    text = prompt.strip().rstrip(".,;:!?。、 ")
    return f"{text}, {scene}" if "," in text or not text.isascii() else f"{text} {scene}"


def are_made(settings) -> bool:
    """Whether the prompts are made, and not given."""
    return settings.validation_prompt is None


def images_per_prompt(settings) -> int:
    """Sample images of each prompt."""
    return settings.num_validation_images or (1 if are_made(settings) else 4)


def notes(settings) -> Iterator[str]:
    """A line where sample prompts are given, and none of them shows what is taught."""
    prompts = () if are_made(settings) else sample_prompts(settings)
    words = settings.trigger_words
    if prompts and words and not settings.is_called_by(prompts):
        source = settings.subject_setting
        what = f"no validation_prompt has {' or '.join(words[:3])} of {source}: the sample images will not show what is learned"
        yield f"{what}; write the word into one, or leave validation_prompt out, and prompts are made from {source}"
