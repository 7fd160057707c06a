"""The inputs of the operations, and the command line with models that are loaded once."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from rdm_jax.generator import Generator
from rdm_jax.training import export
from tests.conftest import keep_environment
from tests.faults.operations import Home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """The inputs; what is patched for them is undone after the module's last test."""
    with pytest.MonkeyPatch.context() as patch:
        keep_environment(patch)
        folder = Home.make(tmp_path_factory.mktemp("faults"))
        patch.setattr(Generator, "load", staticmethod(functools.cache(Generator.load)))
        patch.setattr(export, "export_run", functools.cache(export.export_run))
        yield folder
