import csv
import dataclasses
import io
import json
import os
import pickle
import posixpath
import socket
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from rdm_jax.core.errors import UserError
from rdm_jax.core.text import same_name
from rdm_jax.data.file_source import SPLITS
from rdm_jax.data.file_trees import FolderFiles
from rdm_jax.data.sources import open_source
from rdm_jax.data.tfds_source import TfdsSource
from rdm_jax.retrieval.prepare import Preparation
from rdm_jax.retrieval.shards import ShardContents, write_shard
from rdm_jax.retrieval.stored_shard import StoredShard


def png(value, size=(6, 4)):
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def pack(path, files, prefix=""):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return path


def captions(source):
    return {example.path: example.caption for example in map(source.__getitem__, range(len(source)))}


MIXED = {
    "metadata.jsonl": json.dumps({"file_name": "a.png", "text": "from jsonl", "style": "ink", "n": 3}) + "\n\n",
    "metadata.csv": 'file_name,text\na.png,from csv\nsub/b.png,"from csv, quoted"\n',
    "a.png": png(1),
    "a.txt": "from txt",
    "sub/b.png": png(2),
    "sub/b.txt": "from txt",
    "sub/c.PNG": png(3),
    "sub/c.txt": " from txt\n",
    "sub/deep_er/c.png": png(4),
    "e.png": png(5),
    ".hidden/f.png": png(6),
    "__MACOSX/a.png": png(7),
    "notes.md": "no image",
}
EXPECTED = {
    "a.png": "from jsonl",
    "e.png": "",
    "sub/b.png": "from csv, quoted",
    "sub/c.PNG": "from txt",
    "sub/deep_er/c.png": "deep er",
}


def test_captions_come_in_the_order_jsonl_csv_text_file_folder_name(tmp_path):
    source = open_source(str(write(tmp_path / "set", MIXED)))
    assert captions(source) == EXPECTED
    assert [source[i].path for i in range(len(source))] == sorted(EXPECTED)
    assert source.name == "set"
    assert source[0].attributes == {"style": "ink", "n": "3"}
    assert source[2].attributes == {"folder": "sub"}
    assert source[4].attributes == {"folder": "sub", "label": "deep_er"}
    for kind in ("metadata.jsonl (1)", "metadata.csv (1)", "text files (1)", "folder names (1)", "none (1)"):
        assert kind in source.captions


@pytest.mark.parametrize("prefix", ["", "inner/"])
def test_a_zip_is_the_same_source_as_its_folder(tmp_path, prefix):
    folder = open_source(str(write(tmp_path / "set", MIXED)))
    archive = open_source(str(pack(tmp_path / "set.zip", MIXED, prefix)))
    assert captions(archive) == captions(folder)
    assert archive.fingerprint == folder.fingerprint
    for i in range(len(folder)):
        assert np.array_equal(archive[i].image, folder[i].image)


def test_metadata_in_a_sub_folder_is_relative_to_it_and_splits_select(tmp_path):
    files = {
        "train/metadata.jsonl": json.dumps({"file_name": "x/a.png", "text": "t"}),
        "train/x/a.png": png(1),
        "test/x/a.png": png(2),
        "test/y/b.png": png(3),
    }
    root = str(write(tmp_path / "set", files))
    assert captions(open_source(root, "train")) == {"train/x/a.png": "t"}
    assert captions(open_source(root, "test")) == {"test/x/a.png": "x", "test/y/b.png": "y"}
    assert len(open_source(root)) == 3
    assert open_source(root, "train").fingerprint != open_source(root, "test").fingerprint
    with pytest.raises(UserError, match=r"unknown split 'tes'; did you mean 'test'\? \(known: test, train\)"):
        open_source(root, "tes")


@pytest.mark.parametrize(
    "change",
    [
        {"e.png": png(99)},
        {"a.png": png(1, (4, 6))},
        {"new.png": png(1)},
        {"sub/c.txt": "another"},
        {"metadata.jsonl": json.dumps({"file_name": "a.png", "text": "from jsonl", "style": "oil"})},
    ],
)
def test_the_fingerprint_changes_with_the_data_and_with_nothing_else(tmp_path, change):
    root = write(tmp_path / "set", MIXED)
    before = open_source(str(root)).fingerprint
    assert open_source(str(write(tmp_path / "copy", MIXED))).fingerprint == before
    assert open_source(str(write(root, {"notes.md": "changed"}))).fingerprint == before
    assert open_source(str(write(root, change))).fingerprint != before


