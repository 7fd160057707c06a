"""The list of released weights: complete entries, the same in the documentation, and a search by a word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rdm_jax.cli.main import main
from rdm_jax.convert.released import as_markdown, as_text, released
from rdm_jax.core.errors import UserError

DOCS = Path(__file__).parents[2] / "docs/released_models.md"


def test_every_file_has_an_address_a_size_and_a_license():
    files = released()
    assert len({one.address for one in files}) == len(files)
    for one in files:
        assert re.fullmatch(r"https://\S+", one.address), one
        assert re.fullmatch(r"~?\d+(\.\d+)?", one.gigabytes), one
        assert one.license and one.what and one.note, one
        assert re.fullmatch(r"|[0-9a-f]{64}", one.sha256), one


def test_a_hash_in_an_address_is_that_of_the_file():
    for one in released():
        in_address = re.findall(r"[0-9a-f]{64}", one.address)
        assert in_address in ([], [one.sha256])


def test_the_documentation_has_the_list():
    assert as_markdown(released()) in DOCS.read_text(encoding="utf-8"), "replace the tables by as_markdown(released())"


def test_a_word_selects(capsys):
    files = released("ip-adapter")
    assert 0 < len(files) < len(released()) and all("IP-Adapter" in one.family for one in files)
    assert main(["convert", "--list", "ip-adapter"]) == 0
    assert capsys.readouterr().out == as_text(files) + "\n"


def test_an_unknown_word_and_other_arguments_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="no released model is named like 'sdxl'; the families are: Retrieval"):
        released("sdxl")
    assert main(["convert", "--list", "--out", str(tmp_path)]) != 0
    assert "leave out SRC and --out" in capsys.readouterr().err
    assert main(["convert"]) != 0
    assert "rdm convert SRC --out DIR" in capsys.readouterr().err
