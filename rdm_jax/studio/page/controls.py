"""Controls from the declarations of options: the page has every option that the command line has."""

from __future__ import annotations

import re
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from rdm_jax.core.options import Declaration
from rdm_jax.request import CONDITIONS, FITS
from rdm_jax.studio.wanted import default_of, option_declarations

NARROW = 130  # pixels
CHOICES = {"condition": CONDITIONS, "fit": FITS}
DEFAULT_NOTE = re.compile(r" ?\((default|--list)[^)]*\)| ?\(repeatable[^)]*\)")


def add(head: str, defaults: dict[str, Any], options: gr.State) -> None:
    """Adds a control for each option of a head; what is set is kept in `options` by name.

    Args:
      head: the model's.
      defaults: its own, shown where nothing is set.
      options: {name: value} of what the user has set.
    """
    for name, declaration in option_declarations(head).items():
        own = defaults.get(name, default_of(head, name))
        control = _control(name, declaration, own)

        def keep(value: Any, values: dict[str, Any], name: str = name) -> dict[str, Any]:
            """Returns the options with the value of one; none where it is empty."""
            rest = {key: one for key, one in values.items() if key != name}
            return rest if value in (None, "") else {**rest, name: value}

        control.change(keep, [control, options], options, show_progress="hidden", queue=False, api_visibility="private")


def _control(name: str, declaration: Declaration, default: Any) -> Any:
    """Returns the control of an option."""
    label = name.replace("_", " ")
    about = DEFAULT_NOTE.sub("", declaration.help).strip()
    shown = _text(default)
    if name in CHOICES:
        return gr.Dropdown(["", *CHOICES[name]], value="", label=label, info=about, min_width=NARROW)
    if declaration.table:
        names = ", ".join(declaration.table())
        about = f"{about}; one on each line"
        return gr.Textbox(label=label, info=about, placeholder=names, lines=2, min_width=2 * NARROW)
    return gr.Textbox(label=label, info=about, placeholder=shown, min_width=NARROW)


def _text(value: Any) -> str:
    return " ".join(f"{one:g}" for one in value) if isinstance(value, list | tuple) else str(value)
