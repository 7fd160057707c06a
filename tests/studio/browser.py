"""A studio in a real browser: a server on loopback and headless Chromium."""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest

CHROMIUM = os.environ.get("RDM_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
MISSING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
REASON = (
    f"the page's tests need {' and '.join(MISSING)}; run `make studio`"
    if MISSING
    else "the page's tests need Chromium: install it by the system's package manager, or name it by RDM_CHROMIUM"
)

needs_browser = pytest.mark.skipif(bool(MISSING) or not CHROMIUM, reason=REASON)
WIDTHS = {"laptop": (1280, 800), "phone": (390, 844), "desk": (1920, 1080)}
