"""The autoencoder whose latents are quantized to a codebook (VQGAN, https://arxiv.org/abs/2012.09841)."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rdm_jax.models.autoencoder import Autoencoder


class AutoencoderVQ(Autoencoder, kw_only=True):
    """Images to latents, latents to the nearest codes of a codebook, and codes to images.

    `encode` returns latents [b, h/f, w/f, embed_dim] before quantization, which diffusion models use; `decode`
    quantizes.

    `legacy` applies `beta` to the codebook's term of the loss, as in the training of the released models; otherwise it
    applies to the encoder's, as in the paper (https://arxiv.org/abs/1711.00937, equation 3).

    `codebook_bound` is the largest absolute value of a freshly initialized code; 0 is 1 / `num_codes`, as in VQGAN.

    `unit_range` is whether encoder and decoder see pixels in [0, 1], as aMUSEd's do; images are in [-1, 1] either way.
    """

    num_codes: int
    beta: float = 0.25
    legacy: bool = True
    codebook_bound: float = 0.0
    unit_range: bool = False

    # The shape of the codes of one latent: there is one.
    code_shape: ClassVar[tuple[int, ...]] = ()

    def setup(self) -> None:
        """Adds the codebook."""
        super().setup()
        self.codebook = self.param("codebook", uniform_codes(self.codebook_bound), (self.num_codes, self.embed_dim))

    def encode(self, x: Float[Array, "b h w c"], *, deterministic: bool = True) -> Float[Array, "b h2 w2 e"]:
        """Maps images [b, h, w, c] in [-1, 1] to latents [b, h/f, w/f, embed_dim], float32; see `Autoencoder`."""
        return super().encode((x + 1.0) / 2.0 if self.unit_range else x, deterministic=deterministic)

    def quantize(
        self, h: Float[Array, "b h w e"]
    ) -> tuple[Float[Array, "b h w e"], Int[Array, "b h w"], Float[Array, ""]]:
        """Returns the nearest codes [b, h, w, embed_dim], their indices [b, h, w] and the quantization loss.

        The codes pass their gradient straight through to `h`; the codebook learns from the loss alone.
        """
        return nearest_codes(h, jnp.asarray(self.codebook), self.beta, self.legacy)

    def distances(self, h: Float[Array, "b h w e"]) -> tuple[Float[Array, "n k"]]:
        """Returns the `code_distances` of the one codebook."""
        return (code_distances(h, jnp.asarray(self.codebook)),)

    def decode(
        self, h: Float[Array, "b h w e"], *, quantize: bool = True, deterministic: bool = True
    ) -> Float[Array, "b h2 w2 c"]:
        """Maps latents [b, h, w, embed_dim], quantized first by default, to images [b, f h, f w, c]."""
        if quantize:
            h, _, _ = self.quantize(h)
        x = self.decoder(self.post_quant(h), deterministic)
        return 2.0 * x - 1.0 if self.unit_range else x

    def codes(self, x: Float[Array, "b h w c"]) -> Int[Array, "b h2 w2"]:
        """Maps images [b, h, w, c] in [-1, 1] to the indices of their codes [b, h/f, w/f]."""
        return self.quantize(self.encode(x))[1]

    def decode_codes(self, indices: Int[Array, "b h w"]) -> Float[Array, "b h2 w2 c"]:
        """Maps indices of codes [b, h, w] to images [b, f h, f w, c], about [-1, 1], not clipped, float32."""
        return self.decode(jnp.asarray(self.codebook)[indices], quantize=False)

    def __call__(self, x: Float[Array, "b h w c"], *, deterministic: bool = True) -> Float[Array, "b h w d"]:
        """Encodes, quantizes and decodes; for initialization."""
        return self.decode(self.encode(x, deterministic=deterministic), deterministic=deterministic)


def nearest_codes(
    h: Float[Array, "b h w e"], codebook: Float[Array, "k e"], beta: float, legacy: bool
) -> tuple[Float[Array, "b h w e"], Int[Array, "b h w"], Float[Array, ""]]:
    """Returns the nearest codes of latents, their indices and the quantization loss; see `AutoencoderVQ`."""
    indices = jnp.argmin(code_distances(h, codebook), axis=1)
    codes = codebook[indices].reshape(h.shape)
    commitment = jnp.mean((jax.lax.stop_gradient(codes) - h) ** 2)
    learning = jnp.mean((codes - jax.lax.stop_gradient(h)) ** 2)
    loss = commitment + beta * learning if legacy else beta * commitment + learning
    return h + jax.lax.stop_gradient(codes - h), indices.reshape(h.shape[:3]), loss


def code_distances(h: Float[Array, "b h w e"], codebook: Float[Array, "k e"]) -> Float[Array, "n k"]:
    """Returns `|h - c|^2 - |h|^2` of every latent, in row-major order, and every code."""
    flat = h.reshape(-1, codebook.shape[1])
    return jnp.sum(codebook**2, axis=1)[None, :] - 2.0 * flat @ codebook.T


def uniform_codes(bound: float) -> Any:
    """Returns the initializer of a codebook: uniform within a bound, which is 1 / the number of codes if it is 0."""

    def init(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
        largest = bound or 1.0 / shape[0]
        return jax.random.uniform(key, shape, dtype, -largest, largest)

    return init
