"""A batch that comes again is known again, and is no new draw."""

import keras
import numpy as np
import pytest

import keras_svag
from keras_svag.backend.pairs import fingerprint
from tests.helpers.backend_cases import compiled_for, numbers
from tests.helpers.small_problems import dense_network

ROWS, BATCH_SIZE = 48, 8
X = numbers(ROWS, 4)
Y = np.argsort(X[:, 0]).argsort() % 2


def observed(wraps, rate=0.01, epochs=3):
    """The series of a run that measures every step."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = compiled_for(wraps, dense_network(), rate, loss)
    monitor = keras_svag.GradientNoiseMonitor(every=1)
    way = {"epochs": epochs, "shuffle": False, "verbose": 0}
    model.fit(X, Y, BATCH_SIZE, callbacks=[monitor], **way)
    return monitor.series


@pytest.mark.parametrize("wraps", [False, True])
def test_batches_have_their_numbers_again_in_the_next_epoch(wraps):
    # On some backends the first call of all is not measured.
    numbers_of = [
        dict(zip(series["step"] % 6, series["batch"], strict=True))
        for series in map(observed(wraps).window, (1, 2))
    ]
    assert len(set(numbers_of[0].values())) == 6
    assert numbers_of[0] == numbers_of[1]


def test_error_is_that_of_the_different_batches():
    # Where nothing moves, later epochs say what the first one said.
    series = observed(False, rate=0.0, epochs=7)
    whole = series[: len(series) // 6 * 6].estimate()
    once = series[:6].estimate()
    assert (whole.count, whole.num_batches) == (len(series) // 6 * 6, 6)
    assert whole.count >= 36
    for name in ("grad_sq_norm", "grad_sq_norm_se", "example_noise_se"):
        ours = getattr(whole, name)
        assert ours == pytest.approx(getattr(once, name), rel=1e-4)


def test_number_is_of_the_examples_and_of_their_order():
    batch = {"a": X, "b": [Y, None]}, Y.astype("bool")
    number = float(fingerprint(batch))
    assert number == float(fingerprint(batch))
    others = [X[::-1], X + 1e-3 * (np.arange(ROWS) == 7)[:, None]]
    for other in others:
        assert number != float(fingerprint(({"a": other, "b": batch[0]["b"]},)))
        assert float(fingerprint(X)) != float(fingerprint(other))
    assert float(fingerprint((X, Y))) != float(fingerprint((X, 1 - Y)))


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="has others, or none"
)
def test_number_of_sparse_ragged_and_text_rows():
    import tensorflow as tf

    dense = (X > 0.5).astype("float32")
    sparse = [tf.sparse.from_dense(x) for x in (dense, dense[:, ::-1])]
    lengths = tf.cast(tf.range(ROWS) % 5, "int64")
    ragged = [
        tf.RaggedTensor.from_row_lengths(np.arange(93) + start, lengths)
        for start in (0, 1)
    ]
    for one, other in (sparse, ragged):
        assert fingerprint(one) == fingerprint(one) != fingerprint(other)
    # Of text the labels alone tell.
    text = tf.constant(["a", "b"])
    assert fingerprint(text) == 0
    one, other = ([text, np.array(labels)] for labels in ([0, 1], [1, 1]))
    assert fingerprint(one) != fingerprint(other)
