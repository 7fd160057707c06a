"""What a guide is that can be asked for by name: a small dataclass whose options are its fields.

`inputs` turns the options into arrays, once for a run; `bend` makes the mathematics of `rdm_jax.guidance` from those
arrays while a program is traced. What is in `inputs` may change without a new program; what `static` names may not.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core import images
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import Guide, StepHook
from rdm_jax.guidance.gradient import Objective
from rdm_jax.retrieval.encoder import ClipEncoder


@dataclasses.dataclass(frozen=True)
class Scene:
    """What guides are made for.

    Attributes:
      bundle: the model.
      encoder: its CLIP.
      latent: (h, w, c) of a picture's latent.
      timesteps: the length of the schedule.
      encode: pictures [b, h, w, 3] in [-1, 1] to latents as the network sees them.
    """

    bundle: Bundle
    encoder: ClipEncoder
    latent: tuple[int, int, int]
    timesteps: int
    encode: Callable[[np.ndarray], np.ndarray]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a picture in pixels."""
        factor = self.bundle.autoencoder.downsampling
        return self.latent[0] * factor, self.latent[1] * factor

    def text(self, text: str) -> Float[np.ndarray, "1 d"]:
        """Returns a text's vector."""
        return self.encoder.encode_texts([text])

    def latent_of(self, file: str) -> Float[np.ndarray, "1 h w c"]:
        """Returns a picture as the network sees it, fitted into the run's size."""
        return self.encode(images.to_float(images.fit(images.read_picture(file), *self.size)[None]))


@dataclasses.dataclass(frozen=True)
class Networks:
    """What guides ask.

    Attributes:
      bundle: the modules and their configuration.
      params: {part: parameters}, which may be traced.
      decode: latents to pictures in about [-1, 1].
    """

    bundle: Bundle
    params: Any
    decode: Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Bend:
    """What guides do to a run: objectives share a gradient, guides wrap the denoiser, hooks follow the steps."""

    objectives: tuple[Objective, ...] = ()
    guides: tuple[Guide, ...] = ()
    hooks: tuple[StepHook, ...] = ()

    def __add__(self, other: Bend) -> Bend:
        """Returns both, in order."""
        return Bend(self.objectives + other.objectives, self.guides + other.guides, self.hooks + other.hooks)


@dataclasses.dataclass(frozen=True)
class Kind(abc.ABC):
    """A guide with its options.

    Attributes:
      source: the paper, with section or equation.
      needs: {part of the bundle: the config that trains it, or ""}.
    """

    source: ClassVar[str]
    needs: ClassVar[Mapping[str, str]] = {}

    @property
    def static(self) -> tuple[Any, ...]:
        """What a program is compiled for, beside the shapes of the inputs."""
        return ()

    @abc.abstractmethod
    def inputs(self, scene: Scene) -> dict[str, Any]:
        """Returns what changes from run to run, as arrays; raises UserError for options that cannot be.

        A `PerImage` is handed to `bend` as the values of the batch's images.
        """

    @abc.abstractmethod
    def bend(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> Bend:
        """Returns what the guide does, from parameters, inputs and the run's first noise that are being traced."""

    @classmethod
    def bend_all(cls, networks: Networks, asked: Sequence[tuple[Any, dict[str, Any]]], noise: Array) -> Bend:
        """Returns what all guides of this kind do; each on its own, unless they share work."""
        return sum((kind.bend(networks, inputs, noise) for kind, inputs in asked), Bend())

    def finish(self, pictures: UInt8[np.ndarray, "b h w 3"], inputs: dict[str, Any]) -> UInt8[np.ndarray, "b h w 3"]:
        """Returns the finished pictures as the guide leaves them; as they are, unless pixels are put back."""
        return pictures


@dataclasses.dataclass(frozen=True)
class PerImage:
    """One number for every image of a run: the first for image 0, and over again from the end on."""

    values: Float[np.ndarray, " n"]

    def of(self, indices: Sequence[int] | np.ndarray) -> Float[np.ndarray, " b"]:
        """Returns the numbers of some images."""
        return self.values[np.asarray(indices) % len(self.values)]


def per_image(value: float | list[float]) -> PerImage:
    """Returns one number, or those of a list, as each image's own; raises UserError for one that float32 has not."""
    values = np.atleast_1d(np.asarray(value, np.float64))
    if not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise UserError(f"weight={value} is out of range; give a finite number")
    return PerImage(values.astype(np.float32))
