"""Icons of closed forms: their exact coverage of each pixel is known."""

from __future__ import annotations

import numpy as np

FINE = 16  # samples along a pixel's side
WHITE, BLACK, RED, BLUE, YELLOW = (255, 255, 255), (0, 0, 0), (214, 40, 40), (24, 60, 190), (255, 204, 0)


def grid(size):
    """Returns the coordinates (x, y) of all samples of an image of size x size pixels, in pixels."""
    y, x = (np.mgrid[: size * FINE, : size * FINE] + 0.5) / FINE
    return x, y


def coverage(inside):
    """Returns which fraction of each pixel lies inside a shape, from the mask of its samples."""
    size = len(inside) // FINE
    return inside.reshape(size, FINE, size, FINE).mean((1, 3))


def disk(size=64, center=(32, 32), outer=20.0, inner=0.0):
    """Returns the coverage of a disk, or of a ring."""
    x, y = grid(size)
    distance = np.hypot(x - center[0], y - center[1])
    return coverage((distance < outer) & (distance >= inner))


def rectangle(left, top, right, bottom, size=64):
    """Returns the coverage of a rectangle."""
    x, y = grid(size)
    return coverage((x >= left) & (x < right) & (y >= top) & (y < bottom))


def painted(*layers, background=WHITE):
    """Returns the image of layers (coverage, color), each over those before."""
    image = np.broadcast_to(np.array(background, float), (*layers[0][0].shape, 3))
    for covered, color in layers:
        image = image * (1 - covered[..., None]) + np.array(color, float) * covered[..., None]
    return np.round(image).astype(np.uint8)


def iou(one, other):
    """Returns the intersection over union of two coverages."""
    return np.minimum(one, other).sum() / np.maximum(one, other).sum()


def over(rgba, background=WHITE):
    """Returns an image with alpha over a color, in float."""
    alpha = rgba[..., 3:] / 255.0
    return rgba[..., :3] * alpha + np.array(background) * (1 - alpha)
