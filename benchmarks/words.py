"""How well content neighbors fit a word: precision@4 of words, of vectors and of both.

    python benchmarks/words.py ARCHIVES MODEL
    python benchmarks/words.py ARCHIVES MODEL --database DATABASE

ARCHIVES is the folder of `rdm_jax.convert.icon_words`, and MODEL a bundle with a word table, as it writes; the database
is then the captions of all icons of styles that are not held out. On a database that the model made, its image vectors
are compared as well.

Queries are 500 captions of held-out styles, words that no caption has, and 500 tags that no caption is. A row is
relevant to a query if their words overlap by half (Jaccard, of stems), or if one is among the tags of the other in the
packages of `ASSESSORS`. The second figure also takes synonyms, and the next more general or special nouns of WordNet,
for relevant; the word table has read WordNet's definitions of rare words, though not these relations. Searches see the
tags of the other packages only. Queries to which no row is relevant are left out, and counted; the ceiling is what a
perfect ranking has.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.core.vectors import unit
from rdm_jax.data.icons import collection, tags, wordnet
from rdm_jax.data.icons.held_out import HELD_OUT
from rdm_jax.data.icons.words import FOREIGN_WORDS
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder, RetrievalEncoder
from rdm_jax.retrieval.word_vectors import WordVectors
from rdm_jax.retrieval.words import WordSearch, largest, stems

ASSESSORS = ("phosphor", "emojilib")
QUERIES, K, BLOCK = 500, 4, 20
OVERLAP = 0.5

Ranking = Callable[[Sequence[str]], np.ndarray]
"""Texts to the captions [q, K] of their first K rows."""


@dataclasses.dataclass(frozen=True)
class Relevance:
    """Says which captions are relevant to a query.

    Attributes:
      captions: the different ones of the rows.
      tags: {caption: its tags}, of packages that no search sees.
      related: {word: words that are relevant too}.
    """

    captions: Sequence[str]
    tags: Mapping[str, Sequence[str]]
    related: Mapping[str, set[str]] = dataclasses.field(default_factory=dict)

    def relevant(self, query: str) -> np.ndarray:
        """Returns which captions are relevant, [n]."""
        wanted = set(stems(query))
        tagged = self._tagged.get(_stem(query), set())
        others = {_stem(word) for word in self.related.get(query, ())}
        return np.array(
            [
                len(wanted & words) >= OVERLAP * len(wanted | words)
                or whole in tagged
                or not others.isdisjoint({whole, *words})
                for whole, words in self._stems
            ]
        )

    @functools.cached_property
    def _stems(self) -> list[tuple[str, set[str]]]:
        return [(_stem(caption), set(stems(caption))) for caption in self.captions]

    @functools.cached_property
    def _tagged(self) -> Mapping[str, set[str]]:
        """{caption or tag: its tags and the captions that it is a tag of}."""
        found: dict[str, set[str]] = defaultdict(set)
        for caption, tag in ((_stem(caption), _stem(tag)) for caption, own in self.tags.items() for tag in own):
            found[caption].add(tag)
            found[tag].add(caption)
        return found


def _stem(text: str) -> str:
    return " ".join(stems(text))


def by_captions(search: WordSearch, score: Callable[[Sequence[str]], np.ndarray]) -> Ranking:
    """Returns the ranking of rows by scores of their captions."""
    sizes = [len(rows) for rows in search.rows]

    def rank(texts: Sequence[str]) -> np.ndarray:
        best = [largest(scores, K) for scores in score(texts)]
        return np.stack([np.repeat(captions, [sizes[i] for i in captions])[:K] for captions in best])

    return rank


def by_images(search: WordSearch, database: Database, encoder: RetrievalEncoder) -> Ranking:
    """Returns the ranking of rows by the cosine of their image vectors to the text's vector."""
    number = {caption: i for i, caption in enumerate(search.captions)}
    captions = database.column("caption").to_pylist()
    rows = unit(database.embeddings(np.arange(len(database))))
    named = np.array([i for i, caption in enumerate(captions) if caption])

    def rank(texts: Sequence[str]) -> np.ndarray:
        scores = unit(np.asarray(encoder.encode_texts(texts), np.float32)) @ rows[named].T
        return np.array([[number[captions[named[row]]] for row in largest(own, K)] for own in scores])

    return rank


