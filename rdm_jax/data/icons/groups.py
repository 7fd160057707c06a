"""Groups of sets that share one design: other weights, sizes, fills, colors or versions of the same drawings."""

from __future__ import annotations

_GROUPS: dict[str, tuple[str, ...]] = {
    "boxicons": ("boxicons", "bx", "bxs"),
    "emojione": ("emojione", "emojione-monotone"),
    "fluent": ("fluent", "fluent-color"),
    "fluent-emoji": ("fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast"),
    "font-awesome": ("fa", "fa-regular", "fa-solid", "fa6-regular", "fa6-solid", "fa7-regular", "fa7-solid"),
    "glyphs": ("glyphs", "glyphs-poly"),
    "heroicons": ("heroicons", "heroicons-outline", "heroicons-solid", "sidekickicons"),
    "icon-park": ("icon-park", "icon-park-outline", "icon-park-solid", "icon-park-twotone"),
    "ion": ("ion", "famicons"),
    "lucide": ("lucide", "lucide-lab", "feather"),
    "material": ("ic", "material-symbols", "material-symbols-light"),
    "mdi": ("mdi", "mdi-light"),
    "mono-icons": ("mono-icons", "mi"),
    "pepicons": ("pepicons", "pepicons-pencil", "pepicons-pop", "pepicons-print"),
    "streamline": ("streamline", "streamline-color"),
    "streamline-cyber": ("streamline-cyber", "streamline-cyber-color"),
    "streamline-flex": ("streamline-flex", "streamline-flex-color"),
    "streamline-freehand": ("streamline-freehand", "streamline-freehand-color"),
    "streamline-plump": ("streamline-plump", "streamline-plump-color"),
    "streamline-sharp": ("streamline-sharp", "streamline-sharp-color"),
    "streamline-ultimate": ("streamline-ultimate", "streamline-ultimate-color"),
    "unicons": ("uil", "uim", "uis", "uit"),
}

_GROUP_OF = {prefix: group for group, prefixes in _GROUPS.items() for prefix in prefixes}


def group_of(prefix: str) -> str:
    """Returns the design group of a set; a set that is listed in none is its own.

    Icons of one group and caption in different styles are twins: the same drawing in another variant.

    Args:
      prefix: the set's name in the package, such as "ph".
    """
    return _GROUP_OF.get(prefix, prefix)
