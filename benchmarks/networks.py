"""The networks whose training is measured, on batches of random examples."""

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial

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
    return keras.Model(inputs, layers.Dense(10)(x))


def transformer():
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = Positions()(layers.Embedding(WORDS, 32)(inputs))
    x = transformer_block(x, heads=2, width=32)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(20, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def lstm():
    inputs = keras.Input((120, 7))
    return keras.Model(inputs, layers.Dense(1)(layers.LSTM(32)(inputs)))


def recommender():
    inputs = keras.Input((2,), dtype="int32")
    user = layers.Embedding(USERS, 32)(inputs[:, 0])
    movie = layers.Embedding(MOVIES, 32)(inputs[:, 1])
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
    head = [layers.Flatten(), layers.Dense(10)]
    return keras.Sequential([keras.Input(CIFAR), *blocks, *head])


def perceptron():
    hidden = [layers.Dense(256, activation="relu") for _ in range(3)]
    return keras.Sequential(
        [keras.Input(CIFAR), layers.Flatten(), *hidden, layers.Dense(10)]
    )


def numbers(*shape):
    return lambda rng, rows: rng.normal(size=(rows, *shape)).astype("float32")


def integers(below, width):
    return lambda rng, rows: rng.integers(0, below, (rows, width), "int32")


@dataclasses.dataclass(frozen=True)
class Network:
    """A training on random examples of two classes.

    Args:
        inputs: `(rng, rows) -> x`.
        rows: of a batch.
        steps: of a turn in which it is timed.
    """

    title: str
    make: Callable[[], keras.Model]
    inputs: Callable
    rows: int
    steps: int = 20
    loss: object = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def batches(self):
        """The same batch for ever, as a data set where TensorFlow trains."""
        rng = np.random.default_rng(0)
        x = self.inputs(rng, self.rows)
        batch = x, rng.integers(0, 2, self.rows).astype("float32")
        if keras.backend.backend() != "tensorflow":
            return (batch for _ in itertools.count())
        import tensorflow as tf

        return tf.data.Dataset.from_tensors(batch).repeat()

    def compiled(self, optimizer, wrap=lambda model: model):
        keras.utils.set_random_seed(0)
        model = wrap(self.make())
        model.compile(optimizer, loss=self.loss, metrics=["accuracy"])
        return model


images = numbers(*CIFAR)
digits = partial(applications.ScaleInvariantMLP, (8, 8, 1), 10, seed=0)
resnet = partial(applications.PreResNet, 32, CIFAR, 10, seed=0)
NETWORKS = {
    # Pairs of batches of size B, as in the paper.
    "bn": Network(
        "PreResNet-32, BN, B = 128", partial(resnet, "batch"), images, 256, 10
    ),
    "gn": Network(
        "PreResNet-32, GN, B = 128", partial(resnet, "group"), images, 256, 10
    ),
    "wide": Network(
        "PreResNet-32, 4x wide, BN, B = 32",
        partial(resnet, "batch", 4),
        images,
        64,
        4,
    ),
    "digits": Network("digits MLP, B = 16", digits, numbers(8, 8, 1), 32, 500),
    # As in Keras's guides.
    "vit": Network("small ViT, 32 x 32 images, B = 64", vit, images, 64),
    "transformer": Network(
        "Transformer classifier, 200 words, B = 32",
        transformer,
        integers(WORDS, LENGTH),
        32,
    ),
    "lstm": Network(
        "LSTM, 120 hours, B = 256", lstm, numbers(120, 7), 256, loss="mse"
    ),
    "recommender": Network(
        "recommender, 1,000,000 users x 32, B = 256",
        recommender,
        integers((USERS, MOVIES), 2),
        256,
        loss="binary_crossentropy",
    ),
    "cnn": Network(
        "CNN with BatchNormalization, 32 x 32 images, B = 64",
        convolutions,
        images,
        64,
    ),
    "perceptron": Network(
        "perceptron, 3 x 256, B = 64", perceptron, images, 64
    ),
}
