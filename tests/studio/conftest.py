"""A studio with tiny models of random parameters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert
from rdm_jax.studio.places import Places
from rdm_jax.studio.workshop import Workshop
from tests.helpers import tiny


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The folder of a model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.bundle().save(folder, "float32")
    return folder


@pytest.fixture(scope="session")
def roles_model(tmp_path_factory) -> Path:
    """The folder of a model with two roles of neighbors, and the same encoder."""
    folder = tmp_path_factory.mktemp("models") / "roles"
    tiny.bundle_with_roles().save(folder, "float32")
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory, tiny_model, roles_model) -> list[str]:
    """The folders of all models; where the golden files are, one upscales."""
    found = [tiny_model, roles_model]
    if golden := os.environ.get("RDM_GOLDEN"):
        found.append(tmp_path_factory.mktemp("models") / "upscaling")
        convert(Path(golden) / "heads/ldm/bsr_sr_small.ckpt").write(found[-1])
    return [str(one) for one in found]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, models) -> Workshop:
    """A studio with two databases, "squares" and "others"."""
    places = Places(tmp_path_factory.mktemp("studio")).create()
    model = Bundle.open(models[0])
    tiny.database(places.databases, "squares", model)
    tiny.database(places.databases, "others", model, seed=1)
    return Workshop(places, models)
