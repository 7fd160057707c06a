"""The few-step model that ships: it has its teacher's parts, declares its use, and is near the teacher."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.generator import Generator
from rdm_jax.heads import head_of
from rdm_jax.heads.diffusion.few_steps import student_of, warn_other_use
from rdm_jax.request import resolve

TEACHER, STUDENT = "style-scenes", "style-scenes-fast"


def test_the_few_step_model_of_a_model_is_found_by_its_teacher() -> None:
    assert student_of(TEACHER) == student_of(STUDENT) == STUDENT
    with pytest.raises(UserError, match=r"no few-step model of 'style-scenes-rarm' ships.*--config\.teacher=style-sc"):
        student_of("style-scenes-rarm")
    with pytest.raises(UserError, match="unknown model 'style-scene'"):
        student_of("style-scene")


def test_it_differs_from_its_teacher_in_the_denoiser_alone_and_is_sampled_as_it_was_trained(caplog) -> None:
    teacher, student = Bundle.open(TEACHER), Bundle.open(STUDENT)
    assert {part for part in teacher.params if teacher.hashes[part] != student.hashes[part]} == {"denoiser"}
    assert student.params.keys() == teacher.params.keys()
    with caplog.at_level(logging.WARNING):
        _, options = resolve(student.config, head_of(student.config), {}, queries=1)
        warn_other_use(options, student)
    assert not caplog.records


@pytest.mark.slow
def test_its_images_are_nearer_to_the_teachers_than_as_many_evaluations_of_the_teacher() -> None:
    teacher, student = Generator.load(TEACHER), Generator.load(STUDENT)
    request = {"database": "poster", "num_images": 4, "batch_size": 4, "seed": 3, "condition": "text+neighbors"}
    best = teacher.sample("a red boat", sampler="ddim", spacing="trailing", steps=50, **request).images.astype(float)
    few = student.sample("a red boat", **request).images
    steps = student.bundle.config["sampling"]["steps"] // 2  # guidance takes two evaluations a step
    as_many = teacher.sample("a red boat", sampler="ddim", spacing="trailing", steps=steps, **request).images
    assert np.square(few - best).mean() < np.square(as_many - best).mean()
