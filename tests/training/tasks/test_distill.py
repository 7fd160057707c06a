"""Distillation end to end on tiny networks: stages, resuming, both kinds of teachers, export and sampling."""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.cli.main import main
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.training import loop
from rdm_jax.training.config import load_config
from rdm_jax.training.export import export_run
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks import distill, distill_roles
from tests.helpers import tiny
from tests.training.tasks.test_roles import GROUP, NEIGHBORS, images

STEPS = 5  # updates of the run: 3 with a student of 2 steps, 2 with one of 1
COSINE = {"num_timesteps": 1000, "schedule": "cosine", "prediction": "v"}
SMALL = (
    "stages=2,1",
    "updates=3,2",
    "batch_size=2",
    "guidance_scale=2.0",
    "reference_steps=4",
    "log_every=1",
    "eval_every=0",
    "figures_every=0",
    "checkpoint_every=5",
    "compiler_options.xla_backend_optimization_level=0",
    "optimizer.warmup=1",
)


@pytest.fixture(scope="module")
def settings(make_diffusion_task, tmp_path_factory):
    """Overrides of a run on the images of the diffusion task, with a teacher of random weights."""
    teacher = tmp_path_factory.mktemp("teacher") / "model"
    tiny.bundle(diffusion=COSINE).save(teacher, "float32")
    data = make_diffusion_task().config.data
    places = [f"data.{name}={data[name]}" for name in ("source", "data_dir", "neighbors")]
    more = (
        "data.split=",
        "data.size=16",
        "data.held_out_rows=4",
        "conditioning.neighbors=3",
        "conditioning.candidates=4",
    )
    return [*SMALL, *places, *more, "conditioning.unit_tokens=true", f"teacher={teacher}"]


def config_of(settings, *overrides):
    return load_config("distill:emoji/rdm", [*settings, *overrides])


def task_of(settings, *overrides, module=distill):
    return module.make(config_of(settings, *overrides), Path(), lambda *_: None)


def run(config, workdir):
    """Returns the last state of a run, and what it logged."""
    logged = []

    def report(step, steps, values):
        logged.append((step, values))

    return loop.train(config, workdir, init_from=None, report=report, progress=lambda *_: None), logged


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory):
    """The workdir of an uninterrupted run, its last state and what it logged."""
    workdir = tmp_path_factory.mktemp("run") / "few"
    state, logged = run(config_of(settings, "checkpoint_every=1", "keep_every=3"), workdir)
    return workdir, state, logged


def same(one, other):
    equal = jax.tree.map(np.array_equal, jax.device_get(one), jax.device_get(other))
    return all(jax.tree.leaves(equal))


def test_a_stage_starts_from_the_averaged_student(settings):
    task = task_of(settings)
    create, _ = loop.make_run(task.config, task)
    state = task.begin_stage(jax.jit(create)(), 0)
    teacher = task.teacher.params["denoiser"]
    for tree in (state.params["denoiser"], state.ema["denoiser"], state.stats["teacher"]):
        assert same(tree, teacher)
    assert float(state.params["steps"]["count"]) == 2.0
    moved = dataclasses.replace(state, ema={**state.ema, "denoiser": tiny.randomize(teacher, 1)})
    after = task.begin_stage(moved, 1)
    for tree in (after.params["denoiser"], after.ema["denoiser"], after.stats["teacher"]):
        assert same(tree, moved.ema["denoiser"])
    assert float(after.ema["steps"]["count"]) == 1.0


@pytest.mark.slow
def test_the_run_has_its_stages_and_its_rates_start_anew(trained):
    _, state, logged = trained
    by_step = {}
    for step, values in logged:
        by_step.setdefault(step, {}).update(values)
    assert [by_step[step]["student_steps"] for step in range(1, 6)] == [2, 2, 2, 1, 1]
    assert [by_step[step]["learning_rate"] > 0 for step in range(1, 6)] == [False, True, True, False, True]
    assert by_step[4]["ema_decay"] == by_step[1]["ema_decay"] < by_step[2]["ema_decay"]
    assert int(state.step) == STEPS


