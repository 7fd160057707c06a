"""Parameter trees as flat dictionaries, and what one asks of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"a/b/c": leaf} of a nested dictionary."""
    return traverse_util.flatten_dict(dict(tree), sep="/")


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested dictionary of {"a/b/c": leaf}."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def named(tree: Any) -> dict[str, Any]:
    """Returns {"a/0/c": leaf} of any tree: dictionaries, lists, tuples and dataclasses."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def map_in_place(function: Callable[[Any], Any], tree: dict[str, Any]) -> dict[str, Any]:
    """Returns a nested dictionary whose leaves were replaced one by one, so that old and new are not both held."""
    for name, value in tree.items():
        tree[name] = map_in_place(function, value) if isinstance(value, dict) else function(value)
    return tree


def count(tree: Any) -> int:
    """Returns the number of scalars in all leaves (arrays or shape structs)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def nbytes(tree: Any) -> int:
    """Returns the bytes of all leaves (arrays or shape structs)."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def digest(tree: Mapping[str, Any]) -> str:
    """Returns the SHA-256 over names, shapes, types and bytes of a tree of arrays, as 64 hexadecimal digits."""
    sha = hashlib.sha256()
    for name, leaf in sorted(flatten(tree).items()):
        array = np.asarray(leaf)
        sha.update(f"{name}:{array.dtype}:{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
