"""Training images conditioned on several encoders, each dropped at random by a rate of its own (eDiff-I,
https://arxiv.org/abs/2211.01324, section 3)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.encoders import (
    CLIP_IMAGE,
    CLIP_STATES,
    CLIP_TEXT,
    ENCODERS,
    NEIGHBORS,
    OF_TEXTS,
    PART,
    POOLED,
    TEXT_STATES,
    beside_time,
    clip_states,
    join,
    project,
)
from rdm_jax.conditioning.prior import text_tower
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import ImageSet
from rdm_jax.models import EncoderTokens, ProjectedText, TextEncoder, build_encoder_tokens, build_text_encoder
from rdm_jax.models.condition import Condition
from rdm_jax.parts import without_padding
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.conditioning import ImageConditions, encode_captions
from rdm_jax.training.config import Config
from rdm_jax.training.latents import cache_folder
from rdm_jax.training.neighbors import open_neighbors
from rdm_jax.training.schema import Probability
from rdm_jax.training.text_conditions import TEXT, caption_tokens, init_parts, text_network
from rdm_jax.training.vectors import image_vectors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoders:
    """The `encoders` section: how often each encoder's part of a condition is dropped; 1 is a model without it.

    Attributes:
      clip_text: of CLIP's vector of the caption.
      clip_states: of the states of the caption's tokens in CLIP.
      text_states: of the states in a text encoder that is trained along, the section `text`.
      clip_image: of CLIP's vector of the image itself.
      neighbors: of CLIP's vectors of the neighbors.
      beside_time: whether CLIP's vectors of the caption and of the image are beside the time as well.
    """

    clip_text: Probability = 1.0
    clip_states: Probability = 1.0
    text_states: Probability = 1.0
    clip_image: Probability = 1.0
    neighbors: Probability = 1.0
    beside_time: bool = False

    @property
    def rates(self) -> dict[str, float]:
        """The rate of each encoder that the model has, in the order of its tokens."""
        return {name: getattr(self, name) for name in ENCODERS if getattr(self, name) < 1.0}


@dataclasses.dataclass(frozen=True)
class EncoderConditions(ImageConditions):
    """The conditions of a set of training images by several encoders.

    Attributes:
      rates: how often each encoder is dropped, in the order of the tokens.
      settings: {part: its configuration} of the networks that are trained along: the projections, and a text encoder.
      vectors: [n, d] CLIP's vector of every image; None where no encoder gives it.
      texts: [n, l] the token ids of every caption for the text encoder; None without one.
      clip_texts: [n, m] the same for CLIP's states.
      tower: CLIP's text transformer; None where its states are no encoder's.
      tower_params: its parameters, which stay as they are.
    """

    rates: Mapping[str, float]
    settings: Mapping[str, Any]
    vectors: Float[np.ndarray, "n d"] | None = None
    texts: Int[np.ndarray, "n l"] | None = None
    clip_texts: Int[np.ndarray, "n m"] | None = None
    tower: ProjectedText | None = None
    tower_params: Any = None

    @functools.cached_property
    def projections(self) -> EncoderTokens:
        """What makes tokens of the encoders' outputs."""
        return build_encoder_tokens(self.settings[PART])

    @functools.cached_property
    def text_encoder(self) -> TextEncoder | None:
        """The text encoder that is trained along; None without one."""
        return build_text_encoder(without_padding(self.settings[TEXT])) if TEXT in self.settings else None

    @property
    def frozen(self) -> dict[str, Any]:
        """The parameters that conditions are made with and that are not trained."""
        return {} if self.tower is None else {CLIP_STATES: self.tower_params}

    def sample(self, image: int, generator: np.random.Generator) -> Record:
        """Returns a random condition of an image: each encoder is dropped by its rate, independently of the others.

        With `null_probability` all are. Neighbors beside a text are those of another image of its group with
        `shuffled_probability`, as of `ImageConditions`.

        Returns:
          `kept` [e]: 1 for each encoder that is not dropped; `row`, `neighbor_source` and `candidates` as there.
        """
        config, source = self.config, image
        kept = generator.random(len(self.rates)) >= np.fromiter(self.rates.values(), np.float64)
        kept &= generator.random() >= config.null_probability
        named = {name for name, one in zip(self.rates, kept, strict=True) if one}
        if NEIGHBORS in named and named.intersection(OF_TEXTS) and generator.random() < config.shuffled_probability:
            source = int(generator.choice(self.groups[self._group(image)]))
        return {
            "kept": kept.astype(np.float32),
            "row": np.array(image),
            "neighbor_source": np.array(source),
            "candidates": generator.choice(config.candidates, config.neighbors, replace=False),
        }

    def complete(self, batch: Record) -> Record:
        """Returns the conditions of a batch of what `sample` returned.

        Returns:
          `kept` [b, e]; for each encoder its output [b, n, d], or the token ids [b, l] that it reads.
        """
        rows, kept = batch["row"], dict(zip(self.rates, batch["kept"].T, strict=True))
        names = ["neighbors" if one else "" for one in kept.get(NEIGHBORS, np.zeros(len(rows)))]
        given = {
            CLIP_TEXT: lambda: self._caption_vectors(rows)[:, None],
            CLIP_STATES: lambda: _of(self.clip_texts, rows),
            TEXT_STATES: lambda: _of(self.texts, rows),
            CLIP_IMAGE: lambda: _of(self.vectors, rows).astype(np.float32)[:, None],
            NEIGHBORS: lambda: self._neighbor_vectors(batch["neighbor_source"], batch["candidates"], names),
        }
        return {"kept": batch["kept"], **{name: given[name]() for name in self.rates}}

    def condition(self, params: Mapping[str, Any], batch: Mapping[str, Array]) -> Condition:
        """Returns the condition of a batch of what `complete` returned, in the loss.

        Args:
          params: of the task, and the frozen ones.
          batch: as `complete` returned it.
        """
        kept, outputs, present = batch["kept"], {}, {}
        for place, name in enumerate(self.rates):
            output, there = self._output(params, name, batch[name])
            outputs[name], present[name] = output, there * kept[:, place, None]
        tokens = project(self.projections, params[PART], outputs)
        joined = join(params[PART]["null"], tokens, present, len(kept))
        return dataclasses.replace(joined, vector=beside_time(self.projections, outputs, present, len(kept)))

    def _output(self, params: Mapping[str, Any], name: str, given: Array) -> tuple[Array, Array]:
        """Returns what an encoder gives, [b, n, d], and which of it belongs to an input, [b, n]."""
        if name == CLIP_STATES:
            assert self.tower is not None
            states, present = clip_states(self.tower, params[CLIP_STATES], given)
            return jax.lax.stop_gradient(states), present
        if name == TEXT_STATES:
            assert self.text_encoder is not None
            states: Any = self.text_encoder.apply({"params": params[TEXT]}, given)
            return states, jnp.ones(states.shape[:2])
        return given, jnp.ones(given.shape[:2])

    def init_networks(self, key: Key[Array, ""]) -> dict[str, Any]:
        """Returns initial parameters of the networks that are trained along, {part: tree}."""
        networks = {PART: self.projections} | ({} if self.text_encoder is None else {TEXT: self.text_encoder})
        return init_parts(key, networks)

    def shown(self, condition: str) -> str:
        """Returns the condition that figures use where sampling uses `condition`: one that there are encoders for."""
        if NEIGHBORS not in self.rates:
            return "text"
        return condition if self.rates.keys() & set(OF_TEXTS) else "neighbors"

    @property
    def empty(self) -> Condition:
        """A condition of one image, to initialize a network with."""
        size = self.projections.vector_dim
        tokens = jnp.zeros((1, 2, self.token_width), jnp.float32)
        return Condition(tokens, jnp.ones((1, 2)), vector=jnp.zeros((1, size)) if size else None)


