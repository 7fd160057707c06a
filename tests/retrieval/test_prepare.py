"""Patches, unusual image files, and workers."""

import io
import re
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from rdm_jax.core.errors import UserError
from rdm_jax.data.file_trees import FolderFiles
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval.build import BuildOptions
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.prepare import Patches, Preparation, Workers
from tests.retrieval.conftest import Listed, build, image_bytes, noise

# Patches.


def image_of(width, height, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 60), (33, 91), (17, 17), (1, 1), (900, 3)])
def test_patches_are_squares_inside_the_image(width, height):
    patches = Patches(number=40, size=16, shorter_side=24, seed=1)
    scale = 24 / min(width, height)
    for patch, (left, top, right, bottom) in patches.cut(image_of(width, height), 5):
        assert patch.shape == (16, 16, 3) and patch.dtype == np.uint8
        assert 0 <= left <= right <= width and 0 <= top <= bottom <= height
        assert abs(right - left - 16 / scale) <= 1.5 and abs(bottom - top - 16 / scale) <= 1.5


@pytest.mark.parametrize("factor", [0.5, 1, 2, 3])
def test_a_patch_is_a_crop_of_the_resized_image(factor):
    image = image_of(120, 80)
    side = int(80 * factor)
    resized = Image.fromarray(image).resize((side * 120 // 80, side), Image.Resampling.BICUBIC)
    for patch, box in Patches(number=10, size=24, shorter_side=side).cut(image, 0):
        near = [
            np.abs(np.asarray(resized.crop((x, y, x + 24, y + 24))).astype(int) - patch).max()
            for x in range(max(0, round(box[0] * factor) - 3), min(resized.width - 24, round(box[0] * factor) + 3) + 1)
            for y in range(max(0, round(box[1] * factor) - 3), min(side - 24, round(box[1] * factor) + 3) + 1)
        ]
        assert min(near) <= 1


def test_patches_cover_the_image():
    boxes = np.array([box for _, box in Patches(number=400, size=16, shorter_side=64).cut(image_of(128, 64), 0)])
    assert boxes[:, 0].min() <= 4 and boxes[:, 2].max() >= 124 and boxes[:, 1].min() <= 2 and boxes[:, 3].max() >= 62
    assert abs(boxes[:, 0].mean() - 56) < 6  # uniform in [0, 112]


def test_patches_of_an_image_do_not_depend_on_other_images():
    patches = Patches(number=3, size=8, shorter_side=16)
    images = [image_of(30, 20, seed) for seed in range(4)]
    forth = [patches.cut(image, i) for i, image in enumerate(images)]
    back = [patches.cut(images[i], i) for i in (3, 2, 1, 0)][::-1]
    for one, other in zip(forth, back, strict=True):
        assert [box for _, box in one] == [box for _, box in other]
        np.testing.assert_array_equal([patch for patch, _ in one], [patch for patch, _ in other])
    assert [box for _, box in Patches(3, 8, 16, seed=1).cut(images[0], 0)] != [box for _, box in forth[0]]
    more = Patches(5, 8, 16).cut(images[0], 0)  # the first patches do not depend on their number
    assert [box for _, box in more][:3] == [box for _, box in forth[0]]


def test_patches_are_rows_with_their_boxes_and_are_in_the_manifest(encoder, tmp_path):
    source, patches = Listed([image_of(40, 30, seed) for seed in range(9)]), Patches(4, 8, 16, seed=3)
    options = BuildOptions(patches=patches, dtype="float32", thumbnail_size=8, quality=100, part_size=4)
    build(source, encoder, tmp_path / "db", options)
    database = Database.open(tmp_path / "db")
    cut = [patch for i, image in enumerate(source.images) for patch in patches.cut(image, i)]
    assert len(database) == 36
    np.testing.assert_array_equal(np.asarray(database.rows), encoder.encode_images([patch for patch, _ in cut]))
    np.testing.assert_array_equal(database.thumbnails(range(36)), np.stack([patch for patch, _ in cut]))
    items = database.items(range(36))
    assert [item["box"] for item in items] == [box for _, box in cut]
    assert [item["path"] for item in items] == [f"listed/{i // 4:03d}.png" for i in range(36)]
    assert database.manifest["sources"][0]["patches"] == {"number": 4, "size": 8, "shorter_side": 16, "seed": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"number": 0}, "patches 0 is out of range"),
        ({"number": 1, "size": 7}, "patch size 7 is out of range; give 8 to 1200"),
        ({"number": 1, "size": 65, "shorter_side": 64}, "patch size 65 is out of range; give 8 to 64"),
        ({"number": 1, "seed": -1}, "patch seed -1 is out of range"),
    ],
)
def test_patches_out_of_range_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Patches(**arguments)


