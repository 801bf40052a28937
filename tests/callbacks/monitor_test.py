"""What the monitor observes, against closed forms in NumPy's float64."""

import itertools
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_svag import SVAG, GradientNoiseMonitor, SVAGModel
from tests.helpers import public_models as models
from tests.helpers.refusals import check_sentence
from tests.helpers.small_problems import dense_network, regression

# 5 batches of 8 rows and one of 3, whose halves have 2 rows and 1.
ROWS, BATCH_SIZE, STEPS = 43, 8, 6
RATE, L2, ADDED = 0.1, 0.05, 0.2
START = np.array([0.5, -0.3, 0.2])
X, Y = regression(ROWS, num_inputs=3, num_outputs=1)
SAMPLE_WEIGHTS = np.random.default_rng(1).uniform(0, 2, ROWS)


def gradient(w, x, y, weights=1.0, l2=0.0, added=0.0):
    """That of a linear model's mean squared error and its penalties."""
    outputs = x @ w
    slopes = 2 * weights * (outputs - y[:, 0]) + 2 * added * outputs
    return slopes @ x / len(x) + 2 * l2 * w


def moments(g1, g2, rows):
    r1, r2 = rows - rows // 2, rows // 2
    return g1 @ g2, np.sum((g1 - g2) ** 2) / (1 / r1 + 1 / r2)


def by_hand(epochs=2, accumulated=1, weights=None, **penalties):
    """`(G, S, |w|²)` before each step of training by SGD."""
    w, rows, gradients = START, [], []

    def of(*span):
        part = slice(*span)
        of_rows = 1.0 if weights is None else weights[part]
        return gradient(w, X[part], Y[part], of_rows, **penalties)

    for begin in [*range(0, ROWS, BATCH_SIZE)] * epochs:
        end = min(begin + BATCH_SIZE, ROWS)
        halves = of(begin, end, 2), of(begin + 1, end, 2)
        rows.append((*moments(*halves, end - begin), w @ w))
        gradients.append(of(begin, end))
        if len(gradients) == accumulated:
            w = w - RATE * np.mean(gradients, axis=0)
            gradients = []
    return np.array(rows)


class Penalty(keras.layers.Layer):
    def call(self, x):
        self.add_loss(ADDED * ops.mean(ops.square(x)))
        return x


