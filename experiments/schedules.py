"""Learning-rate schedules that Keras lacks."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from keras_svag import arguments

SCHEDULES = ("constant", "step", "cosine", "triangle")

# [L21] lets the learning rate rise and fall twice, to these parts of it.
_TRIANGLE_PEAKS = (1.0, 0.5)

__all__ = ["PiecewiseLinear", "Warmup", "schedule_of"]


def schedule_of(
    name: Literal["constant", "step", "cosine", "triangle"],
    learning_rate: float,
    steps_per_epoch: int,
    epochs: int,
    milestones: tuple[float, ...] | list[float] = (),
    decay_factor: float = 0.1,
    warmup_epochs: float = 0,
    warmup_factor: float = 0.1,
) -> float | keras.optimizers.schedules.LearningRateSchedule:
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
        TypeError: if something else than a number is given for one.
        ValueError: if `name` is unknown, or the decay or the warm-up is out of
            its range; the rest is checked with the configuration.

    References:
        [L21] Li, Malladi, Arora, "On the Validity of Modeling SGD with
        Stochastic Differential Equations (SDEs)", NeurIPS 2021.
    """
    arguments.choice("schedule", name, SCHEDULES)
    arguments.number("decay_factor", decay_factor, above=0)
    arguments.number("warmup_epochs", warmup_epochs, least=0, most=epochs)
    arguments.number("warmup_factor", warmup_factor, above=0, most=1)
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


def check_milestones(milestones: tuple[float, ...] | list[float]) -> None:
    """Refuses all but increasing epochs above 0."""
    refusal = arguments.refusal("milestones", "increasing epochs", milestones)
    if not isinstance(milestones, (list, tuple)):
        raise TypeError(refusal)
    for milestone in milestones:
        arguments.number("milestones", milestone, above=0)
    if list(milestones) != sorted(set(milestones)):
        raise ValueError(refusal)


@keras.saving.register_keras_serializable(package="keras_svag_experiments")
class PiecewiseLinear(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is linear between given steps of SGD's.

    Args:
        steps: increasing steps, from 0 on.
        values: the learning rate at each of them.
    """

    def __init__(self, steps: Sequence[float], values: Sequence[float]) -> None:
        super().__init__()
        self.steps = [float(step) for step in steps]
        self.values = [float(value) for value in values]

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        rate = self.values[0]
        for (start, end), (low, high) in zip(
            itertools.pairwise(self.steps),
            itertools.pairwise(self.values),
            strict=True,
        ):
            part = ops.clip((step - start) / (end - start), 0.0, 1.0)
            rate = rate + part * (high - low)
        # A sum that should be 0 may round to just below it.
        return ops.clip(rate, min(self.values), max(self.values))

    def get_config(self) -> dict[str, Any]:
        return {"steps": self.steps, "values": self.values}


@keras.saving.register_keras_serializable(package="keras_svag_experiments")
class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is smaller in the first steps.

    Args:
        learning_rate: a float, or a schedule of it, of SGD's steps.
        steps: how many first steps are taken at `factor` times it.
        factor: a float > 0.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        steps: int,
        factor: float,
    ) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.steps, self.factor = steps, factor

    def __call__(self, step: Any) -> Any:
        rate = self.learning_rate
        rate = ops.cast(rate(step) if callable(rate) else rate, "float32")
        is_warm = ops.greater_equal(step, self.steps)
        return ops.where(is_warm, rate, rate * self.factor)

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": keras.saving.serialize_keras_object(
                self.learning_rate
            ),
            "steps": self.steps,
            "factor": self.factor,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Warmup":
        rate = keras.saving.deserialize_keras_object(config["learning_rate"])
        return cls(**{**config, "learning_rate": rate})
