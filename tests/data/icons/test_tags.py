"""The tags of small packages of each kind, written as the registry's are."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.icons.tags import PACKAGES, merge_tags, normalized, read_package, read_tags, shipped_tags, write_tags

PHOSPHOR = """
const icons = [
  {
    name: "acorn",
    categories: [e.FINANCE],
    tags: [
      "*new*",
      "nut"
    ]
  },
  {
    name: "address-book",
    categories: [e.PEOPLE],
    tags: ["contacts", "Roledex"]
  }
];
"""

CONTENTS = {
    "tabler": json.dumps({"bell-off": {"tags": ["notification", "Alarm", 5, "bell off"]}}),
    "lucide": json.dumps({"fire-truck": ["fire engine", "rescue"], "x": []}),
    "phosphor": PHOSPHOR,
    "mdi": json.dumps([{"name": "pill", "aliases": ["medicine"], "tags": ["Medical / Hospital"]}]),
    "emojilib": json.dumps({"X": ["grinning_face", "smile", ":D"]}),
}
WANTED = {
    "tabler": {"bell off": ["notification", "alarm"]},
    "lucide": {"fire truck": ["fire engine", "rescue"]},
    "phosphor": {"acorn": ["nut"], "address book": ["contacts", "roledex"]},
    "mdi": {"pill": ["medicine", "medical", "hospital"]},
    "emojilib": {"grinning face": ["smile", "d"]},
}


def pack(folder: Path, archive: str, member: str, content: str) -> None:
    with tarfile.open(folder / archive, "w:gz") as tar:
        entry = tarfile.TarInfo(member)
        entry.size = len(content.encode())
        tar.addfile(entry, io.BytesIO(content.encode()))


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_each_package_has_its_tags(tmp_path: Path, name: str) -> None:
    pack(tmp_path, PACKAGES[name].archive, PACKAGES[name].member, CONTENTS[name])
    assert read_package(tmp_path, name) == WANTED[name]


def test_packages_are_merged_and_each_tag_occurs_once(tmp_path: Path) -> None:
    assert merge_tags([{"a": ["x", "y"]}, {"a": ["y", "z"], "b": ["x"]}]) == {"a": ["x", "y", "z"], "b": ["x"]}
    for name in ("tabler", "mdi"):
        pack(tmp_path, PACKAGES[name].archive, PACKAGES[name].member, CONTENTS[name])
    assert read_tags(tmp_path, ["tabler", "mdi"]) == WANTED["tabler"] | WANTED["mdi"]


def test_words_are_separated_by_everything_but_letters_and_digits() -> None:
    assert normalized("Alarm-Clock_off / 24h") == "alarm clock off 24h"


def test_a_missing_archive_is_named_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"there is no .*lucide-static-1.62.0.tgz; fetch it with npm pack lucide-static@"
    ):
        read_package(tmp_path, "lucide")


def test_a_damaged_archive_is_an_error(tmp_path: Path) -> None:
    archive = PACKAGES["lucide"].archive
    (tmp_path / archive).write_bytes(b"no archive")
    with pytest.raises(UserError, match="cannot be read"):
        read_package(tmp_path, "lucide")
    pack(tmp_path, archive, PACKAGES["lucide"].member, "[1, 2]")
    with pytest.raises(UserError, match="cannot be read as tags"):
        read_package(tmp_path, "lucide")
    pack(tmp_path, archive, "package/other.json", "{}")
    with pytest.raises(UserError, match=r"cannot be read .*npm pack"):
        read_package(tmp_path, "lucide")


def test_shipped_tags_can_be_written_again(tmp_path: Path) -> None:
    tags = shipped_tags()
    assert "dog" in " ".join(tags)
    write_tags(tmp_path / "tags.json.gz", tags)
    write_tags(tmp_path / "again.json.gz", dict(reversed(tags.items())))
    assert (tmp_path / "tags.json.gz").read_bytes() == (tmp_path / "again.json.gz").read_bytes()
    assert all(caption == normalized(caption) for caption in tags)
