"""The adversarial loss of autoencoders: a decoder against a patch discriminator, in balance with its reconstruction.

VQGAN, https://arxiv.org/abs/2012.09841, equations 6 and 7, as latent diffusion trains its first stages
(https://arxiv.org/abs/2112.10752, appendix G). Reconstructions are float32 [b, h, w, c], logits [b, h, w, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LARGEST_WEIGHT = 1e4
EPSILON = 1e-4


def generator_loss(fake: Float[Array, "b h w 1"]) -> Float[Array, ""]:
    """Returns what a decoder lowers: minus the mean of the logits of its pictures."""
    return -jnp.mean(fake)


def hinge_loss(real: Float[Array, "b h w 1"], fake: Float[Array, "b h w 1"]) -> Float[Array, ""]:
    """Returns what the discriminator lowers: half of how far real logits are below 1 and fake ones above -1 (means).

    https://arxiv.org/abs/1705.02894, section 3.
    """
    return 0.5 * (jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)))


def adaptive_weight(
    reconstruction: Callable[[Any], Float[Array, ""]], generator: Callable[[Any], Float[Array, ""]], kernel: Any
) -> Float[Array, ""]:
    """Returns the weight that makes two losses pull equally hard on the decoder's last kernel, at most 10,000.

    It is |d reconstruction / d kernel| / (|d generator / d kernel| + 1e-4), and no gradient passes through it.

    Args:
      reconstruction: from that kernel to the loss of the reconstruction.
      generator: from that kernel to `generator_loss`.
      kernel: [3, 3, c, d] the kernel of the decoder's last convolution.
    """
    pulls = [jnp.linalg.norm(jax.grad(loss)(kernel)) for loss in (reconstruction, generator)]
    return jax.lax.stop_gradient(jnp.clip(pulls[0] / (pulls[1] + EPSILON), 0.0, LARGEST_WEIGHT))


def delayed(step: Array | int, start: int) -> Float[Array, ""]:
    """Returns 1 from step `start` on, and 0 before: the discriminator waits until there is something to tell apart."""
    return jnp.asarray(step >= start, jnp.float32)


def negative_log_likelihood(error: Float[Array, "b h w c"], log_variance: Float[Array, ""] | float) -> Float[Array, ""]:
    """Returns the Laplace negative log-likelihood of a picture in the mean of the batch, summed over its pixels.

    Args:
      error: absolute errors, with the perceptual distance added where there is one.
      log_variance: of all pixels alike; the released models keep it at 0.
    """
    return jnp.sum(error / jnp.exp(log_variance) + log_variance) / error.shape[0]
