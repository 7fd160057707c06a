"""The losses and targets of distillation methods: closed forms, and what the original programs compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.denoiser import Prediction, StepInfo, make_denoiser
from rdm_jax.diffusion.parameterization import PREDICTIONS, per_image, target, to_prediction
from rdm_jax.diffusion.rotation import rotate, velocity, velocity_to
from rdm_jax.diffusion.samplers import sample
from rdm_jax.diffusion.samplers.ddim import DDIM
from rdm_jax.diffusion.schedule import Schedule, build_schedule
from rdm_jax.guidance.classifier_free import classifier_free_denoiser
from rdm_jax.training.distillation import METHODS, Networks, between
from rdm_jax.training.distillation.base import noised
from rdm_jax.training.distillation.consistency import Consistency
from rdm_jax.training.distillation.lcm import LCM, boundary_scalings
from rdm_jax.training.distillation.progressive import two_steps
from tests.helpers.golden_network import network, nhwc

COSINE = build_schedule({"schedule": "cosine", "num_timesteps": 1000})
SHAPE = (6, 4, 4, 2)


def normal(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


def step_at(angle, angle_next):
    angles = {
        "alpha": jnp.cos(angle),
        "sigma": jnp.sin(angle),
        "alpha_next": jnp.cos(angle_next),
        "sigma_next": jnp.sin(angle_next),
    }
    return StepInfo(
        jnp.zeros(angle.shape), jnp.zeros(angle.shape), {k: v.astype(jnp.float32) for k, v in angles.items()}
    )


def gaussian(variance):
    """Returns the exact denoiser of data N(0, variance)."""

    def denoiser(z, info):
        alpha, sigma = (per_image(info.coefficients[name], z.ndim) for name in ("alpha", "sigma"))
        total = alpha**2 * variance + sigma**2
        return Prediction(alpha * variance / total * z, sigma / total * z)

    return denoiser


def test_a_deterministic_step_is_a_rotation_and_its_velocity_leads_there():
    z, v = normal(0), normal(1)
    angle, angle_next = jnp.linspace(0.3, 1.57, 6), jnp.linspace(0.0, 1.2, 6)
    info = step_at(angle, angle_next)
    c = info.coefficients
    prediction = to_prediction(v, z, c["alpha"], c["sigma"], "v")
    np.testing.assert_allclose(velocity(prediction, info), v, atol=1e-6)
    delta = per_image(angle - angle_next, 4)
    moved = jnp.cos(delta) * z - jnp.sin(delta) * v
    np.testing.assert_allclose(rotate(prediction, info), moved, atol=1e-6)
    np.testing.assert_allclose(velocity_to(z, moved, info), v, atol=1e-5)
    # A rotation by 0 in all is the identity, and two rotations are one by the sum.
    back = to_prediction(v * jnp.cos(delta) + z * jnp.sin(delta), moved, c["alpha_next"], c["sigma_next"], "v")
    np.testing.assert_allclose(rotate(back, step_at(angle_next, angle)), z, atol=1e-6)


@pytest.mark.parametrize("steps", [8, 2, 1])
def test_two_steps_of_a_stage_are_two_steps_of_the_ddim_sampler(steps):
    method = METHODS["progressive"]()
    grid, teacher = method.grid(COSINE, (8, 4, 2, 1)), gaussian(0.3)
    plan = DDIM("trailing").plan(COSINE, 2 * steps)
    stride = len(grid) // (2 * steps)
    for place in {0, steps - 1}:
        levels = jnp.full((3, 1), 2 * place * stride) + stride * jnp.arange(3)[:, None]
        halves = between(grid, levels[:2], levels[1:])
        own = jax.tree.map(lambda leaf, place=place: leaf[2 * place : 2 * place + 2], plan)
        np.testing.assert_array_equal(halves.t[:, 0], own.t)
        z = normal(3, (1, 4, 4, 2))
        np.testing.assert_allclose(two_steps(teacher, halves, z), sample(DDIM("trailing"), own, z, teacher), atol=1e-5)


def test_the_student_of_one_image_is_its_teacher():
    image = normal(5, (1, 4, 4, 2))

    def perfect(z, info):
        alpha, sigma = (per_image(info.coefficients[name], z.ndim) for name in ("alpha", "sigma"))
        return Prediction(jnp.broadcast_to(image, z.shape), (z - alpha * image) / sigma)

    for name, method in METHODS.items():
        stages = (4,)
        grid = METHODS[name]().grid(COSINE, stages)
        place = jnp.arange(6) % 4
        x0 = jnp.broadcast_to(image, SHAPE)
        losses = method().losses(Networks(perfect, perfect, perfect), grid, 4, place, x0, normal(6))
        np.testing.assert_allclose(losses, 0.0, atol=1e-4)


@pytest.mark.parametrize("variance", [0.25, 1.0])
def test_the_target_of_gaussian_data_is_exact(variance):
    # Along a path z(phi) = z sqrt(total(phi') / total(phi)); with unit variance the exact velocity is 0.
    method, teacher = METHODS["progressive"](), gaussian(variance)
    fine = method.grid(COSINE, (256,))
    for place in (0, 100, 255):
        info = between(fine, jnp.asarray([2 * place]), jnp.asarray([2 * place + 2]))
        halves = between(
            fine, jnp.asarray([[2 * place], [2 * place + 1]]), jnp.asarray([[2 * place + 1], [2 * place + 2]])
        )
        z, c = normal(7, (1, 4, 4, 2)), {k: float(v[0]) for k, v in info.coefficients.items()}
        total, total_next = (c[f"alpha{n}"] ** 2 * variance + c[f"sigma{n}"] ** 2 for n in ("", "_next"))
        exact = z * np.sqrt(total_next / total)
        np.testing.assert_allclose(two_steps(teacher, halves, z), exact, atol=2e-3)
        if variance == 1.0:
            np.testing.assert_allclose(velocity(teacher(z, info), info), 0.0, atol=1e-6)
    # The linear student that one step of the coarsest stage is to be, solved by hand from two factors of the teacher.
    grid = method.grid(COSINE, (1,))
    info, halves = (
        between(grid, jnp.zeros(1, int), jnp.full(1, 2)),
        between(grid, jnp.arange(2)[:, None], jnp.arange(1, 3)[:, None]),
    )
    z = normal(8, (1, 4, 4, 2))
    factor = 1.0
    for a, s, a2, s2 in zip(grid.alpha, grid.sigma, grid.alpha[1:], grid.sigma[1:], strict=False):
        factor *= (a2 * a * variance + s2 * s) / (a**2 * variance + s**2)
    a, s = grid.alpha[0], grid.sigma[0]
    slope = ((a * grid.alpha[2] + s * grid.sigma[2]) - factor) / (s * grid.alpha[2] - a * grid.sigma[2])
    np.testing.assert_allclose(velocity_to(z, two_steps(teacher, halves, z), info), slope * z, atol=1e-5)


@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_the_loss_is_that_of_the_velocity_for_any_parameterization(kind):
    method, schedule = (
        METHODS["progressive"](),
        build_schedule({"schedule": "scaled_linear", "num_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0195}),
    )
    grid, place, x0, noise = method.grid(schedule, (4, 2)), jnp.arange(6) % 2, normal(9), normal(10)
    whole = between(grid, 4 * place, 4 * place + 4)
    z = noised(x0, noise, whole)
    wrong = velocity(gaussian(0.5)(z, whole), whole) + 0.5  # a student whose velocity is off by a half

    def student(z, info):
        c = info.coefficients
        exact = to_prediction(wrong, z, c["alpha"], c["sigma"], "v")
        return to_prediction(target(kind, exact.x0, exact.eps, c["alpha"], c["sigma"]), z, c["alpha"], c["sigma"], kind)

    teacher = gaussian(0.5)
    found = method.losses(Networks(student, teacher), grid, 2, place, x0, noise)
    halves = between(grid, jnp.stack([4 * place, 4 * place + 2]), jnp.stack([4 * place + 2, 4 * place + 4]))
    error = wrong - velocity_to(z, two_steps(teacher, halves, z), whole)
    np.testing.assert_allclose(found, jnp.mean(error**2, axis=(1, 2, 3)), rtol=2e-3)


@pytest.mark.slow
def test_the_loss_of_many_steps_falls_to_zero_for_a_student_that_is_its_teacher():
    method, teacher, losses = METHODS["progressive"](), gaussian(0.3), []
    for steps in (2, 8, 32):
        grid, place = method.grid(COSINE, (steps,)), jnp.arange(6) * steps // 6
        losses.append(
            float(
                jnp.mean(method.losses(Networks(teacher, teacher), grid, steps, place, normal(1) * 0.3**0.5, normal(2)))
            )
        )
    assert losses[0] > 4 * losses[1] > 16 * losses[2] > 0


def test_progressive_targets_equal_the_golden_ones(golden):
    data = np.load(golden / "heads2/fewstep/progressive_angles.npz")
    apply, _ = network(data, "net")
    angles, classes, z = jnp.asarray(data["angles"]), jnp.asarray(data["y"]), jnp.asarray(nhwc(data["z"]))

    def timed(x, t, classes):  # the network's time is the angle
        return apply(x, t, classes)

    teacher = classifier_free_denoiser(
        timed, classes, jnp.full_like(classes, 10), jnp.asarray(data["guidance_scale"]), "v"
    )
    infos = [step_at(angles[:, i], angles[:, i + 1]) for i in range(2)]
    infos = [StepInfo(angles[:, i], angles[:, i + 1], info.coefficients) for i, info in enumerate(infos)]
    middle = rotate(teacher(z, infos[0]), infos[0])
    np.testing.assert_allclose(middle, nhwc(data["middle"]), atol=1e-4)
    halves = jax.tree.map(lambda *leaves: jnp.stack(leaves), *infos)
    end = two_steps(teacher, halves, z)
    np.testing.assert_allclose(end, nhwc(data["end"]), atol=1e-4)
    whole = step_at(angles[:, 0], angles[:, 2])
    found = velocity_to(z, end, whole)
    np.testing.assert_allclose(found, nhwc(data["v_target"]), atol=1e-3)
    x0 = to_prediction(found, z, whole.coefficients["alpha"], whole.coefficients["sigma"], "v").x0
    np.testing.assert_allclose(x0, nhwc(data["x_target"]), atol=1e-3)


@pytest.mark.parametrize(
    ("prefix", "kind", "huber"),
    [("v_prediction", "v", 0.001), ("v_prediction", "v", 0.0), ("epsilon", "eps", 0.001), ("epsilon", "eps", 0.0)],
)
def test_the_loss_of_lcm_equals_the_original_program(golden, prefix, kind, huber):
    data = np.load(golden / "heads2/fewstep/lcm_distillation.npz")
    abar = data["alphas_cumprod" if kind == "v" else "epsilon_alphas_cumprod"].astype(np.float64)
    schedule = Schedule(1 - abar / np.append(1.0, abar[:-1]))
    method, classes = LCM(huber=huber), jnp.asarray(data["y"])
    grid = method.grid(schedule, (4,))
    place = jnp.asarray(49 - data["index"])
    info = between(grid, place, place + 1)
    np.testing.assert_array_equal(info.t, data["start_timesteps"])
    np.testing.assert_array_equal(info.t_next, data["timesteps"])
    (student, weights), (average, _), (teacher, _) = (network(data, name) for name in ("student", "target", "teacher"))
    # The program's w is one less than the scale of `guidance.classifier_free`.
    scale = jnp.asarray(data["w"] + 1.0)
    guided = classifier_free_denoiser(teacher, classes, jnp.full_like(classes, 10), scale, kind)
    x0, noise = jnp.asarray(nhwc(data["x"])), jnp.asarray(nhwc(data["noise"]))
    z = jnp.asarray(nhwc(data["z" if kind == "v" else "epsilon_z"]))
    np.testing.assert_allclose(noised(x0, noise, info), z, atol=1e-5)
    x_prev = rotate(guided(z, info), info)
    np.testing.assert_allclose(
        x_prev, nhwc(data[f"{prefix}_x_prev"]), atol=1e-3 * np.abs(data[f"{prefix}_x_prev"]).max()
    )

    def loss(w2):
        def changed(x, t, classes):
            return student(x, t, classes, {**weights, "w2": w2})

        networks = Networks(make_denoiser(changed, classes, kind), guided, make_denoiser(average, classes, kind))
        return jnp.mean(method.losses(networks, grid, 4, place, x0, noise))

    value, gradient = jax.jit(jax.value_and_grad(loss))(weights["w2"])
    name = "huber" if huber else "l2"
    assert float(value) == pytest.approx(float(data[f"{prefix}_loss_{name}"]), rel=1e-3)
    wanted = data[f"{prefix}_grad_w2"]
    if not huber:  # the golden gradient is that of the squared error
        np.testing.assert_allclose(gradient, wanted, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("name", "stages", "message"),
    [
        ("progressive", (8, 3), r"stages=\(8, 3\) do not halve: after 8 steps come 4, not 3"),
        ("consistency", (8, 4), "trains one network for all numbers of steps; give one stage"),
        ("lcm", (51,), "up to 50"),
    ],
)
def test_stages_that_do_not_fit_the_method_are_refused(name, stages, message):
    with pytest.raises(UserError, match=message):
        METHODS[name]().check(stages)


def test_the_boundary_condition_of_lcm_is_the_identity_without_noise():
    skip, out = boundary_scalings(jnp.asarray([0.0, 19.0, 999.0]))
    np.testing.assert_allclose(skip, [1.0, 0.25 / (190**2 + 0.25), 0.0], atol=1e-8)
    np.testing.assert_allclose(out, [0.0, 190 / np.sqrt(190**2 + 0.25), 1.0], atol=1e-7)


def test_settings_out_of_range_are_refused():
    with pytest.raises(UserError, match=r"method\.decay=1\.0 is out of range"):
        LCM(decay=1.0)
    with pytest.raises(UserError, match=r"method\.huber=-1\.0 is out of range"):
        Consistency(huber=-1.0)
