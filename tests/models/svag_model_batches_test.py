"""Batches of any size: what SVAGModel trains on, and what it leaves out."""

import warnings

import pytest
import tensorflow as tf

from keras_svag import SVAG
from tests.helpers.pairs import assert_same, fit, svag_model
from tests.helpers.small_problems import dense_network, regression

ROWS = 50
X, Y = regression(ROWS)


def model(**compilation):
    return svag_model(dense_network(), SVAG(0.1, ell=4), **compilation)


def trained_on(*parts):
    """A model that trained on rows of X, a batch each, that make no trouble."""
    trained = model()
    for rows in parts:
        fit(trained, X[rows], Y[rows], batch_size=len(X[rows]))
    return trained


def batches(size, num_batches):
    return [slice(size * i, size * (i + 1)) for i in range(num_batches)]


def data_set():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)


def generator(sizes=(16, 16, 16, 2)):
    while True:
        start = 0
        for size in sizes:
            yield X[start : start + size], Y[start : start + size]
            start += size


FED = {
    "arrays": ((X, Y), {"batch_size": 16}, batches(16, 3)),
    "fewer rows than a batch": ((X[:9], Y[:9]), {}, [slice(8)]),
    "odd batches": (
        (X[:21], Y[:21]),
        {"batch_size": 7},
        [slice(0, 6), slice(7, 13), slice(14, 20)],
    ),
    "odd and short batches": ((X[:9], Y[:9]), {"batch_size": 7}, [slice(6)]),
}


@pytest.mark.parametrize(
    ("name", "left_out", "eager"),
    [
        ("arrays", "2 of the 50", False),
        ("fewer rows than a batch", "1 of the 9", True),
        ("odd batches", "3 of the 21", True),
        ("odd and short batches", "3 of the 9", False),
    ],
)
def test_rows_that_are_left_out_are_counted(name, left_out, eager):
    data, arguments, parts = FED[name]
    trained = model(run_eagerly=eager)
    with pytest.warns(UserWarning, match=f"leaves out {left_out} rows") as seen:
        # The default batch size is 32.
        trained.fit(*data, shuffle=False, verbose=0, epochs=2, **{**arguments})
    assert len([w for w in seen if "leaves out" in str(w.message)]) == 1
    expected = trained_on(*parts, *parts)
    assert_same(trained.variables, expected.variables, 1e-6 if eager else 0)
    assert trained.optimizer.iterations == 2 * len(parts)


@pytest.mark.parametrize(
    "fed",
    [
        lambda: {"x": X[:48], "y": Y[:48], "batch_size": 16},
        # Nothing is known of their sizes before they come.
        lambda: {"x": data_set()},
        lambda: {"x": generator(), "steps_per_epoch": 4},
    ],
    ids=["arrays", "data set", "generator"],
)
def test_nothing_is_said_where_nothing_is_known_to_be_left_out(fed):
    trained = model()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trained.fit(shuffle=False, verbose=0, **fed())
    assert_same(trained.variables, trained_on(*batches(16, 3)).variables)


def test_batches_below_the_largest_so_far_are_left_out():
    trained = model(jit_compile=True)
    data = generator((1, 6, 16, 9, 16))
    trained.fit(data, shuffle=False, steps_per_epoch=5, verbose=0)
    expected = trained_on(slice(1, 7), slice(7, 23), slice(32, 48))
    assert_same(trained.variables, expected.variables, 1e-6)
    assert trained.optimizer.iterations == 3


def test_sizes_of_train_on_batch_may_change():
    trained = model(run_eagerly=True)
    before = 0
    for size, is_trained in ((1, 0), (8, 1), (16, 1), (8, 0), (3, 0), (16, 1)):
        trained.train_on_batch(X[:size], Y[:size])
        assert trained.optimizer.iterations - before == is_trained, size
        before = int(trained.optimizer.iterations)
    expected = trained_on(slice(8), slice(16), slice(16))
    assert_same(trained.variables, expected.variables, 1e-6)


@pytest.mark.parametrize("size", [1, 2])
def test_batches_of_one_row_are_refused(size):
    trained = model()
    before = trained.get_weights()
    with pytest.raises(ValueError, match="at least 2 rows, .* got 1;"):
        fit(trained, X[:1], Y[:1], batch_size=size)
    with pytest.raises(ValueError, match="at least 2 rows, .* got 1;"):
        fit(trained, X, Y, batch_size=1)
    assert_same(trained.get_weights(), before)
