import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import sparse

from keras_svag.probe.measurement import measure_gradient_noise

ROWS, FEATURES, SIZE = 45, 6, 7


def arrays():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES)) * (rng.random((ROWS, FEATURES)) < 0.4)
    return x.astype("float32"), rng.normal(size=(ROWS, 1)).astype("float32")


def linear_model(inputs=None, to_dense=lambda x: x):
    inputs = keras.Input((FEATURES,)) if inputs is None else inputs
    dense = keras.layers.Dense(1, use_bias=False)
    model = keras.Model(inputs, dense(to_dense(inputs)))
    dense.set_weights([np.full((FEATURES, 1), 0.1, "float32")])
    model.compile("sgd", "mse")
    return model


def measure(data, batch_size=None, num_batches=30, model=None):
    model = linear_model() if model is None else model
    return measure_gradient_noise(
        model, data, batch_size, num_batches, seed=0, verbose=0
    )


def assert_close(estimate, expected):
    for name in ("grad_sq_norm", "example_noise", "example_noise_se"):
        np.testing.assert_allclose(
            getattr(estimate, name), getattr(expected, name), rtol=1e-4
        )
    for name in ("count", "batch_size", "sampling", "num_examples"):
        assert getattr(estimate, name) == getattr(expected, name)


class Batches(keras.utils.PyDataset):
    def __init__(self, *data, is_endless=False):
        super().__init__()
        self.data = data
        self.is_endless = is_endless

    @property
    def num_batches(self):
        return None if self.is_endless else -(-ROWS // SIZE)

    def __getitem__(self, index):
        start = index % -(-ROWS // SIZE) * SIZE
        return tuple(part[start : start + SIZE] for part in self.data)


def slices(*data):
    return tf.data.Dataset.from_tensor_slices(data)


AS_FIT_TAKES_THEM = {
    "tf.data": lambda *data: slices(*data).batch(SIZE).prefetch(2),
    "without the remainder": lambda *data: slices(*data).batch(SIZE, True),
    "of unknown size": lambda *data: (
        slices(*data).filter(lambda *_: True).batch(SIZE)
    ),
    "PyDataset": Batches,
    "generator": lambda *data: (batch for batch in Batches(*data)),
    "list": lambda *data: list(slices(*data).batch(SIZE).as_numpy_iterator()),
    "lists in a generator": lambda *data: (list(b) for b in Batches(*data)),
}


@pytest.mark.parametrize("kind", AS_FIT_TAKES_THEM)
def test_batches_are_taken_as_they_come(kind):
    x, y = arrays()
    gradients = np.array(
        [
            np.mean(2 * (a @ np.full((FEATURES, 1), 0.1) - b) * a, axis=0)
            for a, b in Batches(x, y)
            if len(a) == SIZE
        ]
    )
    gram = gradients @ gradients.T
    k = len(gram)
    g = (gram.sum() - np.trace(gram)) / (k * (k - 1))
    estimate = measure(AS_FIT_TAKES_THEM[kind](x, y))
    np.testing.assert_allclose(estimate.grad_sq_norm, g, rtol=1e-4)
    np.testing.assert_allclose(
        estimate.example_noise, SIZE * (np.trace(gram) / k - g), rtol=1e-4
    )
    # Without the batch of three rows at the end.
    assert (estimate.count, estimate.batch_size) == (6, SIZE)
    assert (estimate.num_examples, estimate.num_skipped) == (None, 0)
    assert estimate.sampling is None
    assert not estimate.corrected_for_sampling


def test_no_more_batches_are_read_than_asked_for():
    x, y = arrays()
    expected = measure(AS_FIT_TAKES_THEM["list"](x, y)[:5])
    generator = AS_FIT_TAKES_THEM["generator"](x, y)
    assert measure(generator, num_batches=5) == expected
    assert len(next(generator)[0]) == SIZE
    assert len(next(generator)[0]) == ROWS % SIZE
    endless = slices(x, y).batch(SIZE).repeat()
    assert measure(endless, num_batches=14).count == 12
    for endless in (
        Batches(x, y, is_endless=True),
        itertools.cycle(Batches(x, y)),
    ):
        assert measure(endless, num_batches=5) == expected


def of_ragged():
    """A model that pads its ragged inputs with zeros."""
    inputs = keras.Input((None,), ragged=True)
    pad = keras.layers.Lambda(
        lambda x: x.to_tensor(shape=(None, FEATURES)),
        output_shape=(FEATURES,),
    )
    return linear_model(inputs, pad)


def ragged_arrays():
    x, y = arrays()
    lengths = np.random.default_rng(1).integers(0, FEATURES + 1, ROWS)
    x *= np.arange(FEATURES) < lengths[:, None]
    return x, tf.RaggedTensor.from_tensor(tf.constant(x), lengths), y


def test_ragged_inputs_are_taken_whole():
    dense, ragged, y = ragged_arrays()
    for data, padded in (
        ((ragged, y), (dense, y)),
        (slices(ragged, y).batch(SIZE), slices(dense, y).batch(SIZE)),
    ):
        size = SIZE if isinstance(data, tuple) else None
        estimate = measure(data, size, model=of_ragged())
        assert_close(estimate, measure(padded, size))


def of_sparse():
    return linear_model(keras.Input((FEATURES,), sparse=True))


def test_sparse_inputs_are_taken_whole():
    x, y = arrays()
    in_tensors = tf.sparse.from_dense(x)
    for inputs in (in_tensors, sparse.coo_matrix(x)):
        estimate = measure((inputs, y), SIZE, model=of_sparse())
        assert_close(estimate, measure((x, y), SIZE))
    of_scipy = ((sparse.csr_matrix(a), b) for a, b in Batches(x, y))
    for data in (slices(in_tensors, y).batch(SIZE), of_scipy):
        estimate = measure(data, model=of_sparse())
        assert_close(estimate, measure(Batches(x, y)))


def test_arrays_are_drawn_from_whatever_they_are():
    x, y = arrays()
    expected = measure((x, y), SIZE)
    for data in (
        (tf.constant(x), tf.constant(y)),
        (x.astype("float64"), y.astype("float64")),
        (x, y, None),
        (x, y, np.ones(ROWS)),
    ):
        assert_close(measure(data, SIZE), expected)
    assert measure((x, y)).batch_size == 32


def test_rows_are_drawn_with_replacement():
    drawn = []

    def loss(y, prediction):
        drawn.append(np.ravel(y).astype(int))
        return keras.losses.mean_squared_error(y, prediction)

    x, _ = arrays()
    model = linear_model()
    model.compile("sgd", loss, run_eagerly=True)
    measure((x, np.arange(ROWS)), ROWS, 200, model)
    counts = np.array([np.bincount(rows, minlength=ROWS) for rows in drawn])
    assert counts.shape == (200, ROWS)
    # The counts of a batch are multinomial, and those of batches independent.
    variance = 1 - 1 / ROWS
    assert abs(counts.mean(0) - 1).max() < 4 * (variance / 200) ** 0.5
    assert abs(counts.var(0).mean() / variance - 1) < 0.1
    correlations = np.mean((counts[1:] - 1) * (counts[:-1] - 1))
    assert abs(correlations) < 4 * variance / (199 * ROWS) ** 0.5


@pytest.mark.parametrize(
    "data, size, error, sentence",
    [
        (Batches(*arrays()), 8, ValueError, "`batch_size` must be None"),
        ([], None, ValueError, "must have batches, got none"),
        (slices(*arrays()).take(0), None, ValueError, "must have batches"),
        (
            (np.zeros((4, 6)), np.zeros(5)),
            2,
            ValueError,
            r"number of rows.*\(4, 6\), \(5,\)",
        ),
        ((np.zeros((0, 6)), np.zeros(0)), 2, ValueError, "at least 1"),
        (lambda: None, None, TypeError, "another iterable, got function"),
        (None, None, ValueError, "of no array"),
    ],
)
def test_what_gives_no_batches_is_refused(data, size, error, sentence):
    with pytest.raises(error, match=sentence) as raised:
        measure(data, size)
    assert "\n" not in str(raised.value)
