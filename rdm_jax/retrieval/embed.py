"""Pictures through the encoder, part by part: what building a database and computing neighbours share."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import ImageSource
from rdm_jax.retrieval.encoder import Encoder
from rdm_jax.retrieval.parts import Share, Workspace
from rdm_jax.retrieval.prepare import Preparation, Prepared, Workers

Progress = Callable[[int, int], None]
Seen = Callable[[int, list[str]], None]


def unseen(done: int, broken: list[str]) -> None:
    """Takes how many pictures of a part are done, and which were broken, and does nothing."""


def write_parts(
    work: Workspace,
    source: ImageSource,
    parts: Sequence[range],
    preparation: Preparation,
    write: Callable[[Path, int, Workers, Seen], dict[str, Any]],
    max_skip: float,
    share: Share,
    workers: int | None,
    progress: Progress | None,
) -> None:
    """Writes those parts of a process's share that are not there yet.

    Args:
      work: the folder of the parts.
      source: the pictures.
      parts: the numbers of the pictures of each part.
      preparation: what becomes of a picture.
      write: writes a part into a folder by its number with some workers, tells of each picture, and returns the part's
        notes, which list under "skipped" what could not be read.
      max_skip: the share of unreadable pictures, in [0, 1], above which it fails.
      share: which of several processes this one is.
      workers: processes that decode; chosen from the machine if None, threads of this process if 0.
      progress: called with (pictures done, pictures in all).

    Raises:
      UserError: too many pictures are broken.
    """
    done = sum(len(parts[number]) for number in work.done())
    skipped = [line for number in work.done() for line in work.notes(number)["skipped"]]
    check_skipped(skipped, done, len(source), source.name, max_skip)
    pending = work.pending(share)
    if not pending:
        return
    if progress:
        progress(done, len(source))
    allowed = max_skip * len(source)
    with Workers(source, preparation, workers) as pool:
        for number in pending:

            def seen(
                count: int, broken: list[str], before: int = done, earlier: Sequence[str] = tuple(skipped)
            ) -> None:
                if len(earlier) + len(broken) > allowed:
                    check_skipped([*earlier, *broken], before + count, len(source), source.name, max_skip)
                if progress:
                    progress(before + count, len(source))

            notes = work.write(number, lambda folder, number=number, seen=seen: write(folder, number, pool, seen))
            done += len(parts[number])
            skipped += notes["skipped"]


def embed_part(
    indices: Sequence[int], encoder: Encoder, workers: Workers, seen: Seen = unseen
) -> tuple[list[Prepared], Float[np.ndarray, "n d"], list[str]]:
    """Returns what some examples give, without their pixels, the rows of all, and why broken ones cannot be read.

    Args:
      indices: the numbers of the examples.
      encoder: makes the rows.
      workers: prepare the pictures.
      seen: called after each picture with how many are done, and which were broken.
    """
    examples: list[Prepared] = []
    broken: list[str] = []

    def pixels() -> Iterator[np.ndarray]:
        for one in workers.prepare(indices):
            examples.append(dataclasses.replace(one, pixels=[]))
            broken.extend([one.broken] if one.broken else [])
            seen(len(examples), broken)
            yield from one.pixels

    rows = encode_stream(pixels(), encoder)
    return examples, rows, broken


def encode_stream(pixels: Iterator[np.ndarray], encoder: Encoder) -> Float[np.ndarray, "n d"]:
    """Returns the embeddings of pictures of one size, by batches of one shape: the last is filled up with black."""
    found = [np.zeros((0, int(encoder.identity["width"])), np.float32)]
    while batch := list(itertools.islice(pixels, encoder.batch_size)):
        full = np.zeros((encoder.batch_size, *batch[0].shape), np.uint8)
        full[: len(batch)] = batch
        found.append(encoder.encode_images(full)[: len(batch)])
    return np.concatenate(found)


def check_skipped(skipped: Sequence[str], done: int, total: int, name: str, max_skip: float) -> None:
    """Raises UserError where more than the share `max_skip` of a source's pictures is broken."""
    if len(skipped) > max_skip * total:
        raise UserError(
            f"{len(skipped)} of the first {done} pictures of {name} cannot be read, allowed are {max_skip:.1%} of "
            f"{total}; the first: {skipped[0]}; mend them or allow more by --max-skip"
        )
