"""Rules about captions whose tags are drawn anew in each use. See `rule.py`."""

from collections.abc import Iterator
from typing import Any

from customize.errors import Problem
from customize.settings.rules.rule import Rule, rule

VARYING = ("shuffle_tags", "tag_dropout", "tag_warmup_steps")
"""The settings by which captions vary from use to use."""


@rule(*VARYING, "keep_tags", "tag_separator", "tag_warmup_min")
def tags_are_drawn(
    shuffle: bool, dropout: float, warmup: int, keep_tags: int, tag_separator: str, tag_warmup_min: int
) -> Iterator[Problem]:
    """What is said of tags has an effect: captions are used as they are written otherwise."""
    remedy = "set shuffle_tags = true, tag_dropout or tag_warmup_steps, or leave it out"
    for name, given, default in (("keep_tags", keep_tags, 0), ("tag_separator", tag_separator, ",")):
        if given != default and not (shuffle or dropout or warmup):
            yield Problem(name, "has no effect: no tag changes its place or is left out", remedy)
    if tag_warmup_min != 1 and not warmup:
        yield Problem("tag_warmup_min", "has no effect without tag_warmup_steps", "set tag_warmup_steps, or leave it out")


def needs_fixed_captions(name: str, why: str) -> Rule:
    """With the setting `name` the text encoder is not there in the steps."""

    @rule(*VARYING, name)
    def check(shuffle: bool, dropout: float, warmup: int, value: Any) -> Iterator[Problem]:
        if value and (shuffle or dropout or warmup):
            given = "shuffle_tags" if shuffle else "tag_dropout" if dropout else "tag_warmup_steps"
            yield Problem(given, f"varies captions from step to step, but {why}", f"leave out {given} or {name}")

    return check


text_encoder_is_there = needs_fixed_captions("skip_save_text_encoder", "the text encoder is dropped before the first one")


@rule("captions", "dataset_name")
def names_are_of_files(captions: str, dataset_name: str | None) -> Iterator[Problem]:
    """The rows of a dataset have no names."""
    if captions == "file_names" and dataset_name:
        yield Problem(
            "captions", "file_names needs folders of images, not a dataset", "leave it out, and name a --caption_column"
        )


RULES = (
    tags_are_drawn,
    names_are_of_files,
    needs_fixed_captions("prompt_embeddings", "prompt_embeddings holds captions as they are written"),
)
