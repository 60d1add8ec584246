"""Reports how well the demo model follows prompts, in tables.

`python -m customize.demo.pretraining.quality_report --model FOLDER --output_dir FOLDER` writes report.json, report.md and a
sheet of images.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from customize.demo.judge import Rates, load_judge
from customize.demo.pretraining.quality import ON_SHEET, PARTS, Painter, ReportSettings, random_prompts
from customize.demo.world.glyphs import FONT
from customize.inference.explain.contact_sheet import contact_sheet
from customize.storage.atomic import write_image, write_text

COLUMNS = 12


def table(rows: dict[str, Rates], first: str) -> Iterator[str]:
    """Rates as lines of a markdown table."""
    names = list(Rates.__dataclass_fields__)
    yield f"| {first} | images | {' | '.join(names)} |"
    yield "|---" * (len(names) + 2) + "|"
    for name, row in rows.items():
        yield f"| {name} | {row.everything.asked} | {' | '.join(str(getattr(row, question)) for question in names)} |"


def markdown(settings: ReportSettings, found: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# Quality of the base model",
        f"Model {Path(settings.model).name}, {settings.num_inference_steps} steps of DPM-Solver++ (2M), guidance "
        f"scale {settings.guidance_scale:g} unless stated otherwise. Each share counts only images that the question applies to: "
        "colour if the prompt names one and no style hides it, time of day if there is a sky. A style is correct if all of its "
        "effects and inks are; everything: object, colour, scene and style at once.",
    ]
    groups = {f"{group}, {part}": row for group, rows in found.get("ceiling", {}).items() for part, row in rows.items()}
    groups |= {f"generated, {part}": row for part, row in found.get("prompts", {}).get("rates", {}).items()}
    if groups:
        lines += ["## Random prompts", "\n".join(table(groups, ""))]
    if things := found.get("prompts", {}).get("things"):
        least = (f"{name} {right} of {asked}" + (f" ({other})" if other else "") for name, right, asked, other in things[:8])
        lines.append(f"Least often recognised (in brackets, what the judge saw instead): {', '.join(least)}.")
    if pairs := found.get("combinations"):
        rows = {f"{name}, {part}": row for name, by_style in pairs.items() for part, row in by_style.items()}
        lines += ["## New combinations of known objects and attributes", "\n".join(table(rows, ""))]
    if sweep := found.get("guidance"):
        lines += ["## Guidance", "\n".join(table(sweep, "guidance"))]
    if kept := found.get("negatives"):
        header = "| | images | still there when named in the negative prompt | still there when another one is named |"
        rows = [f"| {name} | {k.itself.asked + k.another.asked} | {k.itself} | {k.another} |" for name, k in kept.items()]
        lines += ["## Negative prompts", "\n".join([header, "|---|---|---|---|", *rows])]
        lines.append("Each image was generated twice from the same noise, first without a negative prompt.")
    if words := found.get("prompts", {}).get("prompts"):
        listed = "\n".join(f"{number}. {text}" for number, text in enumerate(words, 1))
        lines += [f"## Prompts of sheet.png, {COLUMNS} in a row", listed]
    return "\n\n".join(lines) + "\n"


def run(settings: ReportSettings) -> None:
    """Generates and evaluates the images, and writes the report."""
    from customize.inference.pipeline_loading import load_pipeline

    folder, judge = Path(settings.output_dir), load_judge()
    painter, found = Painter(load_pipeline(settings.model), settings), {}
    for name in settings.parts:
        if name == "ceiling" and not FONT.exists():
            print(f"note: {FONT} was not found, so the part ceiling is skipped", file=sys.stderr)
            continue
        found[name] = PARTS[name](painter, judge, settings)
        values = {"settings": settings.values(), **found}
        write_text(folder / "report.json", json.dumps(values, indent=1, default=asdict) + "\n")
        write_text(folder / "report.md", markdown(settings, found))
    if "prompts" in found:
        images = [Image.fromarray(pixels) for pixels in painter(random_prompts(settings.num_pictures)[0])[:ON_SHEET]]
        rows = [images[start : start + COLUMNS] for start in range(0, len(images), COLUMNS)]
        write_image(folder / "sheet.png", contact_sheet(rows, min_side=64))


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the settings and measures; returns the exit status."""
    from customize.cli.main import main

    return main(ReportSettings, run, argv)


if __name__ == "__main__":
    sys.exit(main())
