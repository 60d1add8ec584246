"""A run as HTML: what a page shows of its folder. Every text in it is made printable and escaped here."""

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from customize.errors import InputError
from customize.evaluation import record
from customize.evaluation.report.charts import Chart, chart
from customize.evaluation.statistics import Interval
from customize.jobs import runs
from customize.jobs.job_folder import Job
from customize.jobs.runs import RunCard
from customize.jobs.worker import tail
from customize.printable import html, html_lines
from customize.storage import checkpoint, manifest, run_folder
from customize.units import duration, size
from customize.web.workspace import Workspace

WORDS = {"died": "killed", "stopped": "stopped", "failed": "failed"}
MOST_POINTS = 150
LINES = 12
"""Of the output."""


def card(workspace: Workspace, run: RunCard) -> str:
    """A run in a list, with a link to itself."""
    alt = f"what came of {html(run.name)}"
    picture = f'<img src="{html(workspace.url(run.picture))}" alt="{alt}" loading="lazy">' if run.picture else (
        '<div class="cz-none">no picture yet</div>'
    )  # fmt: skip
    lines = [f'<h3><a href="/runs?run={html(run.name)}">{html(run.name)}</a></h3>', state(run), bar(run)]
    lines += [f"<p>{html(run.word)}</p>"] if run.word else []
    lines += [f"<p>{html(run.verdict or run.message)}</p>"] if run.verdict or run.message else []
    lines.append(f'<p class="cz-muted">{html(run.base)}; {age(run)}</p>')
    return f'<article class="cz-card">{picture}<div>{"".join(lines)}</div></article>'


def age(run: RunCard) -> str:
    """How long ago it said something; in steps, so that a page does not change all the time."""
    seconds = run.age
    return "just now" if seconds < 60 else f"{duration(seconds - seconds % (60 if seconds < 3600 else 3600))} ago"


def status(run: RunCard) -> str:
    """What a run does, or what came of it."""
    lines = [f"<h3>{html(run.name)} {state(run)}</h3>", bar(run)]
    if run.state == "running":
        words = [run.phase, run.device, f"loss {run.loss:.4f}" if run.loss is not None else ""]
        lines.append(f"<p>{html('; '.join(filter(None, words)))}</p>")
    lines += [f"<p><strong>{html(run.verdict)}</strong></p>"] if run.verdict else []
    lines += [f"<p>{html(run.message)}</p>"] if run.message else []
    if run.is_resumable:
        lines.append("<p>It can be resumed: it goes on from its last checkpoint, to the same result.</p>")
    lines.append(f'<p class="cz-muted">{html(run.word)}; {html(run.base)}</p>')
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


def curves(folder: Path) -> str:
    """The losses over the steps: the smoothed one of training, and those on fixed draws, which are comparable."""
    found = runs.curves(folder)
    training = {"smoothed": found.pop("training")}
    probes = {name.removeprefix("fixed draws, "): points for name, points in found.items() if points}
    drawn = [
        chart("Loss on fixed draws, relative to the base model", "", "step", "relative loss", values_of(probes), [1.0], 1.0),
        chart("Loss of the steps, smoothed", "", "step", "loss", values_of(training), [0.0]),
    ]
    words = "Single steps differ by their images and noise, so this curve may rise for a while; "
    words += "the one on fixed draws tells whether it learns." if probes else "pictures tell more."
    return f'<div class="cz-curves">{"".join(map(svg, filter(None, drawn)))}</div><p>{words}</p>' if any(drawn) else ""


def values_of(lines: Mapping[str, list[tuple[int, float]]]) -> dict[str, list[tuple[float, Interval]]]:
    """The points of lines, thinned out."""
    found = {}
    for name, points in lines.items():
        every = max(math.ceil(len(points) / MOST_POINTS), 1)
        kept = [*points[::every], *points[-1:]] if points and (len(points) - 1) % every else points[::every]
        found[name] = [(float(step), Interval(value, value, value)) for step, value in kept]
    return found


