"""The report of a run as one self-contained HTML file; its template is `report.html.jinja`. torch is not imported.

Everything comes from the run's folder: the record, the probe pictures, log.jsonl and config.toml. What is missing is left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from customize import units
from customize.data.example import of_folder
from customize.data.findings import Findings
from customize.data.folder import list_folder
from customize.evaluation import record
from customize.evaluation.masks.overlays import place_of
from customize.evaluation.record import BASE, MEASURES, Candidate, Evaluation, Pair, Verdict
from customize.evaluation.report import charts, facts, thumbnails
from customize.evaluation.report.thumbnails import KIB, Thumbnail
from customize.printable import printable
from customize.storage.run_folder import BEFORE_AFTER

MOST_CARDS, MOST_PHOTOS, MOST_ROWS, MOST_COLUMNS, MOST_AT_SCALES = 6, 24, 24, 13, 4
"""Of what is shown at most: pairs before and after, training images, rows and columns of the grid, pictures at each scale."""
FIRST_CHARTS = ("likeness", "obedience", "drift", "copying")
ROLES = {"concept": "", "bare": "", "class": "the class: should stay itself", "other": "not taught: should not change"}
"""What is expected of the pictures of each kind of prompt."""
SIGNS = {"learned": "✓", "partly learned": "◐", "not learned": "✕", "cannot tell": "?"}


def page(folder: Path, evaluation: Evaluation) -> str:
    """The page of the run in `folder`. All texts of files are escaped."""
    settings = facts.settings_of(folder)
    measured = {measure: charts.of_measure(evaluation, measure) for measure in MEASURES}
    return template().render(
        name=folder.resolve().name,
        title=evaluation.trigger or (settings.subject if settings else ""),
        description=settings.description if settings else "",
        verdict=verdict(evaluation),
        evaluation=evaluation,
        duration=units.duration(evaluation.seconds) if evaluation.seconds else "",
        cards=cards(folder, evaluation),
        result=result_step(folder, evaluation),
        sheet=thumbnails.of_file(folder / BEFORE_AFTER, 1000, 200 * KIB, "before and after training", folder),
        photos=photos(folder, settings),
        grid=grid(folder, evaluation),
        first_charts=list(filter(None, (measured[name] for name in FIRST_CHARTS))),
        further_charts=[each for name, each in measured.items() if each and name not in FIRST_CHARTS],
        loss_charts=charts.of_losses(facts.losses_by_step(folder, evaluation), evaluation.chosen),
        size={"width": charts.WIDTH, "height": charts.HEIGHT, "labels": charts.LABELS},
        scales=at_scales(folder, evaluation),
        scale_chart=charts.of_scales(evaluation, candidates_at_scales(evaluation)),
        numbers=[{**facts.numbers(each), "title": each.trigger if evaluation.concepts else ""} for each in evaluation.each()],
        words=[printable(line) for line in evaluation.words.splitlines()],
        settings=facts.settings_lines(settings),
        environment=facts.environment(folder, evaluation, settings),
        commands=facts.commands(folder, evaluation, settings),
    )


def template() -> Template:
    """The template of the page. Its filters are for untrusted texts; `printable` is escaped by autoescape."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)
    environment.filters["printable"] = printable
    environment.filters["with_code"] = with_code
    return environment.get_template("report.html.jinja")


def with_code(text: str) -> Markup:
    """A sentence as HTML; what stands in backticks is code."""
    parts = printable(text).split("`")
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts))


def verdict(evaluation: Evaluation) -> dict[str, Any]:
    """The verdict in one sentence, or what is known before there is one."""
    found = evaluation.verdict
    if found is None:
        last = max((each.step for each in evaluation.candidates), default=BASE)
        is_running = last < evaluation.steps
        text = f"Not finished: step {last:,} of {evaluation.steps:,}" if is_running else "No verdict: no pictures were evaluated"
        reasons = ("This page is written again after each measurement: reload it.",) if is_running else ()
        return {
            "sign": "…" if is_running else "?",
            "word": "cannot tell",
            "text": text,
            "found": Verdict("cannot tell", (), reasons),
        }
    text = "; ".join([found.word, *found.findings])
    return {"sign": SIGNS.get(found.word, "?"), "word": found.word, "text": text[:1].upper() + text[1:], "found": found}


def picture(run: Path, step: int, scale: float, place: int, text: str, side: int, most: int) -> Thumbnail | None:
    """The probe picture of a candidate; for the base model, its picture of the plain prompt if there is no other."""
    name, label = f"{place:03d}.png", f"{'base model' if step == BASE else f'step {step:,}'}: {text}"
    found = thumbnails.of_file(thumbnails.probe_folder(run, step, scale) / name, side, most, label, run)
    if found is None and step == BASE:
        own = run / record.FOLDER / thumbnails.PICTURES / thumbnails.BASE_PICTURES / name
        found = thumbnails.of_file(own, side, most, label, run)
    return found


def result_step(run: Path, evaluation: Evaluation) -> int:
    """The step whose pictures stand for the result: the chosen one, or else the last one with pictures."""
    return evaluation.chosen if evaluation.chosen is not None else max(drawn_steps(run, evaluation), default=BASE)