def test_broken_and_missing_images_say_which_and_why(tmp_path):
    files = {
        "bad.png": b"no image at all",
        "cut.png": png(1, (64, 64))[:60],
        "good.png": png(3),
        "lost.png": png(4),
    }
    folder = open_source(str(write(tmp_path / "set", files)))
    archive = open_source(str(pack(tmp_path / "set.zip", files)))
    (tmp_path / "set/lost.png").unlink()
    for source in (folder, archive):
        assert source[2].path == "good.png"
        for index, reason in ((0, "bad.png: not a readable image"), (1, "cut.png")):
            with pytest.raises(ValueError, match=reason):
                source[index]
    with pytest.raises(ValueError, match=r"lost\.png: cannot read: No such file"):
        folder[3]


def damaged_zip(path, offset, value):
    """Returns a zip of one image with some bytes of the local header and the directory changed."""
    data = bytearray(pack(path, {"a.png": png(1), "b.png": png(2)}).read_bytes())
    for signature, place in ((b"PK\x03\x04", offset), (b"PK\x01\x02", offset + 2)):
        start = data.index(signature) + place
        data[start : start + 2] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("offset", "value"), [(8, b"\x63\x00"), (8, b"\x0e\x00"), (8, b"\x0c\x00"), (6, b"\x01\x00")])
def test_a_damaged_member_of_a_zip_concerns_itself_only(tmp_path, offset, value):
    """An unknown compression, data that are neither LZMA nor bzip2, and encryption."""
    source = open_source(str(damaged_zip(tmp_path / "set.zip", offset, value)))
    with pytest.raises(ValueError, match=r"^a\.png: cannot read from the zip: ."):
        source[0]
    assert (source[1].image == 2).all()


@pytest.mark.parametrize("error", [OverflowError("x"), KeyError("x"), RecursionError(), AssertionError()])
def test_any_error_of_a_decoder_is_a_reason(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("rdm_jax.core.images._to_rgb", fail)
    with pytest.raises(ValueError, match=r"^a\.png: not a readable image: ."):
        open_source(str(write(tmp_path / "set", {"a.png": png(1)})))[0]


def reported(caplog, folder, split=None):
    """Returns the paths of a source, and the one line that reports what is left out, "" if there is none."""
    caplog.clear()
    source = open_source(str(folder), split)
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("rdm_jax")]
    assert len(messages) <= 1 and "\n" not in "".join(messages)
    return [source[i].path for i in range(len(source))], "".join(messages)


CLUTTER = {
    "a.JFIF": png(1),
    "b.heic": b"x",
    "c.HEIC": b"x",
    "d.heic": b"x",
    "e.heic": b"x",
    "plain": png(2),
    "sub/inner.zip": b"PK",
    "sub/notes.txt": "captions nothing",
    "sub/b.tga": png(3),
    "sub/b.txt": "a caption",
    ".hidden": b"x",
    "sub/.DS_Store": b"x",
    "Thumbs.db": b"x",
    "sub/Desktop.ini": b"x",
    "__MACOSX/._a.JFIF": b"x",
    "metadata.jsonl": '{"file_name": "a.JFIF", "text": "t"}\n{"file_name": "gone.png"}\n{"file_name": "a.JFIF"}\n',
}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_left_out_is_counted_and_named(tmp_path, caplog, kind):
    root = write(tmp_path / "set", CLUTTER) if kind == "folder" else pack(tmp_path / "set.zip", CLUTTER)
    paths, line = reported(caplog, root)
    assert paths == ["a.JFIF", "sub/b.tga"]
    assert line.startswith("set: 9 files are left out: 4 .heic (b.heic, c.HEIC, d.heic, ...), ")
    parts = ["1 without a suffix (plain)", "1 .zip (sub/inner.zip)", "1 .txt without an image (sub/notes.txt)"]
    parts += ["1 row of metadata.jsonl whose image does not exist (gone.png)"]
    parts += ["1 row of metadata.jsonl whose image a later row describes too (a.JFIF)"]
    for part in parts:
        assert part in line
    assert reported(caplog, write(tmp_path / "clean", {"a.png": png(1), "a.txt": "t", "Thumbs.db": "x"}))[1] == ""


