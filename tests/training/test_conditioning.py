"""What conditions a training image: how often each condition is sampled, and which tokens it consists of."""

import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.assemble import NULL, assemble
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.training.conditioning import CODES, batch_condition
from tests.helpers import tiny
from tests.helpers.tiny_diffusion import K

ALWAYS = {
    NULL: ("null_probability=1.0",),
    "text": ("null_probability=0.0", "text_probability=1.0", "text_and_neighbors_probability=0.0"),
    "neighbors": ("null_probability=0.0", "text_probability=0.0", "text_and_neighbors_probability=0.0"),
    "text+neighbors": ("null_probability=0.0", "text_probability=0.0", "text_and_neighbors_probability=1.0"),
}


@pytest.fixture(scope="session")
def make(make_diffusion_task):
    """A function of settings of `conditioning` that returns the conditions of 24 images, k = 3 of 4 candidates."""

    def make(*settings: str, **options):
        return make_diffusion_task(*(f"conditioning.{setting}" for setting in settings), **options).conditions

    return make


def sampled(conditions, row, count=40):
    """Returns the records and the batch of an image whose condition is sampled `count` times."""
    records = [conditions.sample(row, np.random.default_rng(seed)) for seed in range(count)]
    records = {name: np.stack([record[name] for record in records]) for name in records[0]}
    return records, conditions.complete(records)


def positions(tokens, embeddings):
    """Returns which of the embeddings each token is, -1 where it is none of them."""
    equal = (tokens[:, None] == embeddings.astype(np.float32)[None]).all(axis=-1)
    return np.where(equal.any(axis=1), equal.argmax(axis=1), -1).tolist()


@pytest.mark.parametrize("name", ALWAYS)
def test_the_tokens_that_count_are_those_of_sampling_for_the_same_query_and_neighbors(make, name):
    conditions = make(*ALWAYS[name], "shuffled_probability=0.0", "unit_tokens=true")
    records, batch = sampled(conditions, 7, 3)
    assert batch["context"].shape == (3, 1 + 3, tiny.WIDTH) and batch["context_weights"].shape == (3, 1 + 3)
    _, _, embeddings = conditions.neighbors[7]
    captions = np.zeros((24, tiny.WIDTH)) if conditions.captions is None else conditions.captions
    for i in range(3):
        neighbors = embeddings[records["candidates"][i]][None].astype(np.float32)
        expected = assemble(name, captions[7:8].astype(np.float32), neighbors, unit_tokens=True)
        counted = batch["context"][i][batch["context_weights"][i] == 1]
        np.testing.assert_array_equal(counted, expected.tokens[0])
        assert set(batch["context_weights"][i].tolist()) <= {0.0, 1.0}
        assert batch["null"][i] == (name == NULL)


def test_the_nearest_neighbors_of_an_image_are_what_sampling_retrieves_for_it(make):
    conditions = make(neighbors="free")
    query = np.asarray(conditions.images.images[7])
    database = conditions.neighbors.path.parent / "database"
    model = Bundle.open(database.parent / "base")
    for name, tokens in (("neighbors", 3), ("text+neighbors", 1 + 3)):
        assert conditions.shown(name) == name
        ours = assemble(name, *conditions.nearest(np.array([7]), name), unit_tokens=True)
        plan = Generator.load(model).plan(images=[query], database=database, condition=name, neighbors=3)
        theirs = np.asarray(plan.context.given.tokens)
        assert ours.tokens.shape == theirs.shape == (1, tokens, tiny.WIDTH)
        # The query is the image's caption in training, and the image itself here.
        np.testing.assert_allclose(ours.tokens[:, -3:], theirs[:, -3:], atol=1e-3)


def test_neighbors_are_distinct_candidates(make):
    conditions = make(*ALWAYS["neighbors"])
    _, _, own = conditions.neighbors[7]
    found = [positions(tokens[1:], own) for tokens in sampled(conditions, 7)[1]["context"]]
    assert all(len(set(chosen)) == 3 for chosen in found)
    assert set().union(*found) == {0, 1, 2, 3}


