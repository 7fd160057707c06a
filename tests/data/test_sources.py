import io
import json
import pickle
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from rdm_jax.core.errors import UserError
from rdm_jax.data.sources import open_source


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
        "metadata.jsonl": json.dumps({"file_name": "lost.png", "text": "gone"}),
    }
    for source in (
        open_source(str(write(tmp_path / "set", files))),
        open_source(str(pack(tmp_path / "set.zip", files))),
    ):
        assert source[2].path == "good.png"
        for index, reason in ((0, "bad.png: not a readable image"), (1, "cut.png"), (3, "lost.png: ")):
            with pytest.raises(ValueError, match=reason):
                source[index]


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
    ],
)
def test_bad_folders_are_refused_in_one_line(tmp_path, files, message):
    root = write(tmp_path / "set", files)
    with pytest.raises(UserError, match=message) as error:
        open_source(str(root))
    assert "\n" not in str(error.value)


def test_what_is_not_there_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no folder or .zip"):
        open_source(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"cannot read .*bad.zip"):
        open_source(str(write(tmp_path, {"bad.zip": b"PK no zip"}) / "bad.zip"))
    with pytest.raises(UserError, match=r"neither a folder nor a .zip"):
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
