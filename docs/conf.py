"""The settings of the documentation site, which `make docs` builds without a network."""

from __future__ import annotations

from typing import Any

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
python_use_unqualified_type_names = True
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# What only some users install; the page's own modules import it.
autodoc_mock_imports = ["gradio", "umap", "apache_beam"]
suppress_warnings = ["autodoc.mocked_object"]
myst_heading_anchors = 3

nb_execution_mode = "off"  # tests/journeys runs the notebooks; the site shows the outputs that are stored in them

exclude_patterns = ["images/*.py"]
html_theme = "furo"
html_title = f"rdm_jax {version}"
html_show_sphinx = False


def without_type(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Starts the docstring of a constant or a property by an empty line.

    Napoleon reads the words before a colon in its first line as a type: "By name: the schedules".
    """
    if what in ("attribute", "data", "property"):
        lines.insert(0, "")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", without_type, priority=400)  # before Napoleon's, of priority 500
