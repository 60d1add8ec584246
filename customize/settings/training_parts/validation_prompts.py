"""A training run's sample images: their settings, and their prompts, given by the user or generated from the subject."""

from collections.abc import Iterator

from customize.settings.common import MANY, OWN, Settings
from customize.settings.field import setting

MOST_WORDS = 4
"""The largest number of new words that each get their own prompt."""
LONGEST = 70
"""Maximum bytes, and so tokens, of a generated prompt: text encoders read 77 tokens, including start and end."""
PLACEHOLDERS = "{instance_prompt}", "{placeholder_token}"


def sample_prompts(settings) -> tuple[str, ...]:
    """The prompts of the sample images, without duplicates; empty for no sample images.

    `{instance_prompt}` and `{placeholder_token}` in a given prompt are replaced by the (first) value of that setting, for each
    concept.
    """
    if settings.validation_prompt is not None:
        return tuple(dict.fromkeys(filled(prompt, part) for prompt in settings.validation_prompt for part in settings.parts))
    return settings.default_validation_prompts


def filled(prompt: str, settings) -> str:
    """A prompt with the settings that it names replaced by their values."""
    for name in PLACEHOLDERS:
        value = getattr(settings, name.strip("{}"), None)
        if value:
            prompt = prompt.replace(name, value if isinstance(value, str) else value[0])
    return prompt


def in_a_scene(prompt: str) -> str:
    """The prompt with a scene added that it does not mention yet."""
    scene = "in the snow" if "beach" in prompt.casefold() else "on the beach"
    text = prompt.strip().rstrip(".,;:!?。、 ")
    return f"{text}, {scene}" if "," in text or not text.isascii() else f"{text} {scene}"


def are_made(settings) -> bool:
    """Whether the prompts are generated, not given."""
    return settings.validation_prompt is None


def images_per_prompt(settings) -> int:
    """Sample images of each prompt."""
    return settings.num_validation_images or len(settings.validation_images) or (1 if are_made(settings) else 4)


def notes(settings) -> Iterator[str]:
    """A line if prompts of sample images are given, and none of them shows the subject."""
    prompts = () if are_made(settings) else sample_prompts(settings)
    words = settings.trigger_words
    if prompts and words and not settings.is_called_by(prompts):
        source = settings.subject_setting
        what = (
            f"no validation_prompt contains {' or '.join(words[:3])} from {source}: sample images will not show what is learned"
        )
        yield f"{what}; add the word to one, or leave validation_prompt out to generate prompts from {source}"


class SampleImageSettings(Settings):
    """Which sample images are drawn, when and how."""

    validation_prompt: tuple[str, ...] | None = setting(
        None, "output", "prompts of the sample images, or none to draw none; {instance_prompt} and {placeholder_token} "
        "stand for those settings", default_in_words="generated from instance_prompt or placeholder_token",
    )  # fmt: skip
    validation_images: tuple[str, ...] = setting(
        (), "output", "images that the sample images enlarge, one for each (super-resolution models: DeepFloyd IF's stage II)",
        text="path", default_in_words="the training images, made smaller",
    )  # fmt: skip
    num_validation_images: int | None = setting(
        None, "output", "sample images per prompt", ge=1, le=64,
        default_in_words="as many as validation_images, else 4, or 1 for generated prompts",
    )  # fmt: skip
    validation_steps: int | None = setting(
        None, "output", "steps between sample images; takes precedence over validation_epochs", ge=1, le=MANY,
        default_in_words="100; half of the run for generated prompts",
    )  # fmt: skip
    validation_epochs: int | None = setting(
        None, "output", "epochs between sample images, if validation_steps is not given", ge=1, le=MANY
    )
    validation_scheduler: str | None = setting(
        None, "output", "sampler of the sample images, such as DPM++ 2M Karras", default_in_words=OWN
    )
    sample_guidance_scale: float = setting(7.5, "output", "guidance scale of sample and class images", ge=0, le=100)
    sample_inference_steps: int = setting(25, "output", "denoising steps of sample and class images", ge=1, le=1000)
