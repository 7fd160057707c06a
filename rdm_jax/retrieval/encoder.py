"""Images and texts to vectors with CLIP, in batches of fixed shape."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import resize_and_crop
from rdm_jax.core.mesh import batch_sharding, local_mesh, put_locally, replicated
from rdm_jax.data.tokenizer import encode
from rdm_jax.data.unread import Unread

# A few inputs, such as a prompt, use one small compiled program; many inputs use one large program.
SMALL_BATCH = 8


@runtime_checkable
class RetrievalEncoder(Protocol):
    """Makes the rows of a database and the queries to it; vectors are as projected, not normalized."""

    @property
    def identity(self) -> dict[str, Any]:
        """The encoder's name, the SHA-256 of its weights and the width of its vectors."""
        ...

    @property
    def image_size(self) -> int:
        """The side of its square input images, in pixels."""
        ...

    @property
    def batch_size(self) -> int:
        """The number of images in a batch."""
        ...

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How an image becomes its input, as JSON for the manifest of a database."""
        ...

    def encode_images(self, images: Sequence[np.ndarray] | np.ndarray, /) -> np.ndarray:
        """Maps n images, uint8 [h, w, 3] of any sizes, to float32 [n, d]."""
        ...

    def encode_texts(self, texts: Sequence[str], /) -> np.ndarray:
        """Maps n texts to float32 [n, d]."""
        ...


@dataclasses.dataclass(frozen=True)
class ClipEncoder:
    """The CLIP of a bundle.

    Attributes:
      bundle: a bundle with the part "clip" and a tokenizer.
      batch_size: the number of images or texts in a batch; sharded over the devices of this process, and rounded up to
        a multiple of their number.

    Raises:
      UserError: the bundle has no CLIP.
    """

    bundle: Bundle
    batch_size: int = 64

    def __post_init__(self) -> None:
        self.bundle.require("clip")
        object.__setattr__(
            self, "batch_size", -(-self.batch_size // jax.local_device_count()) * jax.local_device_count()
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The encoder's name, the SHA-256 of its weights and the width of its vectors."""
        return self.bundle.encoder_identity

    @property
    def image_size(self) -> int:
        """The side of the image tower's square input, in pixels."""
        return int(self.bundle.clip.vision.image_size)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How an image becomes the input of the image tower."""
        config = self.bundle.config["clip"]
        resize = "shorter side by bicubic with antialiasing, centre cropped"  # in manifests on disk: never reworded
        return {"size": self.image_size, "resize": resize, "mean": list(config["mean"]), "std": list(config["std"])}

    def encode_images(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]] | UInt8[np.ndarray, "n h w 3"]
    ) -> Float[np.ndarray, "n d"]:
        """Maps images to embeddings, as projected, not normalized.

        The shorter side is resized to CLIP's size and the center is cropped.

        Args:
          images: n images in [0, 255], of any sizes.
        """
        size = self.image_size
        pixels = [resize_and_crop(image, size) for image in images]
        stacked = np.stack(pixels) if pixels else np.zeros((0, size, size, 3), np.uint8)
        return self._in_batches(self._encode_images, stacked)

    def encode_patches(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float[np.ndarray, "n p c"]:
        """Maps images to the states of their patches before the last block (`models.clip.CLIP.encode_patches`)."""
        pixels = [resize_and_crop(image, self.image_size) for image in images]
        return np.concatenate([np.asarray(self._encode_patches(self._params, pixel[None])) for pixel in pixels])

    @functools.cached_property
    def mean_patches(self) -> Float[np.ndarray, "1 p c"]:
        """The states of an image whose pixels are the mean, which is what stands for no image."""
        mean = np.asarray(self.bundle.config["clip"]["mean"], np.float32) * 255.0
        size = self.image_size
        return np.asarray(self._encode_patches(self._params, np.broadcast_to(mean, (1, size, size, 3))))

    def encode_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Maps texts to embeddings, as projected, not normalized; long texts are truncated, see `tokenize`."""
        return self._in_batches(self._encode_texts, self.tokenize(texts)[0])

    def encode_texts_in_chunks(self, texts: Sequence[str], size: int) -> Iterator[Float[np.ndarray, "n d"]]:
        """Yields the embeddings of `size` texts after another, and warns of all of them together.

        Args:
          texts: any number of them.
          size: of a chunk. Chunks of at most `SMALL_BATCH` go through one program, however many there are.
        """
        unread = Unread()
        for start in range(0, len(texts), size):
            rows, _ = self._tokenize(texts[start : start + size], unread)
            yield self._in_batches(self._encode_texts, rows)
        unread.warn()

    def encode_queries(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Maps prompts to query vectors, all through the program of a small batch, however many there are."""
        chunks = self.encode_texts_in_chunks(texts, SMALL_BATCH)
        return np.concatenate([np.zeros((0, self.identity["width"]), np.float32), *chunks])

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "n length"], list[str]]:
        """Returns token ids, int32 [n, context_length], and for each text the tail that was truncated, "" if none.

        Warns of texts that are truncated and of words that the tokenizer does not know, in one line if they are many.

        Raises:
          UserError: the bundle has no tokenizer, or a text is no valid Unicode.
        """
        unread = Unread()
        encoded = self._tokenize(texts, unread)
        unread.warn()
        return encoded

    def _tokenize(self, texts: Sequence[str], unread: Unread) -> tuple[Int[np.ndarray, "n length"], list[str]]:
        tokenizer, length = self.bundle.tokenizer, int(self.bundle.clip.text.context_length)
        if tokenizer is None or tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise UserError(f"model {self.bundle.name!r} has no tokenizer; export or convert it again")
        return encode(tokenizer, texts, length, unread)

    @functools.cached_property
    def _params(self) -> Any:
        return put_locally(self.bundle.params["clip"], self._mesh)

    @functools.cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        return local_mesh()

    @functools.cached_property
    def _encode_images(self) -> Callable[[Any, np.ndarray], jax.Array]:
        return self._on_pixels("encode_image")

    @functools.cached_property
    def _encode_patches(self) -> Callable[[Any, np.ndarray], jax.Array]:
        return self._on_pixels("encode_patches")

    def _on_pixels(self, method: str) -> Callable[[Any, np.ndarray], jax.Array]:
        """Returns the compiled method of CLIP, applied to pixels in [0, 255]."""
        clip, config = self.bundle.clip, self.bundle.config["clip"]
        mean, std = (np.asarray(config[key], np.float32)[None, None, None, :] for key in ("mean", "std"))

        @jax.jit
        def encode(params: Any, pixels: jax.Array) -> Any:
            normalized = (pixels.astype(jnp.float32) / 255.0 - mean) / std
            return clip.apply({"params": params}, normalized, method=method)

        return encode

    @functools.cached_property
    def _encode_texts(self) -> Callable[[Any, np.ndarray], jax.Array]:
        clip = self.bundle.clip
        return jax.jit(lambda params, tokens: clip.apply({"params": params}, tokens, method="encode_text"))

    def _in_batches(self, encode: Callable[[Any, np.ndarray], jax.Array], inputs: np.ndarray) -> np.ndarray:
        size = min(SMALL_BATCH, self.batch_size) if len(inputs) <= SMALL_BATCH else self.batch_size
        outputs = [np.zeros((0, self.identity["width"]), np.float32)]
        for start in range(0, len(inputs), size):
            batch = inputs[start : start + size]
            padded = np.pad(batch, [(0, size - len(batch))] + [(0, 0)] * (batch.ndim - 1))
            sharding = replicated(self._mesh) if size % self._mesh.size else batch_sharding(self._mesh)
            outputs.append(np.asarray(encode(self._params, jax.device_put(padded, sharding)))[: len(batch)])
        return np.concatenate(outputs)


class NoEncoder(ClipEncoder):
    """Stands for the encoder of a model without a CLIP, whose queries are vectors without numbers."""

    def __post_init__(self) -> None:
        pass

    @property
    def identity(self) -> dict[str, Any]:
        """An encoder that no database was built by."""
        return {"name": str(self.bundle.name), "sha256": "", "width": 0}

    def encode_queries(self, texts: Sequence[str]) -> Float[np.ndarray, "n 0"]:
        """Returns vectors without numbers: such a model reads its prompts in another way.

        Raises:
          UserError: there are texts, and the model reads none.
        """
        if len(texts) and not self.bundle.has("text_encoder"):
            taken = self.bundle.config["conditioning"].get("input", "none")
            raise UserError(
                f"model {self.bundle.name!r} reads no prompts, its input is {taken!r}; leave the prompt out"
            )
        return np.zeros((len(texts), 0), np.float32)

    def encode_images(self, images: Any) -> Any:
        """Raises UserError."""
        raise self._missing()

    def encode_texts(self, texts: Sequence[str]) -> Any:
        """Raises UserError."""
        raise self._missing()

    def _missing(self) -> UserError:
        return UserError(
            f"model {self.bundle.name!r} has no CLIP, and images as queries, databases and some guides need one; give "
            "a prompt alone, or convert the model again with --clip"
        )


def encoder_of(bundle: Bundle) -> ClipEncoder:
    """Returns the encoder of a bundle's queries; without a CLIP, one that refuses images and databases."""
    return ClipEncoder(bundle) if bundle.has("clip") else NoEncoder(bundle)
