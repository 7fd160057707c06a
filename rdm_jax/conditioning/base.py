"""Everything a run is conditioned on, and the contract of a conditioner, which changes it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rdm_jax.conditioning.adapter import NeighborTokens
from rdm_jax.conditioning.assemble import NULL, assemble
from rdm_jax.conditioning.encoders import SeveralEncoders, TextReader
from rdm_jax.conditioning.inputs import Given
from rdm_jax.conditioning.prompts import PromptReader
from rdm_jax.conditioning.roles import ContentChannels, StyleTokens
from rdm_jax.core.calls import File, set_types
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import read_image, read_mask
from rdm_jax.core.vectors import unit
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.models.condition import Condition, ImageTokens
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.retriever import Neighbors


@flax.struct.dataclass
class ScheduledCondition(Condition):
    """A condition whose tokens may turn into others over the steps of a run; axis 0 counts queries, or images.

    Attributes:
      target: [b, n, d] the tokens that they turn into; None if they stay.
      image_target: [b, g, n, d] the same of the images' tokens.
    """

    target: Any = None
    image_target: Any = None


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

    def rows(self, rows: Int[np.ndarray, " b"], turns: Int[np.ndarray, " b"] | None = None) -> Context:
        """Returns the context of images.

        Args:
          rows: the query of each image.
          turns: which of the query's images each one is; these take the content neighbors in turn. The first if None.
        """
        turns = np.zeros_like(rows) if turns is None else turns
        conditions = (self.given, self.null, *self.also)
        given, null, *also = (_of_images(one, rows, turns) for one in conditions)
        return Context(given, null, tuple(also))

    @property
    def form(self) -> tuple[Any, ...]:
        """The shapes without the first axis, for which a program is compiled."""
        leaves, structure = jax.tree.flatten(self.rows(np.zeros(1, np.int64)))
        return structure, tuple(leaf.shape[1:] for leaf in leaves)


def _of_images(condition: ScheduledCondition, rows: np.ndarray, turns: np.ndarray) -> ScheduledCondition:
    """Returns the condition of images from that of queries, whose channels have an axis of content neighbors."""
    channels = condition.channels
    if channels is not None:
        channels = channels[rows, turns % channels.shape[1]]
    tokens = jax.tree.map(lambda leaf: leaf[rows], dataclasses.replace(condition, channels=None))
    return dataclasses.replace(tokens, channels=channels)


@dataclasses.dataclass(frozen=True)
class StepSchedule:
    """What changes from step to step; axis 0 counts the steps of a plan, each with one evaluation of the network.

    Attributes:
      guidance: [n] the scale of classifier-free guidance.
      weight: [n] of `given.tokens` against `given.target`.
      null_weight: [n] the same of the null condition.
      also: [n] the scale of each further condition.
    """

    guidance: Float[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]
    null_weight: Float[np.ndarray, " n"]
    also: tuple[Float[np.ndarray, " n"], ...] = ()

    @staticmethod
    def joined(schedules: Sequence[StepSchedule]) -> StepSchedule:
        """Returns the schedule of a plan of several stages from those of each."""
        names = ("guidance", "weight", "null_weight")
        own = {name: np.concatenate([getattr(one, name) for one in schedules]) for name in names}
        return StepSchedule(**own, also=tuple(map(np.concatenate, zip(*(one.also for one in schedules), strict=True))))

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.guidance)

    def attach(self, steps: StepInfo) -> StepInfo:
        """Returns a plan whose steps carry their entries of the schedule as coefficients of the same names."""
        entries = {name: getattr(self, name) for name in ("guidance", "weight", "null_weight")}
        entries["also"] = np.asarray(self.also, np.float32).reshape(-1, self.steps).T
        return dataclasses.replace(steps, coefficients={**steps.coefficients, **entries})


@dataclasses.dataclass(frozen=True)
class ConditionBuilder:
    """Turns prompts, images and databases into conditions.

    Attributes:
      encoder: the model's CLIP.
      encode_prompts: prompts to the vectors that retrieve and condition (`conditioning.query_vectors`).
      latent: (h, w) of a latent.
      size: (height, width) of a finished image.
      factor: pixels of a latent, on each side.
      queries: [q, d] the run's own.
      retrieve: (queries, name of a database, "" for the run's own) to the neighbors' tokens [q, n, d]; None where the
        condition has no neighbors.
      condition: a name in `request.CONDITIONS`.
      null: [d] the token of no condition.
      unit_tokens: whether tokens are scaled to length 1.
      reader: makes the tokens of prompts, where the model reads a prompt as a sequence; None where the query's vector
        is the token.
      text: the tokens of the run's own queries, made by `reader`; None without.
      input: what the model is given instead of prompts, as a class; None where it reads prompts.
      adapter: makes the tokens of neighbors beside those of the text, where the model has an adapter; None otherwise.
      encoders: makes the conditions of a model with several encoders, where each has a part in the tokens; None for
        others.
      style: makes the tokens of style neighbors, where the model has two roles of them; None where the neighbors'
        vectors are the tokens.
      encode: images in [-1, 1] to latents.
      channels: what the network takes beside the noisy latent, a name in `conditioning.channels.LAYOUTS`; "" if it
        takes nothing.
      show: makes the channels of content neighbors from their images.
      content: [q, c, h, w, n] channels of each query's content neighbors, which its images take in turn; None without.
      unstyled: whether the condition without style neighbors is a further one: these then have a scale of their own.
      low_resolution: [h, w, 3] the image that is upscaled, at the latents' size; None without.
    """

    encoder: ClipEncoder
    encode_prompts: Callable[[Sequence[str]], Float[np.ndarray, "n d"]]
    latent: tuple[int, int]
    size: tuple[int, int]
    factor: int
    queries: Float[np.ndarray, "q d"]
    retrieve: Callable[[Float[np.ndarray, "q d"], str], Float[np.ndarray, "q k d"] | None]
    condition: str
    null: Float[np.ndarray, " d"]
    unit_tokens: bool
    encode: Callable[[Float[np.ndarray, "b h w 3"]], Float[np.ndarray, "b h2 w2 c"]]
    channels: str
    show: ContentChannels
    reader: PromptReader | TextReader | None = None
    input: Given | None = None
    text: Condition | None = None
    adapter: NeighborTokens | None = None
    encoders: SeveralEncoders | None = None
    style: StyleTokens | None = None
    content: Float[np.ndarray, "_ c h w n"] | None = None
    unstyled: bool = False
    low_resolution: Float[np.ndarray, "h w 3"] | None = None

    @property
    def query_tokens(self) -> int:
        """How many of the tokens, the first ones, are the query."""
        if self.input is not None:
            return self.input.condition.tokens.shape[1]
        if self.encoders is not None:
            return self.encoders.tokens_before_neighbors(self.text)
        if self.text is not None:
            return self.text.tokens.shape[1]
        return int(self.condition != "neighbors" or self.style is not None or self.adapter is not None)

    @property
    def tokens_per_neighbor(self) -> int:
        """How many tokens each neighbor has."""
        if self.adapter is not None:
            return self.adapter.per_neighbor
        return 1 if self.style is None else self.style.per_neighbor

    def neighbor_tokens(self, neighbors: Neighbors | None) -> Float[np.ndarray, "q n c"] | None:
        """Returns the tokens of neighbors: their vectors, or what a style encoder or an adapter makes of them."""
        if neighbors is None:
            return None
        maker = self.style or self.adapter
        return neighbors.embeddings if maker is None else maker.tokens(neighbors)

    def build(
        self,
        queries: Float[np.ndarray, "q d"],
        neighbors: Float[np.ndarray, "q n c"] | None,
        text: Condition | None = None,
    ) -> ScheduledCondition:
        """Returns the condition of queries, the tokens of their neighbors and of their texts, and the run's content.

        Raises:
          UserError: the model reads prompts as sequences, and the queries have no texts.
        """
        if self.input is not None:
            return self._with_input(self.input.condition, len(queries), neighbors)
        if self.encoders is not None:
            read = queries if self.condition != "neighbors" else np.zeros_like(queries)
            built = self.encoders.condition(read, neighbors, text)
            return ScheduledCondition(built.tokens, built.weights, vector=built.vector)
        if self.reader is not None:
            if text is None:
                raise UserError("this model reads prompts, and a query without one is given; give a prompt")
            return ScheduledCondition(text.tokens, text.weights, vector=text.vector, images=self._images(neighbors))
        if self.adapter is not None:
            # No query is a token of zeros, as in training.
            query = queries if self.condition != "neighbors" else np.zeros_like(queries)
            token = unit(query) if self.unit_tokens else query
            return ScheduledCondition(token[:, None].astype(np.float32), images=self._images(neighbors))
        if self.style is None:
            built = assemble(self.condition, queries, neighbors, unit_tokens=self.unit_tokens)
            return ScheduledCondition(built.tokens, built.weights)
        return self._with_style(queries, neighbors)

    def _images(self, neighbors: Float[np.ndarray, "q n c"] | None) -> ImageTokens | None:
        """Returns the tokens of neighbors as the adapter's, where there are neighbors and an adapter."""
        return None if neighbors is None or self.adapter is None else self.adapter.group(neighbors)

    def build_also(self) -> tuple[ScheduledCondition, ...]:
        """Returns the further conditions that the run itself has: text and content, where the style has its scale."""
        return (self._with_style(self.queries, None),) if self.unstyled else ()

    def _with_style(self, queries: np.ndarray, neighbors: np.ndarray | None) -> ScheduledCondition:
        """Returns the condition of a model with two roles of neighbors: text, content, and the style neighbors."""
        # The first place is always there in training: zeros are no text.
        text = queries if self.condition != "neighbors" else np.zeros_like(queries)
        tokens = unit(text)[:, None] if self.unit_tokens else text[:, None]
        if neighbors is not None:
            tokens = np.concatenate([tokens, neighbors], axis=1)
        return ScheduledCondition(tokens.astype(np.float32), channels=self.content)

    def _with_input(self, condition: Condition, count: int, neighbors: np.ndarray | None) -> ScheduledCondition:
        """Returns the condition of `count` queries that an input and their neighbors give."""
        tokens = np.repeat(condition.tokens, count, axis=0)
        channels, vector = (
            None if part is None else np.repeat(part, count, axis=0) for part in (condition.channels, condition.vector)
        )
        if neighbors is not None:
            tokens = np.concatenate([tokens, unit(neighbors) if self.unit_tokens else neighbors], axis=1)
        return ScheduledCondition(tokens, channels=None if channels is None else channels[:, None], vector=vector)

    def build_null(self) -> ScheduledCondition:
        """Returns no condition, for each query: the empty prompt where prompts are sequences, an input's own null."""
        if self.input is not None:
            null = self.input.condition if self.input.null is None else self.input.null
            return self._with_input(null, len(self.queries), None)
        if self.encoders is not None:
            none = self.encoders.null(len(self.queries))
            return ScheduledCondition(none.tokens, none.weights, vector=none.vector)
        if self.reader is not None:
            empty = self.read("")
            assert empty is not None
            return ScheduledCondition(empty.tokens, empty.weights, vector=empty.vector)
        return ScheduledCondition(assemble(NULL, self.queries, null=self.null).tokens)

    def vectors(self, prompt: str, image: str) -> Float[np.ndarray, "q d"]:
        """Returns the vector of a prompt or an image, for each query; the run's own queries where both are empty."""
        if not prompt and not image:
            return self.queries
        encoded = self.encoder.encode_images([read_image(image)]) if image else self.encode_prompts([prompt])
        return np.repeat(encoded, len(self.queries), axis=0)

    def as_read(self, prompt: str) -> str:
        """Returns a prompt, or the empty one where the condition is neighbors alone."""
        return prompt if self.condition != "neighbors" else ""

    def read(self, prompt: str) -> Condition | None:
        """Returns the tokens of a prompt, for each query; None where the query's vector is the token."""
        if self.reader is None:
            return None
        one, count = self.reader([self.as_read(prompt)]), len(self.queries)
        return jax.tree.map(lambda part: np.repeat(part, count, axis=0), one)

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

    def change_queries(self, builder: ConditionBuilder) -> ConditionBuilder:
        """Returns the builder with the run's queries and texts after this conditioner, before anything is retrieved."""
        return builder

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
        return builder.build(queries, builder.retrieve(queries, self.database), self.text(builder))

    def query_vectors(self, builder: ConditionBuilder) -> Float[np.ndarray, "q d"]:
        """Returns the vectors of the prompt or the image."""
        return builder.vectors(self.prompt, self.image)

    def text(self, builder: ConditionBuilder) -> Condition | None:
        """Returns the tokens of the prompt, where prompts are sequences; an image has those of the empty prompt."""
        return builder.read(self.prompt) if self.prompt or self.image else builder.text


LARGEST_SIGMA = 80.0
"""The noisiest sigma / alpha by which paint grows; the paper's models know no larger one."""


def interpolate(
    condition: ScheduledCondition, weight: Float[Array, ""], alpha: Float[Array, ""], sigma: Float[Array, ""]
) -> Condition:
    """Returns a condition at one step, with the condition's weights of the tokens.

    Its tokens are weight * tokens + (1 - weight) * target; its paint is multiplied by log(1 + sigma / alpha), and so
    decides the layout and leaves the details alone (eDiff-I, https://arxiv.org/abs/2211.01324, section 4.3).

    Args:
      condition: of the run.
      weight: of its tokens.
      alpha: the factor of the image at the step.
      sigma: that of the noise.
    """

    def mixed(own: Any, target: Any) -> Any:
        return own if target is None else weight * own + (1.0 - weight) * target

    images = condition.images
    if images is not None:
        images = dataclasses.replace(images, tokens=mixed(images.tokens, condition.image_target))
    tokens = mixed(condition.tokens, condition.target)
    paint = condition.paint
    if paint is not None:
        paint = paint * jnp.log1p(sigma / jnp.maximum(alpha, sigma / LARGEST_SIGMA))
    return Condition(tokens, condition.weights, condition.channels, condition.vector, images=images, paint=paint)


def spatial_weights(condition: Condition, latent: tuple[int, int]) -> Float[np.ndarray, "b h w n"]:
    """Returns how often each token counts at each latent pixel."""
    b, n, _ = condition.tokens.shape
    weights = np.ones((b, n), np.float32) if condition.weights is None else condition.weights
    spread = weights if weights.ndim == 4 else weights[:, None, None]
    return np.broadcast_to(spread, (b, *latent, n))


def resample(steps: int, weights: Sequence[float]) -> Float[np.ndarray, " n"]:
    """Returns a weight for each of `steps` steps; those of a list of another length are interpolated."""
    places = np.linspace(0.0, 1.0, steps) if steps > 1 else np.zeros(1)
    own = np.linspace(0.0, 1.0, len(weights)) if len(weights) > 1 else np.zeros(1)
    return np.interp(places, own, np.asarray(weights, np.float64)).astype(np.float32)
