"""Icons of the npm package `@iconify/json`, selected by license, category and style, with their labels.

The package holds `collections.json`, which describes each set, and `json/<prefix>.json` with the set's icons as bodies
of SVG files. A style is a set and one variant of it, which an affix of the icon's name marks: "ph-duotone".
"""

from __future__ import annotations

import collections
import functools
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdm_jax.core.errors import UserError, bounded
from rdm_jax.data.icons.groups import group_of
from rdm_jax.data.icons.held_out import HELD_OUT
from rdm_jax.data.icons.licenses import is_allowed
from rdm_jax.data.icons.words import is_unseen

VERSION = "2.2.535"
ARCHIVE = f"iconify-json-{VERSION}.tgz"
COMMAND = f"npm pack @iconify/json@{VERSION}"
SMALLEST_STYLE = 150
"""The fewest icons of a style that is used."""

SPLITS: tuple[str, ...] = ("train", "unseen", "held_out")
"""Training alone; icons of unseen words, for content databases too; icons of held-out styles, for style databases."""

_SIZE = 16.0  # where neither the icon nor its set has one
# Drawings that appear once and then stay: their first frame, which is what is rendered, is nearly empty.
_ANIMATED = re.compile(r'fill="freeze"')


@dataclass(frozen=True)
class IconSet:
    """A set as `collections.json` describes it.

    Attributes:
      prefix: its short name, such as "ph".
      name: its title.
      author: who made it.
      url: of the author's page, "" if there is none.
      license: the SPDX name of its license.
      license_url: where the license can be read, "" if unknown.
      one_color: whether the icons take the color of the text around them.
    """

    prefix: str
    name: str
    author: str
    url: str
    license: str
    license_url: str
    one_color: bool


@dataclass(frozen=True)
class Icon:
    """An icon and its labels.

    Attributes:
      name: its name in the set, such as "alarm-clock-off-duotone".
      source: its set.
      style: the set and the variant, such as "ph-duotone".
      caption: its name without affix and numbers, such as "alarm clock off".
      view_box: left, top, width and height of the drawing.
      body: the content of its SVG element.
    """

    name: str
    source: IconSet
    style: str
    caption: str
    view_box: tuple[float, float, float, float]
    body: str

    @property
    def id(self) -> str:
        """The name of the icon among all sets: "ph:alarm-clock-off-duotone"."""
        return f"{self.source.prefix}:{self.name}"

    @property
    def group(self) -> str:
        """The design group; icons of one group and caption are twins."""
        return group_of(self.source.prefix)

    @property
    def split(self) -> str:
        """One of `SPLITS`."""
        if self.style in HELD_OUT:
            return "held_out"
        return "unseen" if is_unseen(self.caption) else "train"

    @property
    def has_strokes(self) -> bool:
        """Whether it is made of strokes; of those that are not, four times as many have large filled areas."""
        return "stroke=" in self.body and 'fill="none"' in self.body

    @property
    def svg(self) -> str:
        """The icon as an SVG document, in `currentColor` where it has one color."""
        box = " ".join(f"{value:g}" for value in self.view_box)
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{self.body}</svg>'


def read(archive: Path, smallest_style: int = SMALLEST_STYLE) -> list[Icon]:
    """Returns the icons of the package that may be used, ordered by set and name.

    Hidden and animated icons, and those whose name is a number alone, are left out.

    Args:
      archive: the package as `npm pack` writes it.
      smallest_style: the fewest icons of a style; the icons of smaller ones are left out.

    Raises:
      UserError: there is no such file, or it is not this package.
    """
    if not archive.is_file():
        folder = archive.parent
        raise UserError(f"no file {archive}; get it: mkdir -p {folder} && {COMMAND} --pack-destination {folder}")
    with bounded(f"{archive} is not the npm package @iconify/json", f"get it again with `{COMMAND}`"):
        infos = _infos(archive)
        icons = [icon for data in _sets(archive, infos) for icon in _icons(data, infos)]
    counts = collections.Counter(icon.style for icon in icons)
    return sorted((icon for icon in icons if counts[icon.style] >= smallest_style), key=_place)


