"""Who made the icons and under which licenses, as a document to ship with what is made of them."""

from __future__ import annotations

from collections.abc import Iterable

from rdm_jax.data.icons.collection import Icon, IconSet, sets

FILE = "ATTRIBUTION.md"

_HEAD = """# Attribution

The images of this data set are icons of these sets, rendered as pixels. Each set is used under its own license.

| set | icons | author | license |
|---|---|---|---|
"""


def attribution(icons: Iterable[Icon]) -> str:
    """Returns a Markdown document that names each set of icons, its author, license and count."""
    return _HEAD + "".join(_row(icon_set, count) for icon_set, count in sets(icons))


def _row(icon_set: IconSet, count: int) -> str:
    author = _link(icon_set.author, icon_set.url)
    license_ = _link(icon_set.license, icon_set.license_url)
    return f"| {_cell(icon_set.name)} (`{icon_set.prefix}`) | {count} | {author} | {license_} |\n"


def _link(label: str, url: str) -> str:
    return f"[{_cell(label)}]({url})" if url else _cell(label)


def _cell(value: str) -> str:
    return value.replace("|", "\\|")
