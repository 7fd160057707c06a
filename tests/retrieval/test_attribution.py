"""Who is named for neighbors from databases with and without authors and licenses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rdm_jax.retrieval.attribution import attribution, credits_of
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.retriever import Neighbors
from tests.retrieval.conftest import Listed, RandomEncoder

LABELS = [
    {"set": "ink", "author": "Ann", "license": "MIT"},
    {"set": "ink", "author": "Ann", "licence": "MIT"},
    {"set": "pen|cil", "author": "Bob [b](http://b)", "license": "CC-BY-4.0"},
    {},
]


class Labelled(Listed):
    """Images whose labels are those of LABELS in turn."""

    def _labels(self, index):
        return LABELS[index % len(LABELS)]


def built(folder, name, source, **options):
    build_database(BuildJob.of(source, RandomEncoder(), BuildOptions(name=name, **options)), folder / name)
    return Database.open(folder / name)


@pytest.fixture
def databases(tmp_path):
    """One database with labels, and one without."""
    images = list(np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8))
    return built(tmp_path, "icons", Labelled(images)), built(tmp_path, "plain", Listed(images[:3], "plain"))


def neighbors(*rows):
    """Returns neighbors [1, k] from (database, row)."""
    names, ids = zip(*rows, strict=True)
    zeros = np.zeros((1, len(ids), 2), np.float32)
    return Neighbors(np.array([ids], np.int64), zeros[..., 0], zeros, np.array([names]))


def test_each_set_author_and_license_is_named_with_its_images(databases):
    credits = credits_of(databases[0], [0, 1, 2, 4])
    assert [(one.source, one.author, one.license, len(one.images)) for one in credits] == [
        ("ink", "Ann", "MIT", 3),
        ("pen|cil", "Bob [b](http://b)", "CC-BY-4.0", 1),
    ]


def test_the_neighbors_that_were_used_are_named_and_no_others(databases):
    icons, _ = databases
    text = attribution([([icons], neighbors(("icons", 0), ("icons", 0)))])
    assert "| ink | Ann | MIT | listed no. 0 |" in text
    assert "Bob" not in text and "listed no. 1" not in text


def test_a_database_without_licenses_is_named_and_says_so(databases):
    text = attribution([(databases, neighbors(("icons", 2), ("plain", 1)))])
    plain = text.partition("## plain")[2]
    assert "No license is recorded in this database" in plain
    assert "plain no. 1" in plain
    assert "No license is recorded" not in text.partition("## plain")[0]


def test_the_license_of_a_whole_database_is_that_of_its_images(databases, tmp_path):
    manifest = json.loads((tmp_path / "plain" / "manifest.json").read_text())
    (tmp_path / "plain" / "manifest.json").write_text(json.dumps({**manifest, "licence": "CC0-1.0"}))
    text = attribution([([Database.open(tmp_path / "plain")], neighbors(("plain", 1)))])
    assert "CC0-1.0" in text and "No license" not in text


def test_both_roles_of_neighbors_are_named_and_images_of_the_user_are_not(databases):
    icons, plain = databases
    used = [([icons], neighbors(("icons", 0))), ([plain], neighbors(("plain", 2), ("", -1))), ([plain], None)]
    text = attribution(used)
    assert text.index("## icons") < text.index("## plain")
    assert "plain no. 2" in text


def test_names_have_no_effect_in_markdown(databases):
    text = attribution([([databases[0]], neighbors(("icons", 2)))])
    (row,) = [line for line in text.split("\n") if "Bob" in line]
    assert "\\[b\\](http" in row
    assert row.replace("\\|", "").count("|") == 5


def test_a_run_without_neighbors_has_used_none():
    assert "No neighbors were used." in attribution([])
