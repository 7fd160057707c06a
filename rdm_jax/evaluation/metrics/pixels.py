"""Reconstructions against their originals, pixel by pixel: PSNR and SSIM."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian window
K1, K2 = 0.01, 0.03

Images = UInt8[np.ndarray, "n h w c"]


def psnr(a: Images, b: Images, ceiling: float = 99.0) -> Float[np.ndarray, " n"]:
    """Returns the peak signal-to-noise ratio of each pair of images in dB, `ceiling` for equal ones."""
    error = np.square(a.astype(np.float64) - b.astype(np.float64)).mean(axis=(1, 2, 3))
    return np.minimum(ceiling, 10 * np.log10(255.0**2 / np.maximum(error, 1e-12)))


def ssim(a: Images, b: Images) -> Float[np.ndarray, " n"]:
    """Returns the structural similarity of each pair of images, the mean over channels and positions.

    Z. Wang, A. Bovik, H. Sheikh, E. Simoncelli, "Image quality assessment: from error visibility to structural
    similarity", IEEE TIP 13 (2004), equation 13, with their Gaussian window of 11x11 pixels, only where it fits.

    Args:
      a: [n, h, w, c] with h and w at least 11.
      b: the same shape.

    Raises:
      ValueError: the images are smaller than the window.
    """
    if min(a.shape[1:3]) < WINDOW:
        raise ValueError(f"the window of SSIM has {WINDOW} pixels, and the images are {a.shape[2]}x{a.shape[1]}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x = _blurred(x * x) - mean_x**2
    var_y = _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    c1, c2 = (K1 * 255.0) ** 2, (K2 * 255.0) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(axis=(1, 2, 3))


def _blurred(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n h2 w2 c"]:
    """Returns images under the Gaussian window, where it fits."""
    places = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(places**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(images, WINDOW, axis=axis)
        images = windows @ weights
    return images
