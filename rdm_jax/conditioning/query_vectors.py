"""How a prompt becomes the vector that retrieves neighbors and conditions a model.

CLIP's vectors of texts and of images lie apart. Databases hold images, and the neighbors that condition a model are
images: a translator (https://arxiv.org/abs/2209.10948) or a prior (https://arxiv.org/abs/2204.06125) maps a text to the
vector of an image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.prior import PriorSampler
from rdm_jax.models import Translator
from rdm_jax.request import PRIOR, TRANSLATOR, Request
from rdm_jax.retrieval.encoder import SMALL_BATCH, ClipEncoder

EncodePrompts = Callable[[Sequence[str]], Float[np.ndarray, "q d"]]


def prompt_encoder(bundle: Bundle, encoder: ClipEncoder, request: Request) -> EncodePrompts:
    """Returns the function from prompts to the vectors that `request.query_vector` names.

    A model without a CLIP retrieves nothing, and its vectors have no numbers, whatever the name.

    Args:
      bundle: the model.
      encoder: its CLIP.
      request: what is wanted.

    Raises:
      UserError: the model has a prior that cannot read its text tower.
    """
    if request.query_vector == TRANSLATOR and bundle.has("clip"):
        bundle.require(TRANSLATOR)
        return lambda prompts: translate(bundle.translator, bundle.params[TRANSLATOR], encoder.encode_queries(prompts))
    if request.query_vector == PRIOR and bundle.has("clip"):
        sampler = PriorSampler.of(bundle, request, encoder.tokenize([""])[0][0])
        return lambda prompts: sampler(encoder.tokenize(prompts)[0])
    return encoder.encode_queries


def translate(module: Translator, params: Any, vectors: Float[np.ndarray, "q d"]) -> Float[np.ndarray, "q d"]:
    """Returns the vectors of images for vectors of texts, all through the program of a small batch."""
    parts = [np.zeros((0, module.embed_dim), np.float32)]
    for start in range(0, len(vectors), SMALL_BATCH):
        group = vectors[start : start + SMALL_BATCH]
        padded = np.pad(group, ((0, SMALL_BATCH - len(group)), (0, 0)))
        parts.append(np.asarray(_translate(module, params, padded))[: len(group)])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=0)
def _translate(module: Translator, params: Any, vectors: Array) -> Any:
    return module.apply({"params": params}, vectors)
