"""What conditions a picture in training: the shares of each condition, and where its tokens come from."""

import dataclasses
import runpy
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.data.sources import open_source
from rdm_jax.generator import Generator
from rdm_jax.retrieval.build import BuildJob, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.neighbors import NeighborJob, NeighborOptions, compute_neighbors
from rdm_jax.retrieval.sidecar import NeighborSidecar
from rdm_jax.training.config import load_config
from rdm_jax.training.drawing import draw
from rdm_jax.training.state import Held
from rdm_jax.training.tasks import diffusion

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "helpers" / "tiny.py")))
CONFIG = str(Path(__file__).parents[3] / "configs/emoji/rdm.py")
K = 5
NEIGHBORS = "conditioning.null_probability=0.0", "conditioning.text_probability=0.0"
BOTH = (*NEIGHBORS, "conditioning.text_and_neighbors_probability=1.0")


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A function of overrides that returns the task on two folders of twelve pictures each, neighbours within one."""
    root = tmp_path_factory.mktemp("diffusion")
    generator = np.random.default_rng(0)
    for folder in ("line", "wash"):
        (root / "pictures" / folder).mkdir(parents=True)
        for i in range(12):
            colours = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(colours).save(root / "pictures" / folder / f"{i:02d}.png")
            (root / "pictures" / folder / f"{i:02d}.txt").write_text(f"{folder} {i} a red boat")
    model = TINY.bundle()
    model.save(root / "base", dtype="float32")
    encoder, source = ClipEncoder(Bundle.open(root / "base")), open_source(str(root / "pictures"))
    build_database(BuildJob.of(source, encoder), root / "database")
    for name, within in (("within", "folder"), ("free", None)):
        compute_neighbors(
            NeighborJob(
                source, encoder, Database.open(root / "database"), NeighborOptions(K, duplicates=None, within=within)
            ),
            root / name,
        )

    def make(*overrides: str, neighbors: str = "within") -> diffusion.DiffusionTask:
        places = f"data.source={root / 'pictures'}", f"data.data_dir={root}", f"data.neighbors={root / neighbors}"
        model = "model.model_channels=8", "model.channel_mult=[1,2]", "model.num_head_channels=8", "model.num_groups=4"
        small = "data.split=", "data.size=16", "data.held_out_rows=4", "batch_size=2", f"base={root / 'base'}"
        few = "conditioning.candidates=4", "conditioning.neighbors=3", "model.attention_resolutions=[2]"
        given = (*places, *model, *small, *few, *overrides)
        return diffusion.make(load_config(CONFIG, given), root, lambda *_: None)

    return make


def _contexts(task, row, count=40):
    records = [task.deal(row, np.random.default_rng(seed)) for seed in range(count)]
    return list(task.tokens({name: np.stack([record[name] for record in records]) for name in records[0]}))


def _positions(tokens, embeddings):
    """Returns which of the rows each token is, -1 where it is none of them."""
    equal = (tokens[:, None] == embeddings.astype(np.float32)[None]).all(axis=-1)
    return np.where(equal.any(axis=1), equal.argmax(axis=1), -1).tolist()


def test_neighbours_alone_are_some_of_the_candidates_without_repetition(make):
    task = make(*NEIGHBORS, "conditioning.text_and_neighbors_probability=0.0")
    _, _, own = task.neighbors[7]
    found = [_positions(tokens, own) for tokens in _contexts(task, 7)]
    assert all(len(set(chosen)) == 3 for chosen in found)
    assert set().union(*found) == {0, 1, 2, 3}


def test_a_caption_alone_fills_every_place_and_the_null_condition_is_zeros(make):
    task = make("conditioning.null_probability=0.0", "conditioning.text_probability=1.0")
    np.testing.assert_array_equal(_contexts(task, 3, 1)[0], np.repeat(task.captions[3:4].astype(np.float32), 3, axis=0))
    task = make("conditioning.null_probability=1.0")
    assert not np.any(_contexts(task, 3, 5))


def test_with_the_caption_come_its_own_neighbours_unless_they_are_shuffled(make):
    task = make(*BOTH, "conditioning.shuffled_probability=0.0")
    _, _, own = task.neighbors[2]
    for tokens in _contexts(task, 2):
        np.testing.assert_array_equal(tokens[0], task.captions[2].astype(np.float32))
        assert min(_positions(tokens[1:], own)) >= 0


def test_shuffled_neighbours_are_those_of_one_other_picture_of_the_collection(make):
    task = make(*BOTH, "conditioning.shuffled_probability=1.0")
    folders = [attributes["folder"] for attributes in task.pictures.attributes]
    chosen = []
    for tokens in _contexts(task, 2):
        np.testing.assert_array_equal(tokens[0], task.captions[2].astype(np.float32))
        rows = [row for row in range(len(folders)) if min(_positions(tokens[1:], task.neighbors[row][2])) >= 0]
        assert {folders[row] for row in rows} == {folders[2]}
        chosen.append(tuple(rows))
    assert len(set(chosen)) > 3


def test_without_collections_any_picture_may_lend_its_neighbours(make):
    task = make(neighbors="free")
    assert list(task.collections) == [None]
    np.testing.assert_array_equal(task.collections[None], np.arange(24))
    assert {name: len(rows) for name, rows in make().collections.items()} == {"line": 12, "wash": 12}


def test_emphasis_repeats_pictures_in_an_epoch(make):
    task = make()
    emphasis = ConfigDict({"folder": {"wash": 3}})
    task.config.unlock().emphasis = emphasis
    # Ten of "line", then ten of "wash": of each, two are kept for evaluation.
    line, wash = (np.setdiff1d(np.arange(start, start + 12), task.held_out) for start in (0, 12))
    np.testing.assert_array_equal(task.rows, [*line, *np.repeat(wash, 3)])
    assert task.size == 10 + 3 * 10
    record = task.read(11, np.random.default_rng(0))
    np.testing.assert_array_equal(record["moments"], task.latents.moments[12])


@pytest.mark.parametrize(
    ("emphasis", "message"),
    [
        ({"folder": {"wsh": 2}}, r"unknown emphasis\.folder 'wsh'; did you mean 'wash'\? .*or set it to 1"),
        ({"folder": {"wash": 0}}, r"emphasis\.folder\.wash=0 is out of range; give 1 or more"),
    ],
)
def test_emphasis_on_nothing_is_refused(emphasis, message):
    with pytest.raises(UserError, match=message):
        diffusion.repeats([{"folder": "wash"}, {"folder": "line"}], ConfigDict(emphasis))
    assert list(diffusion.repeats([{}], ConfigDict({"folder": {"wsh": 1}}))) == [1]


def test_a_collection_that_is_kept_for_evaluation_whole_has_neighbours_too(make):
    task = make(*BOTH, "conditioning.shuffled_probability=1.0", "data.held_out_rows=23", "batch_size=1")
    assert task.rows.tolist() == [22]  # of "wash"; the other folder's pictures are read by the evaluation alone
    assert all(tokens.shape == (3, TINY.WIDTH) for tokens in _contexts(task, 15, 5))


def test_what_is_kept_for_evaluation_is_spread_over_the_set(make):
    task = make(*BOTH)
    assert task.held_out.tolist() == [5, 11, 17, 23] and not set(task.rows) & set(task.held_out)
    assert len(task.rows) + len(task.held_out) == 24
    with pytest.raises(UserError, match="held_out_rows=24 leaves none of 24 pictures"):
        make("data.held_out_rows=24")


def test_each_condition_has_its_share(make):
    shares = "text_probability=0.25", "text_and_neighbors_probability=0.5", "null_probability=0.2"
    task = make(*(f"conditioning.{share}" for share in shares), "conditioning.shuffled_probability=0.0")
    caption = task.captions[5].astype(np.float32)
    kinds = []
    for tokens in _contexts(task, 5, 2000):
        first, last = (np.array_equal(tokens[i], caption) for i in (0, -1))
        kinds.append("null" if not tokens.any() else "text" if last else "both" if first else "neighbors")
    expected = {"null": 0.2, "text": 0.8 * 0.25, "both": 0.8 * 0.5, "neighbors": 0.8 * 0.25}
    for kind, share in expected.items():
        assert kinds.count(kind) / 2000 == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 2000))


def test_more_candidates_than_neighbours_are_refused(make):
    with pytest.raises(UserError, match=rf"candidates={K + 1} is more than the {K} neighbours"):
        make(f"conditioning.candidates={K + 1}")


def test_what_is_exported_draws_and_evaluation_repeats_itself(make):
    task = make()
    params, stats = jax.jit(task.init)(jax.random.key(0))
    assert list(task.evaluate(params)) == list(task.evaluate(params))
    batch = task.complete({name: value[None] for name, value in task.read(0, np.random.default_rng(0)).items()})
    held = Held(stats, task.frozen)
    loss, (bands, _) = jax.jit(task.loss)(params, held, batch, jax.random.key(0), jnp.zeros((), jnp.int32))
    assert float(loss) == pytest.approx(sum(map(float, bands.values())), rel=1e-6)  # one picture is in one band
    bundle = task.export(params)
    drawn = Generator(bundle, ClipEncoder(bundle)).sample(
        ["a red boat"], condition="text", steps=2, height=16, width=16
    )
    assert drawn.images.shape == (1, 16, 16, 3)


def test_a_learned_token_of_no_condition_learns_is_exported_and_guides(make):
    task = make("conditioning.null=learned", "conditioning.null_probability=1.0")
    params, stats = jax.jit(task.init)(jax.random.key(0))
    records = [task.read(row, np.random.default_rng(row)) for row in range(4)]
    batch = task.complete({name: np.stack([record[name] for record in records]) for name in records[0]})
    batch = jax.tree.map(jnp.asarray, batch)
    assert batch["null"].all() and not batch["context"].any()
    # Fresh transformers add nothing yet, so that no condition has a gradient: any other parameters will do.
    params = {**params, "unet": TINY.randomise(params["unet"])}
    grad = jax.jit(jax.grad(lambda p: task.loss(p, Held(stats, {}), batch, jax.random.key(0), jnp.zeros((), int))[0]))
    assert np.abs(grad(params)["null"]["token"]).max() > 0
    drawn = []
    for value in (0.0, 3.0):
        moved = {**params, "null": {"token": jnp.full((TINY.WIDTH,), value)}}
        bundle = task.export(jax.device_get(moved))
        assert bundle.config["conditioning"]["null_token"] == [value] * TINY.WIDTH
        context = np.ones((2, 3, TINY.WIDTH), np.float32)
        bundle.config["sampling"].update(steps=2, height=16, width=16, guidance_scale=3.0)
        drawn.append(draw(bundle, context, seed=0))
        np.testing.assert_array_equal(drawn[-1], draw(bundle, context, seed=0))
    assert (drawn[0] != drawn[1]).any()


def test_figures_show_pictures_their_neighbours_and_what_is_drawn(make, tmp_path):
    task = make("sampling.steps=2", "sampling.height=16", "sampling.width=16", "sampling.condition=neighbors")
    params, _ = jax.jit(task.init)(jax.random.key(0))
    ((name, sheet),) = task.figures(jax.device_get(params))
    assert name == "samples" and sheet.dtype == np.uint8
    root = task.neighbors.path.parent
    with_database = dataclasses.replace(
        task, neighbors=NeighborSidecar.open(task.neighbors.path, Database.open(root / "database"))
    )
    ((_, taller),) = with_database.figures(jax.device_get(params))
    assert taller.shape[0] > sheet.shape[0] and taller.shape[1] >= sheet.shape[1]
