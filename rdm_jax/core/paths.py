"""Places that a user names: local paths, where `~` is the home folder, and addresses in object storage."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rdm_jax.core.errors import UserError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_remote(place: str | Path) -> bool:
    """Returns whether a place is an address such as gs://bucket/folder."""
    return bool(_ADDRESS.match(str(place)))


def local(place: str | Path) -> Path:
    """Returns a path of this machine; a leading `~` stands for the home folder.

    Raises:
      UserError: the place is empty or an address in object storage, holds a null character, or names the home folder of
        an unknown user.
    """
    text = str(place)
    if not text or "\0" in text:
        raise UserError(f"{text!r} is no path; give the path of a file or a folder")
    if is_remote(text):
        raise UserError(f"{text} lies in object storage, and this takes a path of this machine; copy it here first")
    try:
        return Path(_encodable(text)).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{text} starts with the home folder of an unknown user; write ./{text} for a file of that name"
        ) from error


def _encodable(text: str) -> str:
    """Returns a path as the file system of this locale takes it: its bytes are UTF-8 in any case."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return os.fsdecode(text.encode())
    return text


def expanded(place: str | Path) -> str:
    """Returns a place as text: an address as it is, a path with `~` expanded; raises UserError as `local` does."""
    return str(place) if is_remote(place) else str(local(place))


def absolute(place: str | Path) -> str:
    """Returns a place as text that processes in other folders understand: an address as it is, a path absolute."""
    return str(place) if is_remote(place) else str(local(place).absolute())
