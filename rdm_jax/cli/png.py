"""PNG files with a record of their generation: a `parameters` text for other tools, and JSON in a chunk `rdm`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.cli.record import check
from rdm_jax.core import images
from rdm_jax.core.errors import UserError

SCHEMA = 2
CHUNK = "rdm"


def encode_png(image: UInt8[np.ndarray, "h w c"], record: Mapping[str, Any] | None = None) -> bytes:
    """Returns a PNG file of an image.

    Args:
      image: the image, of 3 channels, or 4 with alpha.
      record: of its generation, from `records.of_images`; None leaves the metadata out.
    """
    if record is None:
        return images.encode(image)
    chunk = json.dumps(record, ensure_ascii=True, separators=(",", ":"))
    return images.encode(image, {"parameters": parameters_text(record), CHUNK: chunk})


def parameters_text(record: Mapping[str, Any]) -> str:
    """Returns a record as the `parameters` text that galleries read.

    The prompt, a line with the negative prompt if there is one, then one line of `Key: value`.
    """
    request, database = record["request"], record["database"]
    values = {
        **record["labels"],
        "Size": f"{request['width']}x{request['height']}",
        "Model hash": record["model"]["sha256"][:10],
        "Model": record["model"]["name"],
        "Index": record["index"],
    }
    if database:
        values |= {"Database": database["name"], "Database hash": database["sha256"][:10], "kNN": request["neighbors"]}
    values["Version"] = f"rdm_jax {record['versions']['rdm_jax']}"
    line = ", ".join(f"{key}: {_quoted(value)}" for key, value in values.items())
    negative = [f"Negative prompt: {record['negative_prompt']}"] if record.get("negative_prompt") else []
    return "\n".join([record["prompt"], *negative, line])


def read_record(path: Path) -> tuple[dict[str, Any], UInt8[np.ndarray, "h w c"]]:
    """Returns the record inside a PNG and its pixels.

    Raises:
      UserError: the file cannot be read, is no PNG, or carries no record that this version reads.
    """
    data = images.read_bytes(path)
    try:
        pixels, texts = images.decode_png(data)
    except ValueError as error:
        raise UserError(f"{path} is not a readable PNG ({error})") from error
    text = texts.get(CHUNK)
    if text is None:
        raise UserError(
            f"{path} carries no parameters: rdm did not generate it, or did so with --disable-metadata, or another "
            "program saved it again without them"
        )
    try:
        record = json.loads(text)
        schema = record["schema"]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} carries damaged parameters; generate it again") from error
    if schema != SCHEMA:
        raise UserError(
            f"{path} carries parameters of schema {schema!r}, and this version reads {SCHEMA}; generate it again"
        )
    try:
        check(record)
    except UserError as error:
        raise UserError(f"{path} carries damaged parameters ({error}); generate it again") from error
    return record, pixels


def _quoted(value: Any) -> str:
    """Returns a value as text, in quotes where a reader would split it."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text
