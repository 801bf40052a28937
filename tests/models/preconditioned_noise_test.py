"""G and N in the norm of an adaptive optimizer, measured in its own steps."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_svag
from keras_svag import SVAGModel
from keras_svag.models.preconditioner import preconditioned_pair
from keras_svag.noise.pairs import pair_moments
from tests.helpers.noise_keys import PRECONDITIONED
from tests.helpers.small_problems import dense_network, regression

# In each case the denominator from the optimizer's variables by their names,
# as Keras's documentation of the optimizer writes its step.
OPTIMIZERS = {
    "Adam": ({}, lambda v, eps: np.sqrt(v["velocity"]) + eps),
    "AdamW": ({}, lambda v, eps: np.sqrt(v["velocity"]) + eps),
    "Nadam": ({}, lambda v, eps: np.sqrt(v["velocity"]) + eps),
    "Adamax": ({}, lambda v, eps: v["norm"] + eps),
    "RMSprop": ({}, lambda v, eps: np.sqrt(v["velocity"] + eps)),
    "Adagrad": ({}, lambda v, eps: np.sqrt(v["accumulator"] + eps)),
}
VARIANTS = {
    **{name: (name, *how) for name, how in OPTIMIZERS.items()},
    "amsgrad": (
        "Adam",
        {"amsgrad": True},
        lambda v, eps: np.sqrt(v["velocity_hat"]) + eps,
    ),
    "SVAGAdam": (
        "SVAGAdam",
        {"ell": 4, "pairing": "halves"},
        lambda v, eps: np.sqrt(v["velocity"]) + 2 * eps,
    ),
    "SVAGRMSprop": (
        "SVAGRMSprop",
        {"ell": 4, "pairing": "halves"},
        lambda v, eps: np.sqrt(v["velocity"] + 4 * eps),
    ),
    "centered": (
        "RMSprop",
        {"centered": True},
        lambda v, eps: np.sqrt(
            v["velocity"] - v["average_gradient"] ** 2 + eps
        ),
    ),
}


def optimizer_of(name, **options):
    # An epsilon that is not small: forgetting it is seen.
    kind = getattr(
        keras_svag if name.startswith("SVAG") else keras.optimizers, name
    )
    return kind(learning_rate=0.02, epsilon=0.03, **options)


def mean_squared_gradients(model, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    return [np.array(g) for g in tape.gradient(loss, model.trainable_weights)]


def variables_by_kind(optimizer, model):
    """`{kind: [array of each variable]}` of an optimizer's own variables."""
    kinds = {}
    for variable in optimizer.variables:
        for weight in model.trainable_weights:
            prefix = weight.path.replace("/", "_") + "_"
            if variable.name.startswith(prefix):
                kind = variable.name.removeprefix(prefix)
                kinds.setdefault(kind, []).append(variable.numpy())
    return kinds


@pytest.mark.parametrize("variant", VARIANTS)
def test_moments_are_those_of_the_scale_before_the_step(variant):
    name, options, denominator = VARIANTS[variant]
    model = dense_network()
    x, y = regression(24)
    wrapped = SVAGModel(model, per_layer=True)
    optimizer = optimizer_of(name, **options)
    wrapped.compile(optimizer, "mse", run_eagerly=True)
    wrapped.fit(x[:16], y[:16], batch_size=8, verbose=0)
    kinds = variables_by_kind(optimizer, model)
    parts = [
        denominator(
            {kind: v[i] for kind, v in kinds.items()}, optimizer.epsilon
        )
        for i in range(len(model.trainable_weights))
    ]
    # 8 rows of a batch, of which the even ones are one half.
    first, second = (
        mean_squared_gradients(model, x[16 + i :: 2], y[16 + i :: 2])
        for i in (0, 1)
    )
    wrapped.reset_metrics()
    logs = wrapped.train_on_batch(x[16:], y[16:], return_dict=True)
    pairs = list(zip(first, second, parts, strict=True))
    signals = [np.sum(a * b / p**2) for a, b, p in pairs]
    # Of 4 rows each, stated at 8.
    noises = [np.sum(((a - b) / p) ** 2) / 4 for a, b, p in pairs]
    assert logs["preconditioned_grad_sq_norm"] == pytest.approx(
        sum(signals), rel=1e-4
    )
    assert logs["preconditioned_noise_trace"] == pytest.approx(
        sum(noises), rel=1e-4
    )
    assert logs["preconditioned_noise_to_signal"] == pytest.approx(
        sum(noises) / sum(signals), rel=1e-4
    )
    estimate = wrapped.preconditioned_gradient_noise.estimate()
    measured = list(estimate.per_layer.values())
    np.testing.assert_allclose(
        [layer.grad_sq_norm for layer in measured], signals, rtol=1e-3
    )
    np.testing.assert_allclose(
        [layer.noise_trace for layer in measured], noises, rtol=1e-3
    )


