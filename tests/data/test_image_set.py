"""Images of a source at one size, where some cannot be read."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from rdm_jax.core.errors import UserError
from rdm_jax.data.image_set import MAX_BROKEN, load_images, stream_images
from rdm_jax.data.sources import open_source


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 4, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def source_of(folder, broken, count=12):
    """Returns a source of gray images, whose level is their number; the broken ones are texts."""
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:02d}.png").write_bytes(b"no image" if i in broken else png(i))
    return open_source(str(folder))


def test_unreadable_images_are_left_out_in_one_report(tmp_path, caplog):
    broken = (1, 4, 5, 6, 11)
    loaded = load_images(source_of(tmp_path / "set", broken), 4, tmp_path / "cache")
    kept = [i for i in range(12) if i not in broken]
    assert loaded.rows.tolist() == kept and np.asarray(loaded.images)[:, 0, 0, 0].tolist() == kept
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1 and messages[0].startswith("set: 5 images are left out: 5 not a readable image: none of")
    assert messages[0].endswith("(01.png, 04.png, 05.png, ...)")
    caplog.clear()
    assert len(load_images(open_source(str(tmp_path / "set")), 4, tmp_path / "cache")) == len(kept)
    assert not caplog.records


def test_a_set_without_any_readable_image_is_refused_with_the_reasons(tmp_path):
    with pytest.raises(UserError, match=r"no image of set can be read; .* 2 images are left out: 2 not a readable"):
        load_images(source_of(tmp_path / "set", (0, 1), 2), 4, tmp_path / "cache")
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".npy")]


def test_a_streamed_image_that_is_broken_is_replaced_and_reported_once(tmp_path, caplog):
    images = stream_images(source_of(tmp_path / "set", (2, 3, 8)), 4).images
    for _ in range(3):  # passes over the set
        assert images[:][:, 0, 0, 0].tolist() == [0, 1, 4, 4, 4, 5, 6, 7, 9, 9, 10, 11]
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split()[1] for message in messages] == ["1", "2"]
    assert "(02.png, 03.png); the next one replaces each" in messages[1]


def test_a_long_run_of_broken_images_stops(tmp_path):
    broken = range(1, MAX_BROKEN + 1)
    images = stream_images(source_of(tmp_path / "set", broken, MAX_BROKEN + 2), 4).images
    assert (images[2] == MAX_BROKEN + 1).all()
    with pytest.raises(UserError, match=f"{MAX_BROKEN} images of set from index 1 on are broken"):
        images[1]


def test_files_that_vanish_after_opening_concern_themselves_only(tmp_path):
    source = source_of(tmp_path / "set", ())
    (tmp_path / "set/03.png").unlink()
    loaded = load_images(source, 4, tmp_path / "cache")
    assert loaded.rows.tolist() == [i for i in range(12) if i != 3]
    assert dataclasses.asdict(loaded)["captions"] == [""] * 11