class Preempted(Exception):
    pass


@pytest.mark.slow
def test_a_run_resumed_within_a_stage_and_between_stages_ends_as_an_uninterrupted_one(
    settings, trained, tmp_path, monkeypatch
):
    save = loop.Checkpoints.save

    def save_and_stop(self, state, *rest):
        save(self, state, *rest)
        if int(state.step) < STEPS:
            raise Preempted

    monkeypatch.setattr(loop.Checkpoints, "save", save_and_stop)
    for stop in (2, 3):
        with pytest.raises(Preempted):
            run(config_of(settings, f"checkpoint_every={stop}"), tmp_path / "few")
    state, _ = run(config_of(settings), tmp_path / "few")
    assert same(state, trained[1])


@pytest.mark.slow
def test_the_exported_student_declares_its_sampling_and_is_sampled_from_the_shell(trained, tmp_path, capsys, caplog):
    workdir, _, _ = trained
    assert main(["export", str(workdir), "--out", str(tmp_path / "few")]) == 0
    bundle = Bundle.open(tmp_path / "few")
    sampling, record = bundle.config["sampling"], bundle.config["distillation"]
    assert (sampling["sampler"], sampling["spacing"], sampling["steps"]) == ("ddim", "trailing", 1)
    assert sampling["guidance_scale"] == 1.0 and record["guidance_scale"] == 2.0 and record["steps"] == 1
    assert bundle.config["training"]["denoiser"]["steps"] == STEPS
    command = ["sample", "a red boat", "--model", str(tmp_path / "few"), "--condition", "text", "--seed", "3"]
    with caplog.at_level(logging.WARNING):
        assert main([*command, "--out", str(tmp_path / "one")]) == 0
    assert not [one for one in caplog.records if "distilled" in one.message]
    assert export_run(workdir, step=3).config["sampling"]["steps"] == 2
    assert main(["export", str(workdir), "--out", str(tmp_path / "none"), "--step", "1"]) == 2
    assert "unknown step of a checkpoint '1'" in capsys.readouterr().err
    image = next(path for path in (tmp_path / "one").rglob("*.png") if "sheet" not in path.name)
    assert main(["replay", str(image), "--model", str(tmp_path / "few"), "--out", str(tmp_path / "again.png")]) == 0
    assert main([*command, "--out", str(tmp_path / "two"), "--init", str(image), "--strength", "1"]) == 0


def test_the_middle_of_a_run_exports_its_own_number_of_steps(settings):
    task = task_of(settings)
    params = {"denoiser": task.first_network, "steps": {"count": np.float32(2)}}
    bundle = task.export(params)
    assert bundle.config["sampling"]["steps"] == bundle.config["distillation"]["steps"] == 2


def test_other_uses_are_one_line_each(settings, caplog):
    task = task_of(settings)
    bundle = task.export({"denoiser": task.first_network, "steps": {"count": np.float32(2)}})
    generator = Generator.load(bundle)

    def warnings(**options):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            generator.plan_vectors(np.ones((1, tiny.WIDTH)), None, condition="text", height=16, width=16, **options)
        return [record.getMessage() for record in caplog.records]

    assert warnings() == []
    for options, message in (
        ({"steps": 5}, "was distilled for 2 steps; with 5 its images are worse"),
        ({"guidance_scale": 3.0}, "reproduces guidance scale 2 without guidance; scale 3 guides a second time"),
        ({"sampler": "heun"}, "was distilled for sampler 'ddim' with spacing 'trailing'"),
        ({"spacing": "compvis"}, "was distilled for sampler 'ddim' with spacing 'trailing'"),
        ({"eta": 1.0}, "was distilled for sampler 'ddim' with spacing 'trailing'"),
    ):
        (line,) = warnings(**options)
        assert message in line
    damaged = dataclasses.replace(bundle, config={**bundle.config, "distillation": {"teacher": "x"}})
    with pytest.raises(UserError, match="distillation has the keys"):
        Generator.load(damaged).plan_vectors(np.ones((1, tiny.WIDTH)), None, condition="text", height=16, width=16)


