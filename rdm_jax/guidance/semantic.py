"""Semantic diffusion guidance (SDG): Liu et al. 2021, "More Control for Free!" (https://arxiv.org/abs/2112.05744).

An image encoder trained on noisy images compares x_t with a text (eq. 7; GLIDE's CLIP guidance,
https://arxiv.org/abs/2112.10741, section 2.4), and with a reference image that is noised again in each step: by content
(eq. 8), by spatial structure (eq. 9), by style (eq. 10, with separate Gram matrices for each image). All terms share
one evaluation of the encoder on x_t. Squared differences are relative to the reference's own squares at each level: the
released program multiplies by a constant for its encoder, while relative differences suit any encoder and any level.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.core.calls import File
from rdm_jax.core.errors import UserError
from rdm_jax.core.keys import normal
from rdm_jax.data.tokenizer import encode as encode_texts
from rdm_jax.data.unread import Unread
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.factory import noised_encoder_from
from rdm_jax.guidance.base import GuidanceMethod, GuideContext, GuideEffects, Networks, weights_per_image
from rdm_jax.guidance.gradient import Objective
from rdm_jax.models.noised_clip import NoisedCLIP

Encode = Callable[[Float[Array, "b h w c"], Array], tuple[Float[Array, "b d"], Sequence[Float[Array, "b _ _ _"]]]]
"""x_t and its times [b] to a vector and the feature maps below it."""

FOLD = 0x5D6  # folded into a step's keys; each file that samples noise in a step has its own number


@dataclasses.dataclass(frozen=True)
class Text:
    """A target text.

    Attributes:
      vector: [b, d] or one for all, in the encoder's space.
      weight: of the cosine similarity to it, a number or [b].
    """

    vector: Any
    weight: Any


@dataclasses.dataclass(frozen=True)
class Reference:
    """A reference image with the weights of its terms, numbers or [b]; None omits a term.

    Attributes:
      x0: [b, h, w, c] or one for all, as the denoiser takes images.
      content: weight of the cosine similarity of the vectors.
      structure: weight of the relative squared difference of the feature maps.
      style: weight of the relative squared difference of their Gram matrices.
    """

    x0: Any
    content: Any = None
    structure: Any = None
    style: Any = None


def semantic(encode: Encode, terms: Sequence[Text | Reference]) -> Objective:
    """Returns the weighted sum of all terms as one objective, which evaluates the encoder on x_t once.

    Args:
      encode: the encoder of noisy images.
      terms: texts and reference images; the latter need a plan with keys.
    """

    def similarity(term: Text | Reference, vector: Array, maps: Sequence[Array], info: StepInfo, t: Array) -> Array:
        """Returns the weighted similarity [b] of x_t to one target, from its vector and feature maps."""
        if isinstance(term, Text):
            return term.weight * cosine(vector, term.vector)
        shape = (len(t), *jnp.shape(term.x0)[1:])
        wanted, wanted_maps = jax.lax.stop_gradient(encode(renoised(term.x0, shape, info), t))
        pairs = list(zip(maps, wanted_maps, strict=True))
        total = jnp.zeros(len(t))
        if term.content is not None:
            total += term.content * cosine(vector, wanted)
        if term.structure is not None:
            total -= term.structure * sum(relative_square(a, b) for a, b in pairs)
        if term.style is not None:
            total -= term.style * sum(relative_square(gram(a), gram(b)) for a, b in pairs)
        return total

    def measure(x_t: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, " b"]:
        """Returns the weighted sum of the similarities of each x_t."""
        t = jnp.broadcast_to(info.t, x_t.shape[:1])
        vector, maps = encode(x_t, t)
        return jnp.sum(jnp.stack([similarity(term, vector, maps, info, t) for term in terms]), axis=0)

    return Objective(measure, 1.0)


def renoised(x0: Float[Array, "#b h w c"], shape: tuple[int, ...], info: StepInfo) -> Float[Array, "b h w c"]:
    """Returns alpha x0 + sigma z at a step's noise level, with new noise z from each image's key.

    Raises:
      ValueError: the plan has no keys.
    """
    if info.keys is None:
        raise ValueError("a reference is noised in each step: give the plan its keys, `with_keys(steps, keys)`")
    noise = normal(jax.vmap(lambda key: jax.random.fold_in(key, FOLD))(info.keys), shape[1:])
    alpha, sigma = (per_image(info.coefficients[name], len(shape)) for name in ("alpha", "sigma"))
    return alpha * x0 + sigma * noise


def cosine(one: Float[Array, "b d"], other: Float[Array, "#b d"]) -> Float[Array, " b"]:
    """Returns the cosine similarity of each pair of vectors."""
    lengths = jnp.linalg.norm(one, axis=-1) * jnp.linalg.norm(other, axis=-1)
    return jnp.sum(one * other, axis=-1) / jnp.maximum(lengths, 1e-12)


def gram(features: Float[Array, "b h w c"]) -> Float[Array, "b c c"]:
    """Returns the Gram matrix of each image: products of channels, averaged over all positions."""
    _, height, width, _ = features.shape
    return jnp.einsum("bhwc,bhwd->bcd", features, features) / (height * width)


def relative_square(one: Float[Array, "b ..."], other: Float[Array, "b ..."]) -> Float[Array, " b"]:
    """Returns the sum of squared differences over the sum of squares of `other`: 1 where `one` is 0."""
    axes = tuple(range(1, one.ndim))
    return jnp.sum(jnp.square(one - other), axis=axes) / jnp.maximum(jnp.sum(jnp.square(other), axis=axes), 1e-12)


def text_vector(context: GuideContext, text: str) -> Float[np.ndarray, "1 d"]:
    """Returns the vector of a text in the space of a model's encoder of noisy images.

    A CLIP of noisy images has a text tower of its own; other encoders are trained towards the model's CLIP.

    Raises:
      UserError: the tokenizer is missing.
    """
    module, tokenizer = context.bundle.noised_clip, context.bundle.noised_tokenizer
    if not isinstance(module, NoisedCLIP):
        return context.text_vector(text)
    if tokenizer is None:
        raise UserError(
            f"the CLIP of noisy images of model {context.bundle.name!r} has no tokenizer; convert the model again with "
            "--noised-tokenizer"
        )
    unread = Unread()
    rows, _ = encode_texts(tokenizer, [text], module.context_length, unread)
    unread.warn()
    lengths = np.argmax(rows == tokenizer.eos_token_id, axis=1).astype(np.int32) + 1
    rows = np.where(np.arange(module.context_length)[None] < lengths[:, None], rows, 0)
    return np.asarray(_encode_text(module, context.bundle.params["noised_clip"], rows, lengths))


@functools.partial(jax.jit, static_argnums=0)
def _encode_text(module: NoisedCLIP, params: Any, rows: Any, lengths: Any) -> Any:
    return module.apply({"params": params}, rows, lengths, method="encode_text")


@dataclasses.dataclass(frozen=True)
class SDG(GuidanceMethod):
    """Semantic diffusion guidance: guides x_t towards a text, or an image's content, structure or style."""

    text: str = ""
    content: File = ""
    structure: File = ""
    style: File = ""
    weight: float | list[float] = 100.0
    source: ClassVar[str] = "arXiv 2112.05744"
    needs: ClassVar[Mapping[str, str]] = {"noised_clip": "noised_clip"}

    def inputs(self, context: GuideContext) -> dict[str, Any]:
        """Returns the text's vector, the references' latents and the weight."""
        files = {name: getattr(self, name) for name in ("content", "structure", "style") if getattr(self, name)}
        if not self.text and not files:
            raise UserError("guide sdg has no target; give it text='...', or content, structure or style='FILE'")
        if isinstance(context.bundle.noised_clip, NoisedCLIP) and {"structure", "style"} & files.keys():
            raise UserError(
                "guide sdg compares structure and style in feature maps, and this model's CLIP of noisy images is a "
                "transformer without; use text or content"
            )
        targets: dict[str, Any] = {name: context.latent_of(file) for name, file in files.items()}
        targets |= {"text": text_vector(context, self.text)} if self.text else {}
        return targets | {"weight": weights_per_image(self.weight)}

    def effects(self, networks: Networks, inputs: dict[str, Any], noise: Array) -> GuideEffects:
        """Returns the objective of this guide alone."""
        return self.effects_of_all(networks, [(self, inputs)], noise)

    @classmethod
    def effects_of_all(
        cls, networks: Networks, guides: Sequence[tuple[Any, dict[str, Any]]], noise: Array
    ) -> GuideEffects:
        """Returns one objective for all texts and references: the encoder is evaluated on x_t once for all of them."""
        encode = functools.partial(noised_encoder_from(networks.bundle.noised_clip), networks.params["noised_clip"])
        terms: list[Text | Reference] = []
        for _, inputs in guides:
            weight = inputs["weight"]
            terms += [Text(inputs["text"], weight)] if "text" in inputs else []
            names = [name for name in ("content", "structure", "style") if name in inputs]
            terms += [Reference(inputs[name], **{name: weight}) for name in names]
        return GuideEffects(objectives=(semantic(encode, terms),))
