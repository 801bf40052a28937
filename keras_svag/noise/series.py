"""`NoiseSeries`: the observations of a run, in the order of time."""

import copy
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_svag import arguments
from keras_svag.noise.estimate import SAMPLING, NoiseEstimate
from keras_svag.noise.plots import draw_series

# Relative difference of learning rates, and of losses.
_SAME_RATE = 1e-6
_COUPLED = 0.01


class NoiseSeries:
    """Rows of observations of the gradient noise, float64, on the host.

    `series["grad_sq_norm"]` is a column, `series[a:b]` a slice. What is not
    known, or is not finite, is NaN. `batch` is a number that a batch of the
    same examples has again. Slices and windows share `couplings`,
    `codes` and `lost_epochs` with the series that they are of.

    A series does not grow without end. Whenever there are 16,384 rows, those
    of the older half become 4,096 or fewer, each the mean of neighbours with
    one learning rate, and stands for the `observations` in it. The newest
    8,192 rows are always as they were observed.

    Attributes:
        num_examples: Size of the data set, or None if not known.
        sampling: `"independent"`, `"shuffle"`, or None if not known.
        layers: Names of the variables that are kept apart: all that any row
            has; in rows without them they are NaN.
        couplings: `(step, relative difference)` of a whole batch's loss to the
            mean of its halves', wherever that was looked at.
        codes: What an estimate has to assume, see `NoiseEstimate.assumptions`.
        lost_epochs: Those in which a loss was NaN or infinite.

    Args:
        num_examples, sampling: The attributes.

    Raises:
        TypeError: If `num_examples` is no number.
        ValueError: If one is out of range.
    """

    COLUMNS = (
        "step",
        "epoch",
        "iteration",
        "learning_rate",
        "rows",
        "weight_sq_norm",
        "grad_sq_norm",
        "example_noise",
        "preconditioned_grad_sq_norm",
        "preconditioned_example_noise",
        "observations",
        "batch",
    )
    _MOST_ROWS = 16_384

    def __init__(
        self, num_examples: int | None = None, sampling: str | None = None
    ) -> None:
        arguments.integer("num_examples", num_examples, optional=True)
        arguments.choice("sampling", sampling, SAMPLING, optional=True)
        self.num_examples = num_examples
        self.sampling = sampling
        self.layers: tuple[str, ...] = ()
        self.couplings: list[tuple[int, float]] = []
        self.codes: set[str] = set()
        self.lost_epochs: set[int] = set()
        # The columns, then G and S of each layer. There is room for more than
        # there are rows, which grows by halves.
        self._length = 0
        self._values = np.empty((0, len(self.COLUMNS)))

    def append(
        self,
        layer_moments: Mapping[str, ArrayLike] | None = None,
        **values: ArrayLike,
    ) -> None:
        """Adds one observation, or several of them.

        Args:
            layer_moments: `{name: (G, S)}` of the variables kept apart.
            **values: Any of `COLUMNS`, by name. Each may be an array with a
                value for each of several rows, and the moments one of shape
                `(rows, 2)`.

        Raises:
            KeyError: If there is no such column.
            TypeError: If a value is no number.
            ValueError: If `layer_moments` are no pairs.
        """
        layer_moments = layer_moments or {}
        values = {"observations": 1, **values}
        arguments.integer("observations", values["observations"])
        for name in values.keys() - set(self.COLUMNS):
            raise KeyError(name)
        columns = [
            arguments.array(name, values.get(name, math.nan))
            for name in self.COLUMNS
        ]
        rows = np.atleast_2d(np.stack(np.broadcast_arrays(*columns), axis=-1))
        for pair in layer_moments.values():
            if np.shape(pair)[-1:] != (2,):
                wanted = "{name: (G, S)}"
                raise arguments.wrong("layer_moments", wanted, layer_moments)
        new = [name for name in layer_moments if name not in self.layers]
        if new:
            # Frozen before, or built later.
            self.layers = (*self.layers, *new)
            unknown = np.full((len(self._values), 2 * len(new)), math.nan)
            self._values = np.hstack([self._values, unknown])
        moments = np.full((len(rows), 2 * len(self.layers)), math.nan)
        for index, name in enumerate(self.layers):
            if name in layer_moments:
                moments[:, 2 * index : 2 * index + 2] = layer_moments[name]
        rows = np.hstack([rows, moments])
        rows[~np.isfinite(rows)] = math.nan
        while len(rows):
            if self._length == len(self._values):
                self._make_room()
            room = slice(self._length, self._length + len(rows))
            taken = len(self._values[room])
            self._values[room] = rows[:taken]
            self._length += taken
            rows = rows[taken:]

    def _make_room(self):
        """Makes room for half as many rows more, or thins them out first."""
        quarter = self._MOST_ROWS // 4
        if self._length >= self._MOST_ROWS and self._length % quarter == 0:
            self._thin()
        size = max(16, self._length + self._length // 2)
        # It is full wherever it may be thinned out.
        size = min(size, self._length // quarter * quarter + quarter)
        room = np.full((size - self._length, *self._values.shape[1:]), math.nan)
        self._values = np.concatenate([self._values, room])

    def __len__(self) -> int:
        return self._length

    def __repr__(self):
        text = f"{self['observations'].sum():,.0f} observations"
        if len(self):
            first, last = self["step"][[0, -1]]
            text += f" in steps {first:,.0f} to {last:,.0f}"
        return f"<{type(self).__name__}: {text}>"

    def __getitem__(self, key: str | slice) -> Any:
        if isinstance(key, str):
            return self._rows[:, self._column(key)]
        wanted = "the name of a column or a slice"
        return self._select(arguments.instance("key", key, slice, wanted))

    def layer(self, name: str) -> NDArray[np.float64]:
        """(G, S) of one layer in every row, of shape `(len(self), 2)`."""
        index = self.layers.index(arguments.choice("name", name, self.layers))
        first = len(self.COLUMNS) + 2 * index
        return self._rows[:, first : first + 2]

    @property
    def _rows(self):
        return self._values[: self._length]

    def _column(self, name):
        try:
            return self.COLUMNS.index(name)
        except ValueError:
            raise KeyError(name) from None

    def _select(self, rows):
        part = copy.copy(self)
        part._values = self._rows[rows]
        part._length = len(part._values)
        return part

    def _thin(self):
        """Puts means of neighbours in the place of the older half's rows."""
        half = self._length // 2
        counts = self["observations"][:half]
        done = np.cumsum(counts)
        # All stand for as many, or the oldest would soon be one.
        size = 2
        while done[-1] > size * self._MOST_ROWS // 4:
            size *= 2
        group = (done - counts) // size
        values = self._rows[:half]
        starts = np.isin(np.arange(half), self._stretch_starts())
        starts |= _changes(group)
        unknown, batch = np.isnan(values), self._column("batch")
        unknown[:, batch] = False
        starts |= np.any(_changes(unknown), axis=1)
        first = np.flatnonzero(starts)
        last = np.append(first[1:], half) - 1
        means = np.add.reduceat(values * counts[:, None], first)
        means /= np.add.reduceat(counts, first)[:, None]
        for name in ("step", "epoch", "iteration"):
            column = self._column(name)
            means[:, column] = values[last, column]
        # The mean of several batches is none of them.
        means[first < last, batch] = math.nan
        for name, sum_up in (("rows", np.maximum), ("observations", np.add)):
            column = self._column(name)
            means[:, column] = sum_up.reduceat(values[:, column], first)
        self._values = np.concatenate([means, self._rows[half:]])
        self._length = len(self._values)

    def repeated(self, name: str) -> NDArray[np.float64]:
        """A column with as many values of a row as it has observations."""
        return self._repeated(self[name])

    def _repeated(self, values):
        return np.repeat(values, self["observations"].astype(int), axis=0)

    def window(
        self, epochs: int | None = None, steps: int | None = None
    ) -> "NoiseSeries":
        """The observations of the last epochs or training steps.

        Args:
            epochs, steps: How many, the last row's included; None for all.
        """
        kept = np.ones(len(self), bool)
        for name, size in (("epoch", epochs), ("step", steps)):
            arguments.integer(f"{name}s", size, optional=True)
            if size is not None and len(self):
                kept &= self[name] > self[name][-1] - size
        return self._select(kept)

    def tail(self, count: int) -> "NoiseSeries":
        """The last `count` rows."""
        arguments.integer("count", count, least=0)
        return self[max(len(self) - count, 0) :]

    def before(self, iteration: int) -> "NoiseSeries":
        """The rows whose iteration is below the given one."""
        arguments.number("iteration", iteration)
        return self._select(self["iteration"] < iteration)

    def stretches(self) -> "list[NoiseSeries]":
        """Neighbouring rows of one learning rate, in the order of time.

        Neighbouring stretches of one row each are one stretch: there the rate
        moves at every step.
        """
        ends = itertools.pairwise([*self._stretch_starts(), len(self)])
        return [self[start:stop] for start, stop in ends]

    def _stretch_starts(self):
        starts = np.array(self._rate_starts(), int)
        is_single = np.diff(starts, append=len(self)) == 1
        return starts[~(is_single & np.append(False, is_single[:-1]))]

    @property
    def has_constant_rate(self) -> bool:
        """Whether the learning rate is the same in all rows."""
        return len(self._rate_starts()) < 2

    @property
    def largest_rows(self) -> int | None:
        """The rows of the largest batch, or None if none is known."""
        known = self["rows"][np.isfinite(self["rows"])]
        return int(known.max()) if len(known) else None

    def _rate_starts(self):
        """The first row of each learning rate."""
        rates = self["learning_rate"].tolist()
        starts: list[int] = []
        for index, rate in enumerate(rates):
            # Small steps add up.
            if not starts or not _is_same_rate(rate, rates[starts[-1]]):
                starts.append(index)
        return starts

    def estimate(
        self,
        batch_size: int | None = None,
        preconditioned: bool = False,
        per_layer: bool = True,
    ) -> NoiseEstimate:
        """The estimate that all rows give.

        Args:
            batch_size: B at which N is stated; None for the largest `rows`.
            preconditioned: Whether G and S are those in the norm of an
                adaptive optimizer. They have no layers.
            per_layer: Whether the layers, if there are any, have theirs too.
        """
        arguments.boolean("preconditioned", preconditioned)
        arguments.boolean("per_layer", per_layer)
        if batch_size is None:
            batch_size = self.largest_rows
        common: dict[str, Any] = {
            "batch_size": batch_size,
            "num_examples": self.num_examples,
            "sampling": self.sampling,
            "batches": self.repeated("batch"),
        }
        layers = None
        if self.layers and per_layer and not preconditioned:
            layers = {
                name: NoiseEstimate.from_observations(
                    *self._repeated(self.layer(name)).T, **common
                )
                for name in self.layers
            }
        prefix = "preconditioned_" if preconditioned else ""
        return NoiseEstimate.from_observations(
            self.repeated(f"{prefix}grad_sq_norm"),
            self.repeated(f"{prefix}example_noise"),
            per_layer=layers,
            assumptions=self._assumptions(),
            loss_difference=self.couplings[-1][1] if self.couplings else None,
            **common,
        )

    def _assumptions(self):
        codes = set(self.codes)
        is_coupled = self.couplings and abs(self.couplings[-1][1]) > _COUPLED
        if is_coupled and "masked_loss" not in codes:
            codes.add("coupled_loss")
        first, last = self["epoch"][[0, -1]] if len(self) else (0, 0)
        if any(first <= epoch <= last for epoch in self.lost_epochs):
            codes.add("loss_not_finite")
        return tuple(sorted(codes))

    def plot(
        self,
        axes: Any = None,
        *,
        batch_size: int | None = None,
        preconditioned: bool = False,
        level: float = 0.95,
        window: "NoiseSeries | None" = None,
    ) -> Any:
        """G, N and N / G along the training, with their bands.

        The run is cut into at most 24 parts, each of one learning rate; a
        point is the estimate of its part. It needs matplotlib.

        ```python
        check.series.plot(window=check.series.window(epochs=10))
        ```

        Args:
            axes: Three matplotlib axes to draw into; None for a new figure.
            batch_size, preconditioned: As for `estimate`.
            level: Level of the bands.
            window: A part of the series, which is marked.

        Returns:
            The three axes.

        Raises:
            TypeError: If no batch size is known.
            ValueError: If there are no rows.
        """
        if not len(self):
            raise arguments.wrong("series", "of at least one row", self)
        batch_size = arguments.integer(
            "batch_size",
            self.largest_rows if batch_size is None else batch_size,
            remedy="give it where the rows of the batches are not known",
        )
        if axes is None:
            from matplotlib import pyplot

            _, axes = pyplot.subplots(
                3, 1, sharex=True, figsize=(6.4, 7.2), layout="constrained"
            )
        draw_series(self, axes, batch_size, preconditioned, level, window)
        return axes

    def to_frame(self) -> Any:
        """A pandas frame of the columns, and of those of the layers."""
        import pandas

        columns = list(self.COLUMNS)
        for layer in self.layers:
            columns += [f"{layer}: grad_sq_norm", f"{layer}: example_noise"]
        return pandas.DataFrame(self._rows, columns=columns)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for strict JSON; NaN becomes None."""
        return {
            "num_examples": self.num_examples,
            "sampling": self.sampling,
            "layers": list(self.layers),
            "couplings": [list(coupling) for coupling in self.couplings],
            "codes": sorted(self.codes),
            "lost_epochs": sorted(self.lost_epochs),
            "columns": {name: _plain(self[name]) for name in self.COLUMNS},
            "layer_moments": [
                _plain(self.layer(name).ravel()) for name in self.layers
            ],
        }

    @classmethod
    @arguments.reader
    def from_dict(cls, saved: Mapping[str, Any]) -> "NoiseSeries":
        """The series that `to_dict` was called on.

        Raises:
            ValueError: If `saved` is not of that form.
        """
        series = cls(saved["num_examples"], saved["sampling"])
        series.layers = tuple(saved["layers"])
        series.couplings = [
            (step, difference) for step, difference in saved["couplings"]
        ]
        series.codes = set(saved["codes"])
        series.lost_epochs = set(saved["lost_epochs"])
        columns = [saved["columns"][name] for name in cls.COLUMNS]
        values = np.array(columns, np.float64).T
        series._length = len(values)
        layers = np.array(saved["layer_moments"], np.float64)
        layers = layers.reshape(len(series.layers), len(values), 2)
        series._values = np.hstack([values, *layers])
        return series

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NoiseSeries):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


def _is_same_rate(one, other):
    both_unknown = math.isnan(one) and math.isnan(other)
    return both_unknown or math.isclose(one, other, rel_tol=_SAME_RATE)


def _changes(values):
    """Whether each value, or row, is another than the one before it."""
    return np.concatenate([values[:1] == values[:1], values[1:] != values[:-1]])


def _plain(values):
    return [None if math.isnan(value) else value for value in values.tolist()]
