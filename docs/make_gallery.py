"""Remakes docs/gallery.md, its pictures and configs/gallery: every command in it is run as it is printed.

`python docs/make_gallery.py [NAME ...]` from the repository's root; names: only these entries.
"""

import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from customize.cli import commands
from customize.cli.main import main, read
from customize.settings.field import table
from customize.settings.files.toml_file import write
from customize.settings.frozen_model import by_section
from customize.settings.inference import InferenceSettings

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs/gallery"
PICTURES = HERE / "gallery"
WIDEST = 1400
SAMPLER = "--scheduler DPMSolverMultistepScheduler"
USUAL = f"--guidance_scale 4 {SAMPLER}"
FOREST, WHITE = "customize/demo/examples/subject/6.png", "customize/demo/examples/subject/2.png"
PUMPKIN, SKETCH, MASK = "customize/demo/examples/subject/3.png", "docs/gallery/sketch.png", "docs/gallery/mask.png"


@dataclass(frozen=True)
class Entry:
    """A section of the gallery. command: the flags of infer.py; shows: the file in its output that is shown."""

    name: str
    title: str
    text: str
    command: str
    shows: str = "sheet.png"


INTRODUCTION = """\
Everything here is made on the embedded base model by `python docs/make_gallery.py`, each picture by the command beside it.
It is a small model of 64 x 64 pixels: what it shows is how things work. What takes a real model to look well, by the same
commands with `--pretrained_model_name_or_path` or weights of it: anagrams and hybrids of any two things (and without strokes
only with a model of pixels), LookingGlass (made for 1024 pixels), inpainting with a UNet of nine channels, prompts of more
than one chunk, and image to image from photos."""