# Unusual image files.


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def claiming(width, height):
    """Returns a small PNG whose header claims another size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = image_bytes(np.zeros((4, 4, 3), np.uint8))
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.zeros((8, 4, 3), np.uint8)
    upright[:4] = (200, 40, 40)  # red above
    upright[4:] = (40, 40, 200)  # blue below
    return saved(Image.fromarray(np.rot90(upright)), "PNG", exif=exif)


def flat(mode, color, size=(6, 6)):
    return Image.new(mode, size, color)


RED, BLUE, WHITE = (200, 40, 40), (40, 40, 200), (255, 255, 255)
GOOD = {
    "animated.gif": (
        saved(flat("RGB", RED), "GIF", save_all=True, append_images=[flat("RGB", BLUE)]),
        RED,
    ),
    "cmyk.jpg": (saved(flat("CMYK", (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    "deep.png": (saved(Image.fromarray(np.full((6, 6), 200 * 257, np.uint16)), "PNG"), (200, 200, 200)),
    "exif.png": (rotated(), RED),
    "gray.png": (saved(flat("L", 99), "PNG"), (99, 99, 99)),
    "one.png": (image_bytes(np.full((1, 1, 3), 77, np.uint8)), (77, 77, 77)),
    "palette.png": (saved(flat("RGB", RED).quantize(4), "PNG"), RED),
    "transparent.png": (saved(flat("RGBA", (*RED, 0)), "PNG"), WHITE),
    "wide.png": (image_bytes(np.full((1, 9000, 3), 120, np.uint8)), (120, 120, 120)),
}
BAD = {
    "bomb.png": (claiming(30000, 30000), "not a readable image: Image size"),
    "cut.png": (image_bytes(np.zeros((64, 64, 3), np.uint8))[:60], "not a readable image"),
    "empty.png": (b"", "not a readable image: none of"),
    "large.png": (claiming(10001, 10000), "not a readable image|10001x10000 is more than 100000000 pixels"),
    "text.png": (b"this is a text\n" * 9, "not a readable image: none of"),
}


@pytest.fixture
def odd(tmp_path):
    """Returns a folder of image files of all kinds."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, (data, _) in {**GOOD, **BAD}.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_unusual_images_are_read_or_skipped_with_a_reason(odd, encoder, tmp_path):
    options = BuildOptions(thumbnail_size=8, quality=100)
    report = build(open_source(str(odd)), encoder, tmp_path / "db", options, max_skip=0.5)
    assert report.count == len(GOOD) and len(report.skipped) == len(BAD)
    for line, (name, (_, reason)) in zip(report.skipped, BAD.items(), strict=True):
        assert line.startswith(f"{name}: ") and re.search(reason, line) and "\n" not in line
    database = Database.open(tmp_path / "db")
    assert [item["path"] for item in database.items(range(len(GOOD)))] == list(GOOD)
    for thumbnail, (name, (_, color)) in zip(database.thumbnails(range(len(GOOD))), GOOD.items(), strict=True):
        assert np.abs(thumbnail[1, 4].astype(int) - color).max() <= 8, name
    assert (np.abs(database.thumbnails([3])[0][6, 4].astype(int) - BLUE) <= 8).all()  # below, by the EXIF tag


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_patches_of_unusual_images_are_cut_or_skipped(odd, encoder, tmp_path):
    options = BuildOptions(patches=Patches(2, 8, 16))
    report = build(open_source(str(odd)), encoder, tmp_path / "db", options, max_skip=0.5)
    assert report.count == 2 * len(GOOD) and len(report.skipped) == len(BAD)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_more_unreadable_images_than_allowed_fail(odd, encoder, tmp_path):
    with pytest.raises(
        UserError, match=r"images of odd cannot be read, at most 30.0% of 14 are allowed; the first: bomb.png"
    ):
        build(open_source(str(odd)), encoder, tmp_path / "db", max_skip=0.3)
    assert [path.name for path in tmp_path.iterdir()] == ["odd"]


def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()

    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(UserError, match=r"cannot read folder .*: Permission denied; check its permissions"):
        open_source(str(tmp_path))


def test_an_unreadable_file_is_skipped(tmp_path, encoder, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(image_bytes(noise(1)[0]))
    read = FolderFiles.read

    def denied(self, path):
        if path == "b.png":
            raise ValueError("cannot read: Permission denied")
        return read(self, path)

    monkeypatch.setattr(FolderFiles, "read", denied)
    report = build(open_source(str(tmp_path)), encoder, tmp_path / "db", max_skip=0.5)
    assert report.skipped == ["b.png: cannot read: Permission denied"] and report.count == 2


def test_a_name_that_is_not_unicode_is_escaped(tmp_path, encoder):
    (tmp_path / "in").mkdir()
    with open(bytes(tmp_path / "in") + b"/\xff.png", "wb") as file:
        file.write(image_bytes(noise(1)[0]))
    build(open_source(str(tmp_path / "in")), encoder, tmp_path / "db")
    assert Database.open(tmp_path / "db").items([0])[0]["path"] == r"\udcff.png"


# Workers.


def test_workers_keep_the_order_and_stop_early():
    source = Listed(noise(300, broken=(7,)))
    with Workers(source, Preparation(8), 3) as workers:
        prepared = list(workers.prepare(range(299, -1, -1)))
        some = workers.prepare(range(300))
        assert next(some).index == 0
    assert [example.index for example in prepared] == list(range(299, -1, -1))
    assert [example.index for example in prepared if example.broken] == [7]
    readable = [example for example in prepared if not example.broken]
    assert all(example.pixels[0].shape == (8, 8, 3) and example.thumbnails is None for example in readable)


@pytest.mark.slow  # it starts processes
def test_processes_name_what_they_cannot_read(tmp_path, monkeypatch):
    """A broken image and a damaged member of a zip, which each process opens for itself."""
    monkeypatch.setattr("rdm_jax.retrieval.prepare.PROCESSES_FROM", 1)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for i, image in enumerate(noise(80)):
            archive.writestr(f"{i:02d}.png", b"no image" if i == 7 else image_bytes(image))
    data = (tmp_path / "set.zip").read_bytes()
    damaged = data.index(b"40.png") + len(b"40.png")
    (tmp_path / "set.zip").write_bytes(data[:damaged] + bytes(40) + data[damaged + 40 :])
    source = open_source(str(tmp_path / "set.zip"))
    with Workers(source, Preparation(8), 2) as workers:
        broken = {example.index: example.broken for example in workers.prepare(range(80)) if example.broken}
    assert list(broken) == [7, 40]
    assert broken[7].startswith("07.png: not a readable image") and "40.png: cannot read from the zip" in broken[40]
