"""What the network is shown beside the noisy picture, and how a condition that is asked for by name changes it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from rdm_jax.core.calls import set_types
from rdm_jax.core.images import read_mask, read_picture
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.retrieval.encoder import ClipEncoder


@flax.struct.dataclass
class Condition:
    """One set of context tokens for each picture; axis 0 counts queries, or the pictures of a batch.

    Attributes:
      tokens: [b, n, d].
      weights: how often each token counts in attention, [b, n] or at each latent pixel [b, h, w, n]; None: once.
      later: [b, n, d] tokens that others turn into in the course of a run; None if they stay.
    """

    tokens: Any
    weights: Any = None
    later: Any = None


@flax.struct.dataclass
class Context:
    """All conditions of a run.

    Attributes:
      given: what is asked for.
      null: what classifier-free guidance leads away from.
      also: further conditions that it leads to.
    """

    given: Condition
    null: Condition
    also: tuple[Condition, ...] = ()

    def rows(self, rows: Int[np.ndarray, " b"]) -> Context:
        """Returns the context of some queries."""
        return jax.tree.map(lambda leaf: leaf[rows], self)

    @property
    def form(self) -> tuple[Any, ...]:
        """What a program is compiled for: the shapes without the first axis."""
        leaves, structure = jax.tree.flatten(self)
        return structure, tuple(leaf.shape[1:] for leaf in leaves)


@dataclasses.dataclass(frozen=True)
class Course:
    """What changes from step to step; axis 0 counts the steps of a plan, each of which asks the network once.

    Attributes:
      guidance: [n] the scale of classifier-free guidance.
      share: [n] of `given.tokens` against `given.later`.
      null_share: [n] the same of the null condition.
      also: the scale of each further condition, in all steps.
    """

    guidance: Float[np.ndarray, " n"]
    share: Float[np.ndarray, " n"]
    null_share: Float[np.ndarray, " n"]
    also: tuple[float, ...] = ()

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(self.guidance)

    def of(self, steps: StepInfo) -> StepInfo:
        """Returns a plan whose steps know their part of the course, as coefficients of its names."""
        told = {name: getattr(self, name) for name in ("guidance", "share", "null_share")}
        return dataclasses.replace(steps, coefficients={**steps.coefficients, **told})


@dataclasses.dataclass(frozen=True)
class Finder:
    """What turns other prompts, pictures and databases into tokens.

    Attributes:
      encoder: the model's CLIP.
      latent: (h, w) of a latent.
      size: (height, width) of a picture.
      queries: [q, d] the run's own.
      retrieve: (queries, name of a database, "" for the run's own) to the neighbours' vectors [q, k, d], None where
        the condition has none.
      tokens: (queries [q, d], neighbours) to what the network is shown [q, n, d].
      query_tokens: how many of the tokens, the first ones, are queries.
      null: [d] the token of no condition.
    """

    encoder: ClipEncoder
    latent: tuple[int, int]
    size: tuple[int, int]
    queries: Float[np.ndarray, "q d"]
    retrieve: Callable[[Float[np.ndarray, "q d"], str], Float[np.ndarray, "q k d"] | None]
    tokens: Callable[..., Float[np.ndarray, "q n d"]]
    query_tokens: int
    null: Float[np.ndarray, " d"]

    def vectors(self, prompt: str, image: str) -> Float[np.ndarray, "q d"]:
        """Returns the vector of a prompt or a picture, for each query; the run's own where both are empty."""
        if not prompt and not image:
            return self.queries
        found = self.encoder.encode_images([read_picture(image)]) if image else self.encoder.encode_texts([prompt])
        return np.repeat(found, len(self.queries), axis=0)

    def mask(self, file: str) -> Float[np.ndarray, "h w"]:
        """Returns a mask at the latents' size: the mean of the pixels that a latent stands for."""
        height, width = self.latent
        return read_mask(file, self.size).reshape(height, self.size[0] // height, width, -1).mean(axis=(1, 3))


@dataclasses.dataclass(frozen=True)
class Kind(abc.ABC):
    """A condition with its options."""

    source: ClassVar[str]

    def __post_init__(self) -> None:
        set_types(self)

    def query(self, finder: Finder) -> Float[np.ndarray, "q d"]:
        """Returns the run's queries as this leaves them, before anything is retrieved."""
        return finder.queries

    def change(self, context: Context, finder: Finder) -> Context:
        """Returns the context as this leaves it."""
        return context

    def schedule(self, course: Course) -> Course:
        """Returns the course of the run as this leaves it."""
        return course


@dataclasses.dataclass(frozen=True)
class Other(Kind):
    """Another prompt or picture, another database, or both; what is left out is the run's own."""

    prompt: str = ""
    image: str = ""
    database: str = ""

    def tokens(self, finder: Finder) -> Float[np.ndarray, "q n d"]:
        """Returns what the network is shown under this condition."""
        queries = self.query_vectors(finder)
        return finder.tokens(queries, finder.retrieve(queries, self.database))

    def query_vectors(self, finder: Finder) -> Float[np.ndarray, "q d"]:
        """Returns the vectors of the prompt or the picture."""
        return finder.vectors(self.prompt, self.image)


def at_share(condition: Condition, share: Float[Array, ""]) -> Condition:
    """Returns what a condition is where a share of it is left: share tokens + (1 - share) later."""
    if condition.later is None:
        return condition
    tokens = share * condition.tokens + (1.0 - share) * condition.later
    return Condition(tokens, condition.weights)


def weights_of(condition: Condition, latent: tuple[int, int]) -> Float[np.ndarray, "b h w n"]:
    """Returns how often each token counts at each latent pixel."""
    b, n, _ = condition.tokens.shape
    weights = np.ones((b, n), np.float32) if condition.weights is None else condition.weights
    spread = weights if weights.ndim == 4 else weights[:, None, None]
    return np.broadcast_to(spread, (b, *latent, n))


def aligned(context: Context) -> Context:
    """Returns the context with conditions that can be shown to the network in one batch.

    Sets of fewer tokens are filled up with tokens that count for nothing, and where one has weights, all have.
    """
    several = [context.null, context.given, *context.also]
    most = max(one.tokens.shape[1] for one in several)
    spatial = next((one.weights.shape[1:3] for one in several if one.weights is not None and one.weights.ndim == 4), ())
    weighted = any(one.weights is not None or one.tokens.shape[1] != most for one in several)
    later = any(one.later is not None for one in several)

    def fitted(one: Condition) -> Condition:
        """Returns one of them as the others are."""
        tokens, weights = one.tokens, one.weights
        missing = most - tokens.shape[1]
        turned = tokens if one.later is None else one.later
        if weighted:
            weights = np.ones(tokens.shape[:2], np.float32) if weights is None else weights
            weights = weights[:, None, None] if spatial and weights.ndim == 2 else weights
            weights = np.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, missing)])
            weights = np.broadcast_to(weights, (len(tokens), *spatial, most))
        tokens, turned = (np.pad(each, [(0, 0), (0, missing), (0, 0)]) for each in (tokens, turned))
        return Condition(tokens, weights, turned if later else None)

    null, given, *also = map(fitted, several)
    return Context(given, null, tuple(also))


def resampled(steps: int, shares: Sequence[float]) -> Float[np.ndarray, " n"]:
    """Returns shares for each of `steps` steps, those of a list of another length interpolated."""
    places = np.linspace(0.0, 1.0, steps) if steps > 1 else np.zeros(1)
    own = np.linspace(0.0, 1.0, len(shares)) if len(shares) > 1 else np.zeros(1)
    return np.interp(places, own, np.asarray(shares, np.float64)).astype(np.float32)
