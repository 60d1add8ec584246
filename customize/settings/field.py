"""One setting: its declaration, and whether a value is valid for it.

Flags, help, TOML files and checks are all generated from it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from customize.printable import printable
from customize.settings.texts import Kind, text_fault

BOUNDS = ("ge", "gt", "le", "lt", "multiple_of")
"""pydantic's constraints on a number."""
FACTS = ("section", "scope", "unit", "text", "only_with", "secret", "default_in_words", "page")
"""The keys of a field's `json_schema_extra`."""

Scope = Literal["model", "step", "sampling", "batch", "image", "file", "run"]
"""What a setting affects.

model: which networks are loaded, in which precision. step: an optimizer step.
sampling: passed to `Pipeline.generate` under the same name. batch: equal for all images that are generated together.
image: may differ between images that are generated together. file: how an image is written.
run: the run as a whole. Images do not record it. It may change when a run is resumed: it has no effect on the remaining
steps, or its consequences (images, captions, learning rates) are compared instead.
"""
SCOPES: Mapping[str, Scope] = {
    "model": "model", "method": "step", "data": "step", "train": "step", "inference": "batch", "output": "run",
}  # fmt: skip
"""The default scope of the settings of a section."""


@dataclass(frozen=True)
class OneOf:
    """An annotation: a string that is one of `choices`. For choices from a registry; fixed ones are a `Literal`."""

    choices: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(list(self.choices))


@dataclass(frozen=True)
class Setting:
    """The declaration of a setting, read from a pydantic field, in the terms of a command line.

    name; type of one value (bool, int, float, str; dict for a table); many: the setting is a tuple of such values; optional: it
    may be None, which is written "none"; one_value: the annotation of one value, with its constraints.
    scope: what it affects. unit: of a number.
    only_with: another setting and the values of it (empty: any) that this one needs to have an effect.
    secret: never printed, never written. default_in_words: shown instead of the default, if that depends on something else.
    page: of the documentation, which says more of its values than a message should.
    """

    name: str
    type: type
    many: bool
    optional: bool
    required: bool
    default: Any
    description: str
    section: str
    scope: Scope
    one_value: Any
    choices: tuple[str, ...] = ()
    unit: str = ""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    multiple_of: int | None = None
    text: Kind = "line"
    only_with: tuple[str, tuple[Any, ...]] | None = None
    secret: bool = False
    default_in_words: str = ""
    page: str = ""

    @property
    def range(self) -> str:
        """The range of a number in words, such as `above 0, at most 10`."""
        if self.ge is not None and self.le is not None:
            bounds = f"from {self.ge} to {self.le}"
        else:
            low = f"above {self.gt}" if self.ge is None else f"at least {self.ge}"
            bounds = f"{low}, " + (f"below {self.lt}" if self.le is None else f"at most {self.le}")
        return bounds + (f", a multiple of {self.multiple_of}" if self.multiple_of else "")

    @property
    def expected(self) -> str:
        """A valid value of this setting, in words."""
        if self.choices:
            words = f"one of {', '.join(self.choices)}"
        elif self.type is bool:
            words = "true or false"
        elif self.type is dict:
            words = f"a table, [[{self.name}]] in CONFIG.toml"
        elif self.type is str:
            words = "text"
        else:
            words = f"a {'whole ' if self.type is int else ''}number {self.range}"
        return words + (", or none" if self.optional else "")

    @property
    def default_text(self) -> str:
        """The default as `--help` and reports show it."""
        if self.default_in_words or self.required:
            return self.default_in_words or "required"
        if self.default in (None, ()):
            return "none"
        return " ".join(map(written, self.default if self.many else (self.default,)))

    def has_effect(self, needed: Any) -> bool:
        """Whether it has an effect when the setting that it depends on has the value `needed`."""
        if self.only_with is None:
            return True
        _, values = self.only_with
        return needed in values if values else needed not in (None, "none", ())

    def fault(self, value: Any) -> str | None:
        """What is wrong with one value of the right type, in words; None when it is valid."""
        if self.type is str and not self.choices:
            return text_fault(self.text, value)
        try:
            self._validator.validate_python(value)
        except ValidationError:
            return f"is not {self.expected}"
        return None

    @cached_property
    def _validator(self) -> TypeAdapter:
        return TypeAdapter(self.one_value, config=ConfigDict(allow_inf_nan=False))

    def quoted(self, value: Any) -> str:
        """A value as a report quotes it: shortened; the value of a secret is not shown."""
        if self.secret:
            return "the value"
        text = f'"{printable(value)}"' if isinstance(value, str) else written(value)
        return text if len(text) <= 80 else f"{text[:77]}..."


