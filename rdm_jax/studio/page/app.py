"""The page: its tabs, its look, its interface for programs, and how it is served."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from rdm_jax.studio.history import Made
from rdm_jax.studio.page import interface
from rdm_jax.studio.page.results import Results, follow
from rdm_jax.studio.page.shared import MOST_WAITING, Page, followed
from rdm_jax.studio.page.tabs import databases, edit, generate, history, sweep
from rdm_jax.studio.workshop import Workshop

LARGEST_UPLOAD = "256mb"
KEPT_SECONDS = 24 * 3600  # of Gradio's copies of what was shown
STYLE = Path(__file__).parent / "style.css"


def build(workshop: Workshop) -> gr.Blocks:
    """Returns the page of a studio."""
    with gr.Blocks(
        title="rdm studio", analytics_enabled=False, fill_width=True, delete_cache=(3600, KEPT_SECONDS)
    ) as blocks:
        with gr.Row(equal_height=True, elem_id="top"):
            gr.HTML("<h1>rdm studio</h1><p>Your images are the style: see which ones, before and after.</p>")
            model = gr.Dropdown(
                list(workshop.models), value=workshop.default_model, label="Model", min_width=200, scale=0
            )
        page = Page(workshop, {}, model, blocks.load)
        with gr.Tabs() as tabs:
            with gr.Tab("Generate", id="generate"):
                form, made = generate.add_tab(page)
            with gr.Tab("Edit", id="edit"):
                editor, edited = edit.add_tab(page)
            with gr.Tab("Sweep", id="sweep"):
                sweep.add_tab(page, form)
            with gr.Tab("Databases", id="databases"):
                databases.add_tab(page, [form.databases, form.content])
            with gr.Tab("History", id="history") as last:
                kept = history.add_tab(page, last.select)
        for results in (made, edited, kept):
            _connect(page, tabs, form, editor, results, made)
        interface.add(page)
    blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=1)
    return blocks


def _connect(page: Page, tabs: gr.Tabs, form: generate.Form, editor: Any, results: Results, made: Results) -> None:
    """Connects the buttons below some images: to reuse the request, to vary an image, to edit it, to upscale it."""

    def reuse(one: Made | None) -> tuple[Any, ...]:
        """Returns the form as it was for an image."""
        if one is None:
            return (gr.skip(),) * 6
        known = page.workshop.places.known_databases()
        used = [str(database["name"]) for database in one.run.get("databases", []) if database["name"] in known]
        request = one.run["request"]
        count, seed = str(request.get("neighbors") or ""), str(one.entry["seed"])
        return gr.update(selected="generate"), one.prompt, used, request["num_images"], count, seed

    outputs = [tabs, form.prompts, form.databases, form.count, form.neighbors, form.seed]
    results.reuse.click(reuse, results.selected, outputs, queue=False, api_visibility="private")

    def open_editor(one: Made | None) -> tuple[Any, ...]:
        """Returns the editor with an image."""
        if one is None:
            return gr.skip(), gr.skip()
        return gr.update(selected="edit"), {"background": str(one.file), "layers": [], "composite": None}

    results.edit.click(open_editor, results.selected, [tabs, editor], queue=False, api_visibility="private")

    def vary(request: gr.Request, model: str, one: Made | None) -> Any:
        """Yields the variations of an image."""
        places = page.workshop.places
        known = places.known_databases()
        names = [
            known[str(used["name"])] for used in (one.run if one else {}).get("databases", []) if used["name"] in known
        ]
        arguments = ["vary", f"--image={one.file if one else ''}", "--num-images=4"]
        arguments += [f"--database={name}" for name in names[:1]]
        yield from follow(page, lambda: page.workshop.edit(model, arguments), request)

    def upscale(request: gr.Request, model: str, one: Made | None) -> Any:
        """Yields an image at a higher resolution."""
        if one is not None:
            yield from follow(page, lambda: page.workshop.upscale(page.workshop.upscaler(model), one), request)

    for button, handler in ((results.vary, vary), (results.upscale, upscale)):
        button.click(lambda: gr.update(selected="generate"), None, tabs, queue=False, api_visibility="private")
        inputs = [page.model, results.selected]
        button.click(handler, inputs, made.outputs, **followed(made.status))


def serve(workshop: Workshop, port: int, *, block: bool = True, open_browser: bool = False) -> tuple[gr.Blocks, str]:
    """Serves the page on this machine alone, and returns it with its address.

    Args:
      workshop: the studio.
      port: of 127.0.0.1; 0 takes a free one.
      block: whether to return only when the server is stopped.
      open_browser: whether to open the page.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    blocks = build(workshop)
    _, address, _ = blocks.launch(
        server_name="127.0.0.1",
        server_port=port or None,
        share=False,
        quiet=True,
        prevent_thread_lock=not block,
        inbrowser=open_browser,
        allowed_paths=[str(workshop.places.runs.resolve())],
        max_file_size=LARGEST_UPLOAD,
        footer_links=["api"],
        css_paths=STYLE,
        theme=_theme(),
        ssr_mode=False,
        mcp_server=False,
    )
    return blocks, address


def _theme() -> Any:
    """Returns the look: small type, and colors whose contrast is at least 4.5 to 1 (WCAG 2, AA)."""
    small = {"spacing_size": "sm", "radius_size": "sm", "text_size": "sm"}
    return gr.themes.Default(primary_hue="orange", neutral_hue="stone", **small).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_text_color="white",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
    )
