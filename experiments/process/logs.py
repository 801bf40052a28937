"""What the epochs of a run are said to be: its clock, its history, its end."""

import csv
import math

import keras
from keras import ops

from experiments.process.own_files import replaced


class TrainingClock(keras.callbacks.Callback):
    """Adds `learning_rate`, `effective_step` and `continuous_time` to the logs.

    The rate is that of the epoch's first step; the time of the SDE is there
    with SVAG alone. Put it before the callbacks that read the logs.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._learning_rate = _float(self.model.optimizer.learning_rate)

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        logs["learning_rate"] = self._learning_rate
        if hasattr(optimizer, "continuous_time"):
            logs["effective_step"] = optimizer.effective_iterations
            logs["continuous_time"] = _float(optimizer.continuous_time)
        else:
            logs["effective_step"] = _float(optimizer.iterations)

    def state_dict(self):
        return {"learning_rate": self._learning_rate}

    def load_state_dict(self, state):
        self._learning_rate = float(state["learning_rate"])


def _float(scalar):
    return float(ops.convert_to_numpy(scalar))


class HistoryFile(keras.callbacks.Callback):
    """Writes the logs of every epoch to a CSV file, a row each.

    A column that first appears in a later epoch has `NA` before. Put it after
    the callbacks that add to the logs. What the file holds of an earlier
    training is replaced by what `load_state_dict` brings back.
    """

    def __init__(self, path):
        super().__init__()
        self._path = path
        self._rows = []

    def on_train_begin(self, logs=None):
        self._write()

    def on_epoch_end(self, epoch, logs=None):
        self._rows.append({"epoch": epoch, **logs})
        self._write()

    def state_dict(self):
        return {"rows": self._rows}

    def load_state_dict(self, state):
        self._rows = list(state["rows"])
        self._write()

    def _write(self):
        names = {name for row in self._rows for name in row} - {"epoch"}
        with (
            replaced(self._path) as partial,
            open(partial, "x", encoding="utf-8", newline="") as file,
        ):
            columns = ["epoch", *sorted(names)]
            writer = csv.DictWriter(file, columns, restval="NA")
            writer.writeheader()
            writer.writerows(self._rows)


class StopAtNonFiniteLoss(keras.callbacks.Callback):
    """Stops training when the loss is not finite, without a word."""

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            self.model.stop_training = True