def svg(drawn: Chart) -> str:
    """A chart as SVG."""
    colours = ("var(--primary-600)", "#c2410c", "#15803d", "#7e22ce")
    parts = [f'<line x1="0" x2="200" y1="{drawn.level}" y2="{drawn.level}" class="cz-level"/>'] if drawn.level is not None else []
    for place, text in drawn.x_ticks:
        parts.append(f'<text x="{place}" y="154" text-anchor="middle">{text}</text>')
    for place, text in drawn.y_ticks:
        parts.append(f'<text x="-4" y="{place + 3}" text-anchor="end">{text}</text>')
    for line, colour in zip(drawn.lines, colours, strict=False):
        parts.append(f'<polyline points="{line.path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(drawn.lines) > 1:
            parts.append(f'<text x="204" y="{line.at + 3}" style="fill:{colour}">{html(line.label)}</text>')
    title = html(drawn.title)
    return (
        f'<figure><figcaption>{title}</figcaption><svg viewBox="-40 -8 330 170" role="img" aria-label="{title}">'
        f'<rect x="0" y="0" width="200" height="140" class="cz-area"/>{"".join(parts)}</svg></figure>'
    )


def sheet(workspace: Workspace, folder: Path) -> str:
    """The contact sheet of the samples, which grows while a run goes on."""
    path = folder / run_folder.SAMPLES / run_folder.SHEET
    if not path.is_file():
        return ""
    alt = "samples by prompt, a column for each step at which they were drawn"
    return f'<div class="cz-wide"><img src="{html(workspace.url(path))}" alt="{alt}"></div>'


def candidates(workspace: Workspace, folder: Path) -> str:
    """A picture of each step that was measured, with the chosen one ringed."""
    with suppress(OSError, InputError, ValueError):
        found = record.read(folder)
        steps = [each.step for each in found.candidates if each.scale == 1 and each.values and each.step > record.BASE]
        pictures = folder / record.FOLDER / "pictures"
        shown = [(step, pictures / checkpoint.name(step) / "000.png") for step in steps]
        figures = [candidate(workspace, file, step, step == found.chosen) for step, file in shown if file.is_file()]
        if figures:
            return f'<div class="cz-strip">{"".join(figures)}</div>'
    return ""


def candidate(workspace: Workspace, file: Path, step: int, is_chosen: bool) -> str:
    """The picture of one step."""
    words = f"step {step:,}{': chosen' if is_chosen else ''}"
    kind = ' class="cz-chosen"' if is_chosen else ""
    return f'<figure{kind}><img src="{html(workspace.url(file))}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def before_after(folder: Path) -> tuple[Path, Path] | None:
    """The first sample of the base model, and that of the result or of the last samples."""
    found = [path for path in checkpoint.every(folder / run_folder.SAMPLES) if (path / "000.png").is_file()]
    steps = {checkpoint.step_of(path): path / "000.png" for path in found}
    if 0 not in steps or len(steps) < 2:
        return None
    chosen = None
    with suppress(OSError, InputError, ValueError):
        chosen = record.read(folder).chosen
    return steps[0], steps.get(chosen or -1, steps[max(steps)])


def report(workspace: Workspace, folder: Path) -> str:
    """The report in a frame that may run its scripts and nothing else."""
    path = folder / run_folder.REPORT
    if not path.is_file():
        return '<p class="cz-muted">The report is written when something is measured.</p>'
    where = html(workspace.url(path))
    return f'<iframe class="cz-frame" sandbox="allow-scripts" src="{where}" title="Report of {html(folder.name)}"></iframe>'


def files(workspace: Workspace, folder: Path) -> str:
    """Links to the weights and the settings of a run."""
    names: list[str] = []
    with suppress(OSError, ValueError, KeyError):
        names = [name for name in manifest.read(folder) if name.endswith(".safetensors")]
    links = [link(workspace, folder / name, name) for name in [*names, run_folder.CONFIG] if (folder / name).is_file()]
    return f"<p>Download: {', '.join(links)}</p>" if links else ""


def link(workspace: Workspace, file: Path, name: str) -> str:
    """A link to a file, with its size."""
    return f'<a href="{html(workspace.url(file))}" download>{html(name)}</a> ({size(file.stat().st_size)})'


def output(job: Job | None) -> str:
    """The last lines that a job printed."""
    if job is None or not (text := tail(job.output, 8000)):
        return ""
    lines = html_lines("\n".join(text.splitlines()[-LINES:]))
    pre = f'<pre class="cz-line" tabindex="0" aria-label="What it printed">{lines}</pre>'
    return f"<details><summary>What it printed</summary>{pre}</details>"


def problems(error: InputError) -> str:
    """Everything that is wrong with the input, as a list."""
    return f'<div role="alert"><ul class="cz-problems">{"".join(items(error))}</ul></div>'


def items(error: InputError) -> Iterator[str]:
    """An item for each problem."""
    for each in error.problems:
        yield f"<li><strong>{html(each.where)}</strong>: {html(each.what)}<br>&rarr; {html(each.remedy)}</li>"
