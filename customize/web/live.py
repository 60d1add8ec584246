"""Parts of a page that follow files: they are looked at every few seconds, and sent to the browser only where they changed."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

EVERY = 2.0
"""Seconds between two looks."""


class Followed:
    """The parts of a page that follow files. All are looked at in one request, and only if one has changed a second one sends it:
    Gradio makes every component anew that a request may change."""

    def __init__(self, every: float = EVERY):
        self.every = every
        self.parts: list[tuple[Any, Callable[..., Any], Sequence[Any]]] = []

    def show(self, component: Any, look: Callable[..., Any], inputs: Sequence[Any] = ()) -> None:
        """Shows in a component what `look` returns for the values of the inputs."""
        self.parts.append((component, look, inputs))

    def begin(self) -> None:
        """Looks whenever an input changes, and every few seconds. To be called when all parts are known."""
        inputs = list({each: None for _, _, given in self.parts for each in given})
        seen, sent = gr.State([]), gr.State([0] * len(self.parts))

        def looked(*values: Any) -> list[Any]:
            known = dict(zip(inputs, values, strict=True))
            return [look(*(known[each] for each in given)) for _, look, given in self.parts]

        def update(before: list[int], *values: Any) -> list[Any]:
            found = looked(*values)
            now = prints(found)
            changed = zip(self.parts, found, now, before, strict=True)
            return [gr.skip() if a == b else shown(part, value) for (part, _, _), value, a, b in changed] + [now]

        hidden: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        moments = [gr.Timer(self.every).tick, *(each.change for each in inputs)]
        gr.on(moments, lambda *values: prints(looked(*values)), inputs, seen, **hidden)
        seen.change(update, [sent, *inputs], [*(part for part, _, _ in self.parts), sent], **hidden)


def prints(found: Sequence[Any]) -> list[int]:
    """By which values are compared without keeping them."""
    return [hash(repr(each)) for each in found]


def shown(component: Any, value: Any) -> Any:
    """A value as the component takes it. Empty HTML and code take no room."""
    return type(component)(value, visible=bool(value)) if isinstance(component, gr.HTML | gr.Code) else value
