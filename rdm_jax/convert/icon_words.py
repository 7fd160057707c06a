"""`python -m rdm_jax.convert.icon_words FOLDER OUT`: makes the word table of the icon model.

FOLDER holds the archives of `collection`, `tags`, `wordnet` and `scowl` of `data.icons`, and the wheel of
`convert.minilm`; what is missing is named with the command that fetches it. OUT gets:

  model              a bundle whose text tower is the table, and whose image tower is a small random one
  projection.npz     the mean and the directions that reduce vectors of the sentence encoder
  targets.npz        texts, and the vectors that the table was fitted to: what an image tower can be trained towards
  tags.json.gz       the tags, which ship as data.icons.tags.SHIPPED

It takes ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.convert.minilm import WHEEL, open_minilm
from rdm_jax.convert.word_table import choose_words, distill, principal, reduced, word_counts
from rdm_jax.core import files
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.icons import collection, scowl, tags, wordnet
from rdm_jax.data.icons.held_out import HELD_OUT
from rdm_jax.models import build_clip
from rdm_jax.retrieval.word_vectors import WordVectors

DIM = 128
KNOWN, KNOWN_THINGS = 40, 50  # the largest lists whose words get rows of their own; for things that can be seen, longer
ENDINGS = ("s", "ed", "ing", "er", "ly")  # of words that are known by their stems
STEPS, PAIRS = 2500, 2000  # 30,000 rows in all: 4 MB in int8
WORDS_OF_A_TEXT = 6  # captions and tags with more words are left out


def caption_counts(archive: Path) -> Counter[str]:
    """Returns {caption: the number of styles that have it}, of all styles but those that are held out."""
    pairs = {(icon.style, icon.caption) for icon in collection.read(archive) if icon.style not in HELD_OUT}
    return Counter(tags.normalized(caption) for _, caption in pairs)


def text_counts(captions: Mapping[str, int], designers: Mapping[str, Sequence[str]]) -> Counter[str]:
    """Returns how often each caption and tag occurs, without those of many words."""
    counts = Counter(captions) + Counter(tag for found in designers.values() for tag in found)
    counts.update({caption: 0 for caption in designers})
    return Counter({text: count for text, count in counts.items() if text and text.count(" ") < WORDS_OF_A_TEXT})


def common_words(words: wordnet.WordNet, sizes: Mapping[str, int]) -> list[str]:
    """Returns the words that are known well enough for a row of their own, without those that follow from their stems.

    Args:
      words: of WordNet.
      sizes: {word: the smallest list that has it}.
    """
    things = [word for word in words.kinds if sizes.get(word, KNOWN_THINGS + 1) <= KNOWN_THINGS]
    known = [word for word in words.counts if sizes.get(word, KNOWN + 1) <= KNOWN]
    return [*things, *(word for word in known if not _follows(word, words.counts))]


def _follows(word: str, others: Container[str]) -> bool:
    stems = [word.removesuffix(ending) for ending in ENDINGS if word.endswith(ending)]
    return any(stem in others or f"{stem}e" in others for stem in stems)


def written_out(text: str, pieces: Container[str], counts: Mapping[str, int], definitions: Mapping[str, str]) -> str:
    """Returns what the sentence encoder reads for a text: a word that it would take apart comes with its definition.

    It guesses the meaning of such a word from its pieces: "antelope" is near "ant". The words of captions and tags
    stay as they are.
    """
    if " " in text or text in pieces or counts.get(text) or text not in definitions:
        return text
    return f"{text}: {definitions[text]}"


def bundle_of(table: WordVectors) -> Bundle:
    """Returns a bundle with a word table; its image tower is random, and the smallest that there is."""
    vision = {"kind": "vit", "width": 1, "layers": 0, "heads": 1, "patch_size": 64, "image_size": 64}
    clip = {"embed_dim": table.rows.shape[1], "vision": vision, "text": table.settings}
    network = build_clip(clip)
    inputs = [jnp.zeros(one.shape, one.dtype) for one in network.smallest_inputs]
    params: Any = network.init(jax.random.key(0), *inputs)["params"]
    config = {"name": "words", "clip": {**clip, "mean": [0.5] * 3, "std": [0.25] * 3}}
    return table.placed_in(Bundle(config, {"clip": params}))


def make(folder: Path, out: Path, progress: StageProgressCallback) -> None:
    """Makes the table of a folder of archives, see the top of this file.

    Raises:
      UserError: an archive is missing or damaged, or `out` exists.
    """
    model = open_minilm(folder / WHEEL)
    pieces = model.tokenizer.get_vocab()
    designers = tags.read_tags(folder)
    counts = text_counts(caption_counts(folder / collection.ARCHIVE), designers)
    words = wordnet.read_wordnet(folder)
    sizes = scowl.read_sizes(folder, KNOWN_THINGS)
    known = {word: used for word, used in words.counts.items() if word in sizes}
    entries = choose_words(pieces, word_counts(counts), known, common_words(words, sizes))
    texts = [*counts, *(word for word, used in words.counts.items() if (used or word in sizes) and word not in counts)]
    read = [written_out(text, pieces, counts, words.definitions) for text in texts]
    vectors = model.encode(read, progress=lambda done, total: progress("encoding texts", done, total))
    mean, directions = principal(vectors[: len(counts)], DIM)
    targets = reduced(vectors, mean, directions)
    table = distill(entries, texts, targets, counts, steps=STEPS, pairs=PAIRS, progress=progress)
    with files.writing(out), files.new_directory(out) as new:
        bundle_of(table).save(new / "model")
        tags.write_tags(new / tags.SHIPPED.name, designers)
        np.savez(new / "projection.npz", mean=mean, directions=directions)
        np.savez(new / "targets.npz", texts=np.array(texts), vectors=targets.astype(np.float16))


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the table of the folder that the command line names."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with the archives")
    parser.add_argument("out", type=Path, help="a new folder")
    parsed = parser.parse_args(arguments)
    with tqdm() as bar:

        def show(stage: str, done: int, total: int) -> None:
            if stage != bar.desc:
                bar.reset(total)
                bar.set_description_str(stage)
            bar.update(done - bar.n)

        try:
            make(parsed.folder, parsed.out, show)
        except UserError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
