import numpy as np
import pytest
from PIL import Image

from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.features.resizing import MODES, normalize, resize


def steps(values):
    """Returns an image whose columns have these values."""
    return np.tile(np.array(values, np.uint8)[None, :, None], (2, 1, 3))


def test_tensorflow_puts_places_at_multiples_of_the_scale():
    found = resize(steps([0, 100]), "legacy_tensorflow", 4)
    np.testing.assert_allclose(found[0, :, 0], [0, 50, 100, 100], atol=1e-4)
    np.testing.assert_allclose(resize(steps([0, 100, 200, 40]), "legacy_tensorflow", 2)[1, :, 2], [0, 200], atol=1e-4)


def test_pytorch_puts_places_at_the_centers_of_pixels():
    found = resize(steps([0, 100]), "legacy_pytorch", 4)
    np.testing.assert_allclose(found[0, :, 0], [0, 25, 75, 100], atol=1e-4)
    np.testing.assert_allclose(resize(steps([0, 100, 200, 40]), "legacy_pytorch", 2)[1, :, 2], [50, 120], atol=1e-4)


def test_clean_filters_before_it_takes_fewer_pixels():
    image = steps([0, 255] * 150)
    assert np.abs(resize(image, "clean", 7)[:, 1:-1] - 127.5).max() < 15
    assert np.abs(resize(image, "legacy_tensorflow", 7)[:, 1:-1] - 127.5).max() > 60


def test_clean_is_pillows_bicubic_without_rounding():
    levels = np.random.default_rng(0).integers(100, 156, (40, 30, 3), dtype=np.uint8)
    found = resize(levels, "clean", 64)
    rounded = np.asarray(Image.fromarray(levels).resize((64, 64), Image.Resampling.BICUBIC), np.float32)
    assert np.abs(found - rounded).max() <= 1.1  # Pillow rounds after each of two passes
    assert (found % 1 != 0).any()


@pytest.mark.parametrize("mode", MODES)
def test_an_even_image_stays_even_in_range(mode):
    image = np.full((5, 9, 3), 200, np.uint8)
    resized = resize(image, mode)
    assert resized.shape == (299, 299, 3) and resized.dtype == np.float32
    np.testing.assert_allclose(resized, 200, atol=1e-3)
    divisor = 127.5 if mode == "legacy_pytorch" else 128.0
    np.testing.assert_allclose(normalize(resized, mode), 72 / 128 if divisor == 128 else 72.5 / 127.5, atol=1e-4)


def test_an_unknown_way_is_refused():
    with pytest.raises(UserError, match="unknown resizing 'legacy'; did you mean 'legacy_"):
        resize(steps([0, 1]), "legacy")
