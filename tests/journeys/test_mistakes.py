"""Each journey with a plausible mistake in it: one line that names the mistake and says what to do, and no traceback.

Wrong options and values are in tests/cli, missing readers of data sets in tests/data, the hub's in tests/core.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from rdm_jax.cli.main import main
from tests.helpers import stand_ins

pytestmark = pytest.mark.usefixtures("own_environment")

MISTAKES = {
    # An artist with a folder of images
    "database build my_imags --out my_style": "no folder, .zip or TFDS set 'my_imags'; did you mean 'my_images'?",
    "database build elsewhere/x --out my_style": "no folder, .zip or TFDS set 'elsewhere/x'; check the path",
    "database build my_images --encoder clip-vit-b32 --out my_style": "give the folder of a bundle, or hf://USER/NAME",
    "sample 'a red boat' --database stainedglass": "did you mean 'stained-glass'",
    "sample 'a red boat' --database my_styl": "or give the folder of a database, or hf://USER/NAME",
    "sample 'a red boat' --model style-scene": "unknown model 'style-scene'; did you mean 'style-scenes'",
    "edit inpaint --image boat.png --mask msk.png --prompt a --database poster": "cannot read msk.png: No such file",
    "sample a --database poster --with \"region(mask='lft.png', database='neon')\"": "cannot read lft.png: ",
    "replay boat.png": "boat.png carries no parameters",
    # A designer with an icon set
    "sample --from-file wrods.txt --database my-icons": (
        "cannot read prompts from wrods.txt: No such file or directory; check the path"
    ),
    "sample rocket --database my-icns": "or give the folder of a database",
    # A training
    "train --config smok --workdir runs/smoke": "unknown config 'smok'; did you mean 'smoke'?",
    "train --config smoke --workdir runs/smoke --config.stesp=4": "unknown config key 'stesp'; did you mean 'steps'",
    "train --config emoji/autoencoder --workdir runs/a --config.data.source=my_imags": "did you mean 'my_images'",
    "train --config style_scenes/rdm --workdir runs/rdm": "unknown model 'runs/base'",
    "train --config distill --config.teacher=style-scene --workdir runs/few": "did you mean 'style-scenes'",
    "info runs/smok": "there is no folder runs/smok; give a --workdir of `rdm train`",
    "export runs/smok --out my-model": "there is no folder runs/smok; give a --workdir of `rdm train`",
    "convert model.ckpt --out my-model": "cannot read model.ckpt: No such file",
    # A comparison
    "ablate ablations/topm --workdir runs/ablation": "unknown config 'ablations/topm'; did you mean 'ablations/top_m'",
    "evaluate images my_images --reference my_imags --metrics kid --out results": "did you mean 'my_images'?",
    "evaluate prompts style-scenes --from-file Parti.tsv --out results": "Parti.tsv: No such file or directory; check",
    "report runs/smok --out comparison": "there is no folder runs/smok; give the folders of runs and evaluations",
}

WITHOUT = {
    "gradio": ("studio", 'pip install "rdm_jax[studio]"'),
    "vtracer": ("sample --from-file words.txt --database my-icons --svg", "pip install 'rdm_jax[svg]'"),
    "umap": ("database map general --method umap --out map.png", "pip install rdm_jax[map], or use the method 'pca'"),
    "apache_beam": ("database build my_images --out s --runner beam", "pip install rdm_jax[beam] in an environment"),
    "huggingface_hub": ("sample 'a red boat' --database hf://me/style", "pip install 'rdm_jax[hub]'"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few images, icons, words and an image."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RDM_CACHE", str(tmp_path / "cache"))
    stand_ins.images(Path("my_images"), count=4)
    stand_ins.icons(Path("my-icons"))
    stand_ins.image(Path("boat.png"))
    stand_ins.lines("boat")(Path("words.txt"))
    return tmp_path


def refused(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command and returns its one line of error."""
    status = main(shlex.split(command))
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if line.startswith("rdm: error: ")]
    assert status == 2 and "Traceback" not in printed.err and not printed.out
    return line


@pytest.mark.slow
@pytest.mark.parametrize(("command", "advice"), MISTAKES.items(), ids=list(MISTAKES))
def test_a_mistake_is_one_line(command: str, advice: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert advice in refused(command, capsys)


@pytest.mark.parametrize("package", WITHOUT)
def test_a_missing_extra_is_named(
    package: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    command, advice = WITHOUT[package]
    assert advice in refused(command, capsys)
