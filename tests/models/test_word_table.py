"""The word table against sums by hand, and as a text tower of a CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.models import build_clip
from rdm_jax.models.word_table import WordTable

ROWS = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
PARAMS = {"params": {"word_table": ROWS}}


def apply(tokens: list[list[int]]) -> np.ndarray:
    ids = jnp.asarray(tokens, jnp.int32)
    return np.asarray(WordTable(4, 9, ids.shape[1], eos_id=1).apply(PARAMS, ids))


def test_a_text_is_the_sum_of_its_rows_at_unit_length() -> None:
    total = ROWS[5] + ROWS[4] + ROWS[4]
    np.testing.assert_allclose(apply([[0, 5, 4, 4, 1, 1]])[0], total / np.linalg.norm(total), rtol=1e-5)


def test_padding_and_unknown_tokens_change_nothing() -> None:
    np.testing.assert_array_equal(apply([[0, 5, 7, 1]]), apply([[0, 5, 2, 7, 3, 1, 1]]))


@pytest.mark.slow
def test_an_empty_text_is_zero_and_has_a_finite_gradient() -> None:
    assert not apply([[0, 1, 1], [0, 2, 1]]).any()
    ids = jnp.asarray([[0, 1]], jnp.int32)

    def total(rows: jax.Array) -> Any:
        return jnp.sum(jnp.asarray(WordTable(4, 9, 2).apply({"params": {"word_table": rows}}, ids)))

    gradient = jax.grad(total)(jnp.asarray(ROWS))
    assert np.isfinite(gradient).all()


def test_more_tokens_than_the_context_are_an_error() -> None:
    with pytest.raises(UserError, match="7 text tokens are too many; the table takes 4"):
        WordTable(4, 9, 4).apply(PARAMS, jnp.zeros((1, 7), jnp.int32))


@pytest.mark.slow
def test_a_clip_takes_it_as_its_text_tower() -> None:
    vision = {"kind": "vit", "width": 16, "layers": 1, "heads": 1, "patch_size": 8, "image_size": 16}
    text = {"kind": "table", "vocab_size": 9, "context_length": 6, "eos_id": 1}
    clip = build_clip({"embed_dim": 4, "vision": vision, "text": text})
    params: Any = clip.init(jax.random.key(0), *(jnp.zeros(s.shape, s.dtype) for s in clip.smallest_inputs))["params"]
    assert params["text"]["word_table"].shape == (9, 4)
    with pytest.raises(UserError, match="clip text kind 'bag'"):
        build_clip({"embed_dim": 4, "vision": vision, "text": {**text, "kind": "bag"}})


def test_a_bundle_holds_the_table_in_int8_and_opens_it_as_it_was_saved(tmp_path: Path) -> None:
    vision = {"kind": "vit", "width": 16, "layers": 1, "heads": 1, "patch_size": 8, "image_size": 16}
    text = {"kind": "table", "vocab_size": 9, "context_length": 6, "eos_id": 1}
    clip = {"embed_dim": 4, "vision": vision, "text": text}
    network = build_clip(clip)
    params = network.init(jax.random.key(0), *(jnp.zeros(s.shape, s.dtype) for s in network.smallest_inputs))["params"]
    params = {**params, "text": {"word_table": ROWS}}
    bundle = Bundle({"name": "words", "clip": {**clip, "mean": [0.5] * 3, "std": [0.5] * 3}}, {"clip": params})
    bundle.save(tmp_path / "once")
    opened = Bundle.open(tmp_path / "once")
    found = opened.params["clip"]["text"]["word_table"]
    assert found.dtype == np.float32
    assert np.abs(found - ROWS).max() <= 0.6 * np.abs(ROWS).max() / 127
    opened.save(tmp_path / "twice")
    assert opened.hashes == Bundle.open(tmp_path / "twice").hashes
    bundle.save(tmp_path / "exact", "float32")
    np.testing.assert_array_equal(Bundle.open(tmp_path / "exact").params["clip"]["text"]["word_table"], ROWS)
