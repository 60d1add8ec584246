"""What the browser runs for the form of all settings, and how it looks."""

STYLE = """
& { font-size: var(--text-md); color: var(--body-text-color); }
fieldset { border: 0; margin: 0; padding: 0; min-width: 0; }
legend { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
details { border-bottom: 1px solid var(--border-color-primary); }
summary { cursor: pointer; padding: 10px 4px; }
summary:focus-visible, .control:focus-visible, .search input:focus-visible { outline: 3px solid var(--color-accent); }
.count, .about, .idle { color: var(--body-text-color-subdued); }
.rows { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 14px 18px;
  padding: 4px 4px 16px; }
.setting { min-width: 0; overflow-wrap: anywhere; padding-left: 8px; border-left: 3px solid transparent; }
.setting.changed { border-left-color: var(--primary-600); }
.setting[hidden], details[hidden] { display: none; }
.name { display: flex; flex-wrap: wrap; gap: 2px 8px; align-items: baseline; margin-bottom: 3px; }
.name label { font-weight: 600; }
.mark { font-size: var(--text-sm); padding: 0 6px; border: 1px solid currentColor; border-radius: 999px; }
.mark[hidden] { display: none; }
.control, .search input { font: inherit; color: inherit; width: 100%; box-sizing: border-box; padding: 6px 8px; min-height: 34px;
  background: var(--input-background-fill); border: 1px solid var(--border-color-primary); border-radius: var(--radius-md); }
.control::placeholder, .search input::placeholder { color: var(--body-text-color-subdued); opacity: 1; }
.control[role=switch] { width: 20px; height: 20px; min-height: 0; accent-color: var(--primary-600); display: block; }
.control:disabled { opacity: .55; cursor: not-allowed; }
.control[aria-invalid=true] { border-color: #c62828; }
.search { display: block; margin: 4px 4px 8px; font-weight: 600; }
.search input { font-weight: 400; }
p { margin: 3px 0; font-size: var(--text-sm); }
.fault, .broken { border-left: 3px solid #c62828; padding-left: 8px; color: var(--body-text-color); }
"""
SCRIPT = """
const get = selector => element.querySelector(selector), rows = () => [...element.querySelectorAll('.setting')];
let waiting = {}, number = 0, timer = 0, filtered = false;

function put(place, text) { place.textContent = text || ''; place.hidden = !text; }
function apply() {
  const state = props.value || {}, {values = {}, usual = {}, idle = {}, faults = {}, changed = []} = state;
  for (const [name, text] of Object.entries(state.done?.changes || {})) if (waiting[name] === text) delete waiting[name];
  if (Object.keys(waiting).length) keep();
  get('.broken').hidden = !(get('fieldset').disabled = !!state.broken);
  if (state.broken) return;
  for (const row of rows()) {
    const name = row.dataset.name, box = row.querySelector('.control'), is_given = name in values;
    if (!(name in waiting) && (box !== document.activeElement || box.type === 'checkbox')) {
      if (box.type === 'checkbox') box.checked = (values[name] ?? usual[name]) === 'true';
      else box.value = values[name] ?? '';
    }
    if (box.placeholder !== undefined) {
      box.dataset.usual ??= box.placeholder;
      box.placeholder = usual[name] ?? box.dataset.usual;
    }
    const is_changed = changed.includes(name);
    row.classList.toggle('changed', is_changed);
    row.querySelector('.mark').hidden = !is_changed;
    put(row.querySelector('.idle'), idle[name]);
    put(row.querySelector('.fault'), faults[name]);
    box.disabled = name in idle && !is_given;
    if (faults[name]) box.setAttribute('aria-invalid', 'true'); else box.removeAttribute('aria-invalid');
  }
  for (const section of element.querySelectorAll('details')) {
    const count = section.querySelectorAll('.setting.changed').length;
    section.querySelector('.count').textContent = count ? `(${count} changed)` : '';
  }
}
function filter() {
  const words = get('.search input').value.toLowerCase().split(/[\\s_]+/).filter(Boolean);
  for (const row of rows()) {
    const text = (row.dataset.name + ' ' + row.querySelector('.about').textContent).toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
  }
  for (const section of element.querySelectorAll('details')) {
    section.hidden = !section.querySelector('.setting:not([hidden])');
    if (words.length) section.open = true; else if (filtered) section.open = false;
  }
  filtered = !!words.length;
  get('.none').hidden = !!get('.setting:not([hidden])');
}
function keep() { props.value = {...props.value, waiting: {...waiting}}; }
function send() {
  clearTimeout(timer);
  if (Object.keys(waiting).length) trigger('set', {changes: {...waiting}, number: ++number});
}
element.addEventListener('input', event => {
  if (event.target.type === 'search') return filter();
  const name = event.target.closest('.setting')?.dataset.name;
  if (!name) return;
  waiting[name] = event.target.type === 'checkbox' ? String(event.target.checked) : event.target.value;
  keep();
  clearTimeout(timer);
  timer = setTimeout(send, event.target.matches('select, [type=checkbox]') ? 0 : 500);
});
element.addEventListener('change', send);
element.addEventListener('focusout', () => setTimeout(apply));
watch('value', apply);
watch('form', () => { waiting = {}; apply(); filter(); });
apply();
"""
