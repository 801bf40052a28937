"""The observations that the steps of an `SVAGModel` make themselves."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_svag.backend.pair_trainer import Observations


class OwnSteps:
    """Takes the rows of an `SVAGModel` before newer ones replace them.

    The rows wait on the device. The model numbers them by all steps that it
    ever made, a monitor by those that it has seen.
    """

    def __init__(self, observations: Observations) -> None:
        self._observations = observations
        # The model's number of the last row that was taken, and what makes of
        # such a number the monitor's.
        self._last = self._ahead = 0
        self._chosen: set[int] = set()
        self.leave()

    @property
    def layers(self) -> list[str]:
        return self._observations.layers

    @property
    def is_watched(self) -> bool:
        """Whether rows were taken since the epoch began."""
        return self._taken_at is not None

    def leave(self) -> None:
        """Ends an epoch: rows until the next call are not the monitor's."""
        self._taken_at: int | None = None

    def choose(self, step: int) -> None:
        """Has the row of a step kept where not all are."""
        self._chosen.add(step)

    def is_full(self, end: int) -> bool:
        """Whether rows would be lost in a call that ends at step `end`."""
        room = self._observations.room
        return self._taken_at is None or end - self._taken_at > room

    def take(self, begun: int, done: int | None = None) -> tuple[Any, Any]:
        """The rows as the device has them, and their place for `new_rows`.

        At most `begun` steps have begun, and `done` are done, if it is known.
        """
        place = begun, done, not self.is_watched
        if done is not None:
            self._taken_at = done
        return self._observations.last(), place

    def new_rows(
        self, rows: Any, place: Any, keeps_all: bool
    ) -> dict[str, NDArray[np.float64]]:
        """The values of rows that were fetched and are new, by column."""
        (count, rows), (begun, done, is_first) = rows, place
        if done is not None:
            self._ahead = done - int(count)
        earlier, self._last = self._last, int(count)
        chosen = [*self._chosen]
        self._chosen = {s for s in chosen if s > self._ahead + self._last}
        if is_first or not len(rows):
            return {}
        numbers, values = self._observations.unpacked(rows)
        values["step"] = self._ahead + numbers
        is_new = (numbers > earlier) & (values["step"] <= begun)
        if not keeps_all:
            is_new &= np.isin(values["step"], chosen)
        return {name: column[is_new] for name, column in values.items()}
