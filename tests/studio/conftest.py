"""A studio with a tiny model of random parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.studio.places import Places
from rdm_jax.studio.workshop import Workshop
from tests.helpers import tiny


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The folder of a model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.bundle().save(folder, "float32")
    return folder


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, tiny_model) -> Workshop:
    """A studio with two databases, "squares" and "others"."""
    places = Places(tmp_path_factory.mktemp("studio")).create()
    model = Bundle.open(tiny_model)
    tiny.database(places.databases, "squares", model)
    tiny.database(places.databases, "others", model, seed=1)
    return Workshop(places, [str(tiny_model)])
