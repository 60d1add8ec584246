"""What the pages show of images and jobs, as HTML. Every text of a file or a person is escaped.

A button has its action and what it is about in data attributes; `CLICKS` hands them to the event `click` of a gr.HTML,
and gives the button that had the focus the focus again when the HTML is replaced.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from customize.errors import Problem
from customize.inference.metadata.read_png import GenerationInfo
from customize.printable import html
from customize.web.pictures.image_gallery import FolderOfImages, ImageOfFolder
from customize.web.pictures.learned_words import LearnedWords
from customize.web.workspace import Workspace

CLICKS = """
let focused = '';
const key = button => JSON.stringify(button.dataset);
element.addEventListener('focusin', event => { focused = event.target.dataset.action ? key(event.target) : ''; });
element.addEventListener('focusout', event => { if (event.relatedTarget) focused = ''; });
watch('value', () => {
  const same = focused && [...element.querySelectorAll('[data-action]')].find(button => key(button) === focused);
  if (same && document.activeElement === document.body) same.focus({preventScroll: true});
});
element.addEventListener('click', event => {
  const button = event.target.closest('[data-action]');
  if (!button || button.disabled) return;
  const one = button.dataset.action === 'select';
  for (const tile of one ? element.querySelectorAll('.tile[aria-pressed]') : []) tile.ariaPressed = String(tile === button);
  trigger('click', {...button.dataset});
});
"""
STYLE = """<style>.block.cz-pic:has(> .html-container > :empty) { display: none; }
.block:has(> .html-container style) { display: none; }
.cz-numbers { flex-wrap: nowrap !important; } .cz-numbers > * { min-width: 0 !important; }
.cz-generate { display: grid !important; grid-template: auto 1fr / 5fr 6fr; gap: 16px; }
.cz-generate > * { min-width: 0 !important; }
.cz-generate > .cz-results { grid-area: 1 / 2 / span 2; }
.cz-generate > .cz-settings { grid-area: 2 / 1; }
@media (max-width: 860px) { .cz-generate { grid-template: auto / minmax(0, 1fr); }
  .cz-generate > * { grid-area: auto !important; }
  .cz-generate > .cz-results { display: contents; } .cz-generate > .cz-settings { order: 2; }
  .cz-detail { order: 1; } .cz-gallery { order: 3; } }
.cz-pic {
& { font-size: var(--text-md); color: var(--body-text-color); }
button, .link { font: inherit; color: inherit; background: var(--block-background-fill); cursor: pointer;
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-md); padding: 6px 12px; text-decoration: none;
  min-height: 34px; display: inline-flex; align-items: center; }
button:hover, .link:hover { border-color: var(--color-accent); }
button:focus-visible, .link:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 1px; }
p, h3 { margin: 4px 0; }
.in-line { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin: 4px 0; }
.chip { border-radius: 999px; max-width: 100%; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.chip[aria-pressed=true] { background: var(--primary-600); border-color: var(--primary-600); color: #fff; }
.soft, dt { color: var(--body-text-color-subdued); }
.problem { border-left: 3px solid #c62828; padding: 2px 0 2px 10px; margin: 4px 0; overflow-wrap: anywhere; }
.problem span { display: block; color: var(--body-text-color-subdued); }
.note { border-left: 3px solid var(--color-accent); padding: 2px 0 2px 10px; margin: 4px 0; overflow-wrap: anywhere; }
.job { border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); padding: 10px 12px; margin: 8px 0; }
.job .in-line { margin: 4px 0; justify-content: space-between; } .job progress { width: 100%; accent-color: var(--color-accent); }
.job b, h3 { overflow-wrap: anywhere; font-weight: 600; margin: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(130px, 44%), 1fr)); gap: 10px; margin: 8px 0; }
.tile, .tile.link { padding: 0; overflow: hidden; min-height: 0; display: flex; flex-direction: column; align-items: stretch; }
.tile img { width: 100%; aspect-ratio: 1; object-fit: contain; margin: 0; background: var(--background-fill-secondary); }
.caption { padding: 4px 8px; font-size: var(--text-sm); white-space: nowrap; overflow: hidden; text-overflow: ellipsis;
  text-align: left; color: var(--body-text-color-subdued); }
.tile[aria-pressed=true] { outline: 3px solid var(--color-accent); }
.large { display: block; width: 100%; max-height: 70vh; object-fit: contain; background: var(--background-fill-secondary);
  border-radius: var(--radius-lg); margin: 0; }