def test_unbiased_over_all_pairs_of_batches():
    """By enumeration: five examples, every pair of them, a fixed scale."""
    model = dense_network()
    x, y = regression(5)
    optimizer = optimizer_of("Adam")
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(1)
    scales = []
    for variable in optimizer._velocities:
        variable.assign(rng.uniform(0.01, 4, variable.shape))
        scales.append(1 / (np.sqrt(variable.numpy()) + 0.03) ** 2)
    each = [
        mean_squared_gradients(model, x[[i]], y[[i]]) for i in range(len(x))
    ]
    g, n = np.mean(
        [
            np.sum(
                pair_moments(
                    *preconditioned_pair(
                        a, b, model.trainable_weights, optimizer
                    )
                ),
                axis=1,
            )
            for a, b in itertools.product(each, each)
        ],
        axis=0,
    )
    means = [np.mean(parts, axis=0) for parts in zip(*each, strict=True)]
    variances = [np.var(parts, axis=0) for parts in zip(*each, strict=True)]
    both = list(zip(scales, means, variances, strict=True))
    assert g == pytest.approx(sum(np.sum(p * m**2) for p, m, _ in both))
    assert n == pytest.approx(sum(np.sum(p * s) for p, _, s in both))


def test_entries_without_a_second_moment_are_left_out():
    model = dense_network()
    x, y = regression(16)
    wrapped = SVAGModel(model)
    wrapped.compile("adam", "mse")
    logs = wrapped.train_on_batch(x[:8], y[:8], return_dict=True)
    assert logs["preconditioned_grad_sq_norm"] == 0
    assert logs["preconditioned_noise_trace"] == 0
    wrapped.reset_metrics()
    logs = wrapped.train_on_batch(x[8:], y[8:], return_dict=True)
    # Of g²/v = 1 / (1 - β₂) for each entry, not of g² / ε².
    assert 0 < logs["preconditioned_noise_trace"] < 1e9


def test_sparse_gradients_are_scaled_by_their_rows():
    table = keras.Variable(np.zeros((6, 2)))
    optimizer = optimizer_of("RMSprop")
    optimizer.build([table])
    rng = np.random.default_rng(0)
    optimizer._velocities[0].assign(rng.uniform(0.01, 4, (6, 2)))
    # A row twice in a gradient, and one in both.
    sparse = [
        tf.IndexedSlices(
            tf.constant(rng.normal(size=(3, 2)), "float32"), rows, (6, 2)
        )
        for rows in ([1, 4, 1], [4, 0, 5])
    ]
    moments = [
        pair_moments(*preconditioned_pair([a], [b], [table], optimizer))
        for a, b in (sparse, map(tf.convert_to_tensor, sparse))
    ]
    np.testing.assert_allclose(*moments, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "lion", "muon", "adafactor"])
def test_no_keys_where_there_are_no_elementwise_moments(optimizer):
    wrapped = SVAGModel(dense_network())
    wrapped.compile(optimizer, "mse", run_eagerly=True)
    x, y = regression(8)
    logs = wrapped.train_on_batch(x, y, return_dict=True)
    assert PRECONDITIONED.isdisjoint(logs)
    assert "noise_trace" in logs


def test_loss_scale_is_taken_away():
    logs = []
    for scale in (None, 64.0):
        wrapped = SVAGModel(dense_network())
        optimizer = optimizer_of("Adam")
        if scale:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, scale)
        wrapped.compile(optimizer, "mse")
        x, y = regression(32)
        history = wrapped.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        logs.append(history.history)
    for key in PRECONDITIONED:
        np.testing.assert_allclose(logs[0][key], logs[1][key], rtol=1e-5)


def test_batches_of_any_size_are_stated_at_the_nominal_one():
    """A short last batch counts by its rows, as it does for N."""
    model = dense_network()
    wrapped = SVAGModel(model, batch_size=8)
    optimizer = optimizer_of("Adagrad")
    wrapped.compile(optimizer, "mse", run_eagerly=True)
    x, y = regression(11)
    wrapped.train_on_batch(x[:8], y[:8])
    scales = [1 / np.sqrt(v.numpy() + 0.03) for v in optimizer._accumulators]
    a, b = (
        mean_squared_gradients(model, x[8 + i :: 2], y[8 + i :: 2])
        for i in (0, 1)
    )
    wrapped.reset_metrics()
    # Of 3 rows: halves of 2 and 1.
    wrapped.train_on_batch(x[8:], y[8:])
    noise = sum(
        np.sum(((g1 - g2) * s) ** 2)
        for g1, g2, s in zip(a, b, scales, strict=True)
    )
    estimate = wrapped.preconditioned_gradient_noise.estimate()
    assert estimate.batch_size == 8
    assert estimate.noise_trace == pytest.approx(noise / 1.5 / 8, rel=1e-4)


def test_files_and_evaluation_are_as_before(tmp_path):
    wrapped = SVAGModel(dense_network())
    wrapped.compile("adam", "mse")
    x, y = regression(32)
    history = wrapped.fit(
        x, y, batch_size=8, validation_data=(x, y), verbose=0
    ).history
    assert PRECONDITIONED <= history.keys()
    assert not any(key.startswith("val_precond") for key in history)
    wrapped.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for model in (wrapped, again):
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    np.testing.assert_allclose(
        again.predict(x, verbose=0), wrapped.predict(x, verbose=0), rtol=1e-6
    )
