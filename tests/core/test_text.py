"""Text of files, places and values of options: each is read in one way, whatever the locale."""

from __future__ import annotations

import io
import subprocess
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from rdm_jax.core import paths, text, values
from rdm_jax.core.errors import UserError

ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)))


@given(ANY_TEXT)
@example("a\u2028b\u0085c\x0cd\x1e")
def test_lines_are_those_of_an_editor(written):
    # Python's own reader of text files has the same lines.
    assert text.lines(written) == [line.rstrip("\n") for line in io.StringIO(written, newline=None)]


@given(ANY_TEXT)
def test_bytes_are_utf8_with_or_without_a_mark(written):
    assert text.decode(written.encode()) == written.removeprefix("\ufeff")
    assert text.decode(written.encode("utf-8-sig")) == written


@pytest.mark.parametrize("data", [b"caf\xe9", "a\nb\ncafé".encode("latin-1"), "é".encode("utf-16")])
def test_other_encodings_are_refused_with_the_line(data, tmp_path):
    with pytest.raises(ValueError, match=f"in line {data.count(bytes([10])) + 1} is not UTF-8"):
        text.decode(data)
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UserError, match=r"cannot read prompts from .*a\.txt: byte 0x"):
        text.read_given(tmp_path / "a.txt", "prompts")


def test_a_file_is_read_as_utf8_in_any_locale(tmp_path):
    (tmp_path / "a.json").write_bytes('{"É": "ü"}'.encode())
    program = (
        "import sys; from pathlib import Path; from rdm_jax.core import text; "
        "print(ascii(text.read_json(Path(sys.argv[1]))))"
    )
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": "/usr/bin"}
    printed = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.json")], env=environment, capture_output=True, text=True
    )
    assert printed.stdout.strip() == ascii({"É": "ü"}), printed.stderr


def test_a_path_is_found_in_any_locale(tmp_path):
    (tmp_path / "löc").mkdir()
    program = "import sys; from rdm_jax.core import paths; print(paths.local(sys.argv[1] + '/l\\xf6c').is_dir())"
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": "/usr/bin"}
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert run.stdout.strip() == "True", run.stderr


@given(ANY_TEXT)
def test_names_are_compared_in_one_form(name):
    forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
    assert len({text.same_name(one) for one in forms}) == 1
    assert "\\" not in text.same_name(name)


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.local("~/x") == tmp_path / "x" and paths.expanded("~/x") == str(tmp_path / "x")
    assert paths.local("a~/x") == Path("a~/x")
    assert paths.expanded("gs://bucket/~x") == "gs://bucket/~x"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "is no path"),
        ("a\0b", "is no path"),
        ("gs://a/b", "object storage"),
        ("~nobody-here/x", r"write ./~nobody"),
    ],
)
def test_places_that_are_no_local_path_are_refused(place, message):
    with pytest.raises(UserError, match=message):
        paths.local(place)


@pytest.mark.parametrize(
    ("place", "remote"), [("gs://b/x", True), ("s3://b", True), ("file:///x", True), ("a:b", False), ("C:/x", False)]
)
def test_addresses_are_recognized(place, remote):
    assert paths.is_remote(place) == remote


@pytest.mark.parametrize(
    ("hint", "written", "value"),
    [
        (str, "/data/set #1", "/data/set #1"),
        (str, "0123", "0123"),
        (str, "yes", "yes"),
        (str, "", ""),
        (int, "0123", 123),
        (int, "-5", -5),
        (int, "1_000", 1000),
        (float, "1e-1", 0.1),
        (float, "3", 3.0),
        (float, "-inf", float("-inf")),
        (bool, "True", True),
        (bool, "false", False),
        (int | None, "none", None),
        (int | None, "7", 7),
        (str | int, "7", 7),
        (str | int, "seven", "seven"),
        (Literal["a", 1], "1", 1),
        (tuple[int, ...], "1,2,3", (1, 2, 3)),
        (tuple[int, ...], "[1, 2]", (1, 2)),
        (tuple[int, ...], "(4)", (4,)),
        (tuple[int, ...], "", ()),
        (tuple[str, ...], "a b, c", ("a b", "c")),
        (tuple[str, ...], "['a, b', 01]", ("a, b", "01")),
        (tuple[float, float], "0.5,1", (0.5, 1.0)),
        (tuple[tuple[str, str], ...], "[[a, 1], [b, 2]]", (("a", "1"), ("b", "2"))),
        (Mapping[str, int], "{a: 1, b: 02}", {"a": 1, "b": 2}),
        (Mapping[str, Any], "{a: {b: [1, x]}}", {"a": {"b": [1, "x"]}}),
    ],
)
def test_a_value_has_the_declared_type(hint, written, value):
    parsed = values.parse(hint, written)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("hint", "written"),
    [
        *((int, one) for one in ("", "x", "1.0", "1e3", "9" * 30, "-" + "9" * 5000, "0x10", "\u0661", "1 2", "true")),
        *((float, one) for one in ("", "nan", "1,5", "one", "0x1p3")),
        *((bool, one) for one in ("", "yes", "1", "on")),
        (int | None, "x"),
        (Literal["a", "b"], "c"),
        (tuple[int, ...], "1,x"),
        (tuple[int, ...], "[1"),
        (tuple[float, float], "1"),
        (Mapping[str, int], "1"),
        (Mapping[str, int], "{a: x}"),
        (Any, "[1"),
    ],
)
def test_another_value_is_refused_in_one_line(hint, written):
    with pytest.raises(ValueError) as caught:
        values.parse(hint, written)
    assert "\n" not in str(caught.value)


@given(ANY_TEXT)
def test_a_text_is_never_changed(written):
    assert values.parse(str, written) == written


@given(st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False))
def test_numbers_survive(number):
    assert values.parse(type(number), repr(number)) == number


@given(st.lists(st.integers(-(2**40), 2**40)), st.lists(st.text(st.characters(categories=("L", "Nd")), min_size=1)))
def test_lists_are_read_as_yaml_writes_them(numbers, words):
    assert values.parse(tuple[int, ...], yaml.safe_dump(numbers, default_flow_style=True, width=10**6)) == tuple(
        numbers
    )
    flow = yaml.safe_dump(words, default_flow_style=True, allow_unicode=True, width=10**6)
    assert values.parse(tuple[str, ...], flow) == tuple(words)


@pytest.mark.parametrize(
    ("now", "written", "value"),
    [(4, "07", 7), (1.5, "2", 2.0), ("a", "3", "3"), (True, "false", False), ([1, 2], "3,4", (3, 4)), (None, "3", 3)],
)
def test_a_setting_keeps_its_type(now, written, value):
    assert values.parse(values.kind_of(now), written) == value
