"""Learning-rate schedules that Keras lacks."""

import math

import keras
from keras import ops

from keras_svag.arguments import (
    checked_integer,
    checked_milestones,
    checked_positive,
    is_number,
)

SCHEDULES = ("constant", "step", "cosine", "triangle")

# [L21] lets the learning rate rise and fall twice, to these parts of it.
_TRIANGLE_PEAKS = (1.0, 0.5)


def learning_rate_schedule(
    name,
    learning_rate,
    steps_per_epoch,
    epochs,
    milestones=(),
    decay_factor=0.1,
    warmup_epochs=0,
    warmup_factor=0.1,
):
    """A learning rate as a function of SGD's steps.

    Args:
        name: `"constant"`; `"step"`: times `decay_factor` from each of the
            epochs `milestones` on; `"cosine"`: from `learning_rate` to 0 over
            all epochs; `"triangle"`: linearly from 0 to `learning_rate` and
            back in the first half of the epochs, to half of it and back in
            the second ([L21]).
        learning_rate: SGD's learning rate, before any decay, a float.
        steps_per_epoch: SGD steps in an epoch.
        epochs: epochs of the whole training.
        milestones: increasing epochs.
        decay_factor: a float > 0.
        warmup_epochs: epochs at the start, in which the schedule's learning
            rate is multiplied by `warmup_factor`; 0 for none.
        warmup_factor: a float > 0 and at most 1.

    Returns:
        A float, or a `keras.optimizers.schedules.LearningRateSchedule`.

    Raises:
        ValueError: if `name` is unknown, `milestones` do not increase, or a
            number is out of its range.

    References:
        [L21] Li, Malladi, Arora, "On the Validity of Modeling SGD with
        Stochastic Differential Equations (SDEs)", NeurIPS 2021.
    """
    if name not in SCHEDULES:
        raise ValueError(
            f"`schedule` must be one of {', '.join(SCHEDULES)}, got {name!r}."
        )
    _check_learning_rate(learning_rate)
    checked_integer("steps_per_epoch", steps_per_epoch)
    checked_integer("epochs", epochs)
    checked_milestones(milestones)
    checked_positive("decay_factor", decay_factor)
    _check_warmup(warmup_epochs, warmup_factor, epochs)
    steps = steps_per_epoch * epochs
    if name == "cosine":
        schedule = keras.optimizers.schedules.CosineDecay(
            learning_rate, decay_steps=steps
        )
    elif name == "triangle":
        schedule = _triangles(learning_rate, steps)
    elif name == "step" and milestones:
        schedule = _decay_at(
            milestones, learning_rate, steps_per_epoch, decay_factor
        )
    else:
        schedule = float(learning_rate)
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    if warmup_steps == 0:
        return schedule
    return Warmup(schedule, warmup_steps, warmup_factor)


def _decay_at(milestones, learning_rate, steps_per_epoch, decay_factor):
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        # Keras keeps a value up to and including its boundary.
        [round(epoch * steps_per_epoch) - 1 for epoch in milestones],
        [
            learning_rate * decay_factor**power
            for power in range(len(milestones) + 1)
        ],
    )


def _triangles(learning_rate, steps):
    quarter = steps / (2 * len(_TRIANGLE_PEAKS))
    values = [0.0]
    for peak in _TRIANGLE_PEAKS:
        values += [peak * learning_rate, 0.0]
    return PiecewiseLinear([i * quarter for i in range(len(values))], values)


def _check_learning_rate(learning_rate):
    if not (is_number(learning_rate) and 0 <= learning_rate < math.inf):
        raise ValueError(
            "`learning_rate` must be a finite number >= 0, got "
            f"{learning_rate!r}."
        )


def _check_warmup(warmup_epochs, warmup_factor, epochs):
    if not (is_number(warmup_epochs) and 0 <= warmup_epochs <= epochs):
        raise ValueError(
            f"`warmup_epochs` must be between 0 and the {epochs} epochs of "
            f"the training, got {warmup_epochs!r}."
        )
    if not (is_number(warmup_factor) and 0 < warmup_factor <= 1):
        raise ValueError(
            "`warmup_factor` must be above 0 and at most 1, got "
            f"{warmup_factor!r}."
        )


@keras.saving.register_keras_serializable(package="keras_svag")
class PiecewiseLinear(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is linear between given steps.

    Before the first of them it has the first value, after the last one the
    last value.

    Args:
        steps: increasing steps, of SGD's.
        values: the learning rate at each of them.

    Raises:
        ValueError: if `steps` do not increase, the numbers of steps and of
            values differ, or one is no finite number >= 0.
    """

    def __init__(self, steps, values):
        super().__init__()
        for name, given in (("steps", steps), ("values", values)):
            if not isinstance(given, (list, tuple)) or not all(
                is_number(number) and 0 <= number < math.inf for number in given
            ):
                raise ValueError(
                    f"`{name}` must be a list of finite numbers >= 0, got "
                    f"{given!r}."
                )
        if len(steps) != len(values) or len(steps) < 2:
            raise ValueError(
                "`steps` and `values` must have the same length of at least "
                f"2, got {len(steps)} and {len(values)}."
            )
        if list(steps) != sorted(set(steps)):
            raise ValueError(f"`steps` must increase, got {steps!r}.")
        self.steps = [float(step) for step in steps]
        self.values = [float(value) for value in values]

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rate = self.values[0]
        for (start, low), (end, high) in zip(
            zip(self.steps[:-1], self.values[:-1], strict=True),
            zip(self.steps[1:], self.values[1:], strict=True),
            strict=True,
        ):
            part = ops.clip((step - start) / (end - start), 0.0, 1.0)
            rate = rate + part * (high - low)
        # A sum that should be 0 may round to just below it.
        return ops.clip(rate, min(self.values), max(self.values))

    def get_config(self):
        return {"steps": self.steps, "values": self.values}


@keras.saving.register_keras_serializable(package="keras_svag")
class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is smaller in the first steps.

    Args:
        learning_rate: a float, or a schedule of it, of SGD's steps.
        steps: integer > 0, how many first steps are taken at `factor` times
            the learning rate.
        factor: a float > 0.

    Raises:
        ValueError: if `learning_rate` is no finite number >= 0, `steps` is no
            positive integer, or `factor` no finite number > 0.
    """

    def __init__(self, learning_rate, steps, factor):
        super().__init__()
        if isinstance(learning_rate, dict):
            learning_rate = keras.optimizers.schedules.deserialize(
                learning_rate
            )
        if not callable(learning_rate):
            _check_learning_rate(learning_rate)
        is_integer = isinstance(steps, int) and not isinstance(steps, bool)
        if not is_integer or steps < 1:
            raise ValueError(f"`steps` must be an integer > 0, got {steps!r}.")
        self.learning_rate = learning_rate
        self.steps = steps
        self.factor = float(checked_positive("factor", factor))

    def __call__(self, step):
        rate = self.learning_rate
        if callable(rate):
            rate = rate(step)
        is_warm = ops.greater_equal(step, self.steps)
        rate = ops.cast(rate, "float32")
        return ops.where(is_warm, rate, rate * self.factor)

    def get_config(self):
        rate = self.learning_rate
        if callable(rate):
            rate = keras.optimizers.schedules.serialize(rate)
        return {
            "learning_rate": rate,
            "steps": self.steps,
            "factor": self.factor,
        }
