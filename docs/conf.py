"""The settings of the documentation site, which `make docs` builds without a network."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from rdm_jax import __version__

project = "rdm_jax"
author = "the authors of rdm_jax"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
apidoc_modules = [
    {"path": "../rdm_jax", "destination": "api", "separate_modules": True, "module_first": True, "max_depth": 2},
]
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": False}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# What only some users install; the page's own modules import it.
autodoc_mock_imports = ["gradio", "umap", "apache_beam"]
suppress_warnings = ["autodoc.mocked_object"]
myst_heading_anchors = 3

nb_merge_streams = True
nb_execution_mode = "off"  # tests/journeys runs the notebooks; the site shows the outputs that are stored in them

exclude_patterns = ["images/*.py"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"rdm_jax {version}"
html_show_sphinx = False

COLON = "\ue000"


def hide_colon(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Hides the colon in the first line of a constant's or a property's docstring from Napoleon.

    It takes what stands before for a type: "By name: the schedules". Here types are annotations.
    """
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(":", COLON)


def show_colon(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Undoes `hide_colon`."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


@functools.cache
def imported(module: str) -> dict[str, str]:
    """Returns {name: full name} of what a module imports, for its annotations alone too."""
    spec = importlib.util.find_spec(module)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else "")
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    return {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in froms for alias in node.names}


def name_in_full(app: Sphinx, doctree: nodes.document) -> None:
    """Looks up the names of annotations as Python does; Sphinx takes anything whose name ends like that."""
    for reference in doctree.findall(addnodes.pending_xref):
        module, target = reference.get("py:module"), reference.get("reftarget", "")
        if reference.get("refdomain") == "py" and module:
            reference["reftarget"] = imported(module).get(target, target)
            reference.attributes.pop("refspecific", None)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", hide_colon, priority=400)  # Napoleon's has 500
    app.connect("autodoc-process-docstring", show_colon, priority=600)
    app.connect("doctree-read", name_in_full)
