"""The networks whose training is measured, with batches of random examples."""

import dataclasses
import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers, ops

from keras_svag import applications

CIFAR = (32, 32, 3)
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
    inputs = keras.Input(CIFAR)
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
    return keras.Model(inputs, layers.Dense(1)(layers.LSTM(32)(inputs)))


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
    return keras.Sequential([keras.Input(CIFAR), *blocks, *head])


def perceptron():
    hidden = [layers.Dense(256, activation="relu") for _ in range(3)]
    head = layers.Dense(10, activation="softmax")
    return keras.Sequential(
        [keras.Input(CIFAR), layers.Flatten(), *hidden, head]
    )


def digits():
    return applications.ScaleInvariantMLP((8, 8, 1), 10, seed=0)


def pre_resnet(normalization, widen_factor=1):
    return lambda: applications.PreResNet(
        32, CIFAR, 10, normalization, widen_factor, seed=0
    )


def images(rng, rows, shape=CIFAR):
    x = rng.normal(size=(rows, *shape)).astype("float32")
    return x, rng.integers(0, 10, rows)


def small_images(rng, rows):
    return images(rng, rows, (8, 8, 1))


def sentences(rng, rows):
    x = rng.integers(0, WORDS, (rows, LENGTH), "int32")
    return x, rng.integers(0, 2, rows)


def windows(rng, rows):
    x = rng.normal(size=(rows, 120, 7)).astype("float32")
    return x, rng.integers(0, 2, (rows, 1))


def ratings(rng, rows):
    x = {
        "user": rng.integers(0, USERS, rows, "int32"),
        "movie": rng.integers(0, MOVIES, rows, "int32"),
    }
    return x, rng.integers(0, 2, (rows, 1))


def cross_entropy(from_logits=True):
    return keras.losses.SparseCategoricalCrossentropy(from_logits)


@dataclasses.dataclass(frozen=True)
class Network:
    """A training.

    Args:
        examples: `(rng, rows) -> (x, y)`.
        loss, metric: as `compile` takes them.
        steps: of one turn.
    """

    title: str
    make: Callable[[], keras.Model]
    examples: Callable
    batch_size: int
    steps: int = 20
    loss: object = "sparse_categorical_crossentropy"
    metric: str = "accuracy"

    def batch(self, rows):
        x, y = self.examples(np.random.default_rng(0), rows)
        return x, y.astype("float32")

    def batches(self, rows):
        """The same batch of `rows` examples, for ever."""
        import tensorflow as tf

        return tf.data.Dataset.from_tensors(self.batch(rows)).repeat()

    def compiled(self, optimizer, wrap=lambda model: model):
        keras.utils.set_random_seed(0)
        model = wrap(self.make())
        model.compile(optimizer, loss=self.loss, metrics=[self.metric])
        return model


_LOGITS = cross_entropy()
PAPERS = {
    "bn": Network(
        *("PreResNet-32, BN, B = 128", pre_resnet("batch"), images, 128, 10),
        _LOGITS,
    ),
    "gn": Network(
        *("PreResNet-32, GN, B = 128", pre_resnet("group"), images, 128, 10),
        _LOGITS,
    ),
    "wide": Network(
        "PreResNet-32, 4x wide, BN, B = 32",
        *(pre_resnet("batch", 4), images, 32, 4),
        _LOGITS,
    ),
    "digits": Network(
        *("digits MLP, B = 16", digits, small_images, 16, 500), _LOGITS
    ),
}
CLIENTS = {
    "vit": Network("small ViT, 32 x 32 images, B = 64", vit, images, 64),
    "transformer": Network(
        "Transformer classifier, 200 words, B = 32", transformer, sentences, 32
    ),
    "lstm": Network(
        *("LSTM, 120 hours, B = 256", lstm, windows, 256),
        loss="mse",
        metric="mae",
    ),
    "recommender": Network(
        "recommender, 1,000,000 users x 32, B = 256",
        *(recommender, ratings, 256),
        loss="binary_crossentropy",
    ),
    "cnn": Network(
        "CNN with BatchNormalization, 32 x 32 images, B = 64",
        *(convolutions, images, 64),
    ),
    "perceptron": Network(
        "perceptron, 3 x 256, B = 64", perceptron, images, 64
    ),
}
NETWORKS = PAPERS | CLIENTS
