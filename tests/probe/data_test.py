import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import sparse

from keras_svag.probe.measurement import measure_gradient_noise
from tests.helpers.small_problems import over_all_pairs

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
    estimate = measure(AS_FIT_TAKES_THEM[kind](x, y))
    slopes = 2 * (x @ np.full((FEATURES, 1), 0.1) - y) * x
    # Without the batch of three rows at the end.
    gradients = slopes[:42].reshape(6, SIZE, FEATURES).mean(1)
    moments = estimate.grad_sq_norm, estimate.example_noise
    expected = over_all_pairs(gradients, SIZE)
    assert moments == pytest.approx(expected, rel=1e-4)
    assert (estimate.count, estimate.batch_size) == (6, SIZE)
    assert (estimate.num_examples, estimate.num_skipped) == (None, 0)
    assert estimate.sampling is None


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


def of_sparse():
    return linear_model(keras.Input((FEATURES,), sparse=True))


X, Y = arrays()
LENGTHS = np.random.default_rng(1).integers(0, FEATURES + 1, ROWS)
PADDED = X * (np.arange(FEATURES) < LENGTHS[:, None])
RAGGED = tf.RaggedTensor.from_tensor(tf.constant(PADDED), LENGTHS)
SPARSE = tf.sparse.from_dense(X)


@pytest.mark.parametrize(
    ("data", "dense", "make_model"),
    [
        ((tf.constant(X), tf.constant(Y)), (X, Y), linear_model),
        ((X.astype("float64"), Y, np.ones(ROWS)), (X, Y), linear_model),
        ((RAGGED, Y), (PADDED, Y), of_ragged),
        (
            slices(RAGGED, Y).batch(SIZE),
            *(slices(PADDED, Y).batch(SIZE), of_ragged),
        ),
        ((SPARSE, Y), (X, Y), of_sparse),
        ((sparse.coo_matrix(X), Y), (X, Y), of_sparse),
        (slices(SPARSE, Y).batch(SIZE), Batches(X, Y), of_sparse),
        (
            [(sparse.csr_matrix(a), b) for a, b in Batches(X, Y)],
            *(Batches(X, Y), of_sparse),
        ),
    ],
)
def test_arrays_of_any_kind_give_what_dense_ones_do(data, dense, make_model):
    size = SIZE if isinstance(data, tuple) else None
    estimate = measure(data, size, model=make_model())
    expected = measure(dense, size)
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

    model = linear_model()
    model.compile("sgd", loss, run_eagerly=True)
    measure((X, np.arange(ROWS)), ROWS, 200, model)
    counts = np.array([np.bincount(rows, minlength=ROWS) for rows in drawn])
    assert counts.shape == (200, ROWS)
    # The counts of a batch are multinomial, and those of batches independent.
    variance = 1 - 1 / ROWS
    assert abs(counts.mean(0) - 1).max() < 4 * (variance / 200) ** 0.5
    assert abs(counts.var(0).mean() / variance - 1) < 0.1
    correlations = np.mean((counts[1:] - 1) * (counts[:-1] - 1))
    assert abs(correlations) < 4 * variance / (199 * ROWS) ** 0.5
    assert measure((X, Y)).batch_size == 32


@pytest.mark.parametrize(
    ("data", "size", "error", "sentence"),
    [
        (Batches(X, Y), 8, ValueError, "`batch_size` must be None"),
        ([], None, ValueError, "must have batches, got none"),
        ((X, Y[1:]), 2, ValueError, r"number of rows.*\(45, 6\), \(44, 1\)"),
        ((X[:0], Y[:0]), 2, ValueError, "at least 1"),
        (lambda: None, None, TypeError, "another iterable, got function"),
        (None, None, ValueError, "of no array"),
    ],
)
def test_what_gives_no_batches_is_refused(data, size, error, sentence):
    with pytest.raises(error, match=sentence) as raised:
        measure(data, size)
    assert "\n" not in str(raised.value)
