"""Checks under a strategy: the probe measures what it does on one device."""

import numpy as np

from keras_svag import measure_gradient_noise
from tests.helpers.bits import assert_same_bits
from tests.helpers.distribution.beside import (
    bits_of_every_replica,
    fit,
    network,
)
from tests.helpers.small_problems import classification

DATA = classification(96, (6, 6, 2))


def measured(model):
    noise = measure_gradient_noise(model, DATA, 24, 6, seed=1, verbose=0)
    return noise.grad_sq_norm, noise.example_noise, *noise.interval()


def check_probe_measures_what_one_device_does(strategy):
    with strategy.scope():
        replicated = network()
    single = network()
    assert measured(replicated) == measured(single)

    fit(replicated, DATA)
    _, before = bits_of_every_replica(strategy, replicated)
    outside = measured(replicated)
    with strategy.scope():
        inside = measured(replicated)
    _, after = bits_of_every_replica(strategy, replicated)
    assert_same_bits(after, before)
    for v, w in zip(single.variables, replicated.variables, strict=True):
        v.assign(w.value)
    for ours in (outside, inside):
        np.testing.assert_allclose(ours, measured(single), rtol=1e-4)
