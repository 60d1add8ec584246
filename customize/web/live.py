"""Parts of a page that follow files: they are looked at every few seconds, and sent to the browser only where they changed."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

EVERY = 2.0
"""Seconds between two looks."""


def follow(component: Any, look: Callable[..., Any], inputs: Sequence[Any] = (), timer: gr.Timer | None = None) -> gr.Timer:
    """Shows in a component what `look` returns: at once, whenever an input changes, and every few seconds. Returns the timer.

    look: called with the values of the inputs; its result is compared by its text with the one that the browser has. Empty HTML
    and code take no room.
    """
    timer = timer or gr.Timer(EVERY)
    seen = gr.State("")

    def changed(last: str, *values: Any) -> tuple[Any, Any]:
        found = look(*values)
        if (text := repr(found)) == last:
            return gr.skip(), gr.skip()
        return (type(component)(found, visible=bool(found)) if isinstance(component, gr.HTML | gr.Code) else found), text

    gr.on(
        [timer.tick, *(each.change for each in inputs)], changed, [seen, *inputs], [component, seen], show_progress="hidden",
        api_visibility="private", queue=True,
    )  # fmt: skip
    return timer
