"""The tokenizer of a word table: whole words, frequent pairs of words, and pieces for all other words.

It is the Unigram model of `tokenizers` (https://arxiv.org/abs/1804.10959) with scores that are no probabilities: a text
is split into as few entries as possible, and of equally many into the longest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rdm_jax.core.errors import UserError
from rdm_jax.data.tokenizer import END, START

UNKNOWN = "<|unknown|>"
SPACE = "▁"  # before the first letter of a word, as Metaspace writes it
SPECIAL = (START, END, UNKNOWN, SPACE)
"""The first entries, which mean nothing (`models.word_table.UNREAD`); the last begins words of unknown characters."""
_MARKS = SPECIAL[:3]
LONGEST = 32  # characters of an entry

_ENTRY = -10.0  # the score of an entry, to which its length adds at most 5
_LENGTH = 5.0 / LONGEST**2


def entry(words: str) -> str:
    """Returns the entry of whole words: "alarm clock" is "▁alarm▁clock"."""
    return SPACE + words.replace(" ", SPACE)


def word_tokenizer(entries: Iterable[str]) -> Any:
    """Returns a `tokenizers.Tokenizer` of a vocabulary.

    Texts are lower-cased, accents are removed, and everything but letters and digits separates words. The ids are those
    of `SPECIAL`, then the entries in their order.

    Args:
      entries: words as `entry` writes them, and pieces of words, which have no space in front. All single letters and
        digits that occur should be among them: a text's other characters are unknown.

    Raises:
      UserError: an entry occurs twice or is longer than `LONGEST`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    entries = [SPACE, *entries]
    wrong = [one for one in entries if len(one) > LONGEST] or _repeated(entries)
    if wrong:
        raise UserError(f"entry {wrong[0]!r} occurs twice or is longer than {LONGEST} characters; leave it out")
    scored = [(mark, 0.0) for mark in _MARKS] + [(one, _score(one)) for one in entries]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=SPECIAL.index(UNKNOWN), byte_fallback=False))
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in _MARKS])
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(mark, SPECIAL.index(mark)) for mark in (START, END)]
    )
    tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme="always")
    return tokenizer


def _score(one: str) -> float:
    return round(_ENTRY + _LENGTH * len(one) ** 2, 3)


def _repeated(entries: list[str]) -> list[str]:
    counts: Mapping[str, int] = {one: 0 for one in entries}
    return [] if len(counts) == len(entries) else [one for one in counts if entries.count(one) > 1][:1]
