"""Which icons a content database of limited size holds: many words, and several designs of the common ones."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from rdm_jax.data.icons.collection import Icon

MOST = 12_000
"""The icons of the split `content`."""


def content_icons(icons: Sequence[Icon], most: int = MOST) -> list[Icon]:
    """Returns icons for a content database, in the order of `icons`.

    The places are given to captions as seats are to parties: a caption that c families of styles have gets its n-th
    icon in the order of c / n**2, so that its number of icons grows with the square root of c. Its icons are of
    different families: one-color ones first, of these the ones that are lines, then large families. A filled shape
    shows its silhouette alone, and a model that is to outline it must invent what is inside. Held-out styles have none.

    Args:
      icons: of the collection.
      most: how many are returned at most.
    """
    usable = [icon for icon in icons if icon.split != "held_out"]
    families = collections.Counter(icon.group for icon in usable)
    styles = collections.Counter(icon.style for icon in usable)

    def preference(icon: Icon) -> tuple[bool, bool, int, int, str]:
        return not icon.source.one_color, not icon.has_strokes, -families[icon.group], -styles[icon.style], icon.id

    designs: dict[str, dict[str, Icon]] = collections.defaultdict(dict)
    for icon in sorted(usable, key=preference):
        designs[icon.caption].setdefault(icon.group, icon)
    places = sorted(
        (-len(of_families) / number**2, number, caption, icon.id)
        for caption, of_families in designs.items()
        for number, icon in enumerate(of_families.values(), 1)
    )
    chosen = {id_ for *_, id_ in places[:most]}
    return [icon for icon in icons if icon.id in chosen]
