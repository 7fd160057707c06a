"""Prompts as unCLIP's decoder reads them: a vector of an image for each, its tokens, and those of the text.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125, section 2.1. All images of a prompt have one vector.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.prior import PriorSampler, encode_text
from rdm_jax.conditioning.prompts import PromptReader
from rdm_jax.core.errors import UserError
from rdm_jax.data.unread import Unread
from rdm_jax.models import VectorContext
from rdm_jax.models.condition import Condition
from rdm_jax.request import PRIOR, Request


def prompt_reader(bundle: Bundle, request: Request) -> PromptReader | None:
    """Returns what makes the tokens of a model's prompts; None if its prompts are vectors.

    Raises:
      UserError: the model has no tokenizer, or cannot read prompts as requested.
    """
    plain = PromptReader.of(bundle, request.long_prompts)
    if plain is None or not bundle.has("vector_context"):
        return plain
    if plain.windows:
        raise UserError(f"model {bundle.name!r} reads a prompt in one window; leave long_prompts at truncate")
    sampler = None
    if request.query_vector == PRIOR:
        null, _ = plain.rows("", Unread())[0]
        sampler = PriorSampler.of(bundle, request, null)
    inherited = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    return UnclipReader(
        **inherited, context=bundle.vector_context, context_params=bundle.params["vector_context"], sampler=sampler
    )


@dataclasses.dataclass(frozen=True, eq=False)
class UnclipReader(PromptReader):
    """Makes the conditions of prompts.

    Attributes:
      context: makes tokens and a vector of the vector of an image.
      context_params: its parameters.
      sampler: of the vectors of images; None takes the texts' own.
    """

    context: VectorContext
    context_params: Any
    sampler: PriorSampler | None

    def __call__(self, prompts: Sequence[str]) -> Condition:
        """Returns the tokens [q, n, d] of prompts, their weights, and the vectors [q, v] beside the time.

        The empty prompt has no image: a learned vector stands for it. Warns of prompts that are truncated.

        Raises:
          UserError: a prompt has weights of words.
        """
        rows = self._rows(prompts)
        empty = np.array([not prompt.strip() for prompt in prompts], bool)
        images = None if self.sampler is None else self.sampler(rows)
        # One by one, for all of them to go through one program, however many there are.
        conditions = [
            _condition(
                (self.encoder, self.context),
                (self.params, self.context_params),
                rows[one],
                None if images is None else images[one],
                empty[one],
            )
            for one in (slice(place, place + 1) for place in range(len(rows)))
        ]
        tokens, weights, vectors = (np.concatenate(parts) for parts in zip(*conditions, strict=True))
        return Condition(tokens, weights, vector=vectors)

    def _rows(self, prompts: Sequence[str]) -> Int[np.ndarray, "q n"]:
        """Returns the token ids of prompts."""
        unread, rows = Unread(), []
        for prompt in prompts:
            ((row, weights),) = self.rows(prompt, unread)
            if (weights != 1).any():
                raise UserError(f"this model takes no weights of words, and prompt {prompt!r} has some; leave them out")
            rows.append(row)
        unread.warn()
        return np.stack(rows)


@functools.partial(jax.jit, static_argnums=0)
def _condition(
    form: Any, params: Any, rows: Array, images: Float[Array, "q d"] | None, empty: Array
) -> tuple[Array, Array, Array]:
    (tower, context), (tower_params, own) = form, params
    text = encode_text(tower, tower_params, rows)
    return context.apply({"params": own}, text.vector if images is None else images, text, empty)
