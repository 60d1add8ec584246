"""The page that says what this machine is and what is missing: the report of `customize doctor`, made in a process of its own."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from customize.jobs import program
from customize.printable import html, printable
from customize.web.pictures import picture_html
from customize.web.workspace import Workspace

LONGEST = 120
"""Seconds that the report may take; importing torch takes most of them."""
NAMES = ("name", "value", "status", "remedy")
MARKS = {"ok": "✓", "warning": "!", "error": "✗"}
STYLE = """<style>.doctor { width: 100%; border-collapse: collapse; }
.doctor th, .doctor td { text-align: left; vertical-align: top; padding: 8px 10px; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--border-color-primary); }
.doctor .remedy { display: block; color: var(--body-text-color-subdued); }
.doctor td:first-child { width: 1.5em; font-weight: 700; } .doctor th[scope=row] { width: 30%; }</style>"""


def build(workspace: Workspace) -> None:
    """The page. The report is made after the page is shown, not with it."""
    gr.HTML(picture_html.STYLE + STYLE)
    gr.Markdown("# Doctor")
    words = "<p>Looking at this machine, which takes some seconds.</p>"
    table = gr.HTML(words, elem_classes=picture_html.CLASS, apply_default_css=False)
    again = gr.Button("Look again", size="sm")
    with gr.Accordion("The report as text, for a question or a bug report", open=False):
        text = gr.Textbox(label="Report", lines=12, max_lines=40, interactive=False, buttons=["copy"])
    root = gr.context.Context.root_block
    assert root is not None
    gr.on([root.load, again.click], lambda: report(workspace), None, [table, text], show_progress="hidden")


def report(workspace: Workspace) -> tuple[str, str]:
    """The report as a table and as text."""
    command, own = program.words("customize", "doctor", "--json"), program.environment()
    try:
        done = subprocess.run(command, cwd=workspace.folder, env=own, capture_output=True, timeout=LONGEST)
        rows = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        reason = "it took too long" if isinstance(error, subprocess.TimeoutExpired) else "its answer cannot be read"
        return f"<p>customize doctor says nothing: {reason}. Run it in a terminal.</p>", ""
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return table_of(rows), text_of(rows)


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table, each problem with its remedy."""
    shown = []
    for row in rows:
        name, value, status, remedy = (row.get(each) or "" for each in NAMES)
        mark = f'<td aria-label="{html(status, 20)}" title="{html(status, 20)}">{MARKS.get(str(status), "·")}</td>'
        help_ = f'<span class="remedy">→ {html(remedy)}</span>' if remedy else ""
        shown.append(f'<tr>{mark}<th scope="row">{html(name)}</th><td>{html(value)}{help_}</td></tr>')
    count = [sum(row.get("status") == status for row in rows) for status in ("error", "warning")]
    words = f"{count[0]} to fix before anything works." if count[0] else "Training and generating work on this machine."
    words += f" {count[1]} to know about." if count[1] else ""
    head = '<thead><tr><th><span class="sr-only">state</span></th><th scope="col">what</th><th scope="col">is</th></tr></thead>'
    return f'<p>{words}</p><table class="doctor">{head}<tbody>{"".join(shown)}</tbody></table>'


def text_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as lines of text."""
    lines = []
    for row in rows:
        name, value, status, remedy = (printable(row.get(each) or "") for each in NAMES)
        lines.append(f"{name}: {value}" + (f" [{status}]" if status not in ("", "ok") else ""))
        lines += [f"    -> {remedy}"] if remedy else []
    return "\n".join(lines)