ENTRIES = (
    Entry(
        "autoencoder",
        "What the autoencoder keeps",
        "A picture, its latents (each drawn in the colour that a linear map gives it), the picture decoded from them, and what "
        "was lost, four times as strong.",
        f"--lesson autoencoder --image {PUMPKIN}",
        "000.png",
    ),
    Entry(
        "forward",
        "What noise does",
        "The forward process: the latents of the picture under more and more of one noise, decoded.",
        f"--lesson forward --image {PUMPKIN}",
        "000.png",
    ),
    Entry(
        "denoising",
        "Three ways to take noise out",
        "The same noisy picture cleaned by a Gaussian blur, by one answer of the network, and by a stride of small steps.",
        '--lesson denoising --image customize/demo/examples/subject/5.png --prompt "a pumpkin in the desert" '
        "--guidance_scale 1 --num_inference_steps 50",
        "000.png",
    ),
    Entry(
        "steps",
        "From pure noise, in 5, 20 and 200 steps",
        "The same seeds. Past some twenty steps little changes.",
        '--prompt "a sailboat on the beach" --prompt "a red car in the city at night" --guidance_scale 4 '
        "--scheduler DDIMScheduler --sweep num_inference_steps=5,20,200",
    ),
    Entry(
        "guidance",
        "How strongly the prompt is obeyed",
        "At 1 there is no guidance. What suits this small model is 3 to 5; beyond, colours glare and shapes burst.",
        f'--prompt "a turtle in the forest" --num_images 2 {SAMPLER} --sweep guidance_scale=1,2.5,5,7.5,10,25,50',
    ),
    Entry(
        "negative",
        "Negative prompts",
        "The same seeds without a negative prompt, which mixes buildings, and with three that say what it shall not be.",
        f'--prompt "a building in the snow" --num_images 3 {USUAL} --sweep "negative_prompt=|a house|a castle|a tent"',
    ),
    Entry(
        "and",
        "Prompts joined by AND",
        "Each half by itself, and both at once, with a weight each (Composable Diffusion).",
        f'--prompt "a penguin in the snow" --prompt "a penguin in the style of purple and yellow" '
        f'--prompt "a penguin in the snow :0.7 AND a penguin in the style of purple and yellow :0.7" --num_images 4 {USUAL}',
    ),
    Entry(
        "between",
        "From one prompt to another",
        "By straight lines between the embeddings, and along arcs. On this model the two hardly differ.",
        f'--prompt "a red car in the city" --prompt "a blue car in the forest at night" {USUAL} --seed 3 '
        "--between 0 --sweep between=0..1..0.1 --sweep interpolation=linear,spherical",
    ),
    Entry(
        "schedule",
        "A prompt that changes on the way",
        "`[from:to:0.3]` switches after that part of the steps: the layout is the first one's, the rest the second's.",
        f'--prompt "a [penguin:snowman:0.1] in the snow" --prompt "a [penguin:snowman:0.3] in the snow" '
        f'--prompt "a [penguin:snowman:0.6] in the snow" --num_images 4 {USUAL}',
    ),
    Entry(
        "alternation",
        "Two things in turn",
        "`[a|b]` names one at every other step: a blend of both.",
        f'--prompt "a rabbit in the forest" --prompt "a [rabbit|fox] in the forest" --prompt "a [fox|rabbit] in the forest" '
        f'--prompt "a fox in the forest" --num_images 4 {USUAL}',
    ),
    Entry(
        "weights",
        "Weights of words",
        "`(word:number)`: how much of it there is to be.",
        f'--prompt "a house in the style of (blue:0.3) and white" --prompt "a house in the style of blue and white" '
        f'--prompt "a house in the style of (blue:1.3) and white" --num_images 6 {USUAL}',
    ),
    Entry(
        "strength",
        "Image to image",
        "A sketch, from unchanged to made anew, with what each starts from above it.",
        f'--prompt "a red car on the beach" --image {SKETCH} {USUAL} --num_inference_steps 40 '
        "--show_start --strength 0.5 --sweep strength=0.2,0.35,0.5,0.65,0.8,0.9,1",
    ),
    Entry(
        "sdedit",
        "SDEdit at a list of noise levels",
        "A picture noised up to the 20th, 10th, 7th, 5th, 3rd and 1st of 34 levels, the last one nearly pure noise, and denoised "
        "without guidance: the more noise, the less it is the same picture (Meng et al. 2022).",
        f'--prompt "a picture" --image {FOREST} --guidance_scale 1 {SAMPLER} --num_inference_steps 34 --show_start '
        "--strength 0.5 --sweep strength=0.412,0.706,0.795,0.853,0.912,0.971",
    ),
    Entry(
        "conditional",
        "Another thing from the same picture",
        "Text-conditional image to image: a pumpkin on the way to what the prompt names.",
        f'--prompt "a red balloon in the forest" --image {FOREST} {USUAL} --num_inference_steps 34 --show_start '
        "--strength 0.5 --sweep strength=0.412,0.706,0.795,0.853,0.912,0.971",
    ),
    Entry(
        "chain",
        "A chain",
        "Each picture starts from the one before it.",
        f'--prompt "a house in the snow at night" --image {PUMPKIN} --strength 0.45 --chain 8 {USUAL}',
    ),
    Entry(
        "inpainting",
        "Inpainting",
        "Only where the mask is white something new is made; every other pixel is the original's. Second row: RePaint makes "
        "each stretch of ten steps five times.",
        f'--prompt "a snowman in the city" --image {PUMPKIN} --mask_image {MASK} --guidance_scale 4 --scheduler DDIMScheduler '
        "--num_inference_steps 50 --sweep seed=1..5 --sweep num_resamples=1,5",
    ),
    Entry(
        "views",
        "Views",
        "Ways to look at a picture. An anagram shows one thing under each of two or more of them.",
        f"--lesson views --image {PUMPKIN}",
        "000.png",
    ),
    Entry(
        "anagram",
        "Visual anagrams",
        "One picture that shows the first prompt as it is and the second upside down. Made in latents, which leaves strokes: "
        "an autoencoder is not equivariant.",
        f'--illusion anagram --view identity --view rotate_180 --prompt "a turtle on plain green" '
        f'--prompt "a mushroom on plain green" --num_images 6 {USUAL} --num_inference_steps 40',
    ),
    Entry(
        "three_views",
        "Three prompts in one picture",
        "As it is, on its left side, and upside down.",
        f'--illusion anagram --view identity --view rotate_90_cw --view rotate_180 --prompt "a strawberry on plain white" '
        f'--prompt "a fish on plain white" --prompt "a bell on plain white" --num_images 6 {USUAL} --num_inference_steps 40',
    ),
    Entry(
        "looking_glass",
        "The same in pixels",
        "LookingGlass decodes the clean picture that each view predicts, turns pixels instead of latents, and encodes again.",
        f'--illusion looking_glass --view identity --view rotate_180 --prompt "a turtle on plain green" '
        f'--prompt "a mushroom on plain green" --num_images 6 {USUAL} --num_inference_steps 40',
    ),
    Entry(
        "hybrid",
        "Hybrid images",
        "One prompt for the low frequencies, seen from far away, one for the high, seen from near by.",
        f'--illusion hybrid --prompt "a pineapple on plain yellow" --prompt "a lantern on plain yellow" --num_images 6 {USUAL}',
    ),
    Entry(
        "inverse_hybrid",
        "A hybrid of a picture and a prompt",
        "The high frequencies are a given picture's throughout, the low ones what the prompt asks for.",
        f"--illusion hybrid --image {WHITE} --image_part high "
        f'--prompt "a strawberry on a white background" --num_images 6 {USUAL}',
    ),
    Entry(
        "triple",
        "Three bands",
        "One prompt each for the low, the middle and the high frequencies.",
        f'--illusion triple --prompt "a house in the snow" --prompt "a snowman in the snow" --prompt "a tent in the snow" '
        f"--num_images 6 {USUAL}",
    ),
    Entry(
        "colour_parts",
        "Grey and colour",
        "The mean of the channels is the first prompt's, what differs from it the second's. In latents that is not brightness "
        "and colour: a pixel model shows what is meant.",
        f'--illusion colour --prompt "a castle in the desert" --prompt "a castle in the forest at night" --num_images 6 {USUAL}',
    ),
    Entry(
        "motion",
        "What is seen in motion",
        "The first prompt's is what stays of a picture that moves along the diagonal, the second's the rest.",
        f'--illusion motion --prompt "a pear on plain blue" --prompt "a teapot on plain blue" --num_images 6 {USUAL}',
    ),
    Entry(
        "trace",
        "What happens at each step",
        "The latents, and the clean picture that the network predicts at that step, here decoded by the autoencoder; without "
        "`--trace_decode full` a linear map shows it for nothing. `--trace_page` makes a page with a slider, charts and "
        "formulas.",
        f'--prompt "a red house in the snow" --seed 2 {USUAL} --num_inference_steps 20 --trace --trace_page --trace_decode full',
        "000-trace.png",
    ),
    Entry(
        "attention",
        "Where each word looks",
        "Cross-attention, averaged over layers, heads and steps; `<dusk>` is a learned word (the first command of the README). "
        "`000-attention.gif` shows it step by step.",
        '--weights runs/demo_textual_inversion --prompt "a snowman in the snow in the style of <dusk>" '
        f"--seed 1 {USUAL} --num_inference_steps 20 --attention",
        "000-attention.png",
    ),
    Entry(
        "learned",
        "What was learned, more and less of it",
        "A subject learned from six pictures (a command of the README) at several scales, and with a scale that begins later: "
        "`0@0,1@0.3` leaves the first 0.3 of the steps to the base model.",
        f'--prompt "a sks toy in the snow" {USUAL} --weights runs/demo_dreambooth_lora --num_images 3 '
        '--sweep "weights=runs/demo_dreambooth_lora:0|runs/demo_dreambooth_lora:0.5|runs/demo_dreambooth_lora|'
        'runs/demo_dreambooth_lora:0@0,1@0.3|runs/demo_dreambooth_lora:0@0,1@0.6"',
    ),
)


