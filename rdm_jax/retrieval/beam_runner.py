"""The runner of Apache Beam; the one file that imports it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Generator, Sequence
from typing import Any

from rdm_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class BeamRunner:
    """An Apache Beam pipeline: Dataflow, Flink, Spark, or processes of this machine.

    Attributes:
      options: those of the pipeline, such as "--runner=DataflowRunner --project=P".
    """

    options: str = ""

    def run(self, make: Callable[[int], int], numbers: Sequence[int]) -> Generator[int, None, None]:
        """Yields the numbers of all parts when the pipeline has ended.

        Raises:
          UserError: Beam is not installed, or `make` has raised it in this process.
        """
        beam, shared, options_class = _beam()
        with beam.Pipeline(options=options_class(shlex.split(self.options))) as pipeline:
            parts = pipeline | "Parts" >> beam.Create(list(numbers)) | "Spread" >> beam.Reshuffle()
            _ = parts | "Make" >> beam.Map(_make_part, make, shared.Shared())
        yield from numbers


def _make_part(number: int, make: Callable[[int], int], cache: Any) -> int:
    """Makes one part by the instance that all threads of a worker share."""
    return cache.acquire(lambda: make)(number)


def _beam() -> tuple[Any, Any, Any]:
    try:
        import apache_beam as beam  # pyright: ignore[reportMissingImports]
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
        from apache_beam.utils import shared  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "Apache Beam is not installed; pip install rdm_jax[beam] in an environment of its own"
        ) from error
    return beam, shared, PipelineOptions
