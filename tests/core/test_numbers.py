"""Numbers as text."""

import math

import pytest

from rdm_jax.core.numbers import plain


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.0, "1"),
        (1000.0, "1000"),
        (12345.6, "12346"),
        (9999.6, "10000"),
        (123456789.0, "123456789"),
        (0.123456, "0.1235"),
        (-2e-5, "-0.00002"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_numbers_are_plain_digits(value: float | int, text: str) -> None:
    assert plain(value) == text


def test_text_is_read_back_as_the_number_in_four_digits() -> None:
    for exponent in range(-8, 12):
        for mantissa in (1.0, 1.23456, 9.99949):
            value = mantissa * 10.0**exponent
            assert float(plain(value)) == pytest.approx(value, rel=5e-4) and "e" not in plain(value)
