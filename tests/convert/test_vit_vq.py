"""ViT-VQGAN against the original's outputs, and the names of its configurations."""

from __future__ import annotations

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from rdm_jax.bundle import Bundle
from rdm_jax.convert import vit_vq
from rdm_jax.convert.conversion import convert
from rdm_jax.convert.mapping import Recipe, assemble
from rdm_jax.convert.torch_file import read_state_dict
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.models import abstract_params, build_autoencoder
from rdm_jax.models.vit_layers import positions
from rdm_jax.training.config import load_architecture


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "heads2/parti"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vitvq_small", "vitvq_residual_small"])
def test_codes_losses_and_gradients_are_the_originals(folder, nhwc, close, name):
    data, conversion = np.load(folder / f"{name}.npz"), convert(folder / f"{name}.ckpt")
    module, params = build_autoencoder(conversion.config["autoencoder"]), assemble(conversion.parts["autoencoder"])
    image = nhwc(data["image"])

    def run(params):
        def apply(x, **call):
            return module.apply({"params": params}, x, **call)

        latent = apply(2.0 * image - 1.0, method="encode")
        quantized, indices, loss = apply(latent, method="quantize")
        decoded, again = apply(quantized, method="decode", quantize=False), apply(indices, method="decode_codes")
        decoded, again = (decoded + 1.0) / 2.0, (again + 1.0) / 2.0  # of pixels in [0, 1]
        squared, absolute = jnp.mean((decoded - image) ** 2), jnp.mean(jnp.abs(decoded - image))
        return squared + loss, (latent, quantized, indices, loss, decoded, again, squared, absolute)

    (total, outputs), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(params)
    latent, quantized, indices, loss, decoded, again, squared, absolute = outputs
    close(latent.reshape(2, 16, 8), data["feat_pre_quant"], 1e-5)
    close(quantized.reshape(2, 16, 8), data["quantized"], 1e-5)
    np.testing.assert_array_equal(indices.reshape(data["codes"].shape), data["codes"])
    close(decoded, data["decoded"], 1e-5)
    close(again, data["decoded_from_codes"], 1e-5)
    numbers = {"codebook_loss": loss, "loss_l2": squared, "loss_l1": absolute, "loss_total": total}
    for key, value in numbers.items():
        assert float(value) == pytest.approx(float(data[key]), rel=1e-5), key
    stored = {key.removeprefix("grad/"): data[key] for key in data if key.startswith("grad/")}
    flat, compared = trees.flatten(gradient), 0
    for path, shape in abstract_params(module).items():
        source = vit_vq.source_of(path)
        if source.names[0] in stored:
            theirs = Recipe(stored, source, path, tuple(shape.shape), np.dtype(np.float32)).read()
            np.testing.assert_allclose(flat[path], theirs, rtol=0, atol=1e-5 * np.abs(theirs).max(), err_msg=path)
            compared += 1
    assert compared == len(stored) == 5


def test_a_converted_checkpoint_opens_as_a_bundle(folder, tmp_path):
    convert(folder / "vitvq_small.ckpt").write(tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.autoencoder.downsampling == 8 and bundle.autoencoder.num_codes == 64


@pytest.mark.parametrize("name", ["vit_vq_small", "vit_vq_large"])
def test_every_name_of_the_released_configurations_has_a_place(golden, name):
    module = build_autoencoder(load_architecture(name).autoencoder.to_dict())
    file = golden / f"heads2/released_keys/{name.replace('vit_', 'vit')}_keys.tsv"
    rows = [line.split("\t") for line in file.read_text().splitlines()]
    state = {
        row[0]: np.lib.stride_tricks.as_strided(
            np.zeros(1, np.float32), tuple(map(int, row[1].split("x"))), [0] * (row[1].count("x") + 1)
        )
        for row in rows
    }
    state |= {key: positions(32, 32, 32, state[key].shape[-1])[None] for key in vit_vq.POSITIONS}
    assert vit_vq.is_this(state)
    assert set(vit_vq.first_stage_plan(state, module)) == set(abstract_params(module))


@pytest.fixture()
def changed(folder, tmp_path):
    """A function that writes the golden checkpoint with other tensors and settings, and returns the file."""

    def write(tensors, **settings):
        state = {key: np.asarray(value) for key, value in read_state_dict(folder / "vitvq_small.ckpt").items()}
        save_file({**state, **tensors(state)}, tmp_path / "vitvq.safetensors")
        content = yaml.safe_load((folder / "vitvq_small.yaml").read_text())
        for section, values in settings.items():
            content["model"]["params"][section].update(values)
        (tmp_path / "vitvq.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "vitvq.safetensors"

    return write


def nothing(state):
    return {}


@pytest.mark.parametrize(
    ("tensors", "settings", "message"),
    [
        (
            lambda state: {"encoder.en_pos_embedding": state["encoder.en_pos_embedding"] + 0.1},
            {},
            "encoder.en_pos_embedding holds other positions than the sinusoidal ones of 4x4 patches",
        ),
        (
            lambda state: {"quantizer.embedding.weight": state["quantizer.embedding.weight"][:32]},
            {},
            r"the weights do not fit the first stage, .* 1 mis-shaped: quantizer.embedding.weight \(32, 8\)",
        ),
        (nothing, {"quantizer": {"n_embed": 16}}, r"mis-shaped: quantizer.embedding.weight \(64, 8\)"),
        (nothing, {"quantizer": {"use_norm": False}}, "use_norm is False, and only True is supported"),
        (nothing, {"encoder": {"dim": 64, "heads": 1, "dim_head": 64}, "decoder": {"dim_head": 64}}, "has one head"),
        (nothing, {"decoder": {"dim_head": 8}}, "dim_head is 8, and only 16 is supported"),
        (lambda state: {"extra": np.zeros(1, np.float32)}, {}, "1 unexpected: extra"),
    ],
    ids=["positions", "codebook", "codes", "norm", "one head", "heads", "unexpected"],
)
def test_what_does_not_fit_is_named(changed, tensors, settings, message):
    with pytest.raises(UserError, match=message):
        convert(changed(tensors, **settings))


def test_a_checkpoint_without_its_yaml_asks_for_it(folder, tmp_path):
    shutil.copy(folder / "vitvq_small.ckpt", tmp_path / "vitvq.ckpt")
    with pytest.raises(UserError, match="needs the yaml that came with it; give it by --config"):
        convert(tmp_path / "vitvq.ckpt")
