"""Config files: where they are found, what they set, and how wrong ones are refused."""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rdm_jax.cli.main import main
from rdm_jax.core import trees, values
from rdm_jax.core.errors import UserError
from rdm_jax.core.schema import Fields
from rdm_jax.training.config import base_config, configs_folder, load_architecture, load_config, shipped_configs
from rdm_jax.training.latents import cache_folder, sets_folder
from rdm_jax.training.schema import Sampling
from rdm_jax.training.tasks import TASKS, make_abstract_task, task_module

VARIANTS = {
    "distill": ["icons/rdm", "smoke"],
    "cifar10": ["clip", "autoencoder", "ldm", "classifier"],
    "first_stage": [
        "kl_f4",
        "kl_f16",
        "kl_f32",
        "vq_f4",
        "vq_f4_noattn",
        "vq_f8",
        "vq_f8_n256",
        "vq_f16",
        "frido_f16f8",
    ],
    "noised_classifier": ["imagenet"],
    "rdm_ffhq": ["ldm"],
    "rdm_imagenet": ["in_database", "ldm"],
    "parti": ["750m", "3b", "20b"],
    "style_scenes/autoencoder": ["decoder"],
    "style_scenes/parti": ["decoder"],
    "style_scenes/frido_vq": ["finish"],
    "vit_vq": ["decoder"],
}
SPECS = [*shipped_configs(), *(f"{name}:{variant}" for name, variants in VARIANTS.items() for variant in variants)]
DIFFUSION = {
    "task": "diffusion",
    "base": "style-scenes",
    "steps": 10,
    "batch_size": 4,
    "model": {
        "kind": "unet",
        "model_channels": 16,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "attention_resolutions": (2,),
        "num_head_channels": 16,
    },
    "diffusion": {"num_timesteps": 1000, "schedule": "cosine", "prediction": "v"},
    "conditioning": {"neighbors": 4, "candidates": 8},
    "sampling": {"condition": "neighbors", "height": 64, "width": 64},
}


def written(folder: Path, **changes: Any) -> str:
    """Returns the path of a config file that sets `DIFFUSION`, keys of its sections changed."""
    values = {**DIFFUSION}
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    (folder / "mine.py").write_text(f"def get_config():\n    return {values!r}\n")
    return str(folder / "mine.py")


@pytest.mark.parametrize("spec", SPECS)
def test_every_shipped_config_is_valid(spec: str) -> None:
    config = load_config(spec)
    assert config.task in TASKS and config.is_locked
    text = (configs_folder() / f"{spec.partition(':')[0]}.py").read_text()
    assert f"rdm train --config {spec.partition(':')[0]}" in text.split('"""')[1]  # its command


def as_text(value: Any) -> str:
    """Returns a value as a user writes it on the command line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(quoted, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {quoted(entry)}" for name, entry in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def quoted(value: Any) -> str:
    """Returns an entry of a list or a section; texts stand in quotes."""
    return json.dumps(value) if isinstance(value, str) else as_text(value)


@pytest.mark.parametrize("spec", SPECS)
def test_every_value_of_every_shipped_config_can_be_written_on_the_command_line(spec: str) -> None:
    config = load_config(spec)
    texts = [f"{name.replace('/', '.')}={as_text(value)}" for name, value in trees.flatten(config.to_dict()).items()]
    assert load_config(spec, texts).to_dict() == config.to_dict()


EXAMPLES = {int: "7", float: "0.5", str: "/data/set #1: [a]", bool: "true"}


def settings(schema: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted name and the type of every setting of a schema, those of networks among them."""
    for name, hint in typing.get_type_hints(schema, include_extras=True).items():
        checks = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
        inner = typing.get_args(hint)[0] if checks else hint
        if dataclasses.is_dataclass(inner):
            yield from settings(typing.cast(type, inner), f"{prefix}{name}.")
        elif isinstance(next(iter(checks), None), Sampling):
            continue  # the test below
        elif checks and isinstance(checks[0], Fields):
            for cls in checks[0].classes.values():
                ours = {field.name for field in dataclasses.fields(cls)} - {"parent", "name"}
                hints = typing.get_type_hints(cls, include_extras=True)
                yield from ((f"{prefix}{name}.{key}", hints[key]) for key in ours)
        else:
            yield f"{prefix}{name}", inner


