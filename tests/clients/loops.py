"""Scripts that feed a model otherwise than whole arrays in equal batches."""

import contextlib

import keras
import numpy as np
from keras import layers

from tests.clients.script import Trained, random_numbers

SIZES = (8, 3, 8, 1, 3, 17)


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


def generator(wrap, folder):
    """A Python generator without an end, steps_per_epoch."""
    x, y = _curve(64)

    def batches():
        rng = np.random.default_rng(1)
        while True:
            rows = rng.choice(64, rng.integers(1, 10))
            yield x[rows], y[rows]

    model = wrap(_network())
    model.compile("adam", "mse")
    history = model.fit(
        batches(),
        steps_per_epoch=6,
        epochs=2,
        validation_data=(x, y),
        verbose=0,
    )
    return Trained(model, history.history, {"x": x, "y": y})


def loop_of_ones_own(wrap, folder):
    """train_on_batch with sizes that change."""
    x, y = _curve(40)
    model = wrap(_network())
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
    history = {}
    for size in SIZES:
        logs = model.train_on_batch(x[:size], y[:size], return_dict=True)
        for key, value in logs.items():
            history.setdefault(key, []).append(float(value))
    return Trained(model, history, {"x": x, "y": y})


def one_by_one(wrap, folder):
    """A batch size of 1, then one above the number of rows."""
    x, y = _curve(7)
    model = wrap(_network())
    model.compile(keras.optimizers.SGD(0.1), "mae")
    model.fit(x, y, batch_size=1, verbose=0)
    history = model.fit(x, y, batch_size=64, epochs=3, verbose=0)
    return Trained(model, history.history, {"x": x, "y": y})


class Preempted(keras.callbacks.Callback):
    """The machine is taken away in the middle of the third epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 2 * 4 + 2:
            raise KeyboardInterrupt


def preempted(wrap, folder):
    """Killed in an epoch, BackupAndRestore goes on where it began."""
    x, y = _curve(50)

    def backup():
        return keras.callbacks.BackupAndRestore(folder / "backup")

    for callbacks in ([backup(), Preempted()], [backup()]):
        model = wrap(_network())
        model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
        with contextlib.suppress(KeyboardInterrupt):
            history = model.fit(
                x,
                y,
                batch_size=16,
                shuffle=False,
                epochs=4,
                callbacks=callbacks,
                verbose=0,
            )
    assert history.epoch == [2, 3]
    return Trained(model, history.history, {"x": x, "y": y})


def several_steps_at_once(wrap, folder):
    """steps_per_execution, a moving average, averages of the weights."""
    x, y = _curve(60)
    model = wrap(_network())
    model.compile(
        keras.optimizers.Lion(1e-2, use_ema=True, ema_momentum=0.9),
        "mse",
        steps_per_execution=3,
    )
    history = model.fit(x, y, batch_size=7, epochs=2, verbose=0)
    return Trained(model, history.history, {"x": x, "y": y})


SCRIPTS = (
    generator,
    loop_of_ones_own,
    one_by_one,
    preempted,
    several_steps_at_once,
)
