import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import sparse

from keras_svag.probe.measurement import measure_gradient_noise
from tests.helpers.small_problems import (
    batches_of,
    compiled,
    linear_model,
    over_all_pairs,
    slopes,
)

ROWS, FEATURES, SIZE = 45, 6, 7
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, FEATURES)) * (RNG.random((ROWS, FEATURES)) < 0.4)
X, Y = X.astype("float32"), RNG.normal(size=(ROWS, 1)).astype("float32")

measure = functools.partial(
    measure_gradient_noise, num_batches=30, seed=0, verbose=0
)


def linear(inputs=None, to_dense=lambda x: x):
    """The linear model, on inputs of a kind that are made dense."""
    inner = linear_model(FEATURES)
    inputs = keras.Input((FEATURES,)) if inputs is None else inputs
    model = keras.Model(inputs, inner.layers[0](to_dense(inputs)))
    return compiled(model)


class Batches(keras.utils.PyDataset):
    """Those of X and Y, over and over again if it is endless."""

    def __init__(self, is_endless=False):
        super().__init__()
        self.batches = batches_of(X, Y, SIZE)
        self.is_endless = is_endless

    @property
    def num_batches(self):
        return None if self.is_endless else len(self.batches)

    def __getitem__(self, index):
        return self.batches[index % len(self.batches)]


def slices(*data):
    return tf.data.Dataset.from_tensor_slices(data)


AS_FIT_TAKES_THEM = {
    "tf.data": lambda: slices(X, Y).batch(SIZE).prefetch(2),
    "without the remainder": lambda: slices(X, Y).batch(SIZE, True),
    "of unknown size": lambda: slices(X, Y).filter(lambda *_: True).batch(SIZE),
    "PyDataset": Batches,
    "generator": lambda: (batch for batch in batches_of(X, Y, SIZE)),
    "list": lambda: batches_of(X, Y, SIZE),
    "lists in a generator": lambda: map(list, batches_of(X, Y, SIZE)),
}


@pytest.mark.parametrize("kind", AS_FIT_TAKES_THEM)
def test_batches_are_taken_as_they_come(kind):
    model = linear()
    estimate = measure(model, AS_FIT_TAKES_THEM[kind]())
    # Without the batch of three rows at the end.
    gradients = slopes(model, X, Y)[:42].reshape(6, SIZE, FEATURES).mean(1)
    moments = estimate.grad_sq_norm, estimate.example_noise
    expected = over_all_pairs(gradients, SIZE)
    assert moments == pytest.approx(expected, rel=1e-4)
    assert (estimate.count, estimate.batch_size) == (6, SIZE)
    assert (estimate.num_examples, estimate.num_skipped) == (None, 0)
    assert estimate.sampling is None


def test_no_more_batches_are_read_than_asked_for():
    batches = batches_of(X, Y, SIZE)
    expected = measure(linear(), batches[:5])
    generator = iter(batches)
    for data in (generator, Batches(is_endless=True), itertools.cycle(batches)):
        assert measure(linear(), data, num_batches=5) == expected
    assert [len(x) for x, _ in generator] == [SIZE, ROWS % SIZE]
    endless = slices(X, Y).batch(SIZE).repeat()
    assert measure(linear(), endless, num_batches=14).count == 12


def of_ragged():
    """A model that pads its ragged inputs with zeros."""
    pad = keras.layers.Lambda(
        lambda x: x.to_tensor(shape=(None, FEATURES)),
        output_shape=(FEATURES,),
    )
    return linear(keras.Input((None,), ragged=True), pad)


def of_sparse():
    return linear(keras.Input((FEATURES,), sparse=True))


LENGTHS = np.random.default_rng(1).integers(0, FEATURES + 1, ROWS)
PADDED = X * (np.arange(FEATURES) < LENGTHS[:, None])
RAGGED = tf.RaggedTensor.from_tensor(tf.constant(PADDED), LENGTHS)
SPARSE = tf.sparse.from_dense(X)
CSR = [(sparse.csr_matrix(x), y) for x, y in batches_of(X, Y, SIZE)]


@pytest.mark.parametrize(
    ("data", "x", "make_model"),
    [
        ((tf.constant(X), tf.constant(Y)), X, linear),
        ((X.astype("float64"), Y, np.ones(ROWS)), X, linear),
        ((RAGGED, Y), PADDED, of_ragged),
        (slices(RAGGED, Y).batch(SIZE), PADDED, of_ragged),
        ((SPARSE, Y), X, of_sparse),
        ((sparse.coo_matrix(X), Y), X, of_sparse),
        (slices(SPARSE, Y).batch(SIZE), X, of_sparse),
        (CSR, X, of_sparse),
    ],
)
def test_arrays_of_any_kind_give_what_dense_ones_do(data, x, make_model):
    size = SIZE if isinstance(data, tuple) else None
    estimate = measure(make_model(), data, size)
    dense = (x, Y) if size else batches_of(x, Y, SIZE)
    expected = measure(linear(), dense, size)
    for name in ("grad_sq_norm", "example_noise", "example_noise_se"):
        value = getattr(expected, name)
        assert getattr(estimate, name) == pytest.approx(value, rel=1e-4)
    for name in ("count", "batch_size", "sampling", "num_examples"):
        assert getattr(estimate, name) == getattr(expected, name)


def test_rows_are_drawn_with_replacement():
    drawn = []

    def loss(y, prediction):
        drawn.append(np.ravel(y).astype(int))
        return keras.losses.mean_squared_error(y, prediction)

    model = compiled(linear(), loss=loss, run_eagerly=True)
    measure(model, (X, np.arange(ROWS)), ROWS, num_batches=200)
    counts = np.array([np.bincount(rows, minlength=ROWS) for rows in drawn])
    assert counts.shape == (200, ROWS)
    # The counts of a batch are multinomial, and those of batches independent.
    variance = 1 - 1 / ROWS
    assert abs(counts.mean(0) - 1).max() < 4 * (variance / 200) ** 0.5
    assert abs(counts.var(0).mean() / variance - 1) < 0.1
    correlations = np.mean((counts[1:] - 1) * (counts[:-1] - 1))
    assert abs(correlations) < 4 * variance / (199 * ROWS) ** 0.5
    assert measure(linear(), (X, Y)).batch_size == 32


@pytest.mark.parametrize(
    ("data", "size", "error", "sentence"),
    [
        (Batches(), 8, ValueError, "`batch_size` must be None"),
        ([], None, ValueError, "must have batches, got none"),
        ((X, Y[1:]), 2, ValueError, r"number of rows.*\(45, 6\), \(44, 1\)"),
        ((X[:0], Y[:0]), 2, ValueError, "at least 1"),
        (lambda: None, None, TypeError, "another iterable, got function"),
        (None, None, ValueError, "of no array"),
    ],
)
def test_what_gives_no_batches_is_refused(data, size, error, sentence):
    with pytest.raises(error, match=sentence) as raised:
        measure(linear(), data, size)
    assert "\n" not in str(raised.value)
