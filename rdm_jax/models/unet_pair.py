"""Two U-Nets of one form: one for all noise, and one for the last step alone (the upsampler of Karlo)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Real

from rdm_jax.models.condition import Condition
from rdm_jax.models.unet import UNet


class UNetPair(UNet):
    """The U-Net `last` at time 0, and the U-Net `first` at all others; the fields are those of each.

    One of them is evaluated where all images of a batch have one time, as in sampling, and both otherwise.
    """

    hallmark: ClassVar[str] = "first"

    def setup(self) -> None:
        names = [field.name for field in dataclasses.fields(UNet) if field.name not in ("parent", "name")]
        settings: dict[str, Any] = {name: getattr(self, name) for name in names}
        self.first, self.last = UNet(**settings), UNet(**settings)

    def __call__(
        self, x: Float[Array, "b h w c"], t: Real[Array, " b"], condition: Condition, *, deterministic: bool = True
    ) -> Float[Array, "b h w o"]:
        """Returns the prediction [b, h, w, out_channels] in float32; see `UNet`."""
        ends = t <= 0

        def both(module: Any, *given: Any) -> Any:
            first, last = (one(*given, deterministic=deterministic) for one in (module.first, module.last))
            return jnp.where(ends[:, None, None, None], last, first)

        def of_first(module: Any, *given: Any) -> Any:
            return module.first(*given, deterministic=deterministic)

        def of_last(module: Any, *given: Any) -> Any:
            return module.last(*given, deterministic=deterministic)

        if self.is_initializing():
            return both(self, x, t, condition)
        branch = jnp.where(jnp.all(ends), 2, jnp.any(ends).astype(jnp.int32))
        return nn.switch(branch, (of_first, both, of_last), self, x, t, condition)
