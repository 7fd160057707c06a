from __future__ import annotations

import collections
import dataclasses
import itertools

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.data.sources import open_source
from rdm_jax.data.style_scenes import builder as scenes
from rdm_jax.data.style_scenes.layout import lay_out
from rdm_jax.data.style_scenes.random_styles import collection, style
from rdm_jax.data.style_scenes.random_styles.collection import FULL_ROWS, SEEN_STYLES, SLOTS, TINY_ROWS, TWINS
from rdm_jax.data.style_scenes.random_styles.outlines import DARK_INKS, Edges
from rdm_jax.data.style_scenes.random_styles.painting import SIDE, Painting
from rdm_jax.data.style_scenes.random_styles.paper import Laid
from rdm_jax.data.style_scenes.random_styles.style import TECHNIQUES, random_style
from rdm_jax.data.style_scenes.random_styles.surface import Border
from rdm_jax.data.style_scenes.random_styles.tiles import GRIDS, Pieces, divide
from rdm_jax.data.style_scenes.random_styles.washes import Wash
from rdm_jax.data.style_scenes.shapes import Role, box, ellipse
from rdm_jax.data.style_scenes.styles.brush import labels
from rdm_jax.data.style_scenes.vocabulary import (
    COLORS,
    GROUNDS,
    HELD_OUT_PAIRS,
    HELD_OUT_STYLES,
    KEPT_OUT,
    STYLES,
    SUBJECTS,
    Scene,
)


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _painted(number: int, subject: str, colour: str, ground: str, pose: int) -> np.ndarray:
    scene = Scene(subject, colour, ground, style.style_name(number))
    return random_style(number).paint(lay_out(subject, _rng(pose)), scene, _rng(number, pose))


def test_a_style_and_its_images_depend_on_their_numbers_alone():
    first, image = random_style(7), _painted(7, "cat", "red", "blue", 3)
    random_style.cache_clear()
    assert random_style(7) == first
    np.testing.assert_array_equal(_painted(7, "cat", "red", "blue", 3), image)
    assert (_painted(7, "cat", "red", "blue", 4) != image).any()
    with pytest.raises(UserError, match="negative"):
        random_style(-1)


def test_styles_are_all_different_and_of_every_technique():
    styles = [random_style(number) for number in range(400)]
    assert len({dataclasses.replace(s, number=0) for s in styles}) == len(styles)
    assert len({s.words for s in styles}) > 380
    counts = collections.Counter(s.technique for s in styles)
    for technique, (_, weight) in TECHNIQUES.items():
        assert counts[technique] / len(styles) == pytest.approx(weight, abs=4 * np.sqrt(weight / len(styles)))


def test_parameters_stay_where_a_subject_can_be_seen():
    for number in range(500):
        s = random_style(number)
        assert 0.68 <= s.colors.saturation <= 1.4
        assert s.colors.key_share <= 0.15
        assert s.outline.width == 0 or 0.7 <= s.outline.width <= 3.0
        assert s.edges.warp <= 1.3
        assert len(s.effects) <= 2


@pytest.mark.parametrize("colour", COLORS)
def test_the_palette_keeps_the_subject_apart_from_the_ground_and_near_its_color(colour: str):
    pure = np.array(COLORS[colour], float)
    for number, ground in itertools.product(range(60), GROUNDS):
        colors = random_style(number).colors
        palette = colors.palette(Scene("cat", colour, ground, ""), _rng(number))
        assert palette.min() >= 0 and palette.max() <= 255
        assert np.linalg.norm(palette[Role.MAIN] - palette[Role.GROUND]) > 60
        if not colors.monochrome:
            centered, wanted = palette[Role.MAIN] - palette[Role.MAIN].mean(), pure - pure.mean()
            assert centered @ wanted > 0.85 * np.linalg.norm(centered) * np.linalg.norm(wanted)


@pytest.mark.parametrize("start", range(0, 120, 30))
@pytest.mark.slow
def test_subjects_stand_out(start: int):
    contrasts = []
    for number in range(start, start + 30):
        subject, colour = SUBJECTS[number % 12], list(COLORS)[number % 8]
        image = _painted(number, subject, colour, list(GROUNDS)[number % 6], number)
        roles = labels(lay_out(subject, _rng(number)), 64)
        main, ground = image[np.isin(roles, (Role.MAIN, Role.SHADE))], image[roles == Role.GROUND]
        contrasts.append(np.linalg.norm(main.mean(0) - ground.mean(0)))
    assert min(contrasts) > 22, contrasts
    assert np.mean(contrasts) > 60


