"""A canvas on which a mask is painted over an image, by pointer or by keyboard, and its reading.

`PAINTER` has the arguments of a gr.HTML whose value is the address of the image. Its event `apply` has the mask as a PNG in a
data URI, white where something was painted; empty if nothing was.
"""

import base64
import binascii
import io
from functools import lru_cache

from PIL import Image

from customize.errors import InputError, Problem

PREFIX, MOST_BYTES, MOST_PIXELS = "data:image/png;base64,", 8_000_000, 64_000_000
TEMPLATE = """
<div class="paint"><div class="tools" role="toolbar" aria-label="mask tools">
<button type="button" data-tool="paint" aria-pressed="true">Paint</button>
<button type="button" data-tool="erase" aria-pressed="false">Erase</button>
<label>Brush <input type="range" class="size" min="1" max="50" value="12" aria-label="size of the brush"></label>
<button type="button" data-do="undo">Undo</button><button type="button" data-do="invert">Invert</button>
<button type="button" data-do="clear">Clear</button></div>
<canvas tabindex="0" role="img" data-source="${value}"
 aria-label="Mask: arrow keys move the brush, the space bar paints. What is painted is generated anew."></canvas>
<p class="soft" aria-live="polite">Paint over what is to change.</p></div>
<p class="first">Give an image first.</p>
"""
STYLE = """
.tools { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin-bottom: 8px; }
.tools button { font: inherit; padding: 4px 12px; border: 1px solid var(--border-color-primary); border-radius: var(--radius-md);
  background: var(--button-secondary-background-fill); color: inherit; min-height: 32px; }
.tools button[aria-pressed=true] { background: var(--primary-600); color: #fff; border-color: var(--primary-600); }
.tools label { display: inline-flex; gap: 6px; align-items: center; color: var(--body-text-color); }
canvas { width: 100%; display: block; touch-action: none; cursor: crosshair; border-radius: var(--radius-md);
  background: var(--background-fill-secondary); }
canvas:focus-visible { outline: 3px solid var(--color-accent); }
.paint:has([data-source=""]), .paint:not(:has([data-source=""])) ~ .first { display: none; }
.soft { color: var(--body-text-color-subdued); margin: 4px 0; }
"""
SCRIPT = """
const get = selector => element.querySelector(selector);
let image = null, mask = null, history = [], last = null, erasing = false, cursor = null;
const context = () => mask.getContext('2d', {willReadFrequently: true});

function begin() {
  const source = get('canvas').dataset.source;
  mask = null; history = []; cursor = null;
  if (!source) return;
  image = new Image();
  image.onload = () => {
    mask = document.createElement('canvas');
    const canvas = get('canvas');
    mask.width = canvas.width = image.naturalWidth;
    mask.height = canvas.height = image.naturalHeight;
    canvas.style.imageRendering = Math.max(mask.width, mask.height) <= 192 ? 'pixelated' : 'auto';
    draw();
  };
  image.src = source;
}
function draw() {
  const canvas = get('canvas'), ink = canvas.getContext('2d');
  ink.globalCompositeOperation = 'source-over';
  ink.drawImage(image, 0, 0);
  ink.globalAlpha = 0.6; ink.drawImage(mask, 0, 0); ink.globalAlpha = 1;
  if (!cursor) return;
  ink.lineWidth = Math.max(1, mask.width / 256); ink.strokeStyle = '#fff';
  ink.beginPath(); ink.arc(cursor.x, cursor.y, radius(), 0, 7); ink.stroke();
}
const radius = () => Number(get('.size').value) / 100 * Math.max(mask.width, mask.height) / 2;
function place(event) {
  const box = get('canvas').getBoundingClientRect();
  return {x: (event.clientX - box.left) * mask.width / box.width, y: (event.clientY - box.top) * mask.height / box.height};
}
function remember() { history = [...history.slice(-19), context().getImageData(0, 0, mask.width, mask.height)]; }
function stroke(to) {
  const ink = context();
  ink.globalCompositeOperation = erasing ? 'destination-out' : 'source-over';
  ink.strokeStyle = '#00d5ff'; ink.lineWidth = 2 * radius(); ink.lineCap = 'round';
  ink.beginPath(); ink.moveTo(last.x, last.y); ink.lineTo(to.x + 0.01, to.y); ink.stroke();
  last = to;
  draw();
}
function send() {
  const plain = document.createElement('canvas');
  plain.width = mask.width; plain.height = mask.height;
  const ink = plain.getContext('2d'), pixels = context().getImageData(0, 0, mask.width, mask.height);
  let painted = 0;
  for (let i = 0; i < pixels.data.length; i += 4) {
    const on = pixels.data[i + 3] > 127;
    painted += on;
    pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = on ? 255 : 0;
    pixels.data[i + 3] = 255;
  }
  ink.putImageData(pixels, 0, 0);
  get('p').textContent = painted ? `${Math.max(1, Math.round(400 * painted / pixels.data.length))} % of the image is painted.`
    : 'Paint over what is to change.';
  trigger('apply', {mask: painted ? plain.toDataURL('image/png') : ''});
}
const actions = {
  undo() { if (history.length) context().putImageData(history.pop(), 0, 0); },
  clear() { remember(); context().clearRect(0, 0, mask.width, mask.height); },
  invert() {
    remember();
    const ink = context();
    ink.globalCompositeOperation = 'xor'; ink.fillStyle = '#00d5ff'; ink.fillRect(0, 0, mask.width, mask.height);
  },
};
element.addEventListener('pointerdown', event => {
  if (!mask || event.target !== get('canvas')) return;
  event.target.setPointerCapture(event.pointerId);
  remember(); cursor = null; last = place(event); stroke(last);
});
element.addEventListener('pointermove', event => { if (mask && last && event.target === get('canvas')) stroke(place(event)); });
element.addEventListener('pointerup', () => { if (mask && last) { last = null; send(); } });
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!mask || !button) return;
  if (button.dataset.tool) {
    erasing = button.dataset.tool === 'erase';
    for (const each of element.querySelectorAll('[data-tool]')) each.ariaPressed = String(each === button);
  } else { actions[button.dataset.do](); draw(); send(); }
});
element.addEventListener('keydown', event => {
  if (!mask || event.target !== get('canvas')) return;
  const ways = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}, way = ways[event.key];
  if (!way && event.key !== ' ') return;
  event.preventDefault();
  cursor = cursor || {x: mask.width / 2, y: mask.height / 2};
  const far = Math.max(mask.width, mask.height) / 32;
  if (way) {
    cursor = {x: Math.min(mask.width, Math.max(0, cursor.x + way[0] * far)),
      y: Math.min(mask.height, Math.max(0, cursor.y + way[1] * far))};
  } else { remember(); last = cursor; stroke(cursor); last = null; send(); }
  draw();
});
watch('value', begin);
begin();
"""
PAINTER = {"html_template": TEMPLATE, "css_template": STYLE, "js_on_load": SCRIPT}


@lru_cache(maxsize=4)
def read_mask(text: str) -> bytes:
    """The bytes of a mask as a PNG of grey values, from the data URI of a browser. Raises InputError."""
    fault = InputError(Problem("mask_image", "is not a painted mask", "paint it again"))
    if not text.startswith(PREFIX) or len(text) > MOST_BYTES:
        raise fault
    try:
        data = base64.b64decode(text.removeprefix(PREFIX), validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise fault
            mask = image.convert("L")
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise fault from None
    file = io.BytesIO()
    mask.save(file, "PNG")
    return file.getvalue()
