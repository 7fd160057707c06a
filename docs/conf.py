"""The settings of the documentation site, which `make docs` builds without a network."""

from __future__ import annotations

from rdm_jax import __version__

project = "rdm_jax"
author = "the authors of rdm_jax"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
apidoc_modules = [
    {"path": "../rdm_jax", "destination": "api", "separate_modules": True, "module_first": True, "max_depth": 2},
]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"show-inheritance": False}
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# What only some users install; the page's own modules import it.
autodoc_mock_imports = ["gradio", "umap", "apache_beam"]
suppress_warnings = ["autodoc.mocked_object"]
myst_heading_anchors = 3

exclude_patterns = ["images/*.py"]
html_theme = "furo"
html_title = f"rdm_jax {version}"
html_show_sphinx = False
