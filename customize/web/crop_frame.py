"""A square frame over a photo, which is drawn, moved and sized by pointer or by keyboard.

`FRAME` has the arguments of a gr.HTML whose value is the address of the photo. Its property `frame` is the square: the centre
across and down and the side, in percent of width, height and shorter side, as the sliders beside it have them. Its events
`frame`, after each change, and `crop` have the same numbers, so that what is cut is what is seen.
"""

from typing import Any

TEMPLATE = """
<div class="photo"><img src="${value}" alt="the photo"><div class="square" tabindex="0" role="img"
 aria-label="The part that is kept: arrow keys move it, plus and minus size it."><span class="corner"></span></div></div>
<p class="hint">Drag the square to move it, its corner to size it, or drag over the rest of the photo to draw a new one.</p>
<button type="button">Crop to this square</button>
"""
STYLE = """
.photo { position: relative; overflow: hidden; width: fit-content; max-width: 100%; touch-action: none; cursor: crosshair;
  border-radius: var(--radius-md); user-select: none; }
.photo:has(img[src=""]), .photo:has(img[src=""]) ~ * { display: none; }
.photo img { display: block; margin: 0; max-width: 100%; max-height: 60vh; pointer-events: none; }
.square { position: absolute; box-sizing: border-box; border: 2px solid #fff; outline: 1px solid #000; cursor: move;
  box-shadow: 0 0 0 9999px rgb(0 0 0 / 55%); }
.square:focus-visible { border-color: var(--primary-400); outline: 3px solid var(--color-accent); }
.corner { position: absolute; right: 0; bottom: 0; width: 22px; height: 22px; cursor: nwse-resize; background: #fff;
  border: 1px solid #000; }
button { font: inherit; padding: 6px 14px; border: 1px solid var(--border-color-primary); border-radius: var(--radius-md);
  background: var(--button-secondary-background-fill); color: inherit; min-height: 34px; cursor: pointer; }
button:focus-visible { outline: 3px solid var(--color-accent); }
.hint { color: var(--body-text-color-subdued); margin: 4px 0; }
"""
SCRIPT = """
const get = selector => element.querySelector(selector), image = () => get('img');
const within = (value, low, high) => Math.min(Math.max(value, low), high);
let square = null, drag = null;

function read() {
  const [across, down, share] = props.frame, {clientWidth: width, clientHeight: height} = image();
  if (drag || !width) return;
  const side = Math.min(width, height) * share / 100;
  show(across / 100 * width - side / 2, down / 100 * height - side / 2, side);
}
function show(left, top, side) {
  const {clientWidth: width, clientHeight: height} = image();
  side = within(side, Math.min(width, height) / 10, Math.min(width, height));
  square = {left: within(left, 0, width - side), top: within(top, 0, height - side), side};
  const style = get('.square').style;
  [style.left, style.top, style.width, style.height] = [square.left, square.top, side, side].map(each => `${each}px`);
}
function numbers() {
  const {clientWidth: width, clientHeight: height} = image(), half = square.side / 2;
  const found = [(square.left + half) / width, (square.top + half) / height, square.side / Math.min(width, height)];
  return {frame: found.map(each => Math.round(1000 * each) / 10)};
}
const send = () => trigger('frame', numbers());
function place(event) {
  const box = get('.photo').getBoundingClientRect();
  return {x: within(event.clientX - box.left, 0, box.width), y: within(event.clientY - box.top, 0, box.height)};
}
element.addEventListener('pointerdown', event => {
  if (!square || event.button || !event.target.closest('.photo')) return;
  event.preventDefault();
  get('.photo').setPointerCapture(event.pointerId);
  get('.square').focus({preventScroll: true});
  const has_room = square.side < Math.max(image().clientWidth, image().clientHeight) - 1;
  drag = event.target.matches('.corner') ? {x: square.left, y: square.top} : place(event);
  if (event.target.matches('.square') && has_room) drag.start = {...square};
});
element.addEventListener('pointermove', event => {
  if (!drag) return;
  const {x, y} = place(event), across = x - drag.x, down = y - drag.y;
  if (drag.start) return show(drag.start.left + across, drag.start.top + down, drag.start.side);
  const room = Math.min(across < 0 ? drag.x : image().clientWidth - drag.x, down < 0 ? drag.y : image().clientHeight - drag.y);
  const side = Math.min(Math.max(Math.abs(across), Math.abs(down)), room);
  if (side > 4) show(across < 0 ? drag.x - side : drag.x, down < 0 ? drag.y - side : drag.y, side);
});
element.addEventListener('pointerup', () => { if (drag) { drag = null; send(); } });
element.addEventListener('click', event => { if (square && event.target.closest('button')) trigger('crop', numbers()); });
element.addEventListener('keydown', event => {
  const ways = {ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, -1, 0], ArrowDown: [0, 1, 0],
    '+': [0, 0, 1], '-': [0, 0, -1]};
  const way = event.target === get('.square') && square && ways[event.key];
  if (!way) return;
  event.preventDefault();
  const step = Math.min(image().clientWidth, image().clientHeight) / 50, [x, y, more] = way.map(each => each * step);
  show(square.left + x - more / 2, square.top + y - more / 2, square.side + more);
  send();
});
new ResizeObserver(read).observe(element);
element.addEventListener('load', read, true);
watch(['value', 'frame'], read);
read();
"""
START = (50.0, 50.0, 100.0)
"""The largest square, in the middle."""
FRAME: dict[str, Any] = {
    "html_template": TEMPLATE, "css_template": STYLE, "js_on_load": SCRIPT, "frame": START, "apply_default_css": False,
}  # fmt: skip
