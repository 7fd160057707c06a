"""Which settings of several records differ: nested JSON values, compared by dotted names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rdm_jax.core import files, numbers

ABSENT = "-"
MOST_LETTERS = 60  # of a value in a table
_HASH = re.compile(r"[0-9a-f]{64}")


def flattened(value: Any, name: str = "") -> dict[str, Any]:
    """Returns {dotted name: value} of nested mappings; sequences of mappings are numbered."""
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        parts = ((str(number), one) for number, one in enumerate(value))
    else:
        return {name: value}
    found: dict[str, Any] = {}
    for key, one in parts:
        found |= flattened(one, f"{name}.{key}" if name else str(key))
    return found


def differing(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Returns (dotted name, value in each record) of what is not equal in all records."""
    flat = [flattened(record) for record in records]
    names = dict.fromkeys(name for one in flat for name in one)
    found = []
    for name in names:
        values = [files.json_bytes(one[name]) if name in one else b"" for one in flat]
        if len(set(values)) > 1:
            found.append((name, [shown(one[name]) if name in one else ABSENT for one in flat]))
    return found


def shown(value: Any) -> str:
    """Returns a value as a cell of a table has it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return numbers.plain(value, 6)
    written = (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
    if _HASH.fullmatch(written):
        return written[:10]
    return written if len(written) <= MOST_LETTERS else f"{written[:MOST_LETTERS]}..."
