"""Weights in shards and variants, and one line for everything that is missing or damaged."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rdm_jax.convert.conversion import convert
from rdm_jax.convert.torch_file import read_state_dict, write_state_dict
from rdm_jax.convert.weights import read_tensors, weights_of
from rdm_jax.convert.writing import write_back
from rdm_jax.core.errors import UserError


class Stored:
    """An array as `write_state_dict` takes it."""

    def __init__(self, array):
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype

    def read(self):
        return self.array


def _save(path, state):
    if path.suffix == ".bin":
        write_state_dict(path, {name: Stored(np.asarray(array)) for name, array in state.items()})
    else:
        save_file({name: np.asarray(array) for name, array in state.items()}, path)


def _shard(folder, state, stem, kind, index):
    """Writes a state in three files, and their index."""
    names = sorted(state)
    files = [f"{stem}-{number:05d}-of-00003.{kind}" for number in (1, 2, 3)]
    for number, file in enumerate(files):
        _save(folder / file, {name: state[name] for name in names[number::3]})
    places = {name: files[number % 3] for number, name in enumerate(names)}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    return files


@pytest.fixture
def clip_folder(golden, tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    shutil.copy(golden / "clip/hf_clip/config.json", folder)
    return folder


@pytest.fixture
def clip_state(golden):
    return load_file(golden / "clip/hf_clip/model.safetensors")


def _same(converted, out, golden):
    converted.write(out / "ours")
    convert(golden / "clip/hf_clip").write(out / "theirs")
    ours, theirs = (load_file(out / name / "clip.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)


@pytest.mark.parametrize(
    ("stem", "kind", "index"),
    [
        ("model", "safetensors", "model.safetensors.index.json"),
        ("pytorch_model", "bin", "pytorch_model.bin.index.json"),
        ("model.fp16", "safetensors", "model.safetensors.index.fp16.json"),
        ("model.fp16", "safetensors", "model.safetensors.fp16.index.json"),
    ],
)
def test_a_clip_in_shards_is_the_clip_in_one_file(golden, clip_folder, clip_state, tmp_path, stem, kind, index):
    files = _shard(clip_folder, clip_state, stem, kind, index)
    converted = convert(clip_folder)
    assert {path.name for path in converted.sources} == {*files, "config.json"}
    _same(converted, tmp_path, golden)


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "pytorch_model.fp16.bin", "pytorch_model.bin"])
def test_a_clip_in_another_file_is_read(golden, clip_folder, clip_state, tmp_path, name):
    _save(clip_folder / name, clip_state)
    _same(convert(clip_folder), tmp_path, golden)


def test_full_precision_in_one_safetensors_file_is_preferred(tmp_path):
    order = [
        "model.safetensors",
        "pytorch_model.bin",
        "model.safetensors.index.json",
        "model.fp16.safetensors",
        "model.bf16.safetensors",
    ]
    for number, name in enumerate(reversed(order)):
        state = {f"from {name}": np.full(1, number, np.float32)}
        if name.endswith("json"):
            _shard(tmp_path, {**state, "b": np.zeros(1), "c": np.zeros(1)}, "model", "safetensors", name)
        else:
            _save(tmp_path / name, state)
        assert f"from {name}" in weights_of(tmp_path)[0]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_pipeline_may_have_shards_and_variants(golden, tmp_path, part):
    convert(golden / "rdm_small.ckpt").write(tmp_path / "bundle")
    write_back(str(tmp_path / "bundle"), "diffusers", tmp_path / "pipeline")
    folder, other = (tmp_path / "pipeline" / name for name in (("unet", "vae") if part == "unet" else ("vae", "unet")))
    file = "diffusion_pytorch_model.safetensors"
    state = load_file(folder / file)
    (folder / file).unlink()
    _shard(folder, state, "diffusion_pytorch_model", "safetensors", f"{file}.index.json")
    (other / file).rename(other / "diffusion_pytorch_model.fp16.safetensors")
    convert(tmp_path / "pipeline").write(tmp_path / "again")
    for name in ("denoiser", "autoencoder"):
        one, again = (load_file(tmp_path / place / f"{name}.safetensors") for place in ("bundle", "again"))
        assert one.keys() == again.keys() and all(np.array_equal(one[key], again[key]) for key in one)


def test_a_missing_shard_is_named(clip_folder, clip_state):
    files = _shard(clip_folder, clip_state, "model", "safetensors", "model.safetensors.index.json")
    (clip_folder / files[1]).unlink()
    with pytest.raises(UserError, match=rf"lacks {files[1]}, of the 3 shards"):
        convert(clip_folder)
    (clip_folder / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match="shards of weights without their index"):
        convert(clip_folder)


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"weight_map": {}}', '{"weight_map": [1]}', '{"weight_map": {"a": 1}}', "{", '{"weight_map": null}'],
)
def test_a_damaged_index_is_refused(clip_folder, content):
    (clip_folder / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"index\.json (cannot be read|is no index of shards)"):
        convert(clip_folder)


def test_a_shard_elsewhere_is_refused(clip_folder):
    (clip_folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')
    with pytest.raises(UserError, match=r"lacks .*x\.safetensors"):
        convert(clip_folder)


def test_a_folder_without_weights_and_a_pointer_are_refused(clip_folder):
    with pytest.raises(UserError, match="has no weights"):
        convert(clip_folder)
    (clip_folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match="pointer of Git LFS"):
        convert(clip_folder)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_the_scale_of_the_latents_may_have_any_axes(golden, tmp_path, shape, dtype):
    state = dict(read_state_dict(golden / "rdm_small.ckpt"))
    _save(tmp_path / "model.bin", {**state, "scale_factor": np.full(shape, 0.25, dtype)})
    converted = convert(tmp_path / "model.bin", config=golden / "rdm_small.yaml")
    assert converted.config["latents"]["scale"] == 0.25


@pytest.mark.parametrize(
    "value", [np.zeros(2, np.float32), np.zeros(0, np.float32), np.full(1, np.nan), np.zeros(1, np.bool_)]
)
def test_a_scale_that_is_no_number_is_refused(golden, tmp_path, value):
    state = dict(read_state_dict(golden / "rdm_small.ckpt"))
    _save(tmp_path / "model.bin", {**state, "scale_factor": np.asarray(value)})
    with pytest.raises(UserError, match=r"scale_factor has shape .* and one number is needed"):
        convert(tmp_path / "model.bin", config=golden / "rdm_small.yaml")


@pytest.mark.parametrize("name", ["visual.conv1.weight", "token_embedding.weight", "positional_embedding"])
@pytest.mark.parametrize("shape", [None, (), (0,), (3,), (2, 0), (2, 2, 2, 2, 2)])
def test_a_tensor_that_decides_a_size_is_refused_with_other_axes(golden, tmp_path, name, shape):
    state = dict(read_state_dict(golden / "clip/openai_vit.pt"))
    del state[name]
    if shape is not None:
        state[name] = np.zeros(shape, np.float32)
    _save(tmp_path / "clip.bin", state)
    with pytest.raises(UserError, match="no known model" if name.startswith("visual") and shape is None else name):
        convert(tmp_path / "clip.bin")


def test_a_file_that_is_too_short_is_refused(tmp_path):
    for data in (b"", b"\x00", b"PK", b"PK\x03\x04", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"):
        (tmp_path / "file").write_bytes(data)
        if data.endswith(b"{}"):
            assert not read_tensors(tmp_path / "file")
            continue
        with pytest.raises(UserError):
            read_tensors(tmp_path / "file")
