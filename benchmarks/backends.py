"""What measuring and SVAG's step add to plain training, on any backend.

    KERAS_BACKEND=jax python benchmarks/backends.py [--rounds 10]

Small networks, with SGD, through `fit`, in turns of 40 batches: plain; with
the callback, which measures two of the 40 steps; and in an `SVAGModel` with
ell = 4, whose two sub-batches are those of plain training at the same number
of examples. Needs no TensorFlow on JAX and PyTorch.
"""

import argparse
import time

import keras
import numpy as np
from keras import layers
from side_by_side import (
    alternating_rounds,
    milliseconds,
    print_header,
    print_row,
    ratio_cells,
)

import keras_svag

STEPS, BATCH_SIZE = 40, 64


def perceptron():
    hidden = [layers.Dense(256, "relu") for _ in range(3)]
    return keras.Sequential(
        [keras.Input((64,)), *hidden, layers.Dense(10)]
    ), np.random.default_rng(0).normal(size=(STEPS * BATCH_SIZE, 64))


def convolutions():
    blocks = [
        layer
        for width in (16, 32)
        for layer in (
            layers.Conv2D(width, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
        )
    ]
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), *blocks, layers.Flatten(), layers.Dense(10)]
    )
    return model, np.random.default_rng(0).normal(
        size=(STEPS * BATCH_SIZE, 32, 32, 3)
    )


def transformer():
    inputs = keras.Input((32,), dtype="int32")
    x = layers.Embedding(1000, 64)(inputs)
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x += layers.MultiHeadAttention(4, 16)(y, y)
        y = layers.LayerNormalization()(x)
        x += layers.Dense(64)(layers.Dense(128, "gelu")(y))
    outputs = layers.Dense(10)(layers.GlobalAveragePooling1D()(x))
    words = np.random.default_rng(0).integers(0, 1000, (STEPS * BATCH_SIZE, 32))
    return keras.Model(inputs, outputs), words


def timed(network, contender):
    """A function that trains for a turn and returns the seconds of a step."""
    keras.utils.set_random_seed(0)
    model, x = network()
    x = x.astype("int32" if x.dtype.kind == "i" else "float32")
    y = np.random.default_rng(1).integers(0, 10, len(x))
    optimizer, callbacks = keras.optimizers.SGD(0.01), []
    if contender == "every=20":
        callbacks = [keras_svag.GradientNoiseMonitor(every=20)]
    elif contender == "SVAG":
        model = keras_svag.SVAGModel(model)
        optimizer = keras_svag.SVAG(0.01, ell=4)
    model.compile(
        optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )

    def turn():
        begun = time.perf_counter()
        model.fit(x, y, batch_size=BATCH_SIZE, verbose=0, callbacks=callbacks)
        return (time.perf_counter() - begun) / STEPS

    return turn


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    print_header(
        keras.backend.backend(),
        "plain, ms a step",
        "every=20",
        "range",
        "SVAG",
        "range",
    )
    for network in (perceptron, convolutions, transformer):
        turns = alternating_rounds(
            {c: timed(network, c) for c in ("plain", "every=20", "SVAG")},
            rounds,
        )
        plain = turns.pop("plain")
        cells = (ratio_cells(seconds, plain) for seconds in turns.values())
        print_row(network.__name__, milliseconds(plain), *cells)


if __name__ == "__main__":
    main()
