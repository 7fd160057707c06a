"""The inputs of the operations, and the command line with models that are loaded once."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from rdm_jax.generator import Generator
from rdm_jax.training import export
from tests.faults.operations import Home


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """The inputs; what `main` changes in the environment ends with the session's tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
            patch.setenv(name, "")
        patch.setenv("TRANSFORMERS_VERBOSITY", "error")
        folder = Home.make(tmp_path_factory.mktemp("faults"))
        patch.setattr(Generator, "load", staticmethod(functools.cache(Generator.load)))
        patch.setattr(export, "export_run", functools.cache(export.export_run))
        yield folder