def test_only_the_split_is_reported_and_no_image_at_all_is_an_error_with_the_report(tmp_path, caplog):
    files = {"train/a.png": png(1), "train/b.psd": b"x", "test/c.png": png(2), "test/d.raw": b"x", "README": "x"}
    assert (
        reported(caplog, write(tmp_path / "set", files), "train")[1] == "set: 1 file is left out: 1 .psd (train/b.psd)"
    )
    with pytest.raises(UserError, match=r"no images in none; .*; 1 file is left out: 1 \.heic \(a\.heic\)"):
        open_source(str(write(tmp_path / "none", {"a.heic": b"x"})))


def test_a_file_that_metadata_names_is_an_image_whatever_its_suffix(tmp_path, caplog):
    files = {"plain": png(1), "metadata.jsonl": '{"file_name": "plain", "text": "named"}'}
    assert captions(open_source(str(write(tmp_path / "set", files)))) == {"plain": "named"}
    assert not caplog.records


def test_linked_folders_are_followed_and_circles_end(tmp_path, caplog):
    write(tmp_path / "elsewhere", {"x/a.png": png(1), "x/a.txt": "linked"})
    root = write(tmp_path / "set", {"sub/b.png": png(2)})
    (root / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "c.png").symlink_to(root / "sub/b.png")
    (root / "sub/up").symlink_to(root, target_is_directory=True)
    (tmp_path / "elsewhere/back").symlink_to(root, target_is_directory=True)
    (root / "gone.png").symlink_to(root / "nothing.png")
    (root / "itself.png").symlink_to(root / "itself.png")
    paths, line = reported(caplog, root)
    assert paths == ["c.png", "link/x/a.png", "sub/b.png"]
    assert "2 broken link (gone.png, itself.png)" in line
    assert "2 link to a folder that contains it (link/back, sub/up)" in line
    assert captions(open_source(str(root)))["link/x/a.png"] == "linked"


def test_pipes_and_sockets_are_never_opened(tmp_path, caplog):
    root = write(tmp_path / "set", {"a.png": png(1), "metadata.jsonl": '{"file_name": "pipe.png"}'})
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "a.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "s.png"))
        paths, line = reported(caplog, root)
    assert paths == ["a.png"] and "3 neither file nor folder (a.txt, pipe.png, s.png)" in line
    tree = FolderFiles(root)
    assert tree.stamp("pipe.png") == (0, 0)
    with pytest.raises(ValueError, match="no regular file"):
        tree.read("pipe.png")


def test_a_folder_below_that_cannot_be_read_is_named(tmp_path, caplog, monkeypatch):
    root, scandir = write(tmp_path / "set", {"a.png": png(1), "lost+found/b.png": png(2)}), os.scandir

    def denied(path):
        if str(path).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", denied)
    paths, line = reported(caplog, root)
    assert paths == ["a.png"] and "1 folder that cannot be read: Permission denied (lost+found)" in line


def test_large_files_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("rdm_jax.data.file_trees.MAX_BYTES", 100)
    root = write(tmp_path / "set", {"a.png": png(1) + bytes(200), "b.png": png(2)})
    packed = open_source(str(pack(tmp_path / "set.zip", {"a.png": png(1) + bytes(200), "b.png": png(2)})))
    for source in (open_source(str(root)), packed):
        with pytest.raises(ValueError, match=r"a\.png: more than 100 bytes"):
            source[0]
    assert open_source(str(root)).fingerprint == packed.fingerprint


COMPOSED, SPLIT = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(("stored", "written"), [(COMPOSED, SPLIT), (SPLIT, COMPOSED), (SPLIT, SPLIT)])
def test_names_match_whatever_their_unicode_form_and_slashes(tmp_path, kind, stored, written):
    row = json.dumps({"file_name": f".\\x\\{written}.png", "text": "from metadata"})
    files = {f"x/{stored}.png": png(1), f"y/{stored}.png": png(2), f"y/{written}.txt": "text", "metadata.jsonl": row}
    root = write(tmp_path / "set", files) if kind == "folder" else pack(tmp_path / "set.zip", files)
    assert captions(open_source(str(root))) == {f"x/{stored}.png": "from metadata", f"y/{stored}.png": "text"}


def test_an_exact_name_comes_before_one_of_another_form(tmp_path):
    rows = [{"file_name": f"{name}.png", "text": ascii(name)} for name in (COMPOSED, SPLIT, "a\\b", "a/b")]
    files: dict[str, str | bytes] = {str(row["file_name"]): png(1) for row in rows}
    files["metadata.jsonl"] = "\n".join(map(json.dumps, rows))
    expected = {str(row["file_name"]): row["text"] for row in rows}
    assert captions(open_source(str(write(tmp_path / "set", files)))) == expected


