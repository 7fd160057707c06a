"""The settings of images that are sorted by style."""

from __future__ import annotations

import dataclasses

from rdm_jax.training.schema import Count, Data, Positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class StyledData(Data):
    """Images with a style each.

    Attributes:
      style: the attribute that names an image's style.
      one_color: the attribute that is "True" or "1" for images of one ink on white; "" if there are none.
      held_out_rows: images that are held out for evaluation, spread evenly over the set.
      restyled: random styles, made of those of one color, that the set has in addition (see `training.restyling`).
      restyled_images: images of each of them, at most.
    """

    style: str = "style"
    one_color: str = ""
    held_out_rows: Count = 0
    restyled: Count = 0
    restyled_images: Positive = 150
