"""A model trained on the pairs of each batch, and plain on their halves."""

import keras
import numpy as np
import tensorflow as tf

from keras_svag import SVAGModel, svag_weights
from tests.helpers.small_problems import interleaved

SUB_BATCH = 4


def fit(model, *data, **arguments):
    """Trains on batches of 8 rows in their order; returns the epochs' logs."""
    arguments = {"batch_size": 8, "verbose": 0, "shuffle": False, **arguments}
    return model.fit(*data, **arguments).history


def weights_of_step(ell, pairing, step):
    """What the first and the second gradient of a step's pair count."""
    weights = svag_weights(ell, pairing)
    cubes = [
        pow(step * factor, 3, prime)
        for prime, factor in ((32749, 17011), (32717, 12289))
    ]
    return weights[::-1] if ell > 1 and sum(cubes) % 2 else weights


def observation(pair, rows, scale=1.0):
    """G and S of the gradients of the halves of so many rows."""
    first, second = (gradient * scale for gradient in pair)
    size = 1 / (rows - rows // 2) + 1 / (rows // 2)
    return np.sum(first * second), np.sum((first - second) ** 2) / size


def taken(data, rows):
    """The rows of each array in a nest."""

    def of_one(array):
        if isinstance(array, tf.SparseTensor):
            dense = tf.sparse.to_dense(array)
            return tf.sparse.from_dense(tf.gather(dense, rows))
        ragged = isinstance(array, tf.RaggedTensor)
        return tf.gather(array, rows) if ragged else np.asarray(array)[rows]

    return keras.tree.map_structure(of_one, data)


def fit_plain(model, *data, **arguments):
    """Trains on 40 rows, in consecutive batches of 4."""
    return _fit_rows(model, np.arange(40), SUB_BATCH, *data, **arguments)


def fit_pairs(model, *data, **arguments):
    """Trains on the same rows, two of those batches interleaved in each."""
    rows = interleaved(np.arange(40), SUB_BATCH)
    return _fit_rows(model, rows, 2 * SUB_BATCH, *data, **arguments)


def _fit_rows(model, rows, size, x, y=None, sample_weight=None, **arguments):
    data = {"x": x, "y": y, "sample_weight": sample_weight}
    data = {k: taken(v, rows) for k, v in data.items() if v is not None}
    return fit(model, batch_size=size, **data, **arguments)


def svag_model(model, optimizer, loss="mse", **compilation):
    wrapped = SVAGModel(model)
    wrapped.compile(optimizer, loss, **compilation)
    return wrapped


def moments(optimizer):
    """The variables of an optimizer that are like those of a model."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    names = ("_momentums", "_velocities")
    return [v for name in names for v in getattr(optimizer, name, [])]


def assert_same(ours, theirs, atol=0):
    """Asserts that two lists of variables or arrays are equal, to the bit."""
    for one, other in zip(ours, theirs, strict=True):
        one, other = map(keras.ops.convert_to_numpy, (one, other))
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)
        assert atol or one.tobytes() == other.tobytes()
