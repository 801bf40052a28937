"""Checks under a strategy: the probe measures what it does on one device."""

import keras
import numpy as np

from keras_svag import backend, measure_gradient_noise
from tests.helpers.distribution.checks import fit
from tests.helpers.small_problems import regression

BATCH_SIZE = 24


def numbers(value):
    """All numbers in a dict, in order."""
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers(v)]
    if isinstance(value, (list, tuple)):
        return [n for v in value for n in numbers(v)]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return [value] if is_number else []


def random_network():
    """With a state of its own on every replica, and with dropout."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(16, kernel_regularizer="l2"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def state_of_every_replica(model):
    return [
        part.numpy()
        for v in [
            *model.variables,
            *model.metrics_variables,
            *model.optimizer.variables,
        ]
        for part in backend.replicas(v)
    ]


def check_probe_measures_what_one_device_does(strategy):
    data = regression(96)

    def measured(model):
        noise = measure_gradient_noise(
            model, data, BATCH_SIZE, 6, seed=1, verbose=0
        )
        return numbers(noise.to_dict())

    with strategy.scope():
        replicated = random_network()
    single = random_network()
    expected = measured(single)
    assert len(expected) > 5
    assert measured(replicated) == expected

    fit(replicated, *data, BATCH_SIZE)
    before = state_of_every_replica(replicated)
    outside = measured(replicated)
    with strategy.scope():
        inside = measured(replicated)
    for ours, theirs in zip(
        state_of_every_replica(replicated), before, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    for v, w in zip(single.variables, replicated.variables, strict=True):
        v.assign(w.value)
    expected = measured(single)
    for ours in (outside, inside):
        np.testing.assert_allclose(ours, expected, rtol=1e-4)
