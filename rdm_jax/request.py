"""The options that every request has beside its prompts, whatever the head that makes the images.

    request, options = resolve(bundle.config, head, given, queries=2)

`given` may mix the options of `Request` with those of the model's head.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rdm_jax.core import options
from rdm_jax.core.checks import at_least_one
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.images import DECODED_PIXELS
from rdm_jax.core.options import option

if TYPE_CHECKING:
    from rdm_jax.conditioning import Conditioner

MAX_BATCH = 8
MAX_GUIDANCE = 1000.0
CONDITIONS = ("neighbors", "text", "text+neighbors")  # the query is in those with "text"
NULLS = ("zeros", "learned")  # the token of no condition: zeros, or a vector of its own


def _conditioners() -> Mapping[str, type]:
    return importlib.import_module("rdm_jax.conditioning").CONDITIONERS


@dataclasses.dataclass(frozen=True)
class Request:
    """A request with every default filled in.

    Attributes:
      condition: the context tokens: "neighbors", "text" (the query alone) or "text+neighbors".
      neighbors: how many neighbors each query fetches; 0 where the condition has none.
      num_images: images for each query.
      batch_size: images in one call of the compiled program; the last batch is padded to it.
      seed: of the run.
      height: of an image in pixels.
      width: of an image in pixels.
      conditions: conditioners beside the query (`rdm_jax.conditioning`).
    """

    condition: str = option("neighbors", "neighbors, text, or text+neighbors", metavar="C", label="Condition")
    neighbors: int = option(4, "neighbors for each query", metavar="K")
    num_images: int = option(1, "images for each query (default: 1)", metavar="N")
    batch_size: int = option(0, "images generated at once (default: up to 8)", metavar="B")
    seed: int = option(0, "random if omitted; printed and recorded", metavar="I", label="Seed")
    height: int = option(256, "in pixels", metavar="H")
    width: int = option(256, "in pixels", metavar="W")
    conditions: tuple[Conditioner, ...] = option(
        (),
        "a condition beside the query, as \"region(mask='left.png', database='neon')\" (repeatable; --list-guides)",
        metavar="CALL",
        flag="--with",
        table=_conditioners,
        what="condition",
    )


def resolve(
    config: Mapping[str, Any], head: Any, given: Mapping[str, Any], queries: int, others: Mapping[str, type] = {}
) -> tuple[Request, Any]:
    """Returns the request and the head's options: what is given, else the model's own defaults, checked.

    Args:
      config: the bundle's configuration; "sampling" and "conditioning" hold the defaults.
      head: the model's (`heads.base.Head`).
      given: options of `Request` and of the head by name; None takes the default.
      queries: the number of prompts, images and rows.
      others: {head's name: its options}, for the error that names whose an option is.

    Raises:
      UserError: a value is out of range, or the model has no such option.
    """
    if queries == 0:
        raise UserError("nothing to generate: give a prompt, or an image as the query")
    shared, own = options.declarations(Request), options.declarations(head.Options)
    for name, value in given.items():
        if name not in shared and name not in own and value is not None:
            raise _no_such_option(name, head, others, [*shared, *own])
    null = str(config["conditioning"].get("null", "zeros"))
    if null not in NULLS:
        raise unknown("null condition", null, NULLS)
    sampling = {key: value for key, value in config["sampling"].items() if key != "database"}
    defaults = {"neighbors": config["conditioning"]["neighbors"], **sampling}
    request = options.build(Request, *({k: v for k, v in one.items() if k in shared} for one in (given, defaults)))
    chosen = options.build(head.Options, *({k: v for k, v in one.items() if k in own} for one in (given, defaults)))
    if given.get("batch_size") is not None:  # 0 is the default, which fills batches evenly
        at_least_one("batch_size", request.batch_size)
    return _complete(request, queries), chosen


def _no_such_option(name: str, head: Any, others: Mapping[str, type], known: list[str]) -> UserError:
    """Returns the error for an option that the model does not have."""
    owners = [other for other, cls in others.items() if name in options.declarations(cls)]
    if not owners:
        return unknown("option", name, known)
    own = ", ".join(options.declarations(head.Options))
    return UserError(
        f"option {name} belongs to {' and '.join(owners)} models, and this model's head is {head.name}, "
        f"which has {own}; leave {name} out"
    )


def _complete(request: Request, queries: int) -> Request:
    """Returns the request with the batch size and the neighbors that follow from the rest; checks all ranges."""
    if request.condition not in CONDITIONS:
        raise unknown("condition", request.condition, CONDITIONS)
    if request.condition == "text":
        request = dataclasses.replace(request, neighbors=0)
    counted = ("num_images", "height", "width")
    for name in counted if request.condition == "text" else ("neighbors", *counted):
        at_least_one(name, getattr(request, name))
    if not 0 <= request.seed < 2**32:
        raise UserError(f"seed {request.seed} is out of range; use a whole number from 0 to {2**32 - 1}")
    even = _even_batches(queries * request.num_images, request.height * request.width)
    return dataclasses.replace(request, batch_size=request.batch_size or even)


def check_guidance(scale: float) -> float:
    """Returns a guidance scale; raises UserError unless it is a number of reasonable size."""
    if not abs(scale) <= MAX_GUIDANCE:  # NaN neither
        raise UserError(f"guidance scale {scale} is out of range; use 1 (no guidance) to about 10")
    return scale


def _even_batches(images: int, pixels: int) -> int:
    """Returns a batch size that fills all batches about equally, so that little is computed for the padding."""
    most = min(MAX_BATCH, max(1, DECODED_PIXELS // pixels))
    return math.ceil(images / math.ceil(images / most))
