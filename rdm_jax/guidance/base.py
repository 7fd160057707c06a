"""What a guidance method is: a frozen dataclass whose fields are its options.

`inputs` turns the options into arrays, once for a run; `effects` makes guides and hooks from those arrays while a
program is traced. New values of `inputs` need no new compilation; new values of `static` do.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core import images
from rdm_jax.core.calls import set_types
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import Denoiser, Guide, StepHook
from rdm_jax.guidance.gradient import Objective, gradient_guidance
from rdm_jax.retrieval.encoder import ClipEncoder


@dataclasses.dataclass(frozen=True)
class GuideContext:
    """The model and the shapes that guides are bound to.

    Attributes:
      bundle: the model.
      encoder: its CLIP.
      latent: (h, w, c) of an image's latent.
      image_size: (height, width) of a finished image, which `size` may pad below and to the right.
      timesteps: the length of the schedule.
      encode: images [b, h, w, 3] in [-1, 1] to latents as the denoiser takes them.
    """

    bundle: Bundle
    encoder: ClipEncoder
    latent: tuple[int, int, int]
    image_size: tuple[int, int]
    timesteps: int
    encode: Callable[[np.ndarray], np.ndarray]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what is generated, in pixels."""
        factor = self.bundle.autoencoder.downsampling
        return self.latent[0] * factor, self.latent[1] * factor

    def text_vector(self, text: str) -> Float[np.ndarray, "1 d"]:
        """Returns the CLIP vector of a text."""
        return self.encoder.encode_texts([text])

    def latent_of(self, file: str) -> Float[np.ndarray, "1 h w c"]:
        """Returns the latent of an image file, cropped and resized to the size of a finished image, then padded."""
        fitted = images.fit(images.read_image(file), *self.image_size)
        return self.encode(images.to_float(images.pad(fitted, *self.size)[None]))


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks that guides evaluate.

    Attributes:
      bundle: the modules and their configuration.
      params: {part: parameters}, which may be traced.
      decode: latents to images in about [-1, 1].
    """

    bundle: Bundle
    params: Any
    decode: Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class GuideEffects:
    """What guides add to a run: objectives share one gradient, guides wrap the denoiser, hooks run after each step."""

    objectives: tuple[Objective, ...] = ()
    guides: tuple[Guide, ...] = ()
    hooks: tuple[StepHook, ...] = ()

    def __add__(self, other: GuideEffects) -> GuideEffects:
        """Returns the effects of both, in order."""
        return GuideEffects(self.objectives + other.objectives, self.guides + other.guides, self.hooks + other.hooks)


@dataclasses.dataclass(frozen=True)
class GuidanceMethod(abc.ABC):
    """A guidance method with its options.

    Attributes:
      source: the paper, with section or equation.
      needs: {part of the bundle: the config that trains it, or ""}.

    Raises:
      UserError: an option is of another type than declared.
    """

    source: ClassVar[str]
    needs: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        set_types(self)

    def edited(self) -> tuple[int, int] | None:
        """Returns (height, width) of the image that the method keeps parts of; None where it keeps none."""
        return None

    @property
    def static(self) -> tuple[Any, ...]:
        """What a program is compiled for, beside the shapes of the inputs."""
        return ()

    @abc.abstractmethod
    def inputs(self, context: GuideContext) -> dict[str, Any]:
        """Returns the arrays that may change from run to run, by name.

        `effects` receives a `PerImage` as the values of the batch's images.

        Raises:
          UserError: an option is out of range, or a file cannot be read.
        """

    @abc.abstractmethod
    def effects(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> GuideEffects:
        """Returns what the guide adds to a run.

        Args:
          networks: their parameters are traced.
          inputs: from `inputs`, traced.
          noise: [b, h, w, c] the initial noise of the run, traced.
        """

    @classmethod
    def effects_of_all(
        cls, networks: Networks, guides: Sequence[tuple[Any, dict[str, Any]]], noise: Array
    ) -> GuideEffects:
        """Returns the effects of all guides of this class, given as (method, inputs); a class may share work."""
        return sum((method.effects(networks, inputs, noise) for method, inputs in guides), GuideEffects())

    def finish(self, pixels: UInt8[np.ndarray, "b h w 3"], inputs: dict[str, Any]) -> UInt8[np.ndarray, "b h w 3"]:
        """Returns the decoded images after what the guide changes in pixel space; by default nothing."""
        return pixels


@dataclasses.dataclass(frozen=True)
class PerImage:
    """One number for each image of a run, repeated cyclically: image i has values[i mod n]."""

    values: Float[np.ndarray, " n"]

    def of(self, indices: Sequence[int] | np.ndarray) -> Float[np.ndarray, " b"]:
        """Returns the numbers of some images."""
        return self.values[np.asarray(indices) % len(self.values)]


def weights_per_image(value: float | list[float]) -> PerImage:
    """Returns a weight as one number for each image; raises UserError for one that float32 cannot hold."""
    values = np.atleast_1d(np.asarray(value, np.float64))
    if not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise UserError(f"weight={value} is out of range; give a finite number")
    return PerImage(values.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class BoundGuide:
    """A guide of a run: a method with its arrays.

    Attributes:
      text: the method as `core.calls.format_call` writes it, for errors.
      method: with its options.
      inputs: from `GuidanceMethod.inputs`.
    """

    text: str
    method: GuidanceMethod
    inputs: dict[str, Any]

    @property
    def form(self) -> tuple[Any, ...]:
        """What a program is compiled for, hashable."""
        leaves, structure = jax.tree.flatten(self.of([0]))
        return type(self.method), self.method.static, structure, tuple(np.shape(leaf) for leaf in leaves)

    def shardings(self, batch: Any, replicated: Any) -> dict[str, Any]:
        """Returns the sharding of each input: `batch` for numbers of single images, `replicated` for the others."""
        return {name: batch if isinstance(value, PerImage) else replicated for name, value in self.inputs.items()}

    def of(self, indices: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """Returns the inputs for some images of the run."""
        return {
            name: value.of(indices) if isinstance(value, PerImage) else value for name, value in self.inputs.items()
        }


def parts_of(guides: Sequence[BoundGuide]) -> tuple[str, ...]:
    """Returns the parts of the bundle that guides read, beside the denoiser."""
    return tuple(sorted({part for guide in guides for part in guide.method.needs}))


def apply_guides(
    denoiser: Denoiser,
    guides: Sequence[BoundGuide],
    networks: Networks,
    inputs: Sequence[dict[str, Any]],
    noise: Float[Array, "b h w c"],
) -> tuple[Denoiser, tuple[StepHook, ...]]:
    """Returns the guided denoiser and the hooks: one gradient of all objectives first, then the other guides in order.

    Args:
      denoiser: of the run.
      guides: of the run.
      networks: that guides evaluate.
      inputs: of each guide, for the images of the batch.
      noise: the initial noise of the run.
    """
    classes = dict.fromkeys(type(guide.method) for guide in guides)
    members = {
        cls: [(guide.method, own) for guide, own in zip(guides, inputs, strict=True) if type(guide.method) is cls]
        for cls in classes
    }
    effects = sum((cls.effects_of_all(networks, several, noise) for cls, several in members.items()), GuideEffects())
    if effects.objectives:
        denoiser = gradient_guidance(effects.objectives)(denoiser)
    for guide in effects.guides:
        denoiser = guide(denoiser)
    return denoiser, effects.hooks
