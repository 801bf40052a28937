"""Small data sets and networks that the tests of training share."""

import contextlib

import keras
import numpy as np

NUM_CLASSES = 3


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def interleaved(rows, size):
    """Turns batches of `size` rows into pairs: rows a0, b0, a1, b1, ….

    A batch of 2 `size` rows of the result is split by `SVAGModel` into two
    consecutive batches of `rows`.
    """
    pairs = rows.reshape((-1, 2, size) + rows.shape[1:])
    return np.swapaxes(pairs, 1, 2).reshape(rows.shape)


def regression(num_rows, num_inputs=4, num_outputs=2, seed=0):
    """Gaussian inputs and noisy targets that depend on them nonlinearly."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, num_inputs))
    weights = rng.normal(size=(num_inputs, num_outputs))
    y = np.tanh(x @ weights) + 0.5 * rng.normal(size=(num_rows, num_outputs))
    return x.astype("float32"), y.astype("float32")


def classification(num_rows, input_shape=(4,), seed=0):
    """Gaussian inputs and uniform labels."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, *input_shape)).astype("float32")
    return x, rng.integers(0, NUM_CLASSES, num_rows)


def dense_network(num_inputs=4, num_outputs=2, seed=0, units=5, **dense):
    """One hidden layer of `tanh` units; the same weights for the same seed."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((num_inputs,)),
            keras.layers.Dense(units, activation="tanh", **dense),
            keras.layers.Dense(num_outputs),
        ]
    )


def linear_model(num_inputs, seed=0):
    """`x @ kernel`, with one output."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((num_inputs,)), keras.layers.Dense(1, use_bias=False)]
    )


def slopes(model, x, y):
    """The gradients of each example's squared error, of `linear_model`."""
    x, y = x.astype("float64"), y.astype("float64")
    return 2 * (x @ model.get_weights()[0] - y) * x


def batches_of(x, y, size):
    """A list of consecutive batches, the last of which may be smaller."""
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def bag_of_words(num_words=6):
    """Three words, whose vectors are weighed."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(num_words, 2),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )


def network_with_state(*first, **dense):
    """A network that draws, and keeps averages."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4,)),
            *first,
            keras.layers.Dense(5, **dense),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(2),
        ]
    )


def compiled(model=None, optimizer=None, loss="mse", **compilation):
    """The model, or else a dense network, to be trained by SGD or another."""
    model = model or dense_network()
    optimizer = optimizer or keras.optimizers.SGD(0.05)
    model.compile(optimizer, loss, **compilation)
    return model


@contextlib.contextmanager
def dtype_policy(name):
    """Context whose layers have a policy, such as "mixed_float16"."""
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(usual)


def largest_difference(model, other):
    """Largest difference between two models' trainable variables."""
    return max(
        np.abs(np.subtract(ours, theirs)).max()
        for ours, theirs in zip(
            model.trainable_variables, other.trainable_variables, strict=True
        )
    )


def over_all_pairs(gradients, size=1):
    """G and the noise of one example, from those of batches of `size`."""
    k = len(gradients)
    gram = gradients @ gradients.T
    g = (gram.sum() - np.trace(gram)) / (k * (k - 1))
    return g, size * (np.trace(gram) / k - g)
