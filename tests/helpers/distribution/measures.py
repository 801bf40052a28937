"""Checks under a strategy: what is measured is what one device measures."""

import contextlib
import os
import tempfile

import keras
import numpy as np
import tensorflow as tf

from keras_svag import (
    LinearScalingRuleCheck,
    ScalingRuleCheck,
    SVAGModel,
    measure_gradient_noise,
)
from keras_svag.models.internals import is_chief, replicas
from tests.helpers.distribution.checks import fit
from tests.helpers.small_problems import dense_network, regression

BATCH_SIZE = 24


def numbers(value):
    """All numbers in a report's dict, in order."""
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
        for part in replicas(v)
    ]


def check_probe_measures_what_one_device_does(strategy):
    data = regression(200)

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


def check_probe_leaves_training_as_it_is(strategy):
    x, y = regression(8 * BATCH_SIZE)
    check = LinearScalingRuleCheck(BATCH_SIZE, probe=(x, y), verbose=0)
    weights = []
    for callbacks in ([], [check]):
        with strategy.scope():
            model = random_network()
        fit(model, x, y, BATCH_SIZE, epochs=2, callbacks=callbacks)
        weights.append(model.get_weights())
    assert check.report.estimate.count == 32
    for ours, theirs in zip(*weights, strict=True):
        assert np.all(np.isfinite(ours))
        np.testing.assert_array_equal(ours, theirs)


def check_linear_scaling_is_judged_by_a_probe_as_on_one_device(strategy):
    verdict = judged_by_a_probe_as_on_one_device(
        strategy, lambda: keras.optimizers.SGD(0.1, weight_decay=0.01)
    )
    assert verdict.rule == "linear"


def check_square_root_rule_is_judged_by_a_probe_as_unreplicated(strategy):
    verdict = judged_by_a_probe_as_on_one_device(strategy, adam)
    assert verdict.rule == "square_root"


def judged_by_a_probe_as_on_one_device(strategy, make_optimizer):
    x, y = regression(120)
    reports = []
    for scope in (strategy.scope(), contextlib.nullcontext()):
        with scope:
            model = SVAGModel(dense_network(), measure_noise=False)
            model.compile(make_optimizer(), "mse")
        check = ScalingRuleCheck(
            BATCH_SIZE, probe=(x, y), probe_batches=4, verbose=0
        )
        fit(model, x, y, BATCH_SIZE, epochs=2, callbacks=[check])
        reports.append(numbers(check.report.to_dict()))
    assert len(reports[0]) > 10
    np.testing.assert_allclose(*reports, rtol=1e-4)
    return check.report.verdict


def adam():
    # An epsilon that is not small: forgetting it is seen.
    return keras.optimizers.Adam(0.02, epsilon=0.03)


def observation_in_adams_norm(model, x, y):
    """G_P and N_P of one replica's rows, N_P at their number, by NumPy."""
    optimizer = model.optimizer
    pair = []
    for half in (0, 1):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x[half::2]) - y[half::2]) ** 2)
        pair.append(tape.gradient(loss, model.trainable_weights))
    grad_sq_norm = noise_trace = 0.0
    for first, second, variable in zip(
        *pair, optimizer._velocities, strict=True
    ):
        v = variable.numpy()
        scale = (v > 0) / (np.sqrt(v) + optimizer.epsilon) ** 2
        grad_sq_norm += np.sum(first * second * scale)
        noise_trace += np.sum((first - second) ** 2 * scale) / 4
    return grad_sq_norm, noise_trace


def check_noise_in_adams_norm_is_that_of_one_device(strategy):
    """Of each replica's rows, at the weights and moments of one device."""
    replicas, steps = strategy.num_replicas_in_sync, 5
    x, y = regression(steps * BATCH_SIZE)
    single = dense_network()
    single.compile(adam(), "mse")
    single.optimizer.build(single.trainable_variables)
    rows, observations = BATCH_SIZE // replicas, []
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        observations.append(observation_in_adams_norm(single, x[part], y[part]))
        end = start + rows
        if end % BATCH_SIZE == 0:
            batch = slice(end - BATCH_SIZE, end)
            single.train_on_batch(x[batch], y[batch])
    with strategy.scope():
        model = SVAGModel(dense_network())
        model.compile(adam(), "mse")
    logs = fit(model, x, y, BATCH_SIZE)
    estimate = model.preconditioned_gradient_noise.estimate()
    assert estimate.count == steps * replicas
    assert estimate.batch_size == BATCH_SIZE
    expected = np.mean(observations, axis=0) / (1, replicas)
    for ours in (
        (estimate.grad_sq_norm, estimate.noise_trace),
        [
            logs[f"preconditioned_{key}"][-1]
            for key in ("grad_sq_norm", "noise_trace")
        ],
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-4)


def trained_with_check(scope, folder, optimizer, epochs, **settings):
    """Trains under a scope; returns the check's report and the logs."""
    x, y = regression(10 * BATCH_SIZE)
    with scope:
        model = SVAGModel(dense_network(), num_examples=len(x))
        model.compile(optimizer(), "mse")
    check = LinearScalingRuleCheck(
        BATCH_SIZE, verbose=0, log_dir=folder, **settings
    )
    logs = fit(model, x, y, BATCH_SIZE, epochs=epochs, callbacks=[check])
    return check.report, logs


def trained_with_check_as_on_one_device(strategy, optimizer, **settings):
    single = contextlib.nullcontext()
    expected, _ = trained_with_check(single, None, optimizer, **settings)
    with tempfile.TemporaryDirectory() as folder:
        report, logs = trained_with_check(
            strategy.scope(), folder, optimizer, **settings
        )
        assert bool(os.listdir(folder)) == is_chief(strategy)
    np.testing.assert_allclose(
        report.weight_sq_norm, expected.weight_sq_norm, rtol=1e-5
    )
    assert report.verdict.learning_rate == expected.verdict.learning_rate
    return report, logs


def check_linear_scaling_is_judged_by_training(strategy):
    report, logs = trained_with_check_as_on_one_device(
        strategy,
        lambda: keras.optimizers.SGD(0.1, weight_decay=0.01),
        epochs=2,
        window=2,
    )
    estimate = report.estimate
    assert estimate.count == 2 * 10 * strategy.num_replicas_in_sync
    assert estimate.batch_size == BATCH_SIZE
    for key in ("grad_sq_norm", "noise_trace"):
        np.testing.assert_allclose(
            getattr(estimate, key), np.mean(logs[key]), rtol=1e-5
        )


def check_linear_scaling_is_judged_within_an_epoch(strategy):
    report, logs = trained_with_check_as_on_one_device(
        strategy,
        lambda: keras.optimizers.SGD(0.1),
        epochs=1,
        window="6 steps",
        update_freq=3,
    )
    assert (report.first_step, report.last_step) == (5, 10)
    assert report.estimate.count == 6 * strategy.num_replicas_in_sync
    assert logs["noise_to_signal_low"][-1] == report.estimate.interval()[0]
    assert "the loss is not scale-invariant" in str(report)
