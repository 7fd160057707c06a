"""The Inception Score: how certain a classifier is of each image, and how many classes it finds among all."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float

from rdm_jax.core.errors import UserError

SPLITS = 10
SEED = 2020  # of torch-fidelity's order


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """A mean over parts of the images.

    Attributes:
      mean: from 1 to the number of classes.
      std: the standard deviation over the parts.
      splits: how many parts there are.
    """

    mean: float
    std: float
    splits: int


def class_score(logits: Float[np.ndarray, "n c"], splits: int = SPLITS, seed: int = SEED) -> ClassScore:
    """Returns exp(E KL(p(y|x) || p(y))) (https://arxiv.org/abs/1606.03498, section 4), over parts of shuffled images.

    Args:
      logits: of each image; of the published Inception without the bias, as the score is computed there.
      splits: parts that p(y) is estimated on.
      seed: of the order.

    Raises:
      UserError: there are fewer images than parts.
    """
    count = len(logits)
    if count < splits:
        raise UserError(f"the score over {splits} parts needs {splits} images or more, and there are {count}")
    order = np.random.RandomState(seed).permutation(count)
    shifted = logits[order].astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    ends = [part * count // splits for part in range(splits + 1)]
    scores = [_score(log_p[first:last]) for first, last in itertools.pairwise(ends)]
    return ClassScore(float(np.mean(scores)), float(np.std(scores)), splits)


def _score(log_p: Float[np.ndarray, "n c"]) -> float:
    p = np.exp(log_p)
    marginal = p.mean(axis=0, keepdims=True)
    return float(np.exp((p * (log_p - np.log(np.maximum(marginal, 1e-300)))).sum(axis=1).mean()))
