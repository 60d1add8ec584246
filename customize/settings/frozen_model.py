"""A frozen pydantic model that is only created if all of it is valid; one `InputError` lists all problems."""

import os
import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, ValidationInfo, field_validator

from customize.errors import InputError, Problem
from customize.settings.field import Setting, table
from customize.settings.rules.rule import Rule, broken
from customize.settings.suggestions import nearest, number_meant, unknown
from customize.settings.texts import PATHS, text_fault

SECTIONS = {
    "model": "base model and how to run it",
    "method": "what is learned",
    "inference": "what is generated",
    "data": "images and their captions",
    "train": "the training loop",
    "output": "output files",
}

OUT_OF_RANGE = (
    "greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of", "finite_number",
)  # fmt: skip
"""pydantic's error types for values that are numbers but not allowed ones."""


class Validated(BaseModel):
    """Base class of all settings. Fields are declared with `customize.settings.field.setting`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)
    command: ClassVar[str] = ""
    rules: ClassVar[tuple[Rule, ...]] = ()
    commands: ClassVar[list[type["Validated"]]] = []  # every model that belongs to a command

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if cls.command:
            cls.commands.append(cls)

    def __init__(self, **values: Any) -> None:
        if found := self._fill(values, {}):
            raise InputError(found)

    @classmethod
    def examine(cls, values: Mapping[str, Any], faulty: Collection[str] = ()) -> tuple[Self, list[Problem]]:
        """A settings object and all its problems. Invalid values are replaced by defaults or None.

        faulty: names of settings whose problems are already known; rules that need these are skipped.
        """
        fit: dict[str, Any] = {}
        settings = cls.__new__(cls)
        problems = settings._fill(values, fit, faulty)
        if problems:
            nothing = {name: () if line.many else None for name, line in table(cls).items() if line.required}
            settings = cls.model_construct(**nothing | fit)
        return settings, problems

    @classmethod
    def completed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values, completed with the defaults that depend on other values."""
        return values

    def _fill(self, values: Mapping[str, Any], fit: dict[str, Any], faulty: Collection[str] = ()) -> list[Problem]:
        """Validate all fields into `self`, and the valid ones also into `fit`; return the problems."""
        problems: list[Problem] = []
        faulty = set(faulty)
        try:
            self.__pydantic_validator__.validate_python(dict(self.completed(values)), self_instance=self, context=fit)
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                faulty.add(name := str(fault["loc"][0]))
                problems.append(self._problem(name, fault))
        return problems + broken(self.rules, table(type(self)), fit, faulty)

    @field_validator("*", mode="before")
    @classmethod
    def _before(cls, value: Any, info: ValidationInfo) -> Any:
        line = table(cls)[str(info.field_name)]
        words = value if isinstance(value, (list, tuple)) else (value,)
        unset = line.optional or (line.many and line.default == () and not line.choices)
        unset &= line.text != "prompt" or isinstance(value, str)  # in a list, "none" is a prompt
        if unset and len(words) == 1 and isinstance(words[0], str) and words[0].casefold() == "none":
            return () if line.many else None
        if line.optional and line.many and value is None:
            return None
        if line.many and not isinstance(value, (list, tuple)):
            value = (value,)
        for each in value if line.many else (value,):
            if isinstance(each, bool) and line.type in (int, float):
                raise ValueError(f"{line.quoted(each)} is not {line.expected}")
        if line.text in PATHS:
            paths = value if line.many else (value,)
            homes = [os.path.expanduser(each) if isinstance(each, str | os.PathLike) else each for each in paths]
            value = tuple(homes) if line.many else homes[0]
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _after(cls, value: Any, info: ValidationInfo) -> Any:
        line = table(cls)[str(info.field_name)]
        if line.many and line.default not in ((), None) and not value:
            raise ValueError("is empty")
        for each in value if line.many and value else (value,):
            if isinstance(each, str) and not line.choices and (fault := text_fault(line.text, each)):
                raise ValueError(f"{line.quoted(each)} {fault}")
        info.context[info.field_name] = value  # type: ignore[index]
        return value

    @classmethod
    def _problem(cls, name: str, fault: Any) -> Problem:
        """A pydantic error, in the words of the setting's declaration."""
        if fault["type"] == "extra_forbidden":
            return cls.unknown_setting(name)
        line = table(cls)[name]
        if fault["type"] == "missing":
            return Problem(name, "is missing", f"set it: {line.description}")
        given = fault["input"]
        if fault["type"] in OUT_OF_RANGE and isinstance(given, str):
            given = TypeAdapter(line.type).validate_python(given)
        what = f"{line.quoted(given)} is not {line.expected}"
        if fault["type"] == "value_error":
            what = str(fault["ctx"]["error"])
        near = nearest(str(fault["input"]).casefold(), line.choices)
        if line.type in (int, float) and isinstance(fault["input"], str) and not line.secret:
            near = number_meant(line, fault["input"])
        if line.text in PATHS and "control character" in what:
            near = "in double quotes a backslash starts an escape: use forward slashes, or single quotes"
            return Problem(name, what, near)
        if line.text == "weights" and (comma := re.match(r'"([^"]+:\d*),(\d+)" has', what)):
            near = f"{comma[1]}.{comma[2]}"
        default = "" if line.required else f" (default: {line.default_text})"
        words = f"give one of these{default}; {line.page} says what each is" if line.page else ""
        remedy = f"did you mean {near}?" if near else words or f"give a valid value: {line.description}{default}"
        return Problem(name, what, remedy)

    @classmethod
    def unknown_setting(cls, name: str) -> Problem:
        """The problem of an unknown name: the command that has this setting, otherwise the most similar name."""
        for other in cls.commands:
            if other is not cls and name in table(other):
                return Problem(name, f"is not a setting of {cls.command}", f"leave it out: it is a setting of {other.command}")
        return unknown(name, dict.fromkeys(table(cls), ""))

    def values(self) -> dict[str, Any]:
        """The settings that have an effect, by name, without secrets: `type(self)(**values)` is an equal object."""
        lines = table(type(self)).values()
        return {line.name: getattr(self, line.name) for line in lines if not line.secret and self.has_effect(line.name)}

    def has_effect(self, name: str) -> bool:
        """Whether a setting has an effect, given the others."""
        line = table(type(self))[name]
        return line.only_with is None or line.has_effect(getattr(self, line.only_with[0]))

    def notes(self) -> list[str]:
        """One line for each setting that is allowed but has no effect."""
        return []

    def to_toml(self, only: Mapping[str, Any] | None = None) -> str:
        """A TOML file that starts the same run again; secrets (`hub_token`) are left out. only: these values instead."""
        from customize.settings.files.toml_file import write

        values = self.values() if only is None else dict(only)
        others = {name: value for name, value in values.items() if value is not None}
        explicit = {name for name in values if values[name] is None and self.completed(others).get(name) is not None}
        return write(by_section(type(self)), values, explicit)


def by_section(model: type[BaseModel]) -> dict[str, list[Setting]]:
    """The settings by section, as in TOML and help."""
    lines = table(model).values()
    found = {section: [line for line in lines if line.section == section] for section in SECTIONS}
    return {section: members for section, members in found.items() if members}
