"""What the training steps of an `SVAGModel` share on all backends."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_svag.backend.model import examples_of, names_of
from keras_svag.backend.pairs import (
    fingerprint,
    loss_scale,
    observation,
    place_in_training,
)
from keras_svag.noise.moments import common_rows, is_sparse
from keras_svag.scaling.optimizers import without_loss_scale

# In squared units of the gradient.
MOMENTS = (
    "grad_sq_norm",
    "example_noise",
    "preconditioned_grad_sq_norm",
    "preconditioned_example_noise",
)
# Rows that wait on the device: taking them costs as much as a small step.
_ROOM = 128
# What a row of the observations begins with; moments by layer follow.
ROW = (
    "iteration",
    "learning_rate",
    "rows",
    "batch",
    "weight_sq_norm",
    *MOMENTS,
)


class PairTrainer(keras.Model):
    """A `keras.Model` that trains the one in it on the pairs of each batch.

    A subclass has it as `model`. Both are compiled with the same optimizer,
    one of SVAG's.
    """

    # Rows of the batches that `fit` makes; None where they vary or are not
    # known, and whether each batch has them.
    _nominal: int | None = None
    _is_always_nominal = False
    _observations = None
    _replicas = 1
    _notes_batches = False

    def compile(self, *args: Any, **kwargs: Any) -> None:
        super().compile(*args, **kwargs)
        if self._observations is not None and self._observations.per_layer:
            # Another set of weights may be trained from now on.
            self._observations.restart()

    def observe(self, per_layer: bool = False) -> "Observations":
        """Keeps the moments of the pairs of a call, from the next one on.

        Args:
            per_layer: Whether to keep those of each variable.

        Returns:
            The `Observations`.
        """
        if self._observations is None:
            self._observations = self._new_observations()
        if self._observations.extend(self.steps_per_execution, per_layer):
            # Part of the step, which is traced anew.
            self.train_function = None
        return self._observations

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        self._notes_batches = True
        try:
            return super().fit(*args, **kwargs)
        finally:
            self._notes_batches = False

    def _new_observations(self):
        """`Observations` without rows."""
        raise NotImplementedError

    def _note_first(self, iterator):
        """Notes what is known of an iterator if it is the one of `fit`."""
        # `evaluate` has one too, also from within `fit`.
        if iterator is not None and self._notes_batches:
            self._notes_batches = False
            self._note_batches(iterator)

    def _note_batches(self, data):
        """Notes what is known of the batches of a `fit`."""
        size = data.data_adapter.batch_size
        examples = examples_of(data).examples
        left_out = 0
        if None not in (size, examples):
            size = min(size, examples)
            left_out = examples % size + examples // size * (size % 2)
        if size is not None:
            self._check_rows(size // self._replicas)
        known = size, examples is not None and examples % size == 0
        if known != (self._nominal, self._is_always_nominal):
            # It is a constant of the traced step.
            self.train_function = None
        self._nominal, self._is_always_nominal = known
        if left_out:
            warnings.warn(
                f"SVAG leaves out {left_out:,} of the {examples:,} rows of "
                "each epoch: batches that are short, and the last row of odd "
                "ones.",
                stacklevel=4,
            )

    def _check_rows(self, rows):
        if rows is None:
            raise ValueError(
                "SVAGModel needs batches of a static number of rows under a "
                "strategy of replicas, got an unknown number; use "
                ".batch(batch_size, drop_remainder=True) with a "
                "tf.data.Dataset, and trim arrays to a multiple of the batch "
                f"size, which is a multiple of {2 * self._replicas}."
            )
        if rows < 2:
            each = " on each replica" if self._replicas > 1 else ""
            raise ValueError(
                f"SVAGModel needs batches of at least 2 rows{each}, for it "
                f"splits them into pairs, got {rows}; use a larger batch size."
            )
        return True

    @property
    def _leaves_no_trace(self):
        """Whether the second half of a batch trains nothing."""
        return without_loss_scale(self.optimizer).trains_on_first

    def _mixed(self, g1, g2):
        """The gradients of a pair as one, for each weight."""
        optimizer = without_loss_scale(self.optimizer)
        mix = optimizer.mixer()

        def mixed(first, second, weight):
            if first is None:
                return None
            if _is_overwritten(weight):
                return first if optimizer.trains_on_first else second
            if not is_sparse(first):
                return mix(first, second)
            *rows, indices = common_rows(first, second)
            return type(first)(mix(*rows), indices, first.dense_shape)

        return list(map(mixed, g1, g2, self.trainable_weights))

    def _apply_mixed(self, gradients):
        if not gradients:
            warnings.warn("There are no trainable weights.", stacklevel=2)
            return
        optimizer = self.optimizer
        with without_loss_scale(optimizer).mixed_gradients():
            optimizer.apply(gradients, self.trainable_weights)

    def _forward(self, half):
        """The loss of a half, and a function that counts it in the metrics.

        That gives their results, and what `compute_metrics` adds to them.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(half)
        y_pred = self(x, training=True)
        loss = self._compute_loss(x, y, y_pred, sample_weight, training=True)

        def counted():
            logs = self.compute_metrics(x, y, y_pred, sample_weight)
            known = self.get_metrics_result()
            own = {
                key: ops.stop_gradient(ops.convert_to_tensor(value))
                for key, value in logs.items()
                if key not in known
            }
            return known, own

        return loss, counted

    def _observed(self, g1, g2, batch, rows):
        """What a pair says: its iteration, and the rest of `ROW` and layers.

        Args:
            g1, g2: Gradients of all weights, scaled as the loss is.
            batch: The examples of both.
            rows: How many those of one are.
        """
        self._observations.name_layers(self.trainable_weights)
        moved = [
            (first, second)
            for first, second, weight in zip(
                g1, g2, self.trainable_weights, strict=True
            )
            if not _is_overwritten(weight)
        ]
        values = observation(self, *zip(*moved, strict=True), rows, rows)
        values["rows"] *= self._replicas
        values["batch"] = fingerprint(batch)
        # Keras divides a loss by the number of replicas.
        unscale = (self._replicas / loss_scale(self)) ** 2
        for name in MOMENTS:
            if name in values:
                values[name] *= unscale
        values |= place_in_training(self)
        # An iteration may have more digits than float32.
        iteration, *others = (values.get(n, float("nan")) for n in ROW)
        row = ops.stack([ops.cast(value, "float32") for value in others])
        if self._observations.per_layer:
            layers = ops.ravel(values["layers"] * unscale)
            row = ops.concatenate([row, layers])
        return iteration, row


