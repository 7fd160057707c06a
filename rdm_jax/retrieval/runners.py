"""The table of runners, which distribute parts among the workers of a cluster (`cluster.Runner`)."""

from __future__ import annotations

from rdm_jax.retrieval.beam_runner import BeamRunner
from rdm_jax.retrieval.dask_runner import DaskRunner

RUNNERS: dict[str, type] = {"beam": BeamRunner, "dask": DaskRunner}
"""Classes by name, whose fields are the options of `--runner NAME(option=value)`."""
