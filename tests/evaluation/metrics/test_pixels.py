import numpy as np
import pytest
from scipy import ndimage

from rdm_jax.evaluation.metrics.pixels import psnr, ssim


def test_psnr_of_a_constant_error():
    a = np.full((3, 4, 4, 3), 100, np.uint8)
    b = a + np.array([0, 10, 255 - 100], np.uint8).reshape(3, 1, 1, 1)
    expected = [99.0, 20 * np.log10(255 / 10), 20 * np.log10(255 / 155)]
    np.testing.assert_allclose(psnr(a, b), expected)


def test_ssim_equals_its_definition_by_scipys_gaussian():
    generator = np.random.default_rng(0)
    a = generator.integers(0, 256, (2, 20, 17, 3), dtype=np.uint8)
    b = np.clip(a + generator.normal(0, 40, a.shape), 0, 255).astype(np.uint8)

    def blurred(plane):
        # radius 5 is truncate 5 / 1.5; the margin, where scipy repeats the edge, is cut off.
        return ndimage.gaussian_filter(plane, 1.5, radius=5)[5:-5, 5:-5]

    expected = []
    for x, y in zip(a.astype(float), b.astype(float), strict=True):
        maps = []
        for c in range(3):
            u, v = x[..., c], y[..., c]
            mu, mv = blurred(u), blurred(v)
            su, sv, suv = blurred(u * u) - mu**2, blurred(v * v) - mv**2, blurred(u * v) - mu * mv
            c1, c2 = 2.55**2, 7.65**2
            maps.append((2 * mu * mv + c1) * (2 * suv + c2) / ((mu**2 + mv**2 + c1) * (su + sv + c2)))
        expected.append(np.mean(maps))
    np.testing.assert_allclose(ssim(a, b), expected, rtol=1e-9)
    np.testing.assert_allclose(ssim(a, a), 1.0, rtol=1e-12)


def test_ssim_of_images_below_the_window_is_refused():
    with pytest.raises(ValueError, match="11 pixels, and the images are 12x10"):
        ssim(np.zeros((1, 10, 12, 3), np.uint8), np.zeros((1, 10, 12, 3), np.uint8))
