"""The contract of an input: what a model is conditioned on beside, or instead of, prompts and neighbors."""

from __future__ import annotations

import abc
import dataclasses
import functools
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Float

from rdm_jax.bundle import Bundle
from rdm_jax.models.condition import Condition
from rdm_jax.request import Request

PART = "input_encoder"  # of a bundle: the network that encodes an input, where there is one


@dataclasses.dataclass(frozen=True)
class Given:
    """The conditions that an input gives; axis 0 has length 1.

    Attributes:
      label: describes the input; it stands for the prompt of a run without one.
      condition: tokens [1, n, d], n = 0 without, and channels [1, h, w, c] or a vector [1, v], or neither.
      null: the condition without the input; None if the model has none, and guidance leaves the input as it is.
    """

    label: str
    condition: Condition
    null: Condition | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """What an input is read for.

    Attributes:
      bundle: the model.
      latent: (h, w) of a latent.
    """

    bundle: Bundle
    latent: tuple[int, int]

    @property
    def settings(self) -> dict[str, Any]:
        """The bundle's section "conditioning"."""
        return self.bundle.config["conditioning"]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels that the latent stands for; a request's size may be smaller."""
        factor = self.bundle.autoencoder.downsampling
        return self.latent[0] * factor, self.latent[1] * factor

    @property
    def no_tokens(self) -> Float[np.ndarray, "1 0 d"]:
        """A context without tokens, of the size that the denoiser takes."""
        return np.zeros((1, 0, self.bundle.config["denoiser"].get("context_dim", 0)), np.float32)

    def encode(self, inputs: np.ndarray) -> np.ndarray:
        """Returns the output of the bundle's input encoder."""
        return np.asarray(_encode(getattr(self.bundle, PART), self.bundle.params[PART], inputs))


class Input(abc.ABC):
    """One kind of input; an option of `Request` names it on the command line.

    Attributes:
      option: the field of `Request`; "" for none.
      what: describes the input in messages ("a class").
      encoded: whether a network of the bundle (`PART`) encodes it.
    """

    option: ClassVar[str] = ""
    what: ClassVar[str]
    encoded: ClassVar[bool] = False

    @abc.abstractmethod
    def read(self, request: Request, target: Target) -> Given:
        """Returns what a request's input gives.

        Raises:
          UserError: the input cannot be read, or is out of range.
        """


@functools.partial(jax.jit, static_argnums=0)
def _encode(encoder: Any, params: Any, inputs: Any) -> Any:
    return encoder.apply({"params": params}, inputs)
