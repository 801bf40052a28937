"""What an `SVAGModel` keeps on the host, where each step returns there."""

import collections
from typing import Any

import numpy as np

from keras_svag.backend.pair_trainer import Observations as AnyObservations
from keras_svag.backend.pair_trainer import PairTrainer as AnyTrainer
from keras_svag.backend.slices import num_rows


class PairTrainer(AnyTrainer):
    """Leaves out batches below the nominal size before their step begins."""

    _largest = 2

    def _new_observations(self):
        return Observations()

    def _symbolic_build(self, iterator=None, data_batch=None):
        self._note_first(iterator)
        self.model._symbolic_build(iterator, data_batch)
        self.built = True

    def _is_pair(self, data):
        """Whether a batch has the nominal size; it is counted as a step."""
        if self._observations is not None:
            self._observations.begin()
        rows = num_rows(data)
        if self._is_always_nominal:
            return True
        if self._nominal is not None:
            return rows >= self._nominal
        self._largest = max(self._largest, rows)
        return rows >= self._largest


class Observations(AnyObservations):
    """Rows as the steps return them: numbers, and a vector of a device."""

    _count = 0

    def restart(self) -> None:
        self._rows: collections.deque = collections.deque(maxlen=self.room)

    def begin(self) -> None:
        self._count += 1

    def add(self, iteration: Any, row: Any) -> None:
        """Adds the row of a step, in place of the oldest one."""
        self._rows.append([self._count, iteration, row])

    def last(self) -> Any:
        return self._count, list(self._rows)

    def unpacked(self, rows: Any) -> tuple[Any, dict[str, Any]]:
        return super().unpacked([np.append(row[:2], row[2]) for row in rows])
