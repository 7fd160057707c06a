"""Every config opens, names a task that is there, and its networks have the published sizes."""

import subprocess
import sys
from pathlib import Path

import pytest

from rdm_jax.cli.main import main
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.training.config import load_config
from rdm_jax.training.tasks import TASKS, make_abstract_task

CONFIGS = Path(__file__).parents[2] / "configs"
VARIANTS = {
    "cifar10": ["clip", "autoencoder", "rdm", "ldm"],
    "first_stage": [
        "kl_f4",
        "kl_f8",
        "kl_f16",
        "kl_f32",
        "vq_f4",
        "vq_f4_noattn",
        "vq_f8",
        "vq_f8_n256",
        "vq_f16",
    ],
    "noised_classifier": ["", "imagenet"],
    "noised_clip": [""],
    "rdm_768": [""],
    "rdm_ffhq": ["", "ldm"],
    "rdm_imagenet": ["", "in_database", "ldm"],
    "smoke": [""],
}


def spec(name, variant):
    return f"{CONFIGS / name}.py" + (f":{variant}" if variant else "")


@pytest.mark.parametrize(("name", "variant"), [(name, variant) for name in VARIANTS for variant in VARIANTS[name]])
def test_every_config_opens_and_says_how_long_and_how_often(name, variant):
    config = load_config(spec(name, variant))
    assert config.task in TASKS and config.steps > 0 and config.checkpoint_every > 0 and config.seed == 0
    text = (CONFIGS / f"{name}.py").read_text()
    assert f"configs/{name}.py" in text.split('"""')[1]  # its command


def test_no_config_is_left_out():
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(VARIANTS)


@pytest.mark.parametrize("name", ["rdm_imagenet", "rdm_ffhq", "first_stage", "cifar10", "noised_classifier"])
def test_an_unknown_variant_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match=r"unknown .* 'ldn'.*known: "):
        load_config(spec(name, "ldn"))


@pytest.mark.parametrize(
    ("name", "variant", "millions"),
    # The latter are the counts of the released files; the discriminator of three layers has 2.8 M.
    [("rdm_imagenet", "", 400.9), ("first_stage", "kl_f8", 83.7 + 2.8), ("first_stage", "vq_f4", 55.3 + 2.8)],
)
def test_the_networks_have_the_published_sizes(name, variant, millions):
    import jax

    config = load_config(spec(name, variant))
    task, batch = make_abstract_task(config)
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    assert trees.count(params) / 1e6 == pytest.approx(millions, rel=0.01)
    assert {value.shape[0] for value in batch.values()} == {config.batch_size}


def test_a_dry_run_of_a_small_model_prints_its_table_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--config", spec("cifar10", "autoencoder"), "--workdir", "w", "--dry-run", "--mesh", "4x2"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "8 devices, data 4 x fsdp 2, a batch of 32" in said and "H200" in said and "analytic" in said
    assert list(tmp_path.iterdir()) == []
    assert main([*arguments[:-1], "3"]) == 2
    assert "mesh '3' is not of the form DATAxFSDP" in capsys.readouterr().err


def test_a_batch_that_does_not_divide_the_devices_and_a_task_without_a_dry_run_are_refused():
    from rdm_jax.training.loop import check_batch

    config = load_config(spec("smoke", ""), ["batch_size=6", "accumulate=2"])
    with pytest.raises(
        UserError, match=r"batch_size=6 is not divisible by the 2 devices in accumulate=2 parts; .* of 4"
    ):
        check_batch(config)
    with pytest.raises(UserError, match=r"task 'noised_clip' has no dry run; .*diffusion"):
        make_abstract_task(load_config(spec("noised_clip", "")))


def test_the_parts_of_process_options_belong_together(tmp_path):
    rdm = str(Path(sys.executable).parent / "rdm")
    command = [rdm, "train", "--config", spec("smoke", ""), "--workdir", str(tmp_path), "--processes", "2"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2 and "--coordinator, --processes and --process belong together" in found.stderr
