"""Generates docs/gallery.md, its images and configs/gallery by running every command of the gallery.

`python docs/make_gallery.py [NAME ...]` in the repository's root; names: only these entries.
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
IMAGES = HERE / "gallery"
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
All images here are generated with the embedded base model by `python docs/make_gallery.py`, each by the command above it.
It is a small model of 64 x 64 pixels that shows how things work. Some features need a real model to look good, with the same
commands and `--pretrained_model_name_or_path`: anagrams and hybrids of arbitrary subjects (only a pixel-space model
avoids strokes), LookingGlass (designed for 1024 pixels), inpainting with a nine-channel UNet, prompts of more than one
chunk, and image to image from photos. The [lessons](lessons/README.md) explain what happens in them."""

ENTRIES = (
    Entry(
        "autoencoder",
        "What the autoencoder preserves",
        "An image, its latents (in the colours of a linear map), the image decoded from them, and the difference, amplified "
        "four times.",
        f"--lesson autoencoder --image {PUMPKIN}",
        "000.png",
    ),
    Entry(
        "forward",
        "What noise does",
        "The forward process: the decoded latents of the image with increasing amounts of the same noise.",
        f"--lesson forward --image {PUMPKIN}",
        "000.png",
    ),
    Entry(
        "denoising",
        "Three ways to remove noise",
        "The same noisy image, denoised by a Gaussian blur, by one prediction of the network, and by many small steps.",
        '--lesson denoising --image customize/demo/examples/subject/5.png --prompt "a pumpkin in the desert" '
        "--guidance_scale 1 --num_inference_steps 50",
        "000.png",
    ),
    Entry(
        "steps",
        "From pure noise, in 5, 20 and 200 steps",
        "The same seeds. After about twenty steps, little changes.",
        '--prompt "a sailboat on the beach" --prompt "a red car in the city at night" --guidance_scale 4 '
        "--scheduler DDIMScheduler --sweep num_inference_steps=5,20,200",
    ),
    Entry(
        "guidance",
        "Guidance scale",
        "At 1 there is no guidance. This small model works best at 3 to 5; above, colours oversaturate and shapes break up.",
        f'--prompt "a turtle in the forest" --num_images 2 {SAMPLER} --sweep guidance_scale=1,2.5,5,7.5,10,25,50',
    ),
    Entry(
        "negative",
        "Negative prompts",
        "The same seeds without a negative prompt, which mixes buildings, and with three negative prompts.",
        f'--prompt "a building in the snow" --num_images 3 {USUAL} --sweep "negative_prompt=|a house|a castle|a tent"',
    ),
    Entry(
        "and",
        "Prompts joined by AND",
        "Each half alone, and both combined, each with its own weight (Composable Diffusion).",
        f'--prompt "a penguin in the snow" --prompt "a penguin in the style of purple and yellow" '
        f'--prompt "a penguin in the snow :0.7 AND a penguin in the style of purple and yellow :0.7" --num_images 4 {USUAL}',
    ),
    Entry(
        "between",
        "From one prompt to another",
        "Linear and spherical interpolation between the embeddings. With this model, the two hardly differ.",
        f'--prompt "a red car in the city" --prompt "a blue car in the forest at night" {USUAL} --seed 3 '
        "--between 0 --sweep between=0..1..0.1 --sweep interpolation=linear,spherical",
    ),
    Entry(
        "schedule",
        "A prompt that changes during denoising",
        "`[from:to:0.3]` switches after 30 % of the steps: the layout comes from the first word, the rest from the second.",
        f'--prompt "a [penguin:snowman:0.1] in the snow" --prompt "a [penguin:snowman:0.3] in the snow" '
        f'--prompt "a [penguin:snowman:0.6] in the snow" --num_images 4 {USUAL}',
    ),
    Entry(
        "alternation",
        "Two things in turn",
        "`[a|b]` alternates every step: a blend of both.",
        f'--prompt "a rabbit in the forest" --prompt "a [rabbit|fox] in the forest" --prompt "a [fox|rabbit] in the forest" '
        f'--prompt "a fox in the forest" --num_images 4 {USUAL}',
    ),
    Entry(
        "weights",
        "Weights of words",
        "`(word:number)` weakens or strengthens a word.",
        f'--prompt "a house in the style of (blue:0.3) and white" --prompt "a house in the style of blue and white" '
        f'--prompt "a house in the style of (blue:1.3) and white" --num_images 6 {USUAL}',
    ),
    Entry(
        "strength",
        "Image to image",
        "A sketch, from nearly unchanged to fully regenerated, each below its noised start image.",
        f'--prompt "a red car on the beach" --image {SKETCH} {USUAL} --num_inference_steps 40 '
        "--show_start --strength 0.5 --sweep strength=0.2,0.35,0.5,0.65,0.8,0.9,1",
    ),
    Entry(
        "sdedit",
        "SDEdit at a list of noise levels",
        "An image noised up to the 20th, 10th, 7th, 5th, 3rd and 1st of 34 levels, the last one nearly pure noise, and denoised "
        "without guidance: the more noise, the less remains of the image (Meng et al. 2022).",
        f'--prompt "a picture" --image {FOREST} --guidance_scale 1 {SAMPLER} --num_inference_steps 34 --show_start '
        "--strength 0.5 --sweep strength=0.412,0.706,0.795,0.853,0.912,0.971",
    ),
    Entry(
        "conditional",
        "A different subject from the same image",
        "Text-conditional image to image: a pumpkin turns into the subject of the prompt.",
        f'--prompt "a red balloon in the forest" --image {FOREST} {USUAL} --num_inference_steps 34 --show_start '
        "--strength 0.5 --sweep strength=0.412,0.706,0.795,0.853,0.912,0.971",
    ),
    Entry(
        "chain",
        "Loopback",
        "Each image starts from the one before it.",
        f'--prompt "a house in the snow at night" --image {PUMPKIN} --strength 0.45 --chain 8 {USUAL}',
    ),
    Entry(
        "inpainting",
        "Inpainting",
        "Only the white area of the mask is generated; all other pixels stay as they are. Second row: RePaint repeats each "
        "stretch of ten steps five times.",
        f'--prompt "a snowman in the city" --image {PUMPKIN} --mask_image {MASK} --guidance_scale 4 --scheduler DDIMScheduler '
        "--num_inference_steps 50 --sweep seed=1..5 --sweep num_resamples=1,5",
    ),
    Entry(
        "views",
        "Views",
        "Transformations of an image. An anagram shows a different subject under each of two or more of them.",
        f"--lesson views --image {PUMPKIN}",
        "000.png",
    ),
    Entry(
        "anagram",
        "Visual anagrams",
        "One image that shows the first prompt upright and the second upside down. Generated in latent space, which leaves "
        "strokes, because an autoencoder is not equivariant.",
        f'--illusion anagram --view identity --view rotate_180 --prompt "a turtle on plain green" '
        f'--prompt "a mushroom on plain green" --num_images 6 {USUAL} --num_inference_steps 40',
    ),
    Entry(
        "three_views",
        "Three prompts in one image",
        "Upright, turned by 90 degrees, and upside down.",
        f'--illusion anagram --view identity --view rotate_90_cw --view rotate_180 --prompt "a strawberry on plain white" '
        f'--prompt "a fish on plain white" --prompt "a bell on plain white" --num_images 6 {USUAL} --num_inference_steps 40',
    ),
    Entry(
        "looking_glass",
        "The same in pixels",
        "LookingGlass decodes the clean image predicted for each view, transforms pixels instead of latents, and encodes again.",
        f'--illusion looking_glass --view identity --view rotate_180 --prompt "a turtle on plain green" '
        f'--prompt "a mushroom on plain green" --num_images 6 {USUAL} --num_inference_steps 40',
    ),
    Entry(
        "hybrid",
        "Hybrid images",
        "One prompt for the low frequencies, seen from a distance, one for the high frequencies, seen from close up.",
        f'--illusion hybrid --prompt "a pineapple on plain yellow" --prompt "a lantern on plain yellow" --num_images 6 {USUAL}',
    ),
    Entry(
        "inverse_hybrid",
        "A hybrid of an image and a prompt",
        "The high frequencies are taken from a given image, the low frequencies are generated from the prompt.",
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
        "The mean of the channels comes from the first prompt, the difference from the mean from the second. In latent space "
        "these are not brightness and colour; in pixel space they are.",
        f'--illusion colour --prompt "a castle in the desert" --prompt "a castle in the forest at night" --num_images 6 {USUAL}',
    ),
    Entry(
        "motion",
        "Motion hybrids",
        "The first prompt gives what remains visible when the image moves along the diagonal, the second the rest.",
        f'--illusion motion --prompt "a pear on plain blue" --prompt "a teapot on plain blue" --num_images 6 {USUAL}',
    ),
    Entry(
        "trace",
        "What happens at each step",
        "The latents, and the clean image that the network predicts at that step, decoded by the autoencoder; without "
        "`--trace_decode full`, a fast linear map is used. `--trace_page` writes a page with a slider, charts and formulas.",
        f'--prompt "a red house in the snow" --seed 2 {USUAL} --num_inference_steps 20 --trace --trace_page --trace_decode full',
        "000-trace.png",
    ),
    Entry(
        "attention",
        "Where each word attends",
        "Cross-attention, averaged over layers, heads and steps; `<dusk>` is a learned word (see the README). "
        "`000-attention.gif` shows it step by step.",
        '--weights runs/demo_textual_inversion --prompt "a snowman in the snow in the style of <dusk>" '
        f"--seed 1 {USUAL} --num_inference_steps 20 --attention",
        "000-attention.png",
    ),
    Entry(
        "learned",
        "Scales of learned weights",
        "A subject learned from six images (a command of the README) at several scales, and with a scale that starts later: "
        "`0@0,1@0.3` leaves the first 30 % of the steps to the base model.",
        f'--prompt "a sks toy in the snow" {USUAL} --weights runs/demo_dreambooth_lora --num_images 3 '
        '--sweep "weights=runs/demo_dreambooth_lora:0|runs/demo_dreambooth_lora:0.5|runs/demo_dreambooth_lora|'
        'runs/demo_dreambooth_lora:0@0,1@0.3|runs/demo_dreambooth_lora:0@0,1@0.6"',
    ),
)


def draw_inputs() -> None:
    """A sketch like one from a paint program, and a mask over the pumpkin."""
    IMAGES.mkdir(exist_ok=True)
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
    """Run the command and keep the image to show."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        status = main(InferenceSettings, commands.run_inference, [*shlex.split(entry.command), "--output_dir", str(out)])
        if status:
            raise SystemExit(f"{entry.name}: infer.py ended with status {status}")
        shown = out / entry.shows
        target = IMAGES / f"{entry.name}{'.gif' if shown.suffix == '.gif' else '.jpg'}"
        IMAGES.mkdir(exist_ok=True)
        if shown.suffix == ".gif":
            shutil.copy(shown, target)
            return
        image = Image.open(shown).convert("RGB")
        if image.width > WIDEST:
            image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
        image.save(target, quality=88)


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
