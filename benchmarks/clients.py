"""What `GradientNoiseMonitor` adds to the training of users.

    python benchmarks/clients.py [--clients vit transformer lstm …]
        [--rounds 5] [--memory]

Networks in the style of Keras's guides, with Adam, through `fit`: plain, and
with the callback, which measures one step of 20 or of 100. Batches are in
memory, static and even.

With `--memory`, megabytes in place of milliseconds: the highest resident set
of a process of its own for each training, minus the resident set before the
first step, as benchmarks/memory.py has it with its blocks freed at once.
"""

import argparse
import dataclasses
import os
import statistics
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from memory import megabytes_printed, print_added
from side_by_side import (
    alternating_rounds,
    milliseconds,
    print_header,
    print_row,
    ratio_cells,
)
from workloads import seconds_per_step

import keras_svag

WORDS, LENGTH = 20_000, 200
USERS, MOVIES = 1_000_000, 10_000


class Positions(layers.Layer):
    """Adds a learned vector to each place of a sequence."""

    def build(self, shape):
        self.vectors = self.add_weight(shape[1:], "uniform", name="vectors")

    def call(self, x):
        return x + self.vectors


def transformer_block(x, heads, width):
    """A block that normalizes first, as of a ViT."""
    normal = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(heads, width // heads)(normal, normal)
    hidden = layers.LayerNormalization()(x)
    hidden = layers.Dense(2 * width, activation="gelu")(hidden)
    return x + layers.Dense(width)(hidden)


def vit():
    inputs = keras.Input((32, 32, 3))
    patches = layers.Conv2D(64, 4, strides=4)(inputs)
    x = Positions()(layers.Reshape((64, 64))(patches))
    for _ in range(4):
        x = transformer_block(x, heads=4, width=64)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def transformer():
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = Positions()(layers.Embedding(WORDS, 32)(inputs))
    x = transformer_block(x, heads=2, width=32)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(20, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


def lstm():
    inputs = keras.Input((120, 7))
    outputs = layers.Dense(1)(layers.LSTM(32)(inputs))
    return keras.Model(inputs, outputs)


def recommender():
    inputs = {
        "user": keras.Input((), name="user", dtype="int32"),
        "movie": keras.Input((), name="movie", dtype="int32"),
    }
    user = layers.Embedding(USERS, 32)(inputs["user"])
    movie = layers.Embedding(MOVIES, 32)(inputs["movie"])
    outputs = ops.sigmoid(layers.Dot(axes=1)([user, movie]))
    return keras.Model(inputs, outputs)


def convolutions():
    blocks = []
    for width in (16, 32, 64):
        blocks += [
            layers.Conv2D(width, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
        ]
    head = [layers.Flatten(), layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((32, 32, 3)), *blocks, *head])


def perceptron():
    hidden = [layers.Dense(256, activation="relu") for _ in range(3)]
    head = layers.Dense(10, activation="softmax")
    inputs = keras.Input((32, 32, 3))
    return keras.Sequential([inputs, layers.Flatten(), *hidden, head])


def images(rng, rows):
    return rng.normal(size=(rows, 32, 32, 3)).astype("float32"), (rows,), 10


def sentences(rng, rows):
    return rng.integers(0, WORDS, (rows, LENGTH), "int32"), (rows,), 2


def windows(rng, rows):
    return rng.normal(size=(rows, 120, 7)).astype("float32"), (rows, 1), 2


def ratings(rng, rows):
    x = {
        "user": rng.integers(0, USERS, rows, "int32"),
        "movie": rng.integers(0, MOVIES, rows, "int32"),
    }
    return x, (rows, 1), 2


@dataclasses.dataclass(frozen=True)
class Client:
    """A user's training, and the steps of one turn.

    Args:
        examples: `(rng, rows) -> (x, the shape of y, the number of classes)`.
    """

    title: str
    make: Callable[[], keras.Model]
    examples: Callable
    loss: str
    metric: str
    batch_size: int
    steps: int

    def batches(self, rows):
        """The same batch of `rows` examples, for ever."""
        rng = np.random.default_rng(0)
        x, shape, classes = self.examples(rng, rows)
        y = rng.integers(0, classes, shape).astype("float32")
        return tf.data.Dataset.from_tensors((x, y)).repeat()

    def compiled(self):
        keras.utils.set_random_seed(0)
        model = self.make()
        model.compile("adam", loss=self.loss, metrics=[self.metric])
        return model


CLIENTS = {
    "vit": Client(
        "small ViT, 32 x 32 images, B = 64",
        vit,
        images,
        "sparse_categorical_crossentropy",
        "accuracy",
        64,
        100,
    ),
    "transformer": Client(
        "Transformer classifier, 200 words, B = 32",
        transformer,
        sentences,
        "sparse_categorical_crossentropy",
        "accuracy",
        32,
        100,
    ),
    "lstm": Client(
        "LSTM, 120 hours, B = 256", lstm, windows, "mse", "mae", 256, 100
    ),
    "recommender": Client(
        "recommender, 1,000,000 users x 32, B = 256",
        recommender,
        ratings,
        "binary_crossentropy",
        "accuracy",
        256,
        100,
    ),
    "cnn": Client(
        "CNN with BatchNormalization, 32 x 32 images, B = 64",
        convolutions,
        images,
        "sparse_categorical_crossentropy",
        "accuracy",
        64,
        100,
    ),
    "mlp": Client(
        "perceptron, 3 x 256, B = 64",
        perceptron,
        images,
        "sparse_categorical_crossentropy",
        "accuracy",
        64,
        400,
    ),
}


# Steps of a block of which one is measured; None: without the callback.
CONTENDERS = {"plain": None, "every=20": 20, "every=100": 100}


def callbacks_of(every):
    if every is None:
        return []
    return [keras_svag.GradientNoiseMonitor(every=every)]


def steps_timed(client):
    """`{contender: function}` that give the seconds of a step."""
    batches = client.batches(client.batch_size)

    def timed(every):
        model, callbacks = client.compiled(), callbacks_of(every)
        return lambda: seconds_per_step(model, batches, client.steps, callbacks)

    return {name: timed(every) for name, every in CONTENDERS.items()}


def print_memory_of_training(name, contender):
    """Trains in this process and prints what it added, in MB."""
    client = CLIENTS[name]
    batches = client.batches(client.batch_size)
    # Some of the few steps are measured for sure.
    callbacks = callbacks_of(CONTENDERS[contender] and 1)
    print_added(client.compiled(), batches, callbacks, steps=4)


def trainings_weighed(name):
    """`{contender: function}` that give the megabytes of a training."""
    return {
        contender: lambda c=contender: megabytes_printed(__file__, name, c)
        for contender in ("plain", "every=20")
    }


def megabytes(values):
    return f"{statistics.median(values):.0f}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--clients", nargs="+", default=list(CLIENTS), choices=CLIENTS
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        print_memory_of_training(*arguments.train)
        return
    unit, shown = "ms", milliseconds
    if arguments.memory:
        unit, shown = "MB", megabytes
    measured_by = [*CONTENDERS][1:2] if arguments.memory else [*CONTENDERS][1:]
    print_header(
        "training",
        f"plain, {unit}",
        *(f"{name}, ratio | range" for name in measured_by),
    )
    for name in arguments.clients:
        client = CLIENTS[name]
        if arguments.memory:
            contenders = trainings_weighed(name)
        else:
            contenders = steps_timed(client)
        measured = alternating_rounds(
            contenders, arguments.rounds, warm_up=not arguments.memory
        )
        print_row(
            client.title,
            shown(measured["plain"]),
            *(
                ratio_cells(measured[column], measured["plain"])
                for column in measured_by
            ),
        )
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
