"""The options of how a job in parts is run, of the commands that have one."""

from __future__ import annotations

import argparse
from typing import Any

from rdm_jax.cli.readers import number
from rdm_jax.core.errors import UserError


def add_execution(parser: Any) -> None:
    """Adds --max-skip, --batch-size, --workers, --process and --runner."""
    from rdm_jax.retrieval.runners import RUNNERS

    parser.add_argument(
        "--max-skip",
        type=number(float, 0, 1),
        default=0.05,
        metavar="FRACTION",
        help="fail if more than this fraction of the images cannot be read (%(default)s)",
    )
    parser.add_argument(
        "--batch-size", type=number(int, 1, 65536), default=64, metavar="N", help="images encoded at once (%(default)s)"
    )
    parser.add_argument(
        "--workers", type=number(int, 0, 1024), metavar="N", help="processes that decode images; 0 decodes in threads"
    )
    parser.add_argument(
        "--process",
        default="0/1",
        metavar="I/N",
        help="make the Ith of N subsets, all with the same --out",
    )
    parser.add_argument(
        "--runner",
        metavar="NAME",
        help=f"a cluster that makes the parts, {' or '.join(RUNNERS)}, with options as in "
        "'dask(scheduler=\"tcp://HOST:8786\")' (docs/scale.md); this machine if omitted",
    )


def runner_of(args: argparse.Namespace) -> Any:
    """Returns the runner of --runner, None if there is none; raises UserError if it or an option of it is unknown."""
    from rdm_jax.core import calls
    from rdm_jax.retrieval.runners import RUNNERS

    if args.runner is None:
        return None
    runner = calls.parse(RUNNERS, args.runner, "runner")
    if args.workers is not None:
        raise UserError(f"--workers {args.workers} has no effect on --runner {args.runner}; leave it out")
    return runner


def execution_of(args: argparse.Namespace, progress: Any) -> Any:
    """Returns the `Execution` of those options.

    Args:
      args: the arguments.
      progress: called with (images done, images in all).
    """
    from rdm_jax.retrieval.jobs import Execution, LocalWriter
    from rdm_jax.retrieval.parts import ProcessIndex

    return Execution(args.max_skip, ProcessIndex.parse(args.process), progress, LocalWriter(args.workers))
