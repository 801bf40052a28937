import math

import keras
import numpy as np
import pytest

from configs import base
from experiments import schedules


def schedule_of(name, learning_rate, steps_per_epoch, epochs, **keys):
    config = base.get_config()
    config.update(
        schedule=name, learning_rate=learning_rate, epochs=epochs, **keys
    )
    return schedules.schedule_of(config, steps_per_epoch)


def rates(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_step_schedule_decays_with_the_first_step_of_a_milestone():
    schedule = schedule_of("step", 0.8, 10, 160, milestones=(80, 120))
    found = rates(schedule, (0, 799, 800, 1199, 1200))
    assert found == pytest.approx([0.8, 0.8, 0.08, 0.08, 0.008], rel=1e-6)


def test_cosine_schedule_ends_at_zero():
    steps = (0, 7, 25, 50)
    found = rates(schedule_of("cosine", 0.8, 10, 5), steps)
    expected = [0.4 * (1 + math.cos(math.pi * step / 50)) for step in steps]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "milestones"), [("constant", (3,)), ("step", ())]
)
def test_schedule_without_milestones_is_a_settable_rate(name, milestones):
    assert schedule_of(name, 0.8, 10, 5, milestones=milestones) == 0.8


def triangles(step, rate, steps):
    """Two triangles: how far it is to the next of the three zeros."""
    half = steps / 2
    peak, position = (rate, step) if step < half else (rate / 2, step - half)
    return peak * max(min(position, half - position), 0) / (half / 2)


@pytest.mark.parametrize(("steps_per_epoch", "epochs"), [(10, 8), (7, 5)])
def test_triangle_rises_and_falls_twice(steps_per_epoch, epochs):
    schedule = schedule_of("triangle", 0.8, steps_per_epoch, epochs)
    steps = steps_per_epoch * epochs
    places = [*range(steps + 1), steps + 99]
    found = rates(schedule, places)
    expected = [triangles(step, 0.8, steps) for step in places]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert min(found) >= 0 and found[-2:] == [0, 0]


NAMES = ["constant", "step", "cosine", "triangle"]


@pytest.mark.parametrize("name", NAMES)
def test_warmup_multiplies_any_schedule_and_is_saved(name):
    plain = schedule_of(name, 0.8, 10, 8, milestones=(4, 6))
    warmed = schedule_of(
        name,
        0.8,
        10,
        8,
        milestones=(4, 6),
        warmup_epochs=1.5,
        warmup_factor=0.25,
    )
    copy = keras.optimizers.schedules.deserialize(
        keras.optimizers.schedules.serialize(warmed)
    )
    for step in (1, 14, 15, 39, 40, 79):
        rate = float(plain(step)) if callable(plain) else plain
        expected = rate * (0.25 if step < 15 else 1.0)
        assert float(warmed(step)) == pytest.approx(expected, rel=1e-5)
        assert float(copy(step)) == float(warmed(step))