def example(hint: Any) -> tuple[str, Any]:
    """Returns a text of a type, and the type or the types that its value may have."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return example(arguments[0])
    if origin is tuple:
        inner = [one for one in arguments if one is not ...]
        texts = ['"a, b"' if one is str else example(one)[0] for one in inner]
        return f"[{', '.join(texts)}]", tuple
    if origin in (typing.Union, types.UnionType):
        return example(next(one for one in arguments if one is not type(None)))
    if (origin or hint) in (dict, Mapping):
        return "{a b: " + (example(arguments[1])[0] if arguments and arguments[1] is not str else "c") + "}", dict
    if origin is typing.Literal:
        return str(arguments[0]), type(arguments[0])
    return ("7", int) if hint is Any else (EXAMPLES[hint], hint)


@pytest.mark.parametrize("task", TASKS)
def test_a_text_has_the_type_of_every_setting_of_every_task(task: str) -> None:
    found = dict(settings(task_module(task).Schema))
    assert {"steps", "data.source", "optimizer.frozen", "mesh.rules"} < found.keys()
    for name, hint in found.items():
        text, kind = example(hint)
        value = values.parse(typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint, text)
        assert isinstance(value, kind), (name, hint, text, value)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("database=123", "123"),
        ("database=", ""),
        ("steps=50", 50),
        ("guidance_scale=2", 2.0),
        ("condition=neighbors", "neighbors"),
        ("sampler=heun", "heun"),
        ("steps=many", r"config key sampling.steps: 'many' is not a whole number"),
        ("steps=1e2", r"config key sampling.steps: '1e2' is not a whole number"),
        ("guidance_scale=yes", r"config key sampling.guidance_scale: 'yes' is not a number"),
    ],
)
def test_a_text_has_the_type_of_the_options_of_sampling(override: str, value: Any) -> None:
    name = override.partition("=")[0]
    if isinstance(value, str) and value.startswith("config key"):
        with pytest.raises(UserError, match=value):
            load_config("style_scenes/rdm", [f"sampling.{override}"])
        return
    found = load_config("style_scenes/rdm", [f"sampling.{override}"]).sampling[name]
    assert found == value and type(found) is type(value)


def test_the_configs_are_listed_by_name_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list-configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(shipped_configs())
    assert any(line.startswith("smoke ") and line.endswith("an RDM's steps.") for line in lines)
    assert not [line for line in lines if line.startswith(("_", "models"))]
    assert main(["train", "--workdir", "w"]) == 2
    assert "--config is missing; --list-configs prints the shipped configs" in capsys.readouterr().err
    assert main(["train", "--config", "smoke"]) == 2
    assert "--workdir is missing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rdm_imagenet", "rdm_ffhq", "first_stage", "cifar10", "noised_classifier"])
def test_an_unknown_variant_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match=r"unknown .* 'ldn'.*known: "):
        load_config(f"{name}:ldn")


def test_an_argument_chooses_the_variant() -> None:
    name = "style_scenes/autoencoder"
    assert load_config(name).optimizer.frozen == ()
    assert load_config(f"{name}:decoder").optimizer.frozen
    with pytest.raises(UserError, match="did you mean 'decoder'"):
        load_config(f"{name}:decodr")
    with pytest.raises(UserError, match="takes no argument, and 'decoder' was given"):
        load_config("style_scenes/clip:decoder")


def test_configs_and_architectures_are_found_by_name_or_path(tmp_path: Path) -> None:
    assert load_config(written(tmp_path)) == load_config(str(tmp_path / "mine.py"))
    assert load_config(str(configs_folder() / "smoke.py")) == load_config("smoke")
    with pytest.raises(UserError, match=r"unknown config 'smok'; did you mean 'smoke'.*or give a file"):
        load_config("smok")
    with pytest.raises(UserError, match=r"no config file .*nothing\.py; .*--list-configs"):
        load_config(str(tmp_path / "nothing.py"))
    assert load_architecture("vq_f4_noattn").autoencoder.mid_attention is False
    with pytest.raises(UserError, match=r"unknown architecture 'kl_f9'; did you mean 'kl_f8'"):
        load_architecture("kl_f9")


def test_overrides_take_the_type_of_the_key() -> None:
    overrides = "steps=7", "optimizer.learning_rate=1", "data.source=mine", "optimizer.frozen=[a, b]", "data.split="
    config = load_config("style_scenes/clip", [*overrides, "model.vision.activation=gelu"])
    assert config.steps == 7
    assert config.optimizer.learning_rate == 1.0 and isinstance(config.optimizer.learning_rate, float)
    assert (config.data.source, config.data.split) == ("mine", "")
    assert config.optimizer.frozen == ("a", "b")
    assert config.model.vision.activation == "gelu"  # a field that the file leaves at the network's default


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", r"mine.py fails: .* in line 1"),
        ("x = 1\n", r"mine.py has no function get_config\(\)"),
        ("def get_config():\n    return 3\n", r"returns a int; return a dictionary"),
        ("def get_config():\n    a = {}\n    return a['b']\n", r"mine.py fails: KeyError: 'b' in line 3"),
        ("def get_config():\n    return {'steps': 1}\n", r"the config lacks task"),
        (
            "def get_config():\n    return {'task': 'diffusoin'}\n",
            r"unknown task 'diffusoin'; did you mean 'diffusion'",
        ),
        ("def get_config():\n    return {'task': 'diffusion'}\n", r"the config lacks steps"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(str(tmp_path / "mine.py"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"chanel_mult": (1,)}},
            r"unknown config key 'model.chanel_mult'; did you mean 'model.channel_mult'",
        ),
        ({"model": {"in_channels": 3}}, r"unknown config key 'model.in_channels'"),
        ({"model": {"kind": "unett"}}, r"unknown model.kind 'unett'; did you mean 'unet'"),
        ({"model": {"dtype": "bfloat17"}}, r"unknown model.dtype 'bfloat17'; did you mean 'bfloat16'"),
        ({"optimizer": {"warm_up": 3}}, r"unknown config key 'optimizer.warm_up'; did you mean 'optimizer.warmup'"),
        ({"optimizer": {"decay": "cosin"}}, r"unknown optimizer.decay 'cosin'"),
        ({"data": {"held_out": "test"}}, r"unknown config key 'data.held_out'; did you mean 'data.held_out_rows'"),
        ({"data": {"mirror": True}}, r"data.mirror=true needs data.cache_latents=false"),
        ({"data": {"compute": {"k": 8}}}, r"data.compute.k=8 .* give both"),
        ({"conditioning": {"candidates": 3}}, r"neighbors=4 are sampled from conditioning.candidates=3"),
        ({"conditioning": {"null": "zero"}}, r"unknown conditioning.null 'zero'; did you mean 'zeros'"),
        ({"conditioning": {"null_probability": 1.5}}, r"null_probability=1.5 is out of range"),
        ({"conditioning": {"text_probability": 0.6, "text_and_neighbors_probability": 0.6}}, r"add up to more than 1"),
        ({"conditioning": {"null": "learned"}}, r"null=learned never trains its token"),
        ({"sampling": {"sampler": "ddin"}}, r"unknown sampler 'ddin'; did you mean 'ddim'"),
        ({"sampling": {"sampler": "euler", "eta": 0.5}}, r"eta 0.5"),
        ({"sampling": {"steps": 0}}, r"steps 0 is too small"),
        ({"model": {"num_head_channels": 0}}, r"config key model.num_head_channels=0 is out of range; give 1 or more"),
        ({"model": {"channel_mult": (1, 0)}}, r"config key model.channel_mult=\(1, 0\) is out of range"),
        ({"model": {"num_res_blocks": -1}}, r"config key model.num_res_blocks=-1 is out of range"),
        ({"sampling": {"height": -8}}, r"height -8 is too small"),
        ({"sampling": {"stepz": 5}}, r"unknown config key 'sampling.stepz'; did you mean 'sampling.steps'"),
        ({"diffusion": {"schedule": "cosin"}}, r"unknown diffusion.schedule 'cosin'"),
        ({"diffusion": {"beta_start": 0.1}}, r"diffusion.beta_start is no setting of schedule 'cosine'"),
        ({"diffusion": {"schedule": "scaled_linear"}}, r"the scaled_linear schedule lacks beta_start, beta_end"),
        ({"time_weight": "min_snd"}, r"unknown time_weight 'min_snd'; did you mean 'min_snr'"),
        ({"latents": {"scal": 1.0}}, r"unknown config key 'latents.scal'; did you mean 'latents.scale'"),
        ({"batch_size": 6, "accumulate": 4}, r"batch_size=6 is not divisible by accumulate=4"),
        ({"steps": 0}, r"steps=0 is out of range; give 1 or more"),
        ({"steps": "10"}, r"config key steps is '10', and must be a whole number"),
    ],
)
def test_a_wrong_diffusion_config_is_refused_when_it_is_loaded(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_config(written(tmp_path, **changes))


@pytest.mark.parametrize(
    ("spec", "override", "message"),
    [
        ("style_scenes/clip", "stepz=3", "did you mean 'steps'"),
        ("style_scenes/clip", "optimizer.learning_rat=3", "did you mean 'optimizer.learning_rate'"),
        ("style_scenes/clip", "steps.more=3", "unknown config key 'steps.more'"),
        ("style_scenes/clip", "steps=many", "config key steps is 'many', and must be a whole number"),
        ("style_scenes/clip", "steps", "has no value"),
        ("style_scenes/clip", "views=65", "views=65 of 64 patches; use 1 to 64"),
        (
            "style_scenes/clip",
            "model.vision={kind: resnet, width: 8, layers: [1, 1, 1, 1], heads: 2, image_size: 64}",
            "views=2 is for a ViT; a resnet takes views=1",
        ),
        ("style_scenes/clip", "views=1", r"image_weight=0.3 compares views; set views to 2 or more"),
        ("style_scenes/clip", "initial_scale=0", "initial_scale=0.0 is out of range"),
        ("style_scenes/autoencoder", "crop=128", "crop=128 is larger than the images, data.size=64"),
        ("style_scenes/autoencoder:decoder", "base=", "loss.feature_weight compares features of a CLIP"),
        ("first_stage:vq_f4", "loss.perceptual.kind=lpip", "unknown loss.perceptual.kind 'lpip'"),
        ("noised_classifier", "model.features=3", "unknown config key 'model.features'"),
        ("style_scenes/sit", "diffusion.num_timesteps=500", "model.path=linear is a path of 1000 times"),
        ("style_scenes/expert", "expert_index=4", "expert_index=4 is out of range; level 2 has the experts 0 to 3"),
        (
            "style_scenes/expert",
            "expert_level=12",
            "expert_level=12 has more experts than diffusion.num",
        ),
        ("style_scenes/classifier", "augment.blurr=1", "did you mean 'augment.blur'"),
    ],
)
def test_a_wrong_override_is_refused(spec: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(spec, [override])


@pytest.mark.parametrize(
    ("spec", "millions"),
    # The latter are the counts of the released files; the discriminator of three layers has 2.8 M.
    [("rdm_imagenet", 400.9), ("first_stage:kl_f8", 83.7 + 2.8), ("first_stage:vq_f4", 55.3 + 2.8), ("frido", 512.7)],
)
@pytest.mark.slow
def test_the_networks_have_the_published_sizes(spec: str, millions: float) -> None:
    import jax

    config = load_config(spec)
    task, batch = make_abstract_task(config)
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    assert trees.count(params) / 1e6 == pytest.approx(millions, rel=0.01)
    assert {value.shape[0] for value in batch.values()} == {config.batch_size}


@pytest.mark.slow
def test_a_dry_run_of_a_small_model_prints_its_table_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--config", "cifar10:autoencoder", "--workdir", "w", "--dry-run", "--mesh", "4x2"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "8 devices, data 4 x fsdp 2, a batch of 32" in table and "H200" in table and "analytic" in table
    assert list(tmp_path.iterdir()) == []
    assert main([*arguments[:-1], "3"]) == 2
    assert "mesh '3' is not of the form DATAxFSDP" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["style_scenes/dit", "base=style-scenes"],
        ["style_scenes/uvit", "base=style-scenes"],
        ["style_scenes/ascend", "base=style-scenes"],
        ["style_scenes/sit", "base=style-scenes"],
        ["style_scenes/expert:image", "base=style-scenes"],
        ["style_scenes/rdm", "base=style-scenes-rarm"],  # a base of another head
        ["style_scenes/rarm", "base=style-scenes-rarm"],
        ["rdm_imagenet", "model={kind: dit, patch_size: 2, width: 64, depth: 2, heads: 2}"],
        ["rdm_imagenet:ldm", "model={kind: uvit, patch_size: 2, width: 64, depth: 2, heads: 2}"],
        ["rdm_ffhq"],
        ["rdm_768"],
        ["rarm:dogs", "batch_size=64"],
        ["style_scenes/masked", "base=style-scenes-rarm"],
        ["frido", "model.channel_mult=[1]", "model.attention_resolutions=[1]", "model.num_res_blocks=1"],
        ["style_scenes/frido_vq"],
        ["muse", "model.depth=2"],
        ["muse_fine", "model.depth=2", "model.coarse_depth=1"],
        ["style_scenes/encoders", "base=style-scenes"],
        ["parti", "model.depth=1", "text.layers=1"],
        ["style_scenes/parti", "base=style-scenes-rarm"],
        ["smoke"],
        ["first_stage:vq_f8"],
        ["vit_vq:decoder", "model.decoder_depth=1"],
        ["style_scenes/vit_vq"],
        ["style_scenes/vq"],
        ["emoji/autoencoder"],
    ],
    ids=lambda arguments: " ".join(arguments)[:30],
)
@pytest.mark.slow
def test_a_dry_run_of_every_kind_of_model_prints_its_table(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config, *overrides = arguments
    given = [f"--config.{override}" for override in overrides]
    assert (
        main(["train", "--config", config, "--workdir", "w", "--dry-run", "--analytic", "--mesh", "2x2", *given]) == 0
    )
    assert "4 devices, data 2 x fsdp 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["base=rdm_jax/assets/classifiers/style-scenes"], r"base 'rdm_jax/.*' has no autoencoder and no clip, which"),
        (["architecture=dit_xl2"], r"architecture 'dit_xl2' has no autoencoder and no clip, .* --config.architecture="),
        (["architecture=kl_f8"], r"architecture 'kl_f8' has no clip, which the dry run takes from it"),
        (["architecture=dit"], r"unknown architecture 'dit'"),
        (["base=nowhere"], r"unknown model 'nowhere'"),
    ],
)
def test_a_dry_run_says_what_its_base_lacks(
    overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(configs_folder().parent)
    with pytest.raises(UserError, match=message):
        make_abstract_task(load_config("style_scenes/dit", overrides))


def test_a_config_file_may_lie_in_the_home_folder_and_have_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b" / "mine.py").write_text("def get_config(arg='none'):\n    return {'name': arg}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert base_config("~/a:b/mine.py").name == "none" and base_config("~/a:b/mine.py:other").name == "other"
    with pytest.raises(UserError, match=r"there is no config file ~/none\.py"):
        base_config("~/none.py")
    with pytest.raises(UserError, match="lies in object storage"):
        base_config("gs://bucket/mine.py")


def test_an_error_without_a_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def get_config():\n    raise ValueError('\\n')\n")
    with pytest.raises(UserError, match=r"mine.py fails: ValueError.* in line 2"):
        base_config(str(tmp_path / "mine.py"))


def test_the_folder_of_sets_is_the_users_and_caches_are_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, sets, caches in (
        ("~/sets", str(tmp_path / "sets"), tmp_path / "sets/cache"),
        ("gs://bucket/sets", "gs://bucket/sets", Path("data/cache")),
        ("", None, Path("data/cache")),
    ):
        data = load_config("smoke", [f"data.data_dir={given}"]).data
        assert sets_folder(data) == sets and cache_folder(data) == caches


def test_a_batch_that_does_not_divide_the_devices_and_a_task_without_a_dry_run_are_refused() -> None:
    from rdm_jax.training.loop import check_batch

    config = load_config("smoke", ["batch_size=6", "accumulate=2"])
    with pytest.raises(
        UserError, match=r"batch_size=6 is not divisible by the 2 devices in accumulate=2 parts; .* of 4"
    ):
        check_batch(config)
    with pytest.raises(UserError, match=r"task 'noised_clip' has no dry run; .*diffusion"):
        make_abstract_task(load_config("noised_clip"))


def test_the_parts_of_process_options_belong_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "smoke", "--workdir", str(tmp_path), "--processes", "2"]) == 2
    assert "--coordinator, --processes and --process belong together" in capsys.readouterr().err
