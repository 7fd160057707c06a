"""Command-line options from declarations: those of every request, then each head's own."""

from __future__ import annotations

import argparse
from typing import Any

from rdm_jax.core.options import Declaration, declarations, flag_of, kind_of
from rdm_jax.heads import all_options
from rdm_jax.request import Request


def add_options(parser: argparse.ArgumentParser, *, everything: bool) -> None:
    """Adds the options of `Request` and of each head; every default is None, which stands for the model's own.

    Args:
      parser: to add to.
      everything: also the options that not every verb has (`Declaration.everywhere`).
    """
    shared = parser.add_argument_group("request (defaults are those of the model)")
    _add(shared, Request, everything, {})
    owners = _owners()
    added: set[str] = set()
    for head, cls in all_options().items():
        also = [flag_of(name, declarations(cls)[name]) for name in declarations(cls) if name in added]
        note = f"also {', '.join(also)}, as above" if also else None
        group = parser.add_argument_group(f"options of {head} models", note)
        _add(group, cls, everything, {name: owners[name] for name in declarations(cls)}, added)
        added |= declarations(cls).keys()


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Returns {name: value} of the options that were given, by the names of `Generator.plan`."""
    names = [*declarations(Request), *(name for cls in all_options().values() for name in declarations(cls))]
    values = {name: getattr(args, name, None) for name in dict.fromkeys(names)}
    return {name: value for name, value in values.items() if value not in (None, [])}


def _owners() -> dict[str, list[str]]:
    """Returns the heads that have each option."""
    owners: dict[str, list[str]] = {}
    for head, cls in all_options().items():
        for name in declarations(cls):
            owners.setdefault(name, []).append(head)
    return owners


def _add(
    group: Any,
    cls: type,
    everything: bool,
    owners: dict[str, list[str]],
    added: set[str] | frozenset[str] = frozenset(),
) -> None:
    """Adds the options of one dataclass to a group of `--help`."""
    for name, declaration in declarations(cls).items():
        if name in added or not (everything or declaration.everywhere):
            continue
        several = len(owners.get(name, [])) > 1
        help_ = declaration.help + (f" ({', '.join(owners[name])})" if several else "")
        flag = flag_of(name, declaration)
        group.add_argument(flag, dest=name, help=help_.replace("%", "%%"), **_reader(cls, name, declaration))


def _reader(cls: type, name: str, declaration: Declaration) -> dict[str, Any]:
    """Returns how argparse reads an option's value."""
    kind = kind_of(cls, name)
    if declaration.table:
        return {"action": "append", "default": [], "metavar": declaration.metavar}
    if kind is tuple:
        names = tuple(declaration.metavar.split())
        return {"nargs": len(names), "type": float, "metavar": names}
    return {"type": kind, "metavar": declaration.metavar}