@pytest.mark.slow
def test_a_teacher_that_predicts_eps_has_a_finite_loss_and_a_gradient(settings, tmp_path):
    noise = {"num_timesteps": 1000, "schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
    tiny.bundle(diffusion={**noise, "prediction": "eps"}).save(tmp_path / "teacher", "float32")
    task = task_of(settings, f"teacher={tmp_path / 'teacher'}")
    loss, gradient = loss_of(task)
    assert np.isfinite(loss) and 0 < gradient < np.inf


def batch_of(task):
    """Returns the first records of a task, on the device."""
    records = [task.read(row, np.random.default_rng(row)) for row in range(task.config.batch_size)]
    batch = task.complete({name: np.stack([record[name] for record in records]) for name in records[0]})
    return jax.tree.map(jnp.asarray, batch)


def loss_of(task):
    """Returns the loss at the start of a run, and the norm of its gradient."""
    state = task.begin_stage(jax.jit(loop.make_run(task.config, task)[0])(), 0)
    batch = batch_of(task)
    frozen, zero = jax.tree.map(jnp.asarray, task.frozen), jnp.zeros((), jnp.int32)

    @jax.jit
    def both(params, key):
        function = functools.partial(task.loss, extras=Extras(state.stats, frozen), batch=batch, key=key, step=zero)
        (loss, _), gradient = jax.value_and_grad(function, has_aux=True)(params)
        return loss, jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))

    return map(float, both(state.params, jax.random.key(0)))


@pytest.mark.slow
def test_consistency_distillation_trains_one_network_for_any_number_of_steps(settings, tmp_path, caplog):
    config = config_of(settings, "method.kind=lcm", "stages=2", "updates=2", "guidance_range=1,3", "eval_every=2")
    state, logged = run(config, tmp_path / "run")
    assert "guidance" in state.params["denoiser"]["time"] and "target" in state.stats
    assert logged[-1][1]["eval/distance"] > 0
    bundle = export_run(tmp_path / "run")
    sampling = bundle.config["sampling"]
    assert (sampling["sampler"], sampling["steps"], sampling["guidance_scale"]) == ("lcm", 2, 2.0)
    generator = Generator.load(bundle)
    with caplog.at_level(logging.WARNING):
        result = [
            generator.sample(["a red boat"], condition="text", height=16, width=16, steps=2, guidance_scale=scale)
            for scale in (1.0, 3.0, 3.0)
        ]
        ours = [record for record in caplog.records if record.name.startswith("rdm_jax")]
        assert not ours and generator.compilations == 1  # the scale is an input of the network
        generator.plan("a red boat", condition="text", height=16, width=16, guidance_scale=5.0)
    assert "takes guidance scales from 1 to 3; 5 was not trained" in caplog.text
    assert np.array_equal(result[1].images, result[2].images)


@pytest.mark.slow
def test_a_scale_that_is_an_input_changes_the_prediction(settings):
    task = task_of(settings, "guidance_range=1,4")
    network = tiny.randomize(task.first_network, 2)
    bundle = task.export({"denoiser": network, "steps": {"count": np.float32(2)}})
    generator = Generator.load(bundle)
    images = [
        generator.sample(["a boat"], condition="text", height=16, width=16, guidance_scale=g).images for g in (1.0, 4.0)
    ]
    assert generator.compilations == 1 and (images[0] != images[1]).any()


