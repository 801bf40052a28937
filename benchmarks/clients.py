"""What `SVAGModel` with its noise metrics adds to the training of users.

    python benchmarks/clients.py [--clients vit transformer lstm recommender]
        [--rounds 5] [--memory]

Networks in the style of Keras's guides, with Adam, through `fit`: unwrapped,
and wrapped as the only new line. Batches are in memory, static and even.
Between them, what any two gradients of halves cost: two unwrapped steps of half
the batch; and the wrapper without the noise in Adam's norm.

With `--memory`, megabytes in place of milliseconds: the highest resident set
of a process of its own for each training of two steps, minus the resident set
before the first step, as benchmarks/memory.py has it with its blocks freed at
once.
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
USERS, MOVIES = 100_000, 10_000


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

    def compiled(self, wrap):
        keras.utils.set_random_seed(0)
        model = wrap(self.make())
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
        10,
    ),
    "transformer": Client(
        "Transformer classifier, 200 words, B = 32",
        transformer,
        sentences,
        "sparse_categorical_crossentropy",
        "accuracy",
        32,
        20,
    ),
    "lstm": Client(
        "LSTM, 120 hours, B = 256", lstm, windows, "mse", "mae", 256, 10
    ),
    "recommender": Client(
        "recommender, 100,000 users x 32, B = 256",
        recommender,
        ratings,
        "binary_crossentropy",
        "accuracy",
        256,
        20,
    ),
}


class WithoutNormOfAdam(keras_svag.SVAGModel):
    """Measures the noise of the gradients as they are only."""

    @property
    def _noises(self):
        return super()._noises[:1]


def unwrapped(model):
    return model


def unmeasured(model):
    return keras_svag.SVAGModel(model, measure_noise=False)


# Those whose memory is weighed.
CONTENDERS = {
    "plain": unwrapped,
    "unmeasured": unmeasured,
    "without": WithoutNormOfAdam,
    "wrapped": keras_svag.SVAGModel,
}


def steps_timed(client):
    """`{contender: function}` that give the seconds of a step."""
    whole = client.batches(client.batch_size)
    half = client.batches(client.batch_size // 2)

    def timed(wrap, batches=whole, parts=1):
        model, steps = client.compiled(wrap), client.steps
        return lambda: parts * seconds_per_step(model, batches, parts * steps)

    return {
        "plain": timed(unwrapped),
        "halves": timed(unwrapped, half, 2),
        "without": timed(WithoutNormOfAdam),
        "wrapped": timed(keras_svag.SVAGModel),
    }


def print_memory_of_training(name, contender):
    """Trains in this process and prints what it added, in MB."""
    client = CLIENTS[name]
    batches = client.batches(client.batch_size)
    print_added(client.compiled(CONTENDERS[contender]), batches)


def trainings_weighed(name):
    """`{contender: function}` that give the megabytes of a training."""
    return {
        contender: lambda c=contender: megabytes_printed(__file__, name, c)
        for contender in CONTENDERS
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
    titles = {
        "unmeasured": "wrapped, not measured",
        "halves": "two halves unwrapped",
        "without": "wrapped without Adam's norm",
        "wrapped": "wrapped",
    }
    left_out = "halves" if arguments.memory else "unmeasured"
    columns = [name for name in titles if name != left_out]
    print_header(
        "training",
        f"plain, {unit}",
        f"wrapped, {unit}",
        *(f"{titles[name]}, ratio | range" for name in columns),
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
            shown(measured["wrapped"]),
            *(
                ratio_cells(measured[column], measured["plain"])
                for column in columns
            ),
        )
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
