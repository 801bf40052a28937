import math

import keras
import numpy as np
import pytest

from experiments.schedules import schedule_of


def test_step_schedule_decays_with_the_first_step_of_a_milestone():
    schedule = schedule_of("step", 0.8, 10, 160, (80, 120), 0.1)
    rates = [float(schedule(step)) for step in (0, 799, 800, 1199, 1200)]
    assert rates == pytest.approx([0.8, 0.8, 0.08, 0.08, 0.008], rel=1e-6)


def test_cosine_schedule_ends_at_zero():
    schedule = schedule_of("cosine", 0.8, 10, 5)
    for step in (0, 7, 25, 50):
        expected = 0.4 * (1 + math.cos(math.pi * step / 50))
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "milestones"), [("constant", (3,)), ("step", ())]
)
def test_schedule_without_milestones_is_a_settable_rate(name, milestones):
    assert schedule_of(name, 0.8, 10, 5, milestones) == 0.8


def triangles(step, rate, steps):
    """Two triangles: how far it is to the next of the three zeros."""
    half = steps / 2
    peak, position = (rate, step) if step < half else (rate / 2, step - half)
    return peak * min(position, half - position) / (half / 2)


@pytest.mark.parametrize(("steps_per_epoch", "epochs"), [(10, 8), (7, 5)])
def test_triangle_rises_and_falls_twice(steps_per_epoch, epochs):
    schedule = schedule_of("triangle", 0.8, steps_per_epoch, epochs)
    steps = steps_per_epoch * epochs
    rates = [float(schedule(step)) for step in range(steps)]
    expected = [triangles(step, 0.8, steps) for step in range(steps)]
    np.testing.assert_allclose(rates, expected, atol=1e-6)
    assert max(expected) > 0.75
    assert float(schedule(steps)) == float(schedule(steps + 99)) == 0.0
    assert min(rates) >= 0


@pytest.mark.parametrize("name", ["constant", "step", "cosine", "triangle"])
def test_warmup_multiplies_any_schedule(name):
    plain = schedule_of(name, 0.8, 10, 8, (4, 6))
    warmed = schedule_of(
        name, 0.8, 10, 8, (4, 6), warmup_epochs=1.5, warmup_factor=0.25
    )
    for step in (1, 14, 15, 39, 40, 79):
        rate = float(plain(step)) if callable(plain) else plain
        expected = rate * (0.25 if step < 15 else 1.0)
        assert float(warmed(step)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["constant", "cosine", "triangle"])
def test_schedules_survive_serialization(name):
    schedule = schedule_of(name, 0.8, 10, 8, warmup_epochs=1)
    copy = keras.optimizers.schedules.deserialize(
        keras.optimizers.schedules.serialize(schedule)
    )
    for step in (0, 5, 20, 70):
        assert float(copy(step)) == float(schedule(step))
