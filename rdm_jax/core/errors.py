"""Errors that a user can mend: one line that names the value, what is allowed and what to do next."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """Bad input from the user; the command line prints its one line and exits with status 2, without a traceback."""


def unknown(kind: str, name: str, allowed: Iterable[str], *, hint: str = "") -> UserError:
    """Returns the error for a name that is not among the allowed ones, with the nearest names first.

    Args:
      kind: what the name stands for ("database", "sampler"), as the message will say it.
      name: what the user gave.
      allowed: the names that would have been taken.
      hint: what else the user can do, a clause without a full stop.
    """
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    did_you_mean = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    hint = f"; {hint}" if hint else ""
    return UserError(f"unknown {kind} {name!r}{did_you_mean} (known: {', '.join(names) or 'none'}){hint}")


@contextlib.contextmanager
def bounded(what: str, advice: str) -> Iterator[None]:
    """Raises UserError for any error inside the block, which works with values of a file of others.

    Libraries have an error of their own for every value that does not fit; to list them would forget one.

    Args:
      what: is wrong, as the beginning of the message.
      advice: what to do next.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"{what} ({first_line(error)}); {advice}") from error


def first_line(error: BaseException, most: int = 300) -> str:
    """Returns the first line of an error of a library, the name of its type where it has none, at a bounded length."""
    text = " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())
    return text if len(text) <= most else text[:most] + " ..."


def some(names: Iterable[str], most: int = 8) -> str:
    """Returns names for a message: the first ones, and how many more there are."""
    listed = [name if len(name) <= 80 else name[:80] + "..." for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