class Unflagged(zipfile.ZipInfo):
    """A member whose name is stored as bytes of code page 437, without the flag of UTF-8."""

    def _encodeFilenameFlags(self):
        return self.filename.encode("cp437"), 0


def test_names_in_a_zip_without_the_flag_of_utf8(tmp_path):
    names = {"utf-8": "caf\u00e9/\u7334.png", "cp437": "caf\u00e9/b.png"}
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for coding, name in names.items():
            info = Unflagged(name.encode(coding).decode("cp437"))
            archive.writestr(info, png(1))
        archive.writestr("win\\dows\\c.png", png(1))
        archive.writestr("./caf\u00e9/d.png", png(1))
        archive.writestr("../evil.png", png(1))
        archive.writestr("metadata.csv", "file_name,text\n" + "".join(f"{name},{key}\n" for key, name in names.items()))
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        assert [info.flag_bits & 0x800 for info in archive.infolist()[:2]] == [0, 0]
    source = open_source(str(tmp_path / "set.zip"))
    expected = {"caf\u00e9/\u7334.png": "utf-8", "caf\u00e9/b.png": "cp437"}
    assert captions(source) == {**expected, "caf\u00e9/d.png": "caf\u00e9", "win/dows/c.png": "dows"}


def test_sources_survive_pickling_and_read_on(tmp_path):
    folder = open_source(str(write(tmp_path / "set", MIXED)))
    archive = open_source(str(pack(tmp_path / "set.zip", MIXED)))
    for source in (folder, archive):
        copy = pickle.loads(pickle.dumps(source))
        assert captions(copy) == EXPECTED and copy.fingerprint == source.fingerprint


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.md": "x"}, "no images in set"),
        ({"a.png": png(1), "metadata.jsonl": "{broken"}, "metadata.jsonl, line 1: not JSON"),
        ({"a.png": png(1), "metadata.jsonl": '["a.png"]'}, "is not a JSON object"),
        ({"a.png": png(1), "metadata.jsonl": '{"text": "t"}'}, "a row without file_name"),
        ({"a.png": png(1), "metadata.jsonl": '{"file_name": "../../etc/x.png"}'}, "leaves the folder"),
        ({"a.png": png(1), "metadata.jsonl": '{"file_name": "/etc/x.png"}'}, "leaves the folder"),
        ({"a.png": png(1), "metadata.csv": "file_name,text\na.png,b,c\n"}, "more values than the header"),
        ({"a.png": png(1), "a.txt": b"\xff\xfe\xff"}, "a.txt: not readable as UTF-8"),
        ({"a.png": png(1), "a.txt": b"a\nb\0c\0"}, "a.txt, line 2: a null character"),
        ({"a.png": png(1), "metadata.csv": b""}, "metadata.csv, line 1: no column file_name .*nothing"),
        ({"a.png": png(1), "metadata.csv": "file_name,text\n"}, "metadata.csv has no rows"),
        ({"a.png": png(1), "metadata.jsonl": b"\n"}, "metadata.jsonl has no rows"),
        ({"a.png": png(1), "metadata.csv": "text,license\nx,y\n"}, "line 1: no column file_name in .*text, license"),
        ({"a.png": png(1), "metadata.csv": "file_name,text,text\n"}, "line 1: the header has column 'text' more than"),
        ({"a.png": png(1), "metadata.csv": "file_name,text\na.png,\0\n"}, "metadata.csv, line 2: a null character"),
        ({"a.png": png(1), "metadata.csv": 'file_name,text\n\na.png,"open\nb'}, r"metadata.csv, line \d: not CSV"),
        ({"a.png": png(1), "metadata.csv": 'file_name,text\na.png,"a"b\n'}, "metadata.csv, line 2: not CSV"),
        ({"a.png": png(1), "metadata.csv": "file_name,text\n,b\n"}, "metadata.csv, line 2: a row without file_name"),
        (
            {"a.png": png(1), "metadata.csv": "file_name,text\na.png,b\n".encode("utf-16")},
            "metadata.csv: .*0xff in line 1",
        ),
        (
            {"a.png": png(1), "metadata.csv": "file_name\n".encode("utf-16-le")},
            "metadata.csv, line 1: a null character",
        ),
        ({"a.png": png(1), "metadata.jsonl": "{}".encode("utf-16")}, "metadata.jsonl: .*0xff in line 1"),
        ({"a.png": png(1), "metadata.jsonl": "\n" + "[" * 10**5}, "metadata.jsonl, line 2: not JSON"),
        ({"a.png": png(1), "metadata.jsonl": '{"n": ' + "9" * 5000 + "}"}, "metadata.jsonl, line 1: not JSON"),
        ({"a.png": png(1), "metadata.jsonl": '{"text": "' + "x" * 10**5 + '"}'}, "line 1: a row without file_name"),
        ({"a.png": png(1), "metadata.jsonl": '{"file_name": "..\\\\x.png"}'}, "leaves the folder"),
    ],
)
def test_bad_folders_are_refused_in_one_line(tmp_path, files, message):
    root = write(tmp_path / "set", files)
    with pytest.raises(UserError, match=message) as error:
        open_source(str(root))
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_long_fields_and_lines_of_metadata_are_read(tmp_path):
    long, odd = "long " * 40_000, "one\u2028two\x85three\x0cfour\x1c"
    rows = [["file_name", "text", ""], ["a.png", long, ""], ["b.png", odd, ""], ["c.png", 'two\r\nlines\r, "so"']]
    table = io.StringIO(newline="")
    csv.writer(table).writerows(rows)
    objects = [{"file_name": "d.png", "text": odd}, {"file_name": "e.png", "text": long}]
    lines = "\r".join(json.dumps(row, ensure_ascii=False) for row in objects)
    files = {f"{letter}.png": png(1) for letter in "abcde"}
    files |= {"metadata.csv": table.getvalue(), "metadata.jsonl": lines, "f/a.png": png(2), "f/a.txt": "x" + odd + "y"}
    expected = {"a.png": long, "b.png": odd, "c.png": rows[3][1], "d.png": odd, "e.png": long, "f/a.png": f"x{odd}y"}
    before = csv.field_size_limit()
    assert captions(open_source(str(write(tmp_path / "set", files)))) == expected
    assert csv.field_size_limit() == before


