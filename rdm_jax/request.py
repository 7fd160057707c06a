"""The options that every request has beside its prompts, whatever the head that makes the images.

    request, options = resolve(bundle.config, head, given, queries=2)

`given` may mix the options of `Request` with those of the model's head.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rdm_jax.core import options
from rdm_jax.core.checks import at_least_one
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.images import DECODED_PIXELS
from rdm_jax.core.nulls import NO_NULL, NULLS
from rdm_jax.core.options import option

if TYPE_CHECKING:
    from rdm_jax.conditioning import Conditioner

logger = logging.getLogger(__name__)

MAX_BATCH = 8
# Beyond these a number is a slip, and would fill the memory before anything else noticed.
CANDIDATES_APART = 2**24  # between the random numbers' indices of two candidates of an image
MOST = {
    "candidates": 64,
    "prior_steps": 1000,
    "prior_samples": 64,
    "num_images": 10**6,
    "batch_size": 2**16,
    "neighbors": 2**16,
    "height": 2**15,
    "width": 2**15,
}
TRANSLATOR, PRIOR = "translator", "prior"
QUERY_VECTORS = ("text", TRANSLATOR, PRIOR)  # that of the text, or of an image, by the part that makes it of the text
NEEDED_PARTS = {
    "leave_out": "encoder_tokens",
    "reference_image": "encoder_tokens",
    "adapter_scale": "image_adapter",
    "adapter_blocks": "image_adapter",
    "long_prompts": "text_encoder",
    "prior_steps": PRIOR,
    "prior_guidance_scale": PRIOR,
    "prior_samples": PRIOR,
}  # of a model, by option
MAX_GUIDANCE = 1000.0
MAX_ADAPTER_SCALE = 10.0
MAX_EDITED = DECODED_PIXELS  # pixels of an image that is edited at its own size
DATABASES = ("database", "content_database")  # the default ones of a model, by their names in its sampling section
CONDITIONS = ("neighbors", "text", "text+neighbors")  # the query is in those with "text"
FITS = ("keep", "shrink", "crop")  # how an image that is edited gets its size
LONG_PROMPTS = ("truncate", "windows")  # the rest is left out, or encoded as further texts
ADAPTER_BLOCKS = ("all", "style", "style+layout")
NO_CLASS = -1
MAX_UPSCALED = 2**24  # pixels of the result of upscaling, which is computed in patches


def _conditioners() -> Mapping[str, type]:
    return importlib.import_module("rdm_jax.conditioning").CONDITIONERS


@dataclasses.dataclass(frozen=True)
class Request:
    """A request with every default filled in.

    Attributes:
      condition: the context tokens: "neighbors", "text" (the query alone) or "text+neighbors".
      neighbors: how many neighbors each query fetches; 0 where the condition has none.
      content_neighbors: how many content neighbors each query fetches, where the model has two roles of neighbors.
      adapter_scale: what an adapter's attention to the neighbors is multiplied by, where the model has an adapter.
      adapter_blocks: a name in `ADAPTER_BLOCKS`, the blocks of the network where the adapter acts.
      candidates: images that are generated for each one, of which the best is kept (`conditioning.candidates`).
      num_images: images for each query.
      batch_size: images in one call of the compiled program; the last batch is padded to it.
      seed: of the run.
      height: of an image in pixels.
      width: of an image in pixels.
      fit: how an image that is edited gets its size: "keep" leaves it as it is, up to `MAX_EDITED` pixels; "shrink"
        scales a larger one down to the model's size, and keeps its proportions; "crop" scales it until it fills height
        x width and crops its center. "" is "crop" where height or width is given, otherwise "keep".
      class_label: the class, where the model takes one; -1 for none.
      layout: a file with objects and their boxes, where the model takes a layout.
      segmentation: an image file with the label of each pixel, where the model takes a segmentation.
      reference_image: an image file whose vector conditions all queries beside their texts, where the model has several
        encoders, one of them of images.
      leave_out: the names of encoders that condition nothing, with commas, where the model has several.
      low_resolution: the image file that is upscaled, where the model takes one.
      long_prompts: a name in `LONG_PROMPTS`, what becomes of a prompt that is longer than the text encoder reads.
      query_vector: a name in `QUERY_VECTORS`, the vector of a prompt that retrieves and conditions.
      prior_steps: of the diffusion that samples it, where it is the prior's.
      prior_guidance_scale: of this diffusion; 1 disables it.
      prior_samples: of a prompt's vector, of which the nearest to the text's is kept.
      conditions: conditioners beside the query (`rdm_jax.conditioning`).
    """

    condition: str = option("neighbors", "neighbors, text, or text+neighbors", metavar="C", label="Condition")
    neighbors: int = option(4, "neighbors for each query", metavar="K")
    content_neighbors: int = option(
        4,
        "content neighbors for each query, which its images take in turn; 0 takes none (models with two roles)",
        metavar="K",
    )
    adapter_scale: float = option(
        1.0, "how much the neighbors count beside the text, where an adapter reads them; 0 leaves them out", metavar="S"
    )
    adapter_blocks: str = option(
        "all",
        "where the adapter acts: in all blocks of the network, in those of the style, or of the style and the layout "
        "(all, style, style+layout)",
        metavar="B",
    )
    class_label: int = option(
        NO_CLASS, "the class to generate, by its number (class-conditional models)", metavar="N", flag="--class"
    )
    layout: str = option("", "objects and their boxes as JSON (layout-to-image models)", metavar="FILE", file=True)
    segmentation: str = option(
        "", "an image whose pixel values are labels (semantic synthesis models)", metavar="FILE", file=True
    )
    reference_image: str = option(
        "",
        "an image whose style conditions beside the prompt (models with several encoders)",
        metavar="FILE",
        file=True,
    )
    leave_out: str = option(
        "", "encoders that condition nothing, as clip_image,neighbors (models with several encoders)", metavar="NAMES"
    )
    low_resolution: str = option("", "the image to upscale", metavar="FILE", file=True, everywhere=False)
    candidates: int = option(
        1, "images generated for each one; the one that fits prompt and style best is kept (default: 1)", metavar="N"
    )
    num_images: int = option(1, "images for each query (default: 1)", metavar="N")
    batch_size: int = option(0, "images generated at once (default: up to 8)", metavar="B")
    seed: int = option(0, "random if omitted; printed and recorded", metavar="I", label="Seed")
    height: int = option(256, "in pixels", metavar="H")
    width: int = option(256, "in pixels", metavar="W")
    fit: str = option(
        "",
        "size of an edited image: keep it, shrink a larger one to the model's, or crop it to that (default: keep; crop "
        "where --height or --width is given)",
        metavar="F",
    )
    long_prompts: str = option(
        "truncate",
        "a prompt longer than the text encoder reads: truncate it, or read it in windows (models that read a prompt as "
        "a sequence; default: truncate)",
        metavar="HOW",
    )
    query_vector: str = option(
        "text",
        "the vector of a prompt that retrieves and conditions: CLIP's of the text, or one of an image, by the model's "
        "translator or prior (text, translator, prior)",
        metavar="V",
    )
    prior_steps: int = option(25, "steps of the prior", metavar="S")
    prior_guidance_scale: float = option(4.0, "guidance scale of the prior; 1 disables it", metavar="G")
    prior_samples: int = option(
        2, "vectors that the prior samples, of which the one nearest to the text's is kept", metavar="N"
    )
    conditions: tuple[Conditioner, ...] = option(
        (),
        "a condition beside the query, as \"region(mask='left.png', database='neon')\" (repeatable; --list-guides)",
        metavar="CALL",
        flag="--with",
        table=_conditioners,
        what="condition",
    )

    def check(self) -> Request:
        """Returns the request; raises UserError for the first value that is out of range."""
        if self.condition not in CONDITIONS:
            raise unknown("condition", self.condition, CONDITIONS)
        counted = ("candidates", "num_images", "height", "width", "prior_steps", "prior_samples")
        for name in counted if self.condition == "text" else ("neighbors", *counted):
            at_least_one(name, getattr(self, name), MOST[name])
        if not 0 <= self.content_neighbors <= MOST["neighbors"]:
            raise UserError(
                f"content_neighbors {self.content_neighbors} is out of range; give 0 to {MOST['neighbors']}"
            )
        if not 0 <= self.adapter_scale <= MAX_ADAPTER_SCALE:
            raise UserError(f"adapter_scale {self.adapter_scale} is out of range; use 0 to about 1")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed {self.seed} is out of range; use a whole number from 0 to {2**32 - 1}")
        if self.adapter_blocks not in ADAPTER_BLOCKS:
            raise unknown("adapter blocks", self.adapter_blocks, ADAPTER_BLOCKS)
        if self.long_prompts not in LONG_PROMPTS:
            raise unknown("way with long prompts", self.long_prompts, LONG_PROMPTS)
        if self.query_vector not in QUERY_VECTORS:
            raise unknown("query vector", self.query_vector, QUERY_VECTORS)
        check_guidance(self.prior_guidance_scale)
        if self.fit and self.fit not in FITS:
            raise unknown("fit", self.fit, FITS)
        return self


def resolve(
    config: Mapping[str, Any],
    head: Any,
    given: Mapping[str, Any],
    queries: int,
    others: Mapping[str, type] = {},
    edited: Callable[[Any], tuple[int, int] | None] = lambda options: None,
) -> tuple[Request, Any]:
    """Returns the request and the head's options: what is given, else the model's own defaults, checked.

    Args:
      config: the bundle's configuration; "sampling" and "conditioning" hold the defaults.
      head: the model's (`heads.base.Head`).
      given: options of `Request` and of the head by name; None takes the default.
      queries: the number of prompts, images and rows.
      others: {head's name: its options}, for the error that names whose an option is.
      edited: from the head's options to (height, width) of the image that the run edits; None where it edits none.

    Raises:
      UserError: a value is out of range, or the model has no such option.
    """
    if queries == 0:
        raise UserError("nothing to generate: give a prompt, or an image as the query")
    shared, own = options.declarations(Request), options.declarations(head.Options)
    for name, value in given.items():
        if name not in shared and name not in own and value is not None:
            raise _no_such_option(name, head, others, [*shared, *own])
    for name, part in NEEDED_PARTS.items():
        if given.get(name) is not None and part not in config:
            raise UserError(f"{name} applies to models with a part {part}, and this one has none; leave it out")
    sampling = {key: value for key, value in config["sampling"].items() if key != "database"}
    if given.get("sampler") not in (None, sampling.get("sampler")):
        sampling.pop("spacing", None)  # the model's spacing is of its own sampler; another one has its own
    defaults = {"neighbors": config["conditioning"]["neighbors"], **sampling}
    request = options.build(Request, *({k: v for k, v in one.items() if k in shared} for one in (given, defaults)))
    chosen = options.build(head.Options, *({k: v for k, v in one.items() if k in own} for one in (given, defaults)))
    _check_null(config, chosen)
    _check_query_vector(config, request.check(), given)
    if given.get("batch_size") is not None:  # 0 is the default, which fills batches evenly
        at_least_one("batch_size", request.batch_size, MOST["batch_size"])
    if given.get("class_label") is not None and request.class_label < 0:  # the default is none
        raise UserError(f"class {request.class_label} is out of range; give the number of a class, 0 or more")
    if request.condition == "text" and given.get("neighbors") is not None:
        logger.warning("neighbors %d has no effect: condition 'text' uses none", given["neighbors"])
    sized = any(given.get(name) is not None for name in ("height", "width"))
    return _complete(_fitted(request.check(), edited(chosen), sized), queries), chosen


def _check_query_vector(config: Mapping[str, Any], request: Request, given: Mapping[str, Any]) -> None:
    """Raises UserError if the model lacks the part that makes the vectors of prompts; warns of what has no effect."""
    made_by = request.query_vector
    if made_by in (TRANSLATOR, PRIOR) and made_by not in config:
        able = ["text", *(part for part in (TRANSLATOR, PRIOR) if part in config)]
        raise UserError(
            f"query_vector {made_by!r} needs a part {made_by}, and model {config.get('name')!r} has none; use "
            f"{' or '.join(able)}, or train one: rdm train --config style_scenes/{made_by} --config.base=MODEL"
        )
    for name, part in NEEDED_PARTS.items():
        if part == PRIOR != made_by and given.get(name) is not None:
            logger.warning("%s %s has no effect: the query vector is %r", name, given[name], made_by)


def _check_null(config: Mapping[str, Any], chosen: Any) -> None:
    """Raises UserError if a model's null condition is unknown, or guidance needs one that the model does not have."""
    null = str(config["conditioning"].get("null", "zeros"))
    if null not in (*NULLS, NO_NULL):
        raise unknown("null condition", null, (*NULLS, NO_NULL))
    scale = getattr(chosen, "guidance_scale", 1.0)
    if null == NO_NULL and scale != 1:
        raise UserError(
            f"guidance_scale {scale:g} needs a null condition, and model {config.get('name')!r} was trained without; "
            "leave it at 1"
        )


def _fitted(request: Request, edited: tuple[int, int] | None, sized: bool) -> Request:
    """Returns the request with the size of the image that it edits; `sized` says whether the user gave another one."""
    if edited is None:
        if request.fit:
            raise UserError(f"fit {request.fit!r} has no effect: this run edits no image; leave it out")
        return request
    if sized or request.fit == "crop":
        return dataclasses.replace(request, fit=request.fit or "crop")
    (height, width), fit = edited, request.fit or "keep"
    longest = max(request.height, request.width)
    small = max(height, width) <= longest
    shrunk = (height, width) if small else tuple(max(1, round(side * longest / max(edited))) for side in edited)
    most = MAX_UPSCALED if request.low_resolution else MAX_EDITED
    if fit == "keep" and height * width > most:
        raise UserError(
            f"the image is {width}x{height} pixels, and {most} are edited at its own size; give --fit shrink for "
            f"{shrunk[1]}x{shrunk[0]}, --fit crop for {request.width}x{request.height}, or --height and --width"
        )
    height, width = shrunk if fit == "shrink" else edited
    return dataclasses.replace(request, height=height, width=width, fit=fit)


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
    if request.condition == "text":
        request = dataclasses.replace(request, neighbors=0)
    request.check()
    even = _even_batches(queries * request.num_images * request.candidates, request.height * request.width)
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
