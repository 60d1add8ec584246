"""Textual inversion without torch: its settings and what follows from them."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from customize import units
from customize.data.captions import OBJECT_TEMPLATES, STYLE_TEMPLATES, CaptionRule, fill
from customize.errors import Problem
from customize.settings.field import override, setting
from customize.settings.rules.rule import Rule, rule, text_is_no_path
from customize.settings.rules.training_rules import examples
from customize.settings.training import TrainingSettings
from customize.settings.validation_prompts import LONGEST, MOST_WORDS
from customize.storage.run_folder import embedding_file

ADAM_ON_A_SPHERE = "normalize_embedding takes plain steps on the sphere, not Adam's"


def one_or_one_each(name: str) -> Rule:
    """`name` has one value, or as many as there are new words."""

    @rule("placeholder_token", name)
    def check(tokens: tuple[str, ...], values: tuple) -> Iterator[Problem]:
        if len(values) > 1 and len(values) != len(tokens):
            what = f"has {len(values)} values for {len(tokens)} placeholder_token"
            yield Problem(name, what, "give one, or one per placeholder_token")

    return check


@rule("placeholder_token")
def distinct_placeholders(placeholder_token: tuple[str, ...]) -> Iterator[Problem]:
    """Placeholders differ in more than case."""
    tokens = [token.casefold() for token in placeholder_token]
    for token in {token for token in tokens if tokens.count(token) > 1}:
        yield Problem("placeholder_token", f'"{token}" is given twice (upper and lower case are the same)', "choose another word")


@rule("placeholder_token")
def distinct_files(placeholder_token: tuple[str, ...]) -> Iterator[Problem]:
    """With several placeholders each has a file, named after the letters, digits, - and _ of the placeholder."""
    tokens = {token.casefold(): token for token in placeholder_token}
    files = [embedding_file(token, alone=False) for token in tokens]
    clashing = [token for token, file in zip(tokens.values(), files, strict=True) if files.count(file) > 1]
    if clashing:
        yield Problem("placeholder_token", f"{', '.join(clashing)} would be saved in one file", "let their letters differ")


@rule("normalize_embedding", "use_8bit_adam")
def directions_only(normalize_embedding: bool, use_8bit_adam: bool) -> Iterator[Problem]:
    """`normalize_embedding` has an optimizer of its own."""
    if normalize_embedding and use_8bit_adam:
        yield Problem("use_8bit_adam", ADAM_ON_A_SPHERE, "leave one of them out")


@rule("placeholder_token", "num_vectors")
def placeholders_of_several_vectors(tokens: tuple[str, ...], num_vectors: tuple[int, ...]) -> Iterator[Problem]:
    """A placeholder of several vectors is `<cat> <cat>_1 <cat>_2` to the tokenizer; no other may have one of these names."""
    counts = num_vectors * len(tokens) if len(num_vectors) == 1 else num_vectors
    for token, count in zip(tokens, counts, strict=False):
        for other in {f"{token}_{index}" for index in range(1, count)} & set(tokens):
            yield Problem("placeholder_token", f'"{other}" is also the name of a vector of "{token}"', "choose another word")


class TextualInversionSettings(TrainingSettings):
    """Teach a base model new tokens by textual inversion: only their embedding vectors are trained."""

    command: ClassVar[str] = "train_textual_inversion.py"
    rules = (
        *TrainingSettings.rules, text_is_no_path("initializer_token"), *examples("train_data_dir"),
        *map(one_or_one_each, ("initializer_token", "num_vectors", "train_data_dir")),
        distinct_placeholders, distinct_files, directions_only, placeholders_of_several_vectors,
    )  # fmt: skip
    subject_setting: ClassVar[str] = "placeholder_token"
    image_folder_setting: ClassVar[str] = "train_data_dir"

    placeholder_token: tuple[str, ...] = setting(..., "method", "new tokens to learn, such as <cat-toy>", text="placeholder")
    initializer_token: tuple[str, ...] = setting(
        ..., "method", "known words or phrases to initialize from; one, or one per placeholder_token"
    )
    num_vectors: tuple[Annotated[int, Field(ge=1, le=75)], ...] = setting(
        (1,), "method", "vectors per token; one number, or one per placeholder_token"
    )
    learnable_property: Literal["object", "style"] = setting("object", "method", "what the tokens represent")
    normalize_embedding: bool = setting(
        False, "method", "learn only the direction of the embeddings, at the vocabulary's norm (Directional Textual Inversion)"
    )
    train_data_dir: tuple[str, ...] = setting(
        (), "data", "folders of images; one, or one per placeholder_token", text="path", scope="run"
    )
    captions: Literal["auto", "files", "templates"] = setting(
        "auto",
        "data",
        "captions from files beside the images, from templates, or (auto) from files where they exist",
        scope="run",
    )
    train_batch_size: int = override(TrainingSettings, "train_batch_size", 4)
    learning_rate: float = override(TrainingSettings, "learning_rate", 5e-3)
    max_train_steps: int | None = override(TrainingSettings, "max_train_steps", 500)
    output_dir: str | None = override(
        TrainingSettings, "output_dir", None, default_in_words="a new one each time: runs/textual_inversion-0001, ..."
    )

    @property
    def subject(self) -> str:
        return " and ".join(self.placeholder_token)

    @property
    def description(self) -> str:
        words = [f"{token} ({units.count(number, 'vector')})" for token, number in self.placeholders.items()]
        start = ", ".join(f'"{each}"' for each in self.initializer_token)
        kind = "a style" if self.learnable_property == "style" else "an object"
        return f"textual inversion: learns {kind} as {', '.join(words)}, starting from {start}"

    @property
    def placeholders(self) -> dict[str, int]:
        tokens, counts = self.placeholder_token, self.num_vectors
        return dict(zip(tokens, counts * len(tokens) if len(counts) == 1 else counts, strict=False))

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
            fallback = fill(templates, tokens[index])
            return CaptionRule(self.captions, fallback, "write one, or use --captions auto", tokens, **around)
        remedy = f"write one with {' or '.join(tokens)} in it, or give one train_data_dir for each token"
        return CaptionRule(self.captions, (), remedy, tokens, **around)

    @property
    def trigger_words(self) -> tuple[str, ...]:
        return self.placeholder_token

    def is_called_by(self, prompts: Sequence[str]) -> bool:
        return any(token.casefold() in prompt.casefold() for token in self.placeholder_token for prompt in prompts)

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
    def result_files(self) -> tuple[str, ...]:
        return tuple(embedding_file(token, alone=len(self.placeholder_token) == 1) for token in self.placeholder_token)

    @property
    def start_label(self) -> str:
        """Before training, placeholders have the embeddings of their initializer tokens."""
        tokens, starts = self.placeholder_token, self.initializer_token
        starts = starts * len(tokens) if len(starts) == 1 else starts
        return ", ".join(f'"{start}" for {token}' for token, start in zip(tokens, starts, strict=True))

    @classmethod
    def standing_in(cls, folder: str) -> dict[str, str]:
        return {"train_data_dir": folder, "initializer_token": "thing"}
