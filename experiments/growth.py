"""Batches that grow from epoch to epoch of a run."""

import dataclasses
import itertools

import keras

from keras_svag.callbacks.check import ScalingRuleCheck
from keras_svag.callbacks.growing import BatchGrowth
from keras_svag.scaling.scaled_optimizer import rescale

GROWTHS = ("none", "measured", "seesaw", "always")


def is_growing(config):
    """Whether the batch of a configuration, a dict, may grow."""
    return config.get("growth", "none") != "none"


class GrowingBatches(keras.callbacks.Callback):
    """Has the batch grow at the ends of epochs, and keeps its sizes.

    The logs get `batch_size`. Put it after what measures the noise and before
    the callbacks that write the logs.

    Args:
        plan: the `EpochPlan` of the first epoch.
        growth: the `BatchGrowth` that decides, in rows of a batch.

    Attributes:
        plans: list of the `EpochPlan`s of the epochs so far, and of the one
            that is to come.
    """

    def __init__(self, plan, growth):
        super().__init__()
        self.plans = [plan]
        self._growth = growth

    @property
    def batch_size(self):
        """That of the last epoch."""
        return self.plans[-1].batch_size

    def on_epoch_begin(self, epoch, logs=None):
        self._growth.note_rate(self.model, self.plans[epoch].rows_per_step)

    def on_epoch_end(self, epoch, logs=None):
        logs["batch_size"] = self.plans[epoch].batch_size
        is_last = epoch + 1 == self.params["epochs"]
        if not is_last and not self.model.stop_training:
            rows = self.plans[epoch].rows_per_step
            grown = self._growth.grow(self.model, epoch + 1, rows)
            self._append(self.batch_size * (grown // rows))

    def go_on(self, checkpoint, optimizer):
        """Gives a new optimizer what the growths so far gave the old one."""
        checkpoint.restore([self])
        steps = 0
        for plan, following in itertools.pairwise(self.plans):
            steps += plan.steps_per_epoch
            kappa = following.batch_size // plan.batch_size
            if kappa > 1:
                # A schedule goes on from there.
                optimizer.iterations.assign(steps)
                rescale(optimizer, kappa, self._growth.rule)

    def state_dict(self):
        """The sizes so far and the schedule's peak, as a value of JSON."""
        return {
            "sizes": [plan.batch_size for plan in self.plans],
            "peak": self._growth.peak,
        }

    def load_state_dict(self, state):
        """Goes on from what `state_dict` returned."""
        self._growth.peak = state["peak"]
        del self.plans[1:]
        for size in state["sizes"][1:]:
            self._append(size)

    def _append(self, size):
        plan = dataclasses.replace(self.plans[0], batch_size=size)
        self.plans.append(plan)


def growing_batches(config, plan, optimizer, monitor):
    """The `GrowingBatches` that a configuration asks for, or None.

    Growth that is not `"always"` asks what measures the noise, `monitor`, if
    that is a `ScalingRuleCheck`. `plan` is the `EpochPlan` of the first epoch.

    Raises:
        ValueError: if there is no scaling rule for the optimizer.
    """
    if not is_growing(config):
        return None
    rows, mode, check = plan.rows_per_step, config.growth, None
    if mode == "always":
        epochs = sorted(config.growth_epochs)
        mode = {epoch: rows * 2**n for n, epoch in enumerate(epochs, start=1)}
    elif isinstance(monitor, ScalingRuleCheck):
        check = monitor
    growth = BatchGrowth(
        rows,
        rows * config.max_batch_size // plan.batch_size,
        check,
        mode,
        config.on_heuristic,
    )
    growth.check_optimizer(optimizer)
    return GrowingBatches(plan, growth)
