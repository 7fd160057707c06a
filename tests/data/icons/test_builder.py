from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_jax.core.errors import UserError
from rdm_jax.data.icons import builder as icons
from rdm_jax.data.icons.collection import ARCHIVE, read
from rdm_jax.data.sources import open_source
from rdm_jax.data.tfds_source import open_tfds, prepare_own
from tests.helpers.icon_archive import DISK, NOTHING, SQUARE, info, write_archive

INFOS = {
    "ph": info("Phosphor"),
    "noto": info("Noto", "Apache-2.0", palette=True),
    "share": info("Share", "CC-BY-SA-4.0"),
    "memory": info("Memory", "Apache-2.0"),
}
CONTENTS = {
    "ph": {"icons": {name: {"body": SQUARE} for name in ("home", "star", "pizza")}, "height": 24, "width": 24},
    "noto": {"icons": {"home": {"body": DISK}, "empty": {"body": NOTHING}}, "height": 24, "width": 24},
    "share": {"icons": {"home": {"body": SQUARE}}},
    "memory": {"icons": {"home": {"body": SQUARE}, "pizza": {"body": SQUARE}}, "height": 24, "width": 24},
}


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of TFDS sets with a small archive, of which styles of a single icon are used."""
    for config in icons.Icons.BUILDER_CONFIGS:
        monkeypatch.setattr(config, "smallest_style", 1)
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    write_archive(manual / ARCHIVE, INFOS, CONTENTS)
    return tmp_path


def test_the_set_is_prepared_and_read_by_split(data_dir: Path):
    steps: list[tuple[str, int, int]] = []
    prepare_own("icons/64", str(data_dir), lambda *step: steps.append(step))
    rows = {
        split: {source[index].path: source[index] for index in range(len(source))}
        for split in ("train", "unseen", "held_out", "train+unseen", "content")
        if (source := open_tfds("icons/64", split, str(data_dir)))
    }
    assert set(rows["train"]) == {"ph:home", "ph:star", "noto:home"}
    assert set(rows["unseen"]) == {"ph:pizza"}
    assert set(rows["held_out"]) == {"memory:home", "memory:pizza"}
    assert set(rows["train+unseen"]) == set(rows["train"]) | {"ph:pizza"}
    assert set(rows["content"]) == set(rows["train+unseen"])  # all of them, where there is room
    home = rows["train"]["noto:home"]
    assert home.caption == "home"
    assert home.attributes == {
        "set": "noto",
        "style": "noto",
        "group": "noto",
        "author": "Author of Noto",
        "licence": "Apache-2.0",
        "one_color": "False",
    }
    assert home.image.shape == (64, 64, 3)
    np.testing.assert_array_equal(home.image[32, 32], (255, 0, 0))
    np.testing.assert_array_equal(home.image[2, 2], (255, 255, 255))
    assert steps[-1] == ("rendering icons", 12, 12)
    document = next(data_dir.glob("icons/64/*/ATTRIBUTION.md")).read_text()
    assert "Noto" in document
    assert "Share" not in document


def test_a_missing_archive_is_an_error_of_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="npm pack"):
        prepare_own("icons/64", str(tmp_path))
    with pytest.raises(UserError, match=r"python -m rdm_jax\.data\.icons .*--config 128"):
        open_source("icons/128", None, str(tmp_path))


def test_processes_render_the_same_images_in_order(data_dir: Path):
    selected = read(data_dir / "downloads" / "manual" / ARCHIVE, 1)
    alone = list(icons.encoded_examples(selected, 128, processes=1))
    assert alone == list(icons.encoded_examples(selected, 128, processes=2))
    assert [example is None for example in alone] == [icon.name == "empty" for icon in selected]


def test_one_color_icons_are_drawn_in_the_ink(data_dir: Path):
    home = next(icon for icon in read(data_dir / "downloads" / "manual" / ARCHIVE, 1) if icon.id == "ph:home")
    example = icons.encoded_example(home, 128)
    assert example is not None
    pixels = np.asarray(Image.open(io.BytesIO(example[1]["image"])))
    expected = np.full((128, 128, 3), 255, np.uint8)
    expected[32:96, 32:96] = 0x11
    np.testing.assert_array_equal(pixels, expected)
