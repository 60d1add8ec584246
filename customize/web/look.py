"""How the page looks: colours, fonts of the system, and the rules of its layout, down to 390 pixels of width."""

import gradio as gr

SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
MONO = ["ui-monospace", "Consolas", "Menlo", "monospace"]

THEME = gr.themes.Base(
    primary_hue="indigo", neutral_hue="slate", font=SANS, font_mono=MONO, radius_size="md", text_size="md", spacing_size="md"
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    block_title_text_weight="600",
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_400",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    button_primary_text_color="white",
)

CSS = """
.gradio-container { width: 100%; max-width: 1180px !important; margin: 0 auto !important; }
.cz-cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px), 1fr)); gap: .75rem; }
.cz-card { border: 1px solid var(--border-color-primary); border-radius: .6rem; overflow: hidden;
  background: var(--block-background-fill); display: flex; flex-direction: column; min-width: 0; }
.cz-card img { width: 100%; height: 150px; object-fit: contain; background: var(--background-fill-secondary); }
.cz-card > div { padding: .6rem .75rem; overflow-wrap: anywhere; }
.gradio-container a:not(nav *, .link) { padding: 0 !important; }
.dark .gradio-container a:not([role]), .dark a { color: #a5b4fc; }
.gradio-container .cm-content span { color: inherit !important; }
.gradio-container input, .gradio-container textarea { color: var(--body-text-color); }
.cz-card h3, .cz-card p { margin: 0 0 .25rem; }
.cz-none { display: grid; place-items: center; height: 150px; color: var(--body-text-color-subdued);
  background: var(--background-fill-secondary); }
.cz-muted { color: var(--body-text-color-subdued); }
.cz-state { display: inline-block; border-radius: 1rem; padding: .05rem .6rem; font-size: .85em; font-weight: 600;
  border: 1px solid currentColor; }
.cz-running { color: #1d4ed8; } .cz-finished { color: #15803d; } .cz-failed, .cz-died { color: #b91c1c; }
.cz-stopped, .cz-waiting { color: #a16207; }
.dark .cz-running { color: #93c5fd; } .dark .cz-finished { color: #86efac; } .dark .cz-failed, .dark .cz-died { color: #fca5a5; }
.dark .cz-stopped, .dark .cz-waiting { color: #fde047; }
.cz-bar { height: .5rem; border-radius: .25rem; background: var(--background-fill-secondary); overflow: hidden; margin: .4rem 0;
  border: 1px solid var(--border-color-primary); }
.cz-bar > span { display: block; height: 100%; background: var(--primary-600); }
.cz-problems li { margin: .35rem 0; overflow-wrap: anywhere; }
.cz-wide { max-width: 100%; overflow-x: auto; }
.cz-wide img, .cz-frame { max-width: 100%; }
.cz-frame { width: 100%; height: 70vh; border: 1px solid var(--border-color-primary); border-radius: .6rem; background: white; }
.cz-photos { display: grid; grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); gap: .6rem; }
.cz-photo { border: 1px solid var(--border-color-primary); border-radius: .5rem; padding: .4rem; overflow-wrap: anywhere;
  font-size: .85em; background: var(--block-background-fill); }
.cz-photo img { width: 100%; height: 110px; object-fit: cover; border-radius: .3rem; }
.cz-left-out img { filter: grayscale(1) opacity(.55); }
.cz-curves, .cz-strip { display: flex; flex-wrap: wrap; gap: .75rem; }
.cz-curves figure { flex: 1 1 260px; margin: 0; max-width: 460px; }
.cz-curves svg { width: 100%; height: auto; font-size: 9px; }
.cz-curves text { fill: var(--body-text-color); }
.cz-area { fill: none; stroke: var(--border-color-primary); }
.cz-level { stroke: var(--body-text-color-subdued); stroke-dasharray: 3 3; }
.cz-strip figure { margin: 0; padding: 4px; border: 3px solid transparent; border-radius: .5rem; }
.cz-strip img { width: 96px; height: 96px; object-fit: contain; image-rendering: auto; }
.cz-strip .cz-chosen { border-color: var(--primary-600); }
.gradio-container .block:has(> .html-container > .prose:empty) { display: none; }
.gradio-container input[role=combobox] { text-overflow: ellipsis; padding-right: 2rem; }
.cz-line { font-family: var(--font-mono); white-space: pre-wrap; overflow-wrap: anywhere; }
.gradio-container .lesson pre, .gradio-container .lesson pre code { white-space: pre-wrap !important; overflow-wrap: anywhere; }
.gradio-container .lesson .token { color: inherit !important; }
button[role=tab][aria-selected=true] { color: var(--primary-600); }
.dark button[role=tab][aria-selected=true] { color: #a5b4fc; }
@media (max-width: 640px) { .gradio-container { padding: .5rem !important; } .row { flex-wrap: wrap !important; }
  .row:not(.cz-numbers) > * { min-width: min(100%, 280px) !important; } }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important; } }
"""