def test_shuffled_neighbors_are_those_of_one_other_image_of_the_group(make):
    conditions = make(*ALWAYS["text+neighbors"], "shuffled_probability=1.0")
    folders = [attributes["folder"] for attributes in conditions.images.attributes]
    chosen = []
    for tokens in sampled(conditions, 2)[1]["context"]:
        np.testing.assert_array_equal(tokens[0], conditions.captions[2].astype(np.float32))
        rows = [row for row in range(24) if min(positions(tokens[1:], conditions.neighbors[row][2])) >= 0]
        assert {folders[row] for row in rows} == {folders[2]}
        chosen.append(tuple(rows))
    assert len(set(chosen)) > 3


def test_unless_they_are_shuffled_neighbors_are_the_image_s_own(make):
    conditions = make(*ALWAYS["text+neighbors"], "shuffled_probability=0.0")
    records, _ = sampled(conditions, 2)
    assert (records["neighbor_source"] == 2).all()


def test_without_groups_any_image_may_be_the_source_of_neighbors(make):
    free = make(neighbors="free")
    assert list(free.groups) == [None]
    np.testing.assert_array_equal(free.groups[None], np.arange(24))
    assert {name: len(rows) for name, rows in make().groups.items()} == {"line": 12, "wash": 12}


def test_a_group_that_is_held_out_whole_has_neighbors_too(make_diffusion_task):
    settings = [f"conditioning.{setting}" for setting in (*ALWAYS["text+neighbors"], "shuffled_probability=1.0")]
    task = make_diffusion_task(*settings, "data.held_out_rows=23", "batch_size=1")
    assert task.rows.tolist() == [22]  # of "wash"; evaluation alone reads the other folder's images
    assert set(sampled(task.conditions, 5)[0]["neighbor_source"]) <= set(range(12))


def test_each_condition_is_sampled_as_often_as_its_probability_says(make):
    probabilities = "text_probability=0.25", "text_and_neighbors_probability=0.5", "null_probability=0.2"
    conditions = make(*probabilities, "shuffled_probability=0.0")
    codes = [int(conditions.sample(5, np.random.default_rng(seed))["condition"]) for seed in range(2000)]
    expected = {NULL: 0.2, "text": 0.8 * 0.25, "text+neighbors": 0.8 * 0.5, "neighbors": 0.8 * 0.25}
    for name, p in expected.items():
        assert codes.count(CODES.index(name)) / 2000 == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 2000))


def test_more_candidates_than_neighbors_are_refused(make):
    with pytest.raises(UserError, match=rf"candidates={K + 1} is more than the {K} neighbors"):
        make(f"candidates={K + 1}")


def test_a_learned_null_token_takes_the_first_place_of_rows_without_a_condition(make):
    conditions = make("null=learned", "null_probability=0.5")
    assert conditions.init()["null"]["token"].shape == (tiny.WIDTH,)
    params = {"null": {"token": jnp.full((tiny.WIDTH,), 3.0)}}
    _, batch = sampled(conditions, 5)
    assert 0 < batch["null"].sum() < len(batch["null"])
    condition = batch_condition(params, {name: jnp.asarray(value) for name, value in batch.items()})
    sampling = assemble(NULL, np.zeros((1, tiny.WIDTH), np.float32), null=np.full(tiny.WIDTH, 3.0, np.float32))
    null = np.asarray(condition.tokens)[batch["null"]]
    np.testing.assert_array_equal(null[:, :1], np.broadcast_to(sampling.tokens, (len(null), 1, tiny.WIDTH)))
    np.testing.assert_array_equal(condition.weights, batch["context_weights"])
    assert np.asarray(condition.weights)[batch["null"]].tolist() == [[1.0, 0.0, 0.0, 0.0]] * len(null)
    np.testing.assert_array_equal(np.asarray(condition.tokens)[~batch["null"]], batch["context"][~batch["null"]])