CAPTION = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), min_size=1, max_size=40)
NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: not name.startswith((".", "__MACOSX")) and name.lower() not in ("thumbs.db", "desktop.ini")
)


def unlike(names):
    """Returns whether no two names stand for one file."""
    return len({posixpath.normpath(same_name(name)) for name in names}) == len(names)


@given(st.dictionaries(NAME, CAPTION, min_size=3, max_size=3), st.booleans())
def test_captions_and_names_survive_every_format(tmp_path, texts, packed):
    """jsonl, csv, text file and folder name, in a folder and in a zip (which has no backslashes in its paths)."""
    texts = {name.replace("\\", "_") if packed else name: text for name, text in texts.items()}
    assume(unlike(texts) and len(texts) == 3)
    (by_json, by_csv, by_text), (caption, second, third) = texts, texts.values()
    assume(by_json not in (*SPLITS, "s"))
    table = io.StringIO(newline="")
    csv.writer(table).writerows([["file_name", "text"], [f"{by_csv}.png", second]])
    files = {f"s/{name}.png": png(1) for name in texts}
    files |= {"s/metadata.jsonl": json.dumps({"file_name": f"{by_json}.png", "text": caption}, ensure_ascii=False)}
    files |= {
        "s/metadata.csv": table.getvalue(),
        f"s/{by_text}.txt": third,
        f"{by_json}/x.png": png(2),
        "z.png": png(3),
    }
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        root = Path(folder)
        source = open_source(str(pack(root / "set.zip", files) if packed else write(root / "set", files)))
        read = captions(source)
    expected = {f"s/{by_json}.png": caption, f"s/{by_csv}.png": second, f"s/{by_text}.png": third.strip()}
    assert read == {**expected, f"{by_json}/x.png": by_json.replace("_", " "), "z.png": ""}


@given(st.lists(st.tuples(NAME, CAPTION), min_size=1, max_size=4))
def test_captions_and_names_survive_tfds_and_the_items_of_a_database(tmp_path, pairs):
    rows = [{"image": png(1), "caption": text.encode(), "path": f"x/{name}"} for name, text in pairs]
    source = TfdsSource("set", "", rows, "image", "caption", "path", {}, (), (len(rows),))
    examples = [source[i] for i in range(len(rows))]
    prepared = [Preparation(8)(source, i).items[0] for i in range(len(rows))]
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        shard = write_shard(Path(folder), 0, 1, ShardContents(prepared, np.ones((len(rows), 2), np.float32)), "float32")
        items = [StoredShard(shard).item(i) for i in range(len(rows))]
    expected = [(f"x/{name}", text) for name, text in pairs]
    assert [(example.path, example.caption) for example in examples] == expected
    assert [(item["path"], item["caption"]) for item in items] == expected


