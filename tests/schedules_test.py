import math

import pytest

from keras_svag.schedules import learning_rate_schedule


def test_step_schedule_decays_with_the_first_step_of_a_milestone():
    schedule = learning_rate_schedule("step", 0.8, 10, 160, (80, 120), 0.1)
    rates = [float(schedule(step)) for step in (0, 799, 800, 1199, 1200)]
    assert rates == pytest.approx([0.8, 0.8, 0.08, 0.08, 0.008], rel=1e-6)


def test_cosine_schedule_ends_at_zero():
    schedule = learning_rate_schedule("cosine", 0.8, 10, 5)
    for step in (0, 7, 25, 50):
        expected = 0.4 * (1 + math.cos(math.pi * step / 50))
        assert float(schedule(step)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "milestones"), [("constant", (3,)), ("step", ())]
)
def test_schedule_without_milestones_is_a_settable_rate(name, milestones):
    assert learning_rate_schedule(name, 0.8, 10, 5, milestones) == 0.8


def test_unknown_schedule_lists_the_known_ones():
    with pytest.raises(ValueError, match="constant, step, cosine.*'zigzag'"):
        learning_rate_schedule("zigzag", 0.8, 10, 5)


@pytest.mark.parametrize("milestones", [(3, 2), (2, 2), (0, 2), (-1,)])
def test_milestones_must_increase(milestones):
    with pytest.raises(ValueError, match="`milestones` must be increasing"):
        learning_rate_schedule("step", 0.8, 10, 5, milestones)