class Observations:
    """The moments of the last steps' pairs, a row each.

    A row begins with the number of its step; a step whose batch is left out is
    counted too, and has no row. A new row takes the place of the oldest one
    when there is no more room, so that each monitor of a model takes the rows
    before that.

    Attributes:
        per_layer: Whether the moments of each variable are kept.
        layers: A name for each variable that is measured.
        room: How many rows are kept.
    """

    per_layer = False
    layers: list[str] = []
    room = 0

    def name_layers(self, weights: list[keras.Variable]) -> None:
        """Names the rows of `layers` after the weights that are measured."""
        self.layers = names_of([w for w in weights if not _is_overwritten(w)])

    def extend(self, steps: int, per_layer: bool) -> bool:
        """Makes room for the steps of a call, and for layers if wanted.

        Returns:
            Whether there was none.
        """
        per_layer |= self.per_layer
        room = steps if per_layer else max(steps, _ROOM)
        is_new = (room, per_layer) != (self.room, self.per_layer)
        if is_new:
            self.room, self.per_layer = room, per_layer
            self.restart()
        return is_new

    def restart(self) -> None:
        """Drops the rows; later ones are numbered on."""
        raise NotImplementedError

    def begin(self) -> None:
        """Counts a step that begins."""
        raise NotImplementedError

    def last(self) -> Any:
        """How many steps were counted, and the rows of the last ones.

        A device may still be computing both.
        """
        raise NotImplementedError

    def unpacked(self, rows: Any) -> tuple[Any, dict[str, Any]]:
        """Rows as the numbers of their steps and `{column: array}`.

        With `layers` where they are kept, of shape `(rows, variables, 2)`.
        """
        steps, *columns = np.transpose(rows)
        values = dict(zip(ROW, columns, strict=False))
        if self.per_layer:
            layers = np.transpose(columns[len(ROW) :])
            values["layers"] = layers.reshape(len(rows), -1, 2)
        return steps, values


def _is_overwritten(weight):
    """Whether a weight, as a scale of float8, is given its new value."""
    return getattr(weight, "overwrite_with_gradient", False)
