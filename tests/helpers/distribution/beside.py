"""Checks under a strategy of two replicas: the monitor beside training."""

import keras
import numpy as np

from keras_svag import GradientNoiseMonitor
from tests.helpers.bits import assert_same_bits, bits_of, without_noise
from tests.helpers.small_problems import (
    classification,
    linear_model,
    regression,
)

REPLICAS, BATCH_SIZE = 2, 8


def network(**compilation):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 3, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], **compilation)
    return model


def fit(model, data, callbacks=(), **arguments):
    history = model.fit(
        *data,
        batch_size=BATCH_SIZE,
        verbose=0,
        callbacks=list(callbacks),
        **arguments,
    )
    return without_noise(history.history)


def bits_of_every_replica(strategy, model):
    variables = [
        *model.variables,
        *model.optimizer.variables,
        *model.metrics_variables,
    ]
    return bits_of(model), [
        [part.numpy() for part in strategy.experimental_local_results(v.value)]
        for v in variables
    ]


def same_bits(strategy, rows, **compilation):
    data = classification(rows, (6, 6, 2))
    left = []
    for monitors in ([], [GradientNoiseMonitor(every=2)]):
        with strategy.scope():
            model = network(**compilation)
        logs = [fit(model, data, monitors, epochs=2) for _ in range(2)]
        left.append((logs, bits_of_every_replica(strategy, model)))
    theirs, ours = left
    assert_same_bits(ours, theirs)
    assert len(monitors[0].series) > 0


def check_training_keeps_its_bits(strategy):
    for rows in (43, 46):
        same_bits(strategy, rows)


def pair_moments(x, y, kernel):
    """G and S of the halves of one replica's rows, in float64."""
    halves = [(x[i::2], y[i::2]) for i in (0, 1)]
    g1, g2 = (2 * x.T @ (x @ kernel - y) / len(x) for x, y in halves)
    weight = sum(1 / len(x) for x, _ in halves)
    return np.sum(g1 * g2), np.sum((g1 - g2) ** 2) / weight


def check_observation_is_the_mean_of_those_of_the_replicas(strategy):
    # The last batch: of 5 rows, which are 3 and 2; of 3, which are 2 and 1.
    for last in (0, 5, 3):
        x, y = regression(5 * BATCH_SIZE + last, num_outputs=1)
        with strategy.scope():
            model = linear_model(4)
            model.compile(keras.optimizers.SGD(0.0), "mse")
        kernel = model.get_weights()[0].astype("float64")
        monitor = GradientNoiseMonitor(every=1)
        fit(model, (x, y), [monitor], shuffle=False, epochs=2)
        rows, expected = [], []
        for start in range(0, len(x), BATCH_SIZE):
            batch = [a[start : start + BATCH_SIZE] for a in (x, y)]
            first = -(-len(batch[0]) // REPLICAS)
            parts = [[a[:first] for a in batch], [a[first:] for a in batch]]
            if len(parts[1][0]) > 1:
                rows.append(len(batch[0]))
                moments = [pair_moments(*part, kernel) for part in parts]
                expected.append(np.mean(moments, 0))
        # The very first step of training is not measured.
        expected, rows = ((2 * values)[1:] for values in (expected, rows))
        np.testing.assert_array_equal(monitor.series["rows"], rows)
        for column, values in zip(
            ("grad_sq_norm", "example_noise"),
            np.transpose(expected),
            strict=True,
        ):
            np.testing.assert_allclose(
                monitor.series[column], values, rtol=1e-4, atol=1e-6
            )
