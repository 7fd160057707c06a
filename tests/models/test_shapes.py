"""The shapes of a network's parameters, and the files that keep them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from rdm_jax.core import trees
from rdm_jax.models import build_denoiser, shapes
from tests.helpers import tiny

DENOISER = tiny.CONFIG["denoiser"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of compiled programs, which is not there yet."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    shapes._params.cache_clear()
    yield tmp_path / "cache"
    jax.config.update("jax_compilation_cache_dir", before)
    shapes._params.cache_clear()


def again(network) -> shapes.Shapes:
    """What another process would find."""
    shapes._params.cache_clear()
    return shapes.abstract_params(network)


def fail(network):
    raise AssertionError("it is traced")


@pytest.mark.slow
def test_shapes_are_those_of_the_parameters(folder: Path) -> None:
    network = build_denoiser(DENOISER)
    inputs = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), network.smallest_inputs)
    wanted = trees.flatten(jax.jit(network.init)(jax.random.key(0), *inputs)["params"])
    found = shapes.abstract_params(network)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in found.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in wanted.items()
    }


def test_another_process_reads_them(folder: Path, monkeypatch) -> None:
    network = build_denoiser(DENOISER)
    first = shapes.abstract_params(network)
    monkeypatch.setattr(shapes, "_traced", fail)
    assert again(network) == first
    assert len(list(folder.glob("shapes-*.json"))) == 1


def test_other_settings_and_other_code_have_files_of_their_own(folder: Path, monkeypatch) -> None:
    network = build_denoiser(DENOISER)
    shapes.abstract_params(network)
    wide = build_denoiser({**DENOISER, "model_channels": 16})
    assert shapes.abstract_params(wide) != shapes.abstract_params(network)
    monkeypatch.setattr(shapes, "_code", lambda: "another version")
    again(network)
    assert len(list(folder.glob("shapes-*.json"))) == 3


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"a": 3}', b'{"a": [[1], "no type"]}', b"\xff"])
def test_a_damaged_file_is_written_anew(folder: Path, content: bytes) -> None:
    network = build_denoiser(DENOISER)
    first = shapes.abstract_params(network)
    (file,) = folder.glob("shapes-*.json")
    written = file.read_bytes()
    file.write_bytes(content)
    assert again(network) == first
    assert file.read_bytes() == written


def test_a_folder_that_cannot_be_written_to_does_no_harm(folder: Path) -> None:
    folder.write_bytes(b"no folder")
    assert shapes.abstract_params(build_denoiser(DENOISER))


@pytest.mark.parametrize("place", [None, "gs://bucket/cache"])
def test_without_a_local_folder_nothing_is_written(folder: Path, place: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", place)
    assert shapes._file(build_denoiser(DENOISER)) is None