def sets(icons: Iterable[Icon]) -> list[tuple[IconSet, int]]:
    """Returns the sets of icons and how many icons of each there are, ordered by prefix."""
    counts = collections.Counter(icon.source for icon in icons)
    return sorted(counts.items(), key=lambda item: item[0].prefix)


def _place(icon: Icon) -> tuple[str, str]:
    return icon.source.prefix, icon.name


def _infos(archive: Path) -> dict[str, Any]:
    """Returns the descriptions of all sets by prefix, from `collections.json`."""
    for name, data in _files(archive):
        if name == "package/collections.json":
            return json.loads(data())
    raise ValueError("no collections.json in it")


def _sets(archive: Path, infos: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, data in _files(archive):
        prefix = name.removeprefix("package/json/").removesuffix(".json")
        if name == f"package/json/{prefix}.json" and prefix in infos and is_allowed(infos[prefix]):
            yield json.loads(data())


def _files(archive: Path) -> Iterator[tuple[str, Any]]:
    """Yields the name of each file of an archive, and a function that returns its bytes before the next one is read."""
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                yield member.name, file.read


def _icons(data: Mapping[str, Any], infos: Mapping[str, Any]) -> Iterator[Icon]:
    prefix = data["prefix"]
    source = _source(prefix, infos[prefix])
    suffixes, prefixes = _affixes(data, "suffixes"), _affixes(data, "prefixes")
    for name, icon in data["icons"].items():
        affix, stem = _split_name(name, suffixes, prefixes)
        caption = caption_of(stem)
        if icon.get("hidden") or not caption or _ANIMATED.search(icon["body"]):
            continue
        value = functools.partial(_value, icon, data)
        box = (value("left", 0.0), value("top", 0.0), value("width", _SIZE), value("height", _SIZE))
        yield Icon(name, source, _style(prefix, affix, infos), caption, box, icon["body"])


def _source(prefix: str, info: Mapping[str, Any]) -> IconSet:
    author, license = info.get("author", {}), info["license"]
    return IconSet(
        prefix=prefix,
        name=info["name"],
        author=author.get("name", ""),
        url=author.get("url", ""),
        license=license["spdx"],
        license_url=license.get("url", ""),
        one_color=not info.get("palette", False),
    )


def _affixes(data: Mapping[str, Any], kind: str) -> list[str]:
    """Returns the affixes of a set, the longest first, so that "outline-sharp" is found before "sharp"."""
    return sorted(filter(None, data.get(kind) or ()), key=lambda affix: (-len(affix), affix))


def _split_name(name: str, suffixes: Iterable[str], prefixes: Iterable[str]) -> tuple[str, str]:
    """Returns the affix of a name, "" if there is none, and the name without it."""
    for suffix in suffixes:
        if name.endswith(f"-{suffix}"):
            return suffix, name.removesuffix(f"-{suffix}")
    for prefix in prefixes:
        if name.startswith(f"{prefix}-"):
            return prefix, name.removeprefix(f"{prefix}-")
    return "", name


def caption_of(stem: str) -> str:
    """Returns the caption of a name without affix: hyphens become spaces, parts that are numbers are left out."""
    return " ".join(part for part in stem.split("-") if part and not part.isdigit())


def _style(prefix: str, affix: str, infos: Mapping[str, Any]) -> str:
    """Returns the name of a style; where another set has that name, the affix is separated by a slash."""
    if not affix:
        return prefix
    style = f"{prefix}-{affix}"
    return f"{prefix}/{affix}" if style in infos else style


def _value(icon: Mapping[str, Any], data: Mapping[str, Any], name: str, default: float) -> float:
    return float(icon.get(name, data.get(name, default)))
