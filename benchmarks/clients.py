"""What `GradientNoiseMonitor` adds to the training of users.

    python benchmarks/clients.py [--clients vit transformer lstm …]
        [--rounds 30] [--memory]

Networks in the style of Keras's guides, with Adam, through `fit`: plain, and
with the callback, which measures one of the 20 steps of a turn. Batches are in
memory, static and even. A shared machine changes its speed from second to
second, so a measured step is held against the other steps of its turn, and
these against those of a plain turn just before or after. What `every=20` and
`every=100` cost follows from both.

With `--memory`, megabytes in place of milliseconds: the highest resident set
of a process of its own for each training, and that minus the resident set
before the first step, as benchmarks/memory.py has it with its blocks freed at
once.
"""

import argparse
import dataclasses
import os
import statistics
import time
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
    """A user's training.

    Args:
        examples: `(rng, rows) -> (x, the shape of y, the number of classes)`.
    """

    title: str
    make: Callable[[], keras.Model]
    examples: Callable
    loss: str
    metric: str
    batch_size: int

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
    ),
    "transformer": Client(
        "Transformer classifier, 200 words, B = 32",
        transformer,
        sentences,
        "sparse_categorical_crossentropy",
        "accuracy",
        32,
    ),
    "lstm": Client(
        "LSTM, 120 hours, B = 256", lstm, windows, "mse", "mae", 256
    ),
    "recommender": Client(
        "recommender, 1,000,000 users x 32, B = 256",
        recommender,
        ratings,
        "binary_crossentropy",
        "accuracy",
        256,
    ),
    "cnn": Client(
        "CNN with BatchNormalization, 32 x 32 images, B = 64",
        convolutions,
        images,
        "sparse_categorical_crossentropy",
        "accuracy",
        64,
    ),
    "mlp": Client(
        "perceptron, 3 x 256, B = 64",
        perceptron,
        images,
        "sparse_categorical_crossentropy",
        "accuracy",
        64,
    ),
}


# Steps of a turn, one of which is measured.
STEPS = 20


class StepSeconds(keras.callbacks.Callback):
    """The seconds of each step of the last `fit`, other callbacks included."""

    def on_train_begin(self, logs=None):
        self._times = []

    def on_train_batch_begin(self, batch, logs=None):
        self._times.append(time.perf_counter())

    def on_epoch_end(self, epoch, logs=None):
        self._times.append(time.perf_counter())

    @property
    def seconds(self):
        return np.diff(self._times)


def timed(client, monitored):
    """A function that trains for a turn.

    It returns the median seconds of an ordinary step, and the seconds of the
    measured one, NaN without the callback.
    """
    batches, model = client.batches(client.batch_size), client.compiled()
    clock, monitor = StepSeconds(), keras_svag.GradientNoiseMonitor(every=STEPS)
    callbacks = [clock, monitor] if monitored else [clock]

    def turn():
        arguments = {"steps_per_epoch": STEPS, "shuffle": False, "verbose": 0}
        model.fit(batches, callbacks=callbacks, **arguments)
        seconds = clock.seconds
        if not monitored:
            return np.median(seconds), np.nan
        place = int(monitor.series["step"][-1] - 1) % STEPS
        return np.median(np.delete(seconds, place)), seconds[place]

    return turn


def print_seconds(client, rounds):
    turns = alternating_rounds(
        {"plain": timed(client, False), "every=20": timed(client, True)}, rounds
    )
    plain, _ = np.transpose(turns["plain"])
    ordinary, measured = np.transpose(turns["every=20"])
    between, step = (
        (np.median(values), standard_error(values))
        for values in (ordinary / plain, measured / ordinary)
    )
    print_row(
        client.title,
        milliseconds(plain),
        *(f"{value:.3f} ± {error:.3f}" for value, error in (between, step)),
        *(
            f"{between[0] * (1 + (step[0] - 1) / every):.3f}"
            for every in (20, 100)
        ),
    )


def standard_error(values):
    """That of the median, from the middle half of the values."""
    first, third = np.quantile(values, [0.25, 0.75])
    return 1.2533 * (third - first) / 1.349 / len(values) ** 0.5


def print_memory_of_training(name, contender):
    """Trains in this process and prints what it added, in MB."""
    client = CLIENTS[name]
    batches = client.batches(client.batch_size)
    callbacks = []
    if contender == "measured":
        callbacks = [keras_svag.GradientNoiseMonitor(every=1)]
    print_added(client.compiled(), batches, callbacks, steps=4)


def trainings_weighed(name):
    """`{contender: function}` that give the megabytes of a training."""
    return {
        contender: lambda c=contender: megabytes_printed(__file__, name, c)
        for contender in ("plain", "measured")
    }


def megabytes(values):
    return f"{statistics.median(values):.0f}"


def print_megabytes(name, rounds):
    weighed = alternating_rounds(trainings_weighed(name), rounds, False)
    cells = []
    # The peak, and what training adds.
    for plain, measured in zip(
        *(zip(*weighed[c], strict=True) for c in ("plain", "measured")),
        strict=True,
    ):
        cells += [megabytes(plain), ratio_cells(measured, plain)]
    print_row(CLIENTS[name].title, *cells)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--clients", nargs="+", default=list(CLIENTS), choices=CLIENTS
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        print_memory_of_training(*arguments.train)
        return
    if arguments.memory:
        print_header(
            "training",
            "peak, MB",
            "measured / plain | range",
            "added, MB",
            "measured / plain | range",
        )
    else:
        print_header(
            "training",
            "plain, ms",
            "a step between / plain",
            "a measured step / between",
            "every=20",
            "every=100",
        )
    for name in arguments.clients:
        if arguments.memory:
            print_megabytes(name, arguments.rounds)
        else:
            print_seconds(CLIENTS[name], arguments.rounds)
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