class OwnTrainStep(keras.Sequential):
    """Compiled without a loss, as in Keras's guides."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(self(x) - y))
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def linear_model(
    *layers,
    optimizer=None,
    loss="mse",
    make=keras.Sequential,
    compilation=None,
    **dense,
):
    model = make(
        [
            keras.Input((3,)),
            keras.layers.Dense(1, use_bias=False, **dense),
            *layers,
        ]
    )
    model.layers[0].kernel.assign(START[:, None])
    optimizer = optimizer or keras.optimizers.SGD(RATE)
    model.compile(optimizer, loss, **(compilation or {}))
    return model


def eager(**arguments):
    return linear_model(compilation={"run_eagerly": True}, **arguments)


def fit(model, *callbacks, x=X, y=Y, batch_size=BATCH_SIZE, **arguments):
    arguments = {"epochs": 2, "shuffle": False, "verbose": 0} | arguments
    return model.fit(
        x, y, batch_size, callbacks=list(callbacks), **arguments
    ).history


def observed(monitor, *columns):
    return np.stack([monitor.series[name] for name in columns], axis=1)


MOMENTS = ("grad_sq_norm", "example_noise")
NORM = tuple(f"preconditioned_{name}" for name in MOMENTS)
SGD = keras.optimizers.SGD


def accumulating():
    return SGD(RATE, gradient_accumulation_steps=4)


def scaled():
    return keras.optimizers.LossScaleOptimizer(SGD(RATE), initial_scale=1024.0)


@pytest.mark.parametrize(
    ("network", "compilation", "hand", "error"),
    [
        pytest.param({}, {}, {}, 1e-5, id="graph"),
        pytest.param({}, {"run_eagerly": True}, {}, 1e-5, id="eager"),
        pytest.param({}, {"jit_compile": True}, {}, 1e-5, id="XLA"),
        pytest.param(
            {}, {"steps_per_execution": 4}, {}, 1e-5, id="four steps at once"
        ),
        pytest.param(
            {"optimizer": accumulating},
            {},
            {"accumulated": 4},
            1e-5,
            id="accumulated",
        ),
        pytest.param(
            {"optimizer": scaled, "dtype": "mixed_float16"},
            {},
            {},
            1e-2,
            id="half precision",
        ),
        pytest.param({}, {}, {"weights": SAMPLE_WEIGHTS}, 1e-5, id="weights"),
        pytest.param(
            {"kernel_regularizer": keras.regularizers.L2(L2)},
            {},
            {"l2": L2, "added": ADDED},
            1e-5,
            id="penalties",
        ),
        pytest.param(
            {"make": OwnTrainStep, "loss": None}, {}, {}, 1e-5, id="train_step"
        ),
    ],
)
def test_observations_are_of_the_halves_before_the_step(
    network, compilation, hand, error
):
    network = dict(network)
    if "optimizer" in network:
        network["optimizer"] = network["optimizer"]()
    layers = [Penalty()] if "added" in hand else []
    model = linear_model(*layers, compilation=compilation, **network)
    given = {} if model.loss else {"loss": "mse"}
    monitor = GradientNoiseMonitor(every=1, **given)
    fit(model, monitor, epochs=3, sample_weight=hand.get("weights"))
    steps = monitor.series["step"].astype(int)
    expected = by_hand(epochs=3, **hand)[steps - 1]
    actual = observed(monitor, *MOMENTS, "weight_sq_norm")
    scale = np.abs(expected).max(axis=0)
    np.testing.assert_allclose(actual / scale, expected / scale, 0, error)
    # The first call is hers: it traces her step.
    together = model.steps_per_execution
    assert len(steps) == (3 * STEPS - 1 if together == 1 else 5)
    rows = np.where(steps % STEPS, BATCH_SIZE, 3)
    np.testing.assert_array_equal(monitor.series["rows"], rows)
    epochs = (steps - 1) // STEPS + 1
    np.testing.assert_array_equal(monitor.series["epoch"], epochs)
    accumulated = hand.get("accumulated", 1)
    assert monitor.batch_size == accumulated * BATCH_SIZE
    done = (steps - 1) // together * together + (steps - 1) % together
    iterations = done // accumulated
    np.testing.assert_array_equal(monitor.series["iteration"], iterations)


def population(x, y, w=START):
    """Exact G and S of a data set."""
    each = np.array(
        [gradient(w, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    )
    mean = each.mean(axis=0)
    return mean @ mean, np.sum((each - mean) ** 2) / len(x)


def observe_all(batches, **arguments):
    """A monitor of the given batches, a list of rows, at fixed weights."""
    rows = np.concatenate(batches)

    def generator():
        while True:
            for batch in batches:
                yield X[batch], Y[batch]

    monitor = GradientNoiseMonitor(every=1, **arguments)
    linear_model(optimizer=SGD(0.0)).fit(
        generator(),
        steps_per_epoch=len(batches),
        epochs=2,
        callbacks=[monitor],
        verbose=0,
    )
    assert len(rows) > len(monitor.series.window(epochs=1)) == len(batches)
    return monitor


@pytest.mark.parametrize("rows", [2, 3])
def test_moments_are_exact_over_all_batches_of_a_set(rows):
    batches = list(itertools.product(range(4), repeat=rows))
    monitor = observe_all(np.array(batches), num_examples=None)
    estimate = monitor.series.window(epochs=1).estimate()
    actual = estimate.grad_sq_norm, estimate.example_noise
    assert actual == pytest.approx(population(X[:4], Y[:4]), rel=1e-5)


def test_moments_are_exact_over_all_permutations_of_a_set():
    orders = itertools.permutations(range(4))
    batches = [batch for o in orders for batch in (o[:2], o[2:])]
    monitor = observe_all(np.array(batches), num_examples=4)
    assert monitor.series.sampling == "shuffle"
    estimate = monitor.series.window(epochs=1).estimate()
    actual = estimate.grad_sq_norm, estimate.example_noise
    assert actual == pytest.approx(population(X[:4], Y[:4]), rel=1e-5)


def test_stated_errors_are_those_of_drawn_batches():
    batches = np.random.default_rng(0).integers(0, ROWS, (1000, BATCH_SIZE))
    estimate = observe_all(batches, num_examples=None).series.estimate()
    g, s = population(X, Y)
    # By hand from a thousand other batches, whose draws are independent.
    others = np.random.default_rng(1).integers(0, ROWS, (1000, 2, 4))
    pairs = [
        moments(*(gradient(START, X[i], Y[i]) for i in pair), BATCH_SIZE)
        for pair in others
    ]
    errors = np.std(pairs, axis=0) / len(monitored := batches) ** 0.5
    stated = estimate.grad_sq_norm_se, estimate.example_noise_se
    assert stated == pytest.approx(errors / 2**0.5, rel=0.2), monitored.shape
    assert abs(estimate.grad_sq_norm - g) < 4 * stated[0]
    assert abs(estimate.example_noise - s) < 4 * stated[1]
