import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.metrics import copies
from rdm_jax.evaluation.metrics.copies import nearest, nearest_cosine, nearest_rmse


def test_nearest_equals_the_loop():
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    others = generator.integers(0, 256, (9, 6, 6, 3), dtype=np.uint8)
    others[4] = images[2]
    differences = images[:, None].astype(np.float64) - others[None].astype(np.float64)
    expected = np.sqrt((differences**2).mean(axis=(2, 3, 4))).min(axis=1)
    np.testing.assert_allclose(nearest_rmse(images, others), expected, atol=1e-9)
    assert nearest_rmse(images, others)[2] == 0


def test_nearest_cosine_does_not_see_lengths():
    a, b = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 5.0], [3.0, 0.0]])
    np.testing.assert_allclose(nearest_cosine(a, b), [1.0, np.sqrt(0.5)])
    np.testing.assert_allclose(nearest_cosine(7 * a, 2 * b), [1.0, np.sqrt(0.5)])


def test_the_nearest_row_is_found_in_any_chunk(monkeypatch):
    generator = np.random.default_rng(6)
    a, b = generator.normal(size=(11, 4)), generator.normal(size=(23, 4))
    cosines = (a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T
    for size in (4096, 5):
        monkeypatch.setattr(copies, "CHUNK", size)
        found = nearest(a, b)
        np.testing.assert_array_equal(found.rows, cosines.argmax(axis=1))
        np.testing.assert_allclose(found.cosines, cosines.max(axis=1))
    threshold = float(np.median(cosines.max(axis=1))) + 1e-6
    np.testing.assert_array_equal(found.above(threshold), cosines.max(axis=1) > threshold)


def test_copies_need_something_to_compare_with():
    with pytest.raises(UserError, match="there are none"):
        nearest(np.ones((2, 3)), np.ones((0, 3)))
