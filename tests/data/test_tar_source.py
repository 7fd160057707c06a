"""WebDataset shards as a source; the library webdataset writes them, and its own reader is the reference."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rdm_jax.core import images
from rdm_jax.core.errors import UserError
from rdm_jax.data.batches import training_batches
from rdm_jax.data.examples import ImageSource, select_examples
from rdm_jax.data.selection import Selection
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval.database import Database
from tests.retrieval.conftest import RandomEncoder, build

webdataset = pytest.importorskip("webdataset", reason="WebDataset needs the extra: pip install 'rdm_jax[webdataset]'")

COUNTS = (3, 5, 2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def sample(number: int) -> dict[str, Any]:
    """Returns a sample as img2dataset writes it."""
    record = {
        "caption": f"json {number}",
        "url": f"https://example.org/{number}",
        "key": f"{number:09d}",
        "width": 9,
        "style": ("ink", "oil")[number % 2],
        "error_message": None,
        "exif": "{}",
    }
    return {"__key__": f"{number:09d}", "jpg": jpeg(number), "txt": f" caption {number}\n", "json": record}


def write(folder: Path, counts: tuple[int, ...] = COUNTS, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for shard, count in enumerate(counts):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar"), mtime=0) as writer:
            for number in range(first, first + count):
                writer.write(sample(number))
        first += count
        (folder / f"{shard:05d}.parquet").write_bytes(b"the record of img2dataset, which is no data set of images")
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    return folder


def reference(folder: Path) -> list[dict[str, Any]]:
    """Returns the samples of a folder by webdataset's own reader."""
    samples = []
    for file in sorted(folder.glob("*.tar")):
        with open(file, "rb") as stream:
            members = webdataset.tariterators.tar_file_expander([{"url": str(file), "stream": stream}])
            samples += webdataset.tariterators.group_by_keys(members)
    return samples


def tar(file: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file


def paths_of(source: ImageSource) -> list[str]:
    return [source.labels(row)["path"] for row in range(len(source))]


def test_rows_are_the_samples_of_webdatasets_own_reader(tmp_path: Path):
    source = open_source(str(write(tmp_path / "laion")))
    samples = reference(tmp_path / "laion")
    assert source.name == "laion" and source.shard_lengths == [*COUNTS] and len(source) == len(samples) == 10
    assert source.captions == ".txt (10), .json (10)"
    for row in np.random.default_rng(0).permutation(10).tolist():
        example, expected = source[row], samples[row]
        np.testing.assert_array_equal(example.image, images.decode(expected["jpg"]))
        assert example.caption == expected["txt"].decode().strip() == f"caption {row}"
        record = json.loads(expected["json"])
        kept = {key: str(value) for key, value in record.items() if key not in ("caption", "error_message")}
        assert example.attributes == kept and example.attributes["width"] == "9"
        shard = Path(expected["__url__"]).stem
        assert example.path == f"{shard}/{expected['__key__']}.jpg"
        assert source.labels(row) == {**example.attributes, "path": example.path, "caption": example.caption}
    with pytest.raises(IndexError):
        source[10]


def test_a_file_a_pattern_and_sub_folders_are_sources(tmp_path: Path):
    folder = write(tmp_path / "train")
    write(tmp_path / "val", (2,), first=20)
    assert paths_of(open_source(str(folder / "00001.tar"))) == [f"00001/{i:09d}.jpg" for i in range(3, 8)]
    whole, pattern = open_source(str(folder)), open_source(str(folder / "{00000..00002}.tar"))
    assert paths_of(pattern) == paths_of(whole) and pattern.fingerprint == whole.fingerprint
    assert len(open_source(str(folder / "{00001..00002}.tar"))) == 7
    with pytest.raises(UserError, match=r"no file .*00003.tar, one of 4 of .*; check the pattern"):
        open_source(str(folder / "{00000..00003}.tar"))
    assert len(open_source(str(tmp_path))) == 12
    assert paths_of(open_source(str(tmp_path), "val")) == ["val/00000/000000020.jpg", "val/00000/000000021.jpg"]
    with pytest.raises(UserError, match=r"unknown split 'test' \(known: train, val\)"):
        open_source(str(tmp_path), "test")


def test_the_fingerprint_changes_with_the_bytes_and_not_with_the_place(tmp_path: Path):
    first = open_source(str(write(tmp_path / "a")))
    other_place = open_source(str(write(tmp_path / "b")))
    assert first.fingerprint == other_place.fingerprint and len(first.fingerprint) == 64
    assert open_source(str(write(tmp_path / "c", (3, 5, 1)))).fingerprint != first.fingerprint
    assert open_source(str(write(tmp_path / "d", first=1))).fingerprint != first.fingerprint
    (tmp_path / "b/00000.tar").rename(tmp_path / "b/00009.tar")
    assert open_source(str(tmp_path / "b")).fingerprint != first.fingerprint
    data = bytearray((tmp_path / "a/00000.tar").read_bytes())
    at = data.index(b"caption 0")
    data[at : at + 7] = b"CAPTION"
    (tmp_path / "a/00000.tar").write_bytes(data)
    changed = open_source(str(tmp_path / "a"))
    assert changed.fingerprint != first.fingerprint and changed[0].caption == "CAPTION 0"


def test_the_index_is_made_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write(tmp_path / "set")
    first = open_source(str(folder))
    assert len(list((cache / "tars").iterdir())) == 3
    monkeypatch.setattr(tarfile, "open", None)
    again = open_source(str(folder))
    assert paths_of(again) == paths_of(first) and again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again[4].image, first[4].image)


