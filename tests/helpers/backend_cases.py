"""What is computed alike on every backend: noise, and steps of SVAG.

`python -m tests.helpers.backend_cases` writes the numbers that Keras's present
backend has, against which the others are held.
"""

import functools
import json
import pathlib

import keras
import numpy as np
from keras import layers, ops

import keras_svag
from tests.helpers.small_problems import numbers

REFERENCE = pathlib.Path(__file__).with_name("backend_reference.json")
ROWS = 16


def tokens(words):
    """Words that recur, or none that does if there are enough."""
    rng = np.random.default_rng(2)
    return rng.choice(words, (ROWS, 7), replace=words < 7 * ROWS)


def sequential(inputs, *inner):
    return keras.Sequential([inputs, *inner, layers.Dense(3)])


def perceptron():
    inner = layers.Dense(16, "tanh"), layers.Dense(8, "relu")
    return sequential(keras.Input((6,)), *inner), numbers(ROWS, 6)


def convolutions():
    model = sequential(
        keras.Input((8, 8, 3)),
        layers.Conv2D(4, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.MaxPooling2D(),
        layers.Flatten(),
    )
    return model, numbers(ROWS, 8, 8, 3)


def transformer():
    # On TensorFlow Keras's Adam squares each occurrence of a word by itself.
    inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(120, 8)(inputs)
    y = layers.LayerNormalization()(x)
    x += layers.MultiHeadAttention(2, 4)(y, y, use_causal_mask=True)
    y = layers.LayerNormalization()(x)
    x += layers.Dense(8)(layers.Dense(16, "gelu")(y))
    outputs = layers.Dense(3)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, outputs), tokens(120)


def lstm():
    model = sequential(keras.Input((7, 4)), layers.LSTM(6))
    return model, numbers(ROWS, 7, 4)


def embeddings():
    inputs = keras.Input((7,), dtype="int32")
    model = sequential(inputs, layers.Embedding(20, 6), layers.Flatten())
    return model, tokens(20)


NETWORKS = (perceptron, convolutions, transformer, lstm, embeddings)


def built(network):
    """`(model, x, y)` with weights that no backend has drawn."""
    model, x = network()
    for place, weight in enumerate(model.trainable_weights):
        fan_in = max(np.prod(weight.shape[:-1]), 1)
        offset = "gamma" in weight.path
        value = numbers(*weight.shape, seed=place) / np.sqrt(fan_in)
        weight.assign(offset + 0.5 * value)
    return model, x, numbers(ROWS, 3, seed=1)


def compiled_for(wraps, model, rate=0.1, loss="mse"):
    """The model compiled with SGD, or with SVAG in an `SVAGModel`."""
    optimizer = keras.optimizers.SGD(rate)
    if wraps:
        model = keras_svag.SVAGModel(model)
        optimizer = keras_svag.SVAG(rate, ell=2)
    model.compile(optimizer, loss)
    return model


def noise(network):
    """G, S, R, G_P and S_P of a batch, after one step of Adam of no size.

    Of words that recur, after a step of SGD, without the last two.
    """
    model, x, y = built(network)
    optimizer = keras.optimizers.Adam(0.0, epsilon=0.1)
    if network is embeddings:
        optimizer = keras.optimizers.SGD(0.0)
    model.compile(optimizer, "mse")
    monitor = keras_svag.GradientNoiseMonitor(every=1)
    with monitor.watch(model):
        for _ in range(2):
            model.train_on_batch(x, y)
    columns = ["grad_sq_norm", "example_noise", "weight_sq_norm"]
    if network is not embeddings:
        columns += [f"preconditioned_{column}" for column in columns[:2]]
    return [monitor.series[column][-1] for column in columns]


def schedule():
    return keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.5)


OPTIMIZERS = {
    "SVAG": lambda **a: keras_svag.SVAG(0.1, **a),
    "SVAG with decay": lambda **a: keras_svag.SVAG(0.1, weight_decay=0.1, **a),
    "SVAG with a schedule": lambda **a: keras_svag.SVAG(schedule(), **a),
    "SVAGAdam": lambda **a: keras_svag.SVAGAdam(0.01, weight_decay=0.1, **a),
    "SVAGRMSprop": lambda **a: keras_svag.SVAGRMSprop(0.01, **a),
}


def steps(optimizer, ell, pairing, is_wrapped):
    """Sums over the weights of 20 steps, and the time that they took."""
    model, _, _ = built(perceptron)
    optimizer = OPTIMIZERS[optimizer](ell=ell, pairing=pairing)
    trained = keras_svag.SVAGModel(model) if is_wrapped else model
    trained.compile(optimizer, "mse")
    count = 20 if is_wrapped else 40
    x, y = numbers(8 * count, 6), numbers(8 * count, 3, seed=1)
    trained.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    weights = [ops.convert_to_numpy(v).ravel() for v in model.weights]
    weights = np.concatenate(weights).astype("float64")
    time = float(ops.convert_to_numpy(optimizer.continuous_time))
    return [weights @ weights, weights @ numbers(weights.size), time]


def cases():
    """Maps the name of each case to the function that computes it."""
    found = {
        f"noise of {network.__name__}": functools.partial(noise, network)
        for network in NETWORKS
    }
    for name in OPTIMIZERS:
        for arguments in (
            (1, "independent", True),
            (1, "halves", False),
            (4, "independent", False),
            (4, "halves", True),
        ):
            ell, pairing, is_wrapped = arguments
            key = f"{name}, ell={ell}, {pairing}"
            key += ", in an SVAGModel" if is_wrapped else ""
            found[key] = functools.partial(steps, name, *arguments)
    return found


if __name__ == "__main__":
    values = {name: compute() for name, compute in cases().items()}
    lines = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in values.items())
    REFERENCE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