def draw_inputs() -> None:
    """A sketch as one makes it in a paint program, and a mask over the pumpkin."""
    PICTURES.mkdir(exist_ok=True)
    sketch = Image.new("RGB", (128, 128), (130, 190, 240))
    pen = ImageDraw.Draw(sketch)
    pen.rectangle((0, 70, 128, 96), fill=(40, 120, 200))
    pen.rectangle((0, 96, 128, 128), fill=(235, 210, 150))
    pen.ellipse((14, 12, 34, 32), fill=(255, 230, 90))
    pen.polygon([(36, 78), (50, 58), (88, 58), (104, 78)], fill=(215, 30, 30))
    pen.rectangle((26, 76, 112, 98), fill=(215, 30, 30))
    for x in (42, 94):
        pen.ellipse((x - 10, 88, x + 10, 108), fill=(30, 30, 30))
    sketch.save(HERE.parent / SKETCH)
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).rectangle((14, 10, 114, 118), fill=255)
    mask.save(HERE.parent / MASK)


def make(entry: Entry) -> None:
    """Runs the command and keeps the picture that it is about."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        status = main(InferenceSettings, commands.run_inference, [*shlex.split(entry.command), "--output_dir", str(out)])
        if status:
            raise SystemExit(f"{entry.name}: infer.py ended with status {status}")
        shown = out / entry.shows
        target = PICTURES / f"{entry.name}{'.gif' if shown.suffix == '.gif' else '.jpg'}"
        PICTURES.mkdir(exist_ok=True)
        if shown.suffix == ".gif":
            shutil.copy(shown, target)
            return
        picture = Image.open(shown).convert("RGB")
        if picture.width > WIDEST:
            picture = picture.resize((WIDEST, round(picture.height * WIDEST / picture.width)), Image.Resampling.LANCZOS)
        picture.save(target, quality=88)


def config(entry: Entry) -> str:
    """The command as a configuration file: what differs from the usual."""
    settings, _ = read(InferenceSettings, [*shlex.split(entry.command), "--output_dir", f"images/{entry.name}"])
    lines, values = table(InferenceSettings), settings.values()
    unusual = {name: value for name, value in values.items() if value != lines[name].default}
    used = {name: kept for name, kept in by_section(InferenceSettings).items() if any(line.name in unusual for line in kept)}
    return f"# python infer.py configs/gallery/{entry.name}.toml\n#\n# {entry.title}\n\n{write(used, unusual)}"


def page() -> str:
    """The text of gallery.md."""
    parts = ["# Gallery", "", INTRODUCTION, ""]
    for entry in ENTRIES:
        suffix = ".gif" if entry.shows.endswith(".gif") else ".jpg"
        parts += [f"## {entry.title}", "", entry.text, "", "```bash", f"python infer.py {entry.command}", "```", ""]
        parts += [f"[The same as a file](../configs/gallery/{entry.name}.toml)", ""]
        parts += [f"![{entry.title}](gallery/{entry.name}{suffix})", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    chosen = sys.argv[1:]
    draw_inputs()
    CONFIGS.mkdir(exist_ok=True)
    for entry in ENTRIES:
        (CONFIGS / f"{entry.name}.toml").write_text(config(entry), encoding="utf-8")
        if not chosen or entry.name in chosen:
            make(entry)
    (HERE / "gallery.md").write_text(page(), encoding="utf-8")
