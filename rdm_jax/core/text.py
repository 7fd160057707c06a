"""Text of files: UTF-8 whatever the locale, lines that end as in an editor, names in one Unicode form."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from rdm_jax.core.errors import UserError

_LINE_END = re.compile(r"\r\n|\n|\r")


def decode(data: bytes) -> str:
    """Returns the text of UTF-8 bytes, with or without a byte-order mark.

    Raises:
      ValueError: the bytes are not UTF-8; the message names the first one that is not, and its line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        reason = f"byte 0x{error.object[error.start]:02x} in line {line} is not UTF-8; save it as UTF-8 text"
        raise ValueError(reason) from error


def read(path: Path) -> str:
    """Returns the text of a UTF-8 file; raises OSError if it cannot be read, ValueError if it is not UTF-8."""
    return decode(path.read_bytes())


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file; raises OSError if it cannot be read, ValueError if it is not JSON."""
    return json.loads(read(path))


def read_given(path: Path, what: str) -> str:
    """Returns the text of a file that the user named.

    Args:
      path: of the file.
      what: it holds, for the error ("prompts").

    Raises:
      UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return read(path)
    except OSError as error:
        raise UserError(f"cannot read {what} from {path}: {error.strerror or error}; check the path") from error
    except ValueError as error:
        raise UserError(f"cannot read {what} from {path}: {error}") from error


def lines(text: str) -> list[str]:
    """Returns the lines of a text, which end with a line feed, a carriage return, or both.

    Other characters at which `str.splitlines` splits (U+2028, U+0085, form feeds) are part of captions and of JSON.
    """
    found = _LINE_END.split(text)
    return found[:-1] if found[-1] == "" else found


def same_name(name: str) -> str:
    """Returns a relative file name in the form in which names are compared: forward slashes, composed (NFC).

    File systems and archives store "é" as one character or as two, and metadata made on Windows has backslashes.
    """
    return unicodedata.normalize("NFC", name.replace("\\", "/"))
