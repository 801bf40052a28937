"""Batches that grow from epoch to epoch of a run."""

import dataclasses
import itertools

import keras

from keras_svag.callbacks.check import ScalingRuleCheck
from keras_svag.callbacks.growing import BatchGrowth
from keras_svag.scaling.scaled_optimizer import rescale

GROWTHS = ("none", "measured", "seesaw", "always")


def is_growing(config):
    """Whether the batch of a configuration may grow."""
    return config.get("growth", "none") != "none"


class GrowingBatches(keras.callbacks.Callback):
    """Has the batch grow at the ends of epochs, and adds its size to the logs.

    Put it after what measures the noise and before what writes the logs. Its
    `plans` are the `EpochPlan`s of the epochs so far and of the next one; the
    `BatchGrowth` decides, in rows of a batch.
    """

    def __init__(self, plan, growth):
        super().__init__()
        self.plans = [plan]
        self._growth = growth

    def on_epoch_begin(self, epoch, logs=None):
        self._growth.note_rate(self.model, self.plans[epoch].rows_per_step)

    def on_epoch_end(self, epoch, logs=None):
        plan = self.plans[epoch]
        logs["batch_size"] = plan.batch_size
        is_last = epoch + 1 == self.params["epochs"]
        if not is_last and not self.model.stop_training:
            rows = plan.rows_per_step
            grown = self._growth.grow(self.model, epoch + 1, rows)
            self._append(plan.batch_size * (grown // rows))

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
        sizes = [plan.batch_size for plan in self.plans]
        return {"sizes": sizes, "peak": self._growth.peak}

    def load_state_dict(self, state):
        self._growth.peak = state["peak"]
        del self.plans[1:]
        for size in state["sizes"][1:]:
            self._append(size)

    def _append(self, size):
        plan = dataclasses.replace(self.plans[0], batch_size=size)
        self.plans.append(plan)


def growing_batches(config, plan, optimizer, monitor):
    """The `GrowingBatches` that a configuration asks for, or None.

    `plan` is the `EpochPlan` of the first epoch, and `monitor` what measures
    the noise: a `ScalingRuleCheck` has a say, unless the growth is `"always"`.
    """
    if not is_growing(config):
        return None
    rows, mode, check = plan.rows_per_step, config.growth, None
    if mode == "always":
        epochs = sorted(config.growth_epochs)
        mode = {epoch: rows * 2**n for n, epoch in enumerate(epochs, start=1)}
    elif isinstance(monitor, ScalingRuleCheck):
        check = monitor
    most = rows * config.max_batch_size // plan.batch_size
    growth = BatchGrowth(rows, most, check, mode, config.on_heuristic)
    growth.check_optimizer(optimizer)
    return GrowingBatches(plan, growth)
