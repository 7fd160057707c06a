"""Controls from the declarations of options: the page has every option that the command line has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from PIL import Image

from rdm_jax.core.calls import describe
from rdm_jax.core.images import read_image
from rdm_jax.core.options import Declaration
from rdm_jax.request import CONDITIONS, FITS
from rdm_jax.studio.page.shared import control_class, guarded, remark
from rdm_jax.studio.places import Places
from rdm_jax.studio.wanted import default_of, options_of_model

NARROW = 130  # pixels
CHOICES = {"condition": CONDITIONS, "fit": FITS}
DEFAULT_NOTE = re.compile(r" ?\((default|--list)[^)]*\)| ?\(repeatable[^)]*\)")


def add(config: dict[str, Any], options: gr.State) -> None:
    """Adds a control for each option that a model has; what is set is kept in `options` by name.

    Args:
      config: of the model, with its own defaults, which are shown where nothing is set.
      options: {name: value} of what the user has set.
    """
    defaults = {"neighbors": config["conditioning"]["neighbors"], **config["sampling"]}
    declared = options_of_model(config)
    for name, declaration in declared.items():
        own = defaults.get(name, default_of(config["head"], name))
        control = _control(name, declaration, own)

        def keep(value: Any, values: dict[str, Any], name: str = name) -> dict[str, Any]:
            """Returns the options with the value of one; none where it is empty."""
            rest = {key: one for key, one in values.items() if key != name}
            return rest if value in (None, "") else {**rest, name: value}

        control.change(keep, [control, options], options, show_progress="hidden", queue=False, api_visibility="private")

    calls = [describe(call, cls) for one in declared.values() if one.table for call, cls in one.table().items()]
    with gr.Accordion("What guides and conditions take", open=False):
        gr.Markdown("\n".join(["```text", *calls, "```"]), elem_classes="calls")


def add_files(places: Places) -> None:
    """Adds an upload of images for guides and conditions, which shows how these name them."""
    files = gr.File(label="Images for guides and conditions", file_count="multiple", height=110)
    named = gr.HTML()

    @guarded(1)
    def keep(given: list[str] | None) -> str:
        """Returns the names of the images, after all were read."""
        copies = []
        for one in given or []:
            copies.append(places.new_upload(".png"))
            Image.fromarray(read_image(one)).save(copies[-1])
        return "".join(remark(f"{Path(one).name} is '{copy}'") for one, copy in zip(given or [], copies, strict=True))

    files.change(keep, files, named, queue=False, api_visibility="private")


def _control(name: str, declaration: Declaration, default: Any) -> Any:
    """Returns the control of an option."""
    label = name.replace("_", " ")
    about = DEFAULT_NOTE.sub("", declaration.help).strip()
    shown, marked = _text(default), {"elem_classes": control_class(name)}
    if name in CHOICES:
        return gr.Dropdown(["", *CHOICES[name]], value="", label=label, info=about, min_width=NARROW, **marked)
    if declaration.table:
        names = ", ".join(declaration.table())
        about = f"{about}; one on each line"
        return gr.Textbox(label=label, info=about, placeholder=names, lines=2, min_width=2 * NARROW, **marked)
    return gr.Textbox(label=label, info=about, placeholder=shown, min_width=NARROW, **marked)


def _text(value: Any) -> str:
    return " ".join(f"{one:g}" for one in value) if isinstance(value, list | tuple) else str(value)
