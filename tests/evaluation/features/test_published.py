import dataclasses
import json

import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.evaluation.features.published import VIT_B_32, published_name
from tests.helpers import tiny

SHA = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip") / "bundle"
    tiny.bundle().save(folder, "float32")
    return folder


def opened(folder, sources, parts=None):
    """Returns the bundle with a record of its conversion."""
    bundle = Bundle.open(folder, parts=("clip",))
    manifest = {
        "kind": "CLIP",
        "sources": sources,
        "parts": {"clip": bundle.hashes["clip"]} if parts is None else parts,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return bundle


def test_weights_of_the_published_file_have_its_name(folder):
    assert published_name(opened(folder, {"in/ViT-B-32.pt": SHA}), "clip") == VIT_B_32


def test_any_other_weights_have_none(folder):
    assert published_name(opened(folder, {"in/ViT-B-32.pt": "0" * 64}), "clip") is None
    changed = opened(folder, {"in/ViT-B-32.pt": SHA}, {"clip": "1" * 64})
    assert published_name(changed, "clip") is None
    assert published_name(dataclasses.replace(changed, path=None), "clip") is None


@pytest.mark.parametrize("content", ["", "[]", '{"sources": 3}', '{"sources": {}}'])
def test_a_damaged_record_names_nothing(folder, content):
    bundle = Bundle.open(folder, parts=("clip",))
    (folder / "manifest.json").write_text(content)
    assert published_name(bundle, "clip") is None
