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
    """Returns the loss of a decoder: minus the mean of the logits of its images."""
    return -jnp.mean(fake)


def hinge_loss(real: Float[Array, "b h w 1"], fake: Float[Array, "b h w 1"]) -> Float[Array, ""]:
    """Returns the loss of the discriminator: half of the mean of max(0, 1 - real) plus that of max(0, 1 + fake).

    https://arxiv.org/abs/1705.02894, section 3.
    """
    return 0.5 * (jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)))


def adaptive_weight(
    reconstruction: Callable[[Any], Float[Array, ""]], generator: Callable[[Any], Float[Array, ""]], kernel: Any
) -> Float[Array, ""]:
    """Returns the weight that makes the gradients of two losses on the decoder's last kernel equal, at most 10,000.

    It is `|d reconstruction / d kernel| / (|d generator / d kernel| + 1e-4)`, and no gradient passes through it.

    Args:
      reconstruction: from that kernel to the loss of the reconstruction.
      generator: from that kernel to `generator_loss`.
      kernel: [3, 3, c, d] the kernel of the decoder's last convolution.
    """
    norms = [jnp.linalg.norm(jax.grad(loss)(kernel)) for loss in (reconstruction, generator)]
    return jax.lax.stop_gradient(jnp.clip(norms[0] / (norms[1] + EPSILON), 0.0, LARGEST_WEIGHT))


def delayed(step: Array | int, start: int) -> Float[Array, ""]:
    """Returns 1 from step `start` on, and 0 before."""
    return jnp.asarray(step >= start, jnp.float32)


def negative_log_likelihood(error: Float[Array, "b h w c"], log_variance: Float[Array, ""] | float) -> Float[Array, ""]:
    """Returns the Laplace negative log-likelihood of an image in the mean of the batch, summed over its pixels.

    Args:
      error: absolute errors, with the perceptual distance added where there is one.
      log_variance: of all pixels; 0 in the released models.
    """
    return jnp.sum(error / jnp.exp(log_variance) + log_variance) / error.shape[0]
