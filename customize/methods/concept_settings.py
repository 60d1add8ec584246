"""Several concepts in one run of DreamBooth: a `[[concept]]` table for each, with its own images, prompts and prior. No torch.

Each table is checked like the settings of a run of its own, which take what it does not have from the run's.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from customize.data import kohya_folder
from customize.errors import Problem
from customize.families.trigger_words import any_calls, rare_words
from customize.methods.part_settings import PartSettings
from customize.settings.field import setting, table
from customize.settings.rules.rule import rule
from customize.settings.rules.training_rules import same
from customize.settings.suggestions import unknown

OF_ONE = ("instance_data_dir", "instance_prompt", "class_prompt", "class_data_dir", "validation_data_dir", "mask_data_dir")
"""Settings of one concept: where there are several, only their tables have them."""
OWN = (
    *OF_ONE, "repeats", "prior_preservation", "prior_loss_weight", "num_class_images", "class_image_captions", "captions",
    "caption_prefix", "caption_suffix", "caption_templates",
)  # fmt: skip
"""What a table may have."""


class ConceptSettings(PartSettings):
    """The concepts of a run that teaches several."""

    concept: tuple[dict[str, Any], ...] = setting(
        (), "method", f"several concepts, each a [[concept]] table of CONFIG.toml with instance_data_dir and instance_prompt of "
        f"its own, and what else of {', '.join(OWN[2:])} differs from the run's. All are shown equally often, however many "
        "images each has, unless a table has repeats: then each of its images is used as often in an epoch",
    )  # fmt: skip
    concepts_list: str | None = setting(
        None, "method", "JSON file of such tables, a list: instance_prompt, class_prompt, instance_data_dir, class_data_dir",
        text="path", scope="run",
    )  # fmt: skip

    def _fill(self, values: Mapping[str, Any], fit: dict[str, Any], faulty: Collection[str] = ()) -> list[Problem]:
        given = values.get("concept") or ()
        tables = [given] if isinstance(given, dict) else given
        if not (isinstance(tables, list | tuple) and tables and all(isinstance(each, dict) for each in tables)):
            return super()._fill(values, fit, faulty)
        shared = {name: value for name, value in values.items() if name not in ("concept", "concepts_list", *OF_ONE)}
        known = [{name: value for name, value in each.items() if name in OWN} for each in tables]
        checked = [type(self).examine({**shared, **each}, faulty) for each in known]
        complete = [complete_table(own, settings) for own, (settings, _) in zip(known, checked, strict=True)]
        problems = super()._fill({**values, "concept": complete}, fit, {*faulty, *OF_ONE})
        for name in OF_ONE:
            if values.get(name) not in (None, "none"):
                what = "is of one concept, and there are [[concept]] tables"
                problems.append(Problem(name, what, "move it into the table of its concept"))
        for number, (own, (_, found)) in enumerate(zip(tables, checked, strict=True), 1):
            strays = [stray(type(self), name) for name in own if name not in OWN]
            problems += [named(number, each) for each in (*strays, *found) if each not in problems]
        return problems

    @property
    def parts(self) -> tuple[Self, ...]:
        return tuple(map(self.part, self.concept)) if self.concept else (self,)

    def part(self, own: Mapping[str, Any]) -> Self:
        """The settings of the concept of a table, as of a run that teaches it alone."""
        return self.model_copy(update={"concept": (), **own})

    @property
    def repeats_of_concepts(self) -> tuple[int, ...] | None:
        are_given = any("repeats" in own for own in self.concept)
        return tuple(own.get("repeats", 1) for own in self.concept) if are_given else None

    def of_all(self, name: str) -> tuple[Any, ...]:
        """The values of a property, a tuple, of all concepts, each once."""
        return tuple(dict.fromkeys(value for part in self.parts for value in getattr(part, name)))


def complete_table(own: Mapping[str, Any], settings: ConceptSettings) -> dict[str, Any]:
    """A table with its values as checked, and with those that its folder implies. settings: of the concept alone."""
    names = {*own, "instance_prompt", *dict(kohya_folder.implied(own))}
    return {name: getattr(settings, name) for name in OWN if name in names}


def stray(model: type[ConceptSettings], name: str) -> Problem:
    """The problem of a name that a table may not have."""
    if name in table(model):
        return Problem(name, "is a setting of the run, not of a concept", "move it above the [[concept]] tables")
    return unknown(name, dict.fromkeys(OWN, ""))


def named(number: int, problem: Problem) -> Problem:
    """The problem of a concept, with its number."""
    return replace(problem, where=f"concept {number}: {problem.where}")


@rule("instance_prompt", "concept", "concepts_list")
def subject_is_given(
    instance_prompt: str | None, concept: tuple[dict[str, Any], ...], concepts_list: str | None
) -> Iterator[Problem]:
    """The subject has a prompt, and a file of concepts was read."""
    if concepts_list is not None:
        yield Problem(
            "concepts_list", "is a file, and settings alone read none", "use `read_settings`, or give its tables as concept"
        )
    elif not concept and instance_prompt is None:
        yield Problem("instance_prompt", "is missing", "set it: prompt of the subject, such as `a photo of sks dog`")


@rule("concept", "dataset_name")
def concepts_are_in_folders(concept: tuple[dict[str, Any], ...], dataset_name: str | None) -> Iterator[Problem]:
    """Each concept has a folder."""
    if concept and dataset_name:
        yield Problem(
            "dataset_name", "cannot be combined with [[concept]] tables", "leave it out: each has its instance_data_dir"
        )


@rule("concept", "placeholder_token")
def concepts_are_told_apart(concept: tuple[dict[str, Any], ...], tokens: tuple[str, ...]) -> Iterator[Problem]:
    """No two concepts have a trigger word or a folder in common."""
    for number, own in enumerate(concept, 1):
        for earlier, other in enumerate(concept[: number - 1], 1):
            where, prompts = f"concept {number}: ", (own.get("instance_prompt"), other.get("instance_prompt"))
            if all(prompts) and (words := in_common(own, other, tokens)):
                what = f"{' and '.join(words)} call{'s' * (len(words) == 1)} concept {earlier}, too"
                yield Problem(f"{where}instance_prompt", what, "give each concept a rare word of its own, such as sks and ohwx")
            if folders_in_common(own, other, "instance_data_dir"):
                yield Problem(f"{where}instance_data_dir", f"is the folder of concept {earlier}, too", "give each its own images")
            if folders_in_common(own, other, "class_data_dir") and own.get("class_prompt") != other.get("class_prompt"):
                what = f"is the folder of concept {earlier}, too, which has another class_prompt"
                yield Problem(f"{where}class_data_dir", what, "give each class a folder of its own")


def in_common(one: Mapping[str, Any], other: Mapping[str, Any], tokens: Sequence[str]) -> Sequence[str]:
    """The trigger words of either concept that are in a prompt of the other. tokens: new words, which come before rare ones."""
    found = []
    for own, prompts in (one, other), (other, one):
        texts = [text for text in (prompts.get("instance_prompt"), prompts.get("class_prompt")) if text]
        prompt = own["instance_prompt"]
        words = [token for token in tokens if any_calls([prompt], [token])] or rare_words(prompt, own.get("class_prompt"))
        found += [word for word in words if any_calls(texts, [word])]
    return list(dict.fromkeys(found))


def folders_in_common(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool:
    """Whether two concepts name the same folder."""
    return bool(one.get(name) and other.get(name)) and same(one[name], other[name])


RULES = (subject_is_given, concepts_are_in_folders, concepts_are_told_apart)
