"""What `make extras` tests is what setup.py offers, and the archives are compared with what git tracks."""

from __future__ import annotations

import ast
import email.parser
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METADATA = """\
Name: rdm_jax
Classifier: License :: Nothing
Classifier: Programming Language :: Python :: 3.13
Classifier: Programming Language :: Python :: 3.9
Requires-Dist: jax<0.13,>=0.10
Requires-Dist: scann>=1.4; python_version < "3.13"
Requires-Dist: scann>=1.4; extra == "fast"
Requires-Dist: vtracer>=0.6; extra == "svg"
Provides-Extra: fast
Provides-Extra: svg
"""


@pytest.fixture(autouse=True)
def _scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports work as in a script of this folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def extras() -> set[str]:
    """Returns the extras of setup.py."""
    calls = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.Call)]
    (setup,) = (call for call in calls if ast.unparse(call.func) == "setup")
    (table,) = (keyword.value for keyword in setup.keywords if keyword.arg == "extras_require")
    return set(ast.literal_eval(ast.List([key for key in table.keys], ast.Load())))


def test_every_extra_is_tested_alone() -> None:
    from uses import PLAIN, USES

    assert set(USES) == extras() | {PLAIN}
    for extra, use in USES.items():
        assert use.code or use.modules, f"nothing of {extra} is imported"
        assert [place for place in use.tests if "/" in place and not (ROOT / place).exists()] == []
        compile(use.code, extra, "exec")


def test_requirements_are_those_of_one_extra_or_of_all_installations() -> None:
    from environments import Distribution
    from uses import PLAIN

    distribution = Distribution(Path("x.whl"), email.parser.Parser().parsestr(METADATA))
    assert distribution.pythons == ["3.9", "3.13"]
    assert distribution.extras == ["fast", "svg"]
    names = {
        (extra, python): [one.name for one in distribution.requirements(extra, python)]
        for extra in (PLAIN, "fast", "svg")
        for python in distribution.pythons
    }
    assert names[PLAIN, "3.9"] == ["jax", "scann"] and names[PLAIN, "3.13"] == ["jax"]
    assert names["fast", "3.9"] == names["fast", "3.13"] == ["scann"]
    assert names["svg", "3.13"] == ["vtracer"]


def test_the_files_of_both_archives_have_the_names_of_the_wheel(tmp_path: Path) -> None:
    from contents import in_sdist, in_wheel

    names = {"rdm_jax/a.py": "rdm_jax/a.py", "configs/b/c.py": "rdm_jax/configs/b/c.py"}
    (tmp_path / "file").write_text("")
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        for name in [*names.values(), "rdm_jax-1.dist-info/METADATA"]:
            wheel.write(tmp_path / "file", name)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as sdist:
        for name in [*names, "setup.py", "rdm_jax.egg-info/PKG-INFO"]:
            sdist.add(tmp_path / "file", f"rdm_jax-1/{name}")
    assert in_wheel(tmp_path / "x.whl") == in_sdist(tmp_path / "x.tar.gz") == set(names.values())
