import io
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rdm_jax.core import files, images, keys, trees
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.vectors import unit


def png(image: Image.Image, fmt: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def test_unknown_names_come_with_the_nearest() -> None:
    error = unknown("database", "chalk", ["charcoal", "chalks", "neon"], hint="or a folder")
    assert str(error).startswith("unknown database 'chalk'; did you mean 'chalks'")
    assert "known: chalks, charcoal, neon" in str(error) and str(error).endswith("or a folder")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "a.json"
    files.write_json(file, {"a": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        files.write_json(file, {"a": 2})
    assert file.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.new_directory(tmp_path / "sub/new") as folder:
        (folder / "x").write_text("x")
        raise RuntimeError
    assert list((tmp_path / "sub").iterdir()) == []
    with files.new_directory(tmp_path / "sub/new") as folder:
        (folder / "x").write_text("x")
    assert (tmp_path / "sub/new/x").read_text() == "x"
    with pytest.raises(UserError, match="exists already"), files.new_directory(tmp_path / "sub/new"):
        pass


def test_of_two_that_make_one_folder_the_first_stays(tmp_path: Path) -> None:
    def race(first_wins: bool) -> None:
        with files.new_directory(tmp_path / "new", first_wins) as slow:
            (slow / "x").write_text("slow")
            with files.new_directory(tmp_path / "new") as fast:
                (fast / "x").write_text("fast")

    race(first_wins=True)
    assert (tmp_path / "new/x").read_text() == "fast"
    shutil.rmtree(tmp_path / "new")
    with pytest.raises(UserError, match="exists already"):
        race(first_wins=False)
    assert (tmp_path / "new/x").read_text() == "fast"
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_image_keys_do_not_depend_on_the_batch() -> None:
    whole = keys.normal(keys.image_keys(3, jnp.arange(6)), (2, 2))
    part = keys.normal(keys.image_keys(3, jnp.arange(4, 6)), (2, 2))
    np.testing.assert_array_equal(np.asarray(whole)[4:], np.asarray(part))
    other = keys.normal(keys.image_keys(4, jnp.arange(6)), (2, 2))
    assert not np.array_equal(np.asarray(whole), np.asarray(other))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 5), 65535, np.uint16))
    else:
        image = Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode)
    decoded = images.decode(png(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert decoded.shape == (4, 5, 3)
    np.testing.assert_array_equal(decoded, 255)


def test_transparency_lies_on_white() -> None:
    decoded = images.decode(png(Image.new("RGBA", (2, 2), (0, 0, 0, 0))))
    np.testing.assert_array_equal(decoded, 255)


def test_images_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = images.decode(png(Image.new("RGB", (6, 2)), "JPEG", exif=exif))
    assert decoded.shape == (6, 2, 3)


@pytest.mark.parametrize(
    "data", [b"", b"<html>", png(Image.effect_noise((64, 64), 90))[:600]], ids=["empty", "html", "cut"]
)
def test_what_is_no_image_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a readable"):
        images.decode(data)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="more than 100 pixels"):
        images.decode(png(Image.new("L", (20, 20))))


def test_ranges_come_back() -> None:
    values = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(images.to_uint8(images.to_float(values)), values)
    np.testing.assert_array_equal(images.to_uint8(np.asarray([-2.0, 2.0])), [0, 255])


def test_trees_flatten_count_and_tell_their_values() -> None:
    tree = {"a": {"b": np.zeros((2, 3), np.float32)}, "c": np.ones(4, np.float32)}
    assert set(trees.flatten(tree)) == {"a/b", "c"}
    assert jax.tree.structure(trees.unflatten(trees.flatten(tree))) == jax.tree.structure(tree)
    assert trees.count(tree) == 10
    changed = {"a": {"b": np.zeros((2, 3), np.float32)}, "c": np.full(4, 2, np.float32)}
    assert trees.digest(tree) == trees.digest({"c": tree["c"], "a": tree["a"]}) != trees.digest(changed)


def test_leaves_are_replaced_one_by_one() -> None:
    tree = {"a": {"b": 1, "c": 2}, "d": 3}
    assert trees.map_in_place(lambda leaf: 10 * leaf, tree) is tree
    assert tree == {"a": {"b": 10, "c": 20}, "d": 30}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_unit_vectors_have_length_1_and_zero_vectors_stay_zero(dtype) -> None:
    vectors = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(dtype)
    vectors[1, 2] = 0
    before, exact = vectors.copy(), vectors.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=-1, keepdims=True)
    expected = exact / np.where(lengths == 0, 1, lengths)
    assert unit(vectors).dtype == dtype and unit(vectors, np.float32).dtype == np.float32
    np.testing.assert_allclose(unit(vectors), expected, atol=2 * np.finfo(dtype).eps)
    np.testing.assert_allclose(unit(vectors, np.float32), expected, atol=1e-6)
    np.testing.assert_array_equal(vectors, before)


def test_the_length_of_a_short_vector_is_1_too() -> None:
    np.testing.assert_allclose(unit(np.array([[3e-13, 4e-13]])), [[0.6, 0.8]], rtol=1e-12)
