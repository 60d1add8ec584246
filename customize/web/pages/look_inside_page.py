"""The page that looks inside: the steps of an image, images of several prompts, and the lessons."""

from pathlib import Path
from typing import Any

import gradio as gr

from customize.errors import InputError, Problem
from customize.inference.explain.step_sentences import sentences
from customize.inference.metadata.read_png import read_generation_info
from customize.inference.run import command
from customize.printable import html
from customize.settings.inference import OF_VIEWS
from customize.web.pictures import generation_jobs, image_gallery, lesson_pages, picture_html
from customize.web.pictures.form_fields import area, recorded
from customize.web.pictures.generation_form import MORE, Filled, fill, form_of, toml_lines
from customize.web.pictures.illusion_words import KINDS, PARTS, VIEWS
from customize.web.pictures.image_gallery import ImageOfFolder
from customize.web.workspace import Workspace

EVERY = 1.5
"""Seconds from one look at the jobs and the images to the next."""
MOST_READINGS = 4
NOT_RECORDED = (
    "The steps of this image were not recorded as a page. It can be generated again with them, pixel by pixel the same."
)
FRAME = """
window.addEventListener('message', event => {
  const frame = element.querySelector('iframe'), height = event.data && event.data.traceHeight;
  if (frame && event.source === frame.contentWindow && height > 0) frame.style.height = Math.min(8000, height + 50) + 'px';
});
"""


def build(workspace: Workspace) -> None:
    """The page."""
    LookInsidePage(workspace)


