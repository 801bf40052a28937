import csv
import os

import keras

_NOT_MEASURED = "NA"


class HistoryFile(keras.callbacks.Callback):
    """Writes the logs of every epoch to a CSV file, a row each.

    A column that first appears in a later epoch is filled with `NA` before.
    Put it after the callbacks that add to the logs.

    Args:
        path: path of the file. What it holds of an earlier training is
            replaced by what `load_state_dict` brings back.
    """

    def __init__(self, path):
        super().__init__()
        self._path = path
        self._rows = []
        self._columns = []

    def on_train_begin(self, logs=None):
        self._write()

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch, **(logs or {})}
        self._rows.append(row)
        if not set(row) <= set(self._columns):
            self._write()
            return
        with open(self._path, "a", encoding="utf-8", newline="") as file:
            self._writer(file).writerow(row)

    def state_dict(self):
        """The rows so far, as a value of JSON."""
        return {"rows": self._rows}

    def load_state_dict(self, state):
        """Goes on from what `state_dict` returned; rewrites the file."""
        self._rows = list(state["rows"])
        self._write()

    def _write(self):
        names = {name for row in self._rows for name in row} - {"epoch"}
        self._columns = ["epoch", *sorted(names)]
        # Written whole or not at all.
        partial = f"{self._path}.partial"
        with open(partial, "w", encoding="utf-8", newline="") as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows(self._rows)
        os.replace(partial, self._path)

    def _writer(self, file):
        return csv.DictWriter(file, self._columns, restval=_NOT_MEASURED)
