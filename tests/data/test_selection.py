"""Terms that choose and exclude images."""

import re

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.selection import EVERYTHING, Selection, holds, parse_terms, read_exclusions

LABELS = {"path": "cats/a/1.png", "caption": "a cat", "style": "ink", "artist": "Jane Doe"}


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (("style", "ink"), True),
        (("style", "in"), False),
        (("style", "Ink"), False),
        (("licence", ""), False),  # a term on a missing label is false
        (("caption", "a cat"), True),
        (("path", "cats/a/1.png"), True),
        (("path", "cats/"), True),
        (("path", "cats/a/"), True),
        (("path", "cats"), False),
        (("path", "cat/"), False),
        (("path", "a/"), False),
        (("caption", "a "), False),
        (("artist", "Jane/"), False),  # only paths have folders
    ],
)
def test_a_term_holds_of_equal_values_and_of_what_lies_in_a_folder(term, expected):
    assert Selection(where=(term,)).admits(LABELS) == expected
    assert Selection(exclude=(term,)).admits(LABELS) != expected


def test_all_of_where_and_none_of_exclude_must_hold_and_exclusions_win():
    generator = np.random.default_rng(0)
    terms = [("style", "ink"), ("style", "oil"), ("path", "cats/"), ("caption", "a dog")]
    truth = {term: Selection(where=(term,)).admits(LABELS) for term in terms}
    for _ in range(100):
        where = tuple(term for term in terms if generator.random() < 0.4)
        exclude = tuple(term for term in terms if generator.random() < 0.4)
        expected = all(truth[term] for term in where) and not any(truth[term] for term in exclude)
        assert Selection(where, exclude).admits(LABELS) == expected
    assert EVERYTHING.admits({}) and not EVERYTHING and Selection(where=(terms[0],))


def test_before_decoding_only_what_is_known_then_must_hold():
    selection = Selection((("sha256", "f" * 64), ("style", "ink"), ("id", "0" * 16)), (("id", "1" * 16),))
    assert not selection.admits(LABELS) and selection.undecoded().admits(LABELS)
    assert selection.undecoded() == Selection((("style", "ink"),), (("id", "1" * 16),))


def test_a_record_is_json_of_all_terms():
    record = Selection((("a", "b"),), (("c", "d"), ("e", "f"))).record()
    assert record == {"where": [["a", "b"]], "exclude": [["c", "d"], ["e", "f"]]}


def test_values_may_hold_equals_signs():
    assert parse_terms(["a=b=c", "d="], "--where") == (("a", "b=c"), ("d", ""))
    for text in ("a", "=b", ""):
        with pytest.raises(UserError, match=r"--exclude .* is not KEY=VALUE, as in --exclude style=mosaic"):
            parse_terms([text], "--exclude")


def test_a_list_holds_paths_folders_and_terms(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("\ufeff# taken down\n\n  cats/a.png \nartist = Jane Doe\npath=a=b.png\nzoo/\n   # no\n", "utf-8")
    assert read_exclusions(file) == (
        ("path", "cats/a.png"),
        ("artist", "Jane Doe"),
        ("path", "a=b.png"),
        ("path", "zoo/"),
    )


def test_a_list_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\xd8")
    (tmp_path / "keyless").write_text("cats/\n = Jane Doe\n")
    for name in ("nothing", "binary", "."):
        with pytest.raises(
            UserError, match=rf"cannot read the exclusion list from {re.escape(str(tmp_path / name))}: "
        ):
            read_exclusions(tmp_path / name)
    with pytest.raises(UserError, match="'= Jane Doe' has no KEY before ="):
        read_exclusions(tmp_path / "keyless")


def test_lines_end_as_in_an_editor_only(tmp_path):
    file = tmp_path / "list.txt"
    file.write_bytes("artist=Jane\u2028Doe\x85x\x0cy\r\ncats/a.png\r# no\nzoo/".encode())
    assert read_exclusions(file) == (("artist", "Jane\u2028Doe\x85x\x0cy"), ("path", "cats/a.png"), ("path", "zoo/"))


@pytest.mark.parametrize(
    ("term", "labels", "expected"),
    [
        (("path", "caf\u00e9/a.png"), {"path": "cafe\u0301/a.png"}, True),
        (("path", "cafe\u0301\\a.png"), {"path": "caf\u00e9/a.png"}, True),
        (("path", "caf\u00e9\\"), {"path": "cafe\u0301/a.png"}, True),
        (("artist", "Jos\u00e9"), {"artist": "Jose\u0301"}, True),
        (("artist", "a\\b"), {"artist": "a/b"}, False),
        (("artist", "x/"), {"artist": "x/y"}, False),
        (("artist", ""), {}, False),
    ],
)
def test_names_are_compared_whatever_their_unicode_form(term, labels, expected):
    assert holds(term, labels) is expected
    assert Selection(exclude=(term,)).admits(labels) is not expected
