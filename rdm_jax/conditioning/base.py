"""Everything a run is conditioned on, and the contract of a conditioner, which changes it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import flax.struct
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from rdm_jax.conditioning.assemble import NULL, assemble
from rdm_jax.core.calls import File, set_types
from rdm_jax.core.images import read_image, read_mask
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.models.condition import Condition
from rdm_jax.retrieval.encoder import ClipEncoder


@flax.struct.dataclass
class ScheduledCondition(Condition):
    """A condition whose tokens may turn into others over the steps of a run; axis 0 counts queries, or images.

    Attributes:
      target: [b, n, d] the tokens that they turn into; None if they stay.
    """

    target: Any = None


@flax.struct.dataclass
class Context:
    """All conditions of a run.

    Attributes:
      given: the requested condition.
      null: the null condition of classifier-free guidance.
      also: further conditions that guidance leads to.
    """

    given: ScheduledCondition
    null: ScheduledCondition
    also: tuple[ScheduledCondition, ...] = ()

    def rows(self, rows: Int[np.ndarray, " b"]) -> Context:
        """Returns the context of some queries."""
        return jax.tree.map(lambda leaf: leaf[rows], self)

    @property
    def form(self) -> tuple[Any, ...]:
        """The shapes without the first axis, for which a program is compiled."""
        leaves, structure = jax.tree.flatten(self)
        return structure, tuple(leaf.shape[1:] for leaf in leaves)


@dataclasses.dataclass(frozen=True)
class StepSchedule:
    """What changes from step to step; axis 0 counts the steps of a plan, each with one evaluation of the network.

    Attributes:
      guidance: [n] the scale of classifier-free guidance.
      weight: [n] of `given.tokens` against `given.target`.
      null_weight: [n] the same of the null condition.
      also: the scale of each further condition, in all steps.
    """

    guidance: Float[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]
    null_weight: Float[np.ndarray, " n"]
    also: tuple[float, ...] = ()

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.guidance)

    def attach(self, steps: StepInfo) -> StepInfo:
        """Returns a plan whose steps carry their entries of the schedule as coefficients of the same names."""
        entries = {name: getattr(self, name) for name in ("guidance", "weight", "null_weight")}
        return dataclasses.replace(steps, coefficients={**steps.coefficients, **entries})


@dataclasses.dataclass(frozen=True)
class ConditionBuilder:
    """Turns prompts, images and databases into conditions.

    Attributes:
      encoder: the model's CLIP.
      latent: (h, w) of a latent.
      size: (height, width) of a finished image.
      factor: pixels of a latent, on each side.
      queries: [q, d] the run's own.
      retrieve: (queries, name of a database, "" for the run's own) to the neighbors' vectors [q, k, d]; None where the
        condition has no neighbors.
      condition: a name in `request.CONDITIONS`.
      null: [d] the token of no condition.
      unit_tokens: whether tokens are scaled to length 1.
    """

    encoder: ClipEncoder
    latent: tuple[int, int]
    size: tuple[int, int]
    factor: int
    queries: Float[np.ndarray, "q d"]
    retrieve: Callable[[Float[np.ndarray, "q d"], str], Float[np.ndarray, "q k d"] | None]
    condition: str
    null: Float[np.ndarray, " d"]
    unit_tokens: bool

    @property
    def query_tokens(self) -> int:
        """How many of the tokens, the first ones, are the query: 1 or 0."""
        return int(self.condition != "neighbors")

    def build(
        self, queries: Float[np.ndarray, "q d"], neighbors: Float[np.ndarray, "q k d"] | None
    ) -> ScheduledCondition:
        """Returns the condition of queries and their neighbors."""
        built = assemble(self.condition, queries, neighbors, unit_tokens=self.unit_tokens)
        return ScheduledCondition(built.tokens, built.weights)

    def build_null(self) -> ScheduledCondition:
        """Returns no condition, for each query."""
        return ScheduledCondition(assemble(NULL, self.queries, null=self.null).tokens)

    def vectors(self, prompt: str, image: str) -> Float[np.ndarray, "q d"]:
        """Returns the vector of a prompt or an image, for each query; the run's own queries where both are empty."""
        if not prompt and not image:
            return self.queries
        encoded = self.encoder.encode_images([read_image(image)]) if image else self.encoder.encode_texts([prompt])
        return np.repeat(encoded, len(self.queries), axis=0)

    def mask(self, file: str) -> Float[np.ndarray, "h w"]:
        """Returns a mask at the latents' size: the mean of the pixels that a latent stands for."""
        (height, width), mask = self.latent, read_mask(file, self.size)
        sides = zip((height, width), mask.shape, strict=True)
        padded = np.pad(mask, [(0, side * self.factor - there) for side, there in sides], mode="edge")
        return padded.reshape(height, self.factor, width, self.factor).mean(axis=(1, 3))


@dataclasses.dataclass(frozen=True)
class Conditioner(abc.ABC):
    """One way to change what a run is conditioned on; its fields are its options.

    Attributes:
      source: the paper, with section or equation.
      requires: the features (`heads.base.FEATURES`) that the head and its network must support.

    Raises:
      UserError: an option is of another type than declared.
    """

    source: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        set_types(self)

    def change_queries(self, builder: ConditionBuilder) -> Float[np.ndarray, "q d"]:
        """Returns the run's queries after this conditioner, before anything is retrieved."""
        return builder.queries

    def change_context(self, context: Context, builder: ConditionBuilder) -> Context:
        """Returns the context after this conditioner."""
        return context

    def change_schedule(self, schedule: StepSchedule) -> StepSchedule:
        """Returns the schedule of the steps after this conditioner."""
        return schedule


@dataclasses.dataclass(frozen=True)
class OtherCondition(Conditioner):
    """Another prompt or image, another database, or both; what is left out is the run's own."""

    prompt: str = ""
    image: File = ""
    database: str = ""

    def build(self, builder: ConditionBuilder) -> ScheduledCondition:
        """Returns this condition."""
        queries = self.query_vectors(builder)
        return builder.build(queries, builder.retrieve(queries, self.database))

    def query_vectors(self, builder: ConditionBuilder) -> Float[np.ndarray, "q d"]:
        """Returns the vectors of the prompt or the image."""
        return builder.vectors(self.prompt, self.image)


def interpolate(condition: ScheduledCondition, weight: Float[Array, ""]) -> Condition:
    """Returns weight * tokens + (1 - weight) * target, with the condition's weights of the tokens."""
    if condition.target is None:
        return Condition(condition.tokens, condition.weights)
    return Condition(weight * condition.tokens + (1.0 - weight) * condition.target, condition.weights)


def spatial_weights(condition: Condition, latent: tuple[int, int]) -> Float[np.ndarray, "b h w n"]:
    """Returns how often each token counts at each latent pixel."""
    b, n, _ = condition.tokens.shape
    weights = np.ones((b, n), np.float32) if condition.weights is None else condition.weights
    spread = weights if weights.ndim == 4 else weights[:, None, None]
    return np.broadcast_to(spread, (b, *latent, n))


def align(context: Context) -> Context:
    """Returns the context with conditions of one shape, which the network can evaluate in one batch.

    Conditions of fewer tokens are padded with tokens of weight 0; where one has weights or a target, all have.
    """
    conditions = [context.null, context.given, *context.also]
    places = max(one.tokens.shape[1] for one in conditions)
    spatial = next(
        (one.weights.shape[1:3] for one in conditions if one.weights is not None and one.weights.ndim == 4), ()
    )
    weighted = any(one.weights is not None or one.tokens.shape[1] != places for one in conditions)
    scheduled = any(one.target is not None for one in conditions)

    def fit(one: ScheduledCondition) -> ScheduledCondition:
        """Returns one condition in the common shape."""
        tokens, weights = one.tokens, one.weights
        missing = places - tokens.shape[1]
        target = tokens if one.target is None else one.target
        if weighted:
            weights = np.ones(tokens.shape[:2], np.float32) if weights is None else weights
            weights = weights[:, None, None] if spatial and weights.ndim == 2 else weights
            weights = np.pad(weights, [(0, 0)] * (weights.ndim - 1) + [(0, missing)])
            weights = np.broadcast_to(weights, (len(tokens), *spatial, places))
        tokens, target = (np.pad(each, [(0, 0), (0, missing), (0, 0)]) for each in (tokens, target))
        return ScheduledCondition(tokens, weights, target=target if scheduled else None)

    null, given, *also = map(fit, conditions)
    return Context(given, null, tuple(also))


def resample(steps: int, weights: Sequence[float]) -> Float[np.ndarray, " n"]:
    """Returns a weight for each of `steps` steps; those of a list of another length are interpolated."""
    places = np.linspace(0.0, 1.0, steps) if steps > 1 else np.zeros(1)
    own = np.linspace(0.0, 1.0, len(weights)) if len(weights) > 1 else np.zeros(1)
    return np.interp(places, own, np.asarray(weights, np.float64)).astype(np.float32)
