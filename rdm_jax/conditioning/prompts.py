"""Prompts as sequences of context tokens: the states of a text encoder, one for each token of the text.

This is how latent diffusion and Stable Diffusion read a prompt (https://arxiv.org/abs/2112.10752, section 3.3). Weights
of words (`conditioning.emphasis`) scale the states of their tokens, after which the states get their mean back.

Some text encoders give a vector of the whole text too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.emphasis import weighted_parts
from rdm_jax.core.errors import UserError
from rdm_jax.data.tokenizer import split
from rdm_jax.data.unread import Unread
from rdm_jax.models import TextEncoder
from rdm_jax.models.condition import Condition
from rdm_jax.parts import PADDING


def reads_prompts(bundle: Bundle) -> bool:
    """Returns whether a model reads a prompt as a sequence of tokens, and not as the retrieval encoder's vector."""
    return bundle.has("text_encoder")


@dataclasses.dataclass(frozen=True, eq=False)
class PromptReader:
    """Makes the context tokens of prompts.

    Attributes:
      encoder: the text encoder.
      params: its parameters.
      tokenizer: its tokenizer.
      pad_id: the token that fills a row.
      windows: whether a long prompt is read in windows, each as a text of its own, rather than truncated.
    """

    encoder: TextEncoder
    params: Any
    tokenizer: Any
    pad_id: int
    windows: bool

    @staticmethod
    def of(bundle: Bundle, long_prompts: str) -> PromptReader | None:
        """Returns what makes the tokens of a model's prompts; None if its prompts are vectors.

        Args:
          bundle: the model.
          long_prompts: a name in `request.LONG_PROMPTS`.

        Raises:
          UserError: the model has no tokenizer.
        """
        if not reads_prompts(bundle):
            return None
        if bundle.tokenizer is None:
            raise UserError(f"model {bundle.name!r} has no tokenizer; convert it again with --tokenizer")
        vocabulary = bundle.text_encoder.vocab_size
        if len(bundle.tokenizer) > vocabulary:
            raise UserError(
                f"the tokenizer of model {bundle.name!r} has {len(bundle.tokenizer)} tokens, and its text encoder "
                f"{vocabulary}; export or convert it again with its own tokenizer"
            )
        pad_id = int(bundle.config["text_encoder"][PADDING])
        params = bundle.params["text_encoder"]
        return PromptReader(bundle.text_encoder, params, bundle.tokenizer, pad_id, long_prompts == "windows")

    @property
    def length(self) -> int:
        """The number of tokens in a row, the start and the end included."""
        return self.encoder.context_length

    @property
    def most(self) -> int:
        """The number of tokens in a row that a text may have."""
        return self.length - 2 if self.encoder.has_marks else self.length

    def __call__(self, prompts: Sequence[str]) -> Condition:
        """Returns the tokens [q, n, d] of prompts, with weights [q, n] where they have different numbers of windows.

        The vectors [q, v] sum up the prompts, where the encoder gives some: its own, of the first window, or its last
        state. Warns of prompts that are truncated.
        """
        unread = Unread()
        rows = [self.rows(prompt, unread) for prompt in prompts]
        unread.warn()
        encoded = [[self._states(*window) for window in windows] for windows in rows]
        states = [np.concatenate([one for one, _ in windows]) for windows in encoded]
        longest = max((len(one) for one in states), default=self.length)
        tokens = np.zeros((len(states), longest, self.encoder.width), np.float32)
        present = np.zeros((len(states), longest), np.float32)
        for row, own in enumerate(states):
            tokens[row, : len(own)], present[row, : len(own)] = own, 1.0
        if self.encoder.has_summary:  # of the last window
            vectors = [own[-1] for own in states]
        else:
            vectors = [windows[0][1] for windows in encoded if windows[0][1] is not None]
        vector = np.stack(vectors).astype(np.float32) if vectors else None
        return Condition(tokens, None if present.all() else present, vector=vector)

    def rows(
        self, prompt: str, unread: Unread
    ) -> list[tuple[Int[np.ndarray, " length"], Float[np.ndarray, " length"]]]:
        """Returns the token ids of each window of a prompt and their weights; `unread` counts what is truncated.

        Raises:
          UserError: the prompt is no valid Unicode.
        """
        ids, weights, rests = [], [], []  # of each token; rests: the text from there on
        for text, weight in weighted_parts(prompt):
            own, starts, read = split(self.tokenizer, text)
            ids += own
            weights += [weight] * len(own)
            rests = [f"{rest} {read}" for rest in rests] + [read[start:] for start in starts]
        most = self.most
        if len(ids) > most and not self.windows:
            unread.add(prompt, rests[most], [], None)
            ids = ids[:most]
        begins = range(0, max(len(ids), 1), most)
        return [self._row(ids[begin : begin + most], weights[begin : begin + most]) for begin in begins]

    def _row(self, ids: list[int], weights: list[float]) -> tuple[np.ndarray, np.ndarray]:
        """Returns one window: the start, the tokens, the end, and padding; without marks the tokens and padding."""
        row, factors = np.full(self.length, self.pad_id, np.int32), np.ones(self.length, np.float32)
        first = int(self.encoder.has_marks)
        row[first : len(ids) + first] = ids
        factors[first : len(ids) + first] = weights
        if self.encoder.has_marks:
            row[[0, len(ids) + 1]] = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return row, factors

    def _states(
        self, row: Int[np.ndarray, " length"], weights: Float[np.ndarray, " length"]
    ) -> tuple[Float[np.ndarray, "length d"], Float[np.ndarray, " v"] | None]:
        """Returns the states of one window and its vector, if any; all windows go through one program."""
        encoded = _encode(self.encoder, self.params, row[None])
        states, vector = encoded if isinstance(encoded, tuple) else (encoded, None)
        states, vector = np.asarray(states)[0], None if vector is None else np.asarray(vector)[0]
        if (weights == 1).all():
            return states, vector
        weighted = states * weights[:, None]
        return weighted * (states.mean() / weighted.mean()), vector


@functools.partial(jax.jit, static_argnums=0)
def _encode(encoder: TextEncoder, params: Any, tokens: Any) -> Any:
    return encoder.apply({"params": params}, tokens)
