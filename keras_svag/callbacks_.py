import math

import keras
from keras import ops


class TrainingClock(keras.callbacks.Callback):
    """Adds SGD's clock to the logs of each epoch.

    `learning_rate` is that of the epoch's first step, `effective_step` counts
    the SGD steps done, which for any optimizer but `SVAG` are its own. With
    `SVAG` there is also `continuous_time`, that of the SDE. Put it before the
    callbacks that read the logs.
    """

    def on_epoch_begin(self, epoch, logs=None):
        rate = self._optimizer.learning_rate
        self._learning_rate = float(ops.convert_to_numpy(rate))

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self._optimizer
        logs["learning_rate"] = self._learning_rate
        if not hasattr(optimizer, "continuous_time"):
            logs["effective_step"] = float(
                ops.convert_to_numpy(optimizer.iterations)
            )
        else:
            logs["effective_step"] = optimizer.effective_iterations
            logs["continuous_time"] = float(
                ops.convert_to_numpy(optimizer.continuous_time)
            )

    def state_dict(self):
        """What an epoch that has begun needs, as a value of JSON."""
        return {"learning_rate": self._learning_rate}

    def load_state_dict(self, state):
        """Goes on from what `state_dict` returned."""
        self._learning_rate = state["learning_rate"]

    @property
    def _optimizer(self):
        optimizer = self.model.optimizer
        return getattr(optimizer, "inner_optimizer", optimizer)


class StopAtNonFiniteLoss(keras.callbacks.Callback):
    """Stops training when the loss is not finite.

    Attributes:
        step: number of the step after which that was seen, counted from 1 over
            all epochs, or `None`.
    """

    def __init__(self):
        super().__init__()
        self.step = None

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            self.step = self._epoch * self.params["steps"] + batch + 1
            self.model.stop_training = True
