"""Batches of any size: trained on as unwrapped, measured by their own sizes."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag import SVAG, NoiseEstimate, SVAGModel
from keras_svag.noise.estimate import PairSums
from tests.helpers.small_problems import (
    dense_network,
    interleaved,
    largest_difference,
    linear_model,
    regression,
)

ROWS = 50
X, Y = regression(ROWS)


def batches(size=16):
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(size)


def generator(sizes=(16, 16, 16, 2)):
    while True:
        start = 0
        for size in sizes:
            yield X[start : start + size], Y[start : start + size]
            start += size


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        rows = slice(16 * index, 16 * (index + 1))
        return X[rows], Y[rows]


# What `fit` is given, and the nominal batch size that follows.
FED = {
    "even": (lambda: {"x": X[:48], "y": Y[:48], "batch_size": 16}, 16),
    "short last": (lambda: {"x": X, "y": Y, "batch_size": 16}, 16),
    "one last": (lambda: {"x": X[:17], "y": Y[:17], "batch_size": 8}, 8),
    "odd": (lambda: {"x": X, "y": Y, "batch_size": 7}, 7),
    "one row": (lambda: {"x": X[:5], "y": Y[:5], "batch_size": 1}, 1),
    "less than one": (lambda: {"x": X[:9], "y": Y[:9]}, 9),
    "split": (
        lambda: {"x": X, "y": Y, "batch_size": 16, "validation_split": 0.3},
        16,
    ),
    "data set": (lambda: {"x": batches()}, 16),
    "generator": (lambda: {"x": generator(), "steps_per_epoch": 4}, 16),
    "PyDataset": (lambda: {"x": Sequence()}, 16),
}


def fitted(model, fed, optimizer="adam", **compiled):
    model.compile(optimizer, "mse", metrics=["mae"], **compiled)
    return model.fit(epochs=2, shuffle=False, verbose=0, **fed()).history


@pytest.mark.parametrize("kind", FED)
@pytest.mark.parametrize("eager", [False, True])
def test_model_trains_as_unwrapped_on_whatever_fit_takes(kind, eager):
    fed, nominal = FED[kind]
    unwrapped = dense_network(kernel_regularizer="l2")
    expected = fitted(unwrapped, fed, run_eagerly=eager)
    model = dense_network(kernel_regularizer="l2")
    wrapped = SVAGModel(model)
    actual = fitted(wrapped, fed, run_eagerly=eager)
    assert largest_difference(model, unwrapped) < 1e-6
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=1e-5)
    assert wrapped.gradient_noise.batch_size == nominal


def test_changing_sizes_of_train_on_batch_train_as_unwrapped():
    unwrapped, model = dense_network(), dense_network()
    unwrapped.compile("sgd", "mse")
    wrapped = SVAGModel(model)
    wrapped.compile("sgd", "mse")
    traced = {"wrapped": 0, "unwrapped": 0}

    def counted(name, step):
        def train_step(data):
            traced[name] += 1
            return step(data)

        return train_step

    wrapped.train_step = counted("wrapped", wrapped.train_step)
    unwrapped.train_step = counted("unwrapped", unwrapped.train_step)
    for size in (8, 3, 16, 1, 8, 16, 5):
        expected = unwrapped.train_on_batch(X[:size], Y[:size])
        actual = wrapped.train_on_batch(X[:size], Y[:size])
        np.testing.assert_allclose(actual[0], expected, rtol=1e-5)
        # A batch of one row has no pair; Keras resets metrics at each call.
        assert wrapped.gradient_noise.estimate().count == (size > 1)
    assert largest_difference(model, unwrapped) < 1e-6
    assert wrapped.gradient_noise.batch_size == 16
    assert traced["wrapped"] <= traced["unwrapped"]


@pytest.mark.parametrize("rows", [2, 3, 4, 5])
def test_moments_of_unequal_halves_are_unbiased_by_enumeration(rows):
    # All batches that can be drawn with replacement, each once.
    x = np.array([[1.0, 0.5], [-0.3, 2.0], [0.7, -1.0]], "float32")
    y = np.array([[1.0], [-2.0], [0.5]], "float32")
    model = linear_model(2)
    wrapped = SVAGModel(model, batch_size=4)
    wrapped.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    sums = PairSums()
    for drawn in itertools.product(range(3), repeat=rows):
        wrapped.train_on_batch(x[list(drawn)], y[list(drawn)])
        sums += wrapped.gradient_noise.sums()
    kernel = model.get_weights()[0].astype("float64")
    gradients = 2 * (x @ kernel - y) * x
    mean = gradients.mean(0)
    trace = np.mean(np.sum((gradients - mean) ** 2, axis=1))
    assert sums.count == 3**rows
    estimate = NoiseEstimate.from_sums(**sums.to_dict())
    assert estimate.grad_sq_norm == pytest.approx(mean @ mean, rel=1e-5)
    assert estimate.noise_trace == pytest.approx(trace / 4, rel=1e-5)


@pytest.mark.parametrize("num_examples", [None, ROWS])
def test_noise_is_stated_at_the_largest_batch_seen(num_examples):
    def estimated(**arguments):
        wrapped = SVAGModel(
            dense_network(), num_examples=num_examples, **arguments
        )
        logs = fitted(
            wrapped,
            # The larger batches come after smaller ones.
            lambda: {"x": generator((4, 7, 16, 16, 2)), "steps_per_epoch": 5},
            "sgd",
        )
        return wrapped.gradient_noise.estimate(), logs

    seen, seen_logs = estimated()
    told, told_logs = estimated(batch_size=16)
    assert seen.batch_size == told.batch_size == 16
    for name in ("grad_sq_norm", "noise_trace", "noise_trace_se", "covariance"):
        assert getattr(seen, name) == pytest.approx(
            getattr(told, name), rel=1e-5
        )
    np.testing.assert_allclose(
        seen_logs["noise_scale"], told_logs["noise_scale"], rtol=1e-5
    )


def test_masked_losses_weigh_the_halves_by_what_the_mask_keeps():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, 22)
    tokens = rng.integers(1, 9, (22, 6)) * (np.arange(6) < lengths[:, None])
    tags = rng.integers(0, 3, (22, 6))

    def tagger():
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.layers.Embedding(9, 4, mask_zero=True),
                keras.layers.LSTM(4, return_sequences=True),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )

    histories = []
    models = tagger(), tagger()
    for model in (models[0], SVAGModel(models[1])):
        model.compile(
            "sgd", "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        fit = model.fit(tokens, tags, batch_size=8, verbose=0, shuffle=False)
        histories.append(fit.history)
    assert largest_difference(*models) < 1e-6
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(
            histories[1][name], histories[0][name], rtol=1e-5
        )


def svag_fitted(**fed):
    model = dense_network()
    wrapped = SVAGModel(model)
    wrapped.compile(SVAG(0.1, ell=4), "mse")
    wrapped.fit(epochs=2, shuffle=False, verbose=0, **fed)
    return model, wrapped


def test_svag_leaves_out_short_batches_and_the_last_row_of_odd_ones():
    whole, _ = svag_fitted(x=X[:48], y=Y[:48], batch_size=16)
    with pytest.warns(UserWarning, match="leaves out 2 of the 50 rows"):
        short, _ = svag_fitted(x=X, y=Y, batch_size=16)
    from_stream, wrapped = svag_fitted(x=batches())
    assert largest_difference(short, whole) == 0
    assert largest_difference(from_stream, whole) < 1e-6
    assert wrapped.optimizer.effective_iterations == 2 * 3 / 4
    assert wrapped.gradient_noise.batch_size == 8
    with pytest.warns(UserWarning, match="leaves out 8 of the 50 rows"):
        odd, _ = svag_fitted(x=X, y=Y, batch_size=7)
    rows = np.arange(49).reshape(7, 7)[:, :6].ravel()
    trimmed, _ = svag_fitted(x=X[rows], y=Y[rows], batch_size=6)
    assert largest_difference(odd, trimmed) < 1e-6


def test_svag_on_one_row_is_refused():
    with pytest.raises(ValueError, match="at least 2 rows"):
        svag_fitted(x=X[:4], y=Y[:4], batch_size=1)


def test_a_pair_of_a_plain_model_is_that_of_a_wrapped_one():
    # Rows a0 b0 a1 b1 … of the wrapped model's batches are the plain one's.
    plain = dense_network()
    plain.compile(SVAG(0.1, ell=4), "mse")
    plain.fit(X[:48], Y[:48], batch_size=8, shuffle=False, verbose=0)
    model = dense_network()
    wrapped = SVAGModel(model)
    wrapped.compile(SVAG(0.1, ell=4), "mse")
    x, y = interleaved(X[:48], 8), interleaved(Y[:48], 8)
    wrapped.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    assert largest_difference(model, plain) == 0


def test_xla_needs_a_static_number_of_rows():
    wrapped = SVAGModel(dense_network())
    wrapped.compile("sgd", "mse", jit_compile=True)
    with pytest.raises(ValueError, match="drop_remainder=True"):
        wrapped.fit(X, Y, batch_size=16, verbose=0)


@pytest.mark.parametrize(
    ("optimizer", "count", "size"),
    [(lambda: "sgd", 2, 16), (lambda: SVAG(0.1, ell=4), 1, 8)],
    ids=["sgd", "svag"],
)
def test_a_model_compiled_for_xla_trains_on_batches_of_any_size(
    optimizer, count, size
):
    models, estimates = [], []
    for jit_compile in (False, True):
        model = dense_network()
        model.compile(optimizer(), "mse", jit_compile=jit_compile)
        wrapped = SVAGModel(model)
        # A batch of one row, which cannot be split, and an odd one.
        wrapped.fit(generator((1, 16, 7)), steps_per_epoch=3, verbose=0)
        models.append(model)
        estimates.append(wrapped.gradient_noise.estimate())
    assert largest_difference(*models) < 1e-6
    for name in ("count", "batch_size", "noise_trace", "grad_sq_norm"):
        assert getattr(estimates[1], name) == pytest.approx(
            getattr(estimates[0], name), rel=1e-4
        )
    assert (estimates[0].count, estimates[0].batch_size) == (count, size)


def test_svag_leaves_out_a_first_batch_of_one_row():
    wrapped = SVAGModel(dense_network())
    wrapped.compile(SVAG(0.1, ell=4), "mse")
    wrapped.fit(generator((1, 16, 7)), steps_per_epoch=3, verbose=0)
    assert wrapped.gradient_noise.estimate().count == 1
