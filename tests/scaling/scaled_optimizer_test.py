"""Optimizers at another batch size."""

import keras
import numpy as np
import pytest

from keras_svag import SVAG, SVAGAdam
from keras_svag.scaling import scale_optimizer
from keras_svag.scaling.scaled_optimizer import rescale


class MyAdamW(keras.optimizers.AdamW):
    """Has arguments of its own, one as Keras's `ScheduleFreeAdamW` has it."""

    def __init__(self, *args, trust=1.0, warmup_steps=0, **kwargs):
        super().__init__(*args, **kwargs)
        self.trust, self.warmup_steps = trust, warmup_steps

    def get_config(self):
        own = {"trust": self.trust, "warmup_steps": self.warmup_steps}
        return super().get_config() | own


# What the rules of [G17] and [M22] change, at κ = 4.
SGD, RMSPROP = keras.optimizers.SGD, keras.optimizers.RMSprop
ROOT = {"learning_rate": 1.0, "epsilon": 5e-5}
CASES = [
    (SGD(0.5, momentum=0.9, weight_decay=0.01), {"learning_rate": 2.0}),
    (SVAG(0.5, ell=3, weight_decay=0.01), {"learning_rate": 2.0}),
    (
        MyAdamW(
            0.5, epsilon=1e-4, weight_decay=0.01, trust=0.3, warmup_steps=100
        ),
        ROOT
        | {"beta_1": 0.6, "beta_2": 0.996, "weight_decay": 0.02}
        | {"warmup_steps": 25},
    ),
    (SVAGAdam(0.5, beta_1=0.0, ell=2, epsilon=1e-4), ROOT | {"beta_2": 0.996}),
    # In the root: that of √(v + ε) is 1/κ.
    (
        RMSPROP(0.5, rho=0.95, epsilon=1e-4),
        ROOT | {"rho": 0.8, "epsilon": 25e-6},
    ),
]


@pytest.mark.parametrize(
    ("optimizer", "changed"), CASES, ids=lambda c: getattr(c, "name", "")
)
def test_only_what_the_rule_names_changes(optimizer, changed):
    scaled = scale_optimizer(optimizer, 4)
    assert type(scaled) is type(optimizer)
    assert not scaled.built
    before, after = optimizer.get_config(), scaled.get_config()
    assert after.keys() == before.keys()
    for name in before.keys() - {"name"}:
        if name in changed:
            assert after[name] == pytest.approx(changed[name], rel=1e-6)
        else:
            assert after[name] == before[name]
    # Rescaled in place it is the same, and its velocity that of larger steps.
    ours = type(optimizer).from_config(before)
    ours.build([keras.Variable(np.ones(3))])
    velocities = getattr(ours, "momentums", [])
    for velocity in velocities:
        velocity.assign(np.ones(3))
    rescale(ours, 4)
    assert ours.get_config() | {"name": after["name"]} == after
    assert all(np.all(velocity == 4) for velocity in velocities)


def test_a_rescaled_schedule_goes_on_from_where_it_is():
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 100, 0.0)
    optimizer = SGD(schedule)
    optimizer.build([keras.Variable(np.zeros(1))])
    for step, kappa in ((20, 2), (40, 4)):
        optimizer.iterations.assign(step)
        rescale(optimizer, kappa)
    # 20 steps of one batch, 20 of 2 and 3 of 8 of them: 84 of 100 are done.
    optimizer.iterations.assign(43)
    assert float(optimizer.learning_rate) == pytest.approx(8 * 0.16)
    for done, warm in ((20, 40), (100, 100), (300, 100)):
        optimizer = MyAdamW(0.5, epsilon=1e-4, warmup_steps=100)
        optimizer.iterations.assign(done)
        rescale(optimizer, 4)
        assert optimizer.warmup_steps == warm


def test_a_trained_optimizer_is_scaled_as_it_stands():
    inner = SVAG(1.0, weight_decay=0.1)
    inner.exclude_from_weight_decay(var_names=["bias"])
    optimizer = keras.optimizers.LossScaleOptimizer(inner)
    optimizer.build([keras.Variable([1.0])])
    optimizer.apply([keras.ops.ones(1)])
    inner.learning_rate = 0.25
    scaled = scale_optimizer(optimizer, 2)
    assert type(scaled) is SVAG
    assert float(scaled.learning_rate) == 0.5
    assert float(inner.learning_rate) == 0.25
    excluded = scaled.get_config()["excluded_from_weight_decay"]
    assert excluded["names"] == ["bias"]


@pytest.mark.parametrize("kappa", [0.5, 3])
@pytest.mark.parametrize(
    ("cls", "power"), [(SGD, 1), (keras.optimizers.Adam, 0.5)]
)
def test_a_schedule_is_that_of_the_examples_seen(cls, power, kappa):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [12, 30], [0.5, 0.25, 0.125]
    )
    scaled = scale_optimizer(cls(schedule, weight_decay=1.0), kappa)
    saved = keras.optimizers.serialize(scaled)
    for optimizer in (scaled, keras.optimizers.deserialize(saved)):
        weights = keras.Variable(np.zeros(1))
        optimizer.build([weights])
        for step in range(0, 24, 2):
            optimizer.iterations.assign(step)
            seen = kappa * step
            rate = 0.5 if seen <= 12 else 0.25 if seen <= 30 else 0.125
            expected = kappa**power * rate
            assert float(optimizer.learning_rate) == pytest.approx(expected)
