"""The contract between a request and the way a head makes latents or tokens.

A request says what is wanted (`request.Request`); a head says how it is made: its own options, what it compiles, and
which guides, conditions and edits it supports. The generator knows this contract alone::

    run = head.plan(request, options, model)        reads files, plans steps, checks everything
    program = head.compile(head.shape(plan, batch), plan, compiler)   once for each shape
    state = program.start(plan, params, indices, rows)       one batch
    while state.done < state.total:
        state = program.advance(state)                       a chunk of steps or tokens
    images = program.finish(state)
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from rdm_jax import factory
from rdm_jax.bundle import Bundle
from rdm_jax.conditioning import ConditionBuilder, Context, Negative, apply_conditioners
from rdm_jax.conditioning.content import Content
from rdm_jax.heads.compiling import Compiler
from rdm_jax.models.condition import FEATURES as NETWORK_FEATURES
from rdm_jax.request import CANDIDATES_APART, Request
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.retriever import Neighbors

logger = logging.getLogger(__name__)

FEATURES: Mapping[str, str] = {
    **NETWORK_FEATURES,
    "composition": "several conditions with a scale each",
    "step_schedule": "conditions that change from step to step",
    "init": "a start from an image or its noise",
    "known_region": "an image of which a part is kept",
    "inversion": "inversion",
    "mixing": "mixing of conditions over the steps",
}
"""What a request may need of a head or of its network, each with the words that an error uses."""


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A model that is ready to generate.

    Attributes:
      bundle: its parameters lie on every device of the mesh.
      encoder: its CLIP.
      mesh: the devices that a batch is split over.
    """

    bundle: Bundle
    encoder: ClipEncoder
    mesh: Mesh

    @functools.cached_property
    def encode_latent(self) -> Callable[[Float[np.ndarray, "b h w 3"]], Float[np.ndarray, "b h2 w2 c"]]:
        """The function from images in [-1, 1] to latents as the generative network sees them."""
        encode = jax.jit(factory.encoder_from(self.bundle.autoencoder, self.bundle.config["latents"]))
        return lambda images: np.asarray(encode(self.bundle.params["autoencoder"], images))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A request that was checked, its queries encoded and their neighbors retrieved; nothing is generated yet.

    Attributes:
      request: what is wanted.
      options: the head's own.
      prompts: the label of each query: the prompt, or "image 1".
      queries: [q, d] the query vectors after the conditioners.
      neighbors: [q, k] what each query retrieved; None where the condition has no neighbors.
      content: what each query retrieved to show its content; None where the model has no such role, or no database.
      indices: the index of each image; with the seed it fixes the image's random numbers.
      rows: the query of each image.
      builder: makes conditions.
      run: what the head planned; all images share it.
    """

    request: Request
    options: Any
    prompts: list[str]
    queries: Float[np.ndarray, "q d"]
    neighbors: Neighbors | None
    indices: list[int]
    rows: list[int]
    builder: ConditionBuilder
    run: Any
    content: Content | None = None

    @functools.cached_property
    def context(self) -> Context:
        """The conditions of each query."""
        builder = dataclasses.replace(self.builder, queries=self.queries)
        return apply_conditioners(self.request.conditions, builder, builder.neighbor_tokens(self.neighbors))

    def context_of(self, indices: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"]) -> Context:
        """Returns the conditions of images by their indices and queries."""
        return self.context.rows(rows, self.turns(indices))

    def turns(self, indices: Sequence[int] | Int[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
        """Returns which of its query's images each one is; a further candidate of an image counts as a later one."""
        candidates, images = np.divmod(np.asarray(indices, np.int64), CANDIDATES_APART)
        return images % self.request.num_images + candidates

    def with_queries(self, prompts: list[str], queries: Float[np.ndarray, "q d"], neighbors: Neighbors | None) -> Plan:
        """Returns the plan of `num_images` images for each query; raises UserError if a condition cannot be built."""
        count = self.request.num_images
        indices = list(range(len(queries) * count))
        rows = [index // count for index in indices]
        return dataclasses.replace(
            self, prompts=prompts, queries=queries, neighbors=neighbors, indices=indices, rows=rows
        ).checked()

    def with_content(self, content: Content) -> Plan:
        """Returns the plan with what shows the content of its queries."""
        builder = dataclasses.replace(self.builder, content=self.builder.show(content.images))
        return dataclasses.replace(self, content=content, builder=builder)

    def checked(self) -> Plan:
        """Returns the plan after its conditions were built; raises UserError if they cannot be."""
        _ = self.context
        return self


def warn_unused(unused: Mapping[str, bool], reason: str) -> None:
    """Warns of each option that is set and has no effect.

    Args:
      unused: {option and value, as the warning names it: whether it has no effect}.
      reason: why, as a clause.
    """
    for name in (name for name, useless in unused.items() if useless):
        logger.warning("%s has no effect: %s", name, reason)


def negative_conditions(request: Request) -> dict[str, bool]:
    """Returns the entries of `warn_unused` for conditions that only classifier-free guidance uses."""
    return {"a negative prompt or condition": any(isinstance(one, Negative) for one in request.conditions)}


@runtime_checkable
class State(Protocol):
    """A batch in progress.

    Attributes:
      done: steps or tokens that are done.
      total: all of them.
    """

    @property
    def done(self) -> int: ...

    @property
    def total(self) -> int: ...


@runtime_checkable
class Program(Protocol):
    """What is compiled for one shape; the arrays that it is called with may change."""

    def start(
        self, plan: Plan, params: Mapping[str, Any], indices: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"]
    ) -> Any:
        """Returns the state of a batch before its first chunk.

        Args:
          plan: of a shape for which the program was compiled.
          params: {part: parameters} on the devices.
          indices: of the images.
          rows: the query of each image.
        """
        ...

    def advance(self, state: Any) -> Any:
        """Returns the state after one more chunk.

        Raises:
          UserError: the state is no longer finite.
        """
        ...

    def preview(self, state: Any) -> Float[np.ndarray, "b h w 3"]:
        """Returns an estimate of the finished images, about [-1, 1]."""
        ...

    def finish(self, state: Any) -> Float[np.ndarray, "b h w 3"]:
        """Returns the images of a state after its last chunk, about [-1, 1]."""
        ...


@runtime_checkable
class Head(Protocol):
    """How latents or tokens are made.

    Attributes:
      name: in `heads.HEADS`.
      Options: a frozen dataclass, see `core.options`; `--help` and the records in image files are made from it.
      network: the part of the bundle that generates.
    """

    name: str
    Options: type
    network: str

    def plan(self, request: Request, options: Any, model: Model) -> Any:
        """Returns what all images of a run share: files are read, steps planned, options checked.

        Raises:
          UserError: an option is out of range, a file cannot be read, or the model lacks something.
        """
        ...

    def with_content(self, plan: Plan, model: Model) -> Plan:
        """Returns a plan whose content is known with what else the head takes from it.

        Raises:
          UserError: an option needs content, and there is none.
        """
        ...

    def shape(self, plan: Plan, batch: int) -> Hashable:
        """Returns what the program of a plan is compiled for; everything else is traced."""
        ...

    def compile(self, shape: Any, plan: Plan, compiler: Compiler) -> Program:
        """Returns the program of a shape."""
        ...

    def edited(self, options: Any, bundle: Bundle) -> tuple[int, int] | None:
        """Returns (height, width) of the image that a run edits, None where it edits none.

        Raises:
          UserError: the image cannot be read.
        """
        ...

    def size(self, request: Request, bundle: Bundle) -> tuple[int, int]:
        """Returns (h, w) of the latents or tokens of an image; an edited image (`request.fit`) may be padded.

        Raises:
          UserError: the model cannot make images of the request's size.
        """
        ...

    def finish(self, plan: Plan, images: UInt8[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b h w 3"]:
        """Returns finished images after what acts on pixels."""
        ...

    def supports(self, feature: str, bundle: Bundle) -> str | None:
        """Returns None if a feature, a name in `FEATURES`, is supported, otherwise the reason in one clause."""
        ...