def drawn_steps(run: Path, evaluation: Evaluation) -> list[int]:
    """The steps with pictures at full scale; the others have losses only."""
    steps = [each.step for each in evaluation.candidates if each.scale == 1]
    return [step for step in steps if step == BASE or thumbnails.probe_folder(run, step).is_dir()]


def first_pairs(evaluation: Evaluation, kinds: Mapping[str, int]) -> list[tuple[int, Pair]]:
    """The first seed of the first prompts of each kind, with its place. kinds: how many prompts of each."""
    left, seen, found = dict(kinds), set(), []
    for kind in kinds:
        for place in evaluation.in_turn():
            pair = evaluation.pairs[place]
            if evaluation.prompts[pair.prompt].kind == kind and pair.prompt not in seen and left[kind]:
                left[kind] -= 1
                seen.add(pair.prompt)
                found.append((place, pair))
    return found


def cards(run: Path, evaluation: Evaluation) -> list[dict[str, Any]]:
    """The same prompt and seed before and after: prompts of the concept first."""
    step, found = result_step(run, evaluation), []
    if step == BASE:
        return []
    for place, pair in first_pairs(evaluation, {"concept": MOST_CARDS - 2, "class": 1, "other": 1}):
        prompt = evaluation.prompts[pair.prompt]
        both = [picture(run, each, 1.0, place, prompt.text, 320, 40 * KIB) for each in (BASE, step)]
        if all(both):
            found.append({"text": prompt.text, "role": ROLES[prompt.kind], "before": both[0], "after": both[1]})
    return found


def photos(run: Path, settings: Any) -> dict[str, Any]:
    """The training images, those with an outline of their subject as such; empty if they are not in folders."""
    findings, found, count, outlined = Findings(), [], 0, False
    folders = settings.image_folders if settings else ()
    for index, folder in enumerate(map(Path, folders)):
        listing = list_folder(folder, "", findings)
        names = listing.images if listing else ()
        count += len(names)
        for name in names[: max(0, MOST_PHOTOS - len(found))]:
            mask = place_of(run, of_folder(name, index, len(folders)))
            outlined |= mask.is_file()
            shown = thumbnails.of_file(
                mask if mask.is_file() else folder / name, 200, 14 * KIB, f"training image {len(found) + 1}"
            )
            found += [shown] if shown else []
    return {"shown": found, "others": count - len(found), "outlined": outlined}


def grid(run: Path, evaluation: Evaluation) -> dict[str, Any]:
    """Rows: prompts, and seeds within them; columns: steps, the base model first."""
    pairs = sorted(enumerate(evaluation.pairs), key=lambda each: each[1].prompt)[:MOST_ROWS]
    columns = evenly(drawn_steps(run, evaluation), evaluation.chosen)
    most = 1700 * KIB // max(1, len(pairs) * len(columns))
    cells = {
        (place, step): picture(run, step, 1.0, place, evaluation.prompts[pair.prompt].text, 144, min(most, 16 * KIB))
        for place, pair in pairs
        for step in columns
    }
    columns = [step for step in columns if any(cells[place, step] for place, _ in pairs)]
    rows: dict[int, dict[str, Any]] = {}
    for place, pair in pairs if columns else ():
        prompt = evaluation.prompts[pair.prompt]
        row = rows.setdefault(pair.prompt, {"text": prompt.text, "role": ROLES[prompt.kind], "seeds": []})
        row["seeds"].append([cells[place, step] for step in columns])
    return {"columns": columns, "rows": list(rows.values()), "others": len(evaluation.pairs) - len(pairs)}


def evenly(steps: Sequence[int], chosen: int | None) -> list[int]:
    """At most `MOST_COLUMNS` of the steps, evenly spread, with the first, the last and the chosen one."""
    if len(steps) <= MOST_COLUMNS:
        return list(steps)
    parts = MOST_COLUMNS - 2
    kept = {steps[round((len(steps) - 1) * number / parts)] for number in range(parts + 1)}
    return [step for step in steps if step in kept or step == chosen]


def candidates_at_scales(evaluation: Evaluation) -> list[Candidate]:
    """The candidates of one step at several scales, with the base model as scale 0; empty if there is one scale only."""
    steps = {each.step for each in evaluation.candidates if each.scale != 1}
    step = evaluation.chosen if evaluation.chosen in steps else max(steps, default=BASE)
    found = {each.scale: each for each in evaluation.candidates if each.step == step}
    if step != BASE and (base := evaluation.candidate(BASE)):
        found.setdefault(0.0, base)
    return [found[scale] for scale in sorted(found)] if len(steps) else []


def at_scales(run: Path, evaluation: Evaluation) -> list[dict[str, Any]]:
    """The pictures of one step at each scale: the first prompts of the concept."""
    candidates, found = candidates_at_scales(evaluation), []
    most = 600 * KIB // max(1, MOST_AT_SCALES * len(candidates))
    for each in candidates:
        drawn = [
            picture(run, each.step, each.scale, place, evaluation.prompts[pair.prompt].text, 256, most)
            for place, pair in first_pairs(evaluation, {"concept": MOST_AT_SCALES})
        ]
        if shown := list(filter(None, drawn)):
            found.append({"scale": 0.0 if each.step == BASE else each.scale, "pictures": shown})
    return found if len(found) > 1 else []
