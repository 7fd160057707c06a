import dataclasses
import functools
import json
from copy import deepcopy
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

from rdm_jax import bundle, factory
from rdm_jax.bundle import PARTS_OF, Bundle, merge, override
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.models.condition import Condition
from rdm_jax.parts import PARTS
from tests.helpers import tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    tiny.bundle().save(path, "float32")
    return path


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_what_is_saved_comes_back_bit_for_bit(saved: Path) -> None:
    original, opened = tiny.bundle(), Bundle.open(saved)
    chex.assert_trees_all_equal(original.params, opened.params)
    chex.assert_trees_all_equal_shapes_and_dtypes(original.params, opened.params)
    assert opened.tokenizer is not None and original.tokenizer is not None
    assert opened.tokenizer.get_vocab() == original.tokenizer.get_vocab()
    assert opened.encoder_identity == {"name": "tiny", "sha256": opened.hashes["clip"], "width": tiny.WIDTH}


def test_saving_twice_gives_equal_hashes(saved: Path, tmp_path: Path) -> None:
    Bundle.open(saved).save(tmp_path / "again", "float32")
    assert Bundle.open(tmp_path / "again").hashes == Bundle.open(saved).hashes


def test_float16_rounds_once(tmp_path: Path) -> None:
    tiny.bundle().save(tmp_path / "half")
    first = Bundle.open(tmp_path / "half")
    first.save(tmp_path / "again")
    assert Bundle.open(tmp_path / "again").hashes == first.hashes


def test_int8_rounds_the_kernels_of_the_generative_network_once(tmp_path: Path) -> None:
    original = tiny.bundle()
    for dtype in ("float16", "int8"):
        original.save(tmp_path / dtype, dtype)
    half, small = (Bundle.open(tmp_path / dtype) for dtype in ("float16", "int8"))
    assert {part for part in half.params if half.hashes[part] != small.hashes[part]} == {"denoiser"}
    exact, rounded = (trees.flatten(one.params["denoiser"]) for one in (original, small))
    for name, leaf in exact.items():
        step = np.abs(leaf).max(axis=tuple(range(leaf.ndim - 1)), keepdims=True) / 127 if leaf.ndim > 1 else 0.0
        assert (np.abs(rounded[name] - leaf) <= 0.6 * step + 2**-10 * np.abs(leaf)).all(), name
    size, half_size = ((tmp_path / dtype / "denoiser.safetensors").stat().st_size for dtype in ("int8", "float16"))
    assert size < half_size
    small.save(tmp_path / "again", "int8")
    assert Bundle.open(tmp_path / "again").hashes == small.hashes
    with pytest.raises(UserError, match=r"unknown dtype 'int4'.*int8"):
        original.save(tmp_path / "other", "int4")


