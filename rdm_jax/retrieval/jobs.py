"""The common part of building a database and computing neighbors: images through an encoder, part by part.

A job describes what is made and writes one part at a time; `Execution` describes how it is run, which does not change
the result. A writer decides where the parts are written: `LocalWriter` on this machine, `cluster.ClusterWriter` by the
workers of a cluster.
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


@dataclasses.dataclass
class Tally:
    """Counts the images of a run, reports the progress and stops the run if too many images are broken.

    Attributes:
      job: the job.
      execution: how it is run.
      done: the number of images in complete parts.
      skipped: one line for each broken image in them.
    """

    job: Job
    execution: Execution
    done: int = 0
    skipped: list[str] = dataclasses.field(default_factory=list)

    def add(self, number: int, notes: Mapping[str, Any]) -> None:
        """Counts a complete part; raises UserError if too many images are broken."""
        self.done += len(self.job.parts[number])
        self.skipped += notes["skipped"]
        self.on_image(0, [])

    def on_image(self, count: int, broken: list[str]) -> None:
        """Reports `count` images of a part that is being written; raises UserError if too many images are broken."""
        source, most = self.job.source, self.execution.max_skip
        total = len(source)
        if len(self.skipped) + len(broken) > most * total:
            check_skipped([*self.skipped, *broken], self.done + count, total, source.name, most)
        if self.execution.progress:
            self.execution.progress(self.done + count, total)


@runtime_checkable
class PartWriter(Protocol):
    """Writes parts of a job into a workspace."""

    def __call__(self, job: Job, work: Workspace, numbers: Sequence[int], tally: Tally) -> None:
        """Writes the parts with these numbers and counts each of them; raises UserError if too many images are broken.

        Args:
          job: the job.
          work: where the parts are written.
          numbers: of the parts.
          tally: counts them.
        """
        ...


@dataclasses.dataclass(frozen=True)
class LocalWriter:
    """Writes one part after another in this process.

    Attributes:
      workers: the number of processes that decode; chosen for the machine if None, threads of this process if 0.
    """

    workers: int | None = None

    def __call__(self, job: Job, work: Workspace, numbers: Sequence[int], tally: Tally) -> None:
        """Writes the parts."""
        with Workers(job.source, job.preparation, self.workers) as workers:
            for number in numbers:
                notes = work.write(
                    number, lambda folder, number=number: job.write_part(folder, number, workers, tally.on_image)
                )
                tally.add(number, notes)


ALONE = ProcessIndex()


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a job is run.

    Attributes:
      max_skip: the fraction of unreadable images, in [0, 1], above which the job fails.
      process: the position of this process among those that work on the same output.
      progress: called with (images done, images in all).
      writer: writes the parts.
    """

    max_skip: float = 0.05
    process: ProcessIndex = ALONE
    progress: ProgressCallback | None = None
    writer: PartWriter = LocalWriter()


DEFAULT_EXECUTION = Execution()


def write_parts(job: Job, work: Workspace, execution: Execution) -> None:
    """Writes those parts of this process that are not complete yet.

    Raises:
      UserError: too many images are broken.
    """
    done = work.done()
    skipped = [line for number in done for line in work.notes(number)["skipped"]]
    tally = Tally(job, execution, sum(len(job.parts[number]) for number in done), skipped)
    check_skipped(skipped, tally.done, len(job.source), job.source.name, execution.max_skip)
    if pending := work.pending(execution.process):
        tally.on_image(0, [])
        execution.writer(job, work, pending, tally)


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
