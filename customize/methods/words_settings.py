"""The settings of new words, without torch: of textual inversion, and of DreamBooth that learns words beside an adapter."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model

from customize import units
from customize.errors import Problem
from customize.families.trigger_words import any_calls
from customize.optim.optimizers import DEFAULT
from customize.settings.field import override, setting, table
from customize.settings.rules.rule import Rule, rule, text_is_no_path
from customize.storage.run_folder import embedding_file

WITH_WORDS = ("placeholder_token", ())


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


@rule("normalize_embedding", "use_ema", "optimizer")
def directions_are_not_averaged(normalize_embedding: bool, use_ema: bool, optimizer: str) -> Iterator[Problem]:
    """An average of directions is shorter than each of them."""
    what = "cannot be combined with normalize_embedding: the average of embeddings of one norm has another"
    for name, averages in (("use_ema", use_ema), ("optimizer", optimizer == "schedule_free")):
        if normalize_embedding and averages:
            yield Problem(name, what, "leave one of them out")


@rule("normalize_embedding", "optimizer")
def directions_have_their_steps(normalize_embedding: bool, optimizer: str) -> Iterator[Problem]:
    """`normalize_embedding` has an optimizer of its own: where only words are learned, no other has an effect."""
    if normalize_embedding and optimizer != DEFAULT:
        what = f"{optimizer} has no effect with normalize_embedding, which takes plain steps on the sphere"
        yield Problem("optimizer", what, "leave one of them out")


@rule("placeholder_token", "num_vectors")
def placeholders_of_several_vectors(tokens: tuple[str, ...], num_vectors: tuple[int, ...]) -> Iterator[Problem]:
    """A placeholder of several vectors is `<cat> <cat>_1 <cat>_2` to the tokenizer; no other may have one of these names."""
    counts = num_vectors * len(tokens) if len(num_vectors) == 1 else num_vectors
    for token, count in zip(tokens, counts, strict=False):
        for other in {f"{token}_{index}" for index in range(1, count)} & set(tokens):
            yield Problem("placeholder_token", f'"{other}" is also the name of a vector of "{token}"', "choose another word")


@rule("placeholder_token", "initializer_token")
def words_have_a_start(tokens: tuple[str, ...], initializer_token: tuple[str, ...]) -> Iterator[Problem]:
    """Each new word has a known word to start from."""
    if tokens and not initializer_token:
        what = f"is missing: {tokens[0]} starts from the embeddings of known words"
        yield Problem("initializer_token", what, "give words that describe it, such as cat")


@rule("placeholder_token", "initializer_token")
def starts_are_known(tokens: tuple[str, ...], initializer_token: tuple[str, ...]) -> Iterator[Problem]:
    """No new word starts from a new word, which the base model does not know."""
    new = {token.casefold() for token in tokens}
    for start in initializer_token:
        if start.casefold() in new:
            yield Problem(
                "initializer_token", f'"{start}" is the new word itself', "give known words that describe it, such as cat"
            )


@rule("placeholder_token", "instance_prompt", "class_prompt")
def prompts_of_words(tokens: tuple[str, ...], instance_prompt: str | None, class_prompt: str | None) -> Iterator[Problem]:
    """The instance prompt has a new word, the class prompt has none: it describes what the base model knows."""
    if tokens and instance_prompt and not any_calls([instance_prompt], tokens):
        what = f'has no new word: "{instance_prompt}"'
        yield Problem("instance_prompt", what, f"write {' or '.join(tokens)} in it, or leave it out")
    for token in tokens:
        if class_prompt and any_calls([class_prompt], [token]):
            what = f"contains {token}, but the base model does not know new words"
            yield Problem("class_prompt", what, "describe the class in known words, such as `a photo of dog`")


RULES = (
    text_is_no_path("initializer_token"), *map(one_or_one_each, ("initializer_token", "num_vectors")), distinct_placeholders,
    distinct_files, directions_are_not_averaged, placeholders_of_several_vectors, starts_are_known,
)  # fmt: skip


class WordSettings(BaseModel):
    """New words and how they are learned."""

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

    @property
    def placeholders(self) -> dict[str, int]:
        return one_each(self.placeholder_token, self.num_vectors)

    @property
    def starts(self) -> dict[str, str]:
        """The initializer token of each new word."""
        return one_each(self.placeholder_token, self.initializer_token)

    @property
    def word_files(self) -> tuple[str, ...]:
        """The file of each word."""
        return tuple(embedding_file(token, alone=len(self.placeholder_token) == 1) for token in self.placeholder_token)

    @property
    def words_in_words(self) -> str:
        """The new words with their numbers of vectors, and what they start from."""
        words = [f"{token} ({units.count(number, 'vector')})" for token, number in self.placeholders.items()]
        start = ", ".join(f'"{each}"' for each in self.initializer_token)
        return f"{', '.join(words)}, starting from {start}"

    @property
    def words_at_start(self) -> str:
        """What placeholders mean before training: their initializer tokens."""
        return ", ".join(f'"{start}" for {token}' for token, start in self.starts.items())


def one_each(tokens: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """A value for each new word; a single value is that of all."""
    return dict(zip(tokens, [*values] * len(tokens) if len(values) == 1 else values, strict=False))


def optional(model: type[WordSettings]) -> Any:
    """The same settings for a method that learns words only if some are given."""
    fields: dict[str, Any] = {}
    for name, line in table(model).items():
        facts = {"only_with": WITH_WORDS}
        if name == "placeholder_token":
            facts = {"description": "new tokens to learn beside the adapter (pivotal tuning), such as <cat-toy>"}
        fields[name] = (model.__annotations__[name], override(model, name, () if line.required else line.default, **facts))
    return create_model("OptionalWordSettings", __base__=model, **fields)


def implied_prompt(values: Mapping[str, Any]) -> dict[str, Any]:
    """The instance prompt that a single new word implies."""
    tokens = values.get("placeholder_token")
    token = tokens[0] if isinstance(tokens, list | tuple) and len(tokens) == 1 else tokens
    if not isinstance(token, str) or token == "none":
        return {}
    kind = "a picture in the style of" if values.get("learnable_property") == "style" else "a photo of"
    return {"instance_prompt": f"{kind} {token}"}


def words_in(settings: WordSettings, prompt: str) -> dict[str, tuple[Any, ...]]:
    """The settings of those of the new words that a prompt has."""
    tokens = settings.placeholder_token
    kept = [place for place, token in enumerate(tokens) if any_calls([prompt], [token])]
    values = {"placeholder_token": tokens, "initializer_token": settings.initializer_token, "num_vectors": settings.num_vectors}
    return {
        name: tuple(own[place] for place in kept) if own is tokens or len(own) == len(tokens) > 1 else own
        for name, own in values.items()
    }