class Damaged(list):
    """Records of a set, of which the second cannot be read once it is damaged."""

    damaged = False

    def __getitem__(self, index):
        if index == 1 and self.damaged:
            raise RuntimeError("checksum\nof the chunk is wrong")
        return super().__getitem__(index)


def test_a_damaged_record_and_an_unknown_class_concern_one_example(prepared):
    whole = open_source("plain_images", data_dir=str(prepared))
    rows = Damaged(
        [{"image": png(1), "caption": b"a", "label": -1}, {}, {"image": png(2), "caption": b"b", "label": 1}]
    )
    assert isinstance(whole, TfdsSource)
    source, rows.damaged = dataclasses.replace(whole, rows=rows), True
    assert source[0].attributes == {"label": "-1"} and source[2].attributes == {"label": "odd"}
    with pytest.raises(ValueError, match=r"^00000001: damaged record: checksum$"):
        source[1]
    assert source.labels(1) == {"path": "00000001", "caption": ""}


def test_what_is_not_there_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no folder or file"):
        open_source(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"cannot read .*bad.zip"):
        open_source(str(write(tmp_path, {"bad.zip": b"PK no zip"}) / "bad.zip"))
    with pytest.raises(UserError, match=r"is not a folder or a file of type .zip .tar .parquet .arrow"):
        open_source(str(write(tmp_path, {"a.png": png(1)}) / "a.png"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Returns the data folder of a TFDS set of ten images, one of them broken."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tfds = pytest.importorskip("tensorflow_datasets")
    tmp_path = tmp_path_factory.mktemp("data")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "caption": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
        }
    )

    class PlainImages(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(10), "test": self._generate_examples(4)}

        def _generate_examples(self, count):
            for i in range(count):
                image = b"broken" if i == 3 and count == 10 else png(10 * i)
                yield i, {"image": image, "caption": f"number {i}", "label": i % 2}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        builder = PlainImages(data_dir=str(tmp_path / "tfds"), file_format="array_record")
        builder.download_and_prepare()
    return tmp_path / "tfds"


def test_a_tfds_set_gives_images_captions_and_labels(prepared):
    source = open_source("plain_images", data_dir=str(prepared))
    assert len(source) == 10 and source.name == "plain_images" and source.captions == "feature 'caption'"
    broken = 0
    for i in range(10):
        try:
            example = source[i]
        except ValueError:
            broken += 1
            continue
        number = int(example.caption.removeprefix("number "))
        assert (example.image == 10 * number).all()
        assert example.attributes == {"label": ("even", "odd")[number % 2]}
    assert broken == 1
    by_folder = open_source(str(prepared / "plain_images" / "1.0.0"), "test[:2]")
    assert len(by_folder) == 2
    prints = {open_source("plain_images", split, str(prepared)).fingerprint for split in ("train", "test", "train[:3]")}
    assert len(prints) == 3 and source.fingerprint in prints
    assert pickle.loads(pickle.dumps(by_folder))[1].caption == by_folder[1].caption


def test_tfds_names_and_splits_that_do_not_exist_are_refused(prepared):
    with pytest.raises(UserError, match=r"no folder, .zip or TFDS set 'plain_image'; did you mean .*'plain_images'"):
        open_source("plain_image", data_dir=str(prepared))
    with pytest.raises(UserError, match="unknown split 'trian'; did you mean 'train'"):
        open_source("plain_images", "trian", str(prepared))
    with pytest.raises(UserError, match="is not prepared in"):
        open_source("cifar10", data_dir=str(prepared))


@pytest.mark.parametrize(
    ("file", "module", "extra"), [("a.tar", "webdataset", "webdataset"), ("a.parquet", "datasets", "datasets")]
)
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, file, module, extra):
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / file).write_bytes(b"\0" * 1024)
    with pytest.raises(UserError, match=rf"are read by {module}; pip install 'rdm_jax\[{extra}\]'"):
        open_source(str(tmp_path / file))
