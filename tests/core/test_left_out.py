"""The report of what is left out: complete in its numbers, bounded in its length."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rdm_jax.core.left_out import LETTERS, NAMES, OTHER, REASONS, LeftOut, of_lines


def test_it_counts_names_and_orders() -> None:
    left_out = LeftOut()
    assert str(left_out) == "" and len(left_out) == 0
    left_out.add("a.heic", ".heic")
    assert str(left_out) == "1 file is left out: 1 .heic (a.heic)"
    for name in ("b", "c", "d", "e"):
        left_out.add(name, "without a suffix")
    left_out.add("b.heic", ".heic")
    assert str(left_out) == "6 files are left out: 4 without a suffix (b, c, d, ...), 2 .heic (a.heic, b.heic)"


def test_lines_are_names_and_reasons() -> None:
    lines = ["a.png: not an image: none of X", "b.png: not an image: none of X", "a reason alone"]
    report = "3 images are left out: 2 not an image: none of X (a.png, b.png), 1 a reason alone (unnamed)"
    assert str(of_lines(lines)) == report


@given(st.lists(st.tuples(st.text(max_size=300), st.text(max_size=300)), min_size=1, max_size=60))
def test_a_report_is_one_short_line_whose_numbers_add_up(pairs: list[tuple[str, str]]) -> None:
    left_out = LeftOut("row")
    due = [left_out.add(name, reason) for name, reason in pairs]
    line = str(left_out)
    assert len(left_out) == len(pairs) == sum(left_out.counts.values())
    assert line.isprintable() and len(line) <= 40 + (REASONS + 1) * (NAMES + 2) * (LETTERS + 20)
    assert due == [number.bit_count() == 1 for number in range(1, len(pairs) + 1)]
    assert len(left_out.counts) <= REASONS + 1
    if len({reason for _, reason in pairs}) <= REASONS and all(reason.isprintable() for _, reason in pairs):
        short = [count for reason, count in Counter(reason for _, reason in pairs).items() if len(reason) <= LETTERS]
        assert OTHER not in left_out.counts and set(short) <= set(left_out.counts.values()) | {0}


def test_the_reports_of_two_processes_are_one() -> None:
    first, second = LeftOut(), LeftOut()
    for number in range(5):
        second.add(f"b{number}", ".heic")
    first.add("a", ".heic")
    second.add("c", "without a suffix")
    first.merge(second)
    assert len(first) == 7 and first.counts == {".heic": 6, "without a suffix": 1}
    assert str(first) == "7 files are left out: 6 .heic (a, b0, b1, ...), 1 without a suffix (c)"
    many, others = LeftOut(), LeftOut()
    for number in range(REASONS):
        many.add("x", f"reason {number}")
    others.add("y", "one more")
    many.merge(others)
    assert many.counts[OTHER] == 1 and len(many) == REASONS + 1
