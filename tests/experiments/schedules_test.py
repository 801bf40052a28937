import math

import keras
import numpy as np
import pytest

from configs import base
from experiments import schedules


def schedule_of(name, steps_per_epoch, epochs, **keys):
    config = base.get_config()
    keys = {"schedule": name, "learning_rate": 0.8, "epochs": epochs, **keys}
    config.update(keys)
    return schedules.schedule_of(config, steps_per_epoch)


def rates(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_step_schedule_decays_with_the_first_step_of_a_milestone():
    schedule = schedule_of("step", 10, 160, milestones=(80, 120))
    found = rates(schedule, (0, 799, 800, 1199, 1200))
    assert found == pytest.approx([0.8, 0.8, 0.08, 0.08, 0.008], rel=1e-6)


def test_cosine_schedule_ends_at_zero():
    steps = (0, 7, 25, 50)
    found = rates(schedule_of("cosine", 10, 5), steps)
    expected = [0.4 * (1 + math.cos(math.pi * step / 50)) for step in steps]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "milestones"), [("constant", (3,)), ("step", ())]
)
def test_schedule_without_milestones_is_a_settable_rate(name, milestones):
    assert schedule_of(name, 10, 5, milestones=milestones) == 0.8


@pytest.mark.parametrize(("steps_per_epoch", "epochs"), [(10, 8), (7, 5)])
def test_triangle_rises_and_falls_twice(steps_per_epoch, epochs):
    steps = steps_per_epoch * epochs
    corners = np.array([0, 1, 2, 3, 4, 5]) * steps / 4
    places = [*range(steps + 1), steps + 9]
    found = rates(schedule_of("triangle", steps_per_epoch, epochs), places)
    expected = np.interp(places, corners, [0, 0.8, 0, 0.4, 0, 0])
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_warmup_multiplies_any_schedule_and_is_saved(name):
    keys = {"milestones": (4, 6)}
    plain = schedule_of(name, 10, 8, **keys)
    keys |= {"warmup_epochs": 1.5, "warmup_factor": 0.25}
    warmed = schedule_of(name, 10, 8, **keys)
    saved = keras.optimizers.schedules.serialize(warmed)
    copy = keras.optimizers.schedules.deserialize(saved)
    for step in (1, 14, 15, 39, 40, 79):
        rate = float(plain(step)) if callable(plain) else plain
        expected = rate * (0.25 if step < 15 else 1.0)
        assert float(warmed(step)) == pytest.approx(expected, rel=1e-5)
        assert float(copy(step)) == float(warmed(step))
