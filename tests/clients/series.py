"""Scripts on time series: windows, forecasts, classes, anomalies."""

import keras
import numpy as np
from keras import layers

from tests.clients.script import Trained, random_numbers


def weather(wrap, folder):
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
    outputs = layers.Dense(1)(layers.LSTM(8)(inputs))
    model = wrap(keras.Model(inputs, outputs))
    model.compile(keras.optimizers.RMSprop(1e-2), "mse", metrics=["mae"])
    plateau = keras.callbacks.ReduceLROnPlateau(
        "val_loss", factor=0.1, patience=1, min_delta=10.0
    )
    history = model.fit(
        train,
        validation_data=validation,
        epochs=4,
        callbacks=[plateau],
        verbose=0,
    )
    rates = history.history["learning_rate"]
    np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-3, 1e-4], rtol=1e-5)
    return Trained(model, history.history, {"x": validation})


def engine_noise(wrap, folder):
    """Classes of series by convolutions, with a class_weight."""
    rng = random_numbers()
    y = rng.choice(3, 70, p=[0.6, 0.3, 0.1])
    phases = np.arange(16) * (1 + y[:, None]) / 4
    x = np.sin(phases)[..., None] + 0.5 * rng.normal(size=(70, 16, 1))
    model = wrap(
        keras.Sequential(
            [
                keras.Input((16, 1)),
                layers.Conv1D(8, 3, padding="same", activation="relu"),
                layers.MaxPooling1D(),
                layers.Conv1D(8, 3, padding="same", activation="relu"),
                layers.GlobalAveragePooling1D(),
                layers.Dense(3, activation="softmax"),
            ]
        )
    )
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
        "sparse_categorical_crossentropy",
        metrics=["sparse_categorical_accuracy"],
    )
    history = model.fit(
        x,
        y,
        batch_size=9,
        epochs=3,
        class_weight={0: 0.5, 1: 1.0, 2: 4.0},
        verbose=0,
    )
    return Trained(model, history.history, {"x": x, "y": y})


def anomalies(wrap, folder):
    """An autoencoder of windows: x is y."""
    noise = random_numbers().normal(size=(90, 16, 1))
    x = np.sin(np.arange(16) / 2)[:, None] + 0.1 * noise
    model = wrap(
        keras.Sequential(
            [
                keras.Input((16, 1)),
                layers.Conv1D(8, 5, 2, padding="same", activation="tanh"),
                layers.Conv1D(4, 5, 2, padding="same", activation="tanh"),
                layers.Conv1DTranspose(
                    8, 5, 2, padding="same", activation="tanh"
                ),
                layers.Conv1DTranspose(1, 5, 2, padding="same"),
            ]
        )
    )
    model.compile(keras.optimizers.SGD(0.5), "mse")
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=5)
    history = model.fit(
        x,
        x,
        batch_size=32,
        epochs=3,
        validation_split=0.1,
        callbacks=[stopping],
        verbose=0,
    )
    errors = np.abs(model.predict(x, verbose=0) - x).mean(axis=1)
    assert errors.max() < 2
    return Trained(model, history.history, {"x": x, "y": x})


SCRIPTS = (weather, engine_noise, anomalies)
