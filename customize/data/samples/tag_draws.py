"""Captions that are lists of tags: in each use in another order, some left out, fewer at the beginning of a run.

Each choice is a function of (seed, step, position); kohya's sd-scripts make the same choices (`shuffle_caption`, `keep_tokens`,
`caption_tag_dropout_rate`, `token_warmup_step`) by a random state.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from customize.diffusion import rng
from customize.families.trigger_words import calls


@dataclass(frozen=True)
class TagDraws:
    """How tags are drawn from a caption.

    shuffle: in a random order; keep: the number of first tags that stay in front, and always; dropout: the probability with which
    each other tag is left out; warmup_min, warmup_steps: the number of other tags before the first step, and the steps until
    there are all of them; separator: stands between tags; triggers: a tag with one of these words is never left out, since
    without it the sample would teach its image to prompts that do not call it.
    """

    shuffle: bool = False
    keep: int = 0
    dropout: float = 0.0
    warmup_min: int = 1
    warmup_steps: int = 0
    separator: str = ","
    triggers: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings) -> "TagDraws | None":
        """Those of a run; None where captions are used as they are written."""
        if not settings.varies_captions:
            return None
        return cls(
            settings.shuffle_tags, settings.keep_tags, settings.tag_dropout, settings.tag_warmup_min,
            settings.tag_warmup_steps, settings.tag_separator, settings.trigger_words,
        )  # fmt: skip

    def drawn(self, caption: str, seed: int, stream: str, step: int, position: int) -> str:
        """The caption of a sample: the kept tags, then the others in their drawn order."""
        tags = [tag.strip() for tag in caption.split(self.separator) if tag.strip()]
        kept, others = tags[: self.keep], self.warmed_up(tags[self.keep :], step)
        if self.shuffle:
            order = torch.randperm(len(others), generator=rng.generator(seed, f"{stream}/tag_order", step, position))
            others = [others[place] for place in order.tolist()]
        if self.dropout:
            drawn = torch.rand(len(others), generator=rng.generator(seed, f"{stream}/tag_dropout", step, position))
            others = [tag for tag, u in zip(others, drawn.tolist(), strict=True) if u >= self.dropout or self.calls(tag)]
        return f"{self.separator.rstrip()} ".join([*kept, *others])

    def warmed_up(self, tags: Sequence[str], step: int) -> list[str]:
        """The first tags, whose number grows linearly from `warmup_min` to all of them, and later ones with a trigger word."""
        if step >= self.warmup_steps:
            return [*tags]
        number = self.warmup_min + step * (len(tags) - self.warmup_min) // self.warmup_steps
        return [tag for place, tag in enumerate(tags) if place < number or self.calls(tag)]

    def calls(self, tag: str) -> bool:
        """Whether a tag has a trigger word."""
        return calls(tag, self.triggers)