@pytest.mark.slow
def test_the_color_can_be_read_from_the_subject_whatever_the_style():
    hits = []
    for number in range(80):
        if random_style(number).colors.monochrome:
            continue
        for k, colour in enumerate(COLORS):
            image = _painted(number, "mushroom", colour, list(GROUNDS)[(number + k) % 6], number)
            main = image[labels(lay_out("mushroom", _rng(number)), 64) == Role.MAIN].mean(0)
            # By direction from gray: the nearest hue, however pale or dark it is.
            directions = {
                name: np.subtract(c, np.mean(c)) / np.linalg.norm(c - np.mean(c)) for name, c in COLORS.items()
            }
            hits.append(max(directions, key=lambda name: float(directions[name] @ (main - main.mean()))) == colour)
    assert np.mean(hits) > 0.85


def _statistics(image: np.ndarray) -> np.ndarray:
    """Returns what tells textures apart: the energy of differences at three distances, and the spread of brightness."""
    gray = image.astype(float) @ [0.299, 0.587, 0.114]
    energies = [np.log1p(np.abs(gray - np.roll(gray, step, axis)).mean()) for step in (1, 2, 4) for axis in (0, 1)]
    return np.array([*energies, np.log1p(gray.std()), gray.mean() / 64, *np.percentile(gray, (10, 90)) / 64])


@pytest.mark.slow
def test_images_of_a_style_are_more_alike_than_those_of_two_styles():
    numbers, subjects = range(40), ("cat", "house", "mushroom", "fish")
    found = np.array([[_statistics(_painted(n, s, "red", "blue", 5)) for s in subjects] for n in numbers])
    found /= found.std((0, 1))
    # Two subjects in one style, against the same two subjects in two styles.
    pairs = list(itertools.combinations(range(len(subjects)), 2))
    same = np.mean([np.linalg.norm(found[:, a] - found[:, b], axis=-1) for a, b in pairs])
    shifted = [np.linalg.norm(found[:, a] - np.roll(found[:, b], 1 + k, 0), axis=-1) for k, (a, b) in enumerate(pairs)]
    assert np.mean(shifted) > 1.6 * same


def test_no_random_style_is_one_of_those_held_out():
    for number in (*range(600), *range(collection.UNSEEN_FROM, collection.UNSEEN_FROM + 40)):
        s = random_style(number)
        dark_lines = s.outline.width > 1.0 and s.outline.ink in DARK_INKS
        shards = any(isinstance(t, Pieces) and t.kind == "shard" for t in (s.subject, s.background))
        lying = any(isinstance(e, Laid) and abs(e.angle) > 1.0 for e in s.effects)
        washed = any(isinstance(t, Wash) for t in (s.subject, s.background))
        assert not (dark_lines and (shards or lying)), s.words
        assert not (washed and any(isinstance(e, Border) for e in s.effects)), s.words


