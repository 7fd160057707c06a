"""What conditions a training image: its caption, its neighbors, both, or nothing.

Training, evaluation and figures assemble their tokens by `rdm_jax.conditioning.assemble`, as sampling does: the caption
takes the first place, k neighbors the others. A batch always has 1 + k places; weights of 0 mark those that an image
does not use.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from rdm_jax.conditioning.assemble import NULL, assemble
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import resize_and_crop
from rdm_jax.core.nulls import NULLS
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.core.schema import one_of
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import ImageSet, cached_array
from rdm_jax.models.condition import Condition
from rdm_jax.request import CONDITIONS
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.sidecar import NeighborSidecar
from rdm_jax.training.config import Config
from rdm_jax.training.latents import cache_folder
from rdm_jax.training.model_record import NULL_TOKEN
from rdm_jax.training.neighbors import open_neighbors
from rdm_jax.training.schema import Count, Positive, Probability

CODES = (NULL, *CONDITIONS)
"""The conditions by the number that stands for them in a record."""
CAPTION_BATCH = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioning:
    """The `conditioning` section of a config.

    Attributes:
      neighbors: k, the number of neighbors beside the caption.
      candidates: how many of the nearest neighbors the k are sampled from.
      unit_tokens: whether tokens are scaled to length 1.
      null: the token of no condition, a name in `core.nulls.NULLS`.
      null_probability: of no condition.
      text_probability: of the caption alone, where there is a condition.
      text_and_neighbors_probability: of the caption and neighbors, where there is a condition; neighbors have the rest.
      shuffled_probability: that the neighbors beside a caption are those of another image.
    """

    neighbors: Count
    candidates: Positive
    unit_tokens: bool = False
    null: Annotated[str, one_of(NULLS)] = "zeros"
    null_probability: Probability = 0.0
    text_probability: Probability = 0.0
    text_and_neighbors_probability: Probability = 0.0
    shuffled_probability: Probability = 0.0

    def __post_init__(self) -> None:
        if self.neighbors > self.candidates:
            raise UserError(
                f"conditioning.neighbors={self.neighbors} are sampled from conditioning.candidates={self.candidates}; "
                "give as many candidates or more"
            )
        if self.text_probability + self.text_and_neighbors_probability > 1.0:
            raise UserError(
                "conditioning.text_probability and conditioning.text_and_neighbors_probability add up to more than 1; "
                "lower one of them"
            )
        if self.null == "learned" and not self.null_probability:
            raise UserError("conditioning.null=learned never trains its token; give conditioning.null_probability > 0")


@dataclasses.dataclass(frozen=True)
class ImageConditions:
    """The conditions of a set of training images.

    Attributes:
      config: a run's `conditioning` section.
      images: the training images.
      width: the length d of a token.
      captions: [n, d] the encoder's vector of every caption; None where no condition has the caption.
      neighbors: the sidecar of every image's neighbors, nearest first; None trains without any condition.
    """

    config: Config
    images: ImageSet
    width: int
    captions: Float[np.ndarray, "n d"] | None
    neighbors: NeighborSidecar | None

    @property
    def token_width(self) -> int:
        """The size of a context token of the network."""
        return self.width

    @property
    def places(self) -> int:
        """The number of tokens of every batch: the caption's and k neighbors'."""
        return 1 + self.config.neighbors

    @property
    def record(self) -> dict[str, str]:
        """The hash of the neighbors' database."""
        return {"database": self.neighbors.manifest["database"]["digest"]} if self.neighbors else {}

    def sample(self, image: int, generator: np.random.Generator) -> Record:
        """Returns a random condition of an image.

        With `null_probability` there is none. Otherwise it is the caption (`text_probability`), the caption and
        neighbors (`text_and_neighbors_probability`), or neighbors. k neighbors are sampled from the `candidates`
        nearest. With `shuffled_probability`, an image with caption and neighbors gets the neighbors of another image of
        its group (see `groups`). The caption alone then carries the content and the neighbors the style, so that a
        prompt can name what a database does not hold.

        Returns:
          `condition`: its index in `CODES`; `row`: of the image; `neighbor_source`: whose neighbors; `candidates` [k]:
          which of them.
        """
        config, source = self.config, image
        condition = self._sample_name(generator.random())
        if condition == "text+neighbors" and generator.random() < config.shuffled_probability:
            source = int(generator.choice(self.groups[self._group(image)]))
        candidates = generator.choice(config.candidates, config.neighbors, replace=False)
        return {
            "condition": np.array(CODES.index(condition)),
            "row": np.array(image),
            "neighbor_source": np.array(source),
            "candidates": candidates,
        }

    def _sample_name(self, u: float) -> str:
        """Returns the condition that a uniform number in [0, 1) stands for."""
        config = self.config
        if u < config.null_probability or self.neighbors is None:
            return NULL
        u = (u - config.null_probability) / (1.0 - config.null_probability)
        if u < config.text_probability:
            return "text"
        return "text+neighbors" if u < config.text_probability + config.text_and_neighbors_probability else "neighbors"

    def complete(self, batch: Record) -> Record:
        """Returns the conditions of a batch of what `sample` returned.

        Returns:
          `context` [b, 1 + k, d] and `context_weights` [b, 1 + k]: tokens and their weights; `null` [b]: whether an
          image has no condition.
        """
        names = [CODES[code] for code in batch["condition"]]
        neighbors = self._neighbor_vectors(batch["neighbor_source"], batch["candidates"], names)
        condition = assemble(names, self._caption_vectors(batch["row"]), neighbors, unit_tokens=self.config.unit_tokens)
        null = np.array([name == NULL for name in names])
        return {"context": condition.tokens, "context_weights": condition.weights, "null": null}

    def _caption_vectors(self, rows: Int[np.ndarray, " b"]) -> Float[np.ndarray, "b d"]:
        if self.captions is None:
            return np.zeros((len(rows), self.width), np.float32)
        return self.captions[rows].astype(np.float32)

    def _neighbor_vectors(
        self, rows: Int[np.ndarray, " b"], candidates: Int[np.ndarray, "b k"], names: list[str]
    ) -> Float[np.ndarray, "b k d"]:
        """Returns the vectors of k candidates of each image; zeros where its condition has no neighbors."""
        vectors = np.zeros((*candidates.shape, self.width), np.float32)
        used = np.flatnonzero(["neighbors" in name for name in names])
        if self.neighbors is not None and len(used):
            _, _, found = self.neighbors.read(self.images.rows[rows[used]])
            vectors[used] = np.take_along_axis(found, candidates[used, :, None], axis=1)
        return vectors

    def nearest(
        self, rows: Int[np.ndarray, " b"], condition: str
    ) -> tuple[Float[np.ndarray, "b d"], Float[np.ndarray, "b k d"] | None]:
        """Returns the vectors of images' captions and of their k nearest neighbors, for sampling.

        Args:
          rows: the images.
          condition: what sampling uses, a name in `CONDITIONS`; see `shown`.

        Returns:
          zeros [b, d] for captions that no condition has; None for neighbors where `shown(condition)` has none.
        """
        name = self.shown(condition)
        candidates = np.tile(np.arange(self.config.neighbors), (len(rows), 1))
        neighbors = self._neighbor_vectors(rows, candidates, [name] * len(rows)) if "neighbors" in name else None
        return self._caption_vectors(rows), neighbors

    def shown(self, condition: str) -> str:
        """Returns the condition that figures use where sampling uses `condition`: one that there are vectors for.

        Without any it is "text", whose vectors are then the zeros of no condition.
        """
        if self.neighbors is None:
            return "text"
        return "neighbors" if self.captions is None else condition

    def nearest_images(
        self, rows: Int[np.ndarray, " b"], condition: str, count: int
    ) -> dict[str, UInt8[np.ndarray, "b h w 3"]]:
        """Returns {label: thumbnails} of the `count` nearest neighbors, at the size of the training images.

        Empty where the condition has no neighbors or their database is not open.
        """
        if self.neighbors is None or self.neighbors.database is None or "neighbors" not in self.shown(condition):
            return {}
        ids = self.neighbors.ids(self.images.rows[rows])[:, :count]
        size = self.images.images.shape[1]
        columns = [self.neighbors.database.thumbnails(np.maximum(column, 0)) for column in ids.T]
        return {
            f"neighbor {i + 1}": np.stack([resize_and_crop(image, size) for image in images])
            for i, images in enumerate(columns)
        }

    @functools.cached_property
    def groups(self) -> dict[str | None, np.ndarray]:
        """The images that share the attribute within which neighbors were searched; all under None if there is none.

        Images that are held out are among them: evaluation looks up their groups too.
        """
        rows: dict[str | None, list[int]] = {}
        for row in range(len(self.images)):
            rows.setdefault(self._group(row), []).append(row)
        return {name: np.array(members) for name, members in rows.items()}

    def _group(self, row: int) -> str | None:
        within = self.neighbors.manifest.get("within") if self.neighbors else None
        return within and self.images.attributes[row].get(within)

    def init(self) -> dict[str, Any]:
        """Returns the parameters of conditioning, {part: tree}: the null token, where it is learned."""
        if self.config.null != "learned":
            return {}
        return {NULL_TOKEN: {"token": jnp.zeros((self.width,), jnp.float32)}}

    @property
    def empty(self) -> Condition:
        """A condition of one image with every place, to initialize a network with."""
        return Condition(jnp.zeros((1, self.places, self.width), jnp.float32))


