"""Captions of the images, in varied phrasing, and the prompts used in evaluation.

The names in `NEVER_NAMED` and `KEPT_OUT` are never written.
"""

from __future__ import annotations

import numpy as np

from rdm_jax.core.errors import UserError
from rdm_jax.data.style_scenes.vocabulary import MONOCHROME, NAMED_STYLES, Scene

SHORT_SHARE = 0.1
"""The fraction of captions that omit most of the scene."""

MONOCHROME_COLOR_SHARE = 0.1
"""The fraction of captions of monochrome images that name the colors nevertheless."""


def with_article(words: str) -> str:
    """Returns the words after "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _plain(thing: str, ground: str | None, rng: np.random.Generator) -> str:
    """Returns a phrase without a style, for a thing ("red boat") on a ground or none."""
    a_thing = with_article(thing)
    if ground is None:
        return _pick(rng, (a_thing, f"a picture of {a_thing}", thing, f"one {thing}"))
    return _pick(
        rng,
        (
            f"{a_thing} on {with_article(ground)} ground",
            f"{a_thing} on {ground}",
            f"{a_thing} on {with_article(ground)} background",
            f"a picture of {a_thing} on {with_article(ground)} ground",
            f"{thing}, {ground} background",
        ),
    )


def _styled(thing: str, ground: str | None, style: str, rng: np.random.Generator) -> str:
    """Returns a phrase that names the style."""
    a_thing = with_article(thing)
    place = "" if ground is None else _pick(rng, (f" on {with_article(ground)} ground", f" on {ground}"))
    return _pick(
        rng,
        (
            f"{a_thing}{place}, {style}",
            f"{style} of {a_thing}{place}",
            f"{a_thing}{place} in {style} style",
            f"{style}: {a_thing}{place}",
            f"{a_thing}{place}, in the style of {style}",
        ),
    )


def _colors_shown(scene: Scene, rng: np.random.Generator) -> bool:
    return scene.style not in MONOCHROME or rng.random() < MONOCHROME_COLOR_SHARE


def caption(scene: Scene, style_named: bool, rng: np.random.Generator) -> str:
    """Returns one caption of a scene: full in nine cases of ten, else short; colors are left out of monochrome ones.

    A short caption has the subject with its style or with its color, or the subject alone.

    Args:
      scene: what the image shows.
      style_named: whether the caption names the style.
      rng: chooses the phrasing.

    Raises:
      UserError: `style_named` for a style that is never to be named.
    """
    if style_named and scene.style not in NAMED_STYLES:
        raise UserError(f"style {scene.style!r} is never named in captions; pass style_named=False")
    colored = _colors_shown(scene, rng)
    short = rng.random() < SHORT_SHARE
    thing = f"{scene.colour} {scene.subject}" if colored else scene.subject
    if not short:
        ground = scene.ground if colored else None
        return _styled(thing, ground, scene.style, rng) if style_named else _plain(thing, ground, rng)
    if style_named:
        return _styled(scene.subject, None, scene.style, rng)
    return _plain(thing if rng.random() < 0.8 else scene.subject, None, rng)


def random_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Returns a caption that names the style in half of the cases where it may be named at all."""
    return caption(scene, scene.style in NAMED_STYLES and bool(rng.random() < 0.5), rng)


def neutral_prompt(subject: str, colour: str, ground: str | None = None) -> str:
    """Returns the prompt of evaluation that leaves the style open, as "a red boat on a blue ground"."""
    thing = with_article(f"{colour} {subject}")
    return thing if ground is None else f"{thing} on {with_article(ground)} ground"


def styled_prompt(subject: str, colour: str, style: str, ground: str | None = None) -> str:
    """Returns the prompt of evaluation that names a style, as "a red boat on a blue ground, stained glass".

    Raises:
      UserError: the style is never to be named.
    """
    if style not in NAMED_STYLES:
        raise UserError(f"style {style!r} is never named in prompts; choose one of {', '.join(NAMED_STYLES)}")
    return f"{neutral_prompt(subject, colour, ground)}, {style}"
