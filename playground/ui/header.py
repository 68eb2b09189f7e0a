"""The line at the top: logo, name, what it is for, and the device's state in one pill."""

from __future__ import annotations

import gradio as gr

from playground.ui import html, words

LOGO = (
    '<svg viewBox="0 0 34 34" fill="none" aria-hidden="true">'
    '<rect x="2" y="8" width="20" height="23" rx="3.5" stroke="currentColor" stroke-width="2"/>'
    '<path d="M7 15h10M7 20h10M7 25h6" stroke="currentColor" stroke-width="2" stroke-linecap="round"/>'
    '<rect x="12" y="3" width="20" height="22" rx="3.5" fill="var(--b)" fill-opacity=".28" stroke="var(--b)" stroke-width="2"/></svg>'
)
"""A page, and a clear sheet laid over it."""

OPEN_SIDEBAR = "() => window.promptOrTune.toggleSidebar()"


def build() -> gr.Button:
    """The pill; it opens the sidebar in the browser, without asking the server."""
    with gr.Row(elem_classes="tophead"):
        gr.HTML(f'<div id="top">{LOGO}<div><h1>{html.esc(words.NAME)}</h1><p>{html.esc(words.LINE)}</p></div></div>')
        pill = gr.Button("Device: idle", size="sm", elem_id="pill")
    pill.click(None, None, None, js=OPEN_SIDEBAR)
    return pill
