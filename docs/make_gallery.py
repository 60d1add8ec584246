"""Remakes docs/gallery.md and its pictures: every command in it is run as it is printed.

`python docs/make_gallery.py [NAME ...]` from the repository's root; names: only these entries.
"""

import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from customize.cli import main
from customize.config import InferenceSettings

HERE = Path(__file__).parent
PICTURES = HERE / "gallery"
WIDEST = 1400
SAMPLER = "--scheduler DPMSolverMultistepScheduler"
USUAL = f"--guidance_scale 4 {SAMPLER}"
PUMPKIN, SKETCH, MASK = "customize/demo/examples/subject/3.png", "docs/gallery/sketch.png", "docs/gallery/mask.png"


@dataclass(frozen=True)
class Entry:
    """A section of the gallery. command: the flags of infer.py; shows: the file in its output that is shown."""

    name: str
    title: str
    text: str
    command: str
    shows: str = "sheet.png"


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
        "The same seeds without and with a negative prompt.",
        f'--prompt "a balloon on the beach" --num_images 3 {USUAL} --sweep "negative_prompt=|red|on the beach"',
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
        f'--prompt "a [penguin:cat:0.1] in the snow" --prompt "a [penguin:cat:0.3] in the snow" '
        f'--prompt "a [penguin:cat:0.6] in the snow" --num_images 4 {USUAL}',
    ),
    Entry(
        "strength",
        "Image to image",
        "A sketch, from unchanged to made anew, with what each starts from above it.",
        f'--prompt "a red car on the beach" --image {SKETCH} {USUAL} --num_inference_steps 40 '
        "--show_start --strength 0.5 --sweep strength=0.2,0.35,0.5,0.65,0.8,0.9,1",
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
        "anagram",
        "Visual anagrams",
        "One picture that shows the first prompt as it is and the second upside down. Made in latents, which leaves strokes: "
        "an autoencoder is not equivariant.",
        f'--illusion anagram --view identity --view rotate_180 --prompt "a turtle on plain green" '
        f'--prompt "a mushroom on plain green" --num_images 6 {USUAL} --num_inference_steps 40',
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
        status = main(
            InferenceSettings, "customize.inference.command:run", [*shlex.split(entry.command), "--output_dir", str(out)]
        )
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


def page() -> str:
    """The text of gallery.md."""
    parts = ["# Gallery", ""]
    for entry in ENTRIES:
        suffix = ".gif" if entry.shows.endswith(".gif") else ".jpg"
        parts += [f"## {entry.title}", "", entry.text, "", "```bash", f"python infer.py {entry.command}", "```", ""]
        parts += [f"![{entry.title}](gallery/{entry.name}{suffix})", ""]
    return "\n".join(parts)


if __name__ == "__main__":
    chosen = sys.argv[1:]
    draw_inputs()
    for entry in ENTRIES:
        if not chosen or entry.name in chosen:
            make(entry)
    (HERE / "gallery.md").write_text(page(), encoding="utf-8")
