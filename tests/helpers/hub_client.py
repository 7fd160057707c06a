"""The real huggingface_hub in a test, with the stand-in server of `hub_server` and a cache of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rdm_jax.core import hub
from tests.helpers.hub_server import TOKEN, Hub


def connect(monkeypatch: pytest.MonkeyPatch, server: Hub, home: Path) -> Any:
    """Points huggingface_hub, whose environment was read when it was imported, at a server, and returns it."""
    reason = "sharing needs the extra: pip install 'rdm_jax[hub]'"
    library = pytest.importorskip("huggingface_hub", reason=reason)
    pytest.importorskip("huggingface_hub.utils").disable_progress_bars()
    values = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "huggingface"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_TOKEN_PATH": str(home / "token"),
    }
    for name, value in values.items():
        monkeypatch.setattr(library.constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("RDM_CACHE", str(home / "cache"))
    new_process()
    return library


def new_process() -> None:
    """Forgets the addresses that this process has resolved, as the next process does."""
    hub.downloaded.cache_clear()
