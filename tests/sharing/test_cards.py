"""Cards of models and databases: what they say is what the bundle or the manifest records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.build import BuildOptions
from rdm_jax.retrieval.database import Database
from rdm_jax.sharing import cards
from tests.helpers import tiny
from tests.retrieval.conftest import Listed, RandomEncoder, build, noise


def front(card: str) -> dict[str, Any]:
    """Returns the metadata of a card."""
    start, meta, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(meta)


def table(card: str, heading: str) -> list[list[str]]:
    """Returns the rows of the first table after a text."""
    lines = card.partition(heading)[2].strip().split("\n")
    rows = [line for line in lines[next(i for i, line in enumerate(lines) if line.startswith("|")) :]]
    rows = rows[: next((i for i, line in enumerate(rows) if not line.startswith("|")), len(rows))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows[2:]]


class Credited(Listed):
    """Images with authors; one of them has a license of its own."""

    def _labels(self, index: int) -> dict[str, str]:
        own = {"license": "CC-BY-4.0"} if index == 3 else {}
        return {"author": ("Ann|a", "Ben")[index % 2], "set": "birds", **own}


def test_a_models_card_says_what_the_bundle_records():
    training = {
        "clip": {"steps": 7, "batch_size": 4, "seed": 0},
        "denoiser": {
            "steps": 9000,
            "batch_size": 32,
            "seed": 1,
            "data": "my_photos train",
            "database": "general",
            "results": {"loss": 0.125, "kid": 0.5},
            "measured_at": 8000,
        },
    }
    opened = tiny.bundle()
    bundle = Bundle({**opened.config, "training": training, "license": "MIT"}, opened.params, opened.tokenizer)
    card = cards.model_card(bundle, "hf://me/tiny", attribution="Thanks to *Ann*.")
    meta = front(card)
    assert meta["library_name"] == "rdm_jax" and meta["license"] == "mit" and meta["pipeline_tag"] == "text-to-image"
    assert "diffusion" in meta["tags"]
    assert 'rdm sample "a red boat" --model hf://me/tiny' in card and 'pip install "rdm_jax[hub]"' in card
    assert table(card, "## Training") == [
        ["clip", "not recorded", "not recorded", "7", "4", "0"],
        ["denoiser", "my\\_photos train", "general", "9000", "32", "1"],
    ]
    assert table(card, "## Measured results") == [
        ["denoiser", "loss", "0.125", "8000"],
        ["denoiser", "kid", "0.5", "8000"],
    ]
    assert "License: MIT." in card and "Thanks to *Ann*." in card
    parts = {row[0]: int(row[2].replace(",", "")) for row in table(card, "of images.")}
    sizes = {part: sum(np.size(leaf) for leaf in leaves(bundle.params[part])) for part in bundle.params}
    assert parts == sizes


def leaves(tree: Any) -> list[Any]:
    """Returns the arrays of nested dictionaries."""
    return [tree] if not isinstance(tree, dict) else [leaf for value in tree.values() for leaf in leaves(value)]


def test_what_is_not_recorded_is_not_invented():
    card = cards.model_card(Bundle.open("style-scenes", parts=("clip", "autoencoder")), "hf://me/x")
    assert "license" not in front(card) and "No license is recorded; ask whoever made it" in card
    assert card.rstrip().endswith("The bundle records none.")
    assert "Images of its default database general, which comes with rdm_jax: Apache-2.0." in card
    assert front(cards.model_card(tiny.bundle(), "hf://me/x", "My own terms"))["license_name"] == "My own terms"
    parts = Bundle({"name": "enc", "clip": tiny.CONFIG["clip"]}, {"clip": tiny.bundle().params["clip"]})
    assert "rdm database build my-images --encoder hf://me/enc" in cards.model_card(parts, "hf://me/enc")


def test_a_databases_card_names_sets_authors_and_licenses(tmp_path: Path):
    build(Credited(noise(5)), RandomEncoder("cöder"), tmp_path / "birds", BuildOptions(name="my_birds", license="MIT"))
    database = Database.open(tmp_path / "birds")
    card = cards.database_card(database, "hf://me/birds")
    assert front(card)["license"] == "mit"
    assert "5 rows of 24 numbers, with captions and attributes and thumbnails" in card
    assert (
        f"The encoder cöder made the rows (SHA-256 of its weights: `{RandomEncoder('cöder').identity['sha256']}`)"
        in card
    )
    assert "--database hf://me/birds" in card
    assert table(card, "## Sources") == [["listed", "5", "a list", "MIT"]]
    rows = [line for line in card.partition("## License")[2].split("\n") if line.startswith("| birds")]
    assert sorted(rows) == [
        "| birds | Ann\\|a | MIT | 3 |",
        "| birds | Ben | CC-BY-4.0 | 1 |",
        "| birds | Ben | MIT | 1 |",
    ]


def test_a_database_without_a_license_says_so(tmp_path: Path):
    build(Listed(noise(3)), RandomEncoder(), tmp_path / "plain")
    database = Database.open(tmp_path / "plain")
    card = cards.database_card(database, "hf://me/plain")
    assert "license" not in front(card) and "No license is recorded in this database" in card
    assert table(card, "## License") == [["plain", f"artist {i}", "not recorded", "1"] for i in range(3)]
    assert "No license" not in cards.database_card(database, "hf://me/plain", "cc0-1.0")


def test_a_license_is_a_name():
    cards.check_license("creativeml-openrail-m")
    with pytest.raises(UserError, match="longer than a name"):
        cards.check_license("Permission is hereby granted\n" * 9)
    assert json.dumps(cards.LICENSES).islower()
