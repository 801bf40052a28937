"""Scripts on images: tf.data, PyDataset, pairs, half precision."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from tests.clients.script import Trained, random_numbers


def _images(rows, size=8):
    """Images with a bright column; which one is the label."""
    rng = random_numbers()
    y = rng.integers(0, 3, rows)
    x = rng.integers(0, 128, (rows, size, size, 1))
    x[np.arange(rows), :, y] += 127
    return x.astype("uint8"), y


def _convolutions(normalize=False):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu"),
            *([layers.BatchNormalization()] if normalize else []),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def _logits_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def convnet(wrap, folder):
    """A tf.data pipeline without drop_remainder; TensorBoard."""
    x, y = _images(75)
    data = tf.data.Dataset.from_tensor_slices((x, y))
    train = data.take(55).cache().shuffle(55, seed=1).batch(16).prefetch(1)
    validation = data.skip(55).batch(16)
    model = wrap(_convolutions())
    model.compile(optimizer="adam", loss=_logits_loss(), metrics=["accuracy"])
    callbacks = [
        keras.callbacks.TensorBoard(str(folder / "logs"), write_graph=False),
        keras.callbacks.ModelCheckpoint(
            str(folder / "{epoch}.weights.h5"), save_weights_only=True
        ),
    ]
    history = model.fit(
        train,
        validation_data=validation,
        epochs=3,
        callbacks=callbacks,
        verbose=0,
    )
    model.load_weights(folder / "2.weights.h5")
    return Trained(model, history.history, {"x": validation})


def convnet_with_batch_normalization(wrap, folder):
    """The one kind of layer with which a wrapped model trains otherwise."""
    x, y = _images(50)
    model = wrap(_convolutions(normalize=True))
    model.compile("sgd", loss=_logits_loss(), metrics=["accuracy"])
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    return Trained(model, history.history, {"x": x, "y": y})


def half_precision(wrap, folder, policy="mixed_float16"):
    """mixed_float16: Keras scales the loss by itself."""
    x, y = _images(40)
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = _convolutions()
    finally:
        keras.config.set_dtype_policy(usual)
    model = wrap(model)
    model.compile(
        keras.optimizers.SGD(0.1), _logits_loss(), metrics=["accuracy"]
    )
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    return Trained(model, history.history, {"x": x, "y": y})


class Photographs(keras.utils.PyDataset):
    """Batches that are read one by one, the last one short."""

    def __init__(self, x, y, batch_size, **kwargs):
        super().__init__(**kwargs)
        self.x, self.y, self.batch_size = x, y, batch_size

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, index):
        start = index * self.batch_size
        rows = slice(start, min(start + self.batch_size, len(self.x)))
        return self.x[rows] / 255.0, keras.utils.to_categorical(self.y[rows], 3)


def photographs(wrap, folder):
    """A PyDataset of one's own, and label smoothing."""
    train = Photographs(*_images(45), batch_size=10)
    inputs = keras.Input((8, 8, 1))
    hidden = layers.SeparableConv2D(8, 3, activation="relu")(inputs)
    residual = layers.Conv2D(8, 3, padding="same")(hidden)
    hidden = layers.GlobalAveragePooling2D()(layers.add([hidden, residual]))
    model = wrap(keras.Model(inputs, layers.Dense(3)(hidden)))
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=0.1
        ),
        metrics=["accuracy", keras.metrics.TopKCategoricalAccuracy(2)],
    )
    history = model.fit(train, epochs=2, shuffle=False, verbose=0)
    return Trained(model, history.history, {"x": train})


@keras.saving.register_keras_serializable("clients")
class Distance(layers.Layer):
    """Euclidean distance of two embeddings."""

    def call(self, first, second):
        squares = ops.sum(ops.square(first - second), axis=1, keepdims=True)
        return ops.sqrt(squares + 1e-6)


@keras.saving.register_keras_serializable("clients")
def contrastive_loss(y_true, y_pred):
    """Pulls like pairs together, pushes others apart to a margin of 1."""
    apart = ops.square(ops.maximum(1 - y_pred, 0))
    return ops.mean((1 - y_true) * ops.square(y_pred) + y_true * apart, -1)


def siamese(wrap, folder):
    """Like or unlike: two images through one network, a loss of one's own."""
    x, y = _images(66)
    pairs, labels = [x[::2], x[1::2]], (y[::2] != y[1::2]).astype("float32")
    tower = keras.Sequential(
        [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(4)]
    )
    inputs = [keras.Input((8, 8, 1)) for _ in range(2)]
    outputs = Distance()(tower(inputs[0]), tower(inputs[1]))
    model = wrap(keras.Model(inputs, outputs))
    model.compile(keras.optimizers.SGD(0.05), contrastive_loss)
    history = model.fit(pairs, labels, batch_size=10, epochs=2, verbose=0)
    return Trained(model, history.history, {"x": pairs, "y": labels})


SCRIPTS = (convnet, photographs, siamese)
