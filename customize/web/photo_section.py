"""The photos on the page Teach: uploaded or in a folder, what is odd about each, and what can be done with it."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from customize.errors import InputError
from customize.printable import html
from customize.teach import Photos, look
from customize.web import crop_frame, photo_store, run_view
from customize.web.workspace import Workspace

MOST_SHOWN = 60
MOST_PIXELS = 800
"""Of the longer side of the photo that is cropped, as it is shown."""
HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


def photos_part(workspace: Workspace) -> tuple[gr.Textbox, gr.CheckboxGroup]:
    """Upload or folder, and the photos in it. Returns the boxes with the folder and with the names that are left out."""
    with gr.Row():
        upload = gr.File(label="Upload photos, and captions as .txt", file_count="multiple", height=150)
        folder = gr.Textbox(
            label="or a folder of this machine", placeholder="~/photos/miezi", info="in your home or in this workspace"
        )
    gallery = gr.HTML(padding=False)
    left_out = gr.CheckboxGroup([], label="Leave out", visible=False)
    photo, said, edits = edit_part(workspace, folder)

    def kept(files: list[str] | None) -> tuple[Any, str]:
        if not files:
            return gr.skip(), ""
        try:
            place, refused = photo_store.keep(workspace, files, "photos")
        except InputError as error:
            return gr.skip(), run_view.problems(error)
        words = "".join(f"<li>{html(each)}</li>" for each in refused)
        return f"photos/{place.name}", f"<p>Not taken:</p><ul>{words}</ul>" if refused else ""

    def looked(place: str, without: list[str]) -> tuple[Any, ...]:
        return looked_at(workspace, place, without)

    upload.upload(kept, upload, [folder, said], **HIDDEN)
    for event in (folder.change, left_out.input, *(edit.then for edit in edits)):
        event(looked, [folder, left_out], [gallery, left_out, photo], **HIDDEN)
    return folder, left_out


def edit_part(workspace: Workspace, folder: gr.Textbox) -> tuple[gr.Dropdown, gr.HTML, list[Any]]:
    """Crop and caption, on copies. Returns the box with a photo's name, what is said of an edit, and the edits."""
    with gr.Accordion("Crop or caption a photo", open=False):
        gr.Markdown("The first change copies the photos into this workspace; your originals stay as they are.")
        photo = gr.Dropdown([], label="Photo", allow_custom_value=True)
        frame = gr.HTML("", **crop_frame.FRAME)
        with gr.Row():
            across = gr.Slider(0, 100, 50, step=1, label="Centre, from left to right (%)")
            down = gr.Slider(0, 100, 50, step=1, label="Centre, from top to bottom (%)")
            share = gr.Slider(10, 100, 100, step=1, label="Side (% of the shorter side)")
        kept = gr.HTML(padding=False)
        caption = gr.Textbox(label="Caption", placeholder="a photo of sks cat on a sofa")
        write = gr.Button("Keep the caption")
    said = gr.HTML(padding=False)

    def changed(place: str, change: Callable[[Path], Any]) -> tuple[Any, str, Any]:
        try:
            mine = photo_store.own(workspace, photo_store.allowed(workspace, place))
            name = change(mine)
        except InputError as error:
            return gr.skip(), run_view.problems(error), gr.skip()
        return f"photos/{mine.name}", "", name or gr.skip()

    def cut(event: gr.EventData, place: str, name: str | None) -> tuple[Any, str, Any]:
        square = [number / 100 for number in event.frame]
        return changed(place, lambda mine: photo_store.cropped(mine, name or "", *square))

    def wrote(place: str, name: str | None, text: str) -> tuple[Any, str]:
        return changed(place, lambda mine: photo_store.captioned(mine, name or "", text))[:2]

    def framed(event: gr.EventData, *values: Any) -> tuple[Any, ...]:
        return *event.frame, kept_of(workspace, *values, *event.frame)

    def slid(*values: Any) -> tuple[Any, ...]:
        return gr.HTML(frame=values[2:]), kept_of(workspace, *values)

    sliders, box = [across, down, share], [folder, photo, across, down, share]
    photo.change(lambda *values: begun(workspace, *values), box[:2], [frame, *sliders, kept], **HIDDEN)
    frame.frame(framed, box[:2], [*sliders, kept], **HIDDEN | {"trigger_mode": "always_last"})
    gr.on([each.input for each in sliders], slid, box, [frame, kept], **HIDDEN | {"trigger_mode": "always_last"})
    edits = [
        frame.crop(cut, box[:2], [folder, said, photo], **HIDDEN).then(
            lambda *values: begun(workspace, *values), box[:2], [frame, *sliders, kept], **HIDDEN
        ),
        write.click(wrote, [folder, photo, caption], [folder, said], **HIDDEN),
    ]  # fmt: skip
    return photo, said, edits


