"""A model with two roles of neighbors: what each role changes, and what it does not."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from rdm_jax.conditioning import Weights
from rdm_jax.conditioning.candidates import Scorer
from rdm_jax.conditioning.roles import ContentChannels, StyleTokens
from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import Example
from rdm_jax.factory import encoder_from
from rdm_jax.generator import Generator
from rdm_jax.request import CANDIDATES_APART
from rdm_jax.result import join
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.retriever import map_neighbors
from tests.helpers import tiny

PROMPTS = ["square 3", "square 8"]


class Bars(tiny.Squares):
    """A source of n black bars on white, each in another row."""

    def __getitem__(self, index: int) -> Example:
        image = np.full((16, 16, 3), 255, np.uint8)
        image[index % 14 + 1, 2:14] = 0
        return dataclasses.replace(super().__getitem__(index), image=image)


@pytest.fixture(scope="module")
def generator():
    return Generator.load(tiny.bundle_with_roles())


@pytest.fixture(scope="module")
def databases(generator, tmp_path_factory):
    """Two databases of styles, one of contents, and one of a single content."""
    folder = tmp_path_factory.mktemp("databases")
    paths = [tiny.database(folder, name, generator.bundle, seed=i) for i, name in enumerate(["one", "two"])]
    for name, count in {"bars": 12, "bar": 1}.items():
        options = BuildOptions(name=name, thumbnail_size=16)
        job = BuildJob.of(Bars(count, 0), ClipEncoder(generator.bundle, batch_size=8), options)
        build_database(job, folder / name)
        paths.append(folder / name)
    return [Database.open(path) for path in paths]


@pytest.fixture
def sample(generator, databases):
    def generate(prompts=PROMPTS, **options):
        given = {"database": databases[0], "content_database": databases[2], "num_images": 2, "batch_size": 4}
        return generator.sample(prompts, **given | {"condition": "text+neighbors", **options})

    return generate


def difference(a, b):
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.slow
def test_both_roles_change_the_image(sample, databases):
    images = sample().images
    assert np.array_equal(images, sample().images)
    others = [{"database": databases[1]}, {"content_neighbors": 0}, {"condition": "neighbors"}]
    assert all(not np.array_equal(images, sample(**options).images) for options in others)


@pytest.mark.slow
def test_without_style_or_without_content_the_other_role_works(sample, databases):
    style_alone = sample(content_neighbors=0, condition="neighbors")
    assert style_alone.content is None and style_alone.known is None and style_alone.neighbors is not None
    content_alone = sample(condition="text", database=None)
    assert content_alone.neighbors is None and content_alone.content is not None
    assert difference(content_alone.images, sample(condition="text", database=databases[1]).images) == 0


@pytest.mark.slow
def test_content_is_found_by_its_caption_and_images_take_it_in_turn(sample):
    result = sample(num_images=4, content_neighbors=3, batch_size=8)
    ids = result.content.ids[:, 0].reshape(2, 4)
    assert ids[:, 0].tolist() == [3, 8]  # "square 3" and "square 8"
    assert (ids[:, 3] == ids[:, 0]).all() and all(len(set(row[:3])) == 3 for row in ids)
    assert (result.content.databases == "bars").all() and result.known.all()


def test_of_equal_captions_the_content_that_is_nearest_to_the_style_comes_first(generator, databases, tmp_path):
    class Alike(Bars):
        def __getitem__(self, index: int) -> Example:
            return dataclasses.replace(super().__getitem__(index), caption="square")

    options = BuildOptions(name="alike", thumbnail_size=16)
    build_database(BuildJob.of(Alike(9, 0), ClipEncoder(generator.bundle, batch_size=8), options), tmp_path / "alike")
    alike = Database.open(tmp_path / "alike")
    plan = generator.plan("square", database=databases[0], content_database=alike, neighbors=3, content_neighbors=9)
    style = StyleTokens.of(generator.bundle, [])
    assert style is not None
    shown = style.vectors(databases[0].thumbnails(plan.neighbors.ids[0])).astype(np.float64)
    bars = style.vectors(alike.thumbnails(np.arange(9))).astype(np.float64)
    expected = (bars @ shown.T).mean(axis=1)
    np.testing.assert_allclose(expected[plan.content.neighbors.ids[0]], np.sort(expected)[::-1], atol=1e-5)
    assert len(set(plan.content.neighbors.ids[0])) == 9

    without = generator.plan("square", content_database=alike, content_neighbors=9, condition="text")
    vectors = alike.embeddings(without.content.neighbors.ids[0]).astype(np.float64)
    cosines = vectors @ without.queries[0] / np.linalg.norm(vectors, axis=1)
    assert (np.diff(cosines) <= 1e-4).all()


def test_an_image_as_the_query_is_its_own_content(generator, databases):
    bar = np.full((16, 16, 3), 255, np.uint8)
    bar[4, 2:14] = 0
    other = np.roll(bar, 6, axis=0)
    common = {"database": databases[0], "content_database": databases[2], "condition": "neighbors"}
    plans = [generator.plan(images=[image], **common) for image in (bar, other)]
    assert (plans[0].content.neighbors.ids == -1).all()
    assert not np.array_equal(plans[0].builder.content, plans[1].builder.content)


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_batch(sample):
    together = sample(num_images=3, batch_size=6)
    alone = sample(num_images=3, batch_size=2)
    assert difference(together.images, alone.images) <= 2
    assert np.array_equal(together.content.ids, alone.content.ids)


@pytest.mark.slow
def test_the_same_scale_for_style_is_no_scale_of_its_own(sample):
    assert difference(sample(guidance_scale=3.0, style_scale=3.0).images, sample(guidance_scale=3.0).images) <= 2
    assert difference(sample(guidance_scale=3.0, style_scale=6.0).images, sample(guidance_scale=3.0).images) > 8


def test_scales_of_each_role_add_up(generator, databases):
    """With the style weighed next to nothing, what is left is guidance to text and content."""
    common = {"content_database": databases[3], "guidance_scale": 2.5, "num_images": 2, "batch_size": 4}
    both = generator.sample(PROMPTS, database=databases[0], condition="text+neighbors", style_scale=1e-9, **common)
    content = generator.sample(PROMPTS, condition="text", **common)
    assert difference(both.images, content.images) <= 2


def test_without_text_and_content_the_style_has_all_guidance(generator, databases):
    common = {"database": databases[0], "condition": "neighbors", "content_neighbors": 0, "num_images": 2}
    one, other = (generator.sample(PROMPTS, guidance_scale=scale, style_scale=2.5, **common) for scale in (1.5, 4.0))
    plain = generator.sample(PROMPTS, guidance_scale=2.5, **common)
    assert difference(one.images, other.images) <= 2 and difference(one.images, plain.images) <= 2


def test_outside_its_interval_no_role_is_guided(sample):
    plain = sample(guidance_scale=1.0)
    never = sample(guidance_scale=3.0, style_scale=6.0, guidance_interval=(0.0, 0.0))
    assert difference(never.images, plain.images) <= 2


def test_a_conditioner_of_the_neighbors_counts_each_with_all_its_tokens(sample, generator):
    plain = sample().images
    assert difference(plain, sample(conditions=(Weights(of_neighbors=[1.0, 1.0]),)).images) <= 2
    assert difference(plain, sample(conditions=(Weights(of_neighbors=[4.0, 0.0]),)).images) > 2
    with pytest.raises(UserError, match="weights of 3 neighbors, and there are 2"):
        sample(conditions=(Weights(of_neighbors=[1.0, 1.0, 1.0]),))


def test_other_databases_swap_the_style_of_a_plan_and_keep_its_content(generator, databases):
    common = {"content_database": databases[2], "condition": "text+neighbors", "batch_size": 2}
    first = generator.plan(PROMPTS, database=databases[0], **common)
    swapped = next(generator.generate(generator.replan(first, databases[1])))
    direct = generator.sample(PROMPTS, database=databases[1], **common)
    assert np.array_equal(swapped.images, direct.images)
    assert np.array_equal(swapped.content.ids, direct.content.ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style_scale": 2.0, "condition": "text"}, "condition 'text' has no style neighbors"),
        ({"content_neighbors": -1}, "content_neighbors -1 is out of range"),
        ({"candidates": 0}, "candidates 0 is too small; use 1 or more"),
        ({"candidates": 65}, "candidates 65 is too large; use 1 to 64"),
        ({"style_scale": float("nan")}, "out of range"),
    ],
)
def test_wrong_options_are_named(sample, options, message):
    with pytest.raises(UserError, match=message):
        sample(**options)


@pytest.mark.parametrize("options", [{"style_scale": 2.0}, {"content_database": "general"}])
def test_a_model_with_one_role_refuses_the_other(options, databases):
    generator = Generator.load(tiny.bundle())
    with pytest.raises(UserError, match="has one role of neighbors"):
        generator.sample(PROMPTS, database=databases[0], **options)


@pytest.mark.slow
def test_the_best_candidate_of_each_image_is_kept(generator, databases, sample):
    """Candidates are images of their own, and the kept ones have the best scores; one candidate is no choice."""
    common = {"database": databases[0], "content_database": databases[2], "condition": "text+neighbors"}
    best = generator.sample(PROMPTS, num_images=2, candidates=3, batch_size=4, **common)
    assert best.indices == [0, 1, 2, 3] and best.prompts == [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    plan = generator.plan(PROMPTS, num_images=2, batch_size=4, **common)
    turns = [[i + CANDIDATES_APART * turn for i in plan.indices] for turn in range(3)]
    all_ = [join(list(generator.generate(dataclasses.replace(plan, indices=indices)))) for indices in turns]
    scorer = Scorer(generator.encoder, plan.builder.style)
    for place in range(4):
        candidates = np.stack([result.images[place] for result in all_])
        queries = plan.queries[[plan.rows[place]] * 3]
        neighbors = map_neighbors(lambda part, place=place: part[[place] * 3], all_[0].neighbors)
        scores = scorer.scores(candidates, queries, neighbors, np.zeros(3, int))
        assert difference(best.images[place], candidates[scores.argmax()]) <= 2
    assert difference(sample(candidates=1).images, sample().images) == 0


@pytest.mark.slow
def test_a_start_from_the_content_is_a_start_from_its_image(sample, generator, databases, tmp_path):
    """Two images of the content database, given as files, are the oracle."""
    options = {"content_neighbors": 2, "num_images": 2, "batch_size": 2, "steps": 5}
    found = sample(["square 3"], content_strength=0.6, **options)
    shown = generator.plan(
        ["square 3"], database=databases[0], content_database=databases[2], condition="text+neighbors", **options
    ).content.images[0]
    for turn, (image, expected) in enumerate(zip(shown, found.images, strict=True)):
        Image.fromarray(image).save(tmp_path / "start.png")
        one = sample(["square 3"], init=str(tmp_path / "start.png"), strength=0.6, **options)
        assert difference(one.images[turn], expected) == 0
    assert difference(sample(["square 3"], content_strength=1.0, **options).images, found.images) > 2
    assert np.array_equal(
        sample(["square 3"], content_strength=1.0, **options).images, sample(["square 3"], **options).images
    )


def test_a_start_from_content_needs_content_and_no_other_start(sample, tmp_path):
    with pytest.raises(UserError, match=r"content_strength 0\.5: there is no content to start from"):
        sample(content_strength=0.5, content_neighbors=0)
    with pytest.raises(UserError, match="give one of them"):
        Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
        sample(content_strength=0.5, init=str(tmp_path / "a.png"))
    with pytest.raises(UserError, match="content_strength"):
        sample(content_strength=0.0)


def test_channels_of_content_are_its_ink_and_the_latents_of_the_ink():
    model = tiny.bundle_with_roles(content_latents=True)
    images = np.full((2, 3, 16, 16, 3), 255, np.uint8)
    for number in range(6):
        images.reshape(6, 16, 16, 3)[number, number + 2 : number + 6, 4:12] = 0
    found = ContentChannels.of(model)(images)
    assert found.shape == (2, 3, 8, 8, 5 + model.autoencoder.embed_dim)
    np.testing.assert_array_equal(found[..., :5], ContentChannels.of(tiny.bundle_with_roles())(images))
    # Black on white, an image is its own ink.
    latents = jax.jit(encoder_from(model.autoencoder, model.config["latents"]))
    expected = latents(model.params["autoencoder"], images.reshape(6, 16, 16, 3) / np.float32(127.5) - 1)
    np.testing.assert_allclose(found[..., 5:].reshape(expected.shape), expected, atol=1e-4)
