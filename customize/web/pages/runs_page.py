"""The page Runs: every run of the workspace, whoever started it, read from its folder."""

import gradio as gr

from customize.jobs import runs
from customize.jobs.runs import RunCard
from customize.printable import html
from customize.units import duration
from customize.web.workspace import Workspace

WORDS = {"died": "killed: can be resumed", "stopped": "stopped: can be resumed", "failed": "failed"}
EVERY = 3
"""Seconds between two looks at the folders."""


def build(workspace: Workspace) -> None:
    """The cards of all runs."""
    gr.Markdown("# Runs")
    cards = gr.HTML(lambda: cards_of(workspace), every=EVERY, label="All runs", padding=False)
    cards.visible = True


def cards_of(workspace: Workspace) -> str:
    """The cards of all runs, as HTML."""
    found = runs.listed(workspace.folder)
    if not found:
        return '<p class="cz-muted">There are no runs yet. Teach something, or start a training in a terminal in this folder.</p>'
    return f'<div class="cz-cards">{"".join(card(workspace, each) for each in found)}</div>'


def card(workspace: Workspace, run: RunCard) -> str:
    """One run."""
    shown = f"what came of {html(run.name)}"
    picture = f'<img src="{html(workspace.url(run.picture))}" alt="{shown}" loading="lazy">' if run.picture else (
        '<div class="cz-none">no picture yet</div>'
    )  # fmt: skip
    return f'<article class="cz-card">{picture}<div>{facts(run)}</div></article>'


def facts(run: RunCard) -> str:
    """What is known of a run, in a few lines."""
    lines = [f"<h3>{html(run.name)}</h3>", state(run), bar(run)]
    lines += [f"<p>{html(run.word)}</p>"] if run.word else []
    lines += [f"<p>{html(run.verdict or run.message)}</p>"] if run.verdict or run.message else []
    lines.append(f'<p class="cz-muted">{html(run.base)}; {duration(run.age)} ago</p>')
    return "".join(lines)


def state(run: RunCard) -> str:
    """The state, as a coloured word."""
    return f'<span class="cz-state cz-{run.state}">{WORDS.get(run.state, run.state)}</span>'


def bar(run: RunCard) -> str:
    """How far a run is that is not finished."""
    if run.state == "finished" or not run.total:
        return ""
    left = f", {duration(run.seconds_left)} left" if run.seconds_left is not None and run.state == "running" else ""
    words = f"step {run.step:,} of {run.total:,}{left}"
    share = 100 * run.step / run.total
    return (
        f'<div class="cz-bar" role="progressbar" aria-label="{words}" aria-valuemin="0" aria-valuemax="{run.total}" '
        f'aria-valuenow="{run.step}"><span style="width:{share:.1f}%"></span></div><p>{words}</p>'
    )
