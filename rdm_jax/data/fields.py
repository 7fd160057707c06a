"""The fields of a record: which one is the caption or the path, and the text of every other one."""

from __future__ import annotations

import json
from typing import Any

CAPTIONS = ("caption", "text", "prompt", "captions", "description")
PATHS = ("path", "file_name", "filename", "image/filename", "id", "image/id")


def as_text(value: Any) -> str:
    """Returns the text of a field's value, by which images are selected: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def class_name(labels: Any, number: int) -> str:
    """Returns the name of a class; -1 stands for none in sets whose test split has no labels.

    Args:
      labels: the class labels of TFDS, or those of Hugging Face's library.
      number: of the class.
    """
    return labels.int2str(number) if 0 <= number < labels.num_classes else str(number)
