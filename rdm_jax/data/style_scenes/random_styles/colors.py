"""The palettes of the random styles. The hue of the subject is kept: its color is part of what an image shows."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from rdm_jax.data.style_scenes.random_styles.painting import Random, lighter, log_uniform, luminance, pick
from rdm_jax.data.style_scenes.shapes import Role
from rdm_jax.data.style_scenes.styles.brush import WHITE, Palette, mix, palette, rgb, saturate
from rdm_jax.data.style_scenes.vocabulary import Scene

GROUNDS = ("pale", "strong", "toned", "dark")

CONTRAST = 84.0
"""The least distance of the subject's color from the ground's, in [0, 255] RGB."""

_TONES = np.full(len(Role), 0.8, np.float32)
_TONES[[Role.FLOOR, Role.MAIN, Role.SHADE, Role.TINT, Role.WHITE, Role.INK]] = 0.66, 0.4, 0.25, 0.6, 0.95, 0.1
_TONES[[Role.WOOD, Role.LEAF, Role.BONE, Role.FLAME, Role.MIST]] = 0.22, 0.3, 0.88, 0.66, 0.62


@dataclass(frozen=True)
class Colors:
    """How a style changes the colors of a scene.

    Attributes:
      saturation: of the subject, relative.
      lightness: the fraction of white in the subject, or if negative of black.
      key: the color that all others lean to, in [0, 255].
      key_share: how far.
      ground: one of `GROUNDS`.
      ground_share: how far it is changed, in [0, 1].
      shade, tint: how dark the shaded and how light the lit parts of the subject are.
      shade_hue: what the shade is multiplied with.
      levels: the number of levels of each channel; 0 for all.
      monochrome: whether the hues are left out; the tones are then of the key's color.
      inverted: whether a monochrome style is light on dark.
    """

    saturation: float
    lightness: float
    key: tuple[float, float, float]
    key_share: float
    ground: str
    ground_share: float
    shade: float
    tint: float
    shade_hue: tuple[float, float, float]
    levels: int
    monochrome: bool
    inverted: bool

    @staticmethod
    def sample(rng: Random) -> Colors:
        """Returns a random palette."""
        monochrome = bool(rng.random() < 0.06)
        red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.15, 0.75), rng.uniform(0.55, 1.0))
        cool, warm = (0.86, 0.92, 1.12), (1.12, 0.92, 0.82)
        return Colors(
            saturation=log_uniform(rng, 0.68, 1.4),
            lightness=rng.uniform(-0.14, 0.24),
            key=(255 * red, 255 * green, 255 * blue),
            key_share=pick(rng, (0.0, float(rng.uniform(0.03, 0.15)))),
            ground=pick(rng, GROUNDS, (0.32, 0.28, 0.2, 0.2)),
            ground_share=rng.uniform(0.3, 1.0),
            shade=rng.uniform(0.55, 0.85),
            tint=rng.uniform(0.3, 0.65),
            shade_hue=pick(rng, (cool, (1.0, 1.0, 1.0), warm)),
            levels=pick(rng, (0, 5, 7), (0.8, 0.1, 0.1)),
            monochrome=monochrome,
            inverted=bool(rng.random() < 0.3),
        )

    @property
    def words(self) -> str:
        """What a person calls it."""
        if self.monochrome:
            return "light on dark, one color" if self.inverted else "monochrome"
        vividness = (
            "muted colors" if self.saturation < 0.85 else "vivid colors" if self.saturation > 1.18 else "natural colors"
        )
        return f"{vividness}, {self.ground} background"

    def palette(self, scene: Scene, rng: Random) -> Palette:
        """Returns each role's color in [0, 255] for a scene."""
        if self.monochrome:
            return self._monochrome()
        colors = palette(scene, rng)
        colors[Role.WHITE : Role.MIST] = saturate(colors[Role.WHITE : Role.MIST], self.saturation)
        main = lighter(saturate(colors[Role.MAIN], self.saturation), self.lightness)
        colors[Role.MAIN] = main
        colors[Role.SHADE] = np.clip(main * np.float32(self.shade) * rgb(*self.shade_hue), 0, 255)
        colors[Role.TINT] = mix(main, WHITE, self.tint)
        colors = mix(colors, rgb(*self.key), self.key_share)
        ground = _apart(self._ground(colors[Role.GROUND]), colors[Role.MAIN])
        dark = luminance(ground) < 110
        colors[Role.GROUND] = ground
        colors[Role.FLOOR] = lighter(saturate(ground, 1.4), 0.16 if dark else -0.18)
        colors[Role.MIST] = lighter(ground, 0.4 if dark else -0.28)
        if dark:  # brown masts and trunks would vanish
            colors[[Role.WOOD, Role.LEAF]] = lighter(saturate(colors[[Role.WOOD, Role.LEAF]], 1.3), 0.22)
        if self.levels:
            step = np.float32(255 / (self.levels - 1))
            colors[: Role.FLOOR + 1] = np.round(colors[: Role.FLOOR + 1] / step) * step
        return np.clip(colors, 0, 255).astype(np.float32)

    def _ground(self, pale: Float32[np.ndarray, "3"]) -> Float32[np.ndarray, "3"]:
        if self.ground == "strong":
            return saturate(pale, 1 + 2.2 * self.ground_share) * np.float32(1 - 0.12 * self.ground_share)
        if self.ground == "dark":
            return saturate(pale, 2.5) * np.float32(0.42 - 0.3 * self.ground_share)
        if self.ground == "toned":
            return mix(pale, rgb(*self.key), 0.25 + 0.35 * self.ground_share)
        return mix(pale, WHITE, 0.5 * (1 - self.ground_share))

    def _monochrome(self) -> Palette:
        tones = 1.05 - _TONES if self.inverted else _TONES
        dark, pale = lighter(rgb(*self.key), -0.85), lighter(rgb(*self.key), 0.75)
        return np.clip(dark + (pale - dark) * tones[:, None], 0, 255).astype(np.float32)


def _apart(ground: Float32[np.ndarray, "3"], main: Float32[np.ndarray, "3"]) -> Float32[np.ndarray, "3"]:
    """Returns the ground, lighter or darker if it is too near to the subject's color."""
    away = 1 if luminance(ground) > luminance(main) else -1
    for share in (0.0, 0.2, 0.4, 0.6, 0.8):
        moved = lighter(ground, away * share)
        if np.linalg.norm(moved - main) >= CONTRAST:
            return moved
    return lighter(ground, -0.8 * away)
