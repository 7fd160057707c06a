"""Ranges that options are held to: the value, or one line that says what is allowed."""

from __future__ import annotations

from rdm_jax.core.errors import UserError


def at_least_one(name: str, value: int, most: int | None = None) -> int:
    """Returns the value; raises UserError unless it is 1 or more, and at most `most`."""
    if value < 1:
        raise UserError(f"{name.replace('_', ' ')} {value} is too small; use 1 or more")
    if most is not None and value > most:
        raise UserError(f"{name.replace('_', ' ')} {value} is too large; use 1 to {most}")
    return value


def at_least_zero(name: str, value: int) -> int:
    """Returns the value; raises UserError unless it is 0 or more."""
    if value < 0:
        raise UserError(f"{name.replace('_', ' ')} {value} is too small; use 0 or more")
    return value


def positive(name: str, value: float) -> float:
    """Returns the value; raises UserError unless it is above 0 and finite."""
    if not 0 < value < float("inf"):
        raise UserError(f"{name}={value} is out of range; give a number above 0")
    return value


def share(name: str, value: float) -> float:
    """Returns the value; raises UserError unless it is in [0, 1]."""
    if not 0 <= value <= 1:
        raise UserError(f"{name}={value} is out of range; give a share from 0 to 1")
    return value


def part(name: str, value: float) -> float:
    """Returns the value; raises UserError unless it is in (0, 1]."""
    if not 0 < value <= 1:
        raise UserError(f"{name}={value} is out of range; give a share above 0, up to 1")
    return value


def required(name: str, value: str, what: str) -> str:
    """Returns the value; raises UserError if it is empty."""
    if not value:
        raise UserError(f"{name} is missing; give {what}, {name}='...'")
    return value