def _of(array: np.ndarray | None, rows: Int[np.ndarray, " b"]) -> np.ndarray:
    assert array is not None
    return np.asarray(array[rows])


def networks(
    config: Config, rates: Mapping[str, float], width: int, state_dim: int, vocab_size: int, pad_id: int
) -> dict[str, Any]:
    """Returns {part: its configuration} of the networks that are trained along.

    Args:
      config: of the run: `encoders` and `text`.
      rates: of the encoders.
      width: the length of CLIP's vectors, and of a context token.
      state_dim: the size of CLIP's states.
      vocab_size: of the tokenizer.
      pad_id: the token that pads.
    """
    text = {TEXT: text_network(config, vocab_size, pad_id)} if TEXT_STATES in rates else {}
    sizes = {CLIP_STATES: state_dim, TEXT_STATES: text[TEXT]["width"] if text else 0}
    beside = [name for name in POOLED if name in rates] if config.encoders.beside_time else []
    own = {"encoders": list(rates), "sizes": [sizes.get(name, width) for name in rates], "token_dim": width}
    return {PART: {**own, "beside_time": beside}, **text}


def open_encoder_conditions(
    config: Config, rates: Mapping[str, float], base: Bundle, images: ImageSet, progress: StageProgressCallback
) -> EncoderConditions:
    """Returns the conditions of a run; encodes captions and images and computes neighbors first where they are missing.

    Args:
      config: of the run.
      rates: of its encoders.
      base: has the CLIP.
      images: the training images.
      progress: called with (what, done, total).

    Raises:
      UserError: the base has no tokenizer, CLIP has no states of tokens, or the neighbors are missing, of another data
        set or encoder, or fewer than are sampled from.
    """
    encoder, folder = ClipEncoder(base), cache_folder(config.data)
    report = functools.partial(functools.partial, progress)
    neighbors = open_neighbors(config, images, encoder, progress) if NEIGHBORS in rates else None
    captions = encode_captions(encoder, images, folder, report("encoding captions")) if CLIP_TEXT in rates else None
    vectors = image_vectors(base, images, folder, report("encoding images by CLIP")) if CLIP_IMAGE in rates else None
    texts, empty = caption_tokens(config, base, images, progress) if TEXT_STATES in rates else (None, [0])
    tower, params = text_tower(base) if CLIP_STATES in rates else (None, None)
    clip_texts = None if tower is None else encoder.tokenize(images.captions)[0]
    width, vocabulary = int(encoder.identity["width"]), len(base.tokenizer or ())
    settings = networks(config, rates, width, tower.width if tower else 0, vocabulary, int(empty[-1]))
    given = {"vectors": vectors, "texts": texts, "clip_texts": clip_texts, "tower": tower, "tower_params": params}
    return EncoderConditions(config.conditioning, images, width, captions, neighbors, rates, settings, **given)


def abstract_encoder_conditions(
    config: Config, rates: Mapping[str, float], conditions: ImageConditions, text: Mapping[str, Any]
) -> EncoderConditions:
    """Returns conditions without data, for a dry run.

    Args:
      config: of the run.
      rates: of its encoders.
      conditions: without data, of the same image.
      text: the configuration of CLIP's text tower.

    Raises:
      UserError: CLIP's states are an encoder's, whose frozen tower a dry run does not have.
    """
    if CLIP_STATES in rates:
        raise UserError("encoders.clip_states needs CLIP's weights, which a dry run has not; set it to 1 for that")
    width, length = conditions.width, config.text.get("context_length", 1)
    settings = networks(config, rates, width, 0, int(text["vocab_size"]), 0)
    vectors = np.zeros((1, width), np.float16)
    given = {"vectors": vectors, "texts": np.zeros((1, length), np.int32)}
    return EncoderConditions(config.conditioning, conditions.images, width, vectors, None, rates, settings, **given)
