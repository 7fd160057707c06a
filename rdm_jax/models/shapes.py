"""The shapes of a network's parameters: traced, and kept beside the compiled programs, as tracing takes as long."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rdm_jax.core import files, text, trees

HERE = Path(__file__).parent
LIBRARIES = "jax", "flax"  # whose versions may change what an initializer returns

Shapes = dict[str, jax.ShapeDtypeStruct]


def abstract_params(network: Any) -> Shapes:
    """Returns {"a/b/kernel": shape and type} of a network's parameters, without creating any.

    Where JAX has a folder for compiled programs, the shapes are kept in it, in a file whose name is a hash of the
    network's settings, the code of all networks and the versions of the libraries.

    Args:
      network: a module with `smallest_inputs`.
    """
    return dict(_params(network))


@functools.lru_cache(maxsize=16)  # a conversion needs those of one network several times
def _params(network: Any) -> Shapes:
    file = _file(network)
    if file is None:
        return _traced(network)
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):  # there is none, or it is damaged
        stored = text.read_json(file)
        return {name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(kind)) for name, (shape, kind) in stored.items()}
    shapes = _traced(network)
    with contextlib.suppress(OSError):  # a full disk, or a folder of another user: the next run traces again
        file.parent.mkdir(parents=True, exist_ok=True)
        stored = {name: [list(leaf.shape), leaf.dtype.name] for name, leaf in shapes.items()}
        files.write_bytes(file, files.json_bytes(stored))
    return shapes


def _traced(network: Any) -> Shapes:
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(network.init, key, *network.smallest_inputs)
    return trees.flatten(variables.get("params", {}))  # there are none without a parameter


def _file(network: Any) -> Path | None:
    """Returns where the shapes of a network are kept; None where they are not."""
    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    kind = type(network)
    if not folder or "://" in folder or not kind.__module__.startswith(f"{__package__}."):
        return None
    return Path(folder) / f"shapes-{_sha256(kind.__module__, repr(network), _code())}.json"


@functools.cache
def _code() -> str:
    """Returns a digest of what the shapes of every network depend on."""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    return _sha256(*versions, *(files.sha256(file) for file in sorted(HERE.glob("*.py"))))


def _sha256(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
