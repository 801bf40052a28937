"""Checks under a strategy: what is measured is what one device measures."""

import contextlib
import os
import tempfile

import keras
import numpy as np

from keras_svag import LinearScalingRuleCheck, SVAGModel, measure_gradient_noise
from tests.helpers.distribution.checks import fit
from tests.helpers.small_problems import dense_network, regression

BATCH_SIZE = 24


def network():
    model = dense_network()
    model.compile(keras.optimizers.SGD(0.1, weight_decay=0.01), "mse")
    return model


def numbers(value):
    """All numbers in a report's dict, in order."""
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers(v)]
    if isinstance(value, (list, tuple)):
        return [n for v in value for n in numbers(v)]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return [value] if is_number else []


def check_probe_measures_what_one_device_does(strategy):
    x, y = regression(200)
    estimates = []
    for scope in (strategy.scope(), contextlib.nullcontext()):
        with scope:
            model = network()
        estimates.append(
            measure_gradient_noise(
                model, (x, y), BATCH_SIZE, 6, seed=1, verbose=0
            )
        )
    ours, expected = (numbers(e.to_dict()) for e in estimates)
    assert len(ours) > 5
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def check_linear_scaling_is_judged_by_a_probe_as_on_one_device(strategy):
    x, y = regression(120)
    reports = []
    for scope in (strategy.scope(), contextlib.nullcontext()):
        with scope:
            model = SVAGModel(dense_network(), measure_noise=False)
            model.compile(keras.optimizers.SGD(0.1, weight_decay=0.01), "mse")
        check = LinearScalingRuleCheck(
            BATCH_SIZE, probe=(x, y), probe_batches=4, verbose=0
        )
        fit(model, x, y, BATCH_SIZE, epochs=2, callbacks=[check])
        reports.append(numbers(check.report.to_dict()))
    assert len(reports[0]) > 10
    np.testing.assert_allclose(*reports, rtol=1e-4)


def check_linear_scaling_is_judged_by_training(strategy):
    replicas = strategy.num_replicas_in_sync
    x, y = regression(10 * BATCH_SIZE)
    with strategy.scope():
        model = SVAGModel(dense_network(), num_examples=len(x))
        model.compile(keras.optimizers.SGD(0.1, weight_decay=0.01), "mse")
    with tempfile.TemporaryDirectory() as folder:
        check = LinearScalingRuleCheck(
            BATCH_SIZE, verbose=0, log_dir=folder, window=2
        )
        logs = fit(model, x, y, BATCH_SIZE, epochs=2, callbacks=[check])
        is_chief = strategy.extended.should_save_summary
        assert bool(os.listdir(folder)) == is_chief
    estimate = check.report.estimate
    assert estimate.count == 2 * 10 * replicas
    assert estimate.batch_size == BATCH_SIZE
    for key in ("grad_sq_norm", "noise_trace"):
        np.testing.assert_allclose(
            getattr(estimate, key), np.mean(logs[key]), rtol=1e-5
        )