def written(value: Any) -> str:
    """A value as a user writes it: `true`, `none`, `0.1`."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def setting(
    default: Any,
    section: str,
    description: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    multiple_of: int | None = None,
    **facts: Any,
) -> Any:
    """A pydantic field that declares a setting. default: `...` = required; facts: `FACTS`, see `Setting`.

    Bounds of the values of a tuple go into the annotation: `tuple[Annotated[int, Field(ge=1)], ...]`.
    """
    if unknown := facts.keys() - set(FACTS):
        raise TypeError(f"a setting has no {', '.join(sorted(unknown))}")
    if needed := facts.get("only_with"):
        facts["only_with"] = {"setting": needed[0], "values": list(needed[1])}
    extra = {"section": section, "scope": SCOPES[section], **{name: value for name, value in facts.items() if value}}
    return Field(
        default,
        description=description,
        repr=not facts.get("secret"),
        json_schema_extra=extra,
        **{name: bound for name, bound in zip(BOUNDS, (ge, gt, le, lt, multiple_of), strict=True) if bound is not None},
    )


def override(model: type[BaseModel], name: str, default: Any, **changes: Any) -> Any:
    """The setting `name` of a parent model with another default, and other facts if given."""
    line = table(model)[name]
    bounds = () if line.many else BOUNDS  # those of a tuple's values are in its annotation
    facts = {fact: getattr(line, fact) for fact in ("description", *FACTS, *bounds)}
    return setting(default, **{**facts, "default_in_words": "", **changes})


def joined(models: Mapping[str, type[BaseModel]], name: str, where: str, **changes: Any) -> Any:
    """One declaration of a setting that each of these models has, with the widest of their ranges.

    models: by the value of the setting `where` with which they apply. Where their defaults or ranges differ, the words for the
    default and the description list them. Raises TypeError where their types differ.
    """
    lines = {value: table(model)[name] for value, model in models.items()}
    if len({(line.type, line.many, line.optional, line.choices) for line in lines.values()}) > 1:
        raise TypeError(f"{name} is declared with other types or choices by {', '.join(lines)}")
    model, first = next(iter(models.values())), next(iter(lines.values()))
    changes["default_in_words"] = first.default_in_words
    if len({line.default_text for line in lines.values()}) > 1:
        changes["default_in_words"] = by_value({value: line.default_text for value, line in lines.items()}, where, "{} ({})")
    if len({tuple(getattr(line, bound) for bound in BOUNDS) for line in lines.values()}) > 1:
        words = by_value({value: line.range for value, line in lines.items()}, where, "{} with {}")
        changes |= {"description": f"{first.description} ({words})", **widest([*lines.values()])}
    return override(model, name, model.model_fields[name].default, **changes)


def by_value(texts: Mapping[str, str], where: str, form: str) -> str:
    """The text that applies with each value of the setting `where`; one of many values comes last, without naming them. form: of
    a text and the values with which it applies."""
    values: dict[str, list[str]] = {}
    for value, text in texts.items():
        values.setdefault(text, []).append(value)
    rare = [form.format(text, f"{where} {', '.join(own)}") for text, own in values.items() if len(own) <= MANY_VALUES]
    return "; ".join(rare + [f"else {text}" for text, own in values.items() if len(own) > MANY_VALUES])


MANY_VALUES = 3
"""Values of a setting up to which each is named."""


def united(models: Mapping[str, type[BaseModel]], where: str, may_be_none: bool = False) -> type[BaseModel]:
    """A model of all settings of these models, by the value of the setting `where` with which each applies.

    Each setting has an effect only with the values whose models declare it; its default and range may differ between them.
    may_be_none: whether `where` has a value that stands for none of the models.
    """
    fields: dict[str, Any] = {}
    for name in dict.fromkeys(name for model in models.values() for name in model.model_fields):
        own = {value: model for value, model in models.items() if name in model.model_fields}
        of_all = len(own) == len(models)
        needs = {} if of_all and not may_be_none else {"only_with": (where, () if of_all else (*own,))}
        annotation = get_type_hints(next(iter(own.values())), include_extras=True)[name]
        fields[name] = (annotation, joined(own, name, where, **needs))
    return create_model(f"{where.capitalize()}Settings", **fields)


def widest(lines: Sequence[Setting]) -> dict[str, float | None]:
    """The bounds of the smallest range that includes those of all these numbers."""
    low, is_above = min((line.gt, True) if line.ge is None else (line.ge, False) for line in lines)
    high, is_included = max((line.lt, False) if line.le is None else (line.le, True) for line in lines)
    steps = {line.multiple_of for line in lines}
    own = {"gt" if is_above else "ge": low, "le" if is_included else "lt": high}
    return {**dict.fromkeys(BOUNDS), **own, "multiple_of": steps.pop() if len(steps) == 1 else None}


@cache
def table(model: type[BaseModel]) -> Mapping[str, Setting]:
    """All settings of a model by name, in the order of their declaration."""
    return {name: _line(name, field) for name, field in model.model_fields.items()}


def of_scope(model: type[BaseModel], *scopes: Scope) -> tuple[str, ...]:
    """The names of the settings that have one of these scopes."""
    return tuple(name for name, line in table(model).items() if line.scope in scopes)


def _line(name: str, field: FieldInfo) -> Setting:
    annotation: Any = field.annotation
    alternatives = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    (annotation,) = (alternative for alternative in alternatives if alternative is not NoneType)
    many = get_origin(annotation) is tuple
    one_value = get_args(annotation)[0] if many else annotation
    one_value = Annotated[one_value, *field.metadata] if field.metadata else one_value
    kind, *metadata = get_args(one_value) if get_origin(one_value) is Annotated else (one_value,)
    metadata = [part for each in metadata for part in (each.metadata if isinstance(each, FieldInfo) else [each])]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    extra: Any = field.json_schema_extra
    facts = {fact: extra[fact] for fact in FACTS if fact in extra}
    if needed := facts.get("only_with"):
        facts["only_with"] = (needed["setting"], tuple(needed["values"]))
    return Setting(
        name=name,
        type=str if choices else get_origin(kind) or kind,
        many=many,
        optional=NoneType in alternatives,
        required=field.is_required(),
        default=None if field.is_required() else field.default,
        description=field.description or "",
        one_value=one_value,
        choices=next((each.choices for each in metadata if isinstance(each, OneOf)), choices),
        **facts,
        **{bound: getattr(each, bound) for each in metadata for bound in BOUNDS if hasattr(each, bound)},
    )
