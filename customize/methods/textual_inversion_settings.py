"""Textual inversion without torch: its settings and what follows from them."""

from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal

from customize.data.captions.caption_rule import OBJECT_TEMPLATES, STYLE_TEMPLATES, CaptionRule, fill
from customize.methods import words_settings
from customize.methods.words_settings import WordSettings
from customize.settings.concept import Concept, kind_of
from customize.settings.field import override, setting
from customize.settings.rules.mask_rules import words_have_no_masked_prior
from customize.settings.rules.training_rules import examples
from customize.settings.training import TrainingSettings
from customize.settings.training_parts.optimizer_settings import with_optimizer
from customize.settings.training_parts.validation_prompts import LONGEST, MOST_WORDS


class TextualInversionSettings(WordSettings, TrainingSettings):
    """Teach a base model new tokens by textual inversion: only their embedding vectors are trained."""

    command: ClassVar[str] = "train_textual_inversion.py"
    rules = (
        *TrainingSettings.rules, *words_settings.RULES, *examples("train_data_dir"),
        words_settings.one_or_one_each("train_data_dir"), words_have_no_masked_prior, words_settings.directions_have_their_steps,
    )  # fmt: skip
    subject_setting: ClassVar[str] = "placeholder_token"
    image_folder_setting: ClassVar[str] = "train_data_dir"

    train_data_dir: tuple[str, ...] = setting(
        (), "data", "folders of images; one, or one per placeholder_token", text="path", scope="run"
    )
    captions: Literal["auto", "files", "file_names", "templates"] = setting(
        "auto", "data", "captions from files beside the images, from the images' names, from templates, or (auto) from files "
        "where they exist", scope="run",
    )  # fmt: skip
    train_batch_size: int = override(TrainingSettings, "train_batch_size", 4)
    learning_rate: float = override(TrainingSettings, "learning_rate", 5e-3, default_in_words=with_optimizer(5e-3))
    max_train_steps: int | None = override(TrainingSettings, "max_train_steps", 500)
    output_dir: str | None = override(
        TrainingSettings, "output_dir", None, default_in_words="a new one each time: runs/textual_inversion-0001, ..."
    )

    @property
    def subject(self) -> str:
        return " and ".join(self.placeholder_token)

    @property
    def description(self) -> str:
        kind = "a style" if self.learnable_property == "style" else "an object"
        return f"textual inversion: learns {kind} as {self.words_in_words}"

    @property
    def image_folders(self) -> tuple[str, ...]:
        return self.train_data_dir

    def caption_rule(self, index: int, num_folders: int) -> CaptionRule:
        tokens = self.placeholder_token
        around = {"prefix": self.caption_prefix or "", "suffix": self.caption_suffix or ""}
        if not tokens:  # a fault of the settings that is reported elsewhere
            return CaptionRule("prompt", ("a picture",), **around)
        if len(tokens) == num_folders:
            templates = STYLE_TEMPLATES if self.learnable_property == "style" else OBJECT_TEMPLATES
            fallback, own = (
                fill(templates, tokens[index]),
                {"subject": tokens[index], "trigger": tokens[index], "triggers": tokens},
            )
            return CaptionRule(self.captions, fallback, "write one, or use --captions auto", tokens, **around, **own)
        remedy = f"write one with {' or '.join(tokens)} in it, or give one train_data_dir for each token"
        return CaptionRule(self.captions, (), remedy, tokens, **around)

    @property
    def trigger_words(self) -> tuple[str, ...]:
        return self.placeholder_token

    def is_called_by(self, prompts: Sequence[str]) -> bool:
        return any(token.casefold() in prompt.casefold() for token in self.placeholder_token for prompt in prompts)

    def can_change(self, prompt: str) -> bool:
        """A prompt without new words is read as before."""
        return self.is_called_by([prompt])

    @property
    def default_validation_prompts(self) -> tuple[str, ...]:
        tokens = dict(islice(self.placeholders.items(), MOST_WORDS))
        if self.learnable_property == "style":
            scenes = ["a house in the style of {}", "a fox in the forest in the style of {}"]
        else:
            scenes = ["a photo of {}", "a photo of {} on the beach"]
        prompts = [
            scene.replace("{}", token) if count + len(scene.encode()) <= LONGEST else token
            for token, count in tokens.items()
            for scene in (scenes if len(tokens) == 1 else scenes[:1])
        ]
        return tuple(dict.fromkeys(prompts))

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """That of each token."""
        if self.learnable_property == "style":
            return tuple(Concept("style", f"in the style of {token}", "", token, "") for token in self.placeholder_token)
        return tuple(
            Concept(kind_of(start), f"a photo of {token}", f"a photo of {start}", token, start)
            for token, start in self.starts.items()
        )

    def shows(self, place: int, example: Any) -> bool:
        """Whether its captions have the token; a single one is shown by all images."""
        token = self.placeholder_token[place]
        return len(self.placeholder_token) == 1 or any(token.casefold() in text.casefold() for text in example.captions)

    @property
    def result_files(self) -> tuple[str, ...]:
        return self.word_files

    @property
    def start_label(self) -> str:
        return self.words_at_start

    @classmethod
    def standing_in(cls, folder: str, given: Collection[str]) -> dict[str, str]:
        return {"train_data_dir": folder, "initializer_token": "thing"}
