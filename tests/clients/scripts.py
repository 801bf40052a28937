"""Training scripts in the style of Keras's guides.

Each is a function `(callbacks, folder)`: it makes data and a model, compiles,
fits, and writes its files into `folder`. `callbacks` has a callback of
keras_svag in it, or none: nothing else differs.
"""

import contextlib
import dataclasses

import keras
import numpy as np
import tensorflow as tf
from keras import layers

WORDS = 30


@dataclasses.dataclass
class Trained:
    """A trained model, the logs of its training, and data to try it on.

    Args:
        model: A compiled `keras.Model`.
        history: `{key: values}`, one an epoch, or one a call.
        data: The arguments of `model.evaluate`, of which `"x"` is that of
            `model.predict`.
    """

    model: keras.Model
    history: dict
    data: dict


def random_numbers():
    """The script's random numbers; Keras's begin anew too."""
    keras.utils.set_random_seed(0)
    return np.random.default_rng(0)


def _sentences(rows, length=12):
    """Token numbers, and whether there are many small ones."""
    x = random_numbers().integers(1, WORDS, (rows, length))
    return x, (np.median(x, axis=1) < WORDS / 2).astype("float32")


def bag_of_embeddings(callbacks, folder):
    """Text classification: validation_split, the best weights restored."""
    x, y = _sentences(203)
    model = keras.Sequential(
        [
            layers.Embedding(WORDS, 8),
            layers.GlobalAveragePooling1D(),
            layers.Dense(16, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile("adam", "binary_crossentropy", metrics=["accuracy", "AUC"])
    stopping = keras.callbacks.EarlyStopping(
        "val_loss", min_delta=1.0, patience=2, restore_best_weights=True
    )
    history = model.fit(
        x,
        y,
        batch_size=32,
        epochs=9,
        validation_split=0.2,
        callbacks=[*callbacks, stopping],
        verbose=0,
    )
    assert len(history.epoch) == 3
    return Trained(model, history.history, {"x": x, "y": y})


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


def _curve(rows):
    rng = random_numbers()
    x = rng.normal(size=(rows, 3)).astype("float32")
    y = np.sin(x[:, :1]) + 0.1 * rng.normal(size=(rows, 1))
    return x, y.astype("float32")


def _network():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(6, activation="tanh"),
            layers.Dense(1),
        ]
    )


def loop_of_ones_own(callbacks, folder):
    """train_on_batch with sizes that change."""
    x, y = _curve(40)
    model = _network()
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    history = {}
    with contextlib.ExitStack() as watches:
        for callback in callbacks:
            watches.enter_context(callback.watch(model))
        for size in (8, 3, 8, 1, 3, 17):
            logs = model.train_on_batch(x[:size], y[:size], return_dict=True)
            for key, value in logs.items():
                history.setdefault(key, []).append(float(value))
    return Trained(model, history, {"x": x, "y": y})


class Preempted(keras.callbacks.Callback):
    """The machine is taken away in the middle of the third epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 2 * 4 + 2:
            raise KeyboardInterrupt


def preempted(callbacks, folder):
    """Killed in an epoch, BackupAndRestore goes on where it began."""
    x, y = _curve(50)

    def backup():
        return keras.callbacks.BackupAndRestore(folder / "backup")

    for others in ([backup(), Preempted()], [backup()]):
        model = _network()
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
        with contextlib.suppress(KeyboardInterrupt):
            history = model.fit(
                x,
                y,
                batch_size=16,
                shuffle=False,
                epochs=4,
                callbacks=[*callbacks, *others],
                verbose=0,
            )
    assert history.epoch == [2, 3]
    return Trained(model, history.history, {"x": x, "y": y})


SCRIPTS = (bag_of_embeddings, convnet, loop_of_ones_own, preempted)
