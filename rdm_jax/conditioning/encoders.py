"""Several encoders at a time as conditions, each of which may be absent (eDiff-I, https://arxiv.org/abs/2211.01324,
section 3).

The tokens of an encoder that is left out have weight 0, as if the model had no such encoder; the paper sets its outputs
to zeros. A learned null token is always there, and alone it is the null condition.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.prior import encode_text, text_tower
from rdm_jax.conditioning.prompts import PromptReader
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.images import read_image
from rdm_jax.models import EncoderTokens, ProjectedText
from rdm_jax.models.condition import Condition
from rdm_jax.request import Request
from rdm_jax.retrieval.encoder import ClipEncoder

PART = "encoder_tokens"
CLIP_TEXT, CLIP_STATES, TEXT_STATES = "clip_text", "clip_states", "text_states"
CLIP_IMAGE, NEIGHBORS = "clip_image", "neighbors"
ENCODERS: Mapping[str, str] = {
    CLIP_TEXT: "CLIP's vector of the text",
    CLIP_STATES: "the states of the text's tokens in CLIP",
    TEXT_STATES: "the states of the text's tokens in the model's own text encoder",
    CLIP_IMAGE: "CLIP's vector of an image",
    NEIGHBORS: "CLIP's vectors of the neighbors",
}
"""The encoders in the order of their tokens, each with what it gives."""
OF_TEXTS = (CLIP_TEXT, CLIP_STATES, TEXT_STATES)
POOLED = (CLIP_TEXT, CLIP_IMAGE)
"""Those that may be beside the time as well."""


def project(module: EncoderTokens, params: Any, outputs: Mapping[str, Float[Array, "b _ _"]]) -> dict[str, Array]:
    """Returns {encoder: tokens [b, n, c]} of what encoders give, {encoder: [b, n, d]}."""
    tokens: Any = module.apply({"params": params}, outputs)
    return tokens


def join(
    null: Any,
    tokens: Mapping[str, Any],
    present: Mapping[str, Any],
    batch: int,
) -> Condition:
    """Returns the tokens of a batch with weights: the null token, and those of encoders in the order of `ENCODERS`.

    Args:
      null: [c] the null token.
      tokens: {encoder: [b, n, c]} of those that are there.
      present: {encoder: [b, n]} 1 for each token that conditions its image, 0 for others.
      batch: the number of images.
    """
    names = [name for name in ENCODERS if name in tokens]
    first = jnp.broadcast_to(null, (batch, 1, len(null)))
    joined = jnp.concatenate([first, *(tokens[name] for name in names)], axis=1)
    return Condition(joined, jnp.concatenate([jnp.ones((batch, 1)), *(present[name] for name in names)], axis=1))


def beside_time(
    module: EncoderTokens, outputs: Mapping[str, Any], present: Mapping[str, Any], batch: int
) -> Float[Array, "b v"] | None:
    """Returns the vectors of the encoders that are beside the time, zeros for those that are absent; None without any.

    Args:
      module: names them.
      outputs: {encoder: [b, n, d]}, whose first vector is taken.
      present: {encoder: [b, n]}.
      batch: the number of images.
    """

    def one(name: str) -> Any:
        """Returns the vectors [b, d] of one encoder."""
        if name not in outputs:
            return jnp.zeros((batch, module.dims[name]))
        return outputs[name][:, 0] * present[name][:, :1]

    vectors = [one(name) for name in module.beside_time]
    return jnp.concatenate(vectors, axis=1) if vectors else None


@functools.partial(jax.jit, static_argnums=0)
def _project(module: EncoderTokens, params: Any, outputs: Any) -> dict[str, Array]:
    return project(module, params, outputs)


@functools.partial(jax.jit, static_argnums=0)
def clip_states(tower: ProjectedText, params: Any, rows: Int[Array, "b n"]) -> tuple[Array, Array]:
    """Returns the states of token ids in CLIP, and which of them are of the text."""
    text = encode_text(tower, params, rows)
    return text.states, text.present


@dataclasses.dataclass(frozen=True, eq=False)
class SeveralEncoders:
    """Makes the conditions of a model with several encoders.

    Attributes:
      module: makes tokens of what the encoders give.
      params: its parameters.
      left_out: the encoders that condition nothing.
      reference: [d] CLIP's vector of an image that conditions all queries; None without.
    """

    module: EncoderTokens
    params: Any
    left_out: frozenset[str]
    reference: Float[np.ndarray, " d"] | None = None

    @staticmethod
    def of(bundle: Bundle, encoder: ClipEncoder, request: Request) -> SeveralEncoders | None:
        """Returns what makes a model's conditions; None if it has no part that joins several encoders.

        Raises:
          UserError: the model has no such encoder that is left out, no encoder of the reference, or none of neighbors.
        """
        if not bundle.has(PART):
            return None
        module: EncoderTokens = bundle.encoder_tokens
        left_out = [name.strip() for name in request.leave_out.split(",") if name.strip()]
        for name in left_out:
            if name not in module.dims:
                raise unknown("encoder", name, module.dims, hint=f"those of model {bundle.name!r}")
        if request.reference_image and CLIP_IMAGE not in module.dims:
            raise UserError(
                f"reference_image {request.reference_image} needs an encoder {CLIP_IMAGE}, and model {bundle.name!r} "
                f"has {', '.join(module.dims)}; leave the reference out"
            )
        if request.condition != "text" and NEIGHBORS not in module.dims:
            raise UserError(f"model {bundle.name!r} takes no neighbors; use --condition text without a database")
        reference = encoder.encode_images([read_image(request.reference_image)])[0] if request.reference_image else None
        return SeveralEncoders(module, bundle.params[PART], frozenset(left_out), reference)

    def tokens_before_neighbors(self, text: Condition | None) -> int:
        """Returns how many tokens come before those of the neighbors."""
        states = 0 if text is None else text.tokens.shape[1]
        return 1 + (CLIP_TEXT in self.module.dims) + states + (self.reference is not None)

    def condition(
        self, queries: Float[np.ndarray, "q d"], neighbors: Float[np.ndarray, "q k d"] | None, text: Condition | None
    ) -> Condition:
        """Returns the condition of queries, to which each encoder that is not left out gives its part.

        Args:
          queries: CLIP's vectors of the texts; zeros are no text.
          neighbors: the vectors of each query's neighbors; None without.
          text: what `TextReader` made of the texts; None where no encoder gives states.
        """
        count, vectors = len(queries), {CLIP_TEXT: queries[:, None]}
        if self.reference is not None:
            vectors[CLIP_IMAGE] = np.broadcast_to(self.reference, (count, 1, len(self.reference)))
        if neighbors is not None:
            vectors[NEIGHBORS] = neighbors
        outputs = {name: np.asarray(one, np.float32) for name, one in vectors.items() if name in self.module.dims}
        present = {name: self._present(name, one) for name, one in outputs.items()}
        tokens = {name: np.asarray(one) for name, one in _project(self.module, self.params, outputs).items()}
        if text is not None:
            tokens[TEXT_STATES], present[TEXT_STATES] = text.tokens, text.weights
        joined = join(np.asarray(self.params["null"]), tokens, present, count)
        vector = beside_time(self.module, outputs, present, count)
        return jax.tree.map(np.asarray, dataclasses.replace(joined, vector=vector))

    def _present(self, name: str, outputs: Float[np.ndarray, "q n d"]) -> Float[np.ndarray, "q n"]:
        """Returns 1 for each output of an encoder that conditions, 0 where it is left out, or a text is none."""
        there = outputs.any(axis=2) if name == CLIP_TEXT else np.ones(outputs.shape[:2], bool)
        return np.asarray(there * (name not in self.left_out), np.float32)

    def null(self, count: int) -> Condition:
        """Returns no condition, for each query: the null token alone."""
        joined = join(np.asarray(self.params["null"]), {}, {}, count)
        return jax.tree.map(np.asarray, dataclasses.replace(joined, vector=beside_time(self.module, {}, {}, count)))


@dataclasses.dataclass(frozen=True, eq=False)
class TextReader:
    """Makes the tokens of prompts by the encoders of texts that give states; the empty prompt is no text.

    Attributes:
      several: of the model.
      clip: the model's CLIP, where its states are an encoder's; None otherwise.
      own: the model's own text encoder; None without one.
    """

    several: SeveralEncoders
    clip: ClipEncoder | None
    own: PromptReader | None

    @staticmethod
    def of(bundle: Bundle, encoder: ClipEncoder, several: SeveralEncoders, long_prompts: str) -> TextReader | None:
        """Returns what reads the prompts of a model; None if its encoders read none as sequences.

        Raises:
          UserError: the model has no tokenizer.
        """
        names = several.module.dims
        own = PromptReader.of(bundle, long_prompts) if TEXT_STATES in names else None
        clip = encoder if CLIP_STATES in names else None
        return None if own is None and clip is None else TextReader(several, clip, own)

    def __call__(self, prompts: Sequence[str]) -> Condition:
        """Returns the tokens [q, n, c] of prompts with weights [q, n], 0 where there is no text or it is left out."""
        read = np.array([[bool(one.strip())] for one in prompts], np.float32).reshape(-1, 1)
        found = {CLIP_STATES: self._of_clip, TEXT_STATES: self._of_own}
        outputs = {name: make(prompts) for name, make in found.items() if name in self.several.module.dims}
        states = {name: one for name, (one, _) in outputs.items()}
        tokens = _project(self.several.module, self.several.params, states)
        left_out = self.several.left_out
        weights = [present * read * (name not in left_out) for name, (_, present) in outputs.items()]
        joined = np.concatenate([np.asarray(tokens[name]) for name in outputs], axis=1)
        return Condition(joined, np.concatenate(weights, axis=1, dtype=np.float32))

    def _of_clip(self, prompts: Sequence[str]) -> tuple[Float[np.ndarray, "q n d"], Float[np.ndarray, "q n"]]:
        """Returns CLIP's states of prompts, and which tokens are of the text."""
        assert self.clip is not None
        tower, params = text_tower(self.clip.bundle)
        rows, _ = self.clip.tokenize(prompts)
        found = [clip_states(tower, params, row[None]) for row in rows]  # all go through one program
        states = np.zeros((0, rows.shape[1], tower.width), np.float32), np.zeros((0, rows.shape[1]), np.float32)
        pairs = [states, *((np.asarray(one), np.asarray(present)) for one, present in found)]
        return np.concatenate([one for one, _ in pairs]), np.concatenate([present for _, present in pairs])

    def _of_own(self, prompts: Sequence[str]) -> tuple[Float[np.ndarray, "q n d"], Float[np.ndarray, "q n"]]:
        """Returns the own encoder's states of prompts, and which tokens are of the text."""
        assert self.own is not None
        own = self.own(prompts)
        return own.tokens, np.ones(own.tokens.shape[:2], np.float32) if own.weights is None else own.weights
