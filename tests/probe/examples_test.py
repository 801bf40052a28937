import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_svag.probe import examples
from keras_svag.probe.examples import open_examples

MODEL = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def arrays(n=20):
    x = np.arange(3.0 * n, dtype="float32").reshape(n, 3)
    return {"x": x}, np.arange(n)


@pytest.mark.parametrize("passes", [1, 2, 5])
def test_data_set_gives_the_rows_of_the_arrays(monkeypatch, passes):
    indices = np.random.default_rng(0).integers(20, size=(5, 4))
    bytes_per_batch = (3 * 4 + 8) * 4
    monkeypatch.setattr(
        examples,
        "_BYTES_PER_PASS",
        {1: 2**30, 2: 3 * bytes_per_batch, 5: 1}[passes],
    )
    reads = []
    dataset = tf.data.Dataset.from_tensor_slices(arrays())
    opened = open_examples(dataset, MODEL)
    read = opened._read
    opened._read = lambda rows: reads.append(1) or read(rows)
    in_memory = open_examples(arrays(), MODEL)
    assert opened.num_examples == in_memory.num_examples == 20
    for from_data_set, from_arrays, rows in zip(
        opened.batches(indices),
        in_memory.batches(indices),
        indices,
        strict=True,
    ):
        for x, y in (from_data_set, from_arrays):
            np.testing.assert_array_equal(x["x"], arrays()[0]["x"][rows])
            np.testing.assert_array_equal(y, arrays()[1][rows])
            assert x["x"].dtype == "float32"
    assert len(reads) == passes


def test_tensors_and_missing_parts_are_taken():
    x = tf.reshape(tf.range(12.0), (4, 3))
    batch = next(
        open_examples((x, np.array([1, 2, 3, 4])), MODEL).batches([[3, 3]])
    )
    np.testing.assert_array_equal(batch[0], [[9, 10, 11]] * 2)
    np.testing.assert_array_equal(batch[1], [4, 4])
    assert next(open_examples((x, None), MODEL).batches([[0]]))[1] is None
    doubles = np.zeros((4, 3))
    assert next(open_examples((doubles,), MODEL).batches([[0]]))[0].dtype == (
        "float32"
    )


def test_what_cannot_be_drawn_from_is_refused():
    dataset = tf.data.Dataset.from_tensor_slices(arrays())
    for bad, sentence in (
        (dataset.batch(4), "single examples, got batches"),
        (dataset.batch(4, drop_remainder=True), "single examples, got batches"),
        (dataset.repeat(), "must be finite"),
        (dataset.filter(lambda x, y: y > 3), "unknown cardinality"),
        (dataset.take(0), "must have examples"),
        ((np.zeros((4, 3)), np.zeros(5)), "the same number of rows"),
        ((np.zeros((4, 3)), np.float32(1)), "the same number of rows"),
        ((np.zeros((4, 5, 3)), np.zeros(4)), "single examples, got batches"),
    ):
        with pytest.raises(ValueError, match=sentence) as raised:
            open_examples(bad, MODEL)
        assert "\n" not in str(raised.value)
    known = dataset.filter(lambda x, y: y > 3).apply(
        tf.data.experimental.assert_cardinality(16)
    )
    assert open_examples(known, MODEL).num_examples == 16
