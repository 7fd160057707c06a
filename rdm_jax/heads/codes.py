"""What the heads over the codes of a VQ first stage have in common: the shape of a program, and its decoder."""

from __future__ import annotations

import dataclasses
from typing import Any

from rdm_jax.factory import codes_decoder_from
from rdm_jax.heads.compiling import Compiler


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a program is compiled for; everything else is traced.

    Attributes:
      guided: whether the unconditional logits are computed too.
      chunk: positions, or steps, in one call.
      batch: images in one call.
      size: (h, w) of an image's latents.
      tokens: the codes of an image.
      context: the form of the conditions (`conditioning.Context`).
    """

    guided: bool
    chunk: int
    batch: int
    size: tuple[int, int]
    tokens: int
    context: tuple[Any, ...]


def compiled_decoder(shape: Shape, codes: Any, compiler: Compiler, first_stage: str = "autoencoder") -> Any:
    """Returns the executable from (first stage's parameters, codes [b, l]) to images, on all devices.

    Args:
      shape: of the program.
      codes: their shape and type.
      compiler: of the model.
      first_stage: the part that decodes.
    """
    bundle, replicated = compiler.bundle, compiler.replicated
    decode = codes_decoder_from(getattr(bundle, first_stage), shape.size)
    arguments, places = (bundle.params[first_stage], codes), (replicated, compiler.batch(shape.batch))
    return compiler.once(
        ("decode codes", first_stage, shape.batch, shape.size),
        lambda: compiler.compile(decode, arguments, places, replicated),
    )
