"""The tab of the history: what was generated in this folder, found again after a restart."""

from __future__ import annotations

from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from rdm_jax.studio.history import Made, search
from rdm_jax.studio.page.results import Results
from rdm_jax.studio.page.shared import QUEUED, Page, guarded, made_items, message, remark

MOST = 60  # images that are shown


def add_tab(page: Page, opened: Any) -> Results:
    """Adds the tab.

    Args:
      page: what the tabs know.
      opened: the event that the tab is opened.
    """
    with gr.Row(equal_height=True):
        words = gr.Textbox(label="Search the prompts", placeholder="words, then Enter", scale=4)
        again = gr.Button("Replay the chosen image", scale=1)
    results = Results.add(page, "### Newest first")

    def find(words: str) -> tuple[Any, ...]:
        """Returns the newest images whose prompts contain all words."""
        made = search(page.workshop.places, words or "", MOST)
        return remark("" if made else "nothing has been generated yet"), made_items(made), made

    for trigger in (opened, words.submit):
        trigger(find, words, [results.status, results.images, results.made], queue=False, api_visibility="private")

    @guarded(1)
    def replay(made: Made | None) -> str:
        """Generates an image again from its file, and says how close it is."""
        if made is None:
            return message("no image is chosen; click one first")
        return remark(page.workshop.replay(made))

    again.click(replay, results.selected, results.status, api_visibility="private", **QUEUED)
    return results