def test_files_equal_to_those_of_an_embedded_bundle_are_read_there(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bundle, "EMBEDDED", tmp_path)
    base = tiny.bundle()
    base.save(tmp_path / "tiny")
    denoiser = tiny.random_params(tiny.CONFIG, "denoiser", 1)
    student = Bundle({**base.config, "name": "student"}, {**base.params, "denoiser": denoiser}, base.tokenizer)
    student.save(tmp_path / "student", parts_of="tiny")
    student.save(tmp_path / "complete")
    assert {file.name for file in (tmp_path / "student").iterdir()} == {"config.json", "denoiser.safetensors"}
    opened, complete = Bundle.open("student"), Bundle.open(tmp_path / "complete")
    chex.assert_trees_all_equal(opened.params, complete.params)
    assert opened.hashes == complete.hashes and opened.tokenizer is not None
    opened.save(tmp_path / "copy")
    assert PARTS_OF not in Bundle.open(tmp_path / "copy").config
    (tmp_path / "tiny" / "clip.safetensors").write_bytes((tmp_path / "tiny" / "denoiser.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"student: the SHA-256 of clip\.safetensors"):
        Bundle.open("student")
    with pytest.raises(UserError, match="unknown embedded model 'huge'"):
        student.save(tmp_path / "new", parts_of="huge")


@pytest.mark.slow
def test_a_denoiser_may_be_opened_in_half_precision(saved: Path, tmp_path: Path) -> None:
    half, whole = Bundle.open(saved, dtype="bfloat16"), Bundle.open(saved)
    assert (half.dtype, half.denoiser.dtype, whole.dtype) == ("bfloat16", "bfloat16", "float32")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(half.params["denoiser"])} == {"bfloat16"}
    for part in ("clip", "autoencoder"):
        chex.assert_trees_all_equal_shapes_and_dtypes(half.params[part], whole.params[part])
    chex.assert_trees_all_close(half.params["denoiser"], whole.params["denoiser"], rtol=2**-8)
    x = np.ones((1, 8, 8, half.denoiser.in_channels), np.float32)
    condition = Condition(np.ones((1, 2, tiny.WIDTH), np.float32))
    one, other = (
        jax.jit(opened.denoiser.apply)({"params": opened.params["denoiser"]}, x, np.ones(1), condition)
        for opened in (half, whole)
    )
    assert one.dtype == np.float32
    np.testing.assert_allclose(one, other, atol=0.05 * np.abs(other).max())
    assert not np.array_equal(one, other)
    with pytest.raises(UserError, match=r"unknown dtype 'float8'.*bfloat16"):
        Bundle.open(saved, dtype="float8")


def test_only_the_requested_parts_are_read(saved: Path, copy: Path) -> None:
    (copy / "denoiser.safetensors").unlink()
    opened = Bundle.open(copy, parts=("clip",))
    assert set(opened.params) == {"clip"}
    assert opened.encoder_identity == Bundle.open(saved).encoder_identity


def test_settings_of_sampling_may_be_changed() -> None:
    config = tiny.bundle().config
    changed = override(config, ["conditioning.unit_tokens=true", "sampling.guidance_scale=3"])
    assert changed["conditioning"]["unit_tokens"] is True and changed["sampling"]["guidance_scale"] == 3.0
    assert changed["overrides"] == ["conditioning.unit_tokens=true", "sampling.guidance_scale=3"]
    again = override(changed, ["sampling.steps=9"])
    assert again["overrides"][2:] == ["sampling.steps=9"] and again["sampling"]["steps"] == 9
    assert "overrides" not in config and config["sampling"]["guidance_scale"] == 2.0
    assert override(config, []) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("conditioning.unit_token=true", "did you mean 'conditioning.unit_tokens'"),
        ("denoiser.in_channels=3", "unknown setting"),
        ("sampling.steps", "write sampling.steps=VALUE"),
        ("sampling.steps=many", "'many' is not a whole number; now it is 4"),
        ("conditioning.unit_tokens=1", "'1' is not true or false"),
        ("sampling.steps=[1", "is not a whole number; now it is 4"),
    ],
)
def test_settings_that_are_none_are_refused(change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(tiny.bundle().config, [change])


def test_parts_merge(saved: Path) -> None:
    whole = Bundle.open(saved)
    parts = [
        Bundle(
            {"name": part, part: whole.config[part], "training": {part: {"steps": steps}}}
            | {section: whole.config[section] for section in PARTS[part].sections},
            {part: whole.params[part]},
            whole.tokenizer if part == "clip" else None,
        )
        for part, steps in (("clip", 1), ("denoiser", 2))
    ]
    joined = merge(parts, name="joined")
    assert joined.config["training"] == {"clip": {"steps": 1}, "denoiser": {"steps": 2}}
    assert (
        joined.name == "joined" and set(joined.params) == {"clip", "denoiser"} and joined.tokenizer is whole.tokenizer
    )
    with pytest.raises(UserError, match="has no autoencoder"):
        joined.require("clip", "autoencoder")


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown model 'style-scene'"):
        Bundle.open("style-scene")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "denoiser.safetensors").unlink(), r"denoiser\.safetensors is missing"),
        (lambda p: (p / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
        (lambda p: (p / "tokenizer.json").write_text("{}"), r"SHA-256 of tokenizer\.json"),
        (lambda p: _without(p, "sha256", "tokenizer", "{}"), r"tokenizer\.json cannot be read"),
        (lambda p: _without(p, "sampling"), r"config\.json lacks sampling"),
        (lambda p: _without(p, "clip", "embed_dim"), r"config\.json lacks clip\.embed_dim"),
        (lambda p: (p / "config.json").unlink(), r"no config\.json"),
        (lambda p: (p / "config.json").write_text("{"), r"config\.json cannot be read"),
        (lambda p: (p / "config.json").write_text('{"schema": 99}'), "schema 99"),
        (lambda p: _flip_a_byte(p / "clip.safetensors"), r"SHA-256 of clip\.safetensors"),
        (lambda p: _truncate_with_its_hash(p, "clip"), r"clip\.safetensors cannot be read"),
    ],
    ids=[
        "no part",
        "no tokenizer",
        "other tokenizer",
        "bad tokenizer",
        "no sampling",
        "no width",
        "no config",
        "bad config",
        "other schema",
        "flipped byte",
        "truncated",
    ],
)
def test_damage_is_named(copy: Path, damage, message: str) -> None:
    damage(copy)
    with pytest.raises(UserError, match=message):
        Bundle.open(copy)


def _without(path: Path, key: str, inner: str | None = None, tokenizer: str | None = None) -> None:
    """Takes a setting out of config.json, and puts another text in the tokenizer's place."""
    config = json.loads((path / "config.json").read_text())
    del (config[key] if inner else config)[inner or key]
    (path / "config.json").write_text(json.dumps(config))
    if tokenizer:
        (path / "tokenizer.json").write_text(tokenizer)


def test_nothing_is_written_over(saved: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        tiny.bundle().save(saved)


def _flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def _truncate_with_its_hash(path: Path, part: str) -> None:
    from rdm_jax.core.files import sha256

    file = path / f"{part}.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    config = json.loads((path / "config.json").read_text())
    config["sha256"][part] = sha256(file)
    (path / "config.json").write_text(json.dumps(config))


def test_scalars_stay_scalars(saved: Path) -> None:
    assert np.shape(Bundle.open(saved).params["clip"]["logit_scale"]) == ()


def _sections(config, path=()):
    """Yields the path of every value of a configuration, those of sections too."""
    for key, value in config.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from _sections(value, (*path, key))


@pytest.mark.slow
def test_a_configuration_with_any_other_value_is_one_line(tmp_path):
    """Whatever stands in the config.json of others: the bundle opens as before, or is refused."""
    bundle = tiny.bundle()
    refused = 0
    for path in _sections({key: value for key, value in bundle.config.items() if key != "sha256"}):
        for other in (None, "x", -1, []):
            config = deepcopy(bundle.config)
            functools.reduce(lambda inner, key: inner[key], path[:-1], config)[path[-1]] = other
            try:
                opened = dataclasses.replace(bundle, config=config)
                factory.check_settings(opened.config)
            except UserError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 1000
    assert refused > 100
