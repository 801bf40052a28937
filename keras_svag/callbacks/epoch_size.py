"""How many examples an epoch of `fit` has, and how they are drawn."""

from typing import Literal

import keras

from keras_svag import arguments, backend
from keras_svag.noise.series import NoiseSeries


class EpochSize:
    """Establishes the number of examples that `fit` runs through in an epoch.

    Attributes:
        data: What is known of the data before the first epoch has ended.
    """

    def __init__(self) -> None:
        self.data = backend.FitData()
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self._counted: int | None = None

    def count(self, model: keras.Model) -> None:
        """Notes the examples of the epoch so far, as Keras counts them."""
        is_open = self.data.is_whole and self.data.examples is None
        if is_open and self._counted is None and backend.is_one_process(model):
            self._counted = backend.examples_in_loss(model)

    def end_epoch(
        self, model: keras.Model, steps: int, rows: int | None
    ) -> None:
        """Takes the examples of a whole epoch as those of all epochs.

        It had so many steps, whose largest batch had so many rows.
        """
        self.count(model)
        count = self._counted
        # Else batches differ, or Keras has counted those of an evaluation.
        if count and rows and (steps - 1) * rows < count <= steps * rows:
            self.data = self.data._replace(examples=count)

    def settle(
        self, series: NoiseSeries, given: int | Literal["auto"] | None
    ) -> None:
        """Notes in a series how its batches are drawn, as far as it is known.

        Raises:
            ValueError: If the given `num_examples` is not that of the data.
        """
        known = self.data.examples
        if given is None:
            series.sampling = "independent"
            return
        if given != "auto":
            if known not in (None, given):
                wanted = f"{known:,}, the examples that fit runs through"
                raise arguments.wrong(
                    "num_examples", wanted, given, "leave it out"
                )
            known = given
        elif self.data.batches is None:
            # Each epoch may draw other examples.
            known = None
        elif known is None and series.largest_rows:
            # All but the last batch are sure to have as many rows.
            known = self.data.batches * series.largest_rows
        series.sampling = "shuffle" if known else None
        series.num_examples = known