def looked_at(workspace: Workspace, place: str, without: list[str]) -> tuple[Any, ...]:
    """What is shown of a folder: the photos, the box to leave some out, and the box to choose one."""
    boxes = gr.CheckboxGroup([], visible=False), gr.Dropdown([], value=None)
    if not place.strip():
        return "", *boxes
    try:
        path = photo_store.allowed(workspace, place)
        present = [name for name in without if (path / name).exists()]
        found = look(path, present)
    except InputError as error:
        return run_view.problems(error), *boxes
    names = [photo.name for photo in found.usable]
    return gallery_of(path, found), gr.CheckboxGroup(sorted([*names, *present]), value=present, visible=True), gr.Dropdown(names)


def gallery_of(folder: Path, found: Photos) -> str:
    """Every photo with what is odd about it, and those left out with the reason."""
    parts = []
    for photo in found.usable[:MOST_SHOWN]:
        words = [f"{photo.size[0]} x {photo.size[1]}", *photo.remarks, *(f'"{caption}"' for caption in photo.captions)]
        parts.append(figure(folder / photo.name, photo.name, "; ".join(words)))
    for each in found.left_out[:MOST_SHOWN]:
        remedy = f"; {each.remedy}" if each.remedy else ""
        parts.append(figure(folder / each.name, each.name, f"left out: {each.reason}{remedy}", "cz-left-out"))
    notes = "".join(f"<li>{html(note)}</li>" for note in found.notes)
    count = f"{len(found.usable)} can be learned from" + (f", {len(found.left_out)} are left out" if found.left_out else "")
    return f'<p>{count}.</p><ul>{notes}</ul><div class="cz-photos">{"".join(parts)}</div>'


def figure(path: Path, name: str, words: str, kind: str = "") -> str:
    """One photo."""
    address = photo_store.thumbnail(path)
    picture = f'<img src="{address}" alt="{html(name)}">' if address else '<div class="cz-none">no picture</div>'
    return f'<div class="cz-photo {kind}">{picture}<div>{html(name)}</div><div class="cz-muted">{html(words)}</div></div>'


def begun(workspace: Workspace, place: str, name: str | None) -> tuple[Any, ...]:
    """A photo with the largest square in its middle: the frame, the sliders, and the size of what is kept."""
    words, address = kept_of(workspace, place, name, *crop_frame.START), ""
    with suppress(InputError):
        address = photo_store.thumbnail(photo_store.member(photo_store.allowed(workspace, place), name or ""), MOST_PIXELS)
    return gr.HTML(value=address, frame=crop_frame.START), *crop_frame.START, words


def kept_of(workspace: Workspace, place: str, name: str | None, across: float, down: float, share: float) -> str:
    """The size of the part of a photo that a crop keeps."""
    if not name:
        return ""
    try:
        size = photo_store.size_of(photo_store.member(photo_store.allowed(workspace, place), name))
    except InputError as error:
        return run_view.problems(error)
    left, _, right, _ = photo_store.square(size, across / 100, down / 100, share / 100)
    return f"<p>{right - left} x {right - left} of {size[0]} x {size[1]} pixels are kept.</p>"