class LookInsidePage:
    """The components of the page, and what their events do."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.selected, self.seen = gr.State(""), gr.State(())
        gr.HTML(picture_html.STYLE)
        gr.Markdown("# Look inside")
        self.queue = area()
        with gr.Tabs():
            with gr.Tab("Step by step"):
                self.build_steps()
            with gr.Tab("Anagrams and hybrids"):
                self.build_illusions()
            with gr.Tab("Lessons"):
                self.build_lessons()
        self.connect()

    def build_steps(self) -> None:
        """An image, what was recorded of it, and the images to choose from."""
        self.view = area(script=picture_html.CLICKS + FRAME)
        gr.Markdown("### Choose an image")
        self.gallery = area()

    def build_illusions(self) -> None:
        """A form of several prompts for one image."""
        gr.Markdown("One image that shows something else when it is looked at in another way.")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                kinds = [(label, name) for name, label in KINDS.items()]
                self.kind = gr.Dropdown(kinds, value="anagram", label="It shows something else")
                self.readings: list[tuple[gr.Textbox, gr.Dropdown]] = []
                for number, view in enumerate(("identity", "rotate_180", "rotate_90_cw", "flip")[:MOST_READINGS]):
                    self.readings.append(self.build_reading(number, view))
                with gr.Row():
                    self.steps = gr.Number(40, label="Steps", min_width=100)
                    self.guidance = gr.Number(4, label="Guidance", min_width=100)
                    self.seed = gr.Textbox("", label="Seed", placeholder="random", min_width=100)
                    self.count = gr.Number(2, label="Images", min_width=100)
                self.base = gr.Dropdown(["demo", "digits"], value="demo", allow_custom_value=True, label="Base model")
                self.go = gr.Button("Generate", variant="primary")
                self.report = area(clicks=False)
                with gr.Accordion("The command for this", open=False):
                    self.command = gr.Textbox(label="Command", lines=3, interactive=False, buttons=["copy"])
            with gr.Column(scale=3, min_width=300):
                self.illusions = area(clicks=False)

    def build_reading(self, number: int, view: str) -> tuple[gr.Textbox, gr.Dropdown]:
        """A prompt, and how the image is looked at to see it."""
        with gr.Row():
            example = ("a turtle on plain green", "a mushroom on plain green", "", "")[number]
            label = f"Prompt {number + 1}" + (" (may be empty)" if number > 1 else "")
            prompt = gr.Textbox(example, label=label, min_width=150, scale=3)
            views = [(words, name) for name, words in VIEWS.items()]
            return prompt, gr.Dropdown(views, value=view, label=f"Seen {number + 1}", min_width=150, scale=2)

    def build_lessons(self) -> None:
        """The lessons, one at a time."""
        found = lesson_pages.lessons()
        first = found[0].name if found else ""
        choices = [(each.title, each.name) for each in found]
        self.lesson = gr.Dropdown(choices, value=first or None, label="Lesson", visible=bool(found))
        formulas = [{"left": "$$", "right": "$$", "display": True}, {"left": "$", "right": "$", "display": False}]
        self.text = gr.Markdown(
            lesson_pages.markdown_of(first) if not found else "", latex_delimiters=formulas, elem_classes="lesson"
        )

    def connect(self) -> None:
        """What happens when."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
        self.queue.click(self.act_on_job, None, self.queue, show_progress="hidden")
        self.gallery.click(self.select, None, [self.selected, self.view], show_progress="hidden")
        self.view.click(self.record, None, [self.view, self.queue], show_progress="hidden")
        form = [self.kind, self.steps, self.guidance, self.seed, self.count, self.base]
        form += [each for pair in self.readings for each in pair]
        gr.on([each.change for each in form], self.check, form, [self.report, self.command], **quiet)
        self.kind.change(self.parts, self.kind, [each for pair in self.readings for each in pair], **quiet)
        self.go.click(self.generate, form, [self.report, self.queue], show_progress="hidden")
        self.lesson.change(lesson_pages.markdown_of, self.lesson, self.text, show_progress="hidden")
        shown = [self.seen, self.selected, self.queue, self.gallery, self.view, self.illusions]
        gr.Timer(EVERY).tick(self.refresh, [self.seen, self.selected], shown, **quiet)
        root = gr.context.Context.root_block
        assert root is not None
        root.load(self.opened, None, [*shown, self.text, self.report, self.command], show_progress="hidden")

    # Step by step

    def opened(self, request: gr.Request) -> list[Any]:
        """What is shown first: the image that the address names."""
        name = str(request.query_params.get("image", ""))
        first = lesson_pages.lessons()[:1]
        text = lesson_pages.markdown_of(first[0].name) if first else lesson_pages.WHERE
        return [*self.changed((), name), text, "", ""]

    def refresh(self, seen: Any, selected: str) -> list[Any]:
        """What has changed since the last look, once the page has been opened."""
        return self.changed(seen, selected) if seen else [gr.skip()] * 6

    def changed(self, seen: Any, selected: str) -> list[Any]:
        """The queue and the images, of which one that was just recorded is shown at once; all of it before the first look."""
        queue, state = generation_jobs.shown(self.workspace), image_gallery.state(self.workspace.images)
        before, nothing = seen or (None, None, ""), gr.skip()
        queue_shown = queue if queue != before[0] else nothing
        if state == before[1]:
            return [(queue, *before[1:]), selected, queue_shown, nothing, nothing, nothing]
        folders = image_gallery.folders(self.workspace.images)
        recorded_ones = [each.name for folder in folders for each in folder.images if "trace" in each.beside]
        newest = recorded_ones[0] if recorded_ones else ""
        is_new = bool(seen) and newest != before[2]
        selected = newest if is_new else selected
        view = self.view_of(image_gallery.find(self.workspace.images, selected)) if is_new or not seen else nothing
        gallery = picture_html.gallery(self.workspace, folders, selected)
        return [(queue, state, newest), selected, queue_shown, gallery, view, self.illusions_html(folders)]

    def select(self, event: gr.EventData) -> tuple[str, str]:
        """Shows what was recorded of an image."""
        return str(event.image), self.view_of(image_gallery.find(self.workspace.images, str(event.image)))

    def view_of(self, image: ImageOfFolder | None, wrong: str = "") -> str:
        """The recorded steps of an image, in pictures and in words; the offer to record them where they are not."""
        if image is None:
            return '<p class="soft">Choose an image below: its steps are shown here, from noise to the picture.</p>'
        if "trace" not in image.beside:
            offer = picture_html.buttons(image, {"record": "Record its steps"})
            seen = (
                self.sheets(image)
                or f'<div style="max-width: 320px">{picture_html.large(self.workspace, image, (1024, 1024))}</div>'
            )
            return f"<p>{NOT_RECORDED}</p>{offer}{wrong}{seen}"
        url = html(self.workspace.url(image.beside["trace"]))
        frame = f'<iframe class="trace" sandbox="allow-scripts" title="The steps of the image" src="{url}"></iframe>'
        return frame + self.words(image)

    def sheets(self, image: ImageOfFolder) -> str:
        """What --trace and --attention wrote without a page: the strip of steps and the maps of the words."""
        labels = {"strip": "the steps of the image", "attention": "the attention of each word"}
        found = [self.picture(image.beside[kind], label) for kind, label in labels.items() if kind in image.beside]
        return "".join(found) + self.words(image) if found else ""

    def words(self, image: ImageOfFolder) -> str:
        """A sentence for each step, as a list to read."""
        try:
            scale = read_generation_info(image.path).settings.get("guidance_scale", 7.5)
        except InputError:
            scale = None
        found = sentences(image_gallery.trace_rows(image), scale)
        items = "".join(f"<li>{html(text)}</li>" for text in found)
        return f"<details><summary>All steps in words</summary><ol>{items}</ol></details>" if items else ""

    def record(self, event: gr.EventData) -> tuple[Any, str]:
        """Generates an image again, with its steps recorded."""
        image = image_gallery.find(self.workspace.images, str(event.image))
        if image is None or event.action != "record":
            return gr.skip(), generation_jobs.shown(self.workspace)
        try:
            form, _ = form_of(read_generation_info(image.path))
            filled = fill(form | recorded(form))
            if any(each.where == "attention" for each in filled.all_problems):  # it has no single prompt
                filled = fill(form | recorded(form, attention=False))
            self.start(filled)
        except InputError as error:
            return self.view_of(image, picture_html.problems(error.problems, True)), generation_jobs.shown(self.workspace)
        note = picture_html.notes(["It is being generated again; its steps appear here."])
        return self.view_of(image, note), generation_jobs.shown(self.workspace)

    def start(self, filled: Filled) -> None:
        """Puts a job into the queue. Raises InputError if its settings or files are at fault."""
        if filled.problems:
            raise InputError(filled.all_problems)
        command.check(filled.settings)
        generation_jobs.start(self.workspace, filled)

    def act_on_job(self, event: gr.EventData) -> str:
        """Stops a job, or takes it out of the queue."""
        generation_jobs.act(self.workspace, str(event.action), str(event.job))
        return generation_jobs.shown(self.workspace)

    # Anagrams and hybrids

    def illusion(self, kind: str, steps: Any, guidance: Any, seed: str, count: Any, base: str, *readings: str) -> Filled:
        """The settings of the form; prompts that are empty are left out with their views."""
        pairs = [pair for pair in zip(readings[::2], readings[1::2], strict=True) if pair[0].strip()]
        pairs = pairs[: len(PARTS.get(kind, pairs))]
        more = {"illusion": kind, "prompt": tuple(prompt for prompt, _ in pairs)}
        more |= {"view": tuple(view for _, view in pairs)} if kind in OF_VIEWS else {}
        form = {"num_inference_steps": steps, "guidance_scale": guidance, "seed": seed, "num_images": count}
        return fill(form | {"pretrained_model_name_or_path": base, MORE: toml_lines(more)})

    def parts(self, kind: str) -> list[Any]:
        """The updates of the prompts and their views for this kind of illusion."""
        found: list[Any] = []
        for number in range(MOST_READINGS):
            names = PARTS.get(kind)
            label = names[number] if names and number < len(names) else f"Prompt {number + 1}"
            label += " (may be empty)" if number > 1 else ""
            there = names is None or number < len(names)
            found += [gr.update(label=label, visible=there), gr.update(visible=names is None)]
        return found

    def check(self, *form: Any) -> tuple[str, str]:
        """What is wrong, and the command."""
        filled = self.illusion(*form)
        return picture_html.problems(filled.all_problems, True), "" if filled.problems else filled.command

    def generate(self, *form: Any) -> tuple[str, str]:
        """Starts a job, if nothing is wrong."""
        wrong: tuple[Problem, ...] = ()
        try:
            self.start(self.illusion(*form))
        except InputError as error:
            wrong = error.problems
        return picture_html.problems(wrong, True), generation_jobs.shown(self.workspace)

    def illusions_html(self, folders: list[image_gallery.FolderOfImages]) -> str:
        """The newest illusions: the sheet with each reading under its prompt, and the animations."""
        found = [(folder, [each for each in folder.images if "turning" in each.beside]) for folder in folders]
        parts = [self.one_illusion(folder, turning) for folder, turning in found if turning][:6]
        return "".join(parts) or '<p class="soft">Illusions appear here, with every reading under its prompt.</p>'

    def one_illusion(self, folder: image_gallery.FolderOfImages, images: list[ImageOfFolder]) -> str:
        """A folder of illusions."""
        title = html(folder.prompt, 200)
        sheets = "".join(self.picture(sheet, f"{title}: every reading under its prompt") for sheet in folder.sheets[-1:])
        turning = "".join(self.picture(each.beside["turning"], f"{title}: from one reading to the next") for each in images)
        turning = f'<details><summary>See it turn</summary><div class="in-line">{turning}</div></details>'
        return f"<section><h3>{title}</h3>{sheets}{turning}</section>"

    def picture(self, path: Path, label: str) -> str:
        """A picture that is loaded when it comes into view. label: HTML."""
        return f'<img class="sheet" loading="lazy" src="{html(self.workspace.url(path))}" alt="{label}">'