.small-image { image-rendering: pixelated; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 2px 14px; margin: 8px 0; }
.trace { width: 100%; height: 1200px; border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); }
.sheet { max-width: 100%; border-radius: var(--radius-md); } summary { cursor: pointer; padding: 6px 0; }
dd { margin: 0; overflow-wrap: anywhere; }
}</style>"""
"""Put once into a page; it holds within components of the class `CLASS`."""
CLASS = "cz-pic"
SMALL = 192
"""Pixels of the longest side up to which an image is enlarged without smoothing."""
MOST_OF_A_FOLDER = 60
FACTS = {
    "seed": "seed", "num_inference_steps": "steps", "guidance_scale": "guidance", "scheduler": "sampler", "strength": "strength",
    "weights": "weights",
}  # fmt: skip
"""The settings that are shown of an image, and what they are called there."""


def problems(found: Iterable[Problem], with_place: bool = False) -> str:
    """Problems in their own words, each with its remedy. with_place: also the setting or file."""
    shown = [(f"{each.where}: {each.what}" if with_place else each.what, each.remedy) for each in found]
    return "".join(f'<div class="problem" role="alert">{html(what)}<span>→ {html(remedy)}</span></div>' for what, remedy in shown)


def notes(found: Iterable[str]) -> str:
    """Notes, one a line."""
    return "".join(f'<div class="note">{html(each)}</div>' for each in found)


def chips(learned: Sequence[LearnedWords], chosen: Sequence[str]) -> str:
    """A button for each learned word: it puts the word into the prompt and loads its weights."""
    if not learned:
        return '<p class="soft">What you teach appears here as a word that you can click.</p>'
    buttons = [
        f'<button type="button" class="chip" data-action="word" data-weights="{html(each.path)}" title="{html(each.path)}" '
        f'aria-pressed="{str(each.path in chosen).lower()}">{html(", ".join(each.words) or each.path, 60)}</button>'
        for each in learned
    ]
    return (
        f'<div class="in-line" role="group" aria-label="Learned words"><span class="soft">Learned:</span>{"".join(buttons)}</div>'
    )


def gallery(workspace: Workspace, folders: Sequence[FolderOfImages], selected: str = "") -> str:
    """The images of all folders with their prompts, and after those of a folder their contact sheet."""
    if not folders:
        return '<p class="soft">No images yet. They appear here, also those that infer.py writes to images/ in a terminal.</p>'
    parts = []
    for folder in folders:
        parts += [tile(workspace, each, each.name == selected) for each in folder.images[:MOST_OF_A_FOLDER]]
        parts += [sheet_tile(workspace, sheet, len(folder.images)) for sheet in folder.sheets]
    return f'<div class="tiles">{"".join(parts)}</div>'


def tile(workspace: Workspace, image: ImageOfFolder, selected: bool) -> str:
    """An image with its prompt, as a button."""
    return (
        f'<button type="button" class="tile" data-action="select" data-image="{html(image.name)}" title="{html(image.name)}" '
        f'aria-pressed="{str(selected).lower()}"><img loading="lazy" alt="" src="{html(workspace.url(image.path))}">'
        f'<span class="caption">{html(image.prompt or image.path.name, 120)}</span></button>'
    )


def sheet_tile(workspace: Workspace, sheet: Path, count: int) -> str:
    """A contact sheet, which opens in full size."""
    url = html(workspace.url(sheet))
    return (
        f'<a class="tile link" href="{url}" target="_blank"><img loading="lazy" alt="" src="{url}">'
        f'<span class="caption">grid of all {count}</span></a>'
    )


def facts(info: GenerationInfo | None) -> str:
    """What an image's metadata says of how it was made."""
    if info is None:
        return '<p class="soft">This image has no settings.</p>'
    rows = [("size", f"{info.size[0]} × {info.size[1]}")]
    rows += [(label, _written(info.settings[name])) for name, label in FACTS.items() if info.settings.get(name) not in (None, ())]
    rows += [("base model", info.base_model)] if info.base_model else []
    rows += [] if info.program == "customize" else [("made by", info.program)]
    return f"<dl>{''.join(f'<dt>{label}</dt><dd>{html(value, 300)}</dd>' for label, value in rows)}</dl>"


def large(workspace: Workspace, image: ImageOfFolder, size: tuple[int, int]) -> str:
    """An image as large as its place, which opens in full size."""
    pixels = " small-image" if max(size) <= SMALL else ""
    source, label = html(workspace.url(image.path)), html(image.prompt or image.name, 300)
    shown = f'<img class="large{pixels}" src="{source}" alt="{label}">'
    return f'<a href="{source}" target="_blank" title="open in full size">{shown}</a>'


def buttons(image: ImageOfFolder, actions: Mapping[str, str], links: str = "") -> str:
    """A row of buttons about an image. actions: the label of each; links: HTML after them."""
    shown = [
        f'<button type="button" data-action="{name}" data-image="{html(image.name)}">{html(label)}</button>'
        for name, label in actions.items()
    ]
    return f'<div class="in-line">{"".join(shown)}{links}</div>'


def deletion(image: ImageOfFolder, count: int) -> str:
    """The question before an image is deleted, which is closed at first. count: of the images of its folder."""
    choices = {"delete": f"Delete {image.path.name}"} | ({"delete_all": f"Delete all {count} of its folder"} if count > 1 else {})
    words = '<p class="soft">Delete it for good? What was recorded of its steps goes, too; files of yours stay.</p>'
    return f"<details><summary>Delete ...</summary>{words}{buttons(image, choices)}</details>"


def _written(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
