"""A sampler is added as docs/heads.md says: the file that the page gives, and one line."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from rdm_jax.diffusion import samplers
from rdm_jax.generator import Generator
from rdm_jax.retrieval.database import Database
from tests.helpers import tiny

DOCS = Path(__file__).parents[3] / "docs" / "heads.md"


@pytest.mark.slow
def test_the_documented_sampler_generates_as_ddim_does_on_its_timesteps(tmp_path, monkeypatch):
    text = DOCS.read_text()
    code = text[text.index("## How to add a sampler") :].split("```python\n")[1].split("```")[0]
    (tmp_path / "my_euler.py").write_text(code)
    monkeypatch.setitem(samplers.SAMPLERS, "my_euler", runpy.run_path(str(tmp_path / "my_euler.py"))["MyEuler"])
    generator = Generator.load(tiny.bundle())
    database = Database.open(tiny.database(tmp_path, "squares", generator.bundle))
    images = [
        generator.sample(["a red boat"], database=database, sampler=name, spacing="trailing", seed=1).images.astype(int)
        for name in ("my_euler", "ddim")
    ]
    assert np.abs(images[0] - images[1]).max() <= 1 and images[0].std() > 10
