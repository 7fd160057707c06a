"""LPIPS and Inception-v3: recognition of their files, and invariants; tests/parity compares their outputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from rdm_jax.bundle import Bundle
from rdm_jax.convert import metrics
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.mapping import disassemble
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_inception, build_lpips

NUMBERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
SLICES = (1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5)
WIDTHS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
LINEAR = (64, 128, 256, 512, 512)


@pytest.fixture(scope="module")
def vgg():
    normal = np.random.default_rng(0).standard_normal
    state = {}
    for i, number in enumerate(NUMBERS):
        fan_in = 9 * WIDTHS[i]
        shape = WIDTHS[i + 1], WIDTHS[i], 3, 3
        state[f"features.{number}.weight"] = normal(shape, np.float32) / np.float32(fan_in) ** 0.5
        state[f"features.{number}.bias"] = 0.1 * normal(WIDTHS[i + 1], np.float32)
    return state | {"classifier.0.weight": np.zeros((2, 2), np.float32)}


@pytest.fixture(scope="module")
def linear():
    return {
        f"lin{i}.model.1.weight": np.random.default_rng(i).random((1, width, 1, 1), np.float32)
        for i, width in enumerate(LINEAR)
    }


@pytest.fixture(scope="module")
def files(vgg, linear, tmp_path_factory):
    """The weights as they are published: of the distances, and of the network; and both in one file."""
    folder = tmp_path_factory.mktemp("lpips")
    names = {f"features.{n}": f"net.slice{s}.{n}" for n, s in zip(NUMBERS, SLICES, strict=True)}
    complete = {f"{names[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v for k, v in vgg.items() if "features" in k}
    other = dict.fromkeys(("scaling_layer.shift", "lins.0.model.1.weight"), np.zeros(1, np.float32))
    save_file(linear, folder / "vgg.safetensors")
    save_file(vgg, folder / "vgg16.safetensors")
    save_file({**complete, **linear, **other}, folder / "complete.safetensors")
    return folder


@pytest.mark.slow
def test_lpips_is_the_same_from_one_file_and_from_two(files, tmp_path, vgg):
    convert(files / "complete.safetensors").write(tmp_path / "one")
    convert(files / "vgg.safetensors", vgg=files / "vgg16.safetensors").write(tmp_path / "two")
    one, two = (Bundle.open(tmp_path / name) for name in ("one", "two"))
    jax.tree.map(np.testing.assert_array_equal, one.params["lpips"], two.params["lpips"])
    assert trees.count(one.params["lpips"]) == 14_714_688 + sum(LINEAR)  # VGG-16's convolutions are 14,714,688
    kernel = one.params["lpips"]["conv_2_1"]["kernel"]
    np.testing.assert_array_equal(kernel, vgg["features.12.weight"].transpose(2, 3, 1, 0))

    x, y = jax.random.uniform(jax.random.key(0), (2, 2, 32, 48, 3), minval=-1.0)
    apply = jax.jit(lambda x, y: one.lpips.apply({"params": one.params["lpips"]}, x, y))
    distance = apply(x, y)
    assert distance.shape == (2,) and (distance > 0).all()
    np.testing.assert_allclose(apply(y, x), distance, rtol=1e-5)
    np.testing.assert_allclose(apply(x, x), 0.0, atol=1e-9)
    half = apply(x, 0.9 * x + 0.1 * y)
    assert (half < distance).all()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("vgg", {}, "give torchvision's VGG-16 by --vgg"),
        ("complete", {"vgg": "vgg16"}, "omit --vgg"),
        ("vgg16", {}, "is a VGG-16 alone; give LPIPS's weights"),
        ("vgg", {"vgg": "vgg"}, "26 missing: features.0.bias"),
    ],
)
def test_wrong_files_for_lpips_are_refused(files, source, options, message):
    given = {name: files / f"{value}.safetensors" for name, value in options.items()}
    with pytest.raises(UserError, match=message):
        convert(files / f"{source}.safetensors", **given)


@pytest.fixture(scope="module")
def inception_state():
    """Random weights of the network under the names of its release."""
    normal = np.random.default_rng(0).standard_normal
    flat = {}
    for path, leaf in abstract_params(build_inception({})).items():
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 100
        values = normal(leaf.shape, np.float32) * np.float32((2 / fan_in) ** 0.5)
        flat[path] = np.exp(values) if path.endswith(("var", "scale")) else values
    tensors = disassemble(flat, metrics.inception_source)
    return {name: tensor.read() for name, tensor in tensors.items()}


@pytest.mark.slow
def test_inception_has_its_outputs(inception_state, tmp_path):
    state = inception_state | {"Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros((), np.int64)}
    save_file(state, tmp_path / "pt_inception.safetensors")
    convert(tmp_path / "pt_inception.safetensors").write(tmp_path / "out")
    bundle = Bundle.open(tmp_path / "out")
    assert bundle.config["inception"] == {"classes": 1008}
    # Torchvision counts 23,834,568 with 1,000 classes, and not the means and variances of 17,216 channels.
    assert trees.count(bundle.params["inception"]) == 23_834_568 + 8 * 2049 + 2 * 17_216
    pixels = jax.random.uniform(jax.random.key(0), (2, 139, 107, 3), minval=-1.0)
    features = jax.jit(bundle.inception.apply)({"params": bundle.params["inception"]}, pixels)
    shapes = {"pool": (2, 2048), "spatial": (2, 7, 5, 768), "logits": (2, 1008)}
    assert jax.tree.map(jnp.shape, features) == shapes
    assert all(jnp.isfinite(value).all() for value in features.values())


def test_the_inception_of_another_task_is_refused(inception_state, tmp_path):
    save_file(
        inception_state | {"AuxLogits.fc.bias": np.zeros(1000, np.float32)}, tmp_path / "inception_v3.safetensors"
    )
    with pytest.raises(UserError, match=r"1 unexpected: AuxLogits\.fc\.bias"):
        convert(tmp_path / "inception_v3.safetensors")


def test_configurations_have_no_other_keys():
    with pytest.raises(UserError, match="unknown lpips setting"):
        build_lpips({"net": "alex"})
    with pytest.raises(UserError, match="unknown inception setting"):
        build_inception({"pool": 3})
