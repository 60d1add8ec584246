"""The layout of the form that generates images: from what everybody needs to what few do."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from customize.settings.inference import InferenceSettings
from customize.web import settings_form
from customize.web.pictures import mask_painter
from customize.web.pictures.form_fields import RECORD, RECORDING, FormFields, area, samplers
from customize.web.pictures.generation_form import FIELDS, MORE, NOT_HERE, WORDS

LARGEST_SCALE = 2.0
NO_BASE = ("the one of the weights, else demo", "")


class FormLayout:
    """The components of the form: its fields, and beside these what is pressed, dropped, painted and shown.

    scales: the scale of each of the chosen weights, by path, where it is not 1.
    """

    def __init__(self) -> None:
        self.fields, self.scales = FormFields(), gr.State({})
        with gr.Column(elem_classes="cz-prompt"):
            self.build_prompt()
        with gr.Column(elem_classes="cz-settings"):
            self.build_settings()

    def build_prompt(self) -> None:
        """What everybody needs, and what is being generated."""
        add = self.fields.add
        add("prompt", gr.Textbox(label="Prompt", lines=3, max_lines=8, placeholder="What to show. Shift and Enter generates."))
        self.chips = area()
        add("negative_prompt", gr.Textbox(label="Negative prompt", placeholder="What not to show", max_lines=4))
        self.go = gr.Button("Generate", variant="primary", size="lg")
        self.report = area(clicks=False)
        self.queue = area()

    def build_settings(self) -> None:
        """What can be chosen, that which few people need behind headings."""
        fields = self.fields
        fields.add(WORDS, gr.Dropdown([], value=[], multiselect=True, allow_custom_value=True, label="Learned weights"))
        self.build_scales()
        with gr.Row(elem_classes="cz-numbers"):
            fields.optional_number("width", "Width", "auto")
            fields.optional_number("height", "Height", "auto")
            fields.number("num_images", "Images")
        with gr.Row(elem_classes="cz-numbers"):
            fields.number("num_inference_steps", "Steps")
            fields.number("guidance_scale", "Guidance", step=0.5)
            fields.optional_number("seed", "Seed", "random")
        fields.add("scheduler", gr.Dropdown(samplers(), value="", allow_custom_value=True, label="Sampler"))
        self.build_start()
        with gr.Accordion("Compare settings in a grid", open=False):
            fields.sweeps()
        with gr.Accordion("More settings", open=False):
            self.build_more()
        with gr.Accordion("Read the settings of a picture", open=False):
            self.drop = gr.File(label="A picture of this page, A1111, ComfyUI, InvokeAI, ...", file_types=["image"], height=150)
            self.dropped = area(clicks=False)
        with gr.Accordion("The command for this", open=False):
            self.command = gr.Textbox(label="Command", lines=2, max_lines=8, interactive=False, buttons=["copy"])
            self.toml = gr.Textbox(label="CONFIG.toml", lines=6, max_lines=30, interactive=False, buttons=["copy"])

    def build_start(self) -> None:
        """An image to start from, and the mask on it."""
        with gr.Accordion("Start from an image", open=False) as self.start:
            self.picture = gr.Image(
                label="Image", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=240, buttons=[]
            )  # image_mode: the file comes as it is, so that it is checked before it is decoded
            self.fields.place("image")
            self.fields.optional_number("strength", "Strength (0: keep it, 1: replace it)", "0.8; with a mask 1")
            with gr.Accordion("Change only a part of it: paint a mask", open=False) as self.paint:
                self.painter = gr.HTML("", **mask_painter.PAINTER)
                self.fields.place("mask_image")
                self.fields.number("mask_blur", "Soft edge of the mask, in pixels")

    def build_more(self) -> None:
        """Base model, recording, and every other setting in a form and as TOML."""
        base = gr.Dropdown([NO_BASE], value="", allow_custom_value=True, label="Base model")
        self.fields.add("pretrained_model_name_or_path", base)
        self.fields.add(RECORD, gr.Checkbox(False, label="Record every step, for the page Look inside"), False)
        others = [name for name, line in self.fields.lines.items() if (line.only_with or ("",))[0] in NOT_HERE]
        others += [*FIELDS, *NOT_HERE, *RECORDING, "weights"]
        self.settings = gr.HTML(**settings_form.arguments(InferenceSettings, others))
        label = "The same as TOML, a line each"
        self.fields.add(MORE, gr.Textbox(label=label, lines=3, placeholder="clip_skip = 1\nhires_scale = 1.5"))

    def build_scales(self) -> None:
        """A slider for the scale of each of the chosen weights."""

        @gr.render(inputs=[self.fields.components[WORDS], self.scales], triggers=[self.fields.components[WORDS].change])
        def sliders(paths: list[str], scales: Mapping[str, Any]) -> None:
            for path in paths or ():
                scale = scales.get(path, 1.0)
                if isinstance(scale, int | float) and 0 <= scale <= LARGEST_SCALE:
                    own = gr.Slider(0, LARGEST_SCALE, scale, step=0.05, label=f"Scale of {path}", key=path)
                else:
                    own = gr.Textbox(str(scale), label=f"Scale of {path}", key=path)
                own.change(lambda value, known, path=path: {**known, path: value}, [own, self.scales], self.scales)
