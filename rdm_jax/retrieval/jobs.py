"""The common part of building a database and computing neighbors: images through an encoder, part by part.

A job describes what is made and writes one part at a time; `Execution` describes how it is run, which does not change
the result. `write_parts` runs a job on this machine, and `rdm_jax.retrieval.beam` runs the same job in a pipeline.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.data.examples import ImageSource
from rdm_jax.retrieval.encoder import RetrievalEncoder
from rdm_jax.retrieval.parts import ProcessIndex, Workspace
from rdm_jax.retrieval.prepare import Preparation, Prepared, Workers

PartCallback = Callable[[int, list[str]], None]
"""Called after each image of a part with the number of images done in it and why the broken ones cannot be read."""


def ignore_progress(done: int, broken: list[str]) -> None:
    """A `PartCallback` that does nothing."""


ALONE = ProcessIndex()


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a job is run.

    Attributes:
      max_skip: the fraction of unreadable images, in [0, 1], above which the job fails.
      process: the position of this process among those that work on the same output.
      workers: the number of processes that decode; chosen for the machine if None, threads of this process if 0.
      progress: called with (images done, images in all).
    """

    max_skip: float = 0.05
    process: ProcessIndex = ALONE
    workers: int | None = None
    progress: ProgressCallback | None = None


DEFAULT_EXECUTION = Execution()


@runtime_checkable
class Job(Protocol):
    """Work in parts, each of which depends on its number alone."""

    @property
    def source(self) -> ImageSource:
        """The images."""
        ...

    @property
    def parts(self) -> Sequence[range]:
        """The numbers of the images of each part."""
        ...

    @property
    def preparation(self) -> Preparation:
        """How an image is prepared for the encoder."""
        ...

    @property
    def record(self) -> Mapping[str, Any]:
        """JSON that differs if any part would differ."""
        ...

    def write_part(
        self, folder: Path, number: int, workers: Workers, on_image: PartCallback = ignore_progress
    ) -> dict[str, Any]:
        """Writes a part into a folder and returns its notes.

        Args:
          folder: the folder to write to.
          number: the number of the part.
          workers: they prepare the images.
          on_image: called after each image.

        Returns:
          JSON; its entry "skipped" has one line for each image that cannot be read.
        """
        ...


def write_parts(job: Job, work: Workspace, execution: Execution) -> None:
    """Writes those parts of this process that are not complete yet.

    Raises:
      UserError: too many images are broken.
    """
    name, total, parts = job.source.name, len(job.source), job.parts
    done = sum(len(parts[number]) for number in work.done())
    skipped = [line for number in work.done() for line in work.notes(number)["skipped"]]
    check_skipped(skipped, done, total, name, execution.max_skip)
    pending = work.pending(execution.process)
    if not pending:
        return
    if execution.progress:
        execution.progress(done, total)
    with Workers(job.source, job.preparation, execution.workers) as workers:
        for number in pending:

            def on_image(
                count: int, broken: list[str], before: int = done, earlier: Sequence[str] = tuple(skipped)
            ) -> None:
                if len(earlier) + len(broken) > execution.max_skip * total:
                    check_skipped([*earlier, *broken], before + count, total, name, execution.max_skip)
                if execution.progress:
                    execution.progress(before + count, total)

            notes = work.write(
                number,
                lambda folder, number=number, on_image=on_image: job.write_part(folder, number, workers, on_image),
            )
            done += len(parts[number])
            skipped += notes["skipped"]


def embed_part(
    indices: Sequence[int], encoder: RetrievalEncoder, workers: Workers, on_image: PartCallback = ignore_progress
) -> tuple[list[Prepared], Float[np.ndarray, "n d"], list[str]]:
    """Returns the prepared examples without their pixels, the embeddings of all rows, and why images are broken.

    Args:
      indices: the numbers of the examples.
      encoder: it embeds the images.
      workers: they prepare the images.
      on_image: called after each image.
    """
    examples: list[Prepared] = []
    broken: list[str] = []

    def pixels() -> Iterator[np.ndarray]:
        for example in workers.prepare(indices):
            examples.append(dataclasses.replace(example, pixels=[]))
            broken.extend([example.broken] if example.broken else [])
            on_image(len(examples), broken)
            yield from example.pixels

    rows = encode_stream(pixels(), encoder)
    return examples, rows, broken


def encode_stream(pixels: Iterator[np.ndarray], encoder: RetrievalEncoder) -> Float[np.ndarray, "n d"]:
    """Returns the embeddings of images of one size, in batches of one shape; the last batch is padded with black."""
    rows = [np.zeros((0, int(encoder.identity["width"])), np.float32)]
    while batch := list(itertools.islice(pixels, encoder.batch_size)):
        padded = np.zeros((encoder.batch_size, *batch[0].shape), np.uint8)
        padded[: len(batch)] = batch
        rows.append(encoder.encode_images(padded)[: len(batch)])
    return np.concatenate(rows)


def check_skipped(skipped: Sequence[str], done: int, total: int, name: str, max_skip: float) -> None:
    """Raises UserError if more than the fraction `max_skip` of a source's images is broken."""
    if len(skipped) > max_skip * total:
        raise UserError(
            f"{len(skipped)} of the first {done} images of {name} cannot be read, at most {max_skip:.1%} of {total} "
            f"are allowed; the first: {skipped[0]}; repair them or allow more with --max-skip"
        )
