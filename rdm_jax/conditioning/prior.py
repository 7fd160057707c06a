"""Vectors of images for texts, sampled by a model's diffusion prior (`models.prior`)."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.vectors import sample_vectors
from rdm_jax.models import Prior, ProjectedText, TextTransformer
from rdm_jax.models.prior import Text
from rdm_jax.request import Request
from rdm_jax.retrieval.encoder import SMALL_BATCH

STREAM = 2**31 - 1
"""The index of the prior's random numbers, which no image has."""


def text_tower(bundle: Bundle) -> tuple[ProjectedText, Any]:
    """Returns the text tower that a model's prior reads, with its parameters: of the text encoder, or of the CLIP.

    Raises:
      UserError: the model has no tower that gives a state for every token.
    """
    if bundle.has("text_encoder") and isinstance(bundle.text_encoder, ProjectedText):
        return bundle.text_encoder, bundle.params["text_encoder"]
    bundle.require("clip")
    text = bundle.clip.text
    if not isinstance(text, TextTransformer):
        raise UserError(
            f"the text tower of model {bundle.name!r} gives one vector of a text, and a prior reads the states of its "
            "tokens; use a translator, or a CLIP with text.kind=transformer"
        )
    names = [field.name for field in dataclasses.fields(text) if field.name not in ("parent", "name")]
    settings: dict[str, Any] = {name: getattr(text, name) for name in names}
    return ProjectedText(**settings), bundle.params["clip"]["text"]


def encode_text(tower: ProjectedText, params: Any, rows: Int[Array, "b n"]) -> Text:
    """Returns texts as the prior reads them, from their token ids."""
    states, vector = tower.apply({"params": params}, rows)
    return Text(vector, states, tower.present(rows))


@dataclasses.dataclass(frozen=True, eq=False)
class PriorSampler:
    """Samples the vectors of images that texts describe.

    Attributes:
      prior: the network.
      params: its parameters.
      tower: the text tower.
      tower_params: its parameters.
      null: [n] the token ids of the empty text, which stands for no text.
      steps: of the diffusion.
      samples: of each text, of which the one nearest to the text's vector is kept.
      scale: of classifier-free guidance.
      seed: of the run.
    """

    prior: Prior
    params: Any
    tower: ProjectedText
    tower_params: Any
    null: Int[np.ndarray, " n"]
    steps: int
    samples: int
    scale: float
    seed: int

    @staticmethod
    def of(bundle: Bundle, request: Request, null: Int[np.ndarray, " n"]) -> PriorSampler:
        """Returns the sampler of a model's prior for a request.

        Raises:
          UserError: the model has no prior, or no text tower that it can read.
        """
        bundle.require("prior")
        tower, params = text_tower(bundle)
        return PriorSampler(bundle.prior, bundle.params["prior"], tower, params, null, **options_of(request))

    def __call__(self, rows: Int[np.ndarray, "q n"]) -> Float[np.ndarray, "q d"]:
        """Returns CLIP vectors of images, not normalized, for the token ids of texts.

        The random numbers of a text follow from the seed and its tokens: its vector is the same at any place among any
        number of texts, which all go through one program, and when an image is generated again.
        """
        vectors = [np.zeros((0, self.prior.embed_dim), np.float32)]
        for start in range(0, len(rows), SMALL_BATCH):
            group = rows[start : start + SMALL_BATCH]
            padded = np.concatenate([group, np.repeat(self.null[None], SMALL_BATCH - len(group), axis=0)])
            sampled = _sample(
                (self.prior, self.tower, self.steps, self.samples),
                (self.params, self.tower_params),
                padded,
                self.null[None],
                np.float32(self.scale),
                (np.uint32(self.seed), _digests(padded)),
            )
            vectors.append(np.asarray(sampled)[: len(group)])
        return np.concatenate(vectors)


def options_of(request: Request) -> dict[str, Any]:
    """Returns the options of a `PriorSampler` that a request has."""
    scale = request.prior_guidance_scale
    return {"steps": request.prior_steps, "samples": request.prior_samples, "scale": scale, "seed": request.seed}


@functools.partial(jax.jit, static_argnums=0)
def _sample(form: Any, params: Any, rows: Array, null: Array, scale: Array, random: Any) -> Float[Array, "q d"]:
    """Returns the best of several sampled vectors of each text."""
    (prior, tower, steps, samples), (own, tower_params), (seed, digests) = form, params, random
    text = encode_text(tower, tower_params, jnp.concatenate([null, rows]))
    count = len(rows) * samples
    nothing = jax.tree.map(lambda part: jnp.repeat(part[:1], count, axis=0), text)
    given = jax.tree.map(lambda part: jnp.repeat(part[1:], samples, axis=0), text)

    def key_of(digest: Array, sample: Array) -> Array:
        stream = jax.random.fold_in(jax.random.key(seed), STREAM)
        return jax.random.fold_in(jax.random.fold_in(stream, digest), sample)

    keys = jax.vmap(key_of)(jnp.repeat(digests, samples), jnp.arange(count) % samples)

    def apply(x: Array, t: Array, text: Text) -> Any:
        return prior.apply({"params": own}, x, t, text)

    x = sample_vectors(apply, keys, prior.embed_dim, given, nothing, scale, steps)
    vectors: Any = prior.apply({"params": own}, x, method="restore")
    return nearest_to(given.vector.reshape(len(rows), samples, -1), vectors.reshape(len(rows), samples, -1))


def _digests(rows: Int[np.ndarray, "q n"]) -> UInt32[np.ndarray, " q"]:
    """Returns a number that stands for each row of token ids."""
    return np.array([zlib.crc32(row.astype("<i4").tobytes()) for row in rows], np.uint32)


def nearest_to(texts: Float[Array, "q s e"], vectors: Float[Array, "q s e"]) -> Float[Array, "q e"]:
    """Returns of each text's vectors the one with the largest cosine to the text's own vector (section 2.2).

    Args:
      texts: the vector of each text, once for every sample.
      vectors: the samples.
    """
    cosines = jnp.sum(texts * vectors, axis=-1) / (jnp.linalg.norm(texts, axis=-1) * jnp.linalg.norm(vectors, axis=-1))
    return jnp.take_along_axis(vectors, jnp.argmax(cosines, axis=1)[:, None, None], axis=1)[:, 0]
