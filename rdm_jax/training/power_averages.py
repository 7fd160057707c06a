"""Post-hoc averages of parameters: two power-function averages are stored, and any other length is made of them.

T. Karras et al., "Analyzing and improving the training dynamics of diffusion models"
(https://arxiv.org/abs/2312.02696), section 3 and appendix C. The average at step t weights the parameters of step s in
proportion to s^gamma; its length is the standard deviation of these weights over t.
"""

from __future__ import annotations

import functools
import math
import posixpath
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rdm_jax.core import storage, trees
from rdm_jax.core.errors import UserError, first_line
from rdm_jax.training.workdir import Workdir

LENGTHS = (0.05, 0.10)  # of the two averages that a run tracks
LONGEST = 0.28  # gamma is 0 at 0.2887, where all steps have the same weight
FOLDER = "averages"
_SNAPSHOT = re.compile(r"(\d+)\.safetensors")


def gamma_of(length: float) -> float:
    """Returns the exponent of an average of this relative length (std^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))).

    Raises:
      UserError: the length is not in (0, `LONGEST`].
    """
    if not 0 < length <= LONGEST:
        raise UserError(f"--ema-length {length:g} is out of range; give a number above 0, up to {LONGEST}")
    roots = np.roots([1.0, 7.0, 16.0 - length**-2, 12.0 - length**-2])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-9))


def begin(params: Any) -> tuple[Any, ...]:
    """Returns the averages of step 0, of which nothing remains at step 1."""
    return tuple(jax.tree.map(jnp.copy, params) for _ in LENGTHS)


@functools.partial(jax.jit, donate_argnums=0)
def advance(averages: tuple[Any, ...], params: Any, step: Float[jax.Array, ""]) -> tuple[Any, ...]:
    """Returns the averages after a step: beta a + (1 - beta) p with beta = (1 - 1 / step)^(gamma + 1)."""

    def one(length: float, average: Any) -> Any:
        beta = (1.0 - 1.0 / step) ** (gamma_of(length) + 1.0)
        return jax.tree.map(lambda a, p: a * beta + p * (1.0 - beta), average, params)

    return tuple(one(length, average) for length, average in zip(LENGTHS, averages, strict=True))


def write_snapshot(workdir: Workdir, averages: Sequence[Any], step: int) -> None:
    """Writes the averages of a step to averages/<step>.safetensors, in float32.

    Raises:
      UserError: they cannot be written.
    """
    flat = {
        f"{number}/{name}": np.ascontiguousarray(np.asarray(leaf, np.float32))
        for number, tree in enumerate(averages)
        for name, leaf in trees.flatten(tree).items()
    }
    workdir.write(f"{FOLDER}/{step:09d}.safetensors", save(flat))


def snapshot_steps(workdir: Workdir) -> list[int]:
    """Returns the steps of all snapshots of a run, ascending."""
    if workdir.is_remote:
        names = storage.names(f"{workdir.place}/{FOLDER}")
    else:
        names = [path.name for path in (workdir.local / FOLDER).glob("*")]
    return sorted(int(match[1]) for name in names if (match := _SNAPSHOT.fullmatch(posixpath.basename(name))))


def reconstruct(workdir: Workdir, length: float, newest: int) -> tuple[int, dict[str, Any]]:
    """Returns the parameters averaged with any length at the newest snapshot, from all snapshots up to there.

    Args:
      workdir: of the run.
      length: relative to the steps so far, such as 0.07.
      newest: the last step to use, that of the newest checkpoint.

    Returns:
      the step and {part: parameters}.

    Raises:
      UserError: the run has no snapshots, one is damaged, or the length is out of range.
    """
    gamma = gamma_of(length)
    steps = [step for step in snapshot_steps(workdir) if step <= newest]
    if not steps:
        raise UserError(
            f"{workdir} has no averages to reconstruct others from; train with --config.snapshot_every=N, or omit "
            "--ema-length"
        )
    gammas = [gamma_of(one) for one in LENGTHS]
    times = [(float(step), each) for step in steps for each in gammas]
    weights = solve_weights(times, (float(steps[-1]), gamma)).reshape(len(steps), len(LENGTHS))
    total: dict[str, np.ndarray] = {}
    for step, row in zip(steps, weights, strict=True):
        stored = _read(workdir, step)
        for name, leaf in stored.items():
            number, _, path = name.partition("/")
            total[path] = total.get(path, np.zeros(leaf.shape)) + row[int(number)] * leaf.astype(np.float64)
    return steps[-1], trees.unflatten({path: leaf.astype(np.float32) for path, leaf in total.items()})


def solve_weights(stored: Sequence[tuple[float, float]], wanted: tuple[float, float]) -> Float[np.ndarray, " n"]:
    """Returns the weights of stored averages whose sum is nearest to another one, by their profiles.

    Args:
      stored: (step, gamma) of each.
      wanted: (step, gamma).
    """
    products = np.array([[_inner_product(a, b) for b in stored] for a in stored])
    target = np.array([_inner_product(a, wanted) for a in stored])
    return np.linalg.lstsq(products, target, rcond=1e-12)[0]


def _inner_product(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Returns the integral of the product of two profiles, p(s) = (gamma + 1) s^gamma / t^(gamma + 1) for s up to t."""
    (first, gamma), (second, other) = a, b
    ratio = first / second
    exponent = other if first < second else -gamma
    scale = (gamma + 1) * (other + 1) / ((gamma + other + 1) * max(first, second))
    return scale * math.exp(exponent * math.log(ratio))


def _read(workdir: Workdir, step: int) -> dict[str, np.ndarray]:
    name = f"{FOLDER}/{step:09d}.safetensors"
    data = workdir.read(name)
    try:
        return load(data or b"")
    except SafetensorError as error:
        raise UserError(
            f"{workdir}/{name} is damaged ({first_line(error)}); remove it to reconstruct from the other snapshots"
        ) from error
