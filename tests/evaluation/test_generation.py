from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.evaluation.arms import Cell
from rdm_jax.evaluation.generation import CellGenerator, ModelCellGenerator, reconstructor
from rdm_jax.generator import Generator
from tests.helpers import tiny


def cell(prompt, database, noise, random_neighbors=False, condition=None):
    return Cell("boat", "red", "neon", prompt, database, random_neighbors, condition, noise, 0)


CELLS = [
    cell("a red boat", "one", 5),
    cell("a blue tree", "two", 5),
    cell("a red boat", "two", 5),
    cell("a blue tree", "one", 9),
    cell("a red boat", "one", 9),
]


@pytest.fixture(scope="module")
def cell_generator(tmp_path_factory):
    generator = Generator.load(tiny.bundle())
    folder = tmp_path_factory.mktemp("databases")
    for seed, name in enumerate(("one", "two")):
        tiny.database(folder, name, generator.bundle, seed=seed)
    return ModelCellGenerator(generator, folder, {"batch_size": 2, "seed": 3})


def test_cells_are_what_the_generator_generates(cell_generator):
    calls = []
    generated = cell_generator.generate(CELLS, lambda *at: calls.append(at))
    assert isinstance(cell_generator, CellGenerator)
    for name in ("one", "two"):
        several = cell_generator.generator.sample(
            ["a red boat", "a blue tree"],
            database=cell_generator.folder / name,
            num_images=10,
            batch_size=2,
            seed=3,
        )
        for image, wanted in zip(generated.images, CELLS, strict=True):
            if wanted.database == name and wanted.prompt == "a red boat":
                difference = np.abs(image.astype(int) - several.images[several.indices.index(wanted.noise)].astype(int))
                assert difference.max() <= 2
    assert calls[-1] == (5, 5) and [done for done, _ in calls] == [2, 4, 5]


def test_one_plan_holds_each_cells_own_neighbors(cell_generator):
    plan = cell_generator.plan(CELLS)
    assert plan.indices == [5, 5, 5, 9, 9] and plan.rows == [0, 1, 2, 3, 4]
    for row, wanted in enumerate(CELLS):
        alone = cell_generator.generator.plan([wanted.prompt], database=cell_generator.folder / wanted.database)
        np.testing.assert_array_equal(plan.neighbors.ids[row], alone.neighbors.ids[0])
        np.testing.assert_allclose(plan.neighbors.embeddings[row], alone.neighbors.embeddings[0], rtol=1e-6)
        np.testing.assert_allclose(plan.queries[row], alone.queries[0], atol=1e-5)
        assert plan.prompts[row] == wanted.prompt


def test_random_neighbors_are_rows_of_the_database_by_the_seed(cell_generator):
    cells = [cell("a red boat", "one", i, random_neighbors=True) for i in range(60)]
    found = cell_generator.plan(cells).neighbors
    np.testing.assert_array_equal(found.ids, cell_generator.plan(cells).neighbors.ids)
    assert all(len(set(row)) == len(row) for row in found.ids.tolist())
    assert len(Counter(found.ids.ravel().tolist())) == 12
    expected = cell_generator.database("one").embeddings(found.ids.ravel()).reshape(found.embeddings.shape)
    np.testing.assert_array_equal(found.embeddings, expected)


def test_a_condition_of_its_own_replaces_the_general_one(cell_generator):
    """With neighbors alone the prompt reaches the image through them only: equal neighbors, equal images."""
    one, other = (cell(prompt, "one", 1, True, "neighbors") for prompt in ("a red boat", "a blue tree"))
    assert cell_generator.plan([one]).request.condition == "neighbors"
    first, second = (cell_generator.generate([wanted], lambda *_: None).images for wanted in (one, other))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match="share their condition"):
        cell_generator.plan([one, cell("a red boat", "one", 1)])


def test_a_missing_database_is_found_before_anything_is_generated(cell_generator):
    from rdm_jax.evaluation.arms import ARMS

    with pytest.raises(UserError, match="unknown database"):
        cell_generator.check(ARMS)


def test_thumbnails_have_the_size_of_samples(cell_generator):
    assert cell_generator.thumbnails("two").shape == (12, 16, 16, 3)


@pytest.mark.slow
def test_reconstructions_go_through_the_means(cell_generator):
    bundle = cell_generator.generator.bundle
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    variables = {"params": bundle.params["autoencoder"]}
    moments = bundle.autoencoder.apply(variables, jnp.asarray(images, jnp.float32) / 127.5 - 1.0, method="encode")
    decoded = np.asarray(bundle.autoencoder.apply(variables, moments[..., : moments.shape[-1] // 2], method="decode"))
    expected = np.clip(np.round((decoded + 1) * 127.5), 0, 255)
    assert np.abs(reconstructor(bundle)(images).astype(int) - expected).max() <= 1


def test_a_model_with_two_roles_takes_content_from_the_general_database_and_style_from_each_cells_own(tmp_path):
    generator = Generator.load(tiny.bundle_with_roles())
    for seed, name in enumerate(("one", "two", "general")):
        tiny.database(tmp_path, name, generator.bundle, seed=seed)
    cells = ModelCellGenerator(generator, tmp_path, {"batch_size": 2, "seed": 3, "content_neighbors": 1})
    wanted = [cell("square 3", "one", 5), cell("square 8", "two", 5), cell("square 3", "two", 5)]
    plan = cells.plan(wanted)
    assert plan.content is not None and plan.neighbors is not None
    assert plan.content.neighbors.ids.ravel().tolist() == [3, 8, 3]
    assert set(plan.content.neighbors.databases.ravel()) == {"general"}
    assert plan.neighbors.databases[:, 0].tolist() == ["one", "two", "two"]
    for row, one in enumerate(wanted):
        alone = generator.plan(
            [one.prompt],
            database=tmp_path / one.database,
            content_database=tmp_path / "general",
            content_neighbors=1,
            seed=3,
        )
        both = (jax.tree.leaves(plan.context.rows(np.array([row]))), jax.tree.leaves(alone.context.rows(np.array([0]))))
        assert len(both[0]) == len(both[1])
        for found, expected in zip(*both, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4)
    assert cells.generate(wanted, lambda *_: None).images.shape == (3, 16, 16, 3)
    assert cells.plan([cell("square 3", "one", 5, condition="neighbors")]).content is None
