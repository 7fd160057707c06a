from pathlib import Path

import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.training.config import load_config

CONFIGS = Path(__file__).parent.parent.parent / "configs"

# configs/models holds the shapes of released networks, which are loaded and not run.
RUNS = sorted(file for file in CONFIGS.glob("*/*.py") if file.parent.name != "models")


@pytest.mark.parametrize("file", RUNS, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_config_loads_and_has_what_every_run_needs(file: Path) -> None:
    config = load_config(str(file))
    assert config.task and config.steps > 0 and config.checkpoint_every > 0
    assert isinstance(config.seed, int)


def test_overrides_take_the_type_of_the_key() -> None:
    config = load_config(
        str(CONFIGS / "style_scenes/clip.py"),
        ["steps=7", "optimizer.learning_rate=1", "data.source=mine", "optimizer.frozen=[a, b]"],
    )
    assert config.steps == 7
    assert config.optimizer.learning_rate == 1.0 and isinstance(config.optimizer.learning_rate, float)
    assert config.data.source == "mine"
    assert config.optimizer.frozen == ("a", "b")


def test_an_argument_chooses_the_variant() -> None:
    file = str(CONFIGS / "style_scenes/autoencoder.py")
    assert load_config(file).optimizer.frozen == ()
    assert load_config(file + ":decoder").optimizer.frozen
    with pytest.raises(UserError, match="did you mean 'decoder'"):
        load_config(file + ":decodr")
    with pytest.raises(UserError, match="takes no argument, and 'decoder' was given"):
        load_config(str(CONFIGS / "style_scenes/clip.py") + ":decoder")


def test_a_file_that_is_no_python_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text("def get_config(:\n")
    with pytest.raises(UserError, match=r"config.py is no Python file: .* in line 1"):
        load_config(str(tmp_path / "config.py"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", "did you mean 'steps'"),
        ("optimizer.learning_rat=3", "did you mean 'optimizer.learning_rate'"),
        ("steps.more=3", "unknown config key 'steps.more'"),
        ("steps=many", "--config.steps=many"),
        ("steps", "has no value"),
    ],
)
def test_bad_overrides_are_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(str(CONFIGS / "style_scenes/clip.py"), [override])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.py"):
        load_config(str(tmp_path / "nothing.py"))
