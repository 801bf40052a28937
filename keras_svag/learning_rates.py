"""The learning rates of an epoch, schedules and other callbacks included."""

import keras
import tensorflow as tf
from keras import ops


class EpochLearningRates:
    """The learning rates of an epoch's first and last step.

    Args:
        optimizer: that of the model; None for an epoch that has not begun.

    Attributes:
        first: learning rate of the first step, a float, or None before it.
            What is set here counts as that of a step before.
    """

    def __init__(self, optimizer=None):
        self._optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self._first = None
        self._last = None

    @property
    def first(self):
        return None if self._first is None else _as_float(self._first)

    @first.setter
    def first(self, rate):
        self._first = rate

    def before_step(self):
        """To be called before every step, after the callbacks that set η."""
        # Evaluating a schedule before each step would be slow; reading a
        # variable to the host would make training wait for the device.
        if self._first is None or not self._is_scheduled:
            rate = ops.convert_to_tensor(self._optimizer.learning_rate)
            # The variable itself would be read after it has changed.
            self._last = tf.identity(rate)
        if self._first is None:
            self._first = self._last

    def ends(self):
        """`(first, last)` after the epoch's last step."""
        last = self._last
        if self._is_scheduled:
            last = self._scheduled_at_last_step()
        return self.first, _as_float(last)

    @property
    def _is_scheduled(self):
        return isinstance(
            self._optimizer._learning_rate,
            keras.optimizers.schedules.LearningRateSchedule,
        )

    def _scheduled_at_last_step(self):
        optimizer = self._optimizer
        ell = getattr(optimizer, "ell", 1)
        if hasattr(optimizer, "effective_iterations"):
            steps = round(optimizer.effective_iterations * ell)
        else:
            steps = int(ops.convert_to_numpy(optimizer.iterations))
        return optimizer._learning_rate(max(steps - 1, 0) // ell)


def _as_float(rate):
    # Through its shortest digits: 0.1 in float32 is 0.1, not 0.10000000149.
    return float(str(ops.convert_to_numpy(rate)))
