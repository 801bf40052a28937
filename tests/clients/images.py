"""Scripts on images and on time series, from tf.data."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tests.clients.script import Trained, random_numbers


def _images(rows, size=8):
    """Images with a bright column; which one is the label."""
    rng = random_numbers()
    y = rng.integers(0, 3, rows)
    x = rng.integers(0, 128, (rows, size, size, 1))
    x[np.arange(rows), :, y] += 127
    return x.astype("uint8"), y


def convnet(callbacks, folder):
    """A tf.data pipeline without drop_remainder; TensorBoard."""
    x, y = _images(75)
    data = tf.data.Dataset.from_tensor_slices((x, y))
    train = data.take(55).cache().shuffle(55, seed=1).batch(16).prefetch(1)
    validation = data.skip(55).batch(16)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    writers = [
        keras.callbacks.TensorBoard(str(folder / "logs"), write_graph=False),
        keras.callbacks.ModelCheckpoint(
            str(folder / "{epoch}.weights.h5"), save_weights_only=True
        ),
    ]
    history = model.fit(
        train,
        validation_data=validation,
        epochs=3,
        callbacks=[*callbacks, *writers],
        verbose=0,
    )
    model.load_weights(folder / "2.weights.h5")
    return Trained(model, history.history, {"x": validation})


def weather(callbacks, folder):
    """A forecast by an LSTM, from timeseries_dataset_from_array."""
    noise = random_numbers().normal(size=(150, 2))
    series = np.sin(np.arange(150) / 5)[:, None] + 0.3 * noise
    train, validation = (
        keras.utils.timeseries_dataset_from_array(
            part[:-8], part[8:, 0], sequence_length=8, batch_size=32
        )
        for part in (series[:100], series[100:])
    )
    inputs = keras.Input((8, 2))
    model = keras.Model(inputs, layers.Dense(1)(layers.LSTM(8)(inputs)))
    model.compile(keras.optimizers.RMSprop(1e-2), "mse", metrics=["mae"])
    plateau = keras.callbacks.ReduceLROnPlateau(
        "val_loss", factor=0.1, patience=1, min_delta=10.0
    )
    history = model.fit(
        train,
        validation_data=validation,
        epochs=4,
        callbacks=[*callbacks, plateau],
        verbose=0,
    )
    rates = history.history["learning_rate"]
    np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-3, 1e-4], rtol=1e-5)
    return Trained(model, history.history, {"x": validation})


SCRIPTS = (convnet, weather)
