"""The U-Net of Frido (PyU-Net), which denoises the scales of a latent one after another, the coarse one first.

Fan et al. 2022 (https://arxiv.org/abs/2208.13753, section 3.3).
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Real

from rdm_jax.core.errors import UserError
from rdm_jax.models.condition import Condition
from rdm_jax.models.layers import Conv3x3, GroupNorm
from rdm_jax.models.unet import BlockInputs, UNet


class PyUNet(UNet):
    """A U-Net whose body serves two stages; each has an embedding and a first and a last convolution of its own.

    A latent has the channels of the coarse scale and then those of the fine one, `in_channels` each, at the fine size.
    Without channels in the condition the network denoises the coarse scale. With them, which are the coarse scale, it
    denoises the fine one, and every norm of its blocks is gated by features of the coarse scale.

    Attributes:
      gate_channels: inner channels of the gated norms.
      coarse_noise: in training, the fraction of noise in the coarse scale of the fine stage, which is in sampling the
        result of the coarse stage with its errors.
    """

    gate_channels: int = 128
    coarse_noise: float = 0.1

    hallmark: ClassVar[str] = "stage"
    stages: ClassVar[int] = 2

    @property
    def gated(self) -> int:
        """The inner channels of the norms."""
        return self.gate_channels

    @property
    def supports(self) -> frozenset[str]:
        """The names in `models.condition.FEATURES` that are supported."""
        return super().supports | {"channels"}

    @property
    def size_multiple(self) -> int:
        """What the height and width of a latent must be multiples of: the coarse scale has half of both."""
        return max(2, super().size_multiple)

    @property
    def smallest_inputs(self) -> tuple[Any, ...]:
        """Shapes and types of the smallest inputs of the fine stage."""
        x, t, condition = super().smallest_inputs
        return x, t, condition.replace(channels=x)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        t: Real[Array, " b"],
        condition: Condition,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "b h w o"]:
        """Returns the prediction of one scale [b, h, w, out_channels] in float32.

        Args:
          x: [b, h, w, in_channels] the noisy scale; h and w multiples of `size_multiple`.
          t: [b] its times in [0, 1000), integer or continuous.
          condition: as of `UNet`; its channels [b, h, w, in_channels] are the coarse scale, None in the coarse stage.
          deterministic: without dropout; otherwise the "dropout" stream of random keys is needed.

        Raises:
          UserError: as of `UNet`, or the coarse scale has another shape than the fine one.
        """
        dtype, coarse = jnp.dtype(self.dtype), condition.channels
        stage = 0 if coarse is None else 1
        if coarse is not None and coarse.shape != x.shape:
            raise UserError(
                f"the coarse scale has the shape {coarse.shape}, and the fine one {x.shape}; both are alike"
            )
        x, context, weights = self._inputs(x, condition)
        table = self.param("stage", nn.initializers.normal(1.0), (self.stages, 4 * self.model_channels))
        emb = self._embedding(t, condition, dtype) + table[stage].astype(dtype)[None, :]
        first = [Conv3x3(self.channels(0), dtype=dtype, name=f"stage_{i}_in") for i in range(self.stages)]
        last = [
            (
                GroupNorm(self.num_groups, 1e-5, dtype, name=f"stage_{i}_norm"),
                Conv3x3(self.out_channels, zero_init=True, dtype=dtype, name=f"stage_{i}_out"),
            )
            for i in range(self.stages)
        ]
        gate = None if coarse is None else Conv3x3(self.channels(0), dtype=dtype, name="gate")(coarse)
        given = BlockInputs(emb, context, weights, condition.paint, condition.images, x.shape[1], deterministic, gate)
        h = self._levels(first[stage](x), given)

        def output(i: int) -> Array:
            """Returns the output of a stage's last layers."""
            norm, conv = last[i]
            return conv(nn.silu(norm(h)))

        if self.is_initializing():  # the other stage's layers need parameters too
            _ = first[1 - stage](x), output(1 - stage)
        return output(stage).astype(jnp.float32)

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.attention != "transformer":
            raise UserError(f"a PyU-Net has transformers, and attention is {self.attention!r}; leave it out")
        if self.condition_channels:
            raise UserError(
                f"condition_channels={self.condition_channels}: a PyU-Net takes no channels of a condition, as its "
                "coarse scale is in their place; use kind=unet"
            )
        if self.out_channels != self.in_channels:
            raise UserError(
                f"out_channels={self.out_channels}, in_channels={self.in_channels}: a PyU-Net predicts no variance; "
                "use as many of both"
            )
        if not 0 <= self.coarse_noise <= 1:
            raise UserError(f"coarse_noise={self.coarse_noise} is out of range; give a number from 0 to 1")
        if self.channel_mult[0] != 1:
            raise UserError(f"channel_mult begins with {self.channel_mult[0]}, and a PyU-Net's with 1; change it")
