"""BitFit, without torch: its settings and what follows from them."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from customize import adapters
from customize.data.captions.caption_rule import CaptionRule
from customize.settings.concept import Concept, of_prompts
from customize.settings.field import setting
from customize.settings.rules.training_rules import examples
from customize.settings.training import TrainingSettings


class BiasSettings(TrainingSettings):
    """Teach a base model a subject by training the biases of its denoiser."""

    command: ClassVar[str] = "train_bias.py"
    rules = (*TrainingSettings.rules, *examples("images"))
    subject_setting: ClassVar[str] = "subject_prompt"
    image_folder_setting: ClassVar[str] = "images"

    subject_prompt: str = setting(..., "method", "prompt of the subject")
    images: str | None = setting(None, "data", "folder of images of the subject", text="path", scope="run")
    captions: Literal["prompt"] = setting("prompt", "data", "where captions come from", scope="run")

    @property
    def subject(self) -> str:
        return self.subject_prompt

    @property
    def description(self) -> str:
        return f'biases: those of the denoiser are trained on "{self.subject_prompt}"'

    @property
    def concepts(self) -> tuple[Concept, ...]:
        return (of_prompts(self.subject_prompt, None, ()),)

    @property
    def image_folders(self) -> tuple[str, ...]:
        return (self.images,) if self.images else ()

    def caption_rule(self, index: int, num_folders: int) -> CaptionRule:
        return CaptionRule("prompt", (self.subject_prompt,))

    @property
    def trigger_words(self) -> tuple[str, ...]:
        return (self.subject_prompt,)

    def is_called_by(self, prompts: Sequence[str]) -> bool:
        return self.subject_prompt in prompts

    @property
    def default_validation_prompts(self) -> tuple[str, ...]:
        return (self.subject_prompt,)

    @property
    def result_files(self) -> tuple[str, ...]:
        return adapters.build(adapters.NONE).files(self)

    @property
    def trains_whole_networks(self) -> bool:
        return True
