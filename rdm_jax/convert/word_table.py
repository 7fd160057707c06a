"""Distills a sentence encoder into a word table: a vocabulary, and rows whose sum points where the encoder points.

1. The vocabulary is the encoder's own words and pieces, the words of captions, tags and a dictionary that it would take
   apart, and the pairs of words whose meaning is furthest from that of their parts.
2. The encoder's vectors of many texts are centered and reduced to the first principal directions.
3. A row starts as the vector of its entry alone, times the logarithm of its rank, as a static table does
   (https://github.com/MinishLab/model2vec), and is then fitted by gradient descent, so that the sum of the rows of
   each text points along the vector of the text.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from rdm_jax.core.progress import ProgressCallback, StageProgressCallback
from rdm_jax.data.word_tokenizer import LONGEST, SPACE, SPECIAL, entry, word_tokenizer
from rdm_jax.models.word_table import WordTable
from rdm_jax.retrieval.word_vectors import WordVectors, token_ids

_WORD = re.compile(r"[a-z]+")
_PAIR = re.compile(r"[a-z]+ [a-z]+")
_PIECE = "##"  # before a piece that does not begin a word, in the encoder's vocabulary


def choose_words(
    pieces: Iterable[str], counts: Mapping[str, int], dictionary: Mapping[str, int], common: Iterable[str]
) -> list[str]:
    """Returns single words and pieces in the form of `data.word_tokenizer`, the words by falling count.

    Args:
      pieces: the vocabulary of the encoder's WordPiece; its whole words are kept if they occur in `counts` or in the
        dictionary.
      counts: {word: in how many captions and tags it occurs}; of other words, those that occur twice are kept.
      dictionary: {word: how often it is used}.
      common: the other words that are kept.
    """
    pieces = set(pieces)
    words = pieces & (counts.keys() | dictionary.keys())
    words |= {word for word, count in counts.items() if count > 1}
    words |= set(common)
    words = {word for word in words if _WORD.fullmatch(word) and 1 < len(word) < LONGEST}
    inner = {piece.removeprefix(_PIECE) for piece in pieces if piece.startswith(_PIECE)}
    inner = {piece for piece in inner if _WORD.fullmatch(piece) and len(piece) > 1}
    characters = [*string.ascii_lowercase, *string.digits]
    ranked = sorted(words, key=lambda word: (-counts.get(word, 0), -dictionary.get(word, 0), word))
    return [*characters, *map(entry, characters), *sorted(inner), *map(entry, ranked)]


def without_rare_pieces(entries: Sequence[str], texts: Sequence[str], least: int = 8) -> list[str]:
    """Returns the entries but for the pieces of two letters and more that fewer than `least` of the texts need."""
    ids = token_ids(word_tokenizer(entries), texts)
    uses = np.bincount(ids.ravel(), minlength=len(SPECIAL) + len(entries))[len(SPECIAL) :]
    kept = zip(entries, uses, strict=True)
    return [one for one, count in kept if one.startswith(SPACE) or len(one) == 1 or count >= least]


def furthest_pairs(
    table: WordVectors, counts: Mapping[str, int], vectors: Mapping[str, np.ndarray], number: int, least: int = 3
) -> list[str]:
    """Returns the pairs of words that the table gets most wrong, frequent ones first among equally wrong ones.

    Args:
      table: a fitted one, without pairs.
      counts: {text: how often it occurs}.
      vectors: {text: its reduced vector}.
      number: of pairs, at most.
      least: how often they must occur.
    """
    pairs = [text for text, count in counts.items() if count >= least and text in vectors and _PAIR.fullmatch(text)]
    pairs = [pair for pair in pairs if len(pair) < LONGEST]
    wanted = np.stack([vectors[pair] for pair in pairs])
    wrong = (1 - (table.encode_texts(pairs) * wanted).sum(axis=1)) * np.log1p([counts[pair] for pair in pairs])
    return [pairs[i] for i in np.argsort(-wrong, kind="stable")[:number]]


def word_counts(texts: Iterable[str]) -> Counter[str]:
    """Returns in how many texts each word occurs."""
    return Counter(word for text in texts for word in set(text.split()))


def principal(vectors: Float[np.ndarray, "n d"], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean [d] and the first principal directions [d, dim] of vectors."""
    mean = vectors.mean(axis=0)
    centered = vectors - mean
    _, directions = np.linalg.eigh(centered.T @ centered)  # ascending
    return mean, np.ascontiguousarray(directions[:, ::-1][:, :dim])


