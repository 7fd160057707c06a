import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.core.vectors import unit
from rdm_jax.data.icons.held_out import HELD_OUT
from rdm_jax.evaluation.icon_set_arms import ContentArm, ModelArm, RetrievalArm, WithoutRows, style_retriever
from rdm_jax.evaluation.icon_set_bench import Bench, Cell, Icons
from rdm_jax.generator import Generator
from rdm_jax.retrieval.database import Database
from tests.helpers import icons as fake
from tests.helpers import tiny


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def generator():
    return Generator.load(tiny.bundle())


@pytest.fixture(scope="module")
def bench(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("icons")
    opened = {
        style: Icons.of(Database.open(fake.database(folder, style, (style,), generator.bundle)), fake.SIZE)
        for style in fake.STYLES
    }
    content = Database.open(fake.database(folder, "content", fake.OTHERS, generator.bundle))
    return Bench(opened, Icons.of(content, fake.SIZE), fake.CELLS)


def test_icons_of_a_database_have_their_labels_and_images(bench):
    icons = bench.styles["memory"]
    assert icons.captions == list(fake.CAPTIONS) and set(icons.styles) == {"memory"}
    assert icons.matching("thing 4").tolist() == [4]
    assert icons.matching("icon").tolist() == list(range(len(icons)))
    shown, given = icons.images[np.array([3])][0], fake.icon("memory", fake.CAPTIONS[3])
    assert np.corrcoef(shown.ravel(), given.ravel())[0, 1] > 0.9  # thumbnails are compressed
    tagged = Icons.of(icons.database, fake.SIZE, "renamed", {fake.CAPTIONS[1]: ["another word"]})
    assert tagged.matching("another word").tolist() == [1] and tagged.styles[0] == "renamed"


def test_icons_take_the_size_that_is_wanted(bench):
    icons = Icons.of(bench.styles["memory"].database, 24)
    assert icons.images[np.arange(2)].shape == (2, 24, 24, 3)


def test_rows_without_labels_of_style_need_a_name(generator, tmp_path):
    squares = Database.open(tiny.database(tmp_path, "squares", generator.bundle))
    with pytest.raises(UserError, match="database 'squares' have no attribute 'style'"):
        Icons.of(squares, 16)
    assert set(Icons.of(squares, 16, "flat").styles) == {"flat"}


def test_each_query_gets_the_nearest_rows_that_are_not_excluded_for_it(generator, bench):
    database = bench.styles["memory"].database
    excluded = [np.array([0, 3]), np.zeros(0, np.int64), np.array([1, 2, 4, 5])]
    queries = np.random.default_rng(0).normal(size=(3, database.width)).astype(np.float32)
    found = WithoutRows(generator.encoder, [database], excluded=excluded).retrieve(queries, 4)
    rows = database.embeddings(np.arange(len(database)))
    cosines = unit(queries) @ unit(rows).T
    for query, (out, ids) in enumerate(zip(excluded, found.ids, strict=True)):
        cosines[query, out] = -2
        np.testing.assert_array_equal(ids, np.argsort(-cosines[query], kind="stable")[:4])
    np.testing.assert_allclose(found.embeddings, rows[found.ids])


def test_too_few_rows_left_are_an_error_or_lower_the_default(generator, bench):
    database = bench.styles["memory"].database
    count = len(database)
    retriever = WithoutRows(generator.encoder, [database], excluded=[np.arange(count - 2)])
    query = np.ones((1, database.width), np.float32)
    with pytest.raises(UserError, match=r"k 3 is out of range; without the rows left out there are 2"):
        retriever.retrieve(query, 3)
    assert retriever.at_most(3) == 2
    assert sorted(retriever.retrieve(query, 3, default=True).ids[0]) == [count - 2, count - 1]
    with pytest.raises(ValueError, match="2 queries"):
        retriever.retrieve(np.ones((2, database.width), np.float32), 1)


@pytest.mark.slow
def test_no_arm_gets_the_icons_of_the_word(generator, bench):
    for style in fake.STYLES:
        cells = [cell for cell in bench.cells if cell.style == style]
        retriever = style_retriever(bench, generator.encoder, cells)
        result = generator.sample([cell.word for cell in cells], database=retriever, neighbors=3, steps=2)
        for cell, ids in zip(cells, result.neighbors.ids, strict=True):
            assert len(bench.removed(cell)) >= 1
            assert not {*ids.tolist()} & {*bench.removed(cell).tolist()}


def test_retrieval_alone_is_an_icon_of_the_style_and_not_the_words(generator, bench):
    images = RetrievalArm(bench, generator.encoder).generate(bench.cells, quiet)
    for cell, image in zip(bench.cells, images, strict=True):
        icons = bench.styles[cell.style]
        left = np.setdiff1d(np.arange(len(icons)), bench.removed(cell))
        assert any((image == icons.images[np.array([row])][0]).all() for row in left)


def test_content_alone_is_another_sets_icon_of_the_word(generator, bench):
    images = ContentArm(bench, generator.encoder).generate(bench.cells, quiet)
    for cell, image in zip(bench.cells, images, strict=True):
        rows = bench.content.of_caption(cell.word)
        assert any((image == shown).all() for shown in bench.content.images[rows])
    unknown = ContentArm(bench, generator.encoder).generate([Cell("memory", "no such word", "concepts")], quiet)
    assert unknown.shape == (1, fake.SIZE, fake.SIZE, 3)


@pytest.mark.slow
def test_a_model_makes_every_cell_in_its_place(generator, bench):
    options = {"neighbors": 2, "steps": 2, "seed": 3, "batch_size": 4}
    arm = ModelArm("model", "the model", generator, bench, options)
    calls = []
    images = arm.generate(bench.cells, lambda *at: calls.append(at))
    assert images.shape == (len(bench.cells), 16, 16, 3)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (len(bench.cells), len(bench.cells))
    mixed = [bench.cells[row] for row in np.random.default_rng(0).permutation(len(bench.cells))]
    style = [cell for cell in mixed if cell.style == "memory"]
    retriever = style_retriever(bench, generator.encoder, style)
    expected = generator.sample([cell.word for cell in style], database=retriever, **options).images
    again = arm.generate(mixed, quiet)
    np.testing.assert_array_equal(again[[row for row, cell in enumerate(mixed) if cell.style == "memory"]], expected)


def test_a_named_style_is_in_the_prompt_and_its_database_is_not_used(generator, bench, monkeypatch):
    requests = []
    arm = ModelArm("named", "named", generator, bench, named=True)
    monkeypatch.setattr(Generator, "sample", lambda self, prompts, database, **_: Kept(requests, prompts, database))
    arm.generate(bench.cells, quiet)
    assert {database.name for _, database in requests} == {"content"}
    wanted = [f"{cell.word}, {HELD_OUT[cell.style]}" for cell in bench.cells]
    assert [prompt for prompts, _ in requests for prompt in prompts] == wanted


class Kept:
    """A result of blank images, which notes what was requested."""

    def __init__(self, requests, prompts, database):
        requests.append((prompts, database))
        self.images = np.zeros((len(prompts), 16, 16, 3), np.uint8)
