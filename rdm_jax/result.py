"""Images and where they come from: what the generator returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from rdm_jax.request import Request
from rdm_jax.retrieval.retriever import Neighbors, map_neighbors


@dataclasses.dataclass(frozen=True)
class Result:
    """Images and where they come from; entry i of everything belongs to image i.

    Attributes:
      images: [n, h, w, 3] the images.
      prompts: the label of each image's query.
      indices: each image's index in its run.
      queries: [n, d] the query vectors.
      neighbors: [n, k] what was retrieved; None where the condition has no neighbors. Of a model with two roles they
        show the style.
      content: [n, 1] what showed the content; None where the model has no such role, or no content was searched.
      known: [n] whether the content databases have anything near the prompt.
      request: every option that does not depend on the head.
      options: the head's.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    prompts: list[str]
    indices: list[int]
    queries: Float[np.ndarray, "n d"]
    neighbors: Neighbors | None
    request: Request
    options: Any
    content: Neighbors | None = None
    known: Bool[np.ndarray, " n"] | None = None

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.request.seed


def join(results: Sequence[Result]) -> Result:
    """Returns the results of the batches of one plan as one result."""
    found = [result.neighbors for result in results if result.neighbors is not None]
    content = [result.content for result in results if result.content is not None]
    known = [result.known for result in results if result.known is not None]
    return Result(
        images=np.concatenate([result.images for result in results]),
        prompts=[prompt for result in results for prompt in result.prompts],
        indices=[index for result in results for index in result.indices],
        queries=np.concatenate([result.queries for result in results]),
        neighbors=map_neighbors(lambda *parts: np.concatenate(parts), *found) if found else None,
        request=results[0].request,
        options=results[0].options,
        content=map_neighbors(lambda *parts: np.concatenate(parts), *content) if content else None,
        known=np.concatenate(known) if known else None,
    )


def taken(result: Result, places: Int[np.ndarray, " m"]) -> Result:
    """Returns some of the images of a result, with all that belongs to them."""

    def rows(neighbors: Neighbors | None) -> Neighbors | None:
        """Returns the neighbors of these images."""
        return None if neighbors is None else map_neighbors(lambda part: part[places], neighbors)

    return dataclasses.replace(
        result,
        images=result.images[places],
        prompts=[result.prompts[place] for place in places],
        indices=[result.indices[place] for place in places],
        queries=result.queries[places],
        neighbors=rows(result.neighbors),
        content=rows(result.content),
        known=None if result.known is None else result.known[places],
    )
