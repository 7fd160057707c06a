"""A small residual network that classifies several attributes of an image at once, independent of CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from rdm_jax.core.errors import UserError, unknown
from rdm_jax.models.layers import Downsample, GroupNorm, ResBlock

EPSILON = 1e-5


class Classifier(nn.Module):
    """One convolutional trunk with a linear head for each attribute.

    Each convolution of the stem halves the size: textures are read at full resolution, and the rest of the network
    works on few positions. Each level has `blocks` residual blocks and half the size of the one before.

    Attributes:
      classes: (attribute, number of its classes), in the order of the heads.
      stem: channels of the stem's convolutions, 4x4 with stride 2.
      widths: channels of each level, multiples of `num_groups`.
      blocks: residual blocks of each level.
      num_groups: of every norm.
      dropout: the rate on the pooled features, in training.
    """

    classes: tuple[tuple[str, int], ...]
    stem: tuple[int, ...] = (24, 48)
    widths: tuple[int, ...] = (48, 96, 192)
    blocks: int = 1
    num_groups: int = 8
    dropout: float = 0.1
    dtype: Any = jnp.float32

    @property
    def smallest_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shape and type of the smallest input: one image."""
        side = 2 ** (len(self.stem) + len(self.widths) - 1)
        return (jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),)

    def setup(self) -> None:
        self.convs = [
            nn.Conv(width, (4, 4), strides=(2, 2), padding=((1, 1), (1, 1)), dtype=self.dtype) for width in self.stem
        ]
        self.levels = [
            [ResBlock(width, self.num_groups, EPSILON, zero_init=True, dtype=self.dtype) for _ in range(self.blocks)]
            for width in self.widths
        ]
        self.downs = [Downsample((1, 1), self.dtype) for _ in self.widths[1:]]
        self.norm = GroupNorm(self.num_groups, EPSILON, self.dtype)
        self.drop = nn.Dropout(self.dropout)
        self.heads = {name: nn.Dense(count) for name, count in self.classes}

    def features(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """Maps images [b, h, w, 3] in [-1, 1] to the features that the heads read, [b, d] in float32.

        They are the means of the stem's activations over all positions (the amount of each texture, which the norms of
        the trunk remove), and the mean and the maximum over the positions of the last level:
        d = sum(stem) + 2 * widths[-1].
        """
        h, pooled = x.astype(self.dtype), []
        for conv in self.convs:
            h = nn.relu(conv(h))
            pooled.append(h.astype(jnp.float32).mean(axis=(1, 2)))
        for level, blocks in enumerate(self.levels):
            for block in blocks:
                h = block(h)
            if level < len(self.downs):
                h = self.downs[level](h)
        h = nn.silu(self.norm(h)).astype(jnp.float32)
        return jnp.concatenate([*pooled, h.mean(axis=(1, 2)), h.max(axis=(1, 2))], axis=-1)

    def __call__(self, x: Float[Array, "b h w 3"], deterministic: bool = True) -> dict[str, Float[Array, "b _"]]:
        """Maps images [b, h, w, 3] in [-1, 1] to {attribute: logits [b, classes]}, float32."""
        return self.classify(self.features(x), deterministic)

    def classify(self, features: Float[Array, "b d"], deterministic: bool = True) -> dict[str, Float[Array, "b _"]]:
        """Maps features [b, d] to {attribute: logits [b, classes]}."""
        kept = self.drop(features, deterministic=deterministic)
        return {name: head(kept) for name, head in self.heads.items()}


def build_classifier(config: Mapping[str, Any]) -> Classifier:
    """Returns the classifier of a configuration.

    Args:
      config: "classes" ({attribute: names of its classes}) and any other field of `Classifier`.

    Raises:
      UserError: a key is unknown, or there are no classes.
    """
    allowed = ("classes", "stem", "widths", "blocks", "num_groups", "dropout", "dtype")
    for key in config:
        if key not in allowed:
            raise unknown("classifier setting", key, allowed)
    if not config.get("classes"):
        raise UserError("the classifier configuration lacks classes; give {attribute: [names of its classes]}")
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    return Classifier(**{**fields, "classes": tuple((name, len(names)) for name, names in config["classes"].items())})