@pytest.fixture
def blank_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples whose images show the layout alone, in every style."""

    def paint(layout, scene, rng):
        return np.repeat(labels(layout, 64)[..., None], 3, 2)

    monkeypatch.setattr(style.RandomStyle, "paint", lambda self, layout, scene, rng: paint(layout, scene, rng))
    monkeypatch.setattr(collection, "STYLE_PAINTERS", dict.fromkeys(STYLES, paint))


def _tiny(split: str = "train") -> list[dict]:
    return [collection.example(k, split, TINY_ROWS[split]) for k in range(collection.size(split, TINY_ROWS[split]))]


@pytest.mark.usefixtures("blank_images")
def test_every_style_meets_every_subject_twice():
    examples = _tiny()
    counts = collections.Counter((e["style"], e["subject"]) for e in examples)
    assert set(counts.values()) == {2}
    assert len({e["id"] for e in examples}) == len(examples)
    random = {e["style"] for e in examples} - set(STYLES)
    assert random == {f"r{k:05d}" for k in range(TINY_ROWS["train"].count)}
    missing = {pair for pair in itertools.product(SUBJECTS, SEEN_STYLES) if (pair[1], pair[0]) not in counts}
    assert missing == {pair for pair in HELD_OUT_PAIRS if pair[1] in SEEN_STYLES}


@pytest.mark.usefixtures("blank_images")
def test_images_of_a_group_differ_in_the_style_alone():
    groups = collections.defaultdict(list)
    for e in _tiny():
        groups[e["group"]].append(e)
    assert max(len(group) for group in groups.values()) == TWINS
    assert np.mean([len(group) for group in groups.values()]) > 3
    for group in groups.values():
        assert len({(e["subject"], e["colour"], e["ground"], e["content"]) for e in group}) == 1
        assert len({e["style"] for e in group}) == len(group)
        for e in group:
            np.testing.assert_array_equal(e["image"], group[0]["image"])
        assert len({e["caption"] for e in group if e["style"] not in STYLES and not e["monochrome"]}) <= 1
    assert len({group[0]["image"].tobytes() for group in groups.values()}) > 0.95 * len(groups)


@pytest.mark.parametrize("split", collection.SPLITS)
def test_held_out_styles_are_in_no_split(split: str):
    styles = FULL_ROWS[split].styles
    assert KEPT_OUT in HELD_OUT_STYLES
    assert len(HELD_OUT_STYLES) == 3
    assert not set(styles) & set(HELD_OUT_STYLES)
    assert set(styles) & set(STYLES) == (set(SEEN_STYLES) if FULL_ROWS[split].copies else set())
    assert SLOTS >= 16


def test_unseen_styles_are_not_in_training():
    train, validation, unseen = (set(FULL_ROWS[split].styles) for split in collection.SPLITS)
    assert validation < train
    assert not unseen & train
    assert collection.size("train", FULL_ROWS["train"]) > 90_000


@pytest.mark.usefixtures("blank_images")
def test_captions_never_name_a_style_that_is_held_out_or_random():
    for e in (*_tiny(), *_tiny("unseen")):
        assert e["subject"] in e["caption"]
        assert not any(name in e["caption"] for name in HELD_OUT_STYLES)
        assert e["style"] in STYLES or not any(name in e["caption"] for name in STYLES)


def test_an_example_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="choose one from 0"):
        collection.example(10**6, "train", TINY_ROWS["train"])
    with pytest.raises(UserError, match="train"):
        collection.example(0, "trian", TINY_ROWS["train"])


@pytest.mark.parametrize("kind", [kind for kind in GRIDS if kind != "shard"])
def test_cells_have_the_area_of_their_grid(kind: str):
    cells = divide(kind, 6.0, 0.3, _rng(0))
    sizes = np.bincount(cells.number.ravel())
    area = {"long brick": 2.2, "lozenge": 1 / 1.36}.get(kind, 1.0) * (6.0 * SIDE / 64) ** 2
    assert sizes.max() == pytest.approx(area, rel=0.1)
    assert cells.edge.min() >= -1e-3
    assert np.abs(cells.x).max() <= 0.5 + 1e-5


def test_the_mean_of_cells_keeps_the_mean_of_the_canvas():
    cells = divide("square", 5.0, 0.7, _rng(1))
    canvas = _rng(2).uniform(0, 255, (SIDE, SIDE, 3)).astype(np.float32)
    np.testing.assert_allclose(cells.mean(canvas).mean((0, 1)), canvas.mean((0, 1)), rtol=1e-4)


def test_cuts_keep_sharp_corners():
    edges = Edges(3, 0.0, 24.0, 0.0, 0.0)
    square = box(0.0, 0.0, 1.0, 1.0)
    np.testing.assert_array_equal(edges._cut(square), square)
    assert len(edges._cut(ellipse(0.0, 0.0, 1.0, 1.0, n=24))) == 8


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_technique_paints_its_region_in_the_colors_of_the_subject(technique: str):
    layout = lay_out("mushroom", _rng(3))
    canvas_labels = labels(layout, SIDE)
    palette = random_style(0).colors.palette(Scene("mushroom", "blue", "white", ""), _rng(0))
    palette[:] = (120, 90, 160)
    painting = Painting(canvas_labels, palette, _rng(1))
    empty = np.full((SIDE, SIDE, 3), 7, np.float32)
    painted = TECHNIQUES[technique][0](_rng(5)).paint(painting, empty, painting.subject)
    # Strokes may reach over the edge, but not to the corners of the image.
    np.testing.assert_array_equal(painted[:8, :8], empty[:8, :8])
    inside = painted[painting.subject].mean(0)
    assert np.linalg.norm(inside - palette[0]) < 75


@pytest.mark.slow
def test_tfds_gives_back_what_was_drawn(tmp_path):
    made = scenes.StyleScenes(data_dir=tmp_path, config="random_tiny", file_format="array_record")
    made.download_and_prepare()
    source = open_source("style_scenes/random_tiny", "train", str(tmp_path))
    assert len(source) == collection.size("train", TINY_ROWS["train"])
    for index in (0, 100, 487):
        stored, drawn = source[index], collection.example(index, "train", TINY_ROWS["train"])
        np.testing.assert_array_equal(stored.image, drawn["image"])
        assert stored.caption == drawn["caption"]
        names = ("subject", "colour", "ground", "style", "words", "technique", "content", "group")
        assert {name: stored.attributes[name] for name in names} == {name: drawn[name] for name in names}
        assert stored.attributes["monochrome"] == str(drawn["monochrome"])
