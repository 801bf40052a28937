"""Optimizers at another batch size."""

import math

import keras
import numpy as np
import pytest

from keras_svag import SVAG, SVAGAdam
from keras_svag.scaling import scale_optimizer
from keras_svag.scaling.scaled_optimizer import rescale


class MyAdamW(keras.optimizers.AdamW):
    """Has an argument of its own."""

    def __init__(self, *args, trust=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.trust = trust

    def get_config(self):
        return super().get_config() | {"trust": self.trust}


# What the rules of [G17] and [M22] change, at κ = 4.
CASES = [
    (
        keras.optimizers.SGD(0.5, momentum=0.9, weight_decay=0.01),
        {"learning_rate": 2.0},
    ),
    (keras.optimizers.SGD(0.5), {"learning_rate": 2.0}),
    (SVAG(0.5, ell=3, weight_decay=0.01), {"learning_rate": 2.0}),
    (
        MyAdamW(0.5, epsilon=1e-4, weight_decay=0.01, trust=0.3),
        {
            "learning_rate": 1.0,
            "beta_1": 0.6,
            "beta_2": 0.996,
            "epsilon": 5e-5,
            "weight_decay": 0.02,
        },
    ),
    (
        SVAGAdam(0.5, beta_1=0.0, ell=2, epsilon=1e-4),
        {"learning_rate": 1.0, "beta_2": 0.996, "epsilon": 5e-5},
    ),
    (
        keras.optimizers.RMSprop(0.5, rho=0.95, epsilon=1e-4),
        # In the root: that of √(v + ε) is 1/κ.
        {"learning_rate": 1.0, "rho": 0.8, "epsilon": 2.5e-5},
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
    for name, value in (before | changed).items():
        if name != "name":
            assert after[name] == (
                pytest.approx(value, rel=1e-6) if name in changed else value
            )


@pytest.mark.parametrize("optimizer", [case[0] for case in CASES])
def test_rescaled_in_place_it_is_the_scaled_one(optimizer):
    expected = scale_optimizer(optimizer, 4).get_config()
    ours = type(optimizer).from_config(optimizer.get_config())
    ours.build([keras.Variable(np.ones(3))])
    for velocity in getattr(ours, "momentums", []):
        velocity.assign(np.ones(3))
    rescale(ours, 4)
    assert ours.get_config() == expected
    for velocity in getattr(ours, "momentums", []):
        assert np.all(velocity == 4)


def test_a_rescaled_schedule_goes_on_from_where_it_is():
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 100, 0.0)
    optimizer = keras.optimizers.SGD(schedule)
    optimizer.build([keras.Variable(np.zeros(1))])
    for step, kappa in ((20, 2), (40, 4)):
        optimizer.iterations.assign(step)
        rescale(optimizer, kappa)
    # 20 steps of one batch, 20 of 2 and 3 of 8 of them: 84 of 100 are done.
    optimizer.iterations.assign(43)
    assert float(optimizer.learning_rate) == pytest.approx(8 * 0.16)


def test_a_trained_optimizer_is_scaled_as_it_stands():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))
    weights = keras.Variable([1.0])
    optimizer.build([weights])
    optimizer.apply([keras.ops.ones(1)])
    optimizer.inner_optimizer.learning_rate = 0.25
    scaled = scale_optimizer(optimizer, 2)
    assert type(scaled) is keras.optimizers.SGD
    assert float(scaled.learning_rate) == 0.5
    assert float(optimizer.inner_optimizer.learning_rate) == 0.25


def test_what_svag_does_not_decay_stays():
    optimizer = SVAG(0.5, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    config = scale_optimizer(optimizer, 2).get_config()
    assert config["excluded_from_weight_decay"]["names"] == ["bias"]


@pytest.mark.parametrize("kappa", [0.5, 3])
@pytest.mark.parametrize(
    ("cls", "factor"),
    [
        (keras.optimizers.SGD, lambda kappa: kappa),
        (keras.optimizers.Adam, math.sqrt),
    ],
)
def test_a_schedule_is_that_of_the_examples_seen(cls, factor, kappa):
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
            assert float(optimizer.learning_rate) == pytest.approx(
                factor(kappa) * rate
            )