def test_what_cannot_be_read_is_left_out_with_its_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "set").mkdir()
    members = [
        *(("a.jpg", jpeg(0)), ("a.txt", b"first"), ("a.jpg", jpeg(1))),
        *(("b.txt", b"a text alone"), ("__meta__/c.jpg", jpeg(2))),
        *(("d.PNG", jpeg(3)[:50]), ("e.jpg", jpeg(4)), ("e.json", b"[1]")),
        *(("f.seg.png", jpeg(5)), ("f.jpg", jpeg(6)), ("f.cls", b"7\n"), ("f.txt", "grün".encode())),
    ]
    tar(tmp_path / "set/00000.tar", members)
    cut = tar(tmp_path / "set/00001.tar", [("g.jpg", jpeg(7)), ("h.jpg", jpeg(8))])
    cut.write_bytes(cut.read_bytes()[: 512 + 1024 + 512 + 100])
    (tmp_path / "set/00002.tar").write_bytes(b"no tar at all" * 100)
    source = open_source(str(tmp_path / "set"))
    assert paths_of(source) == ["00000/a.jpg", "00000/d.png", "00000/e.jpg", "00000/f.jpg", "00001/g.jpg"]
    log = caplog.text
    assert "1 a name that the tar has twice (00000/a.jpg)" in log and "1 without an image (00000/b)" in log
    assert "1 a damaged or compressed tar (unexpected end of data) (00001/the rest of 00001.tar)" in log
    assert "1 a damaged or compressed tar (invalid header) (00002/the rest of 00002.tar)" in log
    np.testing.assert_array_equal(source[0].image, images.decode(jpeg(0)))
    with pytest.raises(ValueError, match=r"00000/d.png: not a readable image"):
        source[1]
    with pytest.raises(ValueError, match=r"00000/e.jpg: its JSON is no object"):
        source[2]
    assert source.labels(2) == {"path": "00000/e.jpg", "caption": ""}
    assert source[3].caption == "grün" and source[3].attributes == {"cls": "7"}
    np.testing.assert_array_equal(source[3].image, images.decode(jpeg(6)))


def test_files_without_images_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no images in the tar files of"):
        open_source(str(tar(tmp_path / "texts.tar", [("a.txt", b"a")])))
    with pytest.raises(UserError, match="no folder or file"):
        open_source(str(tmp_path / "missing.tar"))


def test_a_folder_of_images_with_a_tar_beside_them_stays_one(tmp_path: Path):
    write(tmp_path / "set")
    (tmp_path / "set/x.jpg").write_bytes(jpeg(0))
    assert paths_of(open_source(str(tmp_path / "set"))) == ["x.jpg"]


def test_a_database_is_built_of_selected_samples_and_names_the_broken_one(tmp_path: Path):
    folder = write(tmp_path / "set")
    with tarfile.open(folder / "00002.tar", "a") as archive:
        for name, data in (("z.jpg", b"no image"), ("z.json", b'{"style": "ink"}')):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    source = pickle.loads(pickle.dumps(open_source(str(folder))))
    chosen = select_examples(source, Selection((("style", "ink"),)))
    report = build(chosen, RandomEncoder(), tmp_path / "ink", max_skip=0.5)
    assert report.skipped == ["00002/z.jpg: not a readable image: " + report.skipped[0].partition("image: ")[2]]
    items = Database.open(tmp_path / "ink").items(range(5))
    assert [item["caption"] for item in items] == [f"caption {number}" for number in (0, 2, 4, 6, 8)]
    assert {item["attributes"]["style"] for item in items} == {"ink"}


def test_batches_resume_at_the_same_samples(tmp_path: Path):
    source = open_source(str(write(tmp_path / "set")))

    def batches():
        """Returns the batches of a training."""
        return training_batches(lambda row, _: {"mean": source[row].image.mean(dtype=np.float32)}, len(source), 4, 0)

    whole, stopped = batches(), batches()
    expected = [next(whole)["mean"] for _ in range(6)]
    for _ in range(3):
        next(stopped)
    resumed = batches()
    resumed.set_state(stopped.get_state())
    np.testing.assert_array_equal([next(resumed)["mean"] for _ in range(3)], expected[3:])
