"""The page that generates images: a form, what is being generated, and all images of the workspace."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from customize.errors import InputError, Problem
from customize.inference.metadata.read_png import GenerationInfo, read_generation_info
from customize.inference.run import command
from customize.settings.files import toml_edit
from customize.settings.inference import InferenceSettings
from customize.teach import bases
from customize.web import settings_form
from customize.web.pictures import generation_jobs, image_deletion, image_gallery, input_files, mask_painter, picture_html
from customize.web.pictures.form_fields import area
from customize.web.pictures.form_layout import NO_BASE, FormLayout
from customize.web.pictures.generation_form import MORE, SCALES, WORDS, Filled, by_field, fill, form_of
from customize.web.pictures.image_gallery import ImageOfFolder
from customize.web.pictures.learned_words import learned, with_words, without_words
from customize.web.workspace import Workspace

EVERY = 1.0
"""Seconds from one look at the jobs and the images to the next."""
MOST_CHIPS = 40
ACTIONS = {
    "again": "Same again", "vary": "Same, new seed", "start": "Start from it", "paint": "Change a part of it",
}  # fmt: skip


def build(workspace: Workspace) -> None:
    """The page."""
    GeneratePage(workspace)


class GeneratePage:
    """The components of the page, and what their events do. Nothing is kept here: each browser has its own values."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.mask, self.picture_path, self.selected, self.seen = gr.State(""), gr.State(""), gr.State(""), gr.State(())
        gr.HTML(picture_html.STYLE)
        gr.Markdown("# Generate")
        with gr.Row(elem_classes="cz-generate"):
            self.layout = FormLayout()
            self.fields = self.layout.fields
            with gr.Column(elem_classes="cz-results"):
                self.detail = area(name="cz-detail")
                self.gallery = area(name="cz-gallery")
        self.connect()

    def connect(self) -> None:
        """What happens when."""
        form, inputs = self.layout, self.fields.inputs
        quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
        hidden: dict[str, Any] = {"show_progress": "hidden"}
        state = [form.scales, self.picture_path, self.mask, *inputs]
        source = [self.picture_path, form.painter, self.mask]
        shown = [form.scales, self.picture_path, form.picture, form.painter, self.mask, form.start, form.paint, *inputs]
        self.unchanged: list[Any] = [gr.skip()] * len(shown)
        places = self.fields.problem_places()
        checked = [*places, form.command, form.toml, form.settings]
        gr.on([each.change for each in (*inputs, *state[:3])], self.check, state, checked, **quiet)
        more = self.fields.components[MORE]
        form.settings.set(self.set, [more, *state], [more, form.settings, self.fields.below[MORE]], **quiet)
        prompt, words = self.fields.components["prompt"], self.fields.components[WORDS]
        gr.on(
            [form.go.click, prompt.submit], self.generate, [form.settings, *state], [form.report, form.queue, *places], **hidden
        )  # type: ignore[attr-defined]
        form.chips.click(self.toggle, [prompt, words], [prompt, words], **hidden)
        words.change(self.chips_of, words, form.chips, **quiet)  # type: ignore[attr-defined]
        form.queue.click(self.act_on_job, None, [form.queue, form.report], **hidden)
        self.gallery.click(self.select, None, [self.selected, self.detail], **hidden)
        self.detail.click(self.use, None, [*shown, form.report], **hidden)
        self.detail.click(self.delete, None, [self.selected, self.detail, form.report], **hidden)
        form.drop.upload(self.read, form.drop, [*shown, form.dropped], **hidden)
        form.picture.upload(self.started_from, form.picture, [*source, self.fields.below["image"]], **hidden)
        form.picture.clear(lambda: ("", "", ""), None, source, **hidden)
        form.painter.apply(self.painted, None, self.mask, **hidden)
        seen = [self.seen, self.selected]
        changing = [form.queue, self.gallery, self.detail, words, form.chips]
        gr.Timer(EVERY).tick(self.refresh, [*seen, words], [*seen, *changing], **quiet)
        root = gr.context.Context.root_block
        assert root is not None
        base = self.fields.components["pretrained_model_name_or_path"]
        root.load(self.opened, None, [*seen, *changing, base, prompt], **hidden)

    def form(self, scales: Mapping[str, Any], picture: str, mask: str, *values: Any) -> dict[str, Any]:
        """The form, with the paths of image and mask where there are any; the mask is written when a job starts."""
        form = self.fields.read(values) | {SCALES: scales}
        form |= {"image": picture} if picture else {}
        return form | ({"mask_image": input_files.name_of(mask_painter.read_mask(mask))} if picture and mask else {})

    def check(self, *state: Any) -> list[Any]:
        """What is wrong, at each field; the command and TOML of what is right; and what the form of all settings shows."""
        filled = fill(form := self.form(*state))
        wrong = "" if not filled.problems else "Correct what is marked above."
        texts = self.fields.problem_texts(once_typed(filled.problems))
        return [*texts, wrong or filled.command, wrong or filled.toml, shown_settings(form, filled)]

    def set(self, event: gr.EventData, more: str, *state: Any) -> list[Any]:
        """Writes what was changed in the form of all settings into the TOML lines."""
        done = {"changes": event.changes, "number": event.number}
        form = self.form(*state)
        try:
            more = settings_form.with_changes(InferenceSettings, more or "", event.changes, tables=False)
        except InputError as error:
            return [gr.skip(), shown_settings(form, fill(form), done), picture_html.problems(error.problems, True)]
        form |= {MORE: more}
        return [more, shown_settings(form, fill(form), done), gr.skip()]

    def generate(self, settings: Any, *state: Any) -> list[str]:
        """Starts a job, if nothing is wrong; the inputs are written before it. settings: the value of their form."""
        form = self.form(*state)
        form |= {MORE: settings_form.completed(InferenceSettings, form.get(MORE) or "", settings, tables=False)}
        found = fill(form)
        wrong = found.problems
        try:
            if not wrong:
                if "mask_image" in form:
                    input_files.keep(self.workspace, mask_painter.read_mask(state[2]))
                command.check(found.settings)
                generation_jobs.start(self.workspace, found)
        except InputError as error:
            wrong = by_field(error.problems)
        report = picture_html.notes(["Nothing was started: see what is marked."] if wrong else [])
        return [report, generation_jobs.shown(self.workspace), *self.fields.problem_texts(wrong)]

    def toggle(self, prompt: str, chosen: list[str], event: gr.EventData) -> tuple[str, list[str]]:
        """Puts a learned word into the prompt and loads its weights, or takes both out."""
        known = {each.path: each.words for each in learned(self.workspace.runs, self.workspace.folder)}
        if (path := str(event.weights)) not in known:
            return prompt, chosen
        if path in chosen:
            return without_words(prompt, known[path]), [each for each in chosen if each != path]
        return with_words(prompt, known[path]), [*chosen, path]

    def chips_of(self, chosen: list[str]) -> str:
        return picture_html.chips(learned(self.workspace.runs, self.workspace.folder)[:MOST_CHIPS], chosen or [])

    def act_on_job(self, event: gr.EventData) -> tuple[str, str]:
        """Stops a job, or takes it out of the queue."""
        generation_jobs.act(self.workspace, str(event.action), str(event.job))
        return generation_jobs.shown(self.workspace), ""

    def select(self, event: gr.EventData) -> tuple[str, str]:
        """Shows an image in full size."""
        return str(event.image), self.detail_of(image_gallery.find(self.workspace.images, str(event.image)))

    def detail_of(self, image: ImageOfFolder | None) -> str:
        """An image, what can be done with it, and its settings."""
        if image is None:
            return ""
        info = info_of(image)
        look = f'<a class="link" href="look_inside?image={picture_html.html(image.name)}">Look inside</a>'
        shown = {name: label for name, label in ACTIONS.items() if (info or name in ("start", "paint"))}
        large = picture_html.large(self.workspace, image, info.size if info else (1024, 1024))
        count = len(image_gallery.beside(image))
        delete = picture_html.deletion(image, count) if image_deletion.is_deletable(image) else ""
        return large + picture_html.buttons(image, shown, look) + picture_html.facts(info) + delete

    def use(self, event: gr.EventData) -> list[Any]:
        """Takes the settings of an image into the form, or the image as the one to start from; what is typed meanwhile stays."""
        image = image_gallery.find(self.workspace.images, str(event.image))
        if image is None:
            return [*self.unchanged, ""]
        if event.action in ("start", "paint"):
            start = [gr.skip(), *self.start_from(image, event.action == "paint")]
            return [*start, *self.unchanged[len(start) :], ""]
        return [*self.filled(info_of(image), event.action == "vary")[0], ""]

    def delete(self, event: gr.EventData) -> list[Any]:
        """Deletes an image, or all of its folder. The gallery follows within a second."""
        image = image_gallery.find(self.workspace.images, str(event.image))
        if image is None or event.action not in ("delete", "delete_all"):
            return [gr.skip()] * 3
        images = image_gallery.beside(image) if event.action == "delete_all" else (image,)
        try:
            image_deletion.delete([each for each in images if each == image or image_deletion.is_deletable(each)])
        except (InputError, OSError) as error:
            found = (
                error.problems if isinstance(error, InputError) else [Problem(image.name, str(error.strerror), "try it again")]
            )
            return [gr.skip(), gr.skip(), picture_html.problems(found, True)]
        return ["", "", ""]

    def start_from(self, image: ImageOfFolder, paint: bool) -> list[Any]:
        """The updates of path, image, painter, mask and the two accordions."""
        name = image.path.relative_to(self.workspace.folder).as_posix()
        return [name, str(image.path), self.workspace.url(image.path), "", gr.update(open=True), gr.update(open=paint)]

    def started_from(self, uploaded: str) -> list[str]:
        """Keeps an uploaded image, and returns its path, its address for the painter, no mask, and what is wrong with it."""
        try:
            name = input_files.keep_image(self.workspace, uploaded)
        except InputError as error:
            found = [Problem("image", each.what.replace(uploaded, "the image"), each.remedy) for each in error.problems]
            return ["", "", "", picture_html.problems(found)]
        return [name, self.workspace.url(self.workspace.folder / name), "", ""]

    def painted(self, event: gr.EventData) -> str:
        return str(event.mask)

    def read(self, path: str) -> list[Any]:
        """Takes the settings of any picture, with notes on what could not be taken."""
        try:
            info = read_generation_info(path)
        except InputError as error:
            found = [Problem(each.where, each.what.replace(path, "the picture"), each.remedy) for each in error.problems]
            return [*self.unchanged, picture_html.problems(found)]
        updates, notes = self.filled(info, False)
        return [*updates, picture_html.notes([f"The settings of {info.program} are in the form.", *notes])]

    def filled(self, info: GenerationInfo | None, new_seed: bool) -> tuple[list[Any], list[str]]:
        """The updates that show the settings of an image, and notes."""
        if info is None:
            return self.unchanged, []
        form, notes = form_of(info, [each.path for each in learned(self.workspace.runs, self.workspace.folder)])
        form |= {"seed": None} if new_seed else {}
        picture, mask = form.pop("image", None), form.pop("mask_image", None)
        shown = self.workspace.folder / picture if picture and self.workspace.served(picture) else None
        notes += ["its input image is not here: give it again"] if picture and not shown else []
        notes += ["paint its mask again"] if mask else []
        source = (
            [str(shown.relative_to(self.workspace.folder)), str(shown), self.workspace.url(shown)] if shown else ["", None, ""]
        )
        start = [*source, "", gr.update(open=bool(shown)), gr.update()]
        return [form[SCALES], *start, *self.fields.shown(form)], notes

    def opened(self, request: gr.Request) -> list[Any]:
        """What is shown first: the newest image, and with `?run=NAME` the words of this run in the prompt."""
        newest = image_gallery.folders(self.workspace.images, 1)
        asked = f"runs/{request.query_params.get('run', '')}"
        run = next((each for each in learned(self.workspace.runs, self.workspace.folder) if each.path == asked), None)
        chosen = [run.path] if run else []
        known, selected, queue, *images, words, chips = self.changed((), newest[0].images[-1].name if newest else "", chosen)
        base = gr.update(choices=[NO_BASE, *((each.title, each.name) for each in bases.found() if each.offered)])
        prompt = (run.example or with_words("", run.words)) if run else gr.skip()
        return [known, selected, queue, *images, words | {"value": chosen}, chips, base, prompt]

    def refresh(self, seen: Any, selected: str, chosen: list[str]) -> list[Any]:
        """What has changed since the last look, once the page has been opened."""
        return self.changed(seen, selected, chosen) if seen else [gr.skip()] * 7

    def changed(self, seen: Any, selected: str, chosen: list[str]) -> list[Any]:
        """The queue, the images, of which a new one is shown at once, and what was learned; all of it before the first look."""
        queue, state = generation_jobs.shown(self.workspace), image_gallery.state(self.workspace.images)
        before, nothing = seen or (None, None, ""), gr.skip()
        if (queue, state) == before[:2]:
            return [nothing] * 7
        known, images, words = (queue, state, before[2]), [nothing, nothing], [nothing, nothing]
        if state != before[1]:
            folders = image_gallery.folders(self.workspace.images)
            newest = folders[0].images[-1].name if folders else ""
            known, selected = (queue, state, newest), newest if seen and newest != before[2] else selected
            found = image_gallery.find(self.workspace.images, selected)
            images = [picture_html.gallery(self.workspace, folders, selected), self.detail_of(found)]
        if bool(queue) != bool(before[0]) or not seen:  # a run may have ended
            found = learned(self.workspace.runs, self.workspace.folder)
            choices = gr.update(choices=[(each.title, each.path) for each in found])
            words = [choices, picture_html.chips(found[:MOST_CHIPS], chosen or [])]
        return [known, selected, queue if queue != before[0] else nothing, *images, *words]


def shown_settings(form: Mapping[str, Any], filled: Filled, done: Any = None) -> dict[str, Any]:
    """What the form of all settings shows of the form of the page."""
    is_readable = toml_edit.is_toml(form.get(MORE) or "")
    return settings_form.state(InferenceSettings, filled.values if is_readable else None, filled.all_problems, done)


def info_of(image: ImageOfFolder) -> GenerationInfo | None:
    """The settings in an image's metadata; None if it has none that can be read."""
    try:
        return read_generation_info(image.path)
    except InputError:
        return None


def once_typed(problems: Mapping[str, Sequence[Problem]]) -> Mapping[str, Sequence[Problem]]:
    """The problems without that of an empty prompt, which is none before something was typed."""
    return {field: own for field, own in problems.items() if not (field == "prompt" and own[0].what == "is missing")}
