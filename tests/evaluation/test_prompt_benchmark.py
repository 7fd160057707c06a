"""CLIP-score by category: the tables of prompts, the choice of captions, and the scores against loops."""

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.evaluation import prompt_benchmark
from rdm_jax.evaluation.prompt_benchmark import Prompt, choose, matching, read_table, score_rows, write_table

PARTI = 'Prompt\tCategory\tChallenge\tNote\n"bond"\tAbstract\tBasic\tnote\na cat, "asleep"\tAnimals\tDetails\t\n'


class Source:
    """Captions with a category."""

    name, captions, fingerprint, shard_lengths = "source", "a list", "0" * 64, (1,)

    def __init__(self, labels):
        self._labels = labels

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, row):
        raise ValueError("these captions have no images")

    def labels(self, row):
        caption, kind = self._labels[row]
        return {"caption": caption, "kind": kind, "path": str(row)}


def test_a_table_of_parti_prompts_is_read_with_its_quotes():
    prompts = read_table(PARTI, "p.tsv")
    assert prompts == [Prompt('"bond"', "Abstract", "Basic"), Prompt('a cat, "asleep"', "Animals", "Details")]
    assert read_table(write_table(prompts), "p.tsv") == prompts
    assert read_table("Category\tPrompt\nA\tx\n", "p.tsv") == [Prompt("x", "A")]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "p.tsv has no column Prompt and no column Category"),
        ("Prompt,Category\na,b\n", "has no column Prompt and no column Category; its first line names the columns"),
        ("Prompt\tCategory\n", "p.tsv has no prompts below its first line"),
        ("Prompt\tCategory\nx\tA\ny\n", "p.tsv, line 3 has no prompt or no category"),
    ],
)
def test_other_tables_are_refused(written, message):
    with pytest.raises(UserError, match=message):
        read_table(written, "p.tsv")


def test_equally_many_different_captions_of_each_category_are_chosen():
    labels = [(f"{kind}{i % 5}", kind) for kind in "abc" for i in range(10)] + [("d0", "d"), ("", "a"), ("x", "")]
    prompts, rows = choose(Source(labels), "kind", 4, seed=3)
    assert [prompt.category for prompt in prompts] == ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    assert len({prompt.text for prompt in prompts}) == 12
    assert [labels[row] for row in rows] == [(prompt.text, prompt.category) for prompt in prompts]
    assert choose(Source(labels), "kind", 4, seed=3)[1].tolist() == rows.tolist()
    assert choose(Source(labels), "kind", 4, seed=4)[1].tolist() != rows.tolist()
    with pytest.raises(UserError, match="no kind of source has 6 different captions, 5 are the most"):
        choose(Source(labels), "kind", 6)
    with pytest.raises(UserError, match="unknown attribute 'style'"):
        choose(Source(labels), "style", 1)


def test_scores_are_those_of_a_loop():
    generator = np.random.default_rng(0)
    prompts = [Prompt("a", "one", "hard"), Prompt("b", "one"), Prompt("c", "two", "hard")]
    texts, images, real = (generator.standard_normal((n, 4)) for n in (3, 6, 3))
    of_image = np.array([0, 1, 2, 0, 1, 2])
    rows = score_rows(prompts, texts, images, of_image, real, "score")

    def cosine(x, y):
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    found = {(row["group"], row["kind"]): row for row in rows}
    groups = {"category one": [0, 1], "category two": [2], "challenge hard": [0, 2], "all": [0, 1, 2]}
    assert {group for group, _ in found} == set(groups)
    for group, members in groups.items():
        own = [cosine(images[i], texts[p]) for i, p in enumerate(of_image) if p in members]
        others = [
            cosine(images[i], texts[q]) for i, p in enumerate(of_image) if p in members for q in range(3) if q != p
        ]
        assert found[group, ""]["value"] == pytest.approx(np.mean(own)) and found[group, ""]["images"] == len(own)
        assert found[group, ""]["low"] <= np.mean(own) <= found[group, ""]["high"]
        assert found[group, prompt_benchmark.FLOOR]["value"] == pytest.approx(np.mean(others))
        ceiling = np.mean([cosine(real[p], texts[p]) for p in members])
        assert found[group, prompt_benchmark.CEILING]["value"] == pytest.approx(ceiling)
    head, table = prompt_benchmark.table({"metrics": rows})
    assert head == ["", "images", "generated images", "captions of other images", "real images"] and len(table) == 4


def test_images_belong_to_every_prompt_of_their_text():
    prompts = [Prompt("a", "one"), Prompt("b", "one"), Prompt("a", "two")]
    assert matching(prompts, ["a", "b", "a"]) == [(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)]
    with pytest.raises(UserError, match="no images of 1 prompts, as b"):
        matching(prompts, ["a"])
