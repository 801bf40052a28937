"""Scripts that do not train by one call of `fit` on whole arrays."""

import contextlib

import keras
import numpy as np
from keras import layers

from tests.clients.script import Trained, random_numbers


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


SCRIPTS = (loop_of_ones_own, preempted)
