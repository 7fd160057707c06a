"""The protocol of a denoising network, which everything outside `models` relies on."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Array, Float, Real

from rdm_jax.models.condition import Condition


@runtime_checkable
class Backbone(Protocol):
    """A linen module that maps a noisy latent, a time and a condition to a prediction.

    What the prediction means (noise, velocity, ...) is the model's `diffusion.prediction`; the network does not know.
    Fields that follow from the data (`in_channels`, `out_channels`, `context_dim`, `latent_size`) are filled in by the
    training task where the class has them (`models.with_sizes`).

    Attributes:
      hallmark: the first name in the path of a parameter that no other backbone has; errors recognize parameters by it.
      stages: the equal parts of a latent's channels that are denoised one after another, each with those before it as
        the condition's channels: 1, or 2 from coarse to fine. A network of several takes one part at a time.
    """

    hallmark: ClassVar[str]
    stages: ClassVar[int]

    @property
    def in_channels(self) -> int:
        """Channels of the latent, or of the part of it that one stage denoises."""
        ...

    @property
    def out_channels(self) -> int:
        """Channels of the prediction; twice `in_channels` where the network also predicts a variance."""
        ...

    @property
    def context_dim(self) -> int:
        """The size of a context token; 0 if the network takes none and refuses a condition with tokens."""
        ...

    @property
    def dropout(self) -> float:
        """The dropout rate; if it is not 0, training passes `deterministic=False` and a "dropout" key."""
        ...

    @property
    def dtype(self) -> Any:
        """The type that products are computed in, "float32" or "bfloat16"; parameters are created in float32."""
        ...

    @property
    def remat(self) -> bool:
        """Whether blocks are recomputed in the backward pass instead of storing their activations."""
        ...

    @property
    def attention_implementation(self) -> Any:
        """Passed to `jax.nn.dot_product_attention`: "xla", "cudnn" or None."""
        ...

    @property
    def size_multiple(self) -> int:
        """The height and the width of a latent must be multiples of this."""
        ...

    @property
    def smallest_inputs(self) -> tuple[Any, Any, Condition]:
        """Shapes and types (latents, times, condition) for which `init` creates all parameters."""
        ...

    @property
    def supports(self) -> frozenset[str]:
        """The names in `models.condition.FEATURES` that this network supports; it refuses the others.

        A network without "any_size" has a `latent_size`, the only height and width that it takes.
        """
        ...

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        t: Real[Array, " b"],
        condition: Condition,
        *,
        deterministic: bool = True,
    ) -> Float[Array, "b h w o"]:
        """Returns the prediction [b, h, w, out_channels] in float32.

        Args:
          x: [b, h, w, in_channels] noisy latents.
          t: [b] times in [0, 1000), integer or continuous.
          condition: its tokens are a set: the prediction does not depend on their order. A weight counts a token in
            every attention to it: 2 as if it were given twice, 0 as if it were absent.
          deterministic: False for training with dropout, with a "dropout" stream of random keys.

        Raises:
          UserError: a size does not fit the network, or the condition needs a feature that it does not support.
        """
        ...