def rankings(search: WordSearch) -> dict[str, Ranking]:
    """Returns the rankings of captions by their names."""
    without_tags = dataclasses.replace(search, tags={})
    return {
        "words": by_captions(search, without_tags.lexical),
        "words and tags": by_captions(search, search.lexical),
        "static table": by_captions(search, search.cosines),
        "fusion": by_captions(search, search.scores),
    }


def precision(ranking: Ranking, relevant: Mapping[str, np.ndarray]) -> float:
    """Returns which share of the first K rows is relevant, on average over the queries.

    Args:
      ranking: of the rows.
      relevant: {query: which captions are relevant}.
    """
    queries = list(relevant)
    blocks = [queries[start : start + BLOCK] for start in range(0, len(queries), BLOCK)]
    found = [relevant[query][best] for block in blocks for query, best in zip(block, ranking(block), strict=True)]
    return float(np.mean(found))


def ceiling(search: WordSearch, relevant: Mapping[str, np.ndarray]) -> float:
    """Returns the precision of a perfect ranking."""
    sizes = np.array([len(rows) for rows in search.rows])
    return float(np.mean([min(K, sizes[captions].sum()) / K for captions in relevant.values()]))


def milliseconds(ranking: Ranking, queries: Sequence[str]) -> float:
    """Returns the median time of one query."""
    times = []
    for query in queries[:20]:
        start = time.perf_counter()
        ranking([query])
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def answerable(relevance: Relevance, queries: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the relevant captions of the queries that have any."""
    masks = {query: relevance.relevant(query) for query in queries}
    return {query: relevant for query, relevant in masks.items() if relevant.any()}


def query_sets(icons: Sequence[collection.Icon], captions: set[str], assessed: tags.Tags) -> dict[str, list[str]]:
    """Returns the queries by the name of their set."""
    random = np.random.default_rng(0)
    held_out = sorted({icon.caption for icon in icons if icon.style in HELD_OUT})
    unseen = sorted({tag for own in assessed.values() for tag in own if tag not in captions and len(tag) > 2})
    return {
        "captions of held-out styles": [held_out[i] for i in random.permutation(len(held_out))[:QUERIES]],
        "foreign words": list(FOREIGN_WORDS),
        "tags that are no caption": [unseen[i] for i in random.permutation(len(unseen))[:QUERIES]],
    }


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", type=Path)
    parser.add_argument("model", help="the name or the folder of a bundle with a word table")
    parser.add_argument("--database", help="that the model made")
    parser.add_argument(
        "--assessors", nargs="+", default=ASSESSORS, choices=tags.PACKAGES, help="packages, not searched"
    )
    arguments = parser.parse_args()
    icons = collection.read(arguments.archives / collection.ARCHIVE)
    seen = tags.read_tags(arguments.archives, [name for name in tags.PACKAGES if name not in arguments.assessors])
    assessed = tags.read_tags(arguments.archives, arguments.assessors)
    bundle = Bundle.open(arguments.model, parts=["clip"])
    words = WordVectors.of(bundle)
    if arguments.database:
        database = Database.open(arguments.database)
        search = WordSearch.of(database.column("caption").to_pylist(), words, tags=seen)
        ranked = {"image vectors": by_images(search, database, ClipEncoder(bundle)), **rankings(search)}
    else:
        captions = [icon.caption for icon in icons if icon.style not in HELD_OUT]
        search = WordSearch.of(captions, words, tags=seen)
        ranked = rankings(search)
    narrow = Relevance(search.captions, assessed)
    wider = Relevance(search.captions, assessed, wordnet.read_wordnet(arguments.archives).related)
    print(f"{len(search.captions)} captions of {sum(map(len, search.rows))} rows")
    print("| queries | ranking | precision@4 by tags | by tags and WordNet | ms a query |\n|---|---|---|---|---|")
    for name, queries in query_sets(icons, set(search.captions), assessed).items():
        kept = [answerable(one, queries) for one in (narrow, wider)]
        limits = [f"{ceiling(search, one):.1%} of {len(one)}" for one in kept]
        print(f"| {name} ({len(queries)}) | ceiling | {limits[0]} | {limits[1]} | |", flush=True)
        for label, ranking in ranked.items():
            found = [precision(ranking, one) for one in kept]
            print(f"| | {label} | {found[0]:.1%} | {found[1]:.1%} | {milliseconds(ranking, queries):.1f} |", flush=True)


if __name__ == "__main__":
    main()
