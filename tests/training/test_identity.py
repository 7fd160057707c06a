"""Which settings and data a workdir belongs to."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from rdm_jax.core.errors import UserError
from rdm_jax.training.config import load_config
from rdm_jax.training.identity import check_record, claim_workdir, settings_hash
from rdm_jax.training.workdir import CONFIG, Workdir
from tests.helpers import tiny_run

RESULT = ("batch_size=2", "seed=7", "optimizer.warmup=3", "model.ch=8")
NO_RESULT = ("steps=9", "log_every=7", "threads=1", "mesh.fsdp=2", "data.data_dir=elsewhere", "keep_checkpoints=5")


def config_for(folder: Path, *overrides: str) -> ConfigDict:
    return load_config(tiny_run.CONFIG, [*tiny_run.overrides(folder, folder / "cache", {}), *overrides])


@pytest.mark.parametrize("override", RESULT)
def test_a_workdir_that_has_begun_refuses_other_settings_and_names_them(tmp_path: Path, override: str) -> None:
    workdir = Workdir(tmp_path / "run")
    claim_workdir(workdir, config_for(tmp_path), begun=False)
    before = workdir.read_json(CONFIG)
    with pytest.raises(UserError, match=rf"differs in {override.partition('=')[0]}\)"):
        claim_workdir(workdir, config_for(tmp_path, override), begun=True)
    assert workdir.read_json(CONFIG) == before
    claim_workdir(workdir, config_for(tmp_path, override), begun=False)
    assert workdir.read_json(CONFIG) != before


@pytest.mark.parametrize("override", NO_RESULT)
def test_a_workdir_that_has_begun_accepts_settings_that_no_result_depends_on(tmp_path: Path, override: str) -> None:
    workdir = Workdir(tmp_path / "run")
    claim_workdir(workdir, config_for(tmp_path), begun=False)
    before = workdir.read_json(CONFIG)
    claim_workdir(workdir, config_for(tmp_path, override), begun=True)
    assert workdir.read_json(CONFIG) != before


def test_the_hash_of_settings_changes_with_those_that_a_result_depends_on_and_no_others(tmp_path: Path) -> None:
    plain = settings_hash(config_for(tmp_path))
    assert {settings_hash(config_for(tmp_path, override)) for override in NO_RESULT} == {plain}
    assert len({plain, *(settings_hash(config_for(tmp_path, override)) for override in RESULT)}) == 1 + len(RESULT)


def test_a_run_continues_only_with_the_data_that_it_began_with(tmp_path: Path) -> None:
    begun = {"seed": 0, "source": "a" * 64, "database": "b" * 64}
    check_record(Workdir(tmp_path), begun, {"source": "a" * 64, "database": "b" * 64})
    with pytest.raises(UserError, match=r"was begun with another database than there is now; .* --replace-config"):
        check_record(Workdir(tmp_path), begun, {"source": "a" * 64, "database": "c" * 64})