@pytest.mark.slow
def test_a_model_with_two_roles_is_distilled_with_both_scales(tmp_path, monkeypatch):
    teacher = tiny.bundle_with_roles()
    teacher = dataclasses.replace(teacher, config={**teacher.config, "diffusion": COSINE})
    teacher.save(tmp_path / "teacher", "float32")
    monkeypatch.setattr("rdm_jax.training.tasks.conditioned.training_images", lambda *_: images())
    small = [
        *SMALL,
        f"teacher={tmp_path / 'teacher'}",
        "data.size=16",
        "data.held_out_rows=8",
        "data.most_of_style=0",
        "data.restyled=0",
        f"conditioning.group={GROUP}",
        f"conditioning.neighbors={NEIGHBORS}",
        "style_scale=1.5",
    ]
    config = load_config("distill:icons/rdm", small)
    task = distill_roles.make(config, tmp_path, lambda *_: None)
    loss, gradient = loss_of(task)
    assert np.isfinite(loss) and 0 < gradient < np.inf
    params = {"denoiser": task.first_network, "steps": {"count": np.float32(2)}}
    bundle = task.export(params)
    assert same(bundle.params["style_encoder"], teacher.params["style_encoder"])
    assert bundle.config["distillation"]["style_scale"] == 1.5 and "style_scale" not in bundle.config["sampling"]
    with pytest.raises(UserError, match="has one role of neighbors; use task 'distill'"):
        tiny.bundle(diffusion=COSINE).save(tmp_path / "other", "float32")
        distill_roles.make(
            load_config("distill:icons/rdm", [*small, f"teacher={tmp_path / 'other'}"]), tmp_path, lambda *_: None
        )


@pytest.mark.slow
def test_a_student_that_is_its_guided_teacher_is_as_far_from_the_reference(settings):
    task = task_of(settings, "guidance_scale=1")
    params = {"denoiser": task.first_network, "steps": {"count": np.float32(2)}}
    values = dict(task.evaluate(params))
    assert values["distance"] == pytest.approx(values["teacher_distance"], rel=1e-5) and values["distance"] > 0
    assert dict(task.evaluate(params)) == values
    ((name, sheet),) = task.figures(params)
    assert name == "samples" and sheet.dtype == np.uint8


def test_null_rows_have_the_teachers_prediction_without_guidance(settings):
    task = task_of(settings, "conditioning.null_probability=1.0")
    examples = task.examples(jax.tree.map(jnp.asarray, task.frozen), batch_of(task), jax.random.key(0))
    for name in ("tokens", "weights"):
        own, null = getattr(examples.condition, name), getattr(examples.null, name)
        np.testing.assert_array_equal(own, jnp.broadcast_to(null, own.shape))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages=8,3"], r"stages=\(8, 3\) do not halve: after 8 steps come 4, not 3"),
        (["updates=3"], r"updates=\(3,\) and stages=\(2, 1\) differ in length"),
        (["steps=7"], "steps=7 follows from updates, 5 in all"),
        (["guidance_range=3,4"], "is no range around guidance_scale=2"),
        (["conditioning.null_probability=0"], "has no null condition"),
        (["conditioning.unit_tokens=false"], r"was trained with True; set --config\.conditioning\.unit_tokens=True"),
        (["data.neighbors="], "there is no condition to guide by"),
        (["method.kind=lcm"], "give one stage"),
        (["method.kind=lmc"], r"unknown method\.kind 'lmc'"),
        (["stages=600,300"], "1200 sampling steps do not fit a schedule of 1000"),
    ],
)
def test_bad_settings_are_one_line(settings, overrides, message):
    with pytest.raises(UserError, match=message):
        task_of(settings, *overrides)._grid  # noqa: B018


def test_teachers_that_cannot_be_distilled_are_refused(settings, tmp_path):
    task = task_of(settings)
    task.export({"denoiser": task.first_network, "steps": {"count": np.float32(2)}}).save(tmp_path / "few", "float32")
    with pytest.raises(UserError, match="was distilled already and has guidance built in; distill its own teacher"):
        task_of(settings, f"teacher={tmp_path / 'few'}")
    assert task_of(settings, f"teacher={tmp_path / 'few'}", "guidance_scale=1").guided is False
    tiny.bundle(diffusion={**COSINE, "prediction": "eps"}).save(tmp_path / "eps", "float32")
    with pytest.raises(UserError, match="predicts eps, and at its noisiest time the image has the factor"):
        task_of(settings, f"teacher={tmp_path / 'eps'}")
    with pytest.raises(UserError, match="a student starts from its teacher; leave --init-from out"):
        distill.make(config_of(settings), Path(), lambda *_: None, start=task.teacher)