def batch_condition(params: Mapping[str, Any], batch: Mapping[str, Array]) -> Condition:
    """Returns the condition of a batch in the loss; a learned null token takes the first place of null rows.

    Args:
      params: of the task; `null`, where the null token is learned.
      batch: what `ImageConditions.complete` returned.
    """
    tokens = batch["context"]
    if NULL_TOKEN in params:
        first = jnp.where(batch["null"][:, None], params[NULL_TOKEN]["token"][None], tokens[:, 0])
        tokens = tokens.at[:, 0].set(first)
    return Condition(tokens, batch["context_weights"])


def conditioning_section(config: Config) -> dict[str, Any]:
    """Returns the `conditioning` section of an exported model, but for a learned null token.

    Args:
      config: a run's `conditioning` section.
    """
    return {name: config[name] for name in ("neighbors", "unit_tokens", "null")}


def open_image_conditions(
    config: Config, images: ImageSet, encoder: ClipEncoder, progress: StageProgressCallback
) -> ImageConditions:
    """Returns the conditions of a run; encodes captions and computes neighbors first where they are not there.

    Args:
      config: of the run: `conditioning` and `data` (`neighbors`, `database`, `compute`).
      images: the training images.
      encoder: of captions and neighbors.
      progress: called with (what, done, total).

    Raises:
      UserError: the neighbors are missing, of another data set or encoder, or fewer than are sampled from.
    """
    conditioning, captions = config.conditioning, None
    neighbors = open_neighbors(config, images, encoder, progress) if config.data.neighbors else None
    if neighbors and conditioning.text_probability + conditioning.text_and_neighbors_probability > 0:
        report = functools.partial(progress, "encoding captions")
        captions = encode_captions(encoder, images, cache_folder(config.data), report)
    return ImageConditions(conditioning, images, int(encoder.identity["width"]), captions, neighbors)


def encode_captions(encoder: ClipEncoder, images: ImageSet, folder: Path, progress: Any) -> Float[np.ndarray, "n d"]:
    """Returns the encoder's vectors of all captions in float16, cached in `folder` by the hashes of both."""

    def chunks() -> Iterator[np.ndarray]:
        """Yields the vectors of one batch of captions after another."""
        for number, vectors in enumerate(encoder.encode_texts_in_chunks(images.captions, CAPTION_BATCH), 1):
            yield vectors.astype(np.float16)
            progress(min(number * CAPTION_BATCH, len(images)), len(images))

    name = f"captions-{encoder.identity['sha256'][:16]}-{images.fingerprint[:16]}-{len(images)}"
    return cached_array(folder / name, len(images), chunks)
