"""Training images conditioned on the tokens of their captions and on their neighbors.

The networks that make context tokens of both are trained with the one that is conditioned: an encoder of the text, and
a projection of the neighbors' vectors.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from rdm_jax.bundle import DTYPES, Bundle
from rdm_jax.conditioning.assemble import NULL
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.core.schema import one_of
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import ImageSet, cached_array
from rdm_jax.data.tokenizer import encode, tokenize
from rdm_jax.data.unread import Unread
from rdm_jax.models import ImageAdapter, TextEncoder, build_image_adapter, build_text_encoder
from rdm_jax.models.condition import Condition, ImageTokens
from rdm_jax.parts import PADDING, without_padding
from rdm_jax.training.conditioning import CAPTION_BATCH, CODES, ImageConditions
from rdm_jax.training.config import Config
from rdm_jax.training.latents import cache_folder
from rdm_jax.training.schema import Count, Positive

TEXT, NEIGHBORS = "text_encoder", "image_adapter"
"""The parts of a model that make tokens of texts and of neighbors."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """The encoder of captions, a transformer in which every token sees all.

    Attributes:
      context_length: tokens of a row, the start and the end included.
      width: channels of a token.
      layers: blocks; 0 gives the embedded tokens as they are, for a model without an encoder.
      heads: of each block.
      head_channels: of each head.
      dtype: what products are computed in.
    """

    context_length: Positive = 64
    width: Positive
    layers: Count
    heads: Positive
    head_channels: Positive = 64
    dtype: Annotated[str, one_of(DTYPES)] = "float32"


@dataclasses.dataclass(frozen=True)
class TextConditions(ImageConditions):
    """The conditions of a set of training images whose captions are read as sequences of tokens.

    Attributes:
      settings: {part: its configuration} of the networks that make tokens.
      texts: [n, l] the token ids of every caption.
      empty_text: [l] those of the empty text.
    """

    settings: Mapping[str, Any]
    texts: Int[np.ndarray, "n l"]
    empty_text: Int[np.ndarray, " l"]

    @functools.cached_property
    def encoder(self) -> TextEncoder:
        """The encoder of texts."""
        return build_text_encoder(without_padding(self.settings[TEXT]))

    @functools.cached_property
    def projection(self) -> ImageAdapter | None:
        """The projection of neighbors; None for a model that takes none."""
        return build_image_adapter(self.settings[NEIGHBORS]) if NEIGHBORS in self.settings else None

    @property
    def token_width(self) -> int:
        """The size of a context token of the network."""
        return self.encoder.width

    def _sample_name(self, u: float) -> str:
        """Returns the condition that a uniform number in [0, 1) stands for; without neighbors the text or none."""
        if self.neighbors is not None:
            return super()._sample_name(u)
        return NULL if u < self.config.null_probability else "text"

    def complete(self, batch: Record) -> Record:
        """Returns the conditions of a batch of what `sample` returned.

        Returns:
          `text` [b, l]: token ids; where the model takes neighbors, `neighbors` [b, k, d], their vectors, and
          `neighbor_weights` [b, k], 0 where an image has none.
        """
        names = [CODES[code] for code in batch["condition"]]
        read, used = (np.array([part in name for name in names])[:, None] for part in ("text", "neighbors"))
        texts = np.where(read, self.texts[batch["row"]], self.empty_text[None]).astype(np.int32)
        if self.projection is None:
            return {"text": texts}
        vectors = self._neighbor_vectors(batch["neighbor_source"], batch["candidates"], names)
        weights = np.broadcast_to(used, vectors.shape[:2]).astype(np.float32)
        return {"text": texts, "neighbors": vectors, "neighbor_weights": weights}

    def init_networks(self, key: Key[Array, ""]) -> dict[str, Any]:
        """Returns initial parameters of the networks that make tokens, {part: tree}."""
        networks = {TEXT: self.encoder} | ({} if self.projection is None else {NEIGHBORS: self.projection})
        return init_parts(key, networks)

    def condition(self, params: Mapping[str, Any], batch: Mapping[str, Array]) -> Condition:
        """Returns the condition of a batch of what `complete` returned, in the loss.

        Args:
          params: of the task.
          batch: as `complete` returned it.
        """
        states: Any = self.encoder.apply({"params": params[TEXT]}, batch["text"])
        if self.projection is None:
            return Condition(states)
        b, k, d = batch["neighbors"].shape
        tokens: Any = self.projection.apply({"params": params[NEIGHBORS]}, batch["neighbors"].reshape(b * k, d))
        images = ImageTokens(tokens.reshape(b, 1, k, -1), jnp.ones((b, 1)), batch["neighbor_weights"][:, None])
        return Condition(states, images=images)

    @property
    def empty(self) -> Condition:
        """A condition of one image, to initialize a network with."""
        return Condition(jnp.zeros((1, 1, self.token_width), jnp.float32))


def token_networks(config: Config, vocab_size: int, pad_id: int, vector_dim: int) -> dict[str, Any]:
    """Returns {part: its configuration} of the networks that make tokens.

    Args:
      config: of the run: `text`, and `conditioning.neighbors`; without neighbors there is no projection.
      vocab_size: of the tokenizer.
      pad_id: the token that pads.
      vector_dim: the length of a neighbor's vector.
    """
    parts: dict[str, Any] = {TEXT: text_network(config, vocab_size, pad_id)}
    if config.conditioning.neighbors:
        width = config.text.width
        parts[NEIGHBORS] = {"kind": "vector", "vector_dim": vector_dim, "token_dim": width, "tokens": 1}
    return parts


def text_network(config: Config, vocab_size: int, pad_id: int) -> dict[str, Any]:
    """Returns the configuration of the encoder of texts; the arguments are those of `token_networks`."""
    return {"kind": "bert", **config.text.to_dict(), "vocab_size": vocab_size, PADDING: pad_id}


def caption_tokens(
    config: Config, base: Bundle, images: ImageSet, progress: StageProgressCallback
) -> tuple[Int[np.ndarray, "n l"], Int[np.ndarray, " l"]]:
    """Returns the token ids of all captions, which are made first where they are missing, and of the empty text.

    Args:
      config: of the run: `text` and `data`.
      base: has the tokenizer.
      images: have the captions.
      progress: called with (what, done, total).

    Raises:
      UserError: the base has no tokenizer with a start and an end token.
    """
    tokenizer, length = base.tokenizer, config.text.context_length
    if tokenizer is None or tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
        raise UserError(f"base {config.base!r} has no tokenizer with a start and an end token; give one whose CLIP has")

    def chunks() -> Iterator[np.ndarray]:
        """Yields the token ids of some captions after others; warns at the end of what is not read."""
        unread = Unread()
        for start in range(0, len(images), CAPTION_BATCH):
            yield encode(tokenizer, images.captions[start : start + CAPTION_BATCH], length, unread)[0]
            progress("reading captions", min(start + CAPTION_BATCH, len(images)), len(images))
        unread.warn()

    name = f"tokens-{base.hashes['tokenizer'][:16]}-{images.fingerprint[:16]}-{length}-{len(images)}"
    texts = cached_array(cache_folder(config.data) / name, len(images), chunks)
    return texts, tokenize(tokenizer, [""], length)[0]


def with_texts(
    config: Config, base: Bundle, conditions: ImageConditions, progress: StageProgressCallback
) -> TextConditions:
    """Returns conditions with the tokens of captions; raises UserError as `caption_tokens` does."""
    texts, empty = caption_tokens(config, base, conditions.images, progress)
    settings = token_networks(config, len(base.tokenizer or ()), int(empty[-1]), conditions.width)
    return _joined(conditions, settings, texts, empty)


def without_texts(config: Config, conditions: ImageConditions, vocab_size: int) -> TextConditions:
    """Returns conditions whose captions are empty, of a tokenizer of a size, for a dry run."""
    texts = np.zeros((len(conditions.images), config.text.context_length), np.int32)
    return _joined(conditions, token_networks(config, vocab_size, 0, conditions.width), texts, texts[0])


def _joined(conditions: ImageConditions, settings: Mapping[str, Any], texts: Any, empty: Any) -> TextConditions:
    own = {field.name: getattr(conditions, field.name) for field in dataclasses.fields(conditions)}
    return TextConditions(**own, settings=settings, texts=texts, empty_text=empty)


def init_parts(key: Key[Array, ""], networks: Mapping[str, Any]) -> dict[str, Any]:
    """Returns initial parameters of networks, {part: tree}, each with a key of its own."""
    params = {}
    for own, (part, module) in zip(jax.random.split(key, len(networks)), networks.items(), strict=True):
        inputs = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), module.smallest_inputs)
        params[part] = module.init(own, *inputs)["params"]
    return params
