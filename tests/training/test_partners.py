"""Partners of labeled images against a search through all of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.training.partners import find_partners, sample_content_partners, sample_style_partners, shows_another

COUNT, SAMPLES = 120, 400
STYLE, FAMILY, CAPTION = range(3)


@pytest.fixture(scope="module")
def labels():
    """Labels in no order: 4 families of 2 styles, 9 captions, of which "" is none; "alone" occurs once."""
    generator = np.random.default_rng(0)
    styles = generator.integers(0, 8, COUNT)
    captions = [["", *"abcdefgh"][number] for number in generator.integers(0, 9, COUNT)]
    captions[7] = "alone"
    return [f"s{style}" for style in styles], [f"f{style // 2}" for style in styles], captions


@pytest.fixture(scope="module")
def partners(labels):
    return jax.device_put(find_partners(labels[CAPTION], labels[STYLE], labels[FAMILY]))


def samples(partners, odds):
    """Returns the content partners of every row in many samples, and whether they are itself."""
    rows = jnp.arange(COUNT)
    sample = jax.jit(jax.vmap(lambda key: sample_content_partners(key, partners, rows, jnp.asarray(odds))))
    return [np.asarray(part) for part in sample(jax.random.split(jax.random.key(1), SAMPLES))]


def test_style_partners_are_the_whole_style(labels, partners):
    found = np.asarray(sample_style_partners(jax.random.key(0), partners, jnp.arange(COUNT), SAMPLES))
    for row in range(COUNT):
        assert set(found[row]) == {i for i in range(COUNT) if labels[STYLE][i] == labels[STYLE][row]}


def test_a_neighbor_shows_another_subject(labels, partners):
    others = jnp.tile(jnp.arange(COUNT), (COUNT, 1))
    found = np.asarray(shows_another(partners, jnp.arange(COUNT), others))
    captions = np.array(labels[CAPTION])
    same = (captions[:, None] == captions[None]) & (captions != "")
    assert np.array_equal(found, ~(same | np.eye(COUNT, dtype=bool)))


@pytest.mark.parametrize("kind", ["twin", "cousin"])
def test_content_partners_are_all_of_the_caption_within_the_family_or_outside_it(labels, partners, kind):
    found, itself = samples(partners, [0.0, 1.0, 0.0] if kind == "twin" else [0.0, 0.0, 1.0])
    _, families, captions = labels
    for row in range(COUNT):
        same = [i for i in range(COUNT) if captions[row] and captions[i] == captions[row]]
        family = {i for i in same if families[i] == families[row]} | {row}
        cousins = {i for i in same if families[i] != families[row]}
        # A twin is one of all of the family, the image itself included; a cousin never is in the family.
        assert set(found[:, row]) == (cousins if kind == "cousin" and cousins else family)
        assert np.array_equal(itself[:, row], found[:, row] == row)


def test_odds_are_those_of_the_kinds(labels, partners):
    found, _ = samples(partners, [0.2, 0.3, 0.5])
    _, families, captions = labels
    has_cousins = [
        any(captions[j] == captions[i] and families[j] != families[i] for j in range(COUNT)) for i in range(COUNT)
    ]
    row = next(i for i in range(COUNT) if captions[i] and has_cousins[i])
    cousins = np.mean([families[i] != families[row] for i in found[:, row]])
    assert cousins == pytest.approx(0.5, abs=4 * (0.25 / SAMPLES) ** 0.5)


def test_an_image_without_a_caption_has_only_itself(labels, partners):
    found, itself = samples(partners, [0.0, 0.5, 0.5])
    nameless = [i for i in range(COUNT) if not labels[CAPTION][i]]
    assert nameless and itself[:, nameless].all() and (found[:, nameless] == nameless).all()


def test_an_image_takes_the_content_of_what_it_was_made_of():
    rows = np.array([4, 2, 9, 2, 9, 2])
    partners = jax.device_put(find_partners([*"abcbcb"], [*"xxxyyz"], ["f"] * 6, rows))
    sample = jax.jit(lambda key: sample_content_partners(key, partners, jnp.arange(6), jnp.array([1.0, 0.0, 0.0])))
    found, itself = sample(jax.random.key(0))
    assert list(map(int, found)) == [0, 1, 2, 1, 2, 1]
    assert list(map(bool, itself)) == [True, True, True, False, False, False]
