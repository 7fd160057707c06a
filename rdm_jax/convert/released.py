"""The released weights that can be converted: where they are, their sizes, licenses and hashes. Nothing is fetched."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rdm_jax.core import text
from rdm_jax.core.errors import UserError

LISTED = Path(__file__).parents[1] / "assets" / "released.toml"


@dataclasses.dataclass(frozen=True)
class Released:
    """One published file.

    Attributes:
      family: of models.
      note: what applies to all files of the family.
      what: the model.
      address: where its publisher has it.
      gigabytes: its size; "~" in front is approximate.
      license: that the publisher states.
      sha256: of the file; "" where none is published.
    """

    family: str
    note: str
    what: str
    address: str
    gigabytes: str
    license: str
    sha256: str


def released(word: str = "") -> list[Released]:
    """Returns the files whose family, model or address contain a word, in any case; all of them without one.

    Raises:
      UserError: none does.
    """
    content = tomllib.loads(text.read(LISTED))
    files = [_file(family, one, content["licenses"]) for family in content["family"] for one in family["files"]]
    found = [one for one in files if word.lower() in f"{one.family} {one.what} {one.address}".lower()]
    if not found:
        families = "; ".join(family["name"] for family in content["family"])
        raise UserError(f"no released model is named like {word!r}; the families are: {families}")
    return found


def _file(family: dict[str, Any], one: dict[str, Any], licenses: dict[str, str]) -> Released:
    named = str(one.get("license") or family["license"])
    return Released(
        family["name"],
        family["note"],
        one["what"],
        family["at"] + one["file"],
        one["gigabytes"],
        licenses.get(named, named),
        one.get("sha256", ""),
    )


def as_text(files: Sequence[Released]) -> str:
    """Returns a list for a terminal: a heading for each family, and two or three lines for each file."""
    lines = []
    for place, one in enumerate(files):
        if not place or files[place - 1].family != one.family:
            lines += ["", one.family, f"  ({one.note})"]
        lines += [f"  {one.what}, {one.gigabytes} GB, {one.license}", f"    {one.address}"]
        lines += [f"    sha256 {one.sha256}"] if one.sha256 else []
    return "\n".join(lines[1:])


def as_markdown(files: Sequence[Released]) -> str:
    """Returns a table for each family, as docs/released_models.md has it."""
    lines = []
    for place, one in enumerate(files):
        if not place or files[place - 1].family != one.family:
            note = one.note[0].upper() + one.note[1:]
            lines += ["", f"### {one.family}", "", f"{note}.", ""]
            lines += ["| model | GB | license | address |", "|---|---|---|---|"]
        digest = f"<br>SHA-256 `{one.sha256}`" if one.sha256 and one.sha256 not in one.address else ""
        lines.append(f"| {one.what} | {one.gigabytes} | {one.license} | `{one.address}`{digest} |")
    return "\n".join(lines[1:])
