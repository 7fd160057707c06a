import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from rdm_jax.core.errors import UserError
from rdm_jax.core.images import fit
from rdm_jax.data.array_source import ArraySource, open_array, write_array
from rdm_jax.evaluation.classifiers import AttributeClassifier
from rdm_jax.evaluation.features.extraction import extract
from rdm_jax.evaluation.features.image_sets import open_images
from rdm_jax.evaluation.features.networks import CLASSIFIER_SIDE, FeatureNetwork
from rdm_jax.evaluation.features.statistics_file import is_statistics, read_statistics, write_statistics
from rdm_jax.evaluation.metrics.frechet import moments_of
from rdm_jax.retrieval.encoder import ClipEncoder
from tests.helpers import classifier, tiny


def images(count=11, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network():
    return FeatureNetwork(classifier.bundle(), "classifier", batch=4)


@pytest.fixture
def folder(tmp_path):
    for number, image in enumerate(images()):
        Image.fromarray(image).save(tmp_path / f"{number:02d}.png")
    return tmp_path


def test_features_are_the_networks_of_each_image_in_order(network, folder):
    contents, (found,) = extract(open_images(folder), [network], True)
    resized = np.stack([fit(image, CLASSIFIER_SIDE, CLASSIFIER_SIDE) for image in images()])
    whole = AttributeClassifier(network.bundle)
    expected = whole.classify(resized).features
    np.testing.assert_allclose(found.features, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.logits, whole.logits(expected)["style"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.moments.covariance, np.cov(expected.T.astype(np.float64)), atol=1e-5)
    assert contents.paths == [f"{number:02d}.png" for number in range(11)]
    assert network.width == found.features.shape[1]


def test_clip_features_are_those_of_the_retrieval_encoder():
    bundle = tiny.bundle()
    _, (found,) = extract(ArraySource("array", images()), [FeatureNetwork(bundle, "clip", batch=4)], True)
    np.testing.assert_allclose(found.features, ClipEncoder(bundle).encode_images(images()), rtol=1e-5, atol=1e-5)
    assert found.logits is None


def test_memory_does_not_grow_unless_features_are_kept(network, folder):
    _, (found,) = extract(open_images(folder), [network], False)
    assert found.features is None and found.logits is None and found.moments.count == 11


def test_what_is_not_as_the_rest_is_counted_and_stated(network, folder):
    (folder / "broken.png").write_bytes((folder / "00.png").read_bytes()[:60])
    Image.fromarray(images(1, 20)[0]).save(folder / "larger.png")
    Image.fromarray(images(1)[0][..., 0]).save(folder / "gray.png")
    contents, (found,) = extract(open_images(folder), [network], True)
    assert len(contents) == len(found.features) == 13
    assert contents.record["left_out"] == 1 and contents.record["gray"] == 1
    assert contents.record["sizes"] == {"16x16": 12, "20x20": 1}
    remarks = "\n".join(contents.remarks)
    assert "1 image is left out" in remarks and "broken.png" in remarks
    assert "2 sizes (12 of 16x16, 1 of 20x20" in remarks and "1 of 13 images are gray" in remarks
    clean, _ = extract(ArraySource("array", images()), [network], False)
    assert clean.remarks == [] and clean.sha256 != contents.sha256


def test_a_folder_of_broken_images_alone_is_refused(network, tmp_path):
    (tmp_path / "a.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"no image of .* can be read"):
        extract(open_images(tmp_path), [network], True)


def test_features_that_are_not_finite_are_refused(network):
    params = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), network.bundle.params)
    broken = FeatureNetwork(dataclasses.replace(network.bundle, params=params), "classifier", batch=4)
    with pytest.raises(UserError, match="not finite"):
        extract(ArraySource("array", images()), [broken], True)


def test_an_array_is_read_as_it_was_written(tmp_path):
    write_array(tmp_path / "a.npz", iter(images()), images().shape)
    np.savez_compressed(tmp_path / "b.npz", images())
    with np.load(tmp_path / "a.npz") as stored:
        np.testing.assert_array_equal(stored["arr_0"], images())
    mapped, loaded = open_array(tmp_path / "a.npz"), open_array(tmp_path / "b.npz")
    assert isinstance(mapped.images, np.memmap) and not isinstance(loaded.images, np.memmap)
    for source in (mapped, loaded, open_images(tmp_path / "a.npz")):
        assert len(source) == 11
        np.testing.assert_array_equal(source[7].image, images()[7])
    assert mapped.fingerprint == loaded.fingerprint


def test_arrays_of_other_kinds_are_refused(tmp_path):
    np.savez(tmp_path / "float.npz", images().astype(np.float32))
    (tmp_path / "none.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"arr_0 of .* is float32"):
        open_array(tmp_path / "float.npz")
    with pytest.raises(UserError, match="cannot read images"):
        open_array(tmp_path / "none.npz")
    with pytest.raises(UserError, match="images of 20x20 and 16x16 pixels"):
        write_array(tmp_path / "c.npz", iter([images()[0], images(1, 20)[0]]), (2, 16, 16, 3))
    assert not (tmp_path / "c.npz").exists()


def test_the_sheets_of_a_run_are_no_samples(folder):
    entries = [{"file": f"{number:02d}.png", "prompt": f"prompt {number}"} for number in (3, 1)]
    (folder / "run.json").write_text(json.dumps({"images": entries}))
    source = open_images(folder)
    assert [source.labels(row) for row in range(len(source))] == [
        {"path": "03.png", "caption": "prompt 3"},
        {"path": "01.png", "caption": "prompt 1"},
    ]
    np.testing.assert_array_equal(source[1].image, images()[1])


@pytest.fixture
def statistics(network, tmp_path):
    contents, (found,) = extract(ArraySource("array", images()), [network], True)
    write_statistics(tmp_path / "stats.npz", contents, found, network)
    return tmp_path / "stats.npz"


def test_statistics_are_read_as_they_were_written(network, statistics):
    found = read_statistics(statistics, network)
    _, (expected,) = extract(ArraySource("array", images()), [network], True)
    np.testing.assert_allclose(found.moments.scatter, expected.moments.scatter, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(found.features, expected.features)
    assert found.moments.count == 11 and found.record["images"]["name"] == "array"
    assert is_statistics(statistics)


def test_statistics_of_another_network_or_preprocessing_are_refused(network, statistics, monkeypatch):
    with pytest.raises(UserError, match="of features of the classifier of 'random' with sha256"):
        read_statistics(statistics, FeatureNetwork(classifier.bundle(seed=1), "classifier"))
    monkeypatch.setattr("rdm_jax.evaluation.features.networks.CLASSIFIER_SIDE", 32)
    with pytest.raises(UserError, match="with preprocessing size 64"):
        read_statistics(statistics, FeatureNetwork(network.bundle, "classifier"))


def test_statistics_of_another_program_have_no_record_and_must_fit(network, tmp_path):
    rows = np.random.default_rng(0).normal(size=(40, network.width))
    moments = moments_of(rows)
    np.savez(tmp_path / "foreign.npz", mu=moments.mean, sigma=moments.covariance)
    found = read_statistics(tmp_path / "foreign.npz", network)
    assert found.record is None
    np.testing.assert_allclose(found.moments.covariance, moments.covariance)
    np.savez(tmp_path / "wide.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(UserError, match=f"are of 2048 features, and the classifier of 'random' has {network.width}"):
        read_statistics(tmp_path / "wide.npz", network)
    np.savez(tmp_path / "damaged.npz", mu=np.zeros((2, 2)), sigma=np.eye(3))
    with pytest.raises(UserError, match="cannot read statistics"):
        read_statistics(tmp_path / "damaged.npz", network)
