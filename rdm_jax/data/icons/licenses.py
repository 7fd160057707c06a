"""Which icon sets may be learned from and shipped: by license, category and name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LICENSES: frozenset[str] = frozenset(
    {
        "Apache-2.0",
        "BSD-3-Clause",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MPL-2.0",
        "OFL-1.1",
        "Unlicense",
    }
)
"""SPDX names of licenses under which icons are used, with attribution; share-alike, non-commercial and GPL are not."""

EXCLUDED_CATEGORIES: frozenset[str] = frozenset({"Logos", "Programming", "Flags / Maps"})
"""Categories of sets that are mostly trademarks and flags."""

_EXCLUDED_NAMES = re.compile(r"brand|flag|logo", re.IGNORECASE)


def is_allowed(info: Mapping[str, Any]) -> bool:
    """Returns whether a set may be used.

    Args:
      info: the set's entry in `collections.json`.
    """
    return (
        info["license"].get("spdx") in LICENSES
        and info.get("category") not in EXCLUDED_CATEGORIES
        and not _EXCLUDED_NAMES.search(info["name"])
    )