def reduced(
    vectors: Float[np.ndarray, "n d"], mean: Float[np.ndarray, " d"], directions: Float[np.ndarray, "d k"]
) -> Float[np.ndarray, "n k"]:
    """Returns vectors of unit length, float32 [n, k]: centered and projected."""
    projected = (vectors - mean) @ directions
    return (projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def initial_rows(tokenizer: Any, vectors: Mapping[str, np.ndarray], dim: int) -> Float[np.ndarray, "v d"]:
    """Returns rows [v, dim]: each entry's own vector, times the logarithm of its rank; small ones where there is none.

    Args:
      tokenizer: with the more frequent words first.
      vectors: {text: its reduced vector}.
      dim: the length of a row.
    """
    names = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    rows = np.random.default_rng(0).normal(0, 0.1 * dim**-0.5, (len(names), dim)).astype(np.float32)
    rank = 0
    for name, number in names:
        words = name.replace(SPACE, " ").strip()
        if name.startswith(SPACE) and words in vectors:
            rank += 1
            rows[number] = vectors[words] * np.log1p(rank) / np.log1p(len(names))
    return rows


def distill(
    entries: Sequence[str],
    texts: Sequence[str],
    targets: Float[np.ndarray, "n d"],
    counts: Mapping[str, int],
    *,
    steps: int = 1500,
    pairs: int = 3000,
    progress: StageProgressCallback = lambda stage, done, total: None,
) -> WordVectors:
    """Returns the table of a vocabulary and of the pairs of words that it would get most wrong.

    Args:
      entries: single words and pieces, from `choose_words`.
      texts: to fit, each once; the single words among them are where the rows start.
      targets: their reduced vectors.
      counts: {text: how often it occurs}; those that occur more often are sampled more often.
      steps: of gradient descent with the pairs; half as many without.
      pairs: how many are added.
      progress: called after each step.
    """
    vectors = dict(zip(texts, targets, strict=True))
    entries = without_rare_pieces(entries, texts)
    weights = 1 + np.log1p([counts.get(text, 0) for text in texts])

    def fitted(tokenizer: Any, rows: np.ndarray, steps: int, stage: str) -> WordVectors:
        ids = token_ids(tokenizer, texts)
        read = (ids >= len(SPECIAL)).any(axis=1)
        step = functools.partial(progress, stage)
        return WordVectors(tokenizer, fit_rows(rows, ids[read], targets[read], weights[read], steps, progress=step))

    tokenizer = word_tokenizer(entries)
    table = fitted(tokenizer, initial_rows(tokenizer, vectors, targets.shape[1]), steps // 2, "fitting words")
    added = furthest_pairs(table, counts, vectors, pairs)
    length = np.median(np.linalg.norm(table.rows, axis=1))
    rows = np.concatenate([table.rows, length * np.stack([vectors[pair] for pair in added])])
    return fitted(word_tokenizer([*entries, *map(entry, added)]), rows, steps, "fitting words and pairs")


def fit_rows(
    rows: Float[np.ndarray, "v d"],
    ids: Int[np.ndarray, "n length"],
    targets: Float[np.ndarray, "n d"],
    weights: Float[np.ndarray, " n"],
    steps: int,
    *,
    batch_size: int = 4096,
    rate: float = 0.01,
    progress: ProgressCallback | None = None,
) -> Float[np.ndarray, "v d"]:
    """Returns rows that were fitted by Adam to raise the mean cosine of the texts' sums and their targets.

    Args:
      rows: the initial rows.
      ids: the tokens of each text, from `token_ids`.
      targets: of unit length.
      weights: how often each text is sampled, in proportion.
      steps: of gradient descent; the rate falls to 0 over them.
      batch_size: texts of a step.
      rate: the learning rate of the first step.
      progress: called after each step.
    """
    network = WordTable(rows.shape[1], len(rows), ids.shape[1])
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def loss(table: jax.Array, tokens: jax.Array, wanted: jax.Array) -> jax.Array:
        found: Any = network.apply({"params": {"word_table": table}}, tokens)
        return 1 - (found * wanted).sum(axis=1).mean()

    @jax.jit
    def step(table: jax.Array, state: Any, tokens: jax.Array, wanted: jax.Array) -> Any:
        gradient = jax.grad(loss)(table, tokens, wanted)
        updates, state = optimizer.update(gradient, state, table)
        return optax.apply_updates(table, updates), state

    random = np.random.default_rng(0)
    shares = np.cumsum(weights) / np.sum(weights)
    table = jnp.asarray(rows)
    state = optimizer.init(table)
    for done in range(steps):
        chosen = np.minimum(np.searchsorted(shares, random.random(batch_size)), len(ids) - 1)
        table, state = step(table, state, ids[chosen], targets[chosen])
        if progress:
            progress(done + 1, steps)
    return np.asarray(table)
